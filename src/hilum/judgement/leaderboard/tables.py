"""The answers of each modality in each cohort as one table: rows are encoders and ways, columns are questions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from hilum import progress
from hilum.data.manifest import MODALITIES
from hilum.judgement.leaderboard import columns
from hilum.judgement.leaderboard.answers import WAYS, Answer, Source
from hilum.judgement.leaderboard.cohorts import FLOOR
from hilum.judgement.leaderboard.columns import Column, Comparison, Row

FLOORS: Final[tuple[Row, ...]] = tuple((FLOOR, way) for way in WAYS)  # the first that was scored is the column's


@dataclass(frozen=True)
class Table:
    """The answers of one modality in one cohort.

    Attributes:
        modality: XR or MR.
        cohort: Name of the dataset.
        rows: The floor first, the others by name: the order says nothing of quality.
        columns: Compared.
        dims: Width of each encoder's embedding.
    """

    modality: str
    cohort: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    dims: dict[str, int]

    def called(self, row: Row) -> str:
        """A row in a sentence: the encoder, with the way where the table has several."""
        encoder, way = row
        if not encoder or len({way for _, way in self.rows}) == 1:
            return encoder or way
        return f"{encoder} ({way})"


def gather(probes: Sequence[Source], tuned: Sequence[Source], names: dict[str, str], label: str) -> list[Table]:
    """Every table, X-rays before MRI, cohorts in the order in which they were given.

    Args:
        probes: Checked (`cohorts.require_comparable`).
        tuned: Likewise.
        names: Of the cohorts, by digest of the dataset.
        label: What the encoders are to answer for.
    """
    cohorts = list(names)

    def place(source: Source) -> tuple[int, int]:
        return MODALITIES.index(source.modality), cohorts.index(source.cohort)

    groups = [list(group) for _, group in groupby(sorted([*probes, *tuned], key=place), key=place)]
    arranged = []
    for group in groups:
        answers = sorted((answer for source in group for answer in source.answers), key=_order)
        arranged.append((group, answers, columns.arrange(answers, label)))
    found = []
    with progress.bar("compare", sum(len(each) for *_, each in arranged), "column") as shown:
        for group, answers, asked in arranged:
            compared = []
            for column in asked:
                compared.append(columns.compare(column))
                shown.update()
            rows = tuple(dict.fromkeys((answer.encoder, answer.way) for answer in answers))
            dims = {source.encoder: int(source.facts["dim"]) for source in group if "dim" in source.facts}
            found.append(Table(group[0].modality, names[group[0].cohort], rows, tuple(compared), dims))
    return found


def across(tables: Sequence[Table], label: str) -> Table | None:
    """The columns of one label in every cohort of one modality, side by side; None where there is one cohort only.

    Args:
        tables: Of one modality.
        label: What the encoders were fine-tuned for, or the label of the probes' head.
    """
    chosen = [
        replace(column, cohort=table.cohort) for table in tables for column in table.columns if column.task == label
    ]
    if len(tables) < 2 or not any(column.scored for column in chosen):
        return None
    answered = {row for column in chosen for row in column.answers}
    rows = sorted({row for table in tables for row in table.rows if row in answered}, key=_place)
    return Table(tables[0].modality, "", tuple(rows), tuple(chosen), {})


def over_the_floor(column: Column, row: Row) -> Comparison | None:
    """A row's comparison with `pixels` in its column: with its probe where it was scored, else with its next way."""
    floor = next((floor for floor in FLOORS if floor in column.scored), None)
    return None if floor is None or row == floor else column.between(row, floor)


def _order(answer: Answer) -> tuple[bool, bool, str, int]:
    return _place((answer.encoder, answer.way))


def _place(row: Row) -> tuple[bool, bool, str, int]:
    """The floor first, the others by name, what looks at no image last."""
    encoder, way = row
    return encoder == "", encoder != FLOOR, encoder, WAYS.index(way)

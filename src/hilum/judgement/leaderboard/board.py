"""The leaderboard: every encoder by modality and cohort on the same questions, beside the floor that `pixels` sets.

leaderboard.csv    one row per modality, cohort, encoder and way (probe, linear, end-to-end, ...); for each column its
                   value, bounds, n, chance level, standing (best, tied, behind), and what it gains over the floor
comparisons.csv    one row per pair of rows of a column: the difference, its bounds, p, and p corrected over the column
leaderboard.md, leaderboard.html    the same for reading (hilum.judgement.leaderboard.standings)

Encoders are scored on the same patients, so overlapping intervals do not say that two are equal, and intervals side by
side do not say which is better: only a paired comparison does (hilum.judgement.leaderboard.columns).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hilum.judgement.leaderboard import cohorts, standings, tables
from hilum.judgement.leaderboard.answers import Source, read_probe, read_tuned
from hilum.judgement.leaderboard.columns import Row
from hilum.judgement.leaderboard.tables import Table

CSV: Final = "leaderboard.csv"
COMPARISONS: Final = "comparisons.csv"
COMPARED: Final = ("modality", "cohort", "column", "a", "b", "difference", "low", "high", "p", "p_holm", "n", "note")


def run(probes: Sequence[Path], out: Path, tuned: Sequence[Path] = ()) -> pd.DataFrame:
    """Gather probes, and fine-tunings where there are any, into a leaderboard.

    Args:
        probes: Probe folders, one per cohort, modality and encoder; each cohort and modality has `pixels` among them.
        out: Folder to write into.
        tuned: What `hilum fusion` or `hilum finetune` wrote, of these datasets.

    Returns:
        What `leaderboard.csv` holds.

    Raises:
        UsageError: The folders do not belong on one leaderboard (`cohorts.require_comparable`).
        DatasetError: A folder is no probe or no fine-tuning, or its answers are of other images than the others'.
    """
    read = [read_probe(folder) for folder in probes]
    found = [read_tuned(folder) for folder in tuned]
    further = [source for source in found if isinstance(source, Source)]
    cohorts.require_comparable(read, further)
    label = str((further or read)[0].facts["label"])
    gathered = tables.gather(read, further, cohorts.names(read), label)
    board = pd.DataFrame([_line(table, row) for table in gathered for row in table.rows])
    compared = pd.DataFrame([line for table in gathered for line in _compared(table)], columns=list(COMPARED))
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in ((CSV, board), (COMPARISONS, compared)):
        partial = out / f"{name}.partial"
        frame.to_csv(partial, index=False)
        partial.replace(out / name)
    refused = list(dict.fromkeys(why for why in found if isinstance(why, str)))
    standings.write(gathered, read, further, label, refused, out)
    return board


def _line(table: Table, row: Row) -> dict[str, Any]:
    encoder, way = row
    line: dict[str, Any] = {
        "modality": table.modality, "cohort": table.cohort, "encoder": encoder, "way": way,
        "dim": table.dims.get(encoder),
    }  # fmt: skip
    for column in table.columns:
        if row not in column.answers:
            continue  # not asked of this row: the cell stays empty
        answer, stem = column.answers[row], column.stem
        score = answer.score
        line |= {stem: score.value}
        line |= {f"{stem}_{name}": getattr(score, name) for name in ("low", "high", "n", "n_patients")}
        line |= {f"{stem}_chance": answer.chance, f"{stem}_note": score.note or None}
        line[f"{stem}_standing"] = column.standing(row)
        if answer.covariates:
            line[f"{stem}_fusion"] = answer.fusion or None
        if over := tables.over_the_floor(column, row):
            gain = over.seen_from(row)
            line |= {f"{stem}_gain": gain.value, f"{stem}_gain_low": gain.low, f"{stem}_gain_high": gain.high}
            line[f"{stem}_gain_p_holm"] = over.p_holm
    return line


def _compared(table: Table) -> list[dict[str, Any]]:
    """Every pair of every column, the first in the table's order as `a`; above 0 means that `a` is better."""
    return [
        {
            "modality": table.modality, "cohort": table.cohort, "column": column.stem, "a": " ".join(one.a).strip(),
            "b": " ".join(one.b).strip(), "difference": one.difference.value, "low": one.difference.low,
            "high": one.difference.high, "p": one.p, "p_holm": one.p_holm, "n": one.difference.n,
            "note": one.difference.note,
        }
        for column in table.columns
        for one in column.comparisons
    ]  # fmt: skip

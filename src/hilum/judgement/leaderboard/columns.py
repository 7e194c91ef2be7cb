"""One column of the leaderboard: every two of its rows compared on the same patients, and what may be said of the best.

Which row scores highest is chosen on the data that then compares it with the others, so that correcting over the
comparisons with that row alone would promise too much. p-values are therefore corrected over all pairs of rows of the
column (Holm 1979). The best score is called best only where it beats every other row at LEVEL; otherwise the rows that
cannot be told from it are tied with it. A second column is another question: its claims are not corrected for this one.

Legend: M held-out rows, R bootstrap replicates, A rows of the column that were scored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.errors import DatasetError
from hilum.judgement import stats
from hilum.judgement.leaderboard import paired, swaps
from hilum.judgement.leaderboard.answers import PROBE, Answer
from hilum.judgement.probing.svm import Floats
from hilum.judgement.probing.tasks import (
    ATTRIBUTES,
    COMPETITION_MEAN,
    FINDINGS_MEAN,
    METRICS,
    NO_FINDING,
    SMALLER_IS_BETTER,
)

LEVEL: Final = 0.05
Part = Literal["", "fine-tuned", "image + covariates"]
Standing = Literal["best", "tied", "behind", "alone", "not scored"]
Row = tuple[str, str]  # encoder and way


@dataclass(frozen=True)
class Comparison:
    """Two rows of a column, the first in the column's order before the second.

    Attributes:
        a: The one.
        b: The other.
        difference: Of a above b, above 0 where a is better, also for an error; 95%, not corrected.
        p: Of the swap test, not corrected.
        p_holm: Corrected over all pairs of the column; NaN where the pair was not compared.
    """

    a: Row
    b: Row
    difference: stats.Interval
    p: float
    p_holm: float

    @property
    def established(self) -> bool:
        """Whether one of the two is shown to be better."""
        return self.p_holm < LEVEL

    def seen_from(self, row: Row) -> stats.Interval:
        """The difference as what `row` gains over the other."""
        if row == self.a:
            return self.difference
        one = self.difference
        return replace(one, value=-one.value, low=-one.high, high=-one.low)


@dataclass(frozen=True)
class Column:
    """One question to some encoders, and what their answers establish.

    Attributes:
        task: Name of the question.
        metric: How it is scored.
        part: Of a label that was fine-tuned for: the answers with covariates, and those from the image alone where they
            are of other images than the probes'; empty for all others.
        answers: By row, in the order of the table; those not scored among them.
        comparisons: Of every two rows that were scored.
        best: The row with the best score; None where none was scored.
        image_only: Whether another column has the same label with covariates, so that this one says that it has none.
        cohort: Whose answers they are, where columns of several cohorts stand side by side.
    """

    task: str
    metric: str
    part: Part
    answers: dict[Row, Answer]
    comparisons: tuple[Comparison, ...] = ()
    best: Row | None = None
    image_only: bool = False
    cohort: str = ""

    @property
    def scored(self) -> tuple[Row, ...]:
        """The rows that have a score."""
        return tuple(row for row, answer in self.answers.items() if math.isfinite(answer.score.value))

    @property
    def stem(self) -> str:
        """What its columns of the CSV begin with."""
        part = {"": "", "fine-tuned": "_finetuned", "image + covariates": "_with_covariates"}[self.part]
        return f"{self.task}{part}_{self.metric}"

    @property
    def detectable(self) -> float:
        """The least difference of any two rows that would be established four times in five; NaN where unknown.

        At the strictest level that Holm's correction asks for, that of the first of all pairs, and for the pair that is
        hardest to compare.
        """
        widths = [one.difference.high - one.difference.low for one in self.comparisons if one.difference.bounded]
        if not widths:
            return math.nan
        return stats.detectable_difference(max(widths) / (2 * stats.Z_95), level=LEVEL / len(self.comparisons))

    def between(self, row: Row, other: Row) -> Comparison | None:
        """The comparison of two rows; None where one of them was not scored."""
        return next((one for one in self.comparisons if {one.a, one.b} == {row, other}), None)

    def standing(self, row: Row) -> Standing:
        """What may be said of a row."""
        if row not in self.scored or self.best is None:
            return "not scored"
        if len(self.scored) == 1:
            return "alone"
        if row != self.best:
            return "tied" if row in self.tied else "behind"
        return "tied" if len(self.tied) > 1 else "best"

    @property
    def tied(self) -> tuple[Row, ...]:
        """The best score's row with those that cannot be told from it; that one alone where it beats all others."""
        if self.best is None:
            return ()
        told = [one for one in self.comparisons if one.established and self.best in (one.a, one.b)]
        beaten = {row for one in told for row in (one.a, one.b)} - {self.best}
        return tuple(row for row in self.scored if row not in beaten)


def arrange(answers: Sequence[Answer], label: str = "") -> list[Column]:
    """Answers of one cohort and modality as columns, not compared yet.

    Args:
        answers: In the order of the rows.
        label: The one that the encoders are to answer for; it comes first.
    """
    tasks = _in_order([answer.task for answer in answers], label)
    found = []
    for task in tasks:
        image = [answer for answer in answers if answer.task == task and not answer.covariates]
        fused = [answer for answer in answers if answer.task == task and answer.covariates]
        groups: list[tuple[Part, list[Answer]]] = [("", image)]
        probes = [answer for answer in image if answer.way == PROBE]
        tuned = [answer for answer in image if answer.way != PROBE]
        if _scored(probes) and _scored(tuned) and _aligned([*_scored(probes), *_scored(tuned)]) is None:
            groups = [("", probes), ("fine-tuned", tuned)]
        groups.append(("image + covariates", fused))
        found += [
            Column(task, group[0].metric, part, _by_row(group), image_only=bool(fused) and part != "image + covariates")
            for part, group in groups
            if group
        ]
    return found


def compare(column: Column) -> Column:
    """The column with every two of its scored rows compared.

    Raises:
        DatasetError: Its rows did not answer for the same images.
    """
    rows = column.scored
    if not rows:
        return column
    answers = [column.answers[row] for row in rows]
    sign = -1 if column.metric in SMALLER_IS_BETTER else 1
    best = max(rows, key=lambda row: sign * column.answers[row].score.value)
    if len(rows) == 1:
        return replace(column, best=best)
    kind, aligned = answers[0].kind, _aligned(answers)
    if aligned is None:
        raise DatasetError(
            f"the answers for {column.task} are not of the same images, though of one dataset and by one recipe; "
            "embed, probe and fine-tune again"
        )
    values = [sign * each for each in resampled(aligned, kind, column.metric)]
    p = swaps.p_values(aligned, kind, column.metric)
    pairs = list(combinations(range(len(rows)), 2))
    corrected = stats.holm([p[pair] for pair in pairs])
    n, n_patients = len(aligned.patients_M), len(np.unique(aligned.patients_M))
    comparisons = tuple(
        Comparison(rows[a], rows[b], _difference(values[a] - values[b], n, n_patients), p[a, b], float(p_holm))
        for (a, b), p_holm in zip(pairs, corrected, strict=True)
    )
    return replace(column, comparisons=comparisons, best=best)


def resampled(rows: paired.Aligned, kind: str, metric: str) -> list[Floats]:
    """Every score of the same rows, (1 + R,): on all of them, then on resamples of patients that all share."""
    statistic = METRICS[kind][metric]
    kept: list[list[Floats]] = [[] for _ in rows.scores]

    def keep(w_RN: Floats, truth: NDArray[Any], fold: NDArray[Any], *scores: Floats) -> Floats:
        for values, score in zip(kept, scores, strict=True):
            values.append(statistic(w_RN, truth, score, fold))
        return np.zeros(len(w_RN))  # what is asked for is kept aside

    arrays = rows.truth, rows.fold_M, *rows.scores
    stats.patient_bootstrap(keep, rows.patients_M, paired.REPLICATES, paired.SEED, *arrays)
    return [np.concatenate(values) for values in kept]


def _difference(values: Floats, n: int, n_patients: int) -> stats.Interval:
    """The first value with the percentiles of the others, undefined where too few of them are defined."""
    drawn = values[1:][np.isfinite(values[1:])]
    if len(drawn) < max(1.0, stats.MIN_DEFINED_SHARE * paired.REPLICATES):
        return stats.Interval(float(values[0]), math.nan, math.nan, n, n_patients, note="no interval")
    low, high = np.quantile(drawn, [(1 - stats.CONFIDENCE) / 2, (1 + stats.CONFIDENCE) / 2])
    return stats.Interval(float(values[0]), float(low), float(high), n, n_patients)


def _scored(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if math.isfinite(answer.score.value)]


def _aligned(answers: Sequence[Answer]) -> paired.Aligned | None:
    return paired.align([answer.predictions for answer in answers], answers[0].kind)


def _by_row(answers: Sequence[Answer]) -> dict[Row, Answer]:
    """The first of each row: what looks at no image is the same whatever encoder it was fitted beside."""
    found: dict[Row, Answer] = {}
    for answer in answers:
        found.setdefault((answer.encoder, answer.way), answer)
    return found


def _in_order(tasks: Sequence[str], label: str) -> list[str]:
    """The label, attributes, age and the means, then the other labels as the dataset names them."""
    first = [label, *ATTRIBUTES, "age", FINDINGS_MEAN, COMPETITION_MEAN, NO_FINDING]
    found = list(dict.fromkeys(tasks))
    return list(dict.fromkeys([task for task in first if task in found] + found))

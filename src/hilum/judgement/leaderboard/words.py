"""What the leaderboard says in words: of a question, of a cell, and of what a column establishes."""

import math
from collections.abc import Sequence
from typing import Any, Final

from hilum.judgement.leaderboard.columns import LEVEL, Column, Comparison, Row
from hilum.judgement.leaderboard.tables import Table
from hilum.judgement.probing.tasks import ATTRIBUTES, COMPETITION_MEAN, FINDINGS_MEAN
from hilum.judgement.stats import Interval

DASH: Final = "-"
LISTED: Final = 3  # names that are read out; a column that ties as a whole needs no more of them
METRICS: Final = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "mae": "MAE"}
TITLES: Final = {FINDINGS_MEAN: "findings (mean)", COMPETITION_MEAN: "CheXpert's five (mean)"}
MODALITIES: Final = {"XR": "X-ray (XR)", "MR": "MRI (MR)"}
MACHINES: Final = {
    "linear": "a support vector machine with linear kernel",
    "rbf": "a support vector machine with RBF kernel",
    "logistic": "a logistic regression",
    "knn": "the nearest neighbours",
    "mlp": "a multilayer perceptron",
}
LEAD: Final = (
    "Each score is on patients held out from whatever answers, with a 95% interval from resampling patients. `pixels` "
    "(principal components of the image) is the floor that an encoder must beat."
)
READING: Final = (
    "The lines stand in no order of merit. Overlapping intervals do not show that two are equal, and intervals side by "
    "side do not show which is better; a paired comparison on the same patients does. In each column every two lines "
    "are compared by exchanging their answers patient by patient, at least 10,000 times, or in all ways where patients "
    "are few (Venkatraman and Begg 1996).",
    "Which line scores highest is seen on the very data that then compares it, so the p-values are corrected over all "
    "pairs of the column (Holm 1979). Best is said only of a line that is better than every other one of its column, "
    f"each corrected p below {LEVEL:g}; otherwise those that cannot be told from the highest score are tied with it: "
    "no order can be established between them. The gain over `pixels` is one of these comparisons: with its probe, or "
    "with its first line in a column where it has none. Better or worse is said by the corrected p; the interval "
    "beside it is not corrected, and may exclude 0 where nothing can be said. Columns are questions "
    "of their own: the chance of a false claim is at most 5% in each of them, and more than that in all together.",
    "The least difference is one that would be established four times in five, between the two lines of the column "
    "that are hardest to compare, at the strictest level of the correction. Differences below it may exist and not "
    "be seen. All comparisons, with p before and after correction, are in comparisons.csv.",
    "Chance is what is reached without looking at the image; for age, by always answering the mean age of training. "
    "Positive counts the images with the finding; for sex, those of women. A dash is a question that was not put to "
    "the line.",
    "A high score for sex, age or site says that the embedding carries it, which a fairness audit must know; it is no "
    "merit of its own.",
)


def title(task: str) -> str:
    """A question's name."""
    if task in TITLES:
        return TITLES[task]
    return task if task in ATTRIBUTES else task.replace("_", " ")


def heading(column: Column) -> str:
    """A column's name: the question, and whether covariates were looked at where that may be asked."""
    part: str = column.part or ("image only" if column.image_only else "")
    if column.part == "fine-tuned" and column.image_only:
        part = "fine-tuned, image only"
    return ", ".join(name for name in (column.cohort, title(column.task), part) if name)


def metric(column: Column) -> str:
    """How the column is scored, with the unit."""
    if column.metric != "mae":
        return METRICS.get(column.metric, column.metric)
    unit = "years" if column.task == "age" else column.task.rpartition("_")[2]  # as in weight_kg
    return f"MAE, {unit}; less is better"


def digits(column: Column) -> int:
    """Decimal places that are shown."""
    return 2 if column.metric == "mae" else 3


def bounds(one: Interval, places: int, sign: str = "") -> str:
    """`[0.632, 0.840]`, or that there are none."""
    if not one.bounded:
        return "(no interval)"
    return f"[{one.low:{sign}.{places}f}, {one.high:{sign}.{places}f}]"


def verdict(row: Row, over: Comparison) -> str:
    """Whether a row is better than the one that it is compared with."""
    if not over.established:
        return "not told apart"
    return "better" if over.seen_from(row).value > 0 else "worse"


def chance(column: Column) -> str:
    """Of the first row that was scored: it is of the question, not of the row."""
    known = [column.answers[row].chance for row in column.scored]
    return DASH if not known or math.isnan(known[0]) else f"{known[0]:.{digits(column) - 1}f}"


def least(column: Column) -> str:
    """The least difference that would be established."""
    return DASH if math.isnan(column.detectable) else f"{column.detectable:.{digits(column)}f}"


def counts(column: Column) -> tuple[str, str, str]:
    """Images, positives and patients behind a column."""
    answer = column.answers[(column.scored or tuple(column.answers))[0]]
    positive = "" if math.isnan(answer.n_positive) else f"{int(answer.n_positive):,}"
    return f"{answer.score.n:,}", positive, f"{answer.score.n_patients:,}"


def _fewest(column: Column) -> str:
    """How many images there are of the class that limits a comparison: the rarer one."""
    answer = column.answers[column.scored[0]]
    if math.isnan(answer.n_positive):
        return f"{answer.score.n:,} images"
    n_positive = int(answer.n_positive)
    n_negative = answer.score.n - n_positive
    return f"{n_positive:,} positives" if n_positive <= n_negative else f"{n_negative:,} negatives"


def established(table: Table, column: Column) -> str:
    """What a column's comparisons say of its best score."""
    if column.best is None:
        return column.answers[next(iter(column.answers))].score.note
    top, places = table.called(column.best), digits(column)
    others = [column.between(column.best, row) for row in column.scored if row != column.best]
    compared = [one for one in others if one is not None]
    if not compared:
        return f"only {top} was scored: there is nothing to compare"
    if len(column.tied) == 1:
        p = max(one.p_holm for one in compared)
        against = "the other" if len(compared) == 1 else f"each of the {len(compared)} others"
        return f"{top} is best: better than {against} (largest corrected p {p:.2g})"
    halves = [
        (one.difference.high - one.difference.low) / 2
        for one in compared
        if not one.established and one.difference.bounded
    ]
    wide = f", ±{max(halves):.{places}f}" if halves else ""
    tied = _list([table.called(row) for row in column.tied])
    if len(column.tied) == len(column.scored) > LISTED:
        tied = f"any of the {len(column.tied)} lines"
    said = f"with {_fewest(column)}{wide}: no order can be established between {tied}"
    behind = [table.called(row) for row in column.scored if row not in column.tied]
    return said + (f"; shown to be worse than {top}, the highest score: {_list(behind)}" if behind else "")


def protocol(facts: dict[str, Any], label: str, fusions: Sequence[str], ways: Sequence[str]) -> list[str]:
    """How it was scored: the probe, and the fine-tuning where there was one."""
    way = (
        f"over {facts['folds']} patient-disjoint folds of all images"
        if facts["folds"]
        else "fitted on the train split and scored on the test split"
    )
    said = [
        f"Probe: {MACHINES[str(facts['headline_kernel'])]} on the frozen embedding, named beforehand, its settings "
        f"chosen inside the training patients, {way}. Scores of the other machines are in scores.csv."
    ]
    if label:
        named = {
            "linear": "linear is a linear layer on the frozen encoder",
            "end-to-end": "end-to-end moves all weights",
            "stacked": "stacked weighs the image's answer and that of trees on the covariates, on the val split",
            "covariates only": "covariates only are those trees alone",
        }
        used = [words for name, words in named.items() if any(way.endswith(name) for way in ways)]
        fused = f" Image and covariates are joined by {_list(fusions)} fusion." if fusions else ""
        said.append(
            f"Fine-tuned for {title(label)}: {'; '.join(used)}. All is chosen on the val split, and the test split "
            f"scored once.{fused}"
        )
    return said


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""What a probe asks of an embedding: the tasks that a dataset allows, and how their answers are scored.

Legend: N rows, R bootstrap replicates, K classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.probing.svm import Floats, Kind

NO_FINDING: Final = "no_finding"
FINDINGS_MEAN: Final = "findings_mean"  # mean over the labels that were scored, no_finding apart
COMPETITION_MEAN: Final = "competition_mean"
# The five findings that CheXpert's competition scores (Irvin et al. 2019, section 5), where a dataset has them all.
COMPETITION: Final = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
ATTRIBUTES: Final = ("sex", "view", "site")  # manifest columns asked for beside age and the labels
SOURCE: Final = "source"  # dataset of origin: asked for where there is more than one
BODY: Final = ("weight", "height")  # what a covariate's name begins with, its unit after it, to be asked for
MAX_CLASSES: Final = 12  # of a dataset's own attributes; one of more values is a text rather than a class
POSITIVE_SEX: Final = "F"
SHORT: Final = "insufficient data"

# metric of (w_RN, truth_N, score, fold_N) -> (R,); score is (N,), or (N, K) for several classes or labels
Metric = Callable[[Floats, NDArray[Any], NDArray[Any], NDArray[Any]], Floats]


def mean_auroc(w_RN: Floats, truth_NL: NDArray[Any], score_NL: NDArray[Any], fold_N: NDArray[Any]) -> Floats:
    """Mean over labels of the AUROC, (R,), each over the rows whose label is known (NaN where it is not)."""
    each = [stats.weighted_auroc(w_RN, truth_NL[:, k], score_NL[:, k], fold_N) for k in range(truth_NL.shape[1])]
    return np.asarray(np.mean(each, axis=0))


def auprc(w_RN: Floats, truth_N: NDArray[Any], score_N: Floats, fold_N: NDArray[Any]) -> Floats:
    """Area under the precision-recall curve, (R,): the mean over positives of the precision at their score.

    A row is ranked among those of its fold only: scores of different folds come from different models.
    """
    area_R, total_R = np.zeros(len(w_RN)), np.zeros(len(w_RN))
    for fold in np.unique(fold_N):
        rows = fold_N == fold
        w = w_RN[:, rows]
        positives_R = w @ (truth_N[rows] == 1).astype(float)
        area_R += positives_R * np.nan_to_num(stats.weighted_auprc(w, truth_N[rows], score_N[rows]))
        total_R += positives_R
    return np.asarray(np.divide(area_R, total_R, out=np.full(len(w_RN), math.nan), where=total_R > 0))


def macro_auprc(w_RN: Floats, truth_N: NDArray[Any], score_NK: Floats, fold_N: NDArray[Any]) -> Floats:
    """Mean over K classes of the one-versus-rest `auprc`, (R,)."""
    each = [auprc(w_RN, truth_N == k, score_NK[:, k], fold_N) for k in range(score_NK.shape[1])]
    return np.asarray(np.mean(each, axis=0))


METRICS: Final[dict[str, dict[str, Metric]]] = {
    "binary": {
        "balanced_accuracy": lambda w, truth, score, _: stats.weighted_balanced_accuracy(w, truth, score > 0),
        "auroc": stats.weighted_auroc,
        "auprc": auprc,
    },
    "multiclass": {
        "balanced_accuracy": lambda w, truth, score, _: stats.weighted_balanced_accuracy(
            w, truth, score.argmax(axis=1)
        ),
        "auroc": stats.weighted_macro_auroc,
        "auprc": macro_auprc,
    },
    "regression": {
        "mae": lambda w, truth, score, _: stats.weighted_mae(w, truth, score),
        "r2": lambda w, truth, score, _: stats.weighted_r2(w, truth, score),
    },
    "mean": {"auroc": mean_auroc},
}
SMALLER_IS_BETTER: Final = frozenset({"mae", "brier", "ece"})


@dataclass(frozen=True)
class Task:
    """One question.

    Attributes:
        name: `sex`, `view`, `site`, `source`, `age`, or the name of a label, an attribute or a covariate.
        kind: Binary, multiclass or regression.
        y_N: 0 or 1, a class's number, or the value; NaN where unknown or left out.
        classes: Names of the classes of a multiclass task, in the order of their numbers.
        headline: The metric by which settings are chosen and that the leaderboard shows.
        short: Why it cannot be asked; empty where it can.
        note: What was left out of it.
        learnt_N: What is fitted to where that differs from `y_N`: uncertain labels count as a policy says.
    """

    name: str
    kind: Kind
    y_N: Floats
    headline: str
    classes: tuple[str, ...] = ()
    short: str = ""
    note: str = ""
    learnt_N: Floats | None = None

    @property
    def fitted_to(self) -> Floats:
        """(N,) what a machine learns: certain labels, and uncertain ones as a policy resolves them."""
        return self.y_N if self.learnt_N is None else self.learnt_N

    def judge(self, truth: NDArray[Any], score: Floats, fold: NDArray[Any]) -> float:
        """The headline metric of all rows, higher meaning better."""
        value = float(METRICS[self.kind][self.headline](np.ones((1, len(truth))), truth, score, fold)[0])
        return -value if self.headline in SMALLER_IS_BETTER else value


@dataclass(frozen=True)
class Part:
    """Rows to fit on and rows to score."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    fold: int


def parts(table: pd.DataFrame, folds: int, seed: int) -> list[Part]:
    """The train and test split, or `folds` parts over all rows; no patient is on both sides of any.

    The assignment depends on patients, folds and seed only, so every task and every encoder is asked of the same parts.

    Args:
        table: Manifest rows in the order of the vectors.
        folds: 0 for the train and test split.
        seed: Another seed, other folds.
    """
    if folds == 0:
        split = table["split"].to_numpy()
        return [Part(np.flatnonzero(split == "train"), np.flatnonzero(split == "test"), 0)]
    fold_N = fold_of(table["patient_id"], folds, seed)
    return [Part(np.flatnonzero(fold_N != k), np.flatnonzero(fold_N == k), k) for k in range(folds)]


def fold_of(patients: pd.Series, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row, 0 to `folds` - 1: patients in random order, each to the fold with fewest rows so far."""
    codes, names = pd.factorize(patients, sort=True)
    rows_P = np.bincount(codes, minlength=len(names))
    fold_P = np.zeros(len(names), dtype=np.int64)
    held = np.zeros(folds, dtype=np.int64)
    for patient in np.random.default_rng(seed).permutation(len(names)):
        fold_P[patient] = held.argmin()
        held[held.argmin()] += rows_P[patient]
    return np.asarray(fold_P[codes])


def ask(
    table: pd.DataFrame,
    labels: pd.DataFrame,
    asked: Sequence[Part],
    min_cases: int,
    target: str | None = None,
    *,
    learnt: pd.DataFrame | None = None,
    attributes: Sequence[str] = (),
    covariates: Sequence[str] = (),
) -> list[Task]:
    """The tasks of a dataset, those that cannot be asked among them with the reason.

    Args:
        table: Manifest rows in the order of the vectors.
        labels: The label columns of these rows, NaN where unknown or uncertain: what is scored.
        asked: The parts (`parts`).
        min_cases: Patients that each class needs on each side; in every training part where there are folds.
        target: A label that is named even where the dataset has no such column.
        learnt: The label columns as they are fitted to, where uncertain ones count; as `labels` where not given.
        attributes: The dataset's own columns; those of 2 to MAX_CLASSES values are asked for as classes.
        covariates: Its numeric ones; weight and height are asked for.
    """
    tasks = []
    for name in ATTRIBUTES:
        known = table[name].dropna()
        if name == "site" and known.nunique() < 2:
            continue  # one site leaves nothing to ask
        if name == "sex":
            y_N = (table["sex"] == POSITIVE_SEX).astype(float).where(table["sex"].notna(), math.nan).to_numpy()
            tasks.append(_binary(name, y_N, table, asked, min_cases, "balanced_accuracy"))
        else:
            tasks.append(_multiclass(name, table, asked, min_cases))
    further = [name for name in (SOURCE, *attributes) if name in table and 2 <= table[name].nunique() <= MAX_CLASSES]
    tasks += [_multiclass(name, table, asked, min_cases) for name in further]
    tasks.append(_regression("age", table["age_years"].to_numpy(dtype=float), table, asked, min_cases))
    tasks += [
        _regression(name, table[name].to_numpy(dtype=float), table, asked, min_cases)
        for name in covariates
        if name.split("_")[0] in BODY
    ]
    for name in map(str, labels):
        task = _binary(name, labels[name].to_numpy(dtype=float), table, asked, min_cases, "auroc")
        if learnt is not None and not learnt[name].equals(labels[name]):
            task = replace(task, learnt_N=learnt[name].to_numpy(dtype=float))
        tasks.append(task)
    if target is not None and target not in labels:
        nothing = np.full(len(table), math.nan)
        tasks.append(Task(target, "binary", nothing, "auroc", short=f"{SHORT}: the dataset has no label {target}"))
    return tasks


def _binary(name: str, y_N: Floats, table: pd.DataFrame, asked: Sequence[Part], min_cases: int, headline: str) -> Task:
    least = {side: min(_patients(y_N, table, rows, k) for k in (0, 1)) for side, rows in _sides(asked).items()}
    short = ""
    if np.isnan(y_N).all():
        short = f"{SHORT}: known for no image"
    elif min(least.values()) < min_cases:
        side = min(least, key=lambda side: least[side])
        short = f"{SHORT}: patients of the rarer class in {side}: {least[side]}, needed: {min_cases}"
    return Task(name, "binary", y_N, headline, short=short)


def _multiclass(name: str, table: pd.DataFrame, asked: Sequence[Part], min_cases: int) -> Task:
    values = table[name]
    names = sorted(values.dropna().unique())
    counts = {
        value: min(
            _patients((values == value).to_numpy(dtype=float), table, rows, 1) for rows in _sides(asked).values()
        )
        for value in names
    }
    kept = [value for value in names if counts[value] >= min_cases]
    number = {value: float(k) for k, value in enumerate(kept)}
    y_N = values.map(number).to_numpy(dtype=float)
    left_out = int(values.notna().sum() - np.isfinite(y_N).sum())
    short = f"{SHORT}: fewer than two classes have {min_cases} patients each" if len(kept) < 2 else ""
    note = f"{len(names) - len(kept)} rare classes ({left_out} images) left out" if left_out else ""
    return Task(name, "multiclass", y_N, "balanced_accuracy", tuple(map(str, kept)), short, note)


def _regression(name: str, y_N: Floats, table: pd.DataFrame, asked: Sequence[Part], min_cases: int) -> Task:
    known = np.isfinite(y_N).astype(float)
    least = {side: _patients(known, table, rows, 1) for side, rows in _sides(asked).items()}
    short = ""
    if min(least.values()) < min_cases:
        side = min(least, key=lambda side: least[side])
        short = f"{SHORT}: patients with a known value in {side}: {least[side]}, needed: {min_cases}"
    elif any(np.ptp(y_N[part.train][np.isfinite(y_N[part.train])]) == 0 for part in asked):
        short = f"{SHORT}: every value is the same"
    return Task(name, "regression", y_N, "mae", short=short)


def _sides(asked: Sequence[Part]) -> dict[str, NDArray[np.int64]]:
    """Where cases are counted: in train and in test; where there are folds, in the training part of each."""
    if len(asked) == 1:
        return {"train": asked[0].train, "test": asked[0].test}
    return {f"the training part of fold {part.fold}": part.train for part in asked}


def _patients(y_N: Floats, table: pd.DataFrame, rows: NDArray[np.int64], value: float) -> int:
    """How many patients have a row of this value among `rows`."""
    return int(table["patient_id"].iloc[rows[y_N[rows] == value]].nunique())

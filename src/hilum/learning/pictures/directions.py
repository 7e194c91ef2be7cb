"""The direction of an attribute in an embedding, found by a linear probe, and how far it can be trusted.

An attribute is a label (`pneumonia`), a column of two values (`sex`), one value of a column (`view=AP`), or a number
(`age_years`, a covariate). N: images, D: width of an embedding; z is an embedding, y an attribute's values.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data.store import Dataset
from hilum.errors import DatasetError, UsageError
from hilum.ranking import auroc

FOLDS: Final = 5
RIDGES: Final = tuple(10.0**power for power in range(-4, 3))  # times N, as the squares of standardised features add up
MIN_PATIENTS: Final = 10  # with and without the attribute; fewer say nothing about a probe
REPLICATES: Final = 1000
NAMED: Final = ("sex", "view", "site", "source")  # columns of words that a direction may be asked of

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Attribute:
    """What is asked for, resolved against a dataset.

    Attributes:
        name: As it was asked for.
        kind: `binary`: y is -1 or 1; `continuous`: y is the number itself.
        less: What a low score stands for, in a word or two.
        more: What a high score stands for.
        y_N: One value per row of the manifest; NaN where unknown.
    """

    name: str
    kind: Literal["binary", "continuous"]
    less: str
    more: str
    y_N: Vector


def attribute(dataset: Dataset, name: str, rows: NDArray[np.int64]) -> Attribute:
    """Resolve an attribute's name.

    Args:
        dataset: Whose manifest is looked at.
        name: `column` or `column=value`.
        rows: The rows that count where it must be known which values a column has.

    Raises:
        UsageError: There is no such column, or it does not have two sides.
    """
    column, _, value = name.partition("=")
    facts = dataset.facts
    words = [*NAMED, *(a for a in facts.attributes if not pd.api.types.is_numeric_dtype(dataset.manifest[a]))]
    numbers = ["age_years", *facts.covariates, *(a for a in facts.attributes if a not in words)]
    if column in facts.labels and not value:
        labels = dataset.labels()[column].to_numpy(dtype=np.float64)
        return Attribute(name, "binary", f"without {column}", f"with {column}", 2.0 * labels - 1.0)
    if column in numbers and not value:
        y_N = dataset.manifest[column].to_numpy(dtype=np.float64)
        return Attribute(name, "continuous", f"lower {column}", f"higher {column}", y_N)
    if column not in words:
        known = [*facts.labels, *words, *numbers]
        raise UsageError(
            f"a direction is asked of {name!r}; take one of {', '.join(known)}, or a value such as view=AP"
        )
    series = dataset.manifest[column]
    values = sorted(str(v) for v in series.iloc[rows].dropna().unique())
    if not value and len(values) != 2:
        raise UsageError(
            f"{column} has the values {', '.join(values) or 'none'}; say which one is meant, as in "
            f"{column}={values[0] if values else 'VALUE'}"
        )
    if value and (value not in values or len(values) < 2):
        raise UsageError(
            f"{column} is {' or '.join(values) or 'unknown'} in this dataset, so {name!r} has no two sides"
        )
    more = value or values[1]
    less = next(v for v in values if v != more) if len(values) == 2 else f"not {more}"
    y_N = np.where(series.isna(), np.nan, np.where(series.astype("str") == more, 1.0, -1.0))
    return Attribute(name, "binary", f"{column} {less}", f"{column} {more}", y_N.astype(np.float64))


@dataclass(frozen=True)
class Direction:
    """A linear score of embeddings, and the way along which it rises.

    Attributes:
        mean_D: Of the train embeddings.
        std_D: Likewise; 1 where a feature is constant.
        weights_D: Of standardised features.
        score_std: Standard deviation of the score over the train embeddings.
        way_D: How z moves per standard deviation of the score.
        ridge: The penalty chosen, over N.
        n: Train images; their patients are `n_patients`.
        n_patients: See `n`.
    """

    mean_D: Vector
    std_D: Vector
    weights_D: Vector
    score_std: float
    way_D: Vector
    ridge: float
    n: int
    n_patients: int

    def score(self, z_ND: NDArray[np.floating]) -> Vector:
        """Scores in standard deviations, (N,); 0 is the train mean."""
        return ((z_ND - self.mean_D) / self.std_D) @ self.weights_D / self.score_std

    def moved(self, z_ND: NDArray[np.floating], by: float) -> Vector:
        """The embeddings with their score raised by `by` standard deviations, (N, D)."""
        moved_ND: Vector = z_ND.astype(np.float64) + by * self.way_D
        return moved_ND


def fit(z_ND: NDArray[np.floating], y_N: Vector, patients_N: NDArray[Any], seed: int = 0) -> Direction:
    """Ridge regression of y on standardised z; its penalty is chosen by cross-validation with patients kept together.

    The score is w^T z. There are many ways to raise it; the steepest, along w, runs through differences of features
    that no image has. The way taken is the one along which embeddings do vary when the score does, cov(z, w^T z):
    Haufe et al. 2014 (On the interpretation of weight vectors of linear models), equation 6.

    Args:
        z_ND: Train embeddings.
        y_N: Values of the attribute; rows where it is NaN are left out.
        patients_N: The rows' patients.
        seed: Of the folds.

    Raises:
        DatasetError: Too few patients have the attribute known, or all have the same.
    """
    known = ~np.isnan(y_N)
    x_ND, y_N = z_ND[known].astype(np.float64), y_N[known]
    names, codes_N = np.unique(patients_N[known], return_inverse=True)
    if len(names) < 2 * MIN_PATIENTS or y_N.std() == 0:
        raise DatasetError(
            f"a direction needs an attribute that differs between at least {2 * MIN_PATIENTS} train patients; this one "
            f"is known for {len(names)} and has {len(np.unique(y_N))} values"
        )
    mean_D, spread_D = x_ND.mean(axis=0), x_ND.std(axis=0)
    std_D = np.where(spread_D > 0, spread_D, 1.0)
    s_ND = (x_ND - mean_D) / std_D
    target_N = (y_N - y_N.mean()) / y_N.std()
    ridge = _ridge(s_ND, target_N, np.random.default_rng(seed).permutation(len(names))[codes_N] % FOLDS)
    gram_DD = s_ND.T @ s_ND
    weights_D = _solve(gram_DD, s_ND.T @ target_N, ridge * len(s_ND))
    score_std = float((s_ND @ weights_D).std())
    pattern_D = gram_DD @ weights_D / len(s_ND) / score_std
    return Direction(mean_D, std_D, weights_D, score_std, std_D * pattern_D, ridge, len(s_ND), len(names))


def _ridge(s_ND: Vector, target_N: Vector, fold_N: NDArray[np.integer]) -> float:
    """The penalty with the least squared error on held-out patients."""
    parts = [(s_ND[fold_N == fold], target_N[fold_N == fold]) for fold in range(FOLDS)]
    gram_DD, cross_D = s_ND.T @ s_ND, s_ND.T @ target_N
    errors = np.zeros(len(RIDGES))
    for s_MD, target_M in parts:
        inside_DD, inside_D = gram_DD - s_MD.T @ s_MD, cross_D - s_MD.T @ target_M
        for at, ridge in enumerate(RIDGES):
            weights_D = _solve(inside_DD, inside_D, ridge * (len(s_ND) - len(s_MD)))
            errors[at] += float(((s_MD @ weights_D - target_M) ** 2).sum())
    return RIDGES[int(errors.argmin())]


def _solve(gram_DD: Vector, cross_D: Vector, penalty: float) -> Vector:
    return np.asarray(np.linalg.solve(gram_DD + penalty * np.eye(len(gram_DD)), cross_D), dtype=np.float64)


def quality(
    found: Direction, kind: str, z_ND: NDArray[np.floating], y_N: Vector, patients_N: NDArray[Any], seed: int = 0
) -> dict[str, Any]:
    """How well the score tells the attribute on images that it was not fitted on.

    AUROC for a binary attribute, Pearson's correlation for a continuous one, with the 95% interval of a bootstrap over
    patients.

    Returns:
        `measure`, `value`, `low`, `high` (None, and a `remark`, where there are too few patients), `n`, `n_patients`.
    """
    known = ~np.isnan(y_N)
    score_N, patients_N = found.score(z_ND[known]), patients_N[known]
    y_N = y_N[known]
    names, codes_N = np.unique(patients_N, return_inverse=True)
    measure = "auroc" if kind == "binary" else "correlation"
    told = {"measure": measure, "value": None, "low": None, "high": None, "n": len(y_N), "n_patients": len(names)}
    sides = [y_N > 0, y_N < 0] if kind == "binary" else [np.ones(len(y_N), dtype=bool)] * 2
    if min(len(np.unique(codes_N[side])) for side in sides) < MIN_PATIENTS:
        return {**told, "remark": f"insufficient data: fewer than {MIN_PATIENTS} patients"}
    of = _ranking if kind == "binary" else _correlation
    rows_of = np.split(np.argsort(codes_N, kind="stable"), np.cumsum(np.bincount(codes_N))[:-1])
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(REPLICATES):
        rows = np.concatenate([rows_of[patient] for patient in random.integers(len(names), size=len(names))])
        drawn.append(of(score_N[rows], y_N[rows]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {**told, "value": of(score_N, y_N), "low": float(low), "high": float(high)}


def _ranking(score_N: Vector, y_N: Vector) -> float:
    return auroc(y_N > 0, score_N)


def _correlation(score_N: Vector, y_N: Vector) -> float:
    if score_N.std() == 0 or y_N.std() == 0:
        return float("nan")
    return float(np.corrcoef(score_N, y_N)[0, 1])

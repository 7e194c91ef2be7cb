"""Scores with their uncertainty: weighted metrics, the patient bootstrap, and Wilson intervals.

Legend: N rows (images), R bootstrap replicates, K classes, P patients. A metric here takes `w_RN`, one weight per
replicate and row (how often the row was drawn), and answers with R values, so that a thousand replicates are a few
array operations. A weight of one for every row gives the plain metric. What is undefined is NaN, never 0 or 1.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Statistic = Callable[..., Floats]

CONFIDENCE: Final = 0.95
Z_95: Final = 1.959963984540054  # 97.5% quantile of the standard normal distribution
CHUNK_ELEMENTS: Final = 2_000_000  # replicates x rows held at once: 16 MB per array, so memory does not grow with R
MIN_DEFINED_SHARE: Final = 0.5  # where fewer replicates are defined, their percentiles describe a lucky subset


@dataclass(frozen=True)
class Interval:
    """A score with its 95% interval.

    Attributes:
        value: The score on all rows; NaN where undefined.
        low: Lower bound; NaN where there is none.
        high: Upper bound; NaN where there is none.
        n: Rows behind it.
        n_patients: Patients behind it.
        n_dropped: Bootstrap replicates in which the score was undefined.
        note: Why a value or bound is missing, or what to know about it; empty where there is nothing to say.
    """

    value: float
    low: float
    high: float
    n: int
    n_patients: int
    n_dropped: int = 0
    note: str = ""

    @property
    def bounded(self) -> bool:
        """Whether value and both bounds exist."""
        return bool(np.isfinite([self.value, self.low, self.high]).all())

    def facts(self) -> dict[str, Any]:
        """For JSON: what is NaN becomes None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return self.note or "undefined"
        if not self.bounded:
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def undefined(why: str, n: int = 0, n_patients: int = 0) -> Interval:
    """An interval that says why there is none."""
    return Interval(math.nan, math.nan, math.nan, n, n_patients, note=why)


def patient_bootstrap(
    statistic: Statistic, patients: ArrayLike, replicates: int, seed: int, *arrays: NDArray[Any]
) -> Interval:
    """Percentile bootstrap that resamples patients, each with all its rows (Davison & Hinkley 1997, section 3.8).

    Paired comparisons come for free: a statistic that subtracts two scores of the same rows is resampled as one.

    Args:
        statistic: `statistic(w_RN, *arrays) -> (R,)`; NaN where it is undefined for a replicate.
        patients: One id per row. The order of rows does not matter.
        replicates: How many resamples.
        seed: Same seed, same patients, same resamples, whatever the statistic.
        arrays: Of length N along the first axis.
    """
    codes, known = pd.factorize(np.asarray(patients), sort=True)
    n, n_patients = len(codes), len(known)
    assert all(len(array) == n for array in arrays), "patients and arrays have one entry per row"
    if n == 0:
        return undefined("insufficient data: no rows")
    value = float(statistic(np.ones((1, n)), *arrays)[0])
    if not math.isfinite(value):
        return undefined("insufficient data: undefined on these rows", n, n_patients)
    if n_patients < 2:
        return Interval(value, math.nan, math.nan, n, n_patients, note="no interval from a single patient")
    random = np.random.default_rng(seed)
    step = max(1, CHUNK_ELEMENTS // n)
    drawn = [
        statistic(_times_drawn(random, min(step, replicates - start), n_patients)[:, codes], *arrays)
        for start in range(0, replicates, step)
    ]
    values = np.concatenate(drawn)
    defined = values[np.isfinite(values)]
    n_dropped = replicates - len(defined)
    if len(defined) < MIN_DEFINED_SHARE * replicates:
        note = f"no interval: undefined in {n_dropped} of {replicates} resamples"
        return Interval(value, math.nan, math.nan, n, n_patients, n_dropped, note)
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    note = (
        "all resamples agree: too few rows or perfect separation, so the interval has no width" if low == high else ""
    )
    return Interval(value, float(low), float(high), n, n_patients, n_dropped, note)


def _times_drawn(random: np.random.Generator, replicates: int, n_patients: int) -> Floats:
    """How often each patient is drawn, drawing as many as there are, with replacement: (R, P)."""
    draws = random.integers(0, n_patients, size=(replicates, n_patients))
    draws += np.arange(replicates)[:, None] * n_patients
    return np.bincount(draws.ravel(), minlength=replicates * n_patients).reshape(replicates, n_patients).astype(float)


def weighted_auroc(
    w_RN: Floats, y_N: NDArray[Any], score_N: NDArray[Any], stratum_N: NDArray[Any] | None = None
) -> Floats:
    """AUROC per replicate, rows weighted; rows whose `y` is NaN (unknown) take no part.

    Args:
        w_RN: Weight of each row in each replicate.
        y_N: 1 positive, 0 negative, NaN unknown.
        score_N: Higher means more likely positive.
        stratum_N: Where given, only pairs within a stratum are compared. Scores of different cross-validation folds
            come from different models; comparing them across folds biases the AUROC (Forman & Scholz 2010).

    Returns:
        (R,); NaN where no stratum has both classes.
    """
    wins_R, pairs_R = np.zeros(len(w_RN)), np.zeros(len(w_RN))
    y_N = np.asarray(y_N, dtype=float)
    strata = np.zeros(len(y_N), dtype=int) if stratum_N is None else np.asarray(stratum_N)
    for stratum in np.unique(strata):
        rows = np.flatnonzero((strata == stratum) & ~np.isnan(y_N))
        if len(rows) == 0:
            continue
        rows = rows[np.argsort(score_N[rows], kind="stable")]
        starts = np.flatnonzero(np.r_[True, np.diff(score_N[rows]) != 0])  # first row of each group of equal scores
        w = w_RN[:, rows]
        positive = y_N[rows] == 1
        positive_RG = np.add.reduceat(w * positive, starts, axis=1)
        negative_RG = np.add.reduceat(w * ~positive, starts, axis=1)
        below_RG = np.cumsum(negative_RG, axis=1) - negative_RG
        wins_R += (positive_RG * (below_RG + negative_RG / 2)).sum(axis=1)
        pairs_R += positive_RG.sum(axis=1) * negative_RG.sum(axis=1)
    return _ratio(wins_R, pairs_R)


def weighted_macro_auroc(
    w_RN: Floats, truth_N: NDArray[Any], score_NK: NDArray[Any], stratum_N: NDArray[Any] | None = None
) -> Floats:
    """Mean over K classes of the one-versus-rest AUROC, (R,); `truth_N` holds class numbers 0 to K-1."""
    per_class = [weighted_auroc(w_RN, truth_N == k, score_NK[:, k], stratum_N) for k in range(score_NK.shape[1])]
    return np.asarray(np.mean(per_class, axis=0))


def weighted_balanced_accuracy(w_RN: Floats, truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> Floats:
    """Mean recall over the classes in `truth_N`, (R,); NaN for a replicate that lacks one of them."""
    right_N = truth_N == predicted_N
    recalls = [weighted_mean(w_RN[:, truth_N == name], right_N[truth_N == name]) for name in np.unique(truth_N)]
    return np.asarray(np.mean(recalls, axis=0))


def weighted_mean(w_RN: Floats, value_N: NDArray[Any]) -> Floats:
    """Weighted mean, (R,): a rate where the values are True and False; NaN where the weights sum to zero."""
    return _ratio(w_RN @ np.asarray(value_N, dtype=float), w_RN.sum(axis=1))


def weighted_mae(w_RN: Floats, truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> Floats:
    """Mean absolute error, (R,), in the unit of the truth."""
    return weighted_mean(w_RN, np.abs(truth_N - predicted_N))


def weighted_r2(w_RN: Floats, truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> Floats:
    """Coefficient of determination, (R,): 0 for predicting the replicate's own mean; NaN for a constant truth."""
    mean_R = weighted_mean(w_RN, truth_N)
    residual_R = w_RN @ (truth_N - predicted_N) ** 2
    total_R = (w_RN * (truth_N[None] - mean_R[:, None]) ** 2).sum(axis=1)
    return np.asarray(1 - _ratio(residual_R, total_R))


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio: Floats = np.divide(above, below, out=np.full(len(above), math.nan), where=below > 0)
    return ratio


def wilson(k: float, n: float) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); bounds are NaN where `n` is zero.

    Args:
        k: Successes; a fraction where `n` is an effective sample size.
        n: Trials.
    """
    if n <= 0:
        return math.nan, math.nan
    share, z2 = float(k / n), Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion(hit_N: ArrayLike, patients: ArrayLike) -> Interval:
    """A proportion with a Wilson interval whose sample size allows for several rows per patient.

    The number of rows is divided by the design effect of Rao & Scott (1992, Biometrics 48, 577-585): the variance
    of the proportion between patients over the binomial one, at least 1 here. With all hits or none it cannot be
    estimated, and the number of patients stands in for it. With one row per patient it is about the plain interval.
    """
    hits = np.asarray(hit_N, dtype=float)
    codes, known = pd.factorize(np.asarray(patients), sort=True)
    n, n_patients = len(hits), len(known)
    if n == 0:
        return undefined("insufficient data: no rows")
    share = float(hits.mean())
    effective = float(n_patients)
    if 0 < share < 1 and n_patients > 1:
        residual_P = np.bincount(codes, hits - share)
        between = n_patients / (n_patients - 1) * float((residual_P**2).sum()) / n**2
        effective = n / max(1.0, between / (share * (1 - share) / n))
    low, high = wilson(share * effective, effective)
    return Interval(share, low, high, n, n_patients)

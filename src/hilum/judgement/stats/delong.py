"""The variance of an AUROC without resampling (DeLong, DeLong & Clarke-Pearson 1988), and of the difference of two.

Legend: N rows, M positive rows, L negative rows, K scores of the same rows, P patients. Placements take O(N log N) by
midranks (Sun & Xu 2014, algorithm 2) where the definition compares all pairs.

The plain interval, value +- 1.96 standard errors, is a large-sample rule: with some tens of patients it holds the truth
about 91 times in 100, on the scale of the logit about 93 times (tests/judgement/stats/test_coverage.py simulates it).
With perfect separation the variance is zero and nothing is said.
"""

import math
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hilum.judgement.stats.intervals import (
    Z_95,
    Difference,
    Floats,
    Interval,
    undefined,
    undefined_difference,
)

Scale = Literal["plain", "logit"]

NO_VARIANCE: Final = 1e-24  # of rounding, where every placement is the same
ONE_CLASS: Final = "insufficient data: two rows of each class are needed, from two patients"


def midranks(score_N: ArrayLike) -> Floats:
    """Rank of each row from 1 to N; rows that tie share the mean of their ranks."""
    _, place_N, count = np.unique(np.asarray(score_N, dtype=float), return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(count) - (count - 1) / 2)[place_N]
    return ranks


def delong(
    truth_N: ArrayLike, score_N: ArrayLike, patients: ArrayLike | None = None, scale: Scale = "plain"
) -> Interval:
    """AUROC with DeLong's interval.

    Without `patients` the rows are taken to be independent. Several films of one patient are not, and the interval is
    then too narrow; name the patients to get the variance of Obuchowski (1997), which allows for any dependence
    within a patient, and is DeLong's where each patient has one row.

    Args:
        truth_N: 1 positive, 0 negative, NaN unknown; unknown rows take no part.
        score_N: Higher means more likely positive.
        patients: One id per row.
        scale: On which value +- 1.96 standard errors is taken: `plain` as published, or `logit` (Pepe 2003, section
            5.2.5), which keeps the bounds inside 0 and 1 and is better with few patients or an AUROC near 1.
    """
    auroc_K, covariance_KK, n, n_patients = _areas(truth_N, [score_N], patients)
    if not math.isfinite(covariance_KK[0, 0]):
        note = _why(truth_N, [score_N])
        return (
            undefined(note, n, n_patients)
            if math.isnan(auroc_K[0])
            else Interval(float(auroc_K[0]), math.nan, math.nan, n, n_patients, note=note)
        )
    value, half = float(auroc_K[0]), Z_95 * math.sqrt(covariance_KK[0, 0])
    if covariance_KK[0, 0] <= NO_VARIANCE:
        note = "no interval: perfect separation, so the variance cannot be estimated"
        return Interval(value, math.nan, math.nan, n, n_patients, note=note)
    low, high = max(0.0, value - half), min(1.0, value + half)
    if scale == "logit" and 0 < value < 1:
        centre, half = math.log(value / (1 - value)), half / (value * (1 - value))
        low, high = (1 / (1 + math.exp(-bound)) for bound in (centre - half, centre + half))
    return Interval(value, low, high, n, n_patients)


def delong_difference(
    truth_N: ArrayLike, ours_N: ArrayLike, theirs_N: ArrayLike, patients: ArrayLike | None = None
) -> Difference:
    """AUROC of our score minus that of theirs on the same rows, with DeLong's interval and two-sided p-value.

    Args:
        truth_N: As for `delong`.
        ours_N: A score of each row.
        theirs_N: Another score of the same rows.
        patients: As for `delong`: without it rows are taken to be independent.
    """
    auroc_K, covariance_KK, n, n_patients = _areas(truth_N, [ours_N, theirs_N], patients)
    value = float(auroc_K[0] - auroc_K[1])
    variance = float(covariance_KK[0, 0] + covariance_KK[1, 1] - 2 * covariance_KK[0, 1])
    if not math.isfinite(variance):
        note = _why(truth_N, [ours_N, theirs_N])
        return (
            undefined_difference(note, n, n_patients)
            if math.isnan(value)
            else Difference(value, math.nan, math.nan, n, n_patients, note=note)
        )
    if variance <= NO_VARIANCE:
        same = abs(value) < 1e-12
        note = "both scores order every pair alike" if same else "no interval: the variance cannot be estimated"
        bound, p = (0.0, 1.0) if same else (math.nan, math.nan)
        return Difference(value, bound, bound, n, n_patients, note=note, p=p)
    error = math.sqrt(variance)
    p = 2 * NormalDist().cdf(-abs(value) / error)
    low, high = max(-1.0, value - Z_95 * error), min(1.0, value + Z_95 * error)
    return Difference(value, low, high, n, n_patients, p=p)


def delong_covariance(
    truth_N: ArrayLike, score_NK: NDArray[np.float64], patients: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """AUROCs of K scores of the same rows, (K,), and their covariance matrix, (K, K); NaN where undefined.

    The correlation of two AUROCs, which `detectable_auroc_difference` asks for, is its off-diagonal entry over the
    root of the product of the two on the diagonal.
    """
    auroc_K, covariance_KK, _, _ = _areas(truth_N, list(np.asarray(score_NK, dtype=float).T), patients)
    return auroc_K, covariance_KK


def _areas(truth_N: ArrayLike, scores: list[ArrayLike], patients: ArrayLike | None) -> tuple[Floats, Floats, int, int]:
    truth = np.asarray(truth_N, dtype=float)
    known = ~np.isnan(truth)
    score_NK = np.stack([np.asarray(score, dtype=float) for score in scores], axis=1)[known]
    positive_N = truth[known] == 1
    n, k = score_NK.shape
    ids = np.arange(n) if patients is None else np.asarray(patients)[known]
    codes, names = pd.factorize(ids, sort=False)
    m, negatives = int(positive_N.sum()), int((~positive_N).sum())
    nothing = np.full((k, k), math.nan)
    if not (m and negatives) or np.isnan(score_NK).any():
        return np.full(k, math.nan), nothing, n, len(names)
    above_MK, below_LK = np.empty((m, k)), np.empty((negatives, k))
    for column in range(k):
        above_MK[:, column], below_LK[:, column] = _placements(score_NK[:, column], positive_N)
    auroc_K = above_MK.mean(axis=0)
    patients_with = len(np.unique(codes[positive_N])), len(np.unique(codes[~positive_N]))
    if min(patients_with) < 2:
        return auroc_K, nothing, n, len(names)
    # Obuchowski 1997, section 2: sums of a patient's deviations, over positive and over negative rows.
    shape = (len(names), k)
    over_PK, under_PK = np.zeros(shape), np.zeros(shape)
    np.add.at(over_PK, codes[positive_N], above_MK - auroc_K)
    np.add.at(under_PK, codes[~positive_N], below_LK - auroc_K)
    (with_positive, with_negative), total = patients_with, len(names)
    cross_KK = over_PK.T @ under_PK * total / (total - 1) / (m * negatives)
    covariance_KK = (
        over_PK.T @ over_PK * with_positive / (with_positive - 1) / m**2
        + under_PK.T @ under_PK * with_negative / (with_negative - 1) / negatives**2
        + cross_KK
        + cross_KK.T
    )
    return auroc_K, covariance_KK, n, len(names)


def _placements(score_N: Floats, positive_N: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Share of negatives below each positive, (M,), and of positives above each negative, (L,), ties one half."""
    rank_N = midranks(score_N)
    m = int(positive_N.sum())
    others = len(score_N) - m
    above_M = (rank_N[positive_N] - midranks(score_N[positive_N])) / others
    below_L = 1 - (rank_N[~positive_N] - midranks(score_N[~positive_N])) / m
    return above_M, below_L


def _why(truth_N: ArrayLike, scores: list[ArrayLike]) -> str:
    known = ~np.isnan(np.asarray(truth_N, dtype=float))
    missing = any(np.isnan(np.asarray(score, dtype=float)[known]).any() for score in scores)
    return "undefined: a row whose truth is known has no score" if missing else ONE_CLASS

"""Which patients a resample draws, and what its replicates say about a value.

Legend: P patients, R replicates, J sets of patients that the jackknife leaves out.
"""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement.stats.intervals import CONFIDENCE, Z_95, Floats

JACKKNIFE_SETS: Final = 1000  # beyond so many patients, sets of patients are left out instead of single ones
SAME: Final = 1e-12  # values that differ by less, relatively, differ by rounding only


def times_drawn(random: np.random.Generator, replicates: int, n_patients: int) -> NDArray[np.unsignedinteger[Any]]:
    """How often each patient is drawn, drawing as many as there are, with replacement: (R, P)."""
    draws = random.integers(0, n_patients, size=(replicates, n_patients), dtype=np.int32)
    draws += np.arange(replicates, dtype=np.int32)[:, None] * np.int32(n_patients)
    times = np.bincount(draws.ravel(), minlength=replicates * n_patients).reshape(replicates, n_patients)
    return times.astype(np.uint8 if times.max(initial=0) < 256 else np.uint32)


def jackknife_sets(n_patients: int, seed: int) -> NDArray[np.int64]:
    """The set in which each patient is left out, (P,): a set of its own up to JACKKNIFE_SETS patients.

    Beyond, patients are dealt into sets at random. The acceleration keeps its expectation, because the third and the
    second moment of a sum of independent influences are the sums of theirs; its standard error is about 0.65/J.
    """
    if n_patients <= JACKKNIFE_SETS:
        return np.arange(n_patients)
    return np.random.default_rng(seed).permutation(np.arange(n_patients) % JACKKNIFE_SETS)


def left_out(set_P: NDArray[np.int64], step: int) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Weights that leave one set of patients out at a time, in blocks of up to `step`: (step, P), 0 or 1."""
    for start in range(0, int(set_P.max()) + 1, step):
        block = np.arange(start, min(start + step, int(set_P.max()) + 1))
        yield (set_P[None] != block[:, None]).astype(np.uint8)


def percentile(drawn_R: Floats) -> tuple[float, float]:
    """Percentile interval (Efron 1979)."""
    low, high = np.quantile(drawn_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def acceleration(jackknife_J: Floats) -> float:
    """How fast the standard error changes with the value: Efron & Tibshirani 1993, equation 14.15; NaN if constant."""
    away_J = jackknife_J.mean() - jackknife_J
    spread = float((away_J**2).sum())
    if not spread > (SAME * max(1.0, abs(float(jackknife_J.mean())))) ** 2:
        return math.nan
    return float((away_J**3).sum()) / (6 * math.pow(spread, 1.5))


def bca(value: float, drawn_R: Floats, jackknife_J: Floats) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987; Efron & Tibshirani 1993, equations 14.9 and 14.10).

    Half of the replicates that equal the value count as below it, as for statistics with ties.

    Args:
        value: On all rows.
        drawn_R: Its defined replicates.
        jackknife_J: The value with each set of patients left out.

    Returns:
        NaN, NaN where it is undefined: all replicates on one side of the value, or nothing changes when patients are
        left out, or leaving one set out leaves the value undefined.
    """
    nothing = math.nan, math.nan
    if not np.isfinite(jackknife_J).all():
        return nothing
    normal, a = NormalDist(), acceleration(jackknife_J)
    same_R = np.abs(drawn_R - value) <= SAME * max(1.0, abs(value))
    below = float(((drawn_R < value) & ~same_R).mean() + same_R.mean() / 2)
    if math.isnan(a) or not 0 < below < 1:
        return nothing
    bias, shares = normal.inv_cdf(below), []
    for z in (-Z_95, Z_95):
        damped = 1 - a * (bias + z)
        if damped <= 0:
            return nothing
        shares.append(normal.cdf(bias + (bias + z) / damped))
    low, high = np.quantile(drawn_R, shares)
    return float(low), float(high)


def two_sided(drawn_R: Floats) -> float:
    """The p-value of a difference being 0: twice the share of replicates on its far side (Davison & Hinkley 1997).

    It goes with the percentile interval: below 0.05 just where the 95% interval excludes 0, up to the one that is
    added so that no p is 0. Undefined replicates take no part; NaN where none is defined.
    """
    drawn = drawn_R[np.isfinite(drawn_R)]
    if not len(drawn):
        return math.nan
    least = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(drawn) + 1))

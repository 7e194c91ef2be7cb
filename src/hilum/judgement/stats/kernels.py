"""How one metric of one set of rows is computed for thousands of resamples: prepared once, exact every time.

Legend: N rows, P patients, R resamples, M and L rows of the two classes. A kernel takes `times_RP`, how often each
patient was drawn in each resample, and answers with R values that equal the metric on the rows drawn, repeated as
often as drawn. Whatever does not depend on the draw (sorting, the places of ties, sums over a patient's rows) is
done once; per resample and row there is one look-up of a small integer and one addition.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement.stats.intervals import Floats
from hilum.judgement.stats.metrics import (
    RATIOS,
    Statistic,
    Terms,
    ranked_strata,
    ratio,
    scored,
    weighted_auroc,
    weighted_macro_auroc,
)

Times = NDArray[np.unsignedinteger[Any]]
Kernel = Callable[[Times], Floats]

CACHED_ELEMENTS: Final = 1 << 16  # resamples x rows at a time: what is summed stays in a core's second-level cache


def kernel(statistic: Statistic, code_N: NDArray[np.int64], *columns: NDArray[Any]) -> Kernel:
    """Prepare a metric.

    Args:
        statistic: One of the `weighted_` metrics, which have quick kernels, or any function of (w_RN, *columns).
        code_N: Number of the patient of each row, 0 to P-1.
        columns: What the metric takes after the weights, of length N along the first axis.
    """
    if statistic is weighted_auroc:
        return _auroc(code_N, *columns)
    if statistic is weighted_macro_auroc:
        truth_N, score_NK, *stratum = columns
        each = [_auroc(code_N, truth_N == k, score_NK[:, k], *stratum) for k in range(score_NK.shape[1])]
        return lambda times_RP: np.asarray(np.mean([one(times_RP) for one in each], axis=0))
    if statistic in RATIOS:
        return _ratios(code_N, RATIOS[statistic](*columns))
    return lambda times_RP: statistic(times_RP[:, code_N].astype(np.float64), *columns)


def _auroc(
    code_N: NDArray[np.int64], y_N: NDArray[Any], score_N: NDArray[Any], stratum_N: NDArray[Any] | None = None
) -> Kernel:
    """The Mann-Whitney count from running sums: a row of one class beats what is summed below it in the other.

    The larger class is summed, the smaller one looks up. All sums are whole numbers below 2^53, hence exact.
    """
    strata = []
    for rows, positive, _ in ranked_strata(y_N, score_N, stratum_N):
        large, small = rows[positive], rows[~positive]
        flipped = len(large) > len(small)
        if not flipped:
            large, small = small, large
        if len(small):
            below = np.searchsorted(score_N[large], score_N[small], side="left")
            not_above = np.searchsorted(score_N[large], score_N[small], side="right")
            strata.append((code_N[large], code_N[small], below, not_above, flipped))
    known = scored(y_N, score_N)

    def compute(times_RP: Times) -> Floats:
        wins_R, pairs_R = np.zeros(len(times_RP)), np.zeros(len(times_RP))
        for large_M, small_L, below_L, not_above_L, flipped in strata:
            step = max(1, CACHED_ELEMENTS // len(large_M))
            for start in range(0, len(times_RP), step):
                some = slice(start, start + step)
                block = times_RP[some]
                summed = np.zeros((len(block), len(large_M) + 1), dtype=np.int32)  # exact below 2^30 rows
                np.cumsum(block.take(large_M, axis=1), axis=1, dtype=np.int32, out=summed[:, 1:])
                weight = block.take(small_L, axis=1).astype(np.float64)
                twice_below = (summed.take(below_L, axis=1) + summed.take(not_above_L, axis=1)).astype(np.float64)
                won = np.einsum("rl,rl->r", weight, twice_below) / 2
                pairs = weight.sum(axis=1) * summed[:, -1]
                wins_R[some] += pairs - won if flipped else won
                pairs_R[some] += pairs
        return ratio(wins_R, pairs_R if known else np.zeros(len(times_RP)))

    return compute


def _ratios(code_N: NDArray[np.int64], terms: Terms) -> Kernel:
    """Sums over each patient's rows, once; a resample is then a product of matrices."""
    present, place_N = np.unique(code_N, return_inverse=True)
    sums_PT = np.stack([np.bincount(place_N, part, len(present)) for term in terms for part in term], axis=1)

    def compute(times_RP: Times) -> Floats:
        sums_RT = times_RP.take(present, axis=1).astype(np.float64) @ sums_PT
        return np.asarray(np.mean([ratio(*sums_RT[:, k : k + 2].T) for k in range(0, 2 * len(terms), 2)], axis=0))

    return compute

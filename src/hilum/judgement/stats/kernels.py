"""How one metric of one set of rows is computed for thousands of resamples: prepared once, exact every time.

Legend: N rows, P patients, R resamples, M and L rows of the two classes. A kernel takes `times_RP`, how often each
patient was drawn in each resample, and answers with R values that equal the metric on the rows drawn, repeated as
often as drawn. Whatever does not depend on the draw (sorting, the places of ties, sums over a patient's rows) is
done once; per resample and row there is one look-up of a small integer and one addition.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement.stats.calibration import binned_ece_sums, weighted_binned_ece
from hilum.judgement.stats.intervals import Floats
from hilum.judgement.stats.metrics import (
    RATIOS,
    Statistic,
    Sums,
    ranked_strata,
    ratio,
    scored,
    weighted_auprc,
    weighted_auroc,
    weighted_macro_auroc,
    weighted_sum,
)

Times = NDArray[np.unsignedinteger[Any]]
Kernel = Callable[[Times], Floats]
Asked = tuple[Statistic, Sequence[NDArray[Any]]]  # a metric, and what it takes after the weights, (N, ...) each

CACHED_ELEMENTS: Final = 1 << 16  # resamples x rows at a time: what is summed stays in a core's second-level cache


def kernels(asked: Sequence[Asked], code_N: NDArray[np.int64]) -> Kernel:
    """Prepare several metrics of the same rows; the kernel answers with (R, len(asked)).

    All that are made of sums over rows share one product of matrices.

    Args:
        asked: The metrics.
        code_N: Number of the patient of each row, 0 to P-1.
    """
    sums = {k: made for k, (statistic, columns) in enumerate(asked) if (made := _sums(statistic, columns)) is not None}
    alone = {k: kernel(statistic, code_N, *of) for k, (statistic, of) in enumerate(asked) if k not in sums}
    summed = _summed(code_N, list(sums.values())) if sums else None

    def compute(times_RP: Times) -> Floats:
        found_RM = np.empty((len(times_RP), len(asked)))
        if summed is not None:
            found_RM[:, list(sums)] = summed(times_RP)
        for k, one in alone.items():
            found_RM[:, k] = one(times_RP)
        return found_RM

    return compute


def kernel(statistic: Statistic, code_N: NDArray[np.int64], *columns: NDArray[Any]) -> Kernel:
    """Prepare one metric.

    Args:
        statistic: One of the `weighted_` metrics, most of which have quick kernels, or any function of
            (w_RN, *columns).
        code_N: Number of the patient of each row, 0 to P-1.
        columns: What the metric takes after the weights, of length N along the first axis.
    """
    if statistic is weighted_auroc:
        return _auroc(code_N, *columns)
    if statistic is weighted_auprc:
        return _auprc(code_N, *columns)
    if statistic is weighted_macro_auroc:
        truth_N, score_NK, *stratum = columns
        each = [_auroc(code_N, truth_N == k, score_NK[:, k], *stratum) for k in range(score_NK.shape[1])]
        return lambda times_RP: np.asarray(np.mean([one(times_RP) for one in each], axis=0))
    if (sums := _sums(statistic, columns)) is not None:
        summed = _summed(code_N, [sums])
        return lambda times_RP: summed(times_RP)[:, 0]
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
                summed = _running(block.take(large_M, axis=1))
                weight = block.take(small_L, axis=1).astype(np.float64)
                twice_below = (summed.take(below_L, axis=1) + summed.take(not_above_L, axis=1)).astype(np.float64)
                won = np.einsum("rl,rl->r", weight, twice_below) / 2
                pairs = weight.sum(axis=1) * summed[:, -1]
                wins_R[some] += pairs - won if flipped else won
                pairs_R[some] += pairs
        return ratio(wins_R, pairs_R if known else np.zeros(len(times_RP)))

    return compute


def _auprc(code_N: NDArray[np.int64], y_N: NDArray[Any], score_N: NDArray[Any]) -> Kernel:
    """Average precision from running sums by score: which share of what scores as high as a positive is one."""
    code_N, score_N, y_N = np.asarray(code_N), np.asarray(score_N, dtype=float), np.asarray(y_N, dtype=float)
    rows = np.argsort(-score_N, kind="stable")
    positive, negative = rows[y_N[rows] == 1], rows[y_N[rows] == 0]
    if not scored(y_N, score_N) or not len(positive):
        return lambda times_RP: np.full(len(times_RP), np.nan)
    caught_L, called_L = (
        np.searchsorted(-score_N[of], -score_N[positive], side="right") for of in (positive, negative)
    )  # rows of each class that score at least as high as each positive
    code_L, code_M = code_N[positive], code_N[negative]

    def compute(times_RP: Times) -> Floats:
        found_R, step = np.empty(len(times_RP)), max(1, CACHED_ELEMENTS // max(len(code_L), len(code_M)))
        for start in range(0, len(times_RP), step):
            block = times_RP[start : start + step]
            weight = block.take(code_L, axis=1)
            right = _running(weight).take(caught_L, axis=1).astype(np.float64)
            wrong = _running(block.take(code_M, axis=1)).take(called_L, axis=1)
            called = right + wrong
            precision = np.divide(right, called, out=np.zeros_like(right), where=called > 0)
            hits = weight.sum(axis=1, dtype=np.float64)
            found_R[start : start + step] = ratio(np.einsum("rl,rl->r", weight.astype(np.float64), precision), hits)
        return found_R

    return compute


def _running(weight_RM: Times) -> NDArray[np.int32]:
    """Running sums along the rows of each resample, beginning with zero: (R, M + 1), exact below 2^30 rows."""
    summed = np.zeros((len(weight_RM), weight_RM.shape[1] + 1), dtype=np.int32)
    np.cumsum(weight_RM, axis=1, dtype=np.int32, out=summed[:, 1:])
    return summed


def _sums(statistic: Statistic, columns: Sequence[NDArray[Any]]) -> Sums | None:
    """How a metric is made of sums over rows; None for one that is not."""
    if statistic in RATIOS:
        terms = RATIOS[statistic](*columns)
        return [part for term in terms for part in term], _mean_of_ratios
    if statistic is weighted_sum:
        return [np.asarray(columns[0], dtype=float)], lambda sums_R1: sums_R1[:, 0]
    if statistic is weighted_binned_ece:
        return binned_ece_sums(*columns)
    return None


def _mean_of_ratios(sums_RT: Floats) -> Floats:
    pairs = range(0, sums_RT.shape[1], 2)
    return np.asarray(np.mean([ratio(*sums_RT[:, k : k + 2].T) for k in pairs], axis=0))


def _summed(code_N: NDArray[np.int64], made: Sequence[Sums]) -> Kernel:
    """Sums over each patient's rows, once; a resample is then a product of matrices. Answers with (R, len(made))."""
    present, place_N = np.unique(code_N, return_inverse=True)
    sums_PT = np.stack(
        [np.bincount(place_N, column, len(present)) for columns, _ in made for column in columns], axis=1
    )
    ends = np.cumsum([len(columns) for columns, _ in made])

    def compute(times_RP: Times) -> Floats:
        sums_RT = times_RP.take(present, axis=1).astype(np.float64) @ sums_PT
        parts = np.split(sums_RT, ends[:-1], axis=1)
        return np.stack([finish(part) for (_, finish), part in zip(made, parts, strict=True)], axis=1)

    return compute

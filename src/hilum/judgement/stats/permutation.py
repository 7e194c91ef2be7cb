"""Is one score better than another on the same rows: the test that swaps them, patient by patient.

Legend: N rows, P patients, B permutations. Where the two scores are equally good, and may stand for each other,
which of them a patient's rows got from which is chance.
"""

import math
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hilum.judgement.stats.delong import midranks
from hilum.judgement.stats.intervals import Floats
from hilum.judgement.stats.kernels import kernel
from hilum.judgement.stats.metrics import Statistic

CHUNK_ELEMENTS: Final = 1_000_000  # permutations x rows held at once
SAME: Final = 1e-12  # differences that differ by less differ by rounding only


def swap_test(
    statistic: Statistic,
    patients: ArrayLike,
    truth: NDArray[Any],
    ours: NDArray[Any],
    theirs: NDArray[Any],
    permutations: int = 10_000,
    seed: int = 0,
    *,
    ranked: bool = True,
    stratum_N: NDArray[Any] | None = None,
) -> float:
    """Two-sided p-value of two scores of the same rows being equally good (Venkatraman & Begg 1996, by patient).

    A permutation exchanges the two scores of all rows of each patient with probability one half. The p-value is the
    share of permutations whose difference is at least as large as the observed one, (1 + #)/(B + 1) (Davison & Hinkley
    1997, equation 4.11); where 2^P is not above B all of them are taken and the share is exact.

    The two scores must be exchangeable: of one scale. Ranks are, which is why both are ranked first; that changes no
    AUROC.

    Args:
        statistic: `statistic(w_RN, truth, score) -> (R,)`, with the stratum after them where there is one.
        patients: One id per row.
        truth: Of length N along the first axis.
        ours: A score of each row, (N,), or (N, K) for several classes or labels.
        theirs: Another score of the same rows.
        permutations: B.
        seed: Same seed, same permutations.
        ranked: Replace both scores by their ranks. Not for a metric that reads values (MAE, Brier, a decision at a
            threshold); there the scores must be of one scale as they are.
        stratum_N: Rows are ranked within a stratum (such as a fold, whose scores come from a model of its own), and the
            statistic is given it.

    Returns:
        In (0, 1]; NaN where the difference is undefined.
    """
    codes, known = pd.factorize(np.asarray(patients), sort=True)
    n, n_patients = len(codes), len(known)
    assert len(truth) == len(ours) == len(theirs) == n, "patients, truth and both scores have one entry per row"
    if n == 0:
        return math.nan
    a, b = (_ranks(score, stratum_N) if ranked else np.asarray(score) for score in (ours, theirs))
    strata = [] if stratum_N is None else [np.concatenate([stratum_N, stratum_N])]
    # All rows twice, once with each score: a swap is a choice between a row and its double, and nothing is sorted anew.
    compute = kernel(
        statistic, np.concatenate([codes, codes + n_patients]), np.concatenate([truth, truth]),
        np.concatenate([a, b]), *strata,
    )  # fmt: skip

    def difference(swapped_BP: NDArray[np.bool_]) -> Floats:
        stay, go = (~swapped_BP).astype(np.uint8), swapped_BP.astype(np.uint8)
        return np.asarray(compute(np.hstack([stay, go])) - compute(np.hstack([go, stay])))

    observed = abs(float(difference(np.zeros((1, n_patients), dtype=bool))[0]))
    if math.isnan(observed):
        return math.nan
    exact = n_patients < 63 and 2**n_patients <= permutations
    total, reached = 2**n_patients if exact else permutations, 0
    random, step = np.random.default_rng(seed), max(1, CHUNK_ELEMENTS // (2 * n))
    for start in range(0, total, step):
        count = min(step, total - start)
        if exact:
            swapped = (np.arange(start, start + count)[:, None] >> np.arange(n_patients)) % 2 == 1
        else:
            swapped = random.random((count, n_patients)) < 0.5
        # An undefined permutation counts as reached: the p-value then errs on the cautious side.
        reached += count - int((np.abs(difference(swapped)) < observed - SAME).sum())
    return reached / total if exact else (1 + reached) / (1 + total)


def _ranks(score: NDArray[Any], stratum_N: NDArray[Any] | None) -> Floats:
    columns = np.asarray(score, dtype=float).reshape(len(score), -1)
    strata = np.zeros(len(score), dtype=int) if stratum_N is None else np.asarray(stratum_N)
    ranks = np.full(columns.shape, math.nan)
    for stratum in np.unique(strata):
        for column in range(columns.shape[1]):
            rows = np.flatnonzero((strata == stratum) & ~np.isnan(columns[:, column]))
            ranks[rows, column] = midranks(columns[rows, column])
    return ranks.reshape(np.shape(score))

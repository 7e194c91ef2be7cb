"""Are two encoders equally good on the same patients: the swap test of many pairs at once.

The test (Venkatraman & Begg 1996, by patient) exchanges the answers of two encoders for all rows of a patient with
probability one half. For every metric that heads a column the difference is a sum over patients whose terms only change
their signs:

An AUROC is a mean over pairs of a positive i and a negative j of psi, which is 1, 1/2 or 0. With t = +1 for a patient
who keeps the answers and -1 for one whose answers are exchanged, psi(t_i, t_j) is c0 + c1 t_i + c2 t_j + c3 t_i t_j.
The other encoder has the same with -t, so c0 and c3 t_i t_j cancel in the difference, and 2 (c1 t_i + c2 t_j) stays.
A balanced accuracy and a mean error are sums over rows to begin with.

What is summed over a patient is computed once; all permutations of all pairs are then one product of matrices, exact to
rounding (tests compare it with `hilum.judgement.stats.swap_test`, which recomputes the metric).

Legend: M held-out rows, L labels, P patients, B permutations, C pairs of encoders.
"""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.leaderboard.paired import SEED, Aligned
from hilum.judgement.probing.svm import Floats

PERMUTATIONS: Final = 10_000
PER_PAIR: Final = 100  # permutations: the least p-value, corrected over all pairs, is then below 0.01
CHUNK_ELEMENTS: Final = 2_000_000  # permutations x patients held at once: 16 MB
SAME: Final = 1e-12  # differences that differ by less differ by rounding only

Effect = Callable[[NDArray[Any], Floats, Floats, NDArray[Any]], Floats]  # of truth, two scores, and folds


def p_values(rows: Aligned, kind: str, metric: str, permutations: int = PERMUTATIONS) -> dict[tuple[int, int], float]:
    """The two-sided p-value of every two being equally good, not corrected.

    Args:
        rows: Whom each scored; scores are ranked within a fold for an AUROC, and compared as they are for a decision or
            an error, which read values.
        kind: `binary`, `multiclass`, `regression`, or `mean` for a mean over labels.
        metric: `auroc` (binary, mean), `balanced_accuracy` (binary, multiclass) or `mae` (regression).
        permutations: B, at least; PER_PAIR for each pair if that is more.

    Returns:
        By the places of the two in `rows.scores`; NaN where the metric is undefined.
    """
    pairs = list(combinations(range(len(rows.scores)), 2))
    if not pairs:
        return {}
    effect = EFFECTS[kind, metric]
    codes_M, known = pd.factorize(rows.patients_M, sort=True)
    sums_PC: Floats = np.stack(
        [
            np.bincount(codes_M, effect(rows.truth, rows.scores[a], rows.scores[b], rows.fold_M), len(known))
            for a, b in pairs
        ],
        axis=1,
    )
    found = _swapped(sums_PC, max(permutations, PER_PAIR * len(pairs)))
    return dict(zip(pairs, found, strict=True))


def _swapped(sums_PC: Floats, permutations: int) -> list[float]:
    """The p-value of each column's sum, its terms' signs drawn at random; all signs where they are few (exact)."""
    n_patients = len(sums_PC)
    observed_C = np.abs(sums_PC.sum(axis=0))
    exact = n_patients < 63 and 2**n_patients <= permutations
    total, reached_C = 2**n_patients if exact else permutations, np.zeros(len(observed_C), dtype=np.int64)
    random, step = np.random.default_rng(SEED), max(1, CHUNK_ELEMENTS // max(1, n_patients))
    for start in range(0, total, step):
        count = min(step, total - start)
        if exact:
            swapped_BP = (np.arange(start, start + count)[:, None] >> np.arange(n_patients)) % 2 == 1
        else:
            swapped_BP = random.random((count, n_patients)) < 0.5
        drawn_BC = np.abs(np.where(swapped_BP, -1.0, 1.0) @ sums_PC)
        reached_C += count - (drawn_BC < observed_C - SAME).sum(axis=0)
    p_C = reached_C / total if exact else (1 + reached_C) / (1 + total)
    return [math.nan if math.isnan(seen) else float(p) for seen, p in zip(observed_C, p_C, strict=True)]


def _auroc(y_M: NDArray[Any], a_M: Floats, b_M: Floats, fold_M: NDArray[Any]) -> Floats:
    """(M,) what each row adds to the difference of two AUROCs; 0 where the truth is unknown, NaN where undefined."""
    known_M = np.isfinite(np.asarray(y_M, dtype=float))
    effect_M, n_pairs = np.zeros(len(y_M)), 0
    if np.isnan(a_M[known_M]).any() or np.isnan(b_M[known_M]).any():
        return np.full(len(y_M), math.nan)
    for fold in np.unique(fold_M[known_M]):
        rows = np.flatnonzero(known_M & (fold_M == fold))
        positive = y_M[rows] == 1
        upper, lower = rows[positive], rows[~positive]
        a, b = np.zeros(len(y_M)), np.zeros(len(y_M))
        a[rows], b[rows] = stats.midranks(a_M[rows]), stats.midranks(b_M[rows])
        pairs = [(x, z) for x in (a, b) for z in (a, b)]  # aa, ab, ba, bb: the positives' score, the negatives'
        for (x, z), sign in zip(pairs, (1, 1, -1, -1), strict=True):
            effect_M[upper] += sign * _below(x[upper], z[lower])
        for (x, z), sign in zip(pairs, (-1, 1, -1, 1), strict=True):
            effect_M[lower] += sign * _below(z[lower], x[upper])
        n_pairs += len(upper) * len(lower)
    return effect_M / (2 * n_pairs) if n_pairs else np.full(len(y_M), math.nan)


def _below(value_M: Floats, others_L: Floats) -> Floats:
    """How many of the others lie below each value, ties one half."""
    ordered = np.sort(others_L)
    twice = np.searchsorted(ordered, value_M, side="left") + np.searchsorted(ordered, value_M, side="right")
    return np.asarray(twice / 2)


def _mean_auroc(truth_ML: NDArray[Any], a_ML: Floats, b_ML: Floats, fold_M: NDArray[Any]) -> Floats:
    each = [_auroc(truth_ML[:, k], a_ML[:, k], b_ML[:, k], fold_M) for k in range(truth_ML.shape[1])]
    return np.asarray(np.mean(each, axis=0))


def _recalls(truth_M: NDArray[Any], a_M: NDArray[Any], b_M: NDArray[Any]) -> Floats:
    """(M,) what each row adds to the difference of two balanced accuracies."""
    _, class_M, n_K = np.unique(truth_M, return_inverse=True, return_counts=True)
    right_M = (a_M == truth_M).astype(float) - (b_M == truth_M)
    return np.asarray(right_M / (n_K[class_M] * len(n_K)))


def _decisions(truth_M: NDArray[Any], a_M: Floats, b_M: Floats, _: NDArray[Any]) -> Floats:
    return _recalls(truth_M, a_M > 0, b_M > 0)


def _choices(truth_M: NDArray[Any], a_MK: Floats, b_MK: Floats, _: NDArray[Any]) -> Floats:
    return _recalls(truth_M, a_MK.argmax(axis=1), b_MK.argmax(axis=1))


def _errors(truth_M: NDArray[Any], a_M: Floats, b_M: Floats, _: NDArray[Any]) -> Floats:
    return np.asarray((np.abs(a_M - truth_M) - np.abs(b_M - truth_M)) / len(truth_M))


EFFECTS: Final[dict[tuple[str, str], Effect]] = {
    ("binary", "auroc"): _auroc,
    ("binary", "balanced_accuracy"): _decisions,
    ("multiclass", "balanced_accuracy"): _choices,
    ("regression", "mae"): _errors,
    ("mean", "auroc"): _mean_auroc,
}

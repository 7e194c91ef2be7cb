"""Metrics of weighted rows, for many weightings at once.

Legend: N rows (images), R bootstrap replicates, K classes, G groups of rows with equal scores. A metric here takes
`w_RN`, one weight per replicate and row (how often the row was drawn), and answers with R values, so that a thousand
replicates are a few array operations. A weight of one for every row gives the plain metric. Rows whose truth is NaN
(unknown) take no part where a truth is asked for. What is undefined is NaN, never 0 or 1; a missing score makes the
metric NaN, for leaving the row out would judge a model by the cases that it answers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement.stats.intervals import Floats

Statistic = Callable[..., Floats]
Terms = Sequence[tuple[Floats, Floats]]  # what is summed above and below the line, (N,) each
Sums = tuple[
    Sequence[Floats], Callable[[Floats], Floats]
]  # T columns of rows, (N,) each; from their sums (R, T) to (R,)

CALIBRATION_BINS: Final = 10  # as usual since Guo et al. 2017; equal mass here


def weighted_auroc(
    w_RN: Floats, y_N: NDArray[Any], score_N: NDArray[Any], stratum_N: NDArray[Any] | None = None
) -> Floats:
    """AUROC per replicate, rows weighted: the share of weighted pairs in the right order, ties one half.

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
    for rows, positive, starts in ranked_strata(y_N, score_N, stratum_N):
        w = w_RN[:, rows]
        positive_RG = np.add.reduceat(w * positive, starts, axis=1)
        negative_RG = np.add.reduceat(w * ~positive, starts, axis=1)
        below_RG = np.cumsum(negative_RG, axis=1) - negative_RG
        wins_R += (positive_RG * (below_RG + negative_RG / 2)).sum(axis=1)
        pairs_R += positive_RG.sum(axis=1) * negative_RG.sum(axis=1)
    return ratio(wins_R, pairs_R) if scored(y_N, score_N) else np.full(len(w_RN), math.nan)


def ranked_strata(
    y_N: NDArray[Any], score_N: NDArray[Any], stratum_N: NDArray[Any] | None = None
) -> list[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]]:
    """By stratum the known rows in order of score, which of them are positive, and where each tie begins."""
    y_N = np.asarray(y_N, dtype=float)
    strata = np.zeros(len(y_N), dtype=int) if stratum_N is None else np.asarray(stratum_N)
    found = []
    for stratum in np.unique(strata):
        rows = np.flatnonzero((strata == stratum) & ~np.isnan(y_N))
        if len(rows):
            rows = rows[np.argsort(score_N[rows], kind="stable")]
            starts = np.flatnonzero(np.r_[True, np.diff(score_N[rows]) != 0])
            found.append((rows, y_N[rows] == 1, starts))
    return found


def scored(y_N: NDArray[Any], score_N: NDArray[Any]) -> bool:
    """Whether every row whose truth is known has a score."""
    return not np.isnan(np.asarray(score_N, dtype=float)[~np.isnan(np.asarray(y_N, dtype=float))]).any()


def weighted_macro_auroc(
    w_RN: Floats, truth_N: NDArray[Any], score_NK: NDArray[Any], stratum_N: NDArray[Any] | None = None
) -> Floats:
    """Mean over K classes of the one-versus-rest AUROC, (R,); `truth_N` holds class numbers 0 to K-1."""
    per_class = [weighted_auroc(w_RN, truth_N == k, score_NK[:, k], stratum_N) for k in range(score_NK.shape[1])]
    return np.asarray(np.mean(per_class, axis=0))


def weighted_auprc(w_RN: Floats, y_N: NDArray[Any], score_N: NDArray[Any]) -> Floats:
    """Area under the precision-recall curve as a sum of steps (average precision), (R,); NaN without a positive.

    The sum over thresholds of (recall_i - recall_(i-1)) * precision_i (Zhu 2004); no line is drawn between points,
    which would flatter (Davis & Goadrich 2006). Chance level is the prevalence, so values of cohorts or groups of
    different prevalence do not compare.
    """
    y_N, score_N = np.asarray(y_N, dtype=float), np.asarray(score_N, dtype=float)
    if not scored(y_N, score_N) or np.isnan(y_N).all():
        return np.full(len(w_RN), math.nan)
    rows = np.flatnonzero(~np.isnan(y_N))
    rows = rows[np.argsort(-score_N[rows], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(score_N[rows]) != 0])
    w = w_RN[:, rows]
    positive_RG = np.add.reduceat(w * (y_N[rows] == 1), starts, axis=1)
    called_RG = np.cumsum(np.add.reduceat(w, starts, axis=1), axis=1)
    right_RG = np.cumsum(positive_RG, axis=1)
    precision_RG = np.divide(right_RG, called_RG, out=np.zeros_like(right_RG), where=called_RG > 0)
    return ratio((precision_RG * positive_RG).sum(axis=1), positive_RG.sum(axis=1))


def weighted_ece(w_RN: Floats, y_N: NDArray[Any], probability_N: NDArray[Any], bins: int = CALIBRATION_BINS) -> Floats:
    """Expected calibration error over bins of equal mass, (R,): sum over bins of n_b/n |mean p - mean y|.

    Naeini et al. 2015, equation 3. Bins are those of the replicate: a row belongs to the bin in which the middle of
    its tie falls, so that equal probabilities stay together and a row drawn twice counts as two rows. The error of few
    rows is biased upwards, since chance moves every bin away from zero, and that of a resample once more: its
    percentile interval errs on the wide side above.
    """
    y_N, p_N = np.asarray(y_N, dtype=float), np.asarray(probability_N, dtype=float)
    if not scored(y_N, p_N) or np.isnan(y_N).all():
        return np.full(len(w_RN), math.nan)
    rows = np.flatnonzero(~np.isnan(y_N))
    rows = rows[np.argsort(p_N[rows], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(p_N[rows]) != 0])
    mass_RG = np.add.reduceat(w_RN[:, rows], starts, axis=1)
    positive_RG = np.add.reduceat(w_RN[:, rows] * y_N[rows], starts, axis=1)
    gap_RG = mass_RG * p_N[rows][starts] - positive_RG
    total_R = mass_RG.sum(axis=1)
    twice_middle_RG = 2 * np.cumsum(mass_RG, axis=1) - mass_RG
    place_RG = np.floor(bins * twice_middle_RG / np.where(total_R > 0, 2 * total_R, 1)[:, None])
    place_RG = np.minimum(place_RG, bins - 1).astype(np.int64) + bins * np.arange(len(w_RN))[:, None]
    gap_RB = np.bincount(place_RG.ravel(), gap_RG.ravel(), minlength=bins * len(w_RN)).reshape(len(w_RN), bins)
    return ratio(np.abs(gap_RB).sum(axis=1), total_R)


def weighted_balanced_accuracy(w_RN: Floats, truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> Floats:
    """Mean recall over the classes in `truth_N`, (R,); NaN for a replicate that lacks one of them."""
    return _summed(w_RN, _recalls(truth_N, predicted_N))


def weighted_sensitivity(w_RN: Floats, y_N: NDArray[Any], called_N: NDArray[Any]) -> Floats:
    """Share of positives that are called positive (true positive rate), (R,); NaN without a positive."""
    return _summed(w_RN, _sensitivity(y_N, called_N))


def weighted_specificity(w_RN: Floats, y_N: NDArray[Any], called_N: NDArray[Any]) -> Floats:
    """Share of negatives that are not called positive, (R,); NaN without a negative."""
    return _summed(w_RN, _specificity(y_N, called_N))


def weighted_ppv(w_RN: Floats, y_N: NDArray[Any], called_N: NDArray[Any]) -> Floats:
    """Share of positives among those called positive (precision), (R,); NaN where none is called."""
    return _summed(w_RN, _ppv(y_N, called_N))


def weighted_selection_rate(w_RN: Floats, called_N: NDArray[Any]) -> Floats:
    """Share of rows that are called positive, (R,)."""
    return _summed(w_RN, _mean(called_N))


def weighted_brier(w_RN: Floats, y_N: NDArray[Any], probability_N: NDArray[Any]) -> Floats:
    """Mean squared error of a probability (Brier 1950, two classes), (R,), in [0, 1]."""
    return _summed(w_RN, _brier(y_N, probability_N))


def weighted_mean(w_RN: Floats, value_N: NDArray[Any]) -> Floats:
    """Weighted mean, (R,): a rate where the values are True and False; NaN where the weights sum to zero."""
    return _summed(w_RN, _mean(value_N))


def weighted_sum(w_RN: Floats, value_N: NDArray[Any]) -> Floats:
    """Weighted sum, (R,): a count where the values are True and False."""
    return np.asarray(w_RN @ np.asarray(value_N, dtype=float))


def weighted_mae(w_RN: Floats, truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> Floats:
    """Mean absolute error, (R,), in the unit of the truth."""
    return _summed(w_RN, _mae(truth_N, predicted_N))


def weighted_r2(w_RN: Floats, truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> Floats:
    """Coefficient of determination, (R,): 0 for predicting the replicate's own mean; NaN for a constant truth."""
    mean_R = weighted_mean(w_RN, truth_N)
    residual_R = w_RN @ (truth_N - predicted_N) ** 2
    total_R = (w_RN * (truth_N[None] - mean_R[:, None]) ** 2).sum(axis=1)
    return np.asarray(1 - ratio(residual_R, total_R))


def ratio(above: Floats, below: Floats) -> Floats:
    """`above / below`, NaN where `below` is not positive."""
    quotient: Floats = np.divide(above, below, out=np.full(len(above), math.nan), where=below > 0)
    return quotient


def _mean(value_N: NDArray[Any]) -> Terms:
    value_N = np.asarray(value_N, dtype=float)
    return [(value_N, np.ones(len(value_N)))]


def _mae(truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> Terms:
    return _mean(np.abs(np.asarray(truth_N, dtype=float) - predicted_N))


def _brier(y_N: NDArray[Any], probability_N: NDArray[Any]) -> Terms:
    y_N = np.asarray(y_N, dtype=float)
    known = ~np.isnan(y_N)
    return [(np.where(known, (np.asarray(probability_N, dtype=float) - y_N) ** 2, 0.0), known.astype(float))]


def _sensitivity(y_N: NDArray[Any], called_N: NDArray[Any]) -> Terms:
    return _share(np.asarray(called_N) == 1, np.asarray(y_N) == 1)


def _specificity(y_N: NDArray[Any], called_N: NDArray[Any]) -> Terms:
    return _share(np.asarray(called_N) == 0, np.asarray(y_N) == 0)


def _ppv(y_N: NDArray[Any], called_N: NDArray[Any]) -> Terms:
    y_N = np.asarray(y_N, dtype=float)
    return _share(y_N == 1, (np.asarray(called_N) == 1) & ~np.isnan(y_N))


def _recalls(truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> Terms:
    right_N = truth_N == predicted_N
    return [term for name in np.unique(truth_N) for term in _share(right_N, truth_N == name)]


def _share(hit_N: NDArray[np.bool_], asked_N: NDArray[np.bool_]) -> Terms:
    return [((hit_N & asked_N).astype(float), asked_N.astype(float))]


def _summed(w_RN: Floats, terms: Terms) -> Floats:
    """The mean over terms of their weighted ratio, (R,)."""
    return np.asarray(np.mean([ratio(w_RN @ above_N, w_RN @ below_N) for above_N, below_N in terms], axis=0))


# Metrics that are means of ratios of sums over rows: a patient's rows can be summed before any patient is drawn.
RATIOS: Final[dict[Statistic, Callable[..., Terms]]] = {
    weighted_balanced_accuracy: _recalls,
    weighted_sensitivity: _sensitivity,
    weighted_specificity: _specificity,
    weighted_ppv: _ppv,
    weighted_selection_rate: _mean,
    weighted_brier: _brier,
    weighted_mean: _mean,
    weighted_mae: _mae,
}

"""From scores to probabilities and decisions: Platt's calibration, the operating point, and the calibration error.

Legend: N rows. `y_N` is 1 for positive and 0 for negative.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.stats import CALIBRATION_BINS, ROWS_PER_BIN

Floats = NDArray[np.float64]
Rule = Literal["youden", "sensitivity"]


def sigmoid(x_N: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    small_N = np.exp(-np.abs(x_N))
    return np.asarray(np.where(x_N >= 0, 1.0, small_N) / (1 + small_N))


def cross_entropy(logit_N: Floats, target_N: Floats) -> float:
    """Summed cross-entropy of logits against targets in [0, 1], in nats, without overflow."""
    return float((np.logaddexp(0, logit_N) - target_N * logit_N).sum())


def platt(score_N: NDArray[Any], y_N: NDArray[Any]) -> tuple[float, float]:
    """Slope and intercept (a, b) of `sigmoid(a * score + b)` by maximum likelihood with Platt's smoothed targets.

    Targets (n+ + 1)/(n+ + 2) and 1/(n- + 2) keep the slope finite where classes separate (Platt 1999, section 2.2);
    Newton's method with halved steps, as in Lin, Lin & Weng 2007, algorithm 1.
    """
    n_positive, n_negative = float((y_N == 1).sum()), float((y_N == 0).sum())
    target_N = np.where(y_N == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    mean, sd = float(np.mean(score_N)), float(np.std(score_N)) or 1.0  # whatever the margin's unit, steps are alike
    x_N2 = np.stack([(score_N - mean) / sd, np.ones(len(score_N))], axis=1)
    at = np.array([0.0, math.log((n_positive + 1) / (n_negative + 1))])
    value = cross_entropy(x_N2 @ at, target_N)
    for _ in range(100):
        p_N = sigmoid(x_N2 @ at)
        gradient = x_N2.T @ (p_N - target_N)
        if np.abs(gradient).max() < 1e-9 * len(score_N):
            break
        curvature = (x_N2 * (p_N * (1 - p_N))[:, None]).T @ x_N2 + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-10 and cross_entropy(x_N2 @ (at - size * step), target_N) > value - 1e-4 * size * (
            gradient @ step
        ):
            size /= 2
        if size <= 1e-10:
            break
        at = at - size * step
        value = cross_entropy(x_N2 @ at, target_N)
    return float(at[0]) / sd, float(at[1]) - float(at[0]) * mean / sd


def operating_point(
    y_N: NDArray[Any],
    probability_N: NDArray[Any],
    rule: Rule,
    min_sensitivity: float = 0.9,
) -> float:
    """The probability at and above which a row is called positive.

    Thresholds lie halfway between neighbouring probabilities; of equals under `youden` the lower one is taken, which
    misses fewer.
    """
    values = np.unique(probability_N)
    cuts = np.r_[values[0], (values[1:] + values[:-1]) / 2]
    positive, negative = np.sort(probability_N[y_N == 1]), np.sort(probability_N[y_N == 0])
    sensitivity = 1 - np.searchsorted(positive, cuts, side="left") / len(positive)
    specificity = np.searchsorted(negative, cuts, side="left") / len(negative)
    if rule == "youden":
        return float(cuts[int(np.argmax(sensitivity + specificity))])
    return float(cuts[np.flatnonzero(sensitivity >= min_sensitivity)[-1]])


def ece(y_N: NDArray[Any], probability_N: NDArray[Any]) -> tuple[float, int]:
    """Expected calibration error, sum over bins of n_b/n |mean p - mean y|, over bins of equal mass; and how many bins.

    Naeini et al. 2015, equation 3; equal mass because equal width leaves most bins nearly empty at low prevalence. The
    bins are those of `stats.weighted_ece`, so that the card of a head and its audit say the same number.
    """
    bins = min(CALIBRATION_BINS, len(y_N) // ROWS_PER_BIN)
    if bins < 1:
        return math.nan, 0
    return float(stats.weighted_ece(np.ones((1, len(y_N))), y_N, probability_N, bins)[0]), bins

"""From a probe's margins to probabilities and decisions, both locked on training patients, and what they are worth.

Legend: N rows, R bootstrap replicates, B bins. The margins that calibrate are of training rows whose patients the
scoring machine had not seen; no test row has a say in slope, intercept or threshold.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.probing.calibration import operating_point, platt, sigmoid
from hilum.judgement.probing.svm import Floats
from hilum.judgement.stats import CALIBRATION_BINS, ROWS_PER_BIN
from hilum.recipe import Probe

DECISIONS: Final = ("sensitivity", "specificity", "brier", "ece")
UNRANKED: Final = (
    "no threshold: the margins of unseen training patients do not rank those with the finding above those without"
)
UNSEEN: Final = "no calibration: too few training patients to hold some out"
NOISE_DRAWS: Final = 200  # of labels from the probabilities themselves: what chance alone adds to the ECE


@dataclass(frozen=True)
class Locked:
    """A calibration and a threshold.

    Attributes:
        a: Slope of Platt's calibration; 0 where margins do not rank, and the probability is then the prevalence.
        b: Its intercept.
        threshold: A probability at or above it is called positive; NaN where margins do not rank.
    """

    a: float
    b: float
    threshold: float

    def probability(self, score_N: Floats) -> Floats:
        """Calibrated probability of each margin."""
        return sigmoid(self.a * score_N + self.b)

    def called(self, score_N: Floats) -> Floats:
        """1 where called positive, 0 where not, NaN without a threshold."""
        if math.isnan(self.threshold):
            return np.full(len(score_N), math.nan)
        return (self.probability(score_N) >= self.threshold).astype(float)


def lock(y_N: Floats, score_N: Floats, recipe: Probe) -> Locked | None:
    """Calibrate (Platt 1999) and choose the threshold by the recipe's rule; None without rows of both classes.

    Args:
        y_N: 1 or 0, of training rows.
        score_N: Their margins by a machine that had not seen their patients.
        recipe: `threshold` and `min_sensitivity`.
    """
    if len(np.unique(y_N)) < 2:
        return None
    a, b = platt(score_N, y_N)
    if a <= 0:
        prevalence = float(y_N.mean())
        return Locked(0.0, math.log(prevalence / (1 - prevalence)), math.nan)
    cut = operating_point(y_N, sigmoid(a * score_N + b), recipe.threshold, recipe.min_sensitivity)
    return Locked(a, b, cut)


def worth(
    truth_N: Floats,
    probability_N: Floats,
    called_N: Floats,
    prevalence_N: Floats,
    patients_N: NDArray[Any],
    recipe: Probe,
) -> dict[str, tuple[stats.Interval, stats.Interval]]:
    """Each of DECISIONS on held-out rows, with the level of an answer that does not look at the image.

    That level is, for sensitivity and specificity, a coin that calls as many positive; for the Brier score and the
    calibration error, the training prevalence given to everyone.

    Args:
        truth_N: 1 or 0.
        probability_N: Calibrated; NaN where there is no calibration.
        called_N: 1 or 0; NaN without a threshold.
        prevalence_N: Of the training rows.
        patients_N: One id per row.
        recipe: Replicates and seed.
    """
    n, n_patients = len(truth_N), len(np.unique(patients_N))
    boot = (patients_N, recipe.bootstrap, recipe.seed)
    found = {}
    positive_N = truth_N == 1
    for name, hit_N, of_N in (
        ("sensitivity", called_N == 1, positive_N),
        ("specificity", called_N == 0, ~positive_N),
    ):
        if np.isnan(called_N).any():
            why = UNSEEN if np.isnan(probability_N).any() else UNRANKED
            found[name] = (stats.undefined(why, n, n_patients), stats.undefined(""))
        else:
            found[name] = (stats.proportion(hit_N[of_N], patients_N[of_N]), stats.proportion(hit_N, patients_N))
    if np.isnan(probability_N).any():
        nothing = (stats.undefined(UNSEEN, n, n_patients), stats.undefined(""))
        return {**found, "brier": nothing, "ece": nothing}
    brier, plain = (
        stats.patient_bootstrap(stats.weighted_brier, *boot, truth_N, p_N) for p_N in (probability_N, prevalence_N)
    )
    found["brier"] = (brier, plain)
    found["ece"] = (
        calibration_error(truth_N, probability_N, patients_N, recipe),
        calibration_error(truth_N, prevalence_N, patients_N, recipe),
    )
    return found


def calibration_error(
    truth_N: Floats, probability_N: Floats, patients_N: NDArray[Any], recipe: Probe
) -> stats.Interval:
    """Expected calibration error over bins of equal mass (Naeini et al. 2015, equation 3), with a patient bootstrap.

    A mean of absolute differences grows with their noise: each resample's error lies above that of the rows it is
    drawn from, as that one lies above the truth. The bootstrap's percentiles would therefore often lie above the value
    itself. The upper bound here is the value and the larger distance to a percentile; the lower bound is as far below,
    less what noise alone would show on as many rows (in the note), which is the most that the value may be too high.
    Both err on the wide side.
    """
    n, n_patients = len(truth_N), len(np.unique(patients_N))
    bins = min(CALIBRATION_BINS, n // ROWS_PER_BIN)
    if bins < 1:
        why = f"insufficient data: {n} images, {ROWS_PER_BIN} are needed for a bin of the calibration error"
        return stats.undefined(why, n, n_patients)

    def error(w_RN: Floats, y_N: Floats, p_N: Floats) -> Floats:
        return stats.weighted_ece(w_RN, y_N, p_N, bins)

    drawn = stats.patient_bootstrap(error, patients_N, recipe.bootstrap, recipe.seed, truth_N, probability_N)
    random = np.random.default_rng(recipe.seed)
    ones = np.ones((1, n))
    noise = [
        error(ones, (random.random(n) < probability_N).astype(float), probability_N)[0] for _ in range(NOISE_DRAWS)
    ]
    note = f"{bins} bins of equal mass; perfect calibration would show {np.mean(noise):.3f} on as many images"
    low, high = drawn.low, drawn.high
    if drawn.bounded:
        half = max(high - drawn.value, drawn.value - low)
        low, high = max(0.0, drawn.value - half - float(np.mean(noise))), min(1.0, drawn.value + half)
    said = "; ".join(part for part in (drawn.note, note) if part)
    return stats.Interval(drawn.value, low, high, n, n_patients, drawn.n_dropped, said)

"""What ROC and calibration figures draw: curves with their uncertainty over patients.

Legend: N answers, R bootstrap replicates, G places of a grid of false-positive rates, J thresholds.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.stats import CONFIDENCE, Floats, Interval
from hilum.judgement.stats.resampling import times_drawn
from hilum.progress import track

GRID: Final = np.linspace(0.0, 1.0, 101)
BLOCK: Final = 200  # replicates at once
BINS: Final = 10
PER_BIN: Final = 20  # answers that a bin needs: with fewer, the observed share says nothing


@dataclass(frozen=True)
class Roc:
    """A ROC curve with a pointwise 95% band.

    Attributes:
        tpr_G: True-positive rate at each false-positive rate of GRID.
        low_G: Lower end of the band.
        high_G: Upper end.
    """

    tpr_G: Floats
    low_G: Floats
    high_G: Floats


@dataclass(frozen=True)
class Bin:
    """Answers of about the same predicted probability.

    Attributes:
        predicted: Their mean probability.
        observed: The share that has the finding.
    """

    predicted: float
    observed: Interval


def roc(truth_N: NDArray[Any], score_N: NDArray[Any], patients: NDArray[Any], replicates: int, seed: int) -> Roc:
    """ROC by vertical averaging (Fawcett 2006, section 7.3) over patient-bootstrap replicates.

    The band is pointwise: at each false-positive rate, the middle 95% of what the replicates reach.

    Args:
        truth_N: 1 or 0; both must be there.
        score_N: Higher for the finding.
        patients: Whose answer it is.
        replicates: Resamples of patients.
        seed: Of these.
    """
    truth_N, score_N = np.asarray(truth_N, dtype=float), np.asarray(score_N, dtype=float)
    codes = np.unique(np.asarray(patients), return_inverse=True)[1]
    n_patients = int(codes.max()) + 1
    random = np.random.default_rng(seed)
    drawn = []
    for start in track(range(0, replicates, BLOCK), "ROC", unit="block"):
        many = min(BLOCK, replicates - start)
        drawn.append(at_grid(times_drawn(random, many, n_patients)[:, codes].astype(float), truth_N, score_N))
    tpr_RG = np.concatenate(drawn)
    low_G, high_G = np.nanquantile(tpr_RG, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    whole_G = at_grid(np.ones((1, len(truth_N))), truth_N, score_N)[0]
    return Roc(whole_G, low_G, high_G)


def at_grid(w_RN: Floats, truth_N: Floats, score_N: Floats) -> Floats:
    """True-positive rate of weighted answers at each false-positive rate of GRID, (R, G); NaN where a class is absent.

    Between thresholds the curve is a straight line, as for tied scores; of a vertical rise, the upper end counts.
    """
    order = np.argsort(-score_N, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score_N[order]) != 0])
    w_RN = w_RN[:, order]
    positive_RJ, negative_RJ = (
        np.cumsum(np.add.reduceat(w_RN * (truth_N[order] == kind), starts, axis=1), axis=1) for kind in (1, 0)
    )
    tpr_RG = np.full((len(w_RN), len(GRID)), np.nan)
    for replicate in np.flatnonzero((positive_RJ[:, -1] > 0) & (negative_RJ[:, -1] > 0)):
        fpr_J, tpr_J = (
            np.r_[0.0, counted[replicate] / counted[replicate, -1]] for counted in (negative_RJ, positive_RJ)
        )
        at_G = np.searchsorted(fpr_J, GRID, side="right") - 1  # the upper end of a rise that lies on the grid
        next_G = np.minimum(at_G + 1, len(fpr_J) - 1)
        width_G = fpr_J[next_G] - fpr_J[at_G]
        share_G = np.divide(GRID - fpr_J[at_G], width_G, out=np.zeros(len(GRID)), where=width_G > 0)
        tpr_RG[replicate] = tpr_J[at_G] + share_G * (tpr_J[next_G] - tpr_J[at_G])
    return tpr_RG


def calibration(truth_N: NDArray[Any], probability_N: NDArray[Any], patients: NDArray[Any]) -> list[Bin]:
    """Observed shares in bins of equal mass: BINS of them, fewer where there are not PER_BIN answers for each.

    Equal probabilities stay in one bin. The share's interval is Wilson's, its n reduced where patients have several
    images (hilum.judgement.stats.proportion).
    """
    probability_N = np.asarray(probability_N, dtype=float)
    truth_N, patients = np.asarray(truth_N, dtype=float), np.asarray(patients)
    n = len(probability_N)
    count = int(np.clip(n // PER_BIN, 1, BINS))
    below_N = np.searchsorted(np.sort(probability_N), probability_N, side="left")
    upto_N = np.searchsorted(np.sort(probability_N), probability_N, side="right")
    bin_N = np.minimum((below_N + upto_N) * count // (2 * n), count - 1)  # by the middle of each tie
    found = []
    for number in np.unique(bin_N):
        of = bin_N == number
        found.append(Bin(float(probability_N[of].mean()), stats.proportion(truth_N[of] == 1, patients[of])))
    return found

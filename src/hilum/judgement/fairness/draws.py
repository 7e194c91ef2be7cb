"""Every metric of every group, on the rows themselves and in every resample of patients, all groups resampled together.

Shared resamples keep what groups have in common: a patient with films of two views is drawn, or not, for both, and the
difference of two groups is resampled as one number.

Legend: N images, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.stats.metrics import ratio

Floats = NDArray[np.float64]

RATES: Final = ("tpr", "fpr", "ppv", "selection_rate")
METRICS: Final = ("auroc", "auprc", "balanced_accuracy", *RATES, "ece", "brier")
_SCORES: Final = {
    "auroc": stats.weighted_auroc,
    "auprc": stats.weighted_auprc,
    "ece": stats.weighted_binned_ece,
    "brier": stats.weighted_brier,
}


@dataclass(frozen=True)
class Cases:
    """Images with their truth, score and decision.

    Attributes:
        truth_N: 1 present, 0 absent.
        probability_N: Of presence.
        decided_N: 1 called present, 0 called absent; between, the probability of the call where decisions are drawn.
        patient_N: Number of each image's patient, from 0.
    """

    truth_N: Floats
    probability_N: Floats
    decided_N: Floats
    patient_N: NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """Values of one group.

    Attributes:
        value: Each metric on the rows themselves; NaN where undefined.
        drawn: Each metric in each resample, (R,).
        centre: Of a rate: its value with one hit and one miss added, each of a made-up patient (Agresti & Caffo 2000,
            The American Statistician 54, 280-288). It keeps the spread of a rate of 0 or 1 from being nil.
        smoothed: Of a rate: that value in each resample, the made-up patients resampled too, (R,).
        n_patients: How many patients each metric rests on: of the rarer class for AUROC and AUPRC.
        chance: The calibration error that a perfectly calibrated score shows on average on these rows.
    """

    value: dict[str, float]
    drawn: dict[str, Floats]
    centre: dict[str, float]
    smoothed: dict[str, Floats]
    n_patients: dict[str, int]
    chance: float


def draw(cases: Cases, groups: Mapping[str, NDArray[np.int64]], replicates: int, seed: int) -> dict[str, Drawn]:
    """Every metric of every group, on the resamples of `stats.grouped_bootstraps`.

    Args:
        cases: All images; their patients are what is resampled.
        groups: Rows of each group, by a name of its own; each has both classes.
        replicates: How many resamples.
        seed: Same patients, same seed: same resamples, whatever the groups.
    """
    y_N, p_N, d_N = cases.truth_N, cases.probability_N, cases.decided_N
    # Counts and not rates: a rate is one over another, and is smoothed by what is added to either.
    counted = {"n": np.ones(len(y_N)), "positive": y_N, "called": d_N, "caught": y_N * d_N}
    asked: dict[str, stats.Asked] = {name: (stats.weighted_sum, [of_N]) for name, of_N in counted.items()}
    asked |= {name: (statistic, [y_N, p_N]) for name, statistic in _SCORES.items()}
    found = stats.grouped_bootstraps(asked, cases.patient_N, groups, replicates, seed)
    answers = {}
    for name, rows in groups.items():
        exact = {metric: one.value_G[one.groups.index(name)][None] for metric, one in found.items()}
        drawn = {metric: one.replicates(name) for metric, one in found.items()}
        n_patients = _patients(cases, rows)
        centre, smoothed = {}, {}
        for rate, (hits, trials) in _counts(exact).items():
            made_up = crc32(f"{seed}/{name}/{rate}".encode())
            size = float(trials[0]) / max(1, n_patients[rate]) or 1.0  # a made-up patient has as many images as others
            centre[rate] = (float(hits[0]) + size) / (float(trials[0]) + 2 * size)
            smoothed[rate] = _smoothed(*_counts(drawn)[rate], size, made_up)
        chance = stats.calibrated_ece(p_N[rows], crc32(f"{seed}/{name}/chance".encode()))
        value = {metric: float(of[0]) for metric, of in _metrics(exact).items()}
        answers[name] = Drawn(value, _metrics(drawn), centre, smoothed, n_patients, chance)
    return answers


def _counts(sums: Mapping[str, Floats]) -> dict[str, tuple[Floats, Floats]]:
    """Hits and trials of each of RATES."""
    n, positive, called, caught = (sums[name] for name in ("n", "positive", "called", "caught"))
    return {
        "tpr": (caught, positive),
        "fpr": (called - caught, n - positive),
        "ppv": (caught, called),
        "selection_rate": (called, n),
    }


def _metrics(sums: Mapping[str, Floats]) -> dict[str, Floats]:
    """Each of METRICS, of the sums and scores of any number of resamples."""
    found = {rate: ratio(hits, trials) for rate, (hits, trials) in _counts(sums).items()}
    found["balanced_accuracy"] = (found["tpr"] + 1 - found["fpr"]) / 2
    found |= {name: sums[name] for name in _SCORES}
    return {metric: found[metric] for metric in METRICS}


def _smoothed(hits_R: Floats, trials_R: Floats, size: float, seed: int) -> Floats:
    """A rate with a hit and a miss of made-up patients added, who are resampled as the others are."""
    hit_R, miss_R = size * np.random.default_rng(seed).poisson(1.0, size=(2, len(hits_R)))
    return ratio(hits_R + hit_R, trials_R + hit_R + miss_R)


def _patients(cases: Cases, rows: NDArray[np.int64]) -> dict[str, int]:
    """How many patients each metric of a group rests on."""
    y_N, d_N, patient_N = cases.truth_N[rows], cases.decided_N[rows], cases.patient_N[rows]
    everybody, positive, negative, called = (
        len(np.unique(patient_N[of])) for of in (np.isfinite(y_N), y_N == 1, y_N == 0, d_N > 0)
    )
    rarer = min(positive, negative)
    return {
        "auroc": rarer, "auprc": rarer, "balanced_accuracy": rarer, "tpr": positive, "fpr": negative, "ppv": called,
        "selection_rate": everybody, "ece": everybody, "brier": everybody,
    }  # fmt: skip

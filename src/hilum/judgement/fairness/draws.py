"""Every metric of every group, on the rows themselves and in every resample of patients, all groups resampled together.

Shared resamples keep what groups have in common: a patient with films of two views is drawn, or not, for both, and the
difference of two groups is resampled as one number. A patient's films enter as sums wherever a metric is made of sums,
so that a thousand resamples of 200,000 images are a few matrix products; AUROC and AUPRC are exact, with ties.

Legend: N images, P patients, R resamples (r at once), L groups, M metrics, K patients of one group, C sums.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from hilum.judgement.probing.calibration import ROWS_PER_BIN
from hilum.judgement.stats import CALIBRATION_BINS
from hilum.judgement.stats.resampling import times_drawn
from hilum.progress import bar

Floats = NDArray[np.float64]
Counts = NDArray[np.float32]  # whole numbers below 2**24, so exact

BLOCK: Final = 8_000_000  # weights held at once (32 MB)
RATES: Final = ("tpr", "fpr", "ppv", "selection_rate")
METRICS: Final = ("auroc", "auprc", "balanced_accuracy", *RATES, "ece", "brier")


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
        chance: The calibration error that a perfectly calibrated score shows on rows as few as these.
    """

    value: dict[str, float]
    drawn: dict[str, Floats]
    centre: dict[str, float]
    smoothed: dict[str, Floats]
    n_patients: dict[str, int]
    chance: float


def weights(n_patients: int, replicates: int, seed: int, rows: int) -> Iterator[Counts]:
    """How often each patient is drawn, in blocks of shape (P, r): the draws of `stats.patient_bootstrap`."""
    random = np.random.default_rng(seed)
    step = int(max(1, min(256, BLOCK // max(rows, 1))))
    for start in range(0, replicates, step):
        yield np.ascontiguousarray(times_drawn(random, min(step, replicates - start), n_patients).T, dtype=np.float32)


def draw(cases: Cases, groups: Mapping[str, NDArray[np.int64]], replicates: int, seed: int) -> dict[str, Drawn]:
    """Every metric of every group.

    Args:
        cases: All images; their patients are what is resampled.
        groups: Rows of each group, by a name of its own; each has both classes.
        replicates: How many resamples.
        seed: Same patients, same seed: same resamples, whatever the groups.
    """
    plans = [_Plan(cases, rows) for rows in groups.values()]
    n_patients = int(cases.patient_N.max()) + 1 if len(cases.patient_N) else 0
    kept: list[list[dict[str, Floats]]] = [[] for _ in plans]
    with bar("resampling patients", replicates, "resample") as shown:
        largest = max((len(rows) for rows in groups.values()), default=1)
        for w_Pr in weights(n_patients, replicates, seed, max(largest, n_patients)) if plans else ():
            for plan, found in zip(plans, kept, strict=True):
                found.append(plan.metrics(w_Pr))
            shown.update(w_Pr.shape[1])
    answers = {}
    ones_P1 = np.ones((n_patients, 1))
    for (name, plan), found in zip(zip(groups, plans, strict=True), kept, strict=True):
        exact = {key: float(of[0]) for key, of in plan.metrics(ones_P1).items()}
        drawn = {key: np.concatenate([block[key] for block in found]) for key in found[0]} if found else {}
        centre, smoothed = {}, {}
        for rate in RATES:
            centre[rate], smoothed[rate] = plan.smooth(rate, exact, drawn, crc32(f"{seed}/{name}/{rate}".encode()))
        answers[name] = Drawn(
            {metric: exact[metric] for metric in METRICS},
            {metric: drawn[metric] for metric in METRICS},
            centre,
            smoothed,
            plan.n_patients,
            plan.chance,
        )
    return answers


class _Plan:
    """One group, laid out so that a block of resamples is a few array operations."""

    def __init__(self, cases: Cases, rows: NDArray[np.int64]) -> None:
        y, p, d = (array[rows] for array in (cases.truth_N, cases.probability_N, cases.decided_N))
        patient = cases.patient_N[rows]
        self.patients_K, place = np.unique(patient, return_inverse=True)
        bins = _bins(p)
        residual_BN = [np.where(bins == b, p - y, 0.0) for b in range(int(bins.max(initial=-1)) + 1)]
        sums = [np.ones(len(y)), y, d, y * d, (p - y) ** 2, *residual_BN]
        self.sums_CK = np.stack([np.bincount(place, column, len(self.patients_K)) for column in sums])
        self._sums_32 = self.sums_CK.astype(np.float32)
        positive, negative = (
            rows[np.argsort(p[rows], kind="stable")] for rows in map(np.flatnonzero, (y == 1, y == 0))
        )
        self.below = np.searchsorted(p[negative], p[positive], side="left")  # negatives below each positive
        self.at_most = np.searchsorted(p[negative], p[positive], side="right")
        self.positive_below = np.searchsorted(p[positive], p[positive], side="left")
        self.positive, self.negative = patient[positive], patient[negative]  # patients of images, by score
        n_positive, n_negative = len(np.unique(self.positive)), len(np.unique(self.negative))
        rarer = min(n_positive, n_negative)
        everybody = len(self.patients_K)
        self.n_patients = {
            "auroc": rarer, "auprc": rarer, "balanced_accuracy": rarer, "tpr": n_positive, "fpr": n_negative,
            "ppv": len(np.unique(patient[d > 0])), "selection_rate": everybody, "ece": everybody, "brier": everybody,
        }  # fmt: skip
        spread_B = [np.sqrt((p * (1 - p))[bins == b].sum()) for b in range(len(residual_BN))]
        # The mean of |x| for a normal x is its standard deviation times sqrt(2 / pi).
        self.chance = float(np.sqrt(2 / np.pi) * np.sum(spread_B) / len(y)) if spread_B else float("nan")

    def metrics(self, w_Pr: NDArray[Any]) -> dict[str, Floats]:
        """METRICS for each column of weights, (r,); also hits and trials of each rate, as `n_tpr` and `n_tpr_of`."""
        sums_CK = self._sums_32 if w_Pr.dtype == np.float32 else self.sums_CK
        n, positive, called, true_positive, squared, *residual_B = np.asarray(
            sums_CK @ w_Pr[self.patients_K], dtype=float
        )
        of = {
            "tpr": (true_positive, positive),
            "fpr": (called - true_positive, n - positive),
            "ppv": (true_positive, called),
            "selection_rate": (called, n),
        }
        found = {rate: _ratio(*counts) for rate, counts in of.items()}
        found["balanced_accuracy"] = (found["tpr"] + 1 - found["fpr"]) / 2
        found["brier"] = _ratio(squared, n)
        found["ece"] = _ratio(np.abs(residual_B).sum(axis=0), n) if residual_B else np.full(len(n), np.nan)
        found["auroc"], found["auprc"] = self._ranked(w_Pr)
        for rate, (hits, trials) in of.items():
            found[f"n_{rate}"], found[f"n_{rate}_of"] = hits, trials
        return found

    def _ranked(self, w_Pr: NDArray[Any]) -> tuple[Floats, Floats]:
        """AUROC (ties count half) and average precision (equal scores enter together), (r,)."""
        pos, neg = w_Pr[self.positive], w_Pr[self.negative]
        negatives, positives = _running(neg), _running(pos)
        n_pos, n_neg = positives[-1], negatives[-1]
        below, up_to = negatives[self.below], negatives[self.at_most]
        wins = (pos * (below + up_to)).sum(axis=0, dtype=float) / 2
        caught = n_pos - positives[self.positive_below]  # positives, and all, that score at least as high
        called = caught + (n_neg - below)
        precision = np.divide(caught, called, out=np.zeros_like(called), where=called > 0)
        return _ratio(wins, np.asarray(n_pos, float) * n_neg), _ratio((pos * precision).sum(axis=0, dtype=float), n_pos)

    def smooth(self, rate: str, exact: dict[str, float], drawn: dict[str, Floats], seed: int) -> tuple[float, Floats]:
        """A rate with a hit and a miss of made-up patients added, on the rows and in each resample."""
        hits, trials = exact[f"n_{rate}"], exact[f"n_{rate}_of"]
        size = trials / max(1, self.n_patients[rate]) or 1.0  # a made-up patient has as many images as a real one
        hit, miss = size * np.random.default_rng(seed).poisson(1.0, size=(2, len(drawn[rate])))
        above, below = drawn[f"n_{rate}"] + hit, drawn[f"n_{rate}_of"] + hit + miss
        return (hits + size) / (trials + 2 * size), _ratio(above, below)


def _bins(p_N: Floats) -> NDArray[np.int64]:
    """The calibration bin of each row, of equal mass, by the rule of `stats.weighted_ece`; -1 where rows are too few.

    Bins stay as they are in every resample: an edge moves little, and a bin's sum is then one over patients.
    """
    count = min(CALIBRATION_BINS, len(p_N) // ROWS_PER_BIN)
    if not count:
        return np.full(len(p_N), -1)
    _, value_N, mass = np.unique(p_N, return_inverse=True, return_counts=True)
    middle = np.cumsum(mass) - mass / 2  # equal scores stay together, where the middle of them falls
    return np.asarray(np.minimum(count * middle // len(p_N), count - 1).astype(np.int64)[value_N])


def _running(w_Kr: NDArray[Any]) -> NDArray[Any]:
    """Running sums down the rows, beginning with zero: (K + 1, r)."""
    total = np.zeros((len(w_Kr) + 1, w_Kr.shape[1]), dtype=w_Kr.dtype)
    np.cumsum(w_Kr, axis=0, out=total[1:])
    return total


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    below = np.asarray(below, dtype=float)
    ratio: Floats = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return ratio

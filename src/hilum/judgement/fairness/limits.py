"""How far groups lie apart, and what chance alone would make of it.

The largest of several differences is large by chance alone, and the more so the more groups there are and the smaller
the smallest. So every pair of groups is held to one limit that the resamples give for all pairs at once: a pair's
difference counts only beyond c standard errors of that very pair, where c is the value that the largest of all pairs'
errors, each over its own standard error, stays below in 95 of 100 resamples (Tukey and Kramer's comparison of means
made by bootstrap; single-step max-T of Westfall & Young 1993, section 2.5; Romano & Wolf 2005). A gap's interval runs
from the largest lower to the largest upper limit of any pair, so it holds the true gap at least 95 times in 100,
whatever the number of groups, and begins above zero just where the p-value is below 0.05.

Small groups get two allowances: Student's quantile for as many patients as they have, and, since few patients who
agree seem to leave no doubt, a made-up hit and miss for rates (Agresti & Caffo 2000, see `draws`) and likewise for the
AUROC.

Legend: G groups of one attribute, Q pairs of them, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr
from scipy.stats import t as student

from hilum.judgement.fairness.draws import RATES, Drawn
from hilum.judgement.stats import CONFIDENCE, MIN_DEFINED_SHARE, Z_95

Floats = NDArray[np.float64]

LEAST_P: Final = 1e-6  # nobody knows a tail further out than that
TAIL_DRAWS: Final = 10  # with fewer resamples beyond it, a p-value is read from the normal tail


@dataclass(frozen=True)
class Side:
    """One metric of the groups of one attribute.

    Attributes:
        value_G: What is reported.
        centre_G: What the resamples scatter about.
        drawn_RG: The resamples.
        wider_G: By how much a group's errors are widened for its small number of patients.
        other_G: A second reading of the same values, with their bias by group size taken off; a pair differs only
            where both readings say so. Equal to `centre_G` where there is no such bias.
    """

    value_G: Floats
    centre_G: Floats
    drawn_RG: Floats
    wider_G: Floats
    other_G: Floats


@dataclass(frozen=True)
class Bound:
    """A gap with its interval, and the chance of one at least as large where groups are alike; NaN where unknown."""

    value: float
    low: float
    high: float
    p: float


def side(groups: Sequence[Drawn], metric: str, log: bool = False) -> Side:
    """One metric of some groups.

    Args:
        groups: What `draws.draw` found of each.
        metric: One of `draws.METRICS`.
        log: Take logarithms, for ratios.
    """
    rate = metric in RATES
    value = np.array([one.value[metric] for one in groups])
    centre = np.array([one.centre[metric] for one in groups]) if rate else value
    drawn = np.stack([one.smoothed[metric] if rate else one.drawn[metric] for one in groups], axis=1)
    chance = np.array([one.chance for one in groups]) if metric == "ece" else 0.0
    n_patients = [one.n_patients[metric] for one in groups]
    wider = widening(n_patients) * (_near_one(value, n_patients) if metric == "auroc" else 1.0)
    if log:
        with np.errstate(divide="ignore"):
            value, centre, drawn = np.log(value), np.log(centre), np.log(drawn)
    return Side(value, centre, drawn, wider, centre - chance)


def widening(n_patients: Sequence[int]) -> Floats:
    """Student's 97.5% quantile over the normal one, and n/(n-1) for the variance, for this many patients."""
    n_G = np.maximum(np.asarray(n_patients, dtype=float), 2.0)
    return np.asarray(student.ppf((1 + CONFIDENCE) / 2, n_G - 1) / Z_95 * np.sqrt(n_G / (n_G - 1)))


def _near_one(auroc_G: Floats, n_patients: Sequence[int]) -> Floats:
    """How much wider an AUROC's errors are than they look where few patients put it near 1.

    The resamples of a few patients who happen to be ranked well all look well ranked. As for a rate, one concordant and
    one discordant pair are added, and the standard error of Hanley & McNeil (1982, Radiology 143, 29-36) is taken of
    that value over the one of the value itself.
    """
    n_G = np.maximum(np.asarray(n_patients, dtype=float), 2.0)

    def variance(a_G: Floats) -> Floats:
        q1_G, q2_G = a_G / (2 - a_G), 2 * a_G**2 / (1 + a_G)
        return np.asarray(a_G * (1 - a_G) + (n_G - 1) * (q1_G + q2_G - 2 * a_G**2))

    a_G = np.maximum(auroc_G, 1 - auroc_G)
    plain_G, added_G = variance(a_G), variance((a_G * n_G + 1) / (n_G + 2))
    ratio_G: Floats = np.sqrt(np.divide(added_G, plain_G, out=np.ones_like(n_G), where=plain_G > 1e-12))
    return ratio_G


def difference(sides: Sequence[Side]) -> Bound:
    """The largest difference between any two groups in any of the metrics, with its interval and p-value."""
    limits = _limits(sides)
    value = float(max(_range(one.value_G) for one in sides))
    if limits is None:
        return Bound(value, np.nan, np.nan, np.nan)
    low = max(0.0, float(np.max(limits.least_Q - limits.c * limits.error_Q)))
    high = float(np.max(limits.most_Q + limits.c * limits.error_Q))
    return Bound(value, min(low, value), max(high, value), limits.p)


def mean_difference(sides: Sequence[Side]) -> Bound:
    """The mean over metrics of each one's largest difference; its interval holds for all metrics at once."""
    limits = _limits(sides)
    value = float(np.mean([_range(one.value_G) for one in sides]))
    if limits is None:
        return Bound(value, np.nan, np.nan, np.nan)
    low, high = 0.0, 0.0
    for metric in range(len(sides)):
        mine = limits.metric_Q == metric
        if not mine.any():
            return Bound(value, np.nan, np.nan, np.nan)
        error = limits.c * limits.error_Q[mine]
        low += max(0.0, float(np.max(limits.least_Q[mine] - error))) / len(sides)
        high += float(np.max(limits.most_Q[mine] + error)) / len(sides)
    return Bound(value, min(low, value), max(high, value), limits.p)


def lowest(one: Side) -> Bound:
    """The lowest value of any group; the bounds hold for all groups at once, so that the choice is paid for."""
    error_RG = one.drawn_RG - one.centre_G
    error_RG = error_RG[np.isfinite(error_RG).all(axis=1)]
    value = float(one.value_G.min())
    if len(error_RG) < MIN_DEFINED_SHARE * len(one.drawn_RG):
        return Bound(value, np.nan, np.nan, np.nan)
    spread_G = error_RG.std(axis=0)
    known = spread_G > 0
    if not known.all():
        return Bound(value, np.nan, np.nan, np.nan)
    c = _limit(np.abs(error_RG / spread_G).max(axis=1))
    error_G = c * spread_G * one.wider_G
    low, high = float((one.centre_G - error_G).min()), float((one.centre_G + error_G).min())
    return Bound(value, min(low, value), max(high, value), np.nan)


def to_median(one: Side) -> list[Bound]:
    """How far each group lies from the median group; from the other group where there are two. Bounds hold for all.

    CheXclusion's disparity (Seyyed-Kalantari et al. 2021, Pacific Symposium on Biocomputing 26, section 3.4).
    """

    def apart(values: Floats) -> Floats:
        if values.shape[-1] == 2:
            return np.asarray(values - values[..., ::-1])
        return np.asarray(values - np.median(values, axis=-1, keepdims=True))

    value_G, centre_G = apart(one.value_G), apart(one.centre_G)
    error_RG = apart(one.drawn_RG) - centre_G
    error_RG = error_RG[np.isfinite(error_RG).all(axis=1)]
    if len(error_RG) < MIN_DEFINED_SHARE * len(one.drawn_RG):
        return [Bound(float(value), np.nan, np.nan, np.nan) for value in value_G]
    spread_G = np.sqrt(np.mean(error_RG**2, axis=0))  # a median's errors need not be centred
    over_RG = np.divide(np.abs(error_RG), spread_G, out=np.zeros_like(error_RG), where=spread_G > 0)
    c = _limit(over_RG.max(axis=1))
    wide_G = c * spread_G * one.wider_G.max()
    answer = []
    for value, centre, wide in zip(value_G, centre_G, wide_G, strict=True):
        low, high = (
            (max(-1.0, min(value, centre - wide)), min(1.0, max(value, centre + wide))) if wide > 0 else (np.nan,) * 2
        )
        answer.append(Bound(float(value), float(low), float(high), np.nan))
    return answer


def _range(value_G: Floats) -> float:
    """NaN where every value is the logarithm of zero."""
    with np.errstate(invalid="ignore"):
        return float(np.ptp(value_G))


@dataclass(frozen=True)
class _Limits:
    least_Q: Floats  # the smaller reading of each pair's difference, >= 0
    most_Q: Floats
    error_Q: Floats  # its standard error
    metric_Q: NDArray[np.int64]
    c: float  # standard errors within which all pairs' errors lie, 95 times in 100
    p: float


def _limits(sides: Sequence[Side]) -> _Limits | None:
    """All pairs in all metrics; None where the resamples give no measure of chance."""
    whole_R = np.all([np.isfinite(one.drawn_RG).all(axis=1) for one in sides], axis=0)
    finite = all(np.isfinite(one.centre_G).all() for one in sides)
    if not finite or whole_R.sum() < MIN_DEFINED_SHARE * len(whole_R):
        return None
    least, most, errors, metrics = [], [], [], []
    largest_R = np.zeros(int(whole_R.sum()))
    observed = 0.0
    for metric, one in enumerate(sides):
        error_RG = one.drawn_RG[whole_R] - one.centre_G
        wide_RG = error_RG * one.wider_G
        for a, b in combinations(range(len(one.centre_G)), 2):
            error_R = error_RG[:, a] - error_RG[:, b]
            spread = float(error_R.std())
            if spread < 1e-12:
                continue  # all resamples agree: nothing can be said of this pair
            readings = [float(values[a] - values[b]) for values in (one.centre_G, one.other_G)]
            least.append(min(map(abs, readings)) if readings[0] * readings[1] > 0 else 0.0)
            most.append(max(map(abs, readings)))
            errors.append(float((wide_RG[:, a] - wide_RG[:, b]).std()))
            metrics.append(metric)
            np.maximum(largest_R, np.abs(error_R) / spread, out=largest_R)
            observed = max(observed, least[-1] / errors[-1])
    if not errors:
        return None
    c = _limit(largest_R)
    return _Limits(
        np.array(least), np.array(most), np.array(errors), np.array(metrics), c, _chance(observed, largest_R)
    )


def _limit(largest_R: Floats) -> float:
    """What all errors stay below, 95 times in 100: beyond it just where `_chance` is at most 0.05."""
    beyond = int((1 - CONFIDENCE) * (len(largest_R) + 1) + 1e-9)
    return float(np.sort(largest_R)[-max(1, beyond)])


def _chance(observed: float, largest_R: Floats) -> float:
    """The share of resamples that reach `observed`, with the observation itself as one of them.

    Where fewer than TAIL_DRAWS do, the share is too coarse to be corrected for many gaps; there the normal tail goes on
    from the value that TAIL_DRAWS resamples reach.
    """
    reached, drawn = int((largest_R >= observed).sum()), len(largest_R)
    if reached >= TAIL_DRAWS or drawn < 2 * TAIL_DRAWS:
        return (1 + reached) / (drawn + 1)
    start = float(np.sort(largest_R)[-TAIL_DRAWS])
    tail = float(np.exp(log_ndtr(-observed) - log_ndtr(-start)))
    return max(LEAST_P, TAIL_DRAWS / (drawn + 1) * tail)

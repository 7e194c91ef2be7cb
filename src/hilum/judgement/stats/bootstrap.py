"""The bootstrap that resamples patients, each with all its rows, for one score or for many groups at once.

Legend: N rows, P patients, R replicates, G groups, J sets of patients that the jackknife leaves out. Films of one
patient are not independent; resampling them one by one would make intervals too narrow.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hilum.judgement.stats import resampling
from hilum.judgement.stats.intervals import (
    CONFIDENCE,
    Difference,
    Floats,
    Interval,
    undefined,
    undefined_difference,
)
from hilum.judgement.stats.kernels import Asked, kernels
from hilum.judgement.stats.metrics import Statistic
from hilum.progress import bar

Method = Literal["percentile", "bca"]
G = TypeVar("G", bound=Hashable)

CHUNK_ELEMENTS: Final = 2_000_000  # replicates x rows held at once: 16 MB per array, so memory does not grow with R
MIN_DEFINED_SHARE: Final = 0.5  # where fewer replicates are defined, their percentiles describe a lucky subset
SHOWN_ELEMENTS: Final = 200_000_000  # replicates x rows from which on a bar is drawn: about a second


@dataclass(frozen=True)
class Grouped(Generic[G]):
    """One metric in every group, on the same resamples of patients.

    A patient drawn twice counts twice in every group that has a row of it, so that differences between groups are
    differences of replicates.

    Attributes:
        groups: The groups' names, in the order of the columns.
        value_G: The metric on all rows of each group; NaN where undefined.
        drawn_RG: Its replicates.
        n_G: Rows of each group.
        n_patients_G: Their patients.
        method: Of the intervals.
        jackknife_JG: The metric with each set of patients left out; no rows for the percentile method.
        touched_JG: Whether the set has a patient of the group.
    """

    groups: tuple[G, ...]
    value_G: Floats
    drawn_RG: Floats
    n_G: NDArray[np.int64]
    n_patients_G: NDArray[np.int64]
    method: Method
    jackknife_JG: Floats
    touched_JG: NDArray[np.bool_]

    def replicates(self, group: G) -> Floats:
        """The replicates of a group, (R,); a single NaN where nobody was resampled, for want of a second patient."""
        return self.drawn_RG[:, self.groups.index(group)] if len(self.drawn_RG) else np.full(1, math.nan)

    def interval(self, group: G) -> Interval:
        """The metric of a group with its interval."""
        g = self.groups.index(group)
        n, n_patients = int(self.n_G[g]), int(self.n_patients_G[g])
        if n == 0:
            return undefined("insufficient data: no rows")
        jackknife = self.jackknife_JG[self.touched_JG[:, g], g]
        return _interval(float(self.value_G[g]), self.drawn_RG[:, g], n, n_patients, self.method, jackknife)

    def difference(self, ours: G, theirs: G) -> Difference:
        """The metric of one group minus that of another, paired by resample; p by `two_sided`."""
        a, b = self.groups.index(ours), self.groups.index(theirs)
        n, n_patients = int(self.n_G[a] + self.n_G[b]), int(self.n_patients_G[a] + self.n_patients_G[b])
        drawn = self.drawn_RG[:, a] - self.drawn_RG[:, b]
        touched = self.touched_JG[:, a] | self.touched_JG[:, b]
        jackknife = (self.jackknife_JG[:, a] - self.jackknife_JG[:, b])[touched]
        found = _interval(float(self.value_G[a] - self.value_G[b]), drawn, n, n_patients, self.method, jackknife)
        p = resampling.two_sided(drawn) if found.bounded else math.nan
        return Difference(**vars(found), p=p)

    def gap(self, largest: float = math.inf) -> Difference:
        """The largest difference between the groups that are defined, (highest minus lowest).

        Chance alone parts groups, and the more so the more there are, so the replicates' own percentiles lie above
        the truth. The interval is value +- q, cut at 0 and `largest`; q is the 95% quantile, over the resamples, of
        the largest difference between the groups' deviations from their own values. The estimated range departs from
        the true one by no more than the range of the errors (the step of Tukey's studentised range), so this holds
        for any number of groups and errs on the wide side. p is the share of resamples whose range of errors reaches
        the value: the chance of such a gap where all groups are alike, corrected for how many there are.

        Args:
            largest: The largest difference that the metric allows; 1 for a rate or an AUROC.
        """
        defined = np.flatnonzero(np.isfinite(self.value_G))
        n, n_patients = int(self.n_G[defined].sum()), int(self.n_patients_G[defined].sum())
        if len(defined) < 2:
            return undefined_difference("insufficient data: fewer than two groups are defined", n, n_patients)
        value_G = self.value_G[defined]
        value = float(value_G.max() - value_G.min())
        errors_R = np.ptp(self.drawn_RG[:, defined] - value_G, axis=1)
        errors = errors_R[np.isfinite(errors_R)]
        n_dropped = len(errors_R) - len(errors)
        if len(errors) < max(1.0, MIN_DEFINED_SHARE * len(errors_R)):
            note = f"no interval: undefined in {n_dropped} of {len(errors_R)} resamples"
            return Difference(value, math.nan, math.nan, n, n_patients, n_dropped, note)
        half = float(np.quantile(errors, CONFIDENCE))
        if half == 0:
            return Difference(value, math.nan, math.nan, n, n_patients, n_dropped, "no interval: all resamples agree")
        p = (1 + int((errors >= value).sum())) / (1 + len(errors))
        return Difference(value, max(0.0, value - half), min(largest, value + half), n, n_patients, n_dropped, p=p)


def patient_bootstrap(
    statistic: Statistic,
    patients: ArrayLike,
    replicates: int,
    seed: int,
    *arrays: NDArray[Any],
    method: Method = "percentile",
) -> Interval:
    """A score with the interval of a bootstrap that resamples patients (Davison & Hinkley 1997, section 3.8).

    Paired comparisons come for free: a statistic that subtracts two scores of the same rows is resampled as one.

    Args:
        statistic: `statistic(w_RN, *arrays) -> (R,)`; NaN where it is undefined for a replicate.
        patients: One id per row. The order of rows does not matter.
        replicates: How many resamples; for BCa at least 2,000, since its bounds lie further out than percentiles.
        seed: Same seed, same patients, same resamples, whatever the statistic.
        arrays: Of length N along the first axis.
        method: `percentile`, or `bca` (bias-corrected and accelerated, Efron 1987), which leaves each patient out once
            more, and with some tens of patients holds the truth more often. Where BCa is undefined, the percentile
            interval stands in for it and the note says so.
    """
    codes, known = pd.factorize(np.asarray(patients), sort=True)
    rows = {"all": np.arange(len(codes))}
    [found] = _resampled([(statistic, arrays)], codes, len(known), rows, replicates, seed, method)
    return found.interval("all")


def grouped_bootstrap(
    statistic: Statistic,
    patients: ArrayLike,
    groups: Mapping[G, NDArray[Any]],
    replicates: int,
    seed: int,
    *arrays: NDArray[Any],
    method: Method = "percentile",
) -> Grouped[G]:
    """A score in every group, on resamples of patients that all groups share.

    All patients are drawn from, those without a row in a group too, so how many patients of a group a resample has
    varies as it would in another cohort. The draws are those of `patient_bootstrap` over all rows; they depend on the
    patients and the seed, so several metrics of the same groups are resampled alike.

    Args:
        statistic: As for `patient_bootstrap`; the `weighted_` metrics of this package are quick.
        patients: One id per row, of all rows.
        groups: By name the rows of each group, as numbers or as a mask over all rows; groups may overlap.
        replicates: How many resamples.
        seed: Same seed, same patients, same resamples.
        arrays: Of all rows, of length N along the first axis.
        method: Of the intervals.
    """
    return grouped_bootstraps({"": (statistic, arrays)}, patients, groups, replicates, seed, method)[""]


def grouped_bootstraps(
    asked: Mapping[str, Asked],
    patients: ArrayLike,
    groups: Mapping[G, NDArray[Any]],
    replicates: int,
    seed: int,
    method: Method = "percentile",
) -> dict[str, Grouped[G]]:
    """Several scores in every group: those that `grouped_bootstrap` gives one by one, with the patients drawn once.

    Args:
        asked: By name a metric, and the arrays that it takes after the weights, of all rows.
        patients: As for `grouped_bootstrap`, as are the others.
        groups: Rows of each group.
        replicates: How many resamples.
        seed: Same seed, same patients, same resamples.
        method: Of the intervals.
    """
    codes, known = pd.factorize(np.asarray(patients), sort=True)
    numbers = np.arange(len(codes))
    rows = {name: numbers[np.asarray(chosen)] for name, chosen in groups.items()}
    found = _resampled(list(asked.values()), codes, len(known), rows, replicates, seed, method)
    return dict(zip(asked, found, strict=True))


def _resampled(
    asked: Sequence[Asked],
    codes: NDArray[np.int64],
    n_patients: int,
    rows: Mapping[G, NDArray[np.int64]],
    replicates: int,
    seed: int,
    method: Method,
) -> list[Grouped[G]]:
    """All metrics, in order, in every group."""
    every = [array for _, arrays in asked for array in arrays]
    assert all(len(array) == len(codes) for array in every), "patients and arrays have one entry per row"
    prepared = [
        kernels([(statistic, [array[r] for array in arrays]) for statistic, arrays in asked], codes[r])
        if len(r)
        else None
        for r in rows.values()
    ]
    present = [np.unique(codes[r]) for r in rows.values()]
    shape = len(prepared), len(asked)

    def compute(times_RP: NDArray[np.unsignedinteger[Any]]) -> Floats:
        found_RGM = np.full((len(times_RP), *shape), math.nan)
        for g, each in enumerate(prepared):
            if each is not None:
                found_RGM[:, g] = each(times_RP)
        return found_RGM

    largest = max([1, n_patients, *map(len, rows.values())])
    step = max(1, min(replicates, CHUNK_ELEMENTS // largest))
    value_GM = compute(np.ones((1, n_patients), dtype=np.uint8))[0]
    defined = bool(np.isfinite(value_GM).any()) and n_patients > 1
    random, drawn = np.random.default_rng(seed), [np.empty((0, *shape))]
    elements = replicates * sum(map(len, rows.values())) * len(asked)
    with bar("resample patients", replicates, "resample", silent=elements < SHOWN_ELEMENTS) as shown:
        for start in range(0, replicates if defined else 0, step):
            drawn.append(compute(resampling.times_drawn(random, min(step, replicates - start), n_patients)))
            shown.update(len(drawn[-1]))
    jackknife, touched_JG = [np.empty((0, *shape))], np.zeros((0, shape[0]), dtype=bool)
    if method == "bca" and defined:
        set_P = resampling.jackknife_sets(n_patients, seed)
        jackknife += [compute(times) for times in resampling.left_out(set_P, step)]
        touched_JG = np.stack([np.isin(np.arange(set_P.max() + 1), set_P[own]) for own in present], axis=1)
    drawn_RGM, jackknife_JGM = np.concatenate(drawn), np.concatenate(jackknife)
    n_G = np.array([len(r) for r in rows.values()], dtype=np.int64)
    n_patients_G = np.array([len(own) for own in present], dtype=np.int64)
    return [
        Grouped(
            tuple(rows),
            value_GM[:, m],
            drawn_RGM[:, :, m],
            n_G,
            n_patients_G,
            method,
            jackknife_JGM[:, :, m],
            touched_JG,
        )
        for m in range(len(asked))
    ]


def _interval(value: float, drawn_R: Floats, n: int, n_patients: int, method: Method, jackknife_J: Floats) -> Interval:
    if not math.isfinite(value):
        return undefined("insufficient data: undefined on these rows", n, n_patients)
    if n_patients < 2:
        return Interval(value, math.nan, math.nan, n, n_patients, note="no interval from a single patient")
    defined = drawn_R[np.isfinite(drawn_R)]
    n_dropped = len(drawn_R) - len(defined)
    if len(defined) < max(1.0, MIN_DEFINED_SHARE * len(drawn_R)):
        note = f"no interval: undefined in {n_dropped} of {len(drawn_R)} resamples"
        return Interval(value, math.nan, math.nan, n, n_patients, n_dropped, note)
    low, high = resampling.percentile(defined)
    if low == high:
        note = "all resamples agree: too few rows or perfect separation, so the interval has no width"
        return Interval(value, low, high, n, n_patients, n_dropped, note)
    if method == "percentile":
        return Interval(value, low, high, n, n_patients, n_dropped)
    corrected = resampling.bca(value, defined, jackknife_J)
    if math.isnan(corrected[0]):
        note = "percentile interval: BCa is undefined on these rows"
        return Interval(value, low, high, n, n_patients, n_dropped, note)
    return Interval(value, *corrected, n, n_patients, n_dropped)

"""How well an attribute alone, without any image, ranks the label, and what the label's score gains from that.

A decodable attribute is a shortcut only where it also says something about the label. And where it was taken, the
score ranks pairs of images of different levels (an AP film of the ward above a PA film of the clinic) better than
pairs of one level: the AUROC of everybody exceeds the one inside strata.

Legend: N rows, R bootstrap replicates.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.fairness.groups import OTHER, UNKNOWN
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.permuting import Rows
from hilum.judgement.stats import Floats, Interval
from hilum.recipe import Shortcuts

PRIOR_ROWS: Final = 1.0  # of the overall prevalence, added to a level: a level unseen in training has that prevalence


@dataclass(frozen=True)
class Stratum:
    """The label's AUROC among the images of one level.

    Attributes:
        level: Name of the level.
        auroc: Undefined with a note where too few patients have the finding, or have it not.
        n_positive: Images with the finding.
    """

    level: str
    auroc: Interval
    n_positive: int


@dataclass(frozen=True)
class Inside:
    """The label's score inside the levels of an attribute.

    Attributes:
        strata: One for each level.
        pooled: AUROC over all pairs of images of the judged levels.
        within: AUROC over the pairs of one level: the mean over levels, weighted by their numbers of pairs.
        drop: Pooled minus within, on the same resamples of patients.
    """

    strata: tuple[Stratum, ...]
    pooled: Interval
    within: Interval
    drop: Interval


def association(attribute: Attribute, y_N: Floats, patient_N: Rows, fold_N: Rows, recipe: Shortcuts) -> Interval:
    """AUROC of the label ranked by the attribute alone: 0.5 says that it tells nothing, 1 that it is the label.

    A level is ranked by the prevalence that it has among the patients of the other folds, a number by itself in the
    direction that it has there, so that many rare levels do not look telling by chance.

    Args:
        attribute: Of each row.
        y_N: 1 present, 0 absent, NaN unknown.
        patient_N: Number of each row's patient.
        fold_N: Number of its fold.
        recipe: `bootstrap`, `seed`.
    """
    rows = np.flatnonzero(np.isfinite(attribute.code_N) & np.isfinite(y_N))
    if len(rows) == 0:
        return stats.undefined("insufficient data: label and attribute are known of no image together")
    score_N = np.empty(len(rows))
    y, fold = y_N[rows], fold_N[rows]
    for k in np.unique(fold):
        score_N[fold == k] = _ranked(attribute, rows, y, fold != k)[fold == k]
    return stats.patient_bootstrap(
        stats.weighted_auroc, patient_N[rows], recipe.bootstrap, recipe.seed, y, score_N, fold
    )


def _ranked(attribute: Attribute, rows: Rows, y_N: Floats, fit_N: NDArray[np.bool_]) -> Floats:
    if attribute.kind == "number":
        value_N = attribute.value_N[rows]
        if not fit_N.any():
            return value_N
        rises = float(((value_N - value_N[fit_N].mean()) * (y_N - y_N[fit_N].mean()))[fit_N].sum())
        return value_N if rises >= 0 else -value_N
    code_N = attribute.code_N[rows].astype(np.int64)
    n_K = np.bincount(code_N[fit_N], minlength=len(attribute.levels))
    positive_K = np.bincount(code_N[fit_N], y_N[fit_N], minlength=len(attribute.levels))
    prior = float(y_N[fit_N].mean()) if fit_N.any() else 0.5
    prevalence_K = (positive_K + PRIOR_ROWS * prior) / (n_K + PRIOR_ROWS)
    return np.asarray(prevalence_K[code_N])


def inside(
    attribute: Attribute, y_N: Floats, score_N: Floats, fold_N: Rows, patient_N: Rows, recipe: Shortcuts
) -> Inside:
    """The label's AUROC at each level of an attribute, and what is lost against the AUROC of all.

    Args:
        attribute: Of each row; a number by its bands.
        y_N: 1 present, 0 absent, NaN unknown.
        score_N: The label's held-out score; NaN where a row has none.
        fold_N: Rows of different folds were scored by different models and are not compared.
        patient_N: Number of each row's patient.
        recipe: `min_group` patients with and without the finding, `bootstrap`, `seed`.
    """
    usable = np.isfinite(y_N) & np.isfinite(score_N)
    names = sorted({str(band) for band in attribute.band_N[usable]} - {UNKNOWN, OTHER})
    strata, judged = [], []
    for name in names:
        rows = np.flatnonzero(usable & (attribute.band_N == name))
        n_positive = int(y_N[rows].sum())
        present, absent = (len(np.unique(patient_N[rows[y_N[rows] == value]])) for value in (1, 0))
        if min(present, absent) < recipe.min_group:
            why = (
                f"insufficient data: {present} patients with and {absent} without; {recipe.min_group} of each "
                "are needed"
            )
            short = stats.undefined(why, len(rows), len(np.unique(patient_N[rows])))
            strata.append(Stratum(name, short, n_positive))
            continue
        judged.append(name)
        found = stats.patient_bootstrap(
            stats.weighted_auroc, patient_N[rows], recipe.bootstrap, recipe.seed, y_N[rows], score_N[rows], fold_N[rows]
        )
        strata.append(Stratum(name, found, n_positive))
    if len(judged) < 2:
        why = f"insufficient data: fewer than two levels have {recipe.min_group} patients with and without the finding"
        none = stats.undefined(why)
        return Inside(tuple(strata), none, none, none)
    rows = np.flatnonzero(usable & np.isin(attribute.band_N, judged))
    level_N = np.searchsorted(judged, attribute.band_N[rows].astype(str))
    level_fold_N = fold_N[rows] * len(judged) + level_N
    arrays = (y_N[rows], score_N[rows], fold_N[rows], level_fold_N)

    def dropped(w_RN: Floats, y: Floats, score: Floats, fold: NDArray[Any], level: NDArray[Any]) -> Floats:
        return stats.weighted_auroc(w_RN, y, score, fold) - stats.weighted_auroc(w_RN, y, score, level)

    def resampled(statistic: Any, *columns: NDArray[Any]) -> Interval:
        return stats.patient_bootstrap(statistic, patient_N[rows], recipe.bootstrap, recipe.seed, *columns)

    return Inside(
        tuple(strata),
        resampled(stats.weighted_auroc, *arrays[:3]),
        resampled(stats.weighted_auroc, *arrays[:2], level_fold_N),
        resampled(dropped, *arrays),
    )

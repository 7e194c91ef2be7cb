"""Whom a decision serves worse: quality by group at the locked operating point, and the gaps between groups.

The threshold is one for all groups and was chosen before (METHOD section 7). Point values are fairlearn's where it has
the metric; intervals allow for several images of one patient. A group is judged only where enough patients have the
finding and enough have not; else its values are blank, never 0 or 1.

Legend: N test images with a known label, R bootstrap replicates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from fairlearn.metrics import (
    false_negative_rate,
    false_positive_rate,
    selection_rate,
    true_negative_rate,
    true_positive_rate,
)
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    precision_score,
    roc_auc_score,
)

from hilum.judgement.fairness import limits
from hilum.judgement.fairness.draws import Cases, Drawn, draw
from hilum.judgement.fairness.gaps import GAPS, NO_FINDING, between, corrected
from hilum.judgement.fairness.groups import INSUFFICIENT, UNKNOWN
from hilum.judgement.stats import CONFIDENCE, MIN_DEFINED_SHARE, Floats, Interval, proportion
from hilum.progress import track
from hilum.recipe import Audit

ALL: Final = "all"

GROUP_COLUMNS: Final = (
    "attribute", "group", "n", "n_patients", "n_positive", "n_negative", "metric", "value", "low", "high", "chance",
    "note",
)  # fmt: skip
GAP_COLUMNS: Final = (
    "attribute", "metric", "value", "low", "high", "n", "n_patients", "n_groups", "p", "p_holm", "note",
)  # fmt: skip


def _positive_predictive_value(truth: Any, decided: Any) -> float:
    return float(precision_score(truth, decided, zero_division=np.nan))


# By-group functions of (truth, decision), and of (truth, probability).
_DECISION: Final[Mapping[str, Callable[..., float]]] = {
    "balanced_accuracy": balanced_accuracy_score,
    "tpr": true_positive_rate,
    "fnr": false_negative_rate,
    "tnr": true_negative_rate,
    "fpr": false_positive_rate,
    "ppv": _positive_predictive_value,
    "selection_rate": selection_rate,
}
_RANKING: Final[Mapping[str, Callable[..., float]]] = {
    "auroc": roc_auc_score,
    "auprc": average_precision_score,
    "brier": brier_score_loss,
}
METRICS: Final = (
    "auroc", "auprc", "balanced_accuracy", "tpr", "fnr", "tnr", "fpr", "ppv", "underdiagnosis", "selection_rate",
    "ece", "brier", "tpr_disparity",
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """What `judge` found: GROUP_COLUMNS and GAP_COLUMNS."""

    groups: pd.DataFrame
    gaps: pd.DataFrame


def judge(
    truth: NDArray[np.float64],
    probability: NDArray[np.float64],
    threshold: float,
    groups: pd.DataFrame,
    patients: pd.Series,
    recipe: Audit,
) -> Judged:
    """Quality of one label's decisions in each group, and how far the groups lie apart, from the same resamples.

    The metrics of a group, beside the usual: `underdiagnosis` is the share of ill images that are called healthy. Where
    the label is `no_finding`, ill is whoever has any finding, and this is the false-positive rate (Seyyed-Kalantari et
    al. 2021, Nature Medicine 27); any other label knows of its own finding only, so ill is whoever has it, and this
    is the share missed. `tpr_disparity` is the true-positive rate less the median group's (CheXclusion), or less the
    other group's where there are two. `ece` is of equal-mass bins.

    Gaps: `auroc`, `demographic_parity` (selection rate), `equal_opportunity` (true-positive rate; Hardt et al. 2016),
    `predictive_parity` (positive predictive value), `calibration` (ECE) and `underdiagnosis` are the largest difference
    between groups; `equalized_odds` is the larger of those in true- and false-positive rate, and
    `equalized_odds_medfair` 1 less their mean (MEDFAIR); `..._ratio` is the least ratio, as fairlearn defines each;
    `worst_group_...` the lowest value. Groups that are `unknown` take no part. Intervals and p-values: see
    `hilum.judgement.fairness.limits`; `p_holm` is corrected over all gaps of this table.

    Args:
        truth: 1 present, 0 absent, NaN unknown, of shape (N,); unknown rows are left out.
        probability: Calibrated probability of presence, of shape (N,).
        threshold: A probability at or above it is called present.
        groups: One column per attribute, one row per image (`groups.attributes`).
        patients: Patient of each image.
        recipe: `label`, `min_group`, `bootstrap`, `seed`.

    Returns:
        Of groups, a row per attribute, group and metric of METRICS, the first attribute being `all`; `value`, `low` and
        `high` are NaN, and `note` begins with "insufficient data", where fewer than `min_group` patients have the
        finding or fewer than `min_group` have not; `chance` is the `ece` that a perfectly calibrated score would show
        on average on the same images, simulated from the probabilities, and NaN beside any other metric. Of gaps, a row
        per attribute and gap of GAPS; NaN with a note where fewer than two groups are sufficient.
    """
    cases = _cases(truth, probability, threshold, groups, patients)
    member = groups[~np.isnan(np.asarray(truth, dtype=float))].reset_index(drop=True)
    member.insert(0, ALL, ALL)
    enough = {attribute: sufficient(cases, member[attribute], recipe.min_group) for attribute in member}
    rows = {
        f"{attribute}={group}": np.flatnonzero(member[attribute] == group)
        for attribute, names in enough.items()
        for group in names
    }
    drawn = draw(cases, rows, recipe.bootstrap, recipe.seed)
    judged: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    for attribute in track(list(member.columns), "fairness by group"):
        of = {group: drawn[f"{attribute}={group}"] for group in enough[attribute]}
        judged += _groups(cases, member[attribute], of, recipe)
        if attribute != ALL:
            known = {group: found for group, found in of.items() if group != UNKNOWN}
            compared += _gaps(cases, member[attribute], known, recipe)
    gap_table = pd.DataFrame(compared, columns=[name for name in GAP_COLUMNS if name != "p_holm"])
    gap_table = corrected({"": gap_table})[""][list(GAP_COLUMNS)]
    return Judged(pd.DataFrame(judged, columns=list(GROUP_COLUMNS)), gap_table)


def table(*case: Any) -> pd.DataFrame:
    """The groups of `judge`, alone."""
    return judge(*case).groups


def gaps(*case: Any) -> pd.DataFrame:
    """The gaps of `judge`, alone."""
    return judge(*case).gaps


def sufficient(cases: Cases, member: pd.Series, min_group: int) -> list[str]:
    """Groups with at least `min_group` patients who have the finding and as many who have not, in order of name."""
    return [
        str(group)
        for group, rows in member.groupby(member).indices.items()
        if min(_patients_per_class(cases, rows)) >= min_group
    ]


def _cases(
    truth: NDArray[np.float64],
    probability: NDArray[np.float64],
    threshold: float,
    groups: pd.DataFrame,
    patients: pd.Series,
) -> Cases:
    """The rows whose truth is known, with the decision made at the threshold."""
    assert len(truth) == len(probability) == len(groups) == len(patients), "one entry per image"
    known = ~np.isnan(np.asarray(truth, dtype=float))
    scored = np.asarray(probability, dtype=float)[known]
    return Cases(
        np.asarray(truth, dtype=float)[known],
        scored,
        (scored >= threshold).astype(float),
        np.asarray(pd.factorize(np.asarray(patients)[known], sort=True)[0], dtype=np.int64),
    )


def _patients_per_class(cases: Cases, rows: NDArray[np.int64]) -> tuple[int, int]:
    y, patient = cases.truth_N[rows], cases.patient_N[rows]
    return len(np.unique(patient[y == 1])), len(np.unique(patient[y == 0]))


def _exact(cases: Cases, rows: NDArray[np.int64]) -> dict[str, float]:
    """Every metric that fairlearn or scikit-learn has, of one group.

    Its functions are called by themselves: a MetricFrame takes half a minute for 200,000 images, most of it in copying.
    """
    y = cases.truth_N[rows].astype(int)
    called, scored = cases.decided_N[rows].astype(int), cases.probability_N[rows]
    found = {name: float(function(y, called)) for name, function in _DECISION.items()}
    return found | {name: float(function(y, scored)) for name, function in _RANKING.items()}


def _groups(cases: Cases, member: pd.Series, of: Mapping[str, Drawn], recipe: Audit) -> list[dict[str, Any]]:
    named = [group for group in of if group != UNKNOWN and member.name != ALL]
    bounds = limits.to_median(limits.side([of[group] for group in named], "tpr")) if len(named) > 1 else []
    disparity = dict(zip(named, bounds, strict=False))
    answer = []
    for group, rows in member.groupby(member).indices.items():
        shared = {"attribute": member.name, "group": str(group), **_counts(cases, rows)}
        exact = _exact(cases, rows) if group in of else {}
        for metric in METRICS:
            if group not in of:
                found = Interval(np.nan, np.nan, np.nan, 0, 0, note=_why(cases, rows, recipe.min_group))
            elif metric == "tpr_disparity":
                bound = disparity.get(str(group))
                found = Interval(bound.value, bound.low, bound.high, 0, 0) if bound else _no_disparity(str(group))
            else:
                same = _means(metric, recipe.label)
                value = of[group].value["ece"] if same == "ece" else exact[same]
                found = _interval(same, cases, rows, value, of[group])
            chance = of[group].chance if metric == "ece" and group in of else np.nan
            answer.append({**shared, "metric": metric, **_bounds(found), "chance": chance})
    return answer


def _means(metric: str, label: str) -> str:
    """Which rate underdiagnosis is: see `judge`."""
    return metric if metric != "underdiagnosis" else "fpr" if label == NO_FINDING else "fnr"


def _no_disparity(group: str) -> Interval:
    why = "the unknown are not compared" if group == UNKNOWN else "there is no other group to compare with"
    return Interval(np.nan, np.nan, np.nan, 0, 0, note=f"undefined: {why}")


def _interval(metric: str, cases: Cases, rows: NDArray[np.int64], value: float, drawn: Drawn) -> Interval:
    """A rate's interval is Wilson's, for as many images as the patients' likeness leaves; the others are resampled."""
    patients = cases.patient_N[rows]
    if metric in ("tpr", "fnr", "tnr", "fpr", "ppv", "selection_rate"):
        if np.isnan(value):
            note = "undefined: no image of this group is called positive"
            return Interval(value, np.nan, np.nan, len(rows), 0, note=note)
        hit, asked = _rate(metric, cases.truth_N[rows], cases.decided_N[rows])
        wilson = proportion(hit[asked], patients[asked])
        return Interval(value, wilson.low, wilson.high, wilson.n, wilson.n_patients)
    if np.isnan(value):
        return Interval(value, np.nan, np.nan, len(rows), 0, note="undefined: too few images")
    values = drawn.drawn[metric]
    values = values[np.isfinite(values)]
    if len(values) < MIN_DEFINED_SHARE * len(drawn.drawn[metric]):
        return Interval(value, np.nan, np.nan, len(rows), 0, note="no interval: undefined in most resamples")
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    note = "no interval: all resamples agree" if low == high else ""
    if note:
        low = high = np.nan
    if metric == "ece":
        # Resampling adds scatter, and scatter only ever adds to a calibration error: that shift is taken off again.
        shift = float(np.median(values)) - value
        low, high = (max(0.0, end - shift) for end in (low, high))
        note = f"a perfectly calibrated score would show about {drawn.chance:.3f} on as few images"
    return Interval(value, float(low), float(high), len(rows), 0, note=note)


def _rate(metric: str, y_N: Floats, decided_N: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """What counts as a hit, and which images are asked, in a rate that is a plain proportion."""
    return {
        "tpr": (decided_N, y_N == 1),
        "fnr": (1 - decided_N, y_N == 1),
        "tnr": (1 - decided_N, y_N == 0),
        "fpr": (decided_N, y_N == 0),
        "ppv": (y_N, decided_N == 1),
        "selection_rate": (decided_N, np.ones(len(y_N), dtype=bool)),
    }[metric]


def _gaps(cases: Cases, member: pd.Series, of: Mapping[str, Drawn], recipe: Audit) -> list[dict[str, Any]]:
    judged = np.flatnonzero(member.isin(list(of)))
    sizes = {"n": len(judged), "n_patients": len(np.unique(cases.patient_N[judged])), "n_groups": len(of)}
    shared = {"attribute": member.name, **sizes}
    if len(of) < 2:
        why = f"{INSUFFICIENT}: fewer than two groups have {recipe.min_group} patients with and without the finding"
        blank = {"value": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "note": why}
        return [{**shared, "metric": metric, **blank} for metric in GAPS]
    found = between(of, recipe.label)
    return [{**shared, "metric": metric, **vars(bound), "note": note} for metric, (bound, note) in found.items()]


def _why(cases: Cases, rows: NDArray[np.int64], min_group: int) -> str:
    positive, negative = _patients_per_class(cases, rows)
    return (
        f"{INSUFFICIENT}: {positive} patients with the finding and {negative} without; {min_group} of each are needed"
    )


def _counts(cases: Cases, rows: NDArray[np.int64]) -> dict[str, int]:
    positive = int(cases.truth_N[rows].sum())
    return {
        "n": len(rows),
        "n_patients": len(np.unique(cases.patient_N[rows])),
        "n_positive": positive,
        "n_negative": len(rows) - positive,
    }


def _bounds(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "note": interval.note}

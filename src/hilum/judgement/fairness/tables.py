"""Whom a decision serves worse: quality by group at the locked operating point, and the gaps between groups.

The threshold is one for all groups and was chosen before (METHOD section 7). Point values are fairlearn's; intervals
resample patients, since films of one patient are not independent. A group is judged only where enough patients have
the finding and enough have not; else its values are blank, never 0 or 1.

Legend: N test images with a known label, R bootstrap replicates.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
    false_negative_rate,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, precision_score, roc_auc_score

from hilum.judgement.fairness.groups import UNKNOWN
from hilum.judgement.stats import (
    Floats,
    Interval,
    patient_bootstrap,
    proportion,
    weighted_auroc,
    weighted_balanced_accuracy,
    weighted_mean,
)
from hilum.progress import track
from hilum.recipe import Audit

INSUFFICIENT: Final = "insufficient data"

GROUP_COLUMNS: Final = (
    "attribute", "group", "n", "n_patients", "n_positive", "n_negative", "metric", "value", "low", "high", "note",
)  # fmt: skip
GAP_COLUMNS: Final = ("attribute", "metric", "value", "low", "high", "n", "n_patients", "n_groups", "note")


def _positive_predictive_value(truth: Any, decided: Any) -> float:
    return float(precision_score(truth, decided, zero_division=np.nan))


# By-group functions of (truth, decision), and of (truth, probability) for the AUROC.
_DECISION: Final[Mapping[str, Callable[..., float]]] = {
    "balanced_accuracy": balanced_accuracy_score,
    "tpr": true_positive_rate,
    "fnr": false_negative_rate,
    "fpr": false_positive_rate,
    "ppv": _positive_predictive_value,
    "selection_rate": selection_rate,
}
METRICS: Final = ("auroc", *_DECISION)
# A gap is the largest difference between groups of each of these; equalized odds takes the larger of two.
_GAPS: Final[Mapping[str, tuple[str, ...]]] = {
    "auroc": ("auroc",),
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("tpr",),
    "equalized_odds": ("tpr", "fpr"),
}


def table(
    truth: NDArray[np.float64],
    probability: NDArray[np.float64],
    threshold: float,
    groups: pd.DataFrame,
    patients: pd.Series,
    recipe: Audit,
) -> pd.DataFrame:
    """Quality of one label's decisions in each group.

    Args:
        truth: 1 present, 0 absent, NaN unknown, of shape (N,); unknown rows are left out.
        probability: Calibrated probability of presence, of shape (N,).
        threshold: A probability at or above it is called present.
        groups: One column per attribute, one row per image (`groups.attributes`).
        patients: Patient of each image.
        recipe: `min_group`, `bootstrap`, `seed`.

    Returns:
        GROUP_COLUMNS, one row per attribute, group and metric of METRICS; the first attribute is `all`. `value`, `low`
        and `high` are NaN, and `note` begins with "insufficient data", where fewer than `min_group` patients have the
        finding or fewer than `min_group` have not.
    """
    cases = _cases(truth, probability, threshold, groups, patients)
    cases.insert(0, "all", "all")
    rows: list[dict[str, Any]] = []
    named = ["all", *groups.columns]
    for attribute in track(named, "fairness by group"):
        judged = cases[cases[attribute].isin(_sufficient(cases, attribute, recipe.min_group))]
        exact = _by_group(judged, attribute)
        for group, members in cases.groupby(attribute):
            counts = _counts(members)
            for metric in METRICS:
                if group not in exact.index:
                    interval = Interval(np.nan, np.nan, np.nan, 0, 0, note=_why(members, recipe.min_group))
                else:
                    interval = _interval(metric, members, float(exact.loc[group, metric]), recipe)
                rows.append({"attribute": attribute, "group": group, **counts, "metric": metric, **_bounds(interval)})
    return pd.DataFrame(rows, columns=list(GROUP_COLUMNS))


def gaps(
    truth: NDArray[np.float64],
    probability: NDArray[np.float64],
    threshold: float,
    groups: pd.DataFrame,
    patients: pd.Series,
    recipe: Audit,
) -> pd.DataFrame:
    """Largest difference between the sufficient groups of each attribute; arguments as for `table`.

    `auroc` is the AUROC gap; `demographic_parity` the gap in the share called positive; `equal_opportunity` in the
    true positive rate (Hardt et al. 2016); `equalized_odds` the larger of the gaps in true and false positive rate.

    Chance alone parts groups, and the more so the more there are, so the bootstrap's own percentiles of a largest
    difference lie above the truth. The interval here is value +- q, cut at 0 and 1, where q is the upper percentile of
    the largest difference of the groups' *deviations from their own values* over the resamples: whatever the truth,
    the range of the estimates departs from the true range by no more than the range of their errors (Tukey's
    studentised range makes the same step). It holds for any number of groups at once and errs on the wide side.
    Groups that are `unknown` take no part.

    Returns:
        GAP_COLUMNS, one row per attribute and gap; NaN with a note where fewer than two groups are sufficient.
    """
    cases = _cases(truth, probability, threshold, groups, patients)
    rows: list[dict[str, Any]] = []
    for attribute in track(list(groups.columns), "gaps between groups"):
        sufficient = [name for name in _sufficient(cases, attribute, recipe.min_group) if name != UNKNOWN]
        judged = cases[cases[attribute].isin(sufficient)]
        sizes = {"n": len(judged), "n_patients": judged["patient"].nunique(), "n_groups": len(sufficient)}
        if len(sufficient) < 2:
            why = f"{INSUFFICIENT}: fewer than two groups have {recipe.min_group} patients with and without the finding"
            blank = {"value": np.nan, "low": np.nan, "high": np.nan, "note": why}
            rows += [{"attribute": attribute, "metric": metric, **sizes, **blank} for metric in _GAPS]
            continue
        y, p, d = (judged[name].to_numpy() for name in ("truth", "probability", "decided"))
        member = judged[attribute].to_numpy()
        by_group = _by_group(judged, attribute)
        exact = {
            "auroc": by_group["auroc"].max() - by_group["auroc"].min(),
            "demographic_parity": demographic_parity_difference(y, d, sensitive_features=member),
            "equal_opportunity": equal_opportunity_difference(y, d, sensitive_features=member),
            "equalized_odds": equalized_odds_difference(y, d, sensitive_features=member),
        }
        for metric, of in _GAPS.items():
            drawn = patient_bootstrap(
                _error_range(of, member), judged["patient"], recipe.bootstrap, recipe.seed, y, p, d
            )
            value, half = float(exact[metric]), drawn.high
            certain = not np.isfinite(half) or half == 0.0  # all resamples agree: no measure of chance at all
            ends = {} if certain else {"low": max(0.0, value - half), "high": min(1.0, value + half)}
            extremes = by_group[of[0]]
            note = f"lowest {of[0]}: {extremes.idxmin()}, highest: {extremes.idxmax()}" if len(of) == 1 else ""
            note = "no interval: all resamples agree" if certain else note
            rows.append({"attribute": attribute, "metric": metric, "value": value, **ends, **sizes, "note": note})
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS))


def _cases(
    truth: NDArray[np.float64],
    probability: NDArray[np.float64],
    threshold: float,
    groups: pd.DataFrame,
    patients: pd.Series,
) -> pd.DataFrame:
    """One frame of the rows whose truth is known, with the decision made at the threshold."""
    known = ~np.isnan(np.asarray(truth, dtype=float))
    cases = groups[known].reset_index(drop=True)
    cases["truth"] = np.asarray(truth, dtype=float)[known].astype(int)
    cases["probability"] = np.asarray(probability, dtype=float)[known]
    cases["decided"] = (cases["probability"] >= threshold).astype(int)
    cases["patient"] = np.asarray(patients)[known]
    return cases


def _patients_per_class(members: pd.DataFrame) -> tuple[int, int]:
    positive = members.loc[members["truth"] == 1, "patient"].nunique()
    return int(positive), int(members.loc[members["truth"] == 0, "patient"].nunique())


def _sufficient(cases: pd.DataFrame, attribute: str, min_group: int) -> list[str]:
    return [str(group) for group, members in cases.groupby(attribute) if min(_patients_per_class(members)) >= min_group]


def _why(members: pd.DataFrame, min_group: int) -> str:
    positive, negative = _patients_per_class(members)
    return (
        f"{INSUFFICIENT}: {positive} patients with the finding and {negative} without; {min_group} of each are needed"
    )


def _counts(members: pd.DataFrame) -> dict[str, int]:
    positive = int(members["truth"].sum())
    return {
        "n": len(members),
        "n_patients": int(members["patient"].nunique()),
        "n_positive": positive,
        "n_negative": len(members) - positive,
    }


def _by_group(judged: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Every metric of every group, by fairlearn; empty where no group is judged."""
    if judged.empty:
        return pd.DataFrame(columns=list(METRICS))
    y, member = judged["truth"], judged[attribute]
    decided = MetricFrame(metrics=dict(_DECISION), y_true=y, y_pred=judged["decided"], sensitive_features=member)
    ranked = MetricFrame(
        metrics={"auroc": roc_auc_score}, y_true=y, y_pred=judged["probability"], sensitive_features=member
    )
    return decided.by_group.join(ranked.by_group).astype(float)


def _interval(metric: str, members: pd.DataFrame, value: float, recipe: Audit) -> Interval:
    y, p, d = (members[name].to_numpy() for name in ("truth", "probability", "decided"))
    if np.isnan(value):
        return Interval(value, np.nan, np.nan, len(y), 0, note="undefined: no image of this group is called positive")

    def statistic(w_RN: Floats, y_N: NDArray[Any], p_N: NDArray[Any], decided_N: NDArray[Any]) -> Floats:
        return _weighted(metric, w_RN, y_N, p_N, decided_N)

    drawn = patient_bootstrap(statistic, members["patient"], recipe.bootstrap, recipe.seed, y, p, d)
    if drawn.bounded and drawn.low == drawn.high and metric not in ("auroc", "balanced_accuracy"):
        # All resamples agree where a rate is 0 or 1: the bootstrap would claim certainty, Wilson's interval does not.
        hit, asked = _rate(metric, y, d)
        wilson = proportion(hit[asked], members["patient"].to_numpy()[asked])
        return Interval(value, wilson.low, wilson.high, wilson.n, wilson.n_patients, note="Wilson interval")
    return drawn


def _weighted(metric: str, w_RN: Floats, y_N: NDArray[Any], p_N: NDArray[Any], decided_N: NDArray[Any]) -> Floats:
    """One of METRICS per replicate, (R,): the counterpart of fairlearn's functions with a weight for each image."""
    match metric:
        case "auroc":
            return weighted_auroc(w_RN, y_N, p_N)
        case "balanced_accuracy":
            return weighted_balanced_accuracy(w_RN, y_N, decided_N)
        case "selection_rate":
            return weighted_mean(w_RN, decided_N)
    hit_N, asked_N = _rate(metric, y_N, decided_N)
    return weighted_mean(w_RN[:, asked_N], hit_N[asked_N])


def _rate(metric: str, y_N: NDArray[Any], decided_N: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """What counts as a hit, and which images are asked, in a rate that is a plain proportion."""
    return {
        "tpr": (decided_N, y_N == 1),
        "fnr": (1 - decided_N, y_N == 1),
        "fpr": (decided_N, y_N == 0),
        "ppv": (y_N, decided_N == 1),
        "selection_rate": (decided_N, np.ones(len(y_N), dtype=bool)),
    }[metric]


def _error_range(metrics: tuple[str, ...], member: NDArray[Any]) -> Callable[..., Floats]:
    """Replicate weights to the largest difference between groups of (replicate - value), over the metrics.

    NaN for a replicate in which a group lacks what a metric needs.
    """
    rows_of = [np.flatnonzero(member == name) for name in np.unique(member)]

    def statistic(w_RN: Floats, y_N: NDArray[Any], p_N: NDArray[Any], decided_N: NDArray[Any]) -> Floats:
        ranges = []
        for metric in metrics:
            errors = []
            for r in rows_of:
                of_group = y_N[r], p_N[r], decided_N[r]
                errors.append(
                    _weighted(metric, w_RN[:, r], *of_group) - _weighted(metric, np.ones((1, len(r))), *of_group)
                )
            ranges.append(np.max(errors, axis=0) - np.min(errors, axis=0))
        return np.asarray(np.max(ranges, axis=0))

    return statistic


def _bounds(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "note": interval.note}

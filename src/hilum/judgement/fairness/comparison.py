"""Two ways of deciding about the same people, side by side: quality and gaps before and after, on shared resamples.

Legend: N test images, R resamples.
"""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hilum.judgement.fairness.draws import Cases, Drawn, draw
from hilum.judgement.fairness.gaps import NO_FINDING, between
from hilum.judgement.fairness.groups import INSUFFICIENT, UNKNOWN
from hilum.judgement.fairness.limits import Bound
from hilum.judgement.fairness.tables import ALL, sufficient
from hilum.judgement.stats import CONFIDENCE, MIN_DEFINED_SHARE, grouped_bootstrap, two_sided, weighted_auroc
from hilum.recipe import Audit

Floats = NDArray[np.float64]

COLUMNS: Final = (
    "method", "attribute", "metric", "kind", "before", "before_low", "before_high", "after", "after_low", "after_high",
    "difference", "low", "high", "p", "p_holm", "n", "n_patients", "n_groups", "note",
)  # fmt: skip
QUALITY: Final = ("auroc", "auprc", "balanced_accuracy", "tpr", "fpr", "ppv", "ece", "brier")
# Each gap is the largest difference between groups of these metrics; of two, the larger.
GAPS: Final[dict[str, tuple[str, ...]]] = {
    "auroc": ("auroc",),
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("tpr",),
    "equalized_odds": ("tpr", "fpr"),
    "predictive_parity": ("ppv",),
    "calibration": ("ece",),
}
SAME: Final = 1e-12  # two sums of the same numbers, in another order
WORST: Final = {"worst_group_auroc": "auroc", "worst_group_tpr": "tpr"}


def table(
    truth_N: Floats,
    patient_N: NDArray[np.int64],
    level_N: NDArray[np.str_],
    before: tuple[Floats, Floats],
    after: tuple[Floats, Floats],
    recipe: Audit,
    attribute: str,
) -> pd.DataFrame:
    """Quality for everybody, then the gaps between the groups of one attribute.

    Args:
        truth_N: 1 or 0.
        patient_N: Number of each image's patient.
        level_N: Group of each image.
        before: Probability, and call (1, 0, or between where calls are drawn by lot).
        after: The same, treated.
        recipe: `label`, `min_group`, `bootstrap`, `seed`.
        attribute: Name of the groups' attribute.

    Returns:
        COLUMNS without the first two, `p_holm` blank. `kind` is `quality`, `gap` or `worst group`. Before and after
        have the audit's intervals (`gaps.between`), the difference one of the same resamples of patients. A gap grows
        with the noise of its groups, so its resamples lie above it; their shift is taken off the difference's
        interval.
    """
    patients = np.unique(patient_N, return_inverse=True)[1].astype(np.int64)
    member = pd.Series(level_N, name=attribute).astype("str")
    sides = [Cases(truth_N, probability_N, call_N, patients) for probability_N, call_N in (before, after)]
    enough = [name for name in sufficient(sides[0], member, recipe.min_group) if name != UNKNOWN]
    everybody = np.arange(len(truth_N))
    whole = bool(sufficient(sides[0], pd.Series(ALL, index=everybody), 1))
    rows = ({ALL: everybody} if whole else {}) | {name: np.flatnonzero(level_N == name) for name in enough}
    drawn = [draw(cases, rows, recipe.bootstrap, recipe.seed) for cases in sides]
    sizes = {"n": len(truth_N), "n_patients": len(np.unique(patients)), "n_groups": len(enough)}
    found = []
    for metric in QUALITY if whole else ():
        ends = [(one[ALL].value[metric], one[ALL].drawn[metric]) for one in drawn]
        found.append({"metric": metric, "kind": "quality", **_row(*ends[0], *ends[1], metric == "ece"), **sizes})
    names = dict(GAPS)
    if recipe.label == NO_FINDING:
        names["underdiagnosis"] = ("fpr",)
    judged = np.flatnonzero(np.isin(level_N, enough))
    sizes |= {"n": len(judged), "n_patients": len(np.unique(patients[judged]))}
    bounds: list[dict[str, tuple[Bound, str]]] = []
    if len(enough) > 1:
        bounds = [between({name: one[name] for name in enough}, recipe.label) for one in drawn]
    for metric in (*names, *WORST):
        kind = "worst group" if metric in WORST else "gap"
        if len(enough) < 2:
            note = f"{INSUFFICIENT}: fewer than two groups have {recipe.min_group} patients with and without the label"
            found.append({"metric": metric, "kind": kind, **sizes, "note": note})
            continue
        ends = []
        for one in drawn:
            of = [one[name] for name in enough]
            ends.append(_worst(of, WORST[metric]) if metric in WORST else _gap(of, names[metric]))
        row = _row(*ends[0], *ends[1], True)
        for side, bound in zip(("before", "after"), bounds, strict=True):
            row |= {f"{side}_low": bound[metric][0].low, f"{side}_high": bound[metric][0].high}
        found.append({"metric": metric, "kind": kind, **row, **sizes})
    return pd.DataFrame(found, columns=list(COLUMNS[2:]))


def told(
    z_ND: Floats,
    erased_ND: Floats,
    level_N: NDArray[np.str_],
    patient_N: NDArray[np.int64],
    fitted: NDArray[np.int64],
    tested: NDArray[np.int64],
    recipe: Audit,
) -> pd.DataFrame:
    """How well a linear probe, fitted on train and val, tells each group from the others on test: AUROC before, after.

    Levels with fewer than `min_group` test patients inside, or outside, are left out. Columns as of `table`.
    """
    found = []
    names = [name for name in np.unique(level_N[fitted]) if name != UNKNOWN]
    for name in names[1:] if len(names) == 2 else names:
        is_one = level_N[tested] == name
        sides = [len(np.unique(patient_N[tested][is_one == value])) for value in (True, False)]
        shared = {"metric": f"linear probe: {name}", "kind": "attribute", "n": len(tested)}
        shared |= {"n_patients": len(np.unique(patient_N[tested])), "n_groups": len(names)}
        if min(sides) < recipe.min_group:
            found.append({**shared, "note": f"{INSUFFICIENT}: {sides[0]} test patients are of this group"})
            continue
        ends: list[tuple[float, Floats]] = []
        for embedded_ND in (z_ND, erased_ND):
            scaler = StandardScaler().fit(embedded_ND[fitted])
            probe = LogisticRegression(max_iter=10_000).fit(
                scaler.transform(embedded_ND[fitted]), level_N[fitted] == name
            )
            score_N = probe.decision_function(scaler.transform(embedded_ND[tested]))
            drawn = grouped_bootstrap(
                weighted_auroc, patient_N[tested], {ALL: np.arange(len(tested))}, recipe.bootstrap, recipe.seed,
                is_one.astype(float), score_N,
            )  # fmt: skip
            ends.append((float(drawn.value_G[0]), drawn.drawn_RG[:, 0]))
        found.append({**shared, **_row(*ends[0], *ends[1], False)})
    return pd.DataFrame(found, columns=list(COLUMNS[2:]))


def _gap(of: list[Drawn], metrics: tuple[str, ...]) -> tuple[float, Floats]:
    values, drawn = [], []
    for metric in metrics:
        known = [one for one in of if np.isfinite(one.value[metric])]
        if len(known) < 2:
            return float("nan"), np.full(len(of[0].drawn[metric]), np.nan)
        values.append(float(np.ptp([one.value[metric] for one in known])))
        drawn.append(np.ptp([one.drawn[metric] for one in known], axis=0))
    return max(values), np.asarray(np.max(drawn, axis=0))


def _worst(of: list[Drawn], metric: str) -> tuple[float, Floats]:
    return min(one.value[metric] for one in of), np.asarray(np.min([one.drawn[metric] for one in of], axis=0))


def _row(before: float, before_R: Floats, after: float, after_R: Floats, shifted: bool) -> dict[str, Any]:
    """One line: both sides, and their difference with its interval and p-value.

    Resamples in which the two sides agree exactly, since none of the images that changed was drawn, say that there is
    no change. They stay at zero where the others are shifted: else one changed image would count as one in all of them.
    """
    row: dict[str, Any] = {"note": ""}
    for name, value, drawn_R in (("before", before, before_R), ("after", after, after_R)):
        low, high = _ends(_shifted(value, drawn_R) if shifted else drawn_R, value)
        row |= {
            name: value,
            f"{name}_low": float(np.clip(low, 0.0, 1.0)),
            f"{name}_high": float(np.clip(high, 0.0, 1.0)),
        }
    value, change_R = after - before, after_R - before_R
    if shifted:
        change_R = np.where(np.abs(change_R) < SAME, 0.0, _shifted(value, change_R))
    low, high = _ends(change_R, value)
    row |= {"difference": value, "low": low, "high": high, "p": two_sided(change_R) if np.isfinite(low) else np.nan}
    if np.array_equal(before_R, after_R) and before == after:
        row |= {"low": np.nan, "high": np.nan, "p": np.nan, "note": "unchanged: the method does not touch it"}
    elif np.isnan(row["difference"]):
        row["note"] = "undefined: no image of a group is called positive"
    elif np.isnan(row["low"]):
        row["note"] = "no interval: undefined in most resamples"
    return row


def _shifted(value: float, drawn_R: Floats) -> Floats:
    """Resamples moved so that the median of the defined ones is the value."""
    defined = drawn_R[np.isfinite(drawn_R)]
    return drawn_R - (float(np.median(defined)) - value) if len(defined) and np.isfinite(value) else drawn_R


def _ends(drawn_R: Floats, value: float) -> tuple[float, float]:
    """Percentiles; NaN where the value, or too many of the resamples, are undefined."""
    defined = drawn_R[np.isfinite(drawn_R)]
    if np.isnan(value) or len(defined) < MIN_DEFINED_SHARE * len(drawn_R):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)

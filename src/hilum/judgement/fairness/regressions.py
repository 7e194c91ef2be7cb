"""For whom a predicted quantity, such as the age, is further off: mean absolute error and bias by group.

A prediction that cannot be sure is drawn towards the mean, so that the old are taken for younger and the young for
older: by bands of the predicted quantity itself, some bias is nobody's fault.

Legend: N images.
"""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement.fairness import limits
from hilum.judgement.fairness.draws import Drawn, Floats
from hilum.judgement.fairness.groups import INSUFFICIENT, UNKNOWN
from hilum.judgement.fairness.limits import Bound
from hilum.judgement.fairness.tables import ALL, GAP_COLUMNS, GROUP_COLUMNS, Judged
from hilum.judgement.stats import CONFIDENCE, grouped_bootstraps, weighted_mean
from hilum.recipe import Audit

METRICS: Final = ("mae", "bias")
GAPS: Final = ("mae", "bias", "worst_group_mae")


def judge(
    truth: NDArray[np.float64],
    predicted: NDArray[np.float64],
    groups: pd.DataFrame,
    patients: pd.Series,
    recipe: Audit,
    own: str = "",
) -> Judged:
    """Errors of a regression in each group, and how far the groups lie apart.

    Args:
        truth: The quantity, NaN where unknown, of shape (N,); unknown rows are left out.
        predicted: What was predicted without having seen the patient, in the same unit, of shape (N,).
        groups: One column per attribute, one row per image (`groups.attributes`).
        patients: Patient of each image.
        recipe: `min_group`, `bootstrap`, `seed`.
        own: The attribute that is made of the quantity itself (`age_band` of the age). Its gaps have no p-value: that
            they are there is known beforehand.

    Returns:
        As `tables.judge`, of METRICS and GAPS in the quantity's unit: `bias` is the mean of predicted minus true, and
        `worst_group_mae` the largest error of any group. A group is sufficient with `min_group` patients. `p_holm` is
        blank: the caller corrects over all that it asks (`gaps.corrected`).
    """
    known = np.isfinite(np.asarray(truth, dtype=float) + np.asarray(predicted, dtype=float))
    y, p = np.asarray(truth, dtype=float)[known], np.asarray(predicted, dtype=float)[known]
    member = groups[known].reset_index(drop=True)
    member.insert(0, ALL, ALL)
    patient = np.asarray(pd.factorize(np.asarray(patients)[known], sort=True)[0], dtype=np.int64)
    rows = {
        (str(attribute), str(group)): of
        for attribute in member
        for group, of in member.groupby(attribute)[attribute].indices.items()
    }
    enough = {name: of for name, of in rows.items() if len(np.unique(patient[of])) >= recipe.min_group}
    drawn = _draw(p - y, patient, enough, recipe)
    judged, compared = [], []
    for (attribute, group), of in rows.items():
        counts = {"n": len(of), "n_patients": len(np.unique(patient[of])), "n_positive": np.nan, "n_negative": np.nan}
        for metric in METRICS:
            found = {"value": np.nan, "low": np.nan, "high": np.nan}
            note = f"{INSUFFICIENT}: {counts['n_patients']} patients; {recipe.min_group} are needed"
            if (attribute, group) in enough:
                ends = np.nanquantile(
                    drawn[attribute, group].drawn[metric], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
                )
                found = {"value": drawn[attribute, group].value[metric], "low": float(ends[0]), "high": float(ends[1])}
                note = ""
            judged.append({"attribute": attribute, "group": group, **counts, "metric": metric, **found, "note": note})
    for attribute in groups.columns:
        of_attribute = {group: one for (name, group), one in drawn.items() if name == attribute and group != UNKNOWN}
        chosen = np.concatenate([rows[attribute, group] for group in of_attribute] or [np.empty(0, dtype=int)])
        sizes = {"n": len(chosen), "n_patients": len(np.unique(patient[chosen])), "n_groups": len(of_attribute)}
        for metric, (bound, note) in _between(of_attribute, recipe.min_group).items():
            row = {"attribute": attribute, **sizes, "metric": metric, **vars(bound), "note": note}
            if own in str(attribute).split("+"):
                row["p"] = np.nan
            compared.append(row)
    return Judged(pd.DataFrame(judged, columns=list(GROUP_COLUMNS)), pd.DataFrame(compared, columns=list(GAP_COLUMNS)))


def _draw(
    error_N: Floats, patient_N: NDArray[np.int64], rows: dict[tuple[str, str], NDArray[np.int64]], recipe: Audit
) -> dict[tuple[str, str], Drawn]:
    asked = {"mae": (weighted_mean, [np.abs(error_N)]), "bias": (weighted_mean, [error_N])}
    drawn = grouped_bootstraps(asked, patient_N, rows, recipe.bootstrap, recipe.seed)
    found = {}
    for g, (name, of) in enumerate(rows.items()):
        found[name] = Drawn(
            {metric: float(drawn[metric].value_G[g]) for metric in METRICS},
            {metric: drawn[metric].replicates(name) for metric in METRICS},
            {},
            {},
            dict.fromkeys(METRICS, len(np.unique(patient_N[of]))),
            float("nan"),
        )
    return found


def _between(of: dict[str, Drawn], min_group: int) -> dict[str, tuple[Bound, str]]:
    if len(of) < 2:
        why = f"{INSUFFICIENT}: fewer than two groups have {min_group} patients"
        return {metric: (Bound(np.nan, np.nan, np.nan, np.nan), why) for metric in GAPS}
    found: dict[str, tuple[Bound, str]] = {}
    for metric in METRICS:
        values: dict[str, Any] = {group: one.value[metric] for group, one in of.items()}
        lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        bound = limits.difference([limits.side(list(of.values()), metric)])
        found[metric] = (bound, f"lowest {metric}: {lowest}, highest: {highest}")
        if metric == "mae":
            one = limits.side(list(of.values()), metric)
            least = limits.lowest(limits.Side(-one.value_G, -one.centre_G, -one.drawn_RG, one.wider_G, -one.other_G))
            worst = Bound(-least.value, max(0.0, -least.high), -least.low, np.nan)
            found["worst_group_mae"] = (worst, f"highest mae: {highest}")
    return {metric: found[metric] for metric in GAPS}

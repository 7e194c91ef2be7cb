"""The gaps between groups by which fairness is usually asked: what each is, and the correction for asking many."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd

from hilum.judgement import stats
from hilum.judgement.fairness import limits
from hilum.judgement.fairness.draws import Drawn
from hilum.judgement.fairness.groups import INSUFFICIENT
from hilum.judgement.fairness.limits import Bound, Side

NO_FINDING: Final = "no_finding"  # the label whose positives are the healthy
GAPS: Final = (
    "auroc", "demographic_parity", "demographic_parity_ratio", "equal_opportunity", "equal_opportunity_ratio",
    "equalized_odds", "equalized_odds_ratio", "equalized_odds_medfair", "predictive_parity", "calibration",
    "underdiagnosis", "worst_group_auroc", "worst_group_tpr",
)  # fmt: skip


def between(of: Mapping[str, Drawn], label: str) -> dict[str, tuple[Bound, str]]:
    """Every gap of GAPS between these groups, each with a note on who is where; two groups at least."""

    def one(metric: str, log: bool = False) -> Side:
        # A rate that some group has not (PPV where nobody is called positive) is compared between the others.
        return limits.side([found for found in of.values() if np.isfinite(found.value[metric])], metric, log)

    def ends(metric: str) -> str:
        values = {group: found.value[metric] for group, found in of.items() if np.isfinite(found.value[metric])}
        return f"lowest {metric}: {min(values, key=values.__getitem__)}, highest: {max(values, key=values.__getitem__)}"

    def named(bound: Bound, note: str = "") -> tuple[Bound, str]:
        if np.isnan(bound.value):
            return Bound(np.nan, np.nan, np.nan, np.nan), "undefined: the rate is zero in every group"
        unsure = np.isnan(bound.low) and np.isfinite(bound.value)
        low, high = (float(np.clip(end, 0.0, 1.0)) for end in (bound.low, bound.high))  # NaN stays NaN
        bound = Bound(bound.value, low, high, bound.p)
        return bound, "; ".join(part for part in (note, "no interval: all resamples agree" if unsure else "") if part)

    odds = [one("tpr"), one("fpr")]
    ratios = [one("tpr", log=True), one("fpr", log=True)]
    missed = one("fpr") if label == NO_FINDING else one("tpr")
    medfair = limits.mean_difference(odds)
    found = {
        "auroc": named(limits.difference([one("auroc")]), ends("auroc")),
        "demographic_parity": named(limits.difference([one("selection_rate")]), ends("selection_rate")),
        "demographic_parity_ratio": named(_as_ratio(limits.difference([one("selection_rate", log=True)]))),
        "equal_opportunity": named(limits.difference(odds[:1]), ends("tpr")),
        "equal_opportunity_ratio": named(_as_ratio(limits.difference(ratios[:1]))),
        "equalized_odds": named(limits.difference(odds)),
        "equalized_odds_ratio": named(_as_ratio(limits.difference(ratios))),
        "equalized_odds_medfair": named(
            Bound(1 - medfair.value, 1 - medfair.high, 1 - medfair.low, np.nan), "1 where groups are alike"
        ),
        "predictive_parity": _if_two(of, "ppv", lambda: named(limits.difference([one("ppv")]), ends("ppv"))),
        "calibration": _if_two(of, "ece", lambda: named(limits.difference([one("ece")]), ends("ece"))),
        "underdiagnosis": named(limits.difference([missed])),
        "worst_group_auroc": named(limits.lowest(one("auroc")), ends("auroc").partition(", highest: ")[0]),
        "worst_group_tpr": named(limits.lowest(one("tpr")), ends("tpr").partition(", highest: ")[0]),
    }
    if label != NO_FINDING:  # the same numbers as equal opportunity: not a question of its own
        bound = found["underdiagnosis"][0]
        found["underdiagnosis"] = (
            Bound(bound.value, bound.low, bound.high, np.nan),
            "the same as equal opportunity: what is not caught is missed",
        )
    else:
        found["underdiagnosis"] = (found["underdiagnosis"][0], ends("fpr"))
    return found


def _if_two(of: Mapping[str, Drawn], metric: str, asked: Callable[[], tuple[Bound, str]]) -> tuple[Bound, str]:
    if sum(np.isfinite(one.value[metric]) for one in of.values()) > 1:
        return asked()
    why = f"{INSUFFICIENT}: defined in fewer than two groups"
    return Bound(np.nan, np.nan, np.nan, np.nan), why


def _as_ratio(logs: Bound) -> Bound:
    """The least ratio from the largest difference of logarithms. The difference has the p-value; see gaps.corrected."""
    return Bound(float(np.exp(-logs.value)), float(np.exp(-logs.high)), float(np.exp(-logs.low)), np.nan)


def corrected(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Gap tables with `p_holm`: Holm's correction (1979) over every gap in all of them that has a `p` of its own.

    Rows that say the same as another in other words (a ratio, MEDFAIR's form) have no `p`, and are not counted twice.
    """
    if not frames:
        return {}
    every = np.concatenate([frame["p"].to_numpy(dtype=float) for frame in frames.values()])
    adjusted = stats.holm(every)
    ends = np.cumsum([len(frame) for frame in frames.values()])[:-1]
    parts = np.split(adjusted, ends)
    return {name: frame.assign(p_holm=part) for (name, frame), part in zip(frames.items(), parts, strict=True)}

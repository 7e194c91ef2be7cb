"""What each mitigation did and what it costs, for those who must choose one, or none."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from hilum.judgement.fairness.forest import FOUND
from hilum.judgement.fairness.gaps import NO_FINDING
from hilum.page import Html, page, table, tag

SPOKEN: Final = {
    "balanced_sampling": "Group-balanced sampling",
    "reweighting": "Reweighting",
    "group_thresholds": "A threshold for each group",
    "leace": "Erasing the attribute (LEACE)",
}
_METRICS: Final = {
    "auroc": "ranking (AUROC)",
    "auprc": "ranking (average precision)",
    "balanced_accuracy": "balanced accuracy",
    "tpr": "sensitivity",
    "fpr": "false-positive rate",
    "ppv": "right when positive (PPV)",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
    "demographic_parity": "called positive",
    "equal_opportunity": "sensitivity",
    "equalized_odds": "sensitivity or false-positive rate, the larger",
    "predictive_parity": "right when positive (PPV)",
    "calibration": "calibration error (ECE)",
    "underdiagnosis": "underdiagnosis",
    "worst_group_auroc": "ranking (AUROC)",
    "worst_group_tpr": "sensitivity",
}
# The label `no_finding` is of the healthy, so that what is caught, and what is falsely called, are other things.
_HEALTHY: Final = {
    "tpr": "healthy called healthy",
    "fpr": "ill called healthy",
    "ppv": "right when called healthy",
    "demographic_parity": "called healthy",
    "equal_opportunity": "healthy called healthy",
    "equalized_odds": "healthy or ill called healthy, the larger",
    "predictive_parity": "right when called healthy",
    "worst_group_tpr": "healthy called healthy",
}
_KINDS: Final = {
    "quality": "everybody",
    "gap": "gap between groups",
    "worst group": "worst group",
    "attribute": "attribute told from the embedding",
}
_FALLING: Final = frozenset({"fpr", "ece", "brier"})  # less is better, as it is of gaps
_TO: Final = "\u2060\u2013\u2060"  # an en dash that no line breaks at


def page_of(facts: Mapping[str, Any], found: pd.DataFrame, caution: str) -> str:
    """The page.

    Args:
        facts: What `mitigation.json` holds.
        found: What `mitigation.csv` holds.
        caution: What a reader must know of the dataset.
    """
    label, attribute = (str(facts[name]).replace("_", " ") for name in ("label", "attribute"))
    modality = {"XR": "X-ray", "MR": "MRI"}[facts["modality"]]
    spoken = _METRICS | (_HEALTHY if facts["label"] == NO_FINDING else {})
    pieces: list[object] = []
    for method, did in facts["methods"].items():
        pieces += [tag("h2", SPOKEN[method]), _did(method, did)]
        rows = found[found["method"] == method] if len(found) else found
        if len(rows):
            pieces += [_cost(rows, spoken), _table(rows, spoken)]
    return page(
        f"Mitigations: {label}, by {attribute}",
        f"{facts['encoder']}, {modality}: the head as it is, and after each method that was asked for, on the same "
        "test patients. Nothing here has been applied: a head that was treated says so itself.",
        [
            *pieces,
            tag("h2", "How to read this"),
            "Before and after are of the same test patients, drawn again and again together, so the interval of the "
            "difference is that of the change itself. 'No clear change' means that its interval holds zero: it may be "
            "no change, or too few patients to see one. 'Perhaps' means that it does not, but that with as many rows "
            "as a method has here, chance alone would show one such now and then (Holm's correction). A gap is the "
            "largest difference between two groups; groups with too few patients take no part.",
            "A smaller gap may be had by serving the better-served group worse. The rows on everybody and on the worst "
            "group show whether it was.",
        ],
        {**{name: str(value) for name, value in facts["run"].items()}, "encoder": str(facts["encoder"])},
        caution,
    )


def _did(method: str, did: Mapping[str, Any]) -> str:
    if not did["done"]:
        return f"Could not be carried out: {did['why']}."
    if method == "balanced_sampling":
        counts = ", ".join(f"{name}: {count:,}" for name, count in did["patients"].items())
        return (
            f"Training patients by group: {counts}. Those of the smaller groups were drawn repeatedly until each group "
            f"had {did['drawn_to']:,}; nobody was left out."
        )
    if method == "reweighting":
        weights = "; ".join(f"{name}: {weight:.2f}" for name, weight in did["weights"].items())
        return (
            "Training images were weighted so that, in the weighted sample, the label is as frequent in one group as "
            f"in another (Kamiran and Calders 2012). Weights: {weights}."
        )
    if method == "group_thresholds":
        rules = "; ".join(f"{name}: {_rule(rule)}" for name, rule in did["rules"].items())
        return (
            "Each group got its own threshold, chosen on training patients that the scoring model had not seen, to "
            f"equalise {did['constraint'].replace('_', ' ')} (fairlearn's ThresholdOptimizer). {rules}. Whoever "
            "decides so must know the patient's group, and must be allowed to use it; where a share of calls is drawn "
            "by lot, two patients with the same score may be called differently."
        )
    few = did["n"] < 10 * did["dim"]
    warned = (
        f" With {did['n']:,} training images for an embedding of width {did['dim']:,}, what was erased is partly "
        "chance of these images: on others some of the attribute remains."
        if few
        else ""
    )
    return (
        f"The attribute was taken out of the embedding in {did['rank']} direction(s), learnt on {did['n']:,} training "
        "images, so that no linear probe tells it on them (Belrose and others 2023); a probe that is not linear still "
        f"may.{warned}"
    )


def _rule(rule: Mapping[str, Any]) -> str:
    """`above 0.42 (0.40 for 15 of 100)`, and how often the score is not asked."""
    parts = []
    for step in sorted(rule["steps"], key=lambda step: -float(step["share"])):
        if step["share"] < 0.005:
            continue
        side = "above" if step["above"] else "below"
        where = "never" if step["threshold"] is None else f"positive {side} {step['threshold']:.3f}"
        parts.append(where if step["share"] > 0.995 else f"{where} for {100 * step['share']:.0f} of 100, by lot")
    said = ", ".join(parts)
    if rule["by_lot"] > 0.005:
        said += (
            f"; {100 * rule['by_lot']:.0f} of 100 are called without asking the score, "
            f"{100 * rule['called']:.0f} of 100 of them positive"
        )
    return said


def _cost(rows: pd.DataFrame, spoken: Mapping[str, str]) -> str:
    """One sentence on what everybody pays."""
    quality = rows[rows["kind"] == "quality"].set_index("metric")
    parts = []
    for metric, name in (("auroc", "AUROC"), ("tpr", spoken["tpr"]), ("fpr", spoken["fpr"])):
        if metric in quality.index and pd.notna(quality.loc[metric, "difference"]):
            row = quality.loc[metric]
            interval = "" if pd.isna(row["low"]) else f" ({row['low']:+.3f} to {row['high']:+.3f})"
            parts.append(f"{name} {row['difference']:+.3f}{interval}")
    return f"What it costs everybody: {', '.join(parts)}." if parts else "What it costs cannot be said on these images."


def _table(rows: pd.DataFrame, spoken: Mapping[str, str]) -> Html:
    cells = []
    for row in rows.to_dict("records"):
        short = pd.isna(row["difference"])
        shown = [_cell(row, "before"), _cell(row, "after"), "" if short else _difference(row)]
        verdict = tag("span", row["note"], "doubt") if short else _verdict(row)
        cells.append((_KINDS[row["kind"]], spoken.get(row["metric"], row["metric"]), *shown, verdict))
    return table(["of", "what", "before", "after", "difference (95% interval)", "reading"], cells)


def _cell(row: Mapping[str, Any], name: str) -> str:
    if pd.isna(row[name]):
        return ""
    if pd.isna(row[f"{name}_low"]):
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f}{_TO}{row[f'{name}_high']:.3f})"


def _difference(row: Mapping[str, Any]) -> str:
    if pd.isna(row["low"]):
        return f"{row['difference']:+.3f}"
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def _verdict(row: Mapping[str, Any]) -> object:
    if row["note"]:
        return str(row["note"])
    if not (row["low"] > 0 or row["high"] < 0):
        return "no clear change"
    rose = row["low"] > 0
    sure = row["p_holm"] < FOUND
    if row["kind"] == "attribute":
        return "told better" if rose else "told less well"
    better = rose != (row["kind"] == "gap" or row["metric"] in _FALLING)
    said = "better" if better else "worse"
    return tag("span", said, "good" if better else "bad") if sure else f"perhaps {said}"

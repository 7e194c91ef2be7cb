"""What the audit of the released encoder found: groups, gaps, shortcuts, drift and mitigations, as Markdown."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from hilum.data.rules import counted
from hilum.judgement.fairness.groups import INSUFFICIENT
from hilum.judgement.fairness.mitigation_page import SPOKEN
from hilum.judgement.fairness.page_tables import asked, attribute_name, calls, cell, ends
from hilum.judgement.leaderboard.columns import LEVEL
from reports import markdown
from reports.reading import Report

SHOWN: Final = ("auroc", "tpr", "fpr", "ppv", "ece")  # of a group; fairness.csv has the rest
BEFORE_AFTER: Final = {  # of a mitigation: kind and metric, and what they are called; the label decides the rest
    ("quality", "auroc"): "everybody: AUROC",
    ("quality", "tpr"): "everybody: {tpr}",
    ("quality", "fpr"): "everybody: {fpr}",
    ("worst group", "worst_group_tpr"): "worst group: {tpr}",
    ("gap", "equal_opportunity"): "gap: {tpr}",
    ("gap", "equalized_odds"): "gap: {tpr} or {fpr}, the larger",
}


def answer(report: Report) -> list[str]:
    """The head of the released encoder, for everybody and by group."""
    head, label, gate = report.head, markdown.spoken(report.label), report.gate
    title = f"## The answer for {label}, by group"
    if not head["answered"]:
        return [title, f"`{gate.encoder}` gives no answer: {head['why']}."]
    groups = report.fairness[(report.fairness["kind"] == "group") & (report.fairness["target"] == report.label)]
    named = _named(report.label)
    lines, short = [], dict[str, list[str]]()
    for (attribute, group), rows in groups.groupby(["attribute", "group"], sort=False):
        known = rows.set_index("metric")
        first = known.loc["auroc"]
        if str(first["note"]).startswith(INSUFFICIENT):
            said = f"{group} ({counted(int(first['n_patients']), 'patient')})"
            short.setdefault(str(attribute), []).append(said)
            continue
        counts = (f"{first['n']:,} of {first['n_patients']:,}", f"{int(first['n_positive']):,}")
        cells = [markdown.plain(cell(known.loc[name])) for name in SHOWN]
        lines.append((attribute_name(str(attribute)), "" if attribute == "all" else group, *counts, *cells))
    header = ("group of", "group", "images of patients", f"with {label}", *(named[name] for name in SHOWN))
    return [
        title,
        f"`{gate.encoder}` with its head ({head['method'].partition(';')[0]}), at the threshold "
        f"{head['threshold']:.3g} ({head['threshold_rule']}) that was locked on training patients. A group is judged "
        f"where {report.recipe.audit.min_group} patients have the label and as many have not.",
        markdown.table(header, lines),
        "\n".join(["Insufficient data:", "", *(_too_small(name, of) for name, of in short.items())]) if short else "",
    ]


def _too_small(attribute: str, groups: list[str]) -> str:
    """The groups of an attribute by name; those of an intersection by their number."""
    if "+" in attribute:
        return f"- {attribute_name(attribute)}: {counted(len(groups), 'group')}"
    return f"- {attribute_name(attribute)}: {'; '.join(groups)}"


def gaps(report: Report) -> list[str]:
    """How far groups lie apart."""
    every = report.fairness
    table, read = every[every["kind"] == "gap"], every[every["kind"] == "regression gap"]
    lines, short = [], []
    for attribute, rows in table.groupby("attribute", sort=False):
        known = rows.set_index("metric")
        if not known.loc["auroc", "n_groups"] > 1:
            short.append(attribute_name(str(attribute)))
            continue
        for metric, question in asked(report.label).items():
            row = known.loc[metric]
            lines.append((attribute_name(str(attribute)), question, *_gap(row)))
    for row in read[read["metric"] == "mae"].to_dict("records"):
        if pd.notna(row["value"]):
            name = f"Is {markdown.spoken(row['target'])} read equally well? (mean absolute error)"
            lines.append((attribute_name(row["attribute"]), name, *_gap(row)))
    n = int(report.fairness["p_holm"].notna().sum())
    return [
        "## Gaps between groups",
        f"Largest difference between two groups, with a 95% interval over patients; p is corrected over all {n} gaps "
        "that were tested (Holm)."
        if lines
        else "No two groups of any attribute could be compared.",
        markdown.table(("between groups of", "question", "gap", "p, corrected", "reading", "where"), lines)
        if lines
        else "",
        f"Insufficient data to compare groups of: {', '.join(short)}." if short else "",
    ]


def _gap(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if pd.isna(row["value"]):
        return str(row["note"]), "", INSUFFICIENT, ""
    p = row["p_holm"]
    reading = "" if pd.isna(p) else "established" if p < LEVEL else "not established"
    return (
        markdown.plain(cell(row)),
        "" if pd.isna(p) else markdown.p_value(p),
        reading,
        "" if pd.isna(row["note"]) else ends(row["note"]),
    )


def shortcuts(report: Report) -> list[str]:
    """What else the embedding tells."""
    said = report.shortcuts
    lines = []
    for one in said["entries"]:
        told, ranks = (markdown.bounds(one, "auroc"), markdown.bounds(one["association"] or {}, "auroc"))
        counts = f"{one['n']:,} of {one['n_patients']:,}"
        lines.append((attribute_name(one["attribute"]), counts, told, ranks, f"**{one['verdict']}**"))
    more = [one["words"] for one in said["positions"] if one["found"]]
    more += [one["words"] for one in said["clusters"]["found"]]
    return [
        f"## Shortcuts to {markdown.spoken(report.label)}",
        f"What else `{said['encoder']}`'s embedding of all {said['n_images']:,} images tells, within images of the "
        "same label, and how well that alone would rank the label.",
        markdown.table(("attribute", "images of patients", "told, AUROC", "ranks the label, AUROC", "verdict"), lines),
        "\n".join(f"- {one['words']}" for one in said["entries"]),
        "\n".join(["Where images lie, and groups that lie apart:", "", *(f"- {one}" for one in more)]) if more else "",
        "Not asked: " + "; ".join(f"{attribute_name(k)} ({why})" for k, why in said["not_asked"].items()) + "."
        if said["not_asked"]
        else "",
    ]


def drift(report: Report) -> list[str]:
    """The test split against the train split."""
    drift = report.audit["drift"]
    measured = {name: one for name, one in drift["columns"].items() if one["distance"] is not None}
    left = [f"{attribute_name(name)} ({one['note']})" for name, one in drift["columns"].items() if name not in measured]
    lines = [
        (attribute_name(name), f"{one['distance']:.3f}", f"{one['limit']:.3f}", "yes" if one["drifted"] else "no")
        for name, one in measured.items()
    ]
    changed = sum(one["drifted"] for one in measured.values())
    verdict = (
        "" if drift["drifted"] is None else f", so it {'counts' if drift['drifted'] else 'does not count'} as drift"
    )
    return [
        "## Drift of the test split from the train split",
        f"{changed} of {len(measured)} columns differ by more than chance allows{verdict} (from a share of "
        f"{report.recipe.audit.drift_share:.0%} on)."
        if measured
        else "No column could be compared.",
        markdown.table(("column", "distance", "limit", "differs"), lines),
        f"Left out: {'; '.join(left)}." if left else "",
    ]


def mitigation(report: Report) -> list[str]:
    """Before and after each method, and what it costs."""
    section = report.recipe.mitigation
    if report.mitigation is None or report.treated is None:
        return ["## Mitigations", "The recipe asks for none."]
    named = _named(report.label)
    lines, short = [], dict[str, str]()
    for method, rows in report.mitigation.groupby("method", sort=False):
        known = rows.set_index(["kind", "metric"])
        wanted = {key: title.format(tpr=named["tpr"], fpr=named["fpr"]) for key, title in BEFORE_AFTER.items()}
        told = known.index.get_level_values("kind") == "attribute"
        wanted |= {key: f"{section.attribute} told ({key[1]}), AUROC" for key in known.index[told]}
        for key, title in wanted.items():
            if key in known.index and pd.isna(known.loc[key, "difference"]):
                short.setdefault(title, str(known.loc[key, "note"]))
            elif key in known.index:
                lines.append((SPOKEN[str(method)], title, *_changed(known.loc[key])))
    undone = [
        f"{SPOKEN[name]} could not be carried out: {did['why']}."
        for name, did in report.treated["methods"].items()
        if not did["done"]
    ]
    applied = "none of them" if section.applied == "none" else SPOKEN[section.applied]
    return [
        f"## Mitigations of gaps by {attribute_name(section.attribute)}",
        f"Tried on the head of `{report.gate.encoder}` and measured on the same test patients; applied to it: "
        f"{applied}. The difference has a paired 95% interval; p is corrected over all rows of a method (Holm), more "
        "than are shown here. What a method costs everybody stands in its first rows.",
        markdown.table(("method", "what", "before", "after", "difference", "p, corrected", "reading"), lines)
        if lines
        else "",
        " ".join(undone),
        "Not compared: " + "; ".join(f"{', '.join(of)} ({why})" for why, of in markdown.grouped(short).items()) + "."
        if short
        else "",
    ]


def _changed(row: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = (
        markdown.interval({"value": row[side], "low": row[f"{side}_low"], "high": row[f"{side}_high"]}, 2)
        for side in ("before", "after")
    )
    if pd.isna(row["low"]):
        return before, after, f"{row['difference']:+.3f}", "", "" if pd.isna(row["note"]) else str(row["note"])
    bounds = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    reading = "established" if row["p_holm"] < LEVEL else "no clear change"
    return before, after, bounds, markdown.p_value(row["p_holm"]), reading


def _named(label: str) -> dict[str, str]:
    """What the metrics are called; of the healthy, a false positive is an ill patient called healthy."""
    told = {"auroc": "AUROC", "ece": "calibration error (ECE)", **calls(label)}
    return {"fpr": told["underdiagnosis"], **told}

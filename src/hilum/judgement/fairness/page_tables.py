"""The tables of the fairness page, and what clinicians call things."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from hilum.judgement.fairness.gaps import NO_FINDING
from hilum.judgement.fairness.groups import INSUFFICIENT
from hilum.judgement.fairness.tables import ALL, Judged
from hilum.page import Html, table, tag

# How a clinician would name them, in the order of the tables: of the calls, and of the scores behind them.
CALLS: Final = {
    "tpr": "caught (sensitivity)",
    "fpr": "false alarms",
    "ppv": "right when positive (PPV)",
    "underdiagnosis": "underdiagnosed",
    "selection_rate": "called positive",
    "tpr_disparity": "caught, less the median group",
}
SCORES: Final = {
    "auroc": "ranking (AUROC)",
    "auprc": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
}
QUESTIONS: Final = {
    "auroc": "Are patients with the finding ranked above those without equally well? (AUROC)",
    "equal_opportunity": "Is the finding, where present, caught equally often? (equal opportunity)",
    "equalized_odds": "Are both hits and false alarms equally frequent? (equalized odds)",
    "predictive_parity": "Is a positive call right equally often? (predictive parity)",
    "calibration": "Are probabilities equally well calibrated? (ECE)",
    "demographic_parity": "Are groups called positive equally often? They need not be, where the finding is not. "
    "(demographic parity)",
    "underdiagnosis": "Are ill patients called healthy equally often? (underdiagnosis)",
}
# The label `no finding` is of the healthy, so that what is caught, and what is falsely called, are other things.
_HEALTHY_CALLS: Final = {
    "tpr": "healthy called healthy",
    "underdiagnosis": "ill called healthy (underdiagnosed)",
    "ppv": "right when called healthy",
    "selection_rate": "called healthy",
    "tpr_disparity": "healthy called healthy, less the median group",
}
_HEALTHY_QUESTIONS: Final = {
    "auroc": "Are the healthy ranked above the ill equally well? (AUROC)",
    "equal_opportunity": "Are the healthy called healthy equally often? (equal opportunity)",
    "equalized_odds": "Are both the healthy and the ill called healthy equally often? (equalized odds)",
    "predictive_parity": "Is a call of health right equally often? (predictive parity)",
    "demographic_parity": "Are groups called healthy equally often? They need not be, where they are not. "
    "(demographic parity)",
}
_CHANCE: Final = {"ece": "ECE if perfectly calibrated"}  # what chance alone makes of a metric, in the column after it
_RATIOS: Final = {
    "equal_opportunity": "equal_opportunity_ratio",
    "equalized_odds": "equalized_odds_ratio",
    "demographic_parity": "demographic_parity_ratio",
}
_ATTRIBUTES: Final = {ALL: "everybody", "age_band": "age (years)", "source": "dataset of origin"}
_REGRESSIONS: Final = {"age": ("Age read from the image", "years")}
_TO: Final = "\u2060\u2013\u2060"  # an en dash that no line breaks at


def asked(label: str) -> dict[str, str]:
    """The questions that gaps answer; underdiagnosis is one of its own where the label is `no finding` only."""
    if label == NO_FINDING:
        return QUESTIONS | _HEALTHY_QUESTIONS
    return {name: said for name, said in QUESTIONS.items() if name != "underdiagnosis"}


def calls(label: str) -> dict[str, str]:
    """What the metrics of calls are called."""
    return dict(_HEALTHY_CALLS if label == NO_FINDING else CALLS)


def ends(note: object) -> str:
    """`lowest in F, highest in M` from a gap's note."""
    said = str(note)
    if not said.startswith("lowest "):
        return said
    low, _, high = said.partition(", highest: ")
    return f"lowest in {low.partition(': ')[2]}, highest in {high}"


def gap_table(gaps: pd.DataFrame, label: str) -> Html:
    """Every gap of every attribute with two groups that could be judged."""
    rows = []
    for attribute in dict.fromkeys(gaps["attribute"]):
        known = gaps[gaps["attribute"] == attribute].set_index("metric")
        if known.loc["auroc", "n_groups"] < 2:
            continue  # listed among what is not known
        for metric, question in asked(label).items():
            row = known.loc[metric]
            short = pd.isna(row["value"])
            value = tag("span", INSUFFICIENT, "doubt") if short else cell(row)
            ratio = known.loc[_RATIOS[metric]] if metric in _RATIOS else None
            said = "" if ratio is None or pd.isna(ratio["value"]) else cell(ratio)
            p = "" if pd.isna(row["p_holm"]) else _p(float(row["p_holm"]))
            rows.append((attribute_name(attribute), question, value, said, p, ends(row["note"])))
    columns = ["between groups of", "question", "gap (95% interval)", "ratio", "p, corrected", "where"]
    return table(columns, rows) if rows else tag("p", "No two groups of any attribute have enough patients.")


def worst(gaps: pd.DataFrame, label: str) -> Html:
    """The worst-served group of each attribute, and MEDFAIR's score."""
    rows = []
    for attribute in dict.fromkeys(gaps["attribute"]):
        known = gaps[gaps["attribute"] == attribute].set_index("metric")
        if known.loc["auroc", "n_groups"] > 1:
            worst = [known.loc[name] for name in ("worst_group_auroc", "worst_group_tpr")]
            cells = [part for row in worst for part in (cell(row), str(row["note"]).partition(": ")[2])]
            medfair = known.loc["equalized_odds_medfair"]
            rows.append((attribute_name(attribute), *cells, cell(medfair)))
    columns = ["worst group of", "AUROC", "in", calls(label)["tpr"], "in", "alike in odds (MEDFAIR, 1 is best)"]
    return table(columns, rows) if rows else Html("")


def group_table(judged: pd.DataFrame, spoken: Mapping[str, str]) -> Html:
    """The groups that could be judged, by some metrics; `spoken` names them."""
    rows = []
    titles = [title for m in spoken for title in (spoken[m], _CHANCE.get(m)) if title]
    for (attribute, group), members in judged.groupby(["attribute", "group"], sort=False):
        known = members.set_index("metric")
        first = known.iloc[0]
        if str(first["note"]).startswith(INSUFFICIENT) and attribute != ALL:
            continue
        counts = (f"{first['n']:,}", f"{first['n_patients']:,}", f"{first['n_positive']:,}")
        cells = []
        for metric in spoken:
            row = known.loc[metric]
            cells.append("" if str(row["note"]).startswith("undefined: th") else cell(row))
            if metric in _CHANCE:
                cells.append("" if pd.isna(row["chance"]) else f"{row['chance']:.3f}")
        rows.append((attribute_name(str(attribute)), "" if attribute == ALL else group, *counts, *cells))
    columns = ["attribute", "group", "images", "patients", "images with the label", *titles]
    return table(columns, rows, numeric=columns[2:5])


def too_small(judged: pd.DataFrame, gaps: pd.DataFrame) -> list[object]:
    """The groups that could not be judged, a line for each attribute."""
    short = judged[(judged["metric"] == "auroc") & judged["note"].str.startswith(INSUFFICIENT)]
    short = short[short["attribute"] != ALL]
    if short.empty:
        return []
    rows = []
    for attribute, members in short.groupby("attribute", sort=False):
        named = "; ".join(f"{row.group} ({row.n_patients:,} patients)" for row in members.itertuples())
        enough = int(gaps.loc[gaps["attribute"] == attribute, "n_groups"].max())
        rows.append((attribute_name(str(attribute)), enough, named))
    return [
        tag("h2", "Too few patients to be judged"),
        table(["attribute", "groups judged", "insufficient data"], rows, numeric=["groups judged"]),
    ]


def regressions(found: Mapping[str, Judged]) -> list[object]:
    """A heading, a word and two tables for each quantity that is read from the image."""
    pieces: list[object] = []
    for task, judged in found.items():
        title, unit = _REGRESSIONS.get(task, (f"{task.replace('_', ' ')} read from the image", "its own unit"))
        rows = []
        for (attribute, group), members in judged.groups.groupby(["attribute", "group"], sort=False):
            known = members.set_index("metric")
            first = known.iloc[0]
            if str(first["note"]).startswith(INSUFFICIENT):
                continue
            name = "" if attribute == ALL else group
            cells = [cell(known.loc[metric]) for metric in ("mae", "bias")]
            rows.append((attribute_name(str(attribute)), name, f"{first['n']:,}", f"{first['n_patients']:,}", *cells))
        gap_rows = [
            (attribute_name(row["attribute"]), {"mae": "error", "bias": "bias"}[row["metric"]], cell(row),
             "" if pd.isna(row["p_holm"]) else _p(row["p_holm"]), ends(row["note"]))
            for row in judged.gaps.to_dict("records")
            if row["metric"] in ("mae", "bias") and pd.notna(row["value"])
        ]  # fmt: skip
        columns = ["attribute", "group", "images", "patients", f"mean absolute error ({unit})", f"bias ({unit})"]
        pieces += [
            tag("h2", title),
            "The bias is what is read less what is true, on average. A reading that cannot be sure is drawn towards "
            "the middle, so by bands of the quantity itself the low are read too high and the high too low.",
            table(columns, rows, numeric=["images", "patients"]),
            table(["between groups of", "gap in", f"gap ({unit})", "p, corrected", "where"], gap_rows),
        ]
    return pieces


def cell(row: Any) -> str:
    """`0.81 (0.74–0.88)`, the interval kept on one line; what is missing is said."""
    if pd.isna(row["value"]):
        return INSUFFICIENT if str(row["note"]).startswith(INSUFFICIENT) else "undefined"
    digits = 2 if abs(row["value"]) < 10 else 1
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return f"{row['value']:.{digits}f} (no interval)"
    signed = f"{row['low']:.{digits}f} to {row['high']:.{digits}f}"
    plain = f"{row['low']:.{digits}f}{_TO}{row['high']:.{digits}f}"
    return f"{row['value']:.{digits}f} ({signed if row['low'] < 0 else plain})"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def attribute_name(name: str) -> str:
    """An attribute as people say it."""
    return _ATTRIBUTES.get(name, name.replace("age_band", "age").replace("+", " and ").replace("_", " "))

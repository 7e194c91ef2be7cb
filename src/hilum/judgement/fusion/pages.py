"""How the fusion ladder is shown: as Markdown and as a page, with the words that keep a reader from over-reading."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hilum.page import page, table, tag, write_page

MARKDOWN: Final = "fusion.md"
PAGE: Final = "fusion.html"
WORDS: Final = (
    "Every fusion had the same learning rates, seeds, epochs and patience, and was chosen on val; test was scored "
    "once. Brackets are 95% intervals from resampling patients.",
    "The gain is the AUROC above image_only of the same mode on the same patients, resampled as one; for tabular_only, "
    "above the first mode's. Only where its interval excludes 0 are the two told apart.",
    "Rows are measured where any covariate is known. Where who is measured depends on the finding, a part of a gain "
    "may come from the habit of measuring rather than from what was measured: what the gaps alone say is given below.",
)
HEADER: Final = (
    "mode", "fusion", "rows", "AUROC", "AUPRC", "Brier", "gain in AUROC", "images", "positive", "patients", "chosen",
)  # fmt: skip
NUMERIC: Final = ("images", "positive", "patients")


def write(scores: pd.DataFrame, facts: Mapping[str, Any], out: Path) -> None:
    """Write `fusion.md` and `fusion.html`.

    Args:
        scores: What `fusion.csv` holds.
        facts: What `fusion.json` says.
        out: An existing folder.
    """
    title = f"Fusion with covariates: {facts['label'].replace('_', ' ')}"
    lead = f"{facts['encoder']} on {facts['modality']}, fine-tuned for {facts['label'].replace('_', ' ')}. {WORDS[0]}"
    lines = _lines(scores, facts)
    text = [f"# {title}", "", lead, ""]
    text += [f"> {facts['caution']}", ""] if facts["caution"] else []
    text += [_markdown(HEADER, lines), "", *(f"{words}\n" for words in WORDS[1:])]
    sections: list[object] = [table(HEADER, lines, NUMERIC), *WORDS[1:]]
    for words in _further(facts):
        text.append(f"{words}\n")
        sections.append(words)
    if facts.get("measured"):
        columns = ("attribute", "group", "share measured", "images", "patients")
        who = [
            (one["attribute"], one["group"], _interval(one["value"], one["low"], one["high"]), f"{one['n']:,}",
             f"{one['n_patients']:,}")
            for one in facts["measured"]
        ]  # fmt: skip
        text += ["## Who was measured, in the test split", "", _markdown(columns, who), ""]
        sections += [tag("h2", "Who was measured, in the test split"), table(columns, who, ("images", "patients"))]
    text += [", ".join(f"{name.replace('_', ' ')} `{value}`" for name, value in facts["run"].items()), ""]
    partial = out / f"{MARKDOWN}.partial"
    partial.write_text("\n".join(text), encoding="utf-8")
    partial.replace(out / MARKDOWN)
    write_page(out / PAGE, page(title, lead, sections, facts["run"], facts["caution"]))


def _lines(scores: pd.DataFrame, facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    lines = []
    for (mode, fusion, rows), part in scores.groupby(["mode", "fusion", "rows"], sort=False):
        by_metric = part.set_index("metric")
        one = by_metric.loc["auroc"]
        cells = [
            str(by_metric.loc[name, "note"])
            if pd.isna(by_metric.loc[name, "value"])
            else _interval(*by_metric.loc[name, ["value", "low", "high"]])
            for name in ("auroc", "auprc", "brier")
        ]
        chosen = facts["trials"][fusion if mode == "none" else f"{mode} {fusion}"] if rows == "all" else ""
        counts = [f"{int(one[name]):,}" for name in ("n", "n_positive", "n_patients")]
        gain = _gain(one["gain"], one["gain_low"], one["gain_high"])
        lines.append((mode.replace("_", " "), fusion.replace("_", " "), rows, *cells, gain, *counts, chosen))
    return lines


def _further(facts: Mapping[str, Any]) -> list[str]:
    said = []
    for mode, one in facts["gated_over_concatenation"].items():
        said.append(
            f"Gated over concatenation, {mode.replace('_', ' ')}: "
            f"{_gain(one['value'], one['low'], one['high']) or one['note']}."
        )
    alone = facts.get("missingness_alone_auroc")
    if alone:
        shown = alone["note"] if alone["value"] is None else _interval(alone["value"], alone["low"], alone["high"])
        said.append(f"Which covariates are missing, without any value, has an AUROC of {shown}.")
    trees = facts.get("trees")
    if trees and trees["left_out"]:
        said.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in trees["left_out"].items()) + ".")
    return said


def _interval(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return f"{value:.3f} (no interval)"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _gain(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None or pd.isna(value) or pd.isna(low):
        return ""
    word = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}], {word}"


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if name in NUMERIC else "---" for name in header]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))

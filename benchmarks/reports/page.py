"""What a page says; every figure is read from a file of the run (reports.reading)."""

import math
from itertools import groupby
from pathlib import Path
from typing import Final

import pandas as pd

from hilum.judgement.fairness.groups import INSUFFICIENT
from hilum.judgement.fairness.page_tables import attribute_name, ends
from hilum.judgement.gate.criteria import NOT_ASKED, Criterion, figures
from hilum.judgement.gate.evidence import FLOOR
from hilum.judgement.leaderboard import answers, columns, words
from hilum.recipe import digest
from reports import findings, markdown
from reports.reading import Report, headline

TITLES: Final = {
    "nih": "the NIH ChestX-ray14 sample",
    "covid_chestxray": "covid-chestxray-dataset",
    "kermany": "the Kermany sample (children)",
    "oasis": "OASIS-1 (brain MRI)",
}
SPLITS: Final = {"train": "train", "val": "validation", "test": "test (held out)"}


def write(report: Report) -> str:
    """The page, in Markdown."""
    gate, facts = report.gate, report.facts
    label = markdown.spoken(report.label)
    fate = (
        "The gate lets the release pass."
        if gate.passes
        else f"The gate does not let `{gate.encoder}` be released ({gate.verdict}); nothing was exported."
    )
    blocks = [
        f"# Report on {TITLES.get(facts['layout'], facts['layout'])}: {label}",
        f"{facts['n_images']:,} images of {facts['n_patients']:,} patients at {facts['preprocessing']['size']} pixels. "
        f"{facts['caution']} {fate} What follows is the summary of one run of the whole pipeline; every figure is read "
        "from the run's own files, none was typed. The reports themselves, which show images, lie in "
        f"out/reports/{facts['layout']}/index.html after",
        f"```sh\nmake reports SOURCES=~/images DATASETS={facts['layout']}\n```",
        *_data(report),
        *_scores(report),
        *_few_labels(report),
        *findings.answer(report),
        *findings.gaps(report),
        *findings.shortcuts(report),
        *findings.drift(report),
        *findings.mitigation(report),
        *_gate(report),
        *_origin(report),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _data(report: Report) -> list[str]:
    counts, facts = report.cohort, report.facts
    splits = [(SPLITS[row["split"]], f"{row['n']:,}", f"{row['n_patients']:,}") for row in counts["splits"] if row["n"]]
    names = ("present", "absent", "uncertain", "unknown")
    kept = [name for name in names if any(row[name] for row in counts["labels"])]
    labels = [(markdown.spoken(row["label"]), *(f"{row[name]:,}" for name in kept)) for row in counts["labels"]]
    known = []
    for attribute, rows in groupby(counts["groups"], key=lambda row: row["attribute"]):
        said = "; ".join(f"{row['group']} {row['n']:,} of {row['n_patients']:,}" for row in rows)
        known.append(f"- {attribute_name(attribute)}: {said}")
    checks = report.validation.checks
    remarks = [f"- {one.asks} {one.observed[:1].upper()}{one.observed[1:]}." for one in report.validation.warnings]
    return [
        "## The data",
        markdown.table(("split", "images", "patients"), splits),
        markdown.table(("label", *(f"images, {name}" for name in kept)), labels),
        "Images of patients, by group:",
        "\n".join(known),
        f"Validation: {sum(one.ok for one in checks)} of {len(checks)} checks held"
        + (", and none of the others stops a run:" if remarks else ".")
        if report.validation.ok
        else "Validation refused the dataset.",
        "\n".join(remarks),
        f"Licence: {facts['licence']}. {facts['citation']}.",
    ]


def _scores(report: Report) -> list[str]:
    lines, missing = [], {}
    for task, rows in report.scores.groupby("task", sort=False):
        metric = answers.headline(str(task), str(rows["kind"].iloc[0]))
        shown = rows[rows["metric"] == metric].set_index("encoder")
        first = shown.iloc[0]
        if pd.isna(first["value"]):
            missing[markdown.spoken(str(task))] = str(first["note"]).removeprefix(f"{INSUFFICIENT}: ")
            continue
        digits = 2 if metric == "mae" else 3
        unit = " (years; less is better)" if task == "age" else ""
        positive = "" if pd.isna(first["n_positive"]) else f", {int(first['n_positive']):,} positive"
        lines.append(
            (
                markdown.spoken(words.title(str(task))),
                f"{words.METRICS[metric]}{unit}",
                f"{first['n']:,} of {first['n_patients']:,}{positive}",
                markdown.number(first["chance"], digits - 1),
                *(markdown.interval(shown.loc[name], digits) for name in report.encoders),
                *(_gain(report, f"{task}_{metric}", name, digits) for name in report.encoders if name != FLOOR),
            )
        )
    header = ("what is read", "score", "images of patients", "chance", *(f"`{name}`" for name in report.encoders))
    gains = [f"`{name}` over `{FLOOR}`" for name in report.encoders if name != FLOOR]
    train = next(row for row in report.cohort["splits"] if row["split"] == "train")
    why = [f"{', '.join(names)}: {reason}" for reason, names in markdown.grouped(missing).items()]
    return [
        "## What a probe reads from the embeddings",
        f"`{FLOOR}`, the principal components of the images, is the floor. "
        f"{_learned(report)} from the {train['n']:,} images of {train['n_patients']:,} patients of the train split. "
        f"The probe is {words.MACHINES[headline(report.recipe)]}, named beforehand, its settings chosen within the "
        "training patients; scores are of the test split's patients, whom nothing has seen, with 95% intervals from "
        "resampling patients. The gain is of a paired comparison on the same patients, positive where the encoder is "
        "better; what it establishes is said by a permutation test at 5% and not by the interval beside it, and lines "
        "are questions of their own, not corrected for each other. An interval without width says that no resample "
        "erred.",
        markdown.table((*header, *gains), lines),
        "Not scored: " + "; ".join(why) + "." if why else "",
    ]


def _learned(report: Report) -> str:
    said = []
    for encoder in report.recipe.encoders:
        if encoder.name == FLOOR:
            continue
        train = report.recipe.train_of(encoder.name, next(iter(report.gate.answered)))
        labels = getattr(encoder, "labels", ()) or getattr(encoder, "target_labels", ())
        told = f"with the labels {', '.join(labels)}" if labels else "without any label"
        said.append(f"`{encoder.name}` learned {told} in {train.epochs} epochs")
    return "; ".join(said)


def _gain(report: Report, column: str, name: str, digits: int) -> str:
    """What an encoder's probe gains over the floor's, and whether that is established."""
    table, pair = report.comparisons, {f"{FLOOR} {answers.PROBE}", f"{name} {answers.PROBE}"}
    found = [row for row in table[table["column"] == column].to_dict("records") if {row["a"], row["b"]} == pair]
    if not found or pd.isna(found[0]["difference"]):
        return markdown.DASH
    row = found[0]
    sign = -1 if row["a"].startswith(f"{FLOOR} ") else 1
    value, low, high = (sign * row[key] + 0.0 for key in ("difference", "low", "high"))  # never -0.000
    word = "not told apart" if not row["p_holm"] < columns.LEVEL else "better" if value > 0 else "worse"
    bounds = sorted((low, high)) if math.isfinite(low) and math.isfinite(high) else []
    shown = f" [{bounds[0]:+.{digits}f}, {bounds[1]:+.{digits}f}]" if bounds else ""
    return f"{value:+.{digits}f}{shown}, {word}"


def _few_labels(report: Report) -> list[str]:
    table = report.efficiency[report.efficiency["label"] == report.label]
    section = report.recipe.probe.efficiency
    lines, short = [], {}
    for fraction in sorted(section.fractions):
        of_it = table[table["fraction"] == fraction].groupby("encoder").first()
        if of_it.empty:
            continue
        cells = [markdown.interval(of_it.loc[name].rename({"mean": "value"}), 3) for name in report.encoders]
        if of_it["mean"].isna().all():
            short[f"{fraction:.0%}"] = str(of_it["note"].iloc[0]).removeprefix(f"{INSUFFICIENT}: ")
            continue
        patients = table.loc[(table["fraction"] == fraction), "n_patients"].dropna()
        lines.append((f"{fraction:.0%}", f"{patients.mean():,.0f}" if len(patients) else markdown.DASH, *cells))
    return [
        f"## Few labels: {markdown.spoken(report.label)}",
        f"AUROC on the whole test split of a {_machine(section.kernel)} that learned from some of the training "
        f"patients, mean of {section.draws} draws (of all of them there is one); the same draws for every encoder. The "
        "interval holds the chance of the test patients and, below 100%, that of the draws."
        if lines
        else f"No share of the training patients holds enough cases of {markdown.spoken(report.label)}.",
        markdown.table(("share", "patients", *(f"`{name}`" for name in report.encoders)), lines),
        f"{INSUFFICIENT.capitalize()} at {'; '.join(f'{share} ({why})' for share, why in short.items())}."
        if short
        else "",
    ]


def _machine(kernel: str) -> str:
    return {"logistic": "logistic regression", "knn": "k-nearest-neighbours vote", "mlp": "multilayer perceptron"}.get(
        kernel, f"support vector machine ({kernel} kernel)"
    )


def _gate(report: Report) -> list[str]:
    gate = report.gate
    asked_of = [one for one in gate.criteria if one.verdict != NOT_ASKED]
    lines = [
        (
            one.asks,
            f"{one.bound} {one.tolerance:g}",
            figures(one.value, one.low, one.high, one.criterion),
            _on(one),
            f"**{one.verdict}**",
            _why(one),
        )
        for one in asked_of
    ]
    rest = [f"{one.asks} {one.note[:1].upper()}{one.note[1:]}." for one in gate.criteria if one.verdict == NOT_ASKED]
    return [
        f"## The gate: {gate.verdict}",
        "Decided on the bounds of 95% intervals: a criterion passes or fails where its whole interval is on one side "
        "of the tolerance; else it is insufficient data, which is no pass. The tolerances are "
        + ("the gate's own." if digest(report.recipe.gate) == digest(type(report.recipe.gate)()) else "the recipe's."),
        markdown.table(("question", "asked for", "measured", "on", "verdict", "why"), lines),
        f"Not asked: {' '.join(rest)}" if rest else "",
    ]


def _why(one: Criterion) -> str:
    if one.criterion.startswith("shortcut"):  # its words stand above
        return "" if one.value is not None else "see above"
    return ends(one.note).removeprefix(f"{INSUFFICIENT}: ")


def _on(one: Criterion) -> str:
    counts = " of ".join(f"{number:,}" for number in (one.n, one.n_patients) if number)
    return ", ".join(part for part in (counts, one.group) if part)


def _origin(report: Report) -> list[str]:
    facts, timing = report.facts, report.timing
    took = f" The run took {timing['seconds'] / 60:.1f} minutes on {timing['cores']} CPU cores." if timing else ""
    code = ", ".join(f"`{one}`" for one in report.code)
    path = f"pipelines/recipes/reports/{facts['layout']}.yaml"
    return [
        "## What was run",
        f"Code {code}; data `{facts['digest'][:12]}` from a source of content `{facts['source_digest'][:12]}`; recipe "
        f"`{digest(report.recipe)[:12]}` ({path}).{took}",
    ]


def replace(path: Path, text: str) -> None:
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)

"""How the leaderboard is shown: tables for Markdown and for a page, and the words that keep a reader from over-reading.

The order of lines is the alphabet's after the floor. No order of merit is claimed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hilum.judgement.probing.tasks import ATTRIBUTES, COMPETITION_MEAN, FINDINGS_MEAN
from hilum.judgement.stats import Interval
from hilum.page import Html, page, table, tag, write_page

MARKDOWN: Final = "leaderboard.md"
PAGE: Final = "leaderboard.html"
TITLE: Final = "Leaderboard"
METRIC_NAMES: Final = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "mae": "MAE"}
TITLES: Final = {FINDINGS_MEAN: "findings (mean)", COMPETITION_MEAN: "CheXpert's five (mean)"}
MACHINES: Final = {
    "linear": "a support vector machine with linear kernel",
    "rbf": "a support vector machine with RBF kernel",
    "logistic": "a logistic regression",
    "knn": "the nearest neighbours",
    "mlp": "a multilayer perceptron",
}
MODALITY_NAMES: Final = {"XR": "X-ray (XR)", "MR": "MRI (MR)"}
WORDS: Final = (
    "Each score is on patients held out from the probe, with a 95% interval from resampling patients. "
    "`pixels` (principal components of the image) is the floor that an encoder must beat.",
    "Chance is what is reached without looking at the image; for age, by always answering the mean age of training. "
    "Positive counts the images with the finding; for sex, those of women.",
    "The lines stand in no order of merit. Overlapping intervals do not show that two encoders are equal, and "
    "intervals side by side do not show which is better; a paired comparison on the same patients does. The last "
    "column makes it with the floor: how much better than `pixels` (above 0) or worse, and if the interval excludes 0. "
    "No correction was made for asking many tasks: of encoders that gain nothing, about one comparison in twenty "
    "excludes 0 by chance.",
    "A high score for sex, age or site says that the embedding carries it, which a fairness audit must know; it is no "
    "merit of its own.",
)
Read = Sequence[tuple[dict[str, Any], pd.DataFrame]]
Gains = Mapping[tuple[str, str], Mapping[str, Interval]]
HEADER: Final = (
    "task", "metric", "encoder", "score [95% interval]", "chance", "images", "positive", "patients", "gain over pixels",
)  # fmt: skip
NUMERIC: Final = ("chance", "images", "positive", "patients")


def write(read: Read, gains: Gains, tasks: Sequence[str], out: Path) -> None:
    """Write `leaderboard.md` and `leaderboard.html`.

    Args:
        read: Facts and headline scores of each probe, in the order of the lines.
        gains: By modality and encoder, then by task.
        tasks: In the order of the tables.
        out: An existing folder.
    """
    modalities = list(dict.fromkeys(str(facts["modality"]) for facts, _ in read))
    tables = {
        modality: _lines([one for one in read if one[0]["modality"] == modality], gains, tasks)
        for modality in modalities
    }
    facts = read[0][0]
    protocol = _protocol(facts)
    text = [f"# {TITLE}", "", f"{WORDS[0]} {protocol}", ""]
    if facts["caution"]:
        text += [f"> {facts['caution']}", ""]
    sections: list[object] = [protocol]
    for modality, lines in tables.items():
        name = MODALITY_NAMES.get(modality, modality)
        text += [f"## {name}", "", _markdown(HEADER, lines), ""]
        sections += [tag("h2", name), table(HEADER, [_marked(line) for line in lines], NUMERIC)]
    text += [*(f"{words}\n" for words in WORDS[1:]), _run_line(facts["run"]), ""]
    partial = out / f"{MARKDOWN}.partial"
    partial.write_text("\n".join(text), encoding="utf-8")
    partial.replace(out / MARKDOWN)
    sections += [tag("h2", "How to read this"), *(words.replace("`", "") for words in WORDS[1:])]
    write_page(out / PAGE, page(TITLE, WORDS[0].replace("`", ""), sections, facts["run"], facts["caution"]))


def shown(value: float, low: float, high: float, digits: int) -> str:
    """`0.766 [0.632, 0.840]`; without bounds where there are none."""
    if pd.isna(low) or pd.isna(high):
        return f"{value:.{digits}f} (no interval)"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _lines(read: Read, gains: Gains, tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """One line per task and encoder; a task that nobody could be asked is one line for all, or none."""
    lines: list[tuple[str, ...]] = []
    for task in tasks:
        asked = [(facts, scores.loc[task]) for facts, scores in read if task in scores.index]
        if asked and all(pd.isna(score["value"]) for _, score in asked):
            _, score = asked[0]
            if score["n"] == 0:
                continue  # a label that no image of this modality has: in scores.csv, and no news here
            note = str(score["note"])
            lines.append(
                (
                    _title(task),
                    _metric(score),
                    "all",
                    note,
                    "",
                    _count(score["n"]),
                    _count(score["n_positive"]),
                    _count(score["n_patients"]),
                    "",
                )
            )
            continue
        for facts, score in asked:
            digits = 2 if score["metric"] == "mae" else 3
            value = (
                str(score["note"])
                if pd.isna(score["value"])
                else shown(score["value"], score["low"], score["high"], digits)
            )
            chance = "" if pd.isna(score["chance"]) else f"{score['chance']:.{digits - 1}f}"
            gain = gains.get((str(facts["modality"]), str(facts["encoder"])), {}).get(task)
            lines.append(
                (
                    _title(task), _metric(score), str(facts["encoder"]), value, chance, _count(score["n"]),
                    _count(score["n_positive"]), _count(score["n_patients"]), _verdict(gain, digits),
                )
            )  # fmt: skip
    return lines


def _verdict(gain: Interval | None, digits: int) -> str:
    if gain is None:
        return ""
    if not gain.bounded:
        return gain.note
    word = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not told apart"
    return f"{gain.value:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}], {word}"


def _marked(line: tuple[str, ...]) -> list[object]:
    """A line for the page, what was found against the floor coloured as well as worded."""
    css = {"better": "good", "worse": "bad"}.get(line[-1].rpartition(", ")[2], "")
    cells: list[object] = list(line)
    if css:
        cells[-1] = Html(tag("span", line[-1], css))
    if "insufficient data" in line[3]:
        cells[3] = Html(tag("span", line[3], "doubt"))
    return cells


def _title(task: str) -> str:
    if task in TITLES:
        return TITLES[task]
    return task if task in ATTRIBUTES else task.replace("_", " ")


def _metric(score: "pd.Series[Any]") -> str:
    name, task = METRIC_NAMES.get(str(score["metric"]), str(score["metric"])), str(score.name)
    if score["metric"] != "mae":
        return name
    return f"{name}, years" if task == "age" else f"{name}, {task.rpartition('_')[2]}"  # as in weight_kg


def _count(value: float) -> str:
    return "" if pd.isna(value) else f"{int(value):,}"


def _protocol(facts: Mapping[str, Any]) -> str:
    machine = MACHINES[str(facts["headline_kernel"])]
    way = (
        f"over {facts['folds']} patient-disjoint folds of all images"
        if facts["folds"]
        else "fitted on the train split and scored on the test split"
    )
    return (
        f"Probe: {machine}, named beforehand, its settings chosen inside the training patients, {way}. Scores of the "
        "other machines are in scores.csv."
    )


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if name in NUMERIC else "---" for name in header]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def _run_line(run: Mapping[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} `{value}`" for name, value in run.items())

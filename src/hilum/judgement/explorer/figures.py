"""Figures for papers, each as PNG and as SVG: map, ROC with bands, calibration, forest plot of gaps.

Encoders are told apart by colour, line and mark, so that the figures stay readable in grey and with any colour vision.
In an SVG, text is text: it can be searched, and set in a journal's type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")  # no display on a server; chosen before pyplot is imported

import matplotlib.pyplot as plt

from hilum.data import parquet
from hilum.data.store import Dataset, read_json
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError, UsageError
from hilum.identity import code_revision
from hilum.judgement.explorer.curves import GRID, calibration, roc
from hilum.judgement.explorer.maps import MARKS, OKABE_ITO, map_figure
from hilum.judgement.fairness import forest
from hilum.judgement.fairness.page_tables import attribute_name
from hilum.page import INK, SOFT

REPLICATES: Final = 2000  # of patients, for bands and intervals
LINES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
GAPS: Final = {
    "auroc": "AUROC",
    "equal_opportunity": "Equal opportunity",
    "equalized_odds": "Equalized odds",
    "demographic_parity": "Demographic parity",
}
DOTS_PER_INCH: Final = 300


@dataclass(frozen=True)
class Answers:
    """The held-out answers of one probe for one label.

    Attributes:
        encoder: Its name.
        table: `truth`, `score`, `probability` and `patient`, one row per image.
        measured: What `scores.csv` says of them, by metric: the figure's numbers are the tables' numbers.
    """

    encoder: str
    table: pd.DataFrame
    measured: pd.DataFrame


def run(
    probes: Sequence[Path],
    out: Path,
    label: str = "pneumonia",
    mapped: tuple[Path, Path] | None = None,
    audit: Path | None = None,
    seed: int = 0,
) -> list[str]:
    """Write what the given folders allow.

    Args:
        probes: Folders that `hilum probe` wrote, one per encoder; for `roc` and `calibration`.
        out: Folder of the figures.
        label: Whose scores.
        mapped: Dataset and embeddings folder, for `map`.
        audit: Folder that `hilum audit` wrote, for `gaps`.
        seed: Of resamples and of t-SNE.

    Returns:
        What was written, and what could not be and why, one line each.

    Raises:
        UsageError: Nothing is asked for, or more encoders than can be told apart.
        DatasetError: A folder is not what it is said to be.
    """
    if not (probes or mapped or audit):
        raise UsageError("figures need at least a probe, an audit, or a dataset with its embeddings to map")
    if len(probes) > len(MARKS):
        raise UsageError(f"{len(probes)} encoders cannot be told apart in one figure; draw at most {len(MARKS)}")
    if missing := [folder for folder in probes if not (folder / "probe.json").is_file()]:
        raise DatasetError(f"{missing[0]} holds no probe: it has no probe.json; `hilum probe` writes one")
    said = []
    made_of = _told([read_json(folder / "probe.json") for folder in probes])
    found = [one for folder in probes if (one := _answers(folder, label)) is not None]
    if found:
        _write(roc_figure(found, label, seed), out / "roc", made_of)
        said.append(f"roc: {', '.join(one.encoder for one in found)}")
        sure = [one for one in found if one.table["probability"].notna().all()]
        if sure:
            _write(calibration_figure(sure, label), out / "calibration", made_of)
            said.append(f"calibration: {', '.join(one.encoder for one in sure)}")
        else:
            said.append("no calibration: no probe has probabilities; probe again")
    elif probes:
        said.append(f"no roc, no calibration: no probe has answers for {label} with and without the finding")
    if mapped is not None:
        facts = Dataset.open(mapped[0]).facts
        of = {"run": Vectors.open(mapped[1]).facts.run, "caution": facts.caution}
        _write(map_figure(*mapped, label, seed), out / "map", _told([of]))
        said.append("map")
    if audit is not None:
        said.append("gaps" if _gaps(audit, out) else "no gaps: no two groups have enough patients")
    return said


def _told(facts: Sequence[Mapping[str, Any]]) -> str:
    """The identities and cautions that a figure carries inside its file."""
    runs = [", ".join(f"{name.replace('_', ' ')} {value}" for name, value in one["run"].items()) for one in facts]
    return (
        ". ".join(dict.fromkeys(part.rstrip(".") for part in (*runs, *(one["caution"] for one in facts)) if part)) + "."
    )


def _answers(folder: Path, label: str) -> Answers | None:
    facts = read_json(folder / "probe.json")
    table = parquet.read(folder / "predictions.parquet")
    table = table[(table["task"] == label) & (table["kernel"] == facts["headline_kernel"])].dropna(subset=["truth"])
    if "probability" not in table:
        table = table.assign(probability=np.nan)
    if table["probability"].notna().all():
        table = table.assign(score=table["probability"])  # of several folds only probabilities have one scale
    scores = pd.read_csv(folder / "scores.csv")
    measured = scores[(scores["task"] == label) & (scores["kernel"] == facts["headline_kernel"])].set_index("metric")
    return Answers(str(facts["encoder"]), table, measured) if table["truth"].nunique() == 2 else None


def roc_figure(answers: Sequence[Answers], label: str, seed: int = 0) -> Any:
    """ROC curves with pointwise 95% bands over patients, and the area of each with its interval."""
    figure, axes = _square(f"ROC: {_spoken(label)}", "False-positive rate", "True-positive rate")
    axes.plot([0, 1], [0, 1], color=SOFT, lw=0.8, ls=(0, (2, 2)), zorder=1)
    for place, one in enumerate(answers):
        table = one.table
        truth, score, patients = (table[name].to_numpy() for name in ("truth", "score", "patient"))
        curve = roc(truth, score, patients, REPLICATES, seed)
        axes.fill_between(GRID, curve.low_G, curve.high_G, color=OKABE_ITO[place], alpha=0.15, lw=0)
        named = f"{one.encoder}: AUROC {_interval(one, 'auroc')}"
        x, y = np.r_[0.0, GRID], np.r_[0.0, curve.tpr_G]  # from the corner, where the first answers are right
        axes.plot(x, y, label=named, markevery=(5 + 4 * place, 20), **_line(place))
    counts = sorted(
        {(len(one.table), one.table["patient"].nunique(), int(one.table["truth"].sum())) for one in answers}
    )
    n = "; ".join(f"{images:,} images of {patients:,} patients, {ill:,} positive" for images, patients, ill in counts)
    _finish(figure, axes, f"Test: {n}. Bands: pointwise 95%, {REPLICATES:,} resamples of patients.")
    return figure


def calibration_figure(answers: Sequence[Answers], label: str) -> Any:
    """Observed share against predicted probability in bins of equal mass, above the probabilities' histogram."""
    title = f"Calibration: {_spoken(label)}"
    figure, (axes, below) = plt.subplots(
        2, 1, figsize=(4.4, 5.9), height_ratios=[4, 1], layout="constrained", sharex=True
    )
    _dress(axes, title, "", "Observed share")
    axes.plot([0, 1], [0, 1], color=SOFT, lw=0.8, ls=(0, (2, 2)), zorder=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for place, one in enumerate(answers):
        truth, probability, patients = (one.table[name].to_numpy() for name in ("truth", "probability", "patient"))
        bins = calibration(truth, probability, patients)
        predicted, observed = [of.predicted for of in bins], [of.observed for of in bins]
        value = np.array([interval.value for interval in observed])
        ends = np.array([[interval.low, interval.high] for interval in observed]).T
        away = np.clip(np.abs(ends - value), 0, None)
        axes.errorbar(
            predicted, value, yerr=away, capsize=2, elinewidth=0.9, clip_on=False,
            label=f"{one.encoder}: ECE {_interval(one, 'ece')}", **_line(place),
        )  # fmt: skip
        counted, edges = np.histogram(probability, np.linspace(0, 1, 41))
        below.stairs(counted, edges, color=OKABE_ITO[place], ls=LINES[place], lw=1.3)
    _dress(below, "", "Predicted probability", "Images")
    below.set(xlim=(0, 1))
    counts = sorted(
        {(len(one.table), one.table["patient"].nunique(), int(one.table["truth"].sum())) for one in answers}
    )
    n = "; ".join(f"{images:,} images of {patients:,} patients, {ill:,} positive" for images, patients, ill in counts)
    _finish(figure, axes, f"Test: {n}. Bins of equal mass; bars: 95%, by patient.", below)
    return figure


def _gaps(audit: Path, out: Path) -> bool:
    path = audit / "fairness.csv"
    if not path.is_file():
        raise DatasetError(f"{audit} holds no audit: it has no fairness.csv; `hilum audit` writes one")
    rows = pd.read_csv(path)
    rows = rows[rows["kind"] == "gap"]
    spoken = {name: attribute_name(name) for name in rows["attribute"].dropna().unique()}
    drawn = forest.of_gaps(rows, GAPS, spoken)
    if drawn is not None:
        out.mkdir(parents=True, exist_ok=True)
        drawn.write(out / "gaps")
    return drawn is not None


def _counted(answers: Sequence[Answers]) -> str:
    """How many answers the curves are made of; once where all are made of as many."""
    of = sorted({(len(one.table), one.table["patient"].nunique(), int(one.table["truth"].sum())) for one in answers})
    return "; ".join(f"{images:,} images of {people:,} patients, {ill:,} positive" for images, people, ill in of)


def _line(place: int) -> dict[str, Any]:
    return {
        "color": OKABE_ITO[place], "ls": LINES[place], "marker": MARKS[place], "lw": 1.6, "ms": 4.5, "mec": "white",
        "mew": 0.6,
    }  # fmt: skip


def _square(title: str, x: str, y: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(4.4, 4.9), layout="constrained")
    _dress(axes, title, x, y)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return figure, axes


def _dress(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=8.5, labelcolor=INK, color=SOFT, length=3)
    axes.grid(color="#e6eaf0", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)


def _finish(figure: Any, axes: Any, note: str, below: Any = None) -> None:
    axes.legend(
        fontsize=8.5, labelcolor=INK, loc="best", handlelength=3.2, framealpha=0.85, edgecolor="none", borderpad=0.2
    )
    words, lines = note.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 74:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    figure.supxlabel("\n".join(lines), x=0.02, ha="left", fontsize=7.5, color=SOFT)
    if below is not None:
        figure.align_ylabels([axes, below])


def _spoken(label: str) -> str:
    return label.replace("_", " ")


def _interval(one: Answers, metric: str) -> str:
    if metric not in one.measured.index or not np.isfinite(one.measured.loc[metric, "value"]):
        return "insufficient data"
    value, low, high = one.measured.loc[metric, ["value", "low", "high"]]
    return f"{value:.2f} ({low:.2f}\u2013{high:.2f})" if np.isfinite(low) else f"{value:.2f} (no interval)"


def _write(figure: Any, stem: Path, made_of: str) -> None:
    """Write `stem.png` and `stem.svg`, each whole or not at all; the same input gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    made_by = f"hilum, code revision {code_revision()}"
    kinds = {
        "png": {"Software": made_by, "Description": made_of},
        "svg": {"Date": None, "Creator": made_by, "Description": made_of},
    }
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hilum"}):
        for ending, metadata in kinds.items():
            partial = stem.with_name(f"{stem.name}.{ending}.partial")
            figure.savefig(partial, format=ending, dpi=DOTS_PER_INCH, facecolor="white", metadata=metadata)
            partial.replace(stem.with_name(f"{stem.name}.{ending}"))
    plt.close(figure)

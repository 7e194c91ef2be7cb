"""The picture of label-efficiency curves: one panel per label, one line with its band per encoder.

efficiency.png, efficiency.svg    the same picture; encoders are told apart by colour, marker and dashes
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from hilum.data.store import read_json
from hilum.errors import DatasetError, UsageError
from hilum.judgement.probing.efficiency import CSV, FACTS
from hilum.page import INK, SOFT

PNG: Final = "efficiency.png"
SVG: Final = "efficiency.svg"
# Okabe & Ito 2008, "Color Universal Design"; yellow is left out, since a thin line of it is not seen on
# white; grey makes it as many as there are encoders.
OKABE_ITO: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
ACROSS: Final = 3  # panels beside one another
FEW: Final = 3  # encoders up to which bands are filled; more of them would cover one another, so they become bars


def plot(folders: Sequence[Path], out: Path) -> None:
    """Draw the curves of several encoders over one another.

    Args:
        folders: What `efficiency.run` wrote, one per encoder.
        out: Folder that gets `efficiency.png` and `efficiency.svg`.

    Raises:
        UsageError: The folders differ in their draws, dataset, recipe or modality, an encoder is there twice, or no
            label was scored.
        DatasetError: A folder is none.
    """
    read = [_read(folder) for folder in folders]
    _comparable([facts for facts, _ in read])
    scores = pd.concat([table for _, table in read], ignore_index=True)
    means = scores.dropna(subset=["mean"]).drop_duplicates(["encoder", "label", "fraction"])
    labels = list(dict.fromkeys(means["label"]))
    if not labels:
        raise UsageError("no label left enough cases at any share; efficiency.csv says how many there were")
    with matplotlib.rc_context({"svg.hashsalt": "hilum", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = _figure(means, labels, read[0][0], {label: _absent(scores, label) for label in labels})
        out.mkdir(parents=True, exist_ok=True)
        for name, kind, facts in ((PNG, "png", {"Software": None}), (SVG, "svg", {"Date": None, "Creator": None})):
            # No software and no date in it: the same input gives the same bytes.
            partial = out / f"{name}.partial"
            figure.savefig(partial, format=kind, dpi=150, facecolor="white", metadata=facts)
            partial.replace(out / name)


def _read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    if not (folder / FACTS).is_file():
        raise DatasetError(
            f"{folder} holds no label-efficiency curve: it has no {FACTS}; `hilum efficiency` writes one"
        )
    try:
        return read_json(folder / FACTS), pd.read_csv(folder / CSV)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder / CSV} is damaged or absent: {error}") from error


def _comparable(facts: Sequence[dict[str, Any]]) -> None:
    if not facts:
        raise UsageError("there is no curve to draw; name at least one folder that `hilum efficiency` wrote")
    names = [str(one["encoder"]) for one in facts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{twice[0]!r} is there twice; each encoder has one curve")
    if len(names) > len(OKABE_ITO):
        raise UsageError(f"{len(names)} encoders are more than can be told apart in one picture: {len(OKABE_ITO)}")
    for what, found in (
        ("modality", {one["modality"] for one in facts}),
        ("dataset", {one["run"]["data_digest"] for one in facts}),
        ("draws of patients", {one["draws_digest"] for one in facts}),
        ("probe recipe", {one["run"]["recipe_digest"] for one in facts}),
    ):
        if len(found) > 1:
            said = ", ".join(sorted(str(one)[:12] for one in found))
            raise UsageError(f"these curves differ in their {what} ({said}); only curves over the same draws compare")


def _absent(scores: pd.DataFrame, label: str) -> list[float]:
    """Shares that left too few cases of a label: the same for every encoder, as the draws are."""
    asked = scores[scores["label"] == label]
    return sorted(asked.loc[asked["auroc"].isna(), "fraction"].dropna().unique())


def _figure(
    means: pd.DataFrame, labels: Sequence[str], facts: dict[str, Any], absent: dict[str, list[float]]
) -> Figure:
    encoders = list(dict.fromkeys(means["encoder"]))
    across = min(ACROSS, len(labels))
    down = -(-len(labels) // across)
    figure = Figure(figsize=(max(5.6, 3.5 * across), 3.1 * down + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    shares = sorted(means["fraction"].unique())
    low = min(0.45, float(np.floor(means["low"].min() * 20) / 20))  # the line of chance stays in view
    for number, axes in enumerate(grid.ravel()):
        if number >= len(labels):
            axes.set_axis_off()
            continue
        label = labels[number]
        _panel(axes, means[means["label"] == label], encoders, shares)
        tests = means[means["label"] == label].iloc[0]
        axes.set_title(label.replace("_", " "), loc="left", fontsize=11, color=INK, fontweight="bold", pad=28)
        counted = f"test: {int(tests.n_test):,} images, {int(tests.n_test_positive):,} positive"
        if absent[label]:
            counted += f"\ntoo few cases to learn from: {', '.join(f'{100 * share:g}%' for share in absent[label])}"
        axes.text(0, 1.015, counted, transform=axes.transAxes, fontsize=8.5, color=SOFT, va="bottom")
        axes.set_ylim(low, 1.0)
        last = number + across >= len(labels)
        axes.tick_params(labelbottom=last, labelleft=number % across == 0)
        if number % across == 0:
            axes.set_ylabel("AUROC", fontsize=10, color=INK)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=min(4, len(names)), frameon=False, fontsize=10)
    shapes = "bands" if len(encoders) <= FEW else "bars"
    figure.supxlabel(
        f"share of the {int(facts['n_train_patients']):,} training patients; "
        f"mean over {facts['n_draws']} draws, the same for every encoder\n"
        f"{shapes}: 95% interval over draws and test patients; dashed grey: chance\n"
        "Overlapping intervals do not show that two encoders are equal.",
        x=0.01, ha="left", fontsize=8.5, color=SOFT,
    )  # fmt: skip
    return figure


def _panel(axes: Any, means: pd.DataFrame, encoders: Sequence[str], shares: Sequence[float]) -> None:
    axes.axhline(0.5, color="#9aa7b8", lw=1, ls=(0, (4, 3)), zorder=1)
    axes.set_xscale("log")
    axes.grid(axis="y", color="#e6eaf0", lw=0.8)
    axes.set_axisbelow(True)
    for number, encoder in enumerate(encoders):
        found = means[means["encoder"] == encoder].sort_values("fraction")
        colour, marker, dash = OKABE_ITO[number], MARKERS[number], DASHES[number % len(DASHES)]
        # Side by side on the logarithmic axis, so that bars of one share can be told apart.
        shift = 1.0 if len(encoders) <= FEW else 1.09 ** (number - (len(encoders) - 1) / 2)
        x, y = found["fraction"].to_numpy() * shift, found["mean"].to_numpy()
        low, high = found["low"].to_numpy(), found["high"].to_numpy()
        axes.plot(x, y, color=colour, marker=marker, ms=5.5, lw=1.8, ls=dash, label=encoder, zorder=3)
        if len(encoders) <= FEW and len(x) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0, zorder=2)
        else:
            axes.vlines(x, low, high, color=colour, lw=1.4, alpha=0.75, zorder=2)
    axes.xaxis.set_major_locator(FixedLocator(list(shares)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{100 * share:g}%" for share in shares], fontsize=9)
    margin = 1.6
    axes.set_xlim(min(shares) / margin, max(shares) * margin)
    axes.tick_params(axis="y", labelsize=9)
    axes.tick_params(colors=SOFT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c3cbd6")

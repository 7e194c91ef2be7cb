"""Forest plots of groups and of gaps, as PNG for pages and SVG for papers.

Colours are of Okabe & Ito's palette for all kinds of colour vision; what is found is also told by its mark.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")  # no display on a server; chosen before pyplot is imported

import matplotlib.pyplot as plt

from hilum.judgement.fairness.groups import UNKNOWN
from hilum.page import INK, SOFT

FOUND: Final = 0.05  # corrected p-values below it are called a gap
BLUE, ORANGE = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Picture:
    """One figure, twice."""

    png: bytes
    svg: bytes

    def write(self, stem: Path) -> None:
        """Write `stem.png` and `stem.svg`, each whole or not at all."""
        for ending, content in (("png", self.png), ("svg", self.svg)):
            partial = stem.with_name(f"{stem.name}.{ending}.partial")
            partial.write_bytes(content)
            partial.replace(stem.with_name(f"{stem.name}.{ending}"))


def of_groups(judged: pd.DataFrame, panels: Mapping[str, str], spoken: Mapping[str, str]) -> Picture | None:
    """A line for each group that could be judged, a panel for each metric; None where there is no group.

    Args:
        judged: `tables.judge(...).groups`.
        panels: Title of each metric.
        spoken: How attributes are called.
    """
    judged = judged[judged["metric"].isin(list(panels)) & judged["value"].notna() & (judged["group"] != UNKNOWN)]
    if judged.empty:
        return None
    lines = list(judged[["attribute", "group"]].drop_duplicates().itertuples(index=False, name=None))
    labels = [spoken[a] if a == "all" else f"{spoken[a]}: {g}" for a, g in lines]
    at = judged.set_index(["attribute", "group", "metric"])
    rows = {
        metric: [at.loc[(*line, metric)] if (*line, metric) in at.index else None for line in lines]
        for metric in panels
    }
    middle = {metric: at["value"].get(("all", "all", metric), np.nan) for metric in panels}
    return _forest(labels, rows, panels, middle)


def of_gaps(gaps: pd.DataFrame, panels: Mapping[str, str], spoken: Mapping[str, str]) -> Picture | None:
    """A line for each attribute, a panel for each gap, zero marked; arguments as for `of_groups`."""
    gaps = gaps[gaps["metric"].isin(list(panels)) & gaps["value"].notna()]
    if gaps.empty:
        return None
    attributes = list(dict.fromkeys(gaps["attribute"]))
    at = gaps.set_index(["attribute", "metric"])
    rows = {
        metric: [at.loc[(name, metric)] if (name, metric) in at.index else None for name in attributes]
        for metric in panels
    }
    return _forest([spoken[name] for name in attributes], rows, panels, dict.fromkeys(panels, 0.0))


def _forest(
    labels: Sequence[str],
    rows: Mapping[str, Sequence[pd.Series | None]],
    panels: Mapping[str, str],
    middle: Mapping[str, float],
) -> Picture:
    with plt.rc_context({"svg.hashsalt": "hilum", "svg.fonttype": "none", "font.family": "DejaVu Sans"}):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(10.5, 0.34 * len(labels) + 1.0), sharey=True, layout="constrained", squeeze=False
        )
        for axes, (metric, title) in zip(grid[0], panels.items(), strict=True):
            if np.isfinite(middle[metric]):
                axes.axvline(middle[metric], color=SOFT, lw=1, ls=(0, (4, 3)), zorder=0)
            for place, row in enumerate(rows[metric]):
                _draw(axes, place, row)
            axes.set(xlim=(-0.03, 1.03), yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
            # Named at their insides, so that one panel's 1 does not run into the next one's 0.
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
            for end, side in ((0, "left"), (-1, "right")):
                axes.get_xticklabels()[end].set_horizontalalignment(side)
            axes.set_title(title, loc="left", fontsize=10, color=INK)
            axes.tick_params(length=0, labelsize=9, labelcolor=INK)
            axes.grid(axis="x", color="#e6eaf0", lw=0.8)
            axes.set_axisbelow(True)
            for side in axes.spines.values():
                side.set_visible(False)
        drawn = {}
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            stream = io.BytesIO()
            figure.savefig(stream, format=ending, dpi=130, facecolor="white", metadata=metadata)
            drawn[ending] = stream.getvalue()
        plt.close(figure)
    return Picture(**drawn)


def _draw(axes: Any, place: int, row: pd.Series | None) -> None:
    if row is None:
        axes.text(0.02, place, "not known", va="center", fontsize=8, color=SOFT, style="italic")
        return
    found = bool(row.get("p_holm", np.nan) < FOUND)
    colour, mark = (ORANGE, "D") if found else (BLUE, "o")
    if np.isfinite([row["low"], row["high"]]).all():
        axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=2.2, solid_capstyle="round")
    axes.plot([row["value"]], [place], mark, color=colour, ms=6.5, mec="white", mew=1)

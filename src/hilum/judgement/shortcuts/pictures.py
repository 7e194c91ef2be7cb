"""What a reader of the shortcut audit sees: how far each attribute can be told, scores inside strata, clusters.

Legend: N images, S side in pixels.
"""

import io
from collections.abc import Sequence
from typing import Any, Final

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")  # no display on a server; chosen before pyplot is imported

import matplotlib.pyplot as plt

from hilum.judgement.shortcuts.attributes import spoken
from hilum.judgement.shortcuts.clusters import Cluster
from hilum.judgement.shortcuts.permuting import Rows
from hilum.judgement.shortcuts.verdicts import Finding
from hilum.page import INK, SOFT

SHOWN: Final = 6  # images of each cluster, the nearest to its middle first
MAX_AVERAGED: Final = 2_000  # images behind a mean image
LARGEST_DIFFERENCE: Final = 60.0  # grey levels at which the colours of a difference end
_BLUE, _BAND = "#0072B2", "#e6eaf0"


def told(findings: Sequence[Finding]) -> bytes:
    """How well each attribute can be told, with what chance reaches, as PNG."""
    shown = [one for one in findings if one.decoding.auroc.bounded]
    figure, axes = _lines(len(shown))
    for place, one in enumerate(shown):
        auroc = one.decoding.auroc
        axes.barh(place, one.decoding.null_95 - 0.5, left=0.5, height=0.6, color=_BAND, zorder=0)
        _interval(axes, place, auroc.value, auroc.low, auroc.high)
    lowest = min([0.45, *(one.decoding.auroc.low - 0.02 for one in shown)])
    _finish(axes, [spoken(one.attribute.name) for one in shown], (lowest, 1.02))
    axes.axvline(0.5, color=SOFT, lw=1, ls=(0, (4, 3)), zorder=0)
    axes.set_title("AUROC at which it is told; grey: what chance reaches in 19 of 20 cases", loc="left", fontsize=9)
    return _png(figure)


def inside(findings: Sequence[Finding]) -> bytes:
    """The label's AUROC at each level of each attribute, over all pairs as a dashed line, as PNG."""
    lines = [
        (f"{spoken(one.attribute.name).removeprefix('the ')}: {stratum.level}", stratum.auroc, one.inside.pooled)
        for one in findings
        if one.inside is not None
        for stratum in one.inside.strata
        if stratum.auroc.bounded
    ]
    figure, axes = _lines(len(lines))
    for place, (_, auroc, pooled) in enumerate(lines):
        _interval(axes, place, auroc.value, auroc.low, auroc.high)
        if pooled.bounded:
            axes.plot([pooled.value] * 2, [place - 0.5, place + 0.5], color=SOFT, lw=1, ls=(0, (4, 3)), zorder=0)
    lowest = min([0.45, *(auroc.low - 0.02 for _, auroc, _ in lines)])
    _finish(axes, [name for name, _, _ in lines], (lowest, 1.02))
    axes.set_title("AUROC of the label inside each level; dashed: over all levels together", loc="left", fontsize=9)
    return _png(figure)


def sheet(images_NSS: NDArray[np.uint8], rows: Rows, clusters: Sequence[Cluster], marked_N: NDArray[Any]) -> bytes:
    """A row for each cluster: images nearest to its middle, its mean image, and how that differs from the others'.

    Images with letters or markers are left out where there are others, since letters may be a name.

    Args:
        images_NSS: All images of the dataset.
        rows: Which of them the vectors are of; clusters count in these.
        clusters: Which to show.
        marked_N: 1 where letters were found in an image of `rows`, else 0 or NaN.
    """
    figure, grid = plt.subplots(
        len(clusters), SHOWN + 2, figsize=(1.3 * (SHOWN + 2), 1.5 * len(clusters) + 0.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, cluster in zip(grid, clusters, strict=True):
        plain = np.argsort(marked_N[cluster.nearest] == 1, kind="stable")
        picked = cluster.nearest[plain][:SHOWN]
        for axes, member in zip(line[:SHOWN], picked, strict=False):
            axes.imshow(images_NSS[rows[member]], cmap="gray", vmin=0, vmax=255)
        mean_SS = _mean(images_NSS, rows[cluster.members])
        line[SHOWN].imshow(mean_SS, cmap="gray", vmin=0, vmax=255)
        line[SHOWN + 1].imshow(
            mean_SS - _mean(images_NSS, rows[cluster.others]), cmap="RdBu_r", vmin=-LARGEST_DIFFERENCE,
            vmax=LARGEST_DIFFERENCE,
        )  # fmt: skip
        line[0].set_title(f"{cluster.name}: {len(cluster.members):,} images", loc="left", fontsize=9, color=INK)
        line[SHOWN].set_title("mean", fontsize=8, color=SOFT)
        line[SHOWN + 1].set_title("less the others'", fontsize=8, color=SOFT)
        for axes in line:
            axes.set_axis_off()
    return _png(figure)


def _mean(images_NSS: NDArray[np.uint8], chosen: Rows) -> NDArray[np.float64]:
    """Mean image of up to MAX_AVERAGED, evenly spread over the chosen."""
    step = max(1, -(-len(chosen) // MAX_AVERAGED))
    total = np.zeros(images_NSS.shape[1:])
    for row in chosen[::step]:
        total += images_NSS[row]
    return np.asarray(total / max(1, len(chosen[::step])))


def _lines(n: int) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(8.4, 0.34 * max(n, 1) + 0.8), layout="constrained")
    axes.set_ylim(max(n, 1) - 0.5, -0.5)
    return figure, axes


def _interval(axes: Any, place: int, value: float, low: float, high: float) -> None:
    axes.plot([low, high], [place, place], color=_BLUE, lw=2.2, solid_capstyle="round")
    axes.plot([value], [place], "o", color=_BLUE, ms=6.5, mec="white", mew=1)


def _finish(axes: Any, names: Sequence[str], across: tuple[float, float]) -> None:
    axes.set(xlim=across, yticks=range(len(names)), yticklabels=names)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.grid(axis="x", color=_BAND, lw=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)
    return stream.getvalue()

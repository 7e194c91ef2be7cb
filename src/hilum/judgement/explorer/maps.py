"""What an embedding looks like: a map of it coloured by what is known of the images, and a sheet of the images.

A map shows neighbourhoods, not distances: t-SNE keeps who is near whom (van der Maaten & Hinton 2008); the size of a
cluster and the gap between two say nothing. A colour that parts the map is a property the embedding holds.
"""

import os
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

matplotlib.use("Agg")  # no display on a server; chosen before pyplot is imported

import matplotlib.pyplot as plt
from matplotlib.markers import MarkerStyle
from openTSNE import TSNE

from hilum.data.manifest import SPLITS, VIEWS
from hilum.data.store import Dataset
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError
from hilum.judgement.explorer.neighbours import standardised
from hilum.page import INK, SOFT
from hilum.progress import bar

MAP: Final = "map.png"
MAX_POINTS: Final = 20_000  # beyond, a sample of whole patients: more points hide one another
MAX_LEVELS: Final = 7  # the Okabe-Ito palette without black has seven colours
VECTOR_MAX: Final = 3_000  # points; beyond, an SVG holds them as a picture, since each would be an element
BARNES_HUT_MAX: Final = 10_000  # points; beyond, interpolation costs less (openTSNE's own advice)
PERPLEXITY: Final = 30.0  # openTSNE's and van der Maaten's usual value
# Okabe & Ito 2008, "Color Universal Design": told apart with every common colour vision.
OKABE_ITO: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKS: Final = ("o", "s", "^", "D", "v", "P", "X")  # and told apart in grey
UNKNOWN_GREY: Final = "#C9CED6"


def map_picture(dataset: Path, vectors: Path, out: Path, label: str = "pneumonia", seed: int = 0) -> None:
    """Write `map_figure` as `map.png` into the folder `out`."""
    _save(map_figure(dataset, vectors, label, seed), out / MAP)


def map_figure(dataset: Path, vectors: Path, label: str = "pneumonia", seed: int = 0) -> Any:
    """Draw a t-SNE map of an embedding as small multiples, one per attribute.

    Args:
        dataset: Dataset folder.
        vectors: Embeddings folder, made from that dataset.
        label: The label that has a panel of its own; left out where the dataset does not know it.
        seed: Of the sample and of t-SNE: the same input gives the same picture.

    Raises:
        DatasetError: The embeddings are of another dataset, or of fewer than four images.
    """
    opened, embedding = Dataset.open(dataset), Vectors.open(vectors)
    table = embedding.joined(opened)
    chosen = sample_patients(table["patient_id"], MAX_POINTS, seed)
    table = table.iloc[chosen].reset_index(drop=True)
    with bar("t-SNE", total=1, unit="map") as shown:
        points_N2 = project(embedding.z_ND[chosen], seed)
        shown.update()
    panels = _panels(table, label if label in opened.facts.labels else None)
    facts = embedding.facts
    counted = f"{len(table):,} images of {table['patient_id'].nunique():,} patients"
    if len(table) < facts.n:
        counted += f", a sample of {facts.n:,}"
    return _figure(points_N2, panels, f"{facts.encoder} · {_spoken(facts.modality)} · {counted}")


def project(z_ND: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """t-SNE of embeddings, (N, D) to (N, 2), started from their principal components.

    Vectors are standardised per dimension first, as the probes do, so that the map shows what the probes see.
    The PCA start keeps the global layout (Kobak & Berens 2019); perplexity falls with N so that it stays below N / 3.

    Raises:
        DatasetError: There are fewer than four vectors.
    """
    n = len(z_ND)
    if n < 4:
        raise DatasetError(f"a map needs at least 4 images, not {n}")
    tsne = TSNE(
        perplexity=min(PERPLEXITY, (n - 1) / 3),
        initialization="pca" if z_ND.shape[1] > 1 else "random",
        metric="euclidean",
        neighbors="exact" if n <= 5_000 else "annoy",
        negative_gradient_method="bh" if n <= BARNES_HUT_MAX else "fft",
        # Few points: OpenMP's threads wait for each other on every step, which on 2 busy cores took 12-40 s for 1,000
        # points where one thread took 4 s.
        n_jobs=1 if n <= BARNES_HUT_MAX else os.cpu_count() or 1,
        random_state=seed,
    )
    return np.asarray(tsne.fit(standardised(z_ND)), dtype=np.float64)


def sample_patients(patients: pd.Series, limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Row numbers of whole patients, drawn at random until the next would pass `limit`; all rows where they fit."""
    if len(patients) <= limit:
        return np.arange(len(patients))
    codes, names = pd.factorize(patients)
    order = np.random.default_rng(seed).permutation(len(names))
    fitting = order[np.cumsum(np.bincount(codes)[order]) <= limit]
    return np.flatnonzero(np.isin(codes, fitting))


def contact_sheet(dataset: Path, out: Path, columns: int = 8, rows_per_view: int = 2, seed: int = 0) -> None:
    """Draw images at random, a band for each view, one image per patient where there are enough; no ids.

    Args:
        dataset: Dataset folder.
        out: The PNG to write.
        columns: Images in a row.
        rows_per_view: Rows per view.
        seed: Of the draw.
    """
    opened = Dataset.open(dataset)
    random = np.random.default_rng(seed)
    views = opened.manifest["view"].fillna("unknown view")
    ordered = [v for v in (*VIEWS["XR"], *VIEWS["MR"], "unknown view") if (views == v).any()]
    bands = []
    for view in ordered:
        shuffled = random.permutation(np.flatnonzero(views == view))
        repeats = opened.manifest["patient_id"].iloc[shuffled].duplicated().to_numpy()
        picked = np.concatenate([shuffled[~repeats], shuffled[repeats]])[: columns * rows_per_view]
        bands.append((f"{view} · {int((views == view).sum()):,} images", picked))
    heights = [-(-len(picked) // columns) for _, picked in bands]
    figure = plt.figure(figsize=(columns * 1.15, sum(heights) * 1.15 + len(bands) * 0.4 + 0.1), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, hspace=0.01, wspace=0.01)
    folders = figure.subfigures(len(bands), 1, height_ratios=[h * 1.15 + 0.4 for h in heights], squeeze=False)
    for folder, height, (title, picked) in zip(folders[:, 0], heights, bands, strict=True):
        folder.suptitle(title, x=0.005, ha="left", fontsize=10, color=INK, fontweight="bold")
        for place, axes in enumerate(folder.subplots(height, columns, squeeze=False).ravel()):
            axes.set_axis_off()
            if place < len(picked):
                axes.imshow(opened.images[picked[place]], cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    _save(figure, out)


def _panels(table: pd.DataFrame, label: str | None) -> list[tuple[str, pd.Series]]:
    """Title and values of each panel; an attribute of which nothing is known has none."""
    view = "plane" if (table["modality"] == "MR").all() else "view"
    panels = [
        (view, table["view"]),
        ("sex", table["sex"]),
        ("age (years)", table["age_years"]),
        ("site", table["site"]),
    ]
    if label is not None:
        panels.append((label.replace("_", " "), table[label].map({1.0: "present", 0.0: "absent"}).astype("str")))
    panels.append(("split", table["split"]))
    return [(title, values) for title, values in panels if values.notna().any()]


def _figure(points_N2: NDArray[np.float64], panels: list[tuple[str, pd.Series]], title: str) -> Any:
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(3.7 * across, 3.9 * down + 0.5), squeeze=False, layout="constrained"
    )
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, color=INK, fontweight="bold")
    side = float(np.clip(2_600 / np.sqrt(len(points_N2)) / 10, 2.0, 26.0))
    for axes in grid.ravel()[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, values) in zip(grid.ravel(), panels, strict=False):
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.set_title(name, loc="left", fontsize=11, color=INK)
        for spine in axes.spines.values():
            spine.set_color("#d9dfe7")
        if pd.api.types.is_numeric_dtype(values):
            _scatter_number(figure, axes, points_N2, values, side)
        else:
            _scatter_levels(axes, points_N2, values, side)
    figure.supxlabel(
        "t-SNE: points that lie near each other are alike; sizes of clusters and distances between them mean nothing.",
        x=0.012, ha="left", fontsize=9, color=SOFT,
    )  # fmt: skip
    return figure


def _scatter_number(figure: Any, axes: Any, points_N2: NDArray[np.float64], values: pd.Series, side: float) -> None:
    known = values.notna().to_numpy()
    many = len(points_N2) > VECTOR_MAX
    axes.scatter(*points_N2[~known].T, s=side, c=UNKNOWN_GREY, linewidths=0, rasterized=many)
    drawn = axes.scatter(
        *points_N2[known].T, s=side, c=values[known], cmap="viridis", linewidths=0, alpha=0.9, rasterized=many
    )
    # An inset, since a colour bar beside the panel would make it smaller than its neighbours.
    scale = figure.colorbar(drawn, cax=axes.inset_axes((0.15, -0.045, 0.7, 0.025)), orientation="horizontal")
    scale.outline.set_visible(False)
    scale.ax.tick_params(labelsize=9, labelcolor=SOFT, length=0)


def _scatter_levels(axes: Any, points_N2: NDArray[np.float64], values: pd.Series, side: float) -> None:
    counts = values.value_counts()
    frequent = counts.index[: MAX_LEVELS if len(counts) <= MAX_LEVELS else MAX_LEVELS - 1]
    named = list(SPLITS) if set(frequent) == set(SPLITS) else sorted(frequent)
    shown = values.where(values.isin(named) | values.isna(), "other")
    levels = [*named, *(["other"] if len(counts) > MAX_LEVELS else [])]
    colour_of = dict(zip(levels, OKABE_ITO, strict=False))
    mark_of = dict(zip(levels, MARKS, strict=False))
    colours = shown.map(colour_of).fillna(UNKNOWN_GREY).to_numpy()
    # Drawn in one random order: else the last level would lie over the others and look more frequent than it is.
    order = np.random.default_rng(0).permutation(len(points_N2))
    many = len(points_N2) > VECTOR_MAX
    drawn = axes.scatter(*points_N2[order].T, s=side, c=colours[order], linewidths=0, alpha=0.8, rasterized=many)
    outlines = {mark: MarkerStyle(mark).get_path().transformed(MarkerStyle(mark).get_transform()) for mark in MARKS}
    drawn.set_paths([outlines[mark_of.get(level, MARKS[0])] for level in shown.iloc[order]])
    unknown = int(values.isna().sum())
    keys = [(f"{level} ({int((shown == level).sum()):,})", colour_of[level], mark_of[level]) for level in levels]
    keys += [(f"unknown ({unknown:,})", UNKNOWN_GREY, MARKS[0])] if unknown else []
    handles = [plt.Line2D([], [], marker=mark, ls="", color=colour, ms=6, label=text) for text, colour, mark in keys]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=min(3, len(handles)), frameon=False,
        fontsize=9, labelcolor=SOFT, handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip


def _spoken(modality: str) -> str:
    return {"XR": "X-ray", "MR": "MRI"}[modality]


def _save(figure: Any, out: Path) -> None:
    """Write a PNG, whole or not at all; no software or date in it, so the same input gives the same bytes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    figure.savefig(partial, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)
    partial.replace(out)

"""`hilum explore`: one HTML page on which an embedding can be walked through, without a server or a network.

The page holds the map, the colours, each image's neighbours, thumbnails, and the plotting library; `web/` holds what it
looks like and does. It names no patient and no file: patients are numbered anew, images have keys that `hilum ingest
--exclude` understands (hilum.data.exclusion). It does show images, and is to be kept like the dataset.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from hilum.data.exclusion import DATASET, KEY, image_keys
from hilum.data.store import Dataset
from hilum.data.union import LAYOUT as UNION
from hilum.data.vectors import Vectors
from hilum.errors import UsageError
from hilum.judgement.explorer import columns, neighbours
from hilum.judgement.explorer.columns import Column
from hilum.judgement.explorer.maps import OKABE_ITO, project, sample_patients
from hilum.judgement.explorer.neighbours import Alike, Neighbours
from hilum.judgement.explorer.thumbnails import Sheets, sheets
from hilum.page import Html, page, write_page
from hilum.progress import bar
from hilum.recipe import Explore

SPOKEN: Final = {"XR": "X-ray", "MR": "MRI"}
MAX_GROUPS: Final = 200  # of duplicates that the page lists
UNKNOWN_LEVEL, UNKNOWN_NUMBER = 255, 65535  # codes of what is not known
GRID_BITS: Final = 12  # per axis of the grid by which points are ordered
# Nothing can be fetched from anywhere, whatever the page's code does; WebGL shaders are compiled by `new Function`.
POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
)


@dataclass(frozen=True)
class Points:
    """What the page is made of, one entry per point, in the order of `placed`.

    Attributes:
        at_N2: Places on the map.
        rows: Numbers of their images in the dataset.
        table: Their manifest rows.
        properties: What they may be coloured by.
        near: Their neighbours.
        alike: Near-identical ones.
        far: Numbers of the outliers.
    """

    at_N2: NDArray[np.float64]
    rows: NDArray[np.int64]
    table: pd.DataFrame
    properties: Sequence[Column]
    near: Neighbours
    alike: Sequence[Alike]
    far: NDArray[np.int64]


def run(dataset: Path, vectors: Path, out: Path, recipe: Explore, probe: Path | None = None) -> None:
    """Write the page.

    Args:
        dataset: Dataset folder.
        vectors: Embeddings of it.
        out: The HTML file; a former one is replaced.
        recipe: How many points, neighbours and bytes.
        probe: What `hilum probe` wrote of these embeddings; its scores and errors become colours.

    Raises:
        UsageError: The thumbnails do not fit into the budget, or `out` is a folder.
        DatasetError: The folders are not whole, or do not belong together.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name the HTML file to write, such as {out / 'explore.html'}")
    opened, embedding = Dataset.open(dataset), Vectors.open(vectors)
    table = embedding.joined(opened)
    properties = columns.of_dataset(opened, table)
    if probe is not None:
        properties += columns.of_probe(probe, embedding)
    chosen = sample_patients(table["patient_id"], recipe.max_points, recipe.seed)
    with bar("t-SNE", total=1, unit="map") as shown:
        at_N2 = project(embedding.z_ND[chosen], recipe.seed)
        shown.update()
    placed = along_the_map(at_N2)
    chosen, at_N2 = chosen[placed], at_N2[placed]
    points = gather(embedding, table, properties, chosen, at_N2, recipe)
    small = sheets(opened.images, points.rows, round(recipe.megabytes * 1e6))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(out, whole_page(opened, embedding, points, small, recipe))


def gather(
    embedding: Vectors,
    table: pd.DataFrame,
    properties: Sequence[Column],
    chosen: NDArray[np.int64],
    at_N2: NDArray[np.float64],
    recipe: Explore,
) -> Points:
    """Everything about the chosen points, in their order."""
    z_ND = np.asarray(embedding.z_ND[chosen], dtype=np.float32)
    near = neighbours.nearest(z_ND, recipe.neighbours, recipe.metric)
    own = table.iloc[chosen].reset_index(drop=True)
    distance = f"distance to neighbour {near.index_NK.shape[1]}"
    note = "Far from its neighbours: rare, or faulty."
    properties = [
        *(Column(one.name, one.group, one.levels, one.values[chosen], one.note) for one in properties),
        Column(distance, columns.DISTANCES, (), near.distance_NK[:, -1], note),
    ]
    return Points(
        at_N2,
        embedding.rows["row"].to_numpy()[chosen],
        own,
        properties,
        near,
        neighbours.duplicates(near, own),
        neighbours.outliers(near, recipe.outliers),
    )


def along_the_map(at_N2: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order of points in which neighbours on the map are mostly near each other (Morton 1966).

    Thumbnails lie on their sheets in this order, so that a walk over the map needs few sheets; and the order of the
    manifest, which may be that of names or admissions, is not told.
    """
    low, high = at_N2.min(axis=0), at_N2.max(axis=0)
    cells_N2 = ((at_N2 - low) / np.where(high > low, high - low, 1.0) * (2**GRID_BITS - 1)).astype(np.int64)
    code_N = np.zeros(len(at_N2), dtype=np.int64)
    for bit in range(GRID_BITS):
        for axis in (0, 1):
            code_N |= ((cells_N2[:, axis] >> bit) & 1) << (2 * bit + axis)
    return np.argsort(code_N, kind="stable")


def whole_page(dataset: Dataset, embedding: Vectors, points: Points, small: Sheets, recipe: Explore) -> str:
    """The page as HTML."""
    facts, n, patients = embedding.facts, len(points.rows), points.table["patient_id"]
    counted = f"{n:,} images of {patients.nunique():,} patients"
    if n < facts.n:
        counted += f", a sample of {facts.n:,} by patient"
    data = json.dumps(_payload(dataset, points, small, recipe), separators=(",", ":"), allow_nan=False)
    scripts = [
        *(_inert(f"sheet-{i}", base64.b64encode(jpeg).decode()) for i, jpeg in enumerate(small.jpegs)),
        _inert("data", data.replace("<", "\\u003c")),
        Html(f"<script>{_library()}</script>"),
        Html(
            "<script>" + "\n".join(_web(name) for name in ("data.js", "map.js", "panels.js", "start.js")) + "</script>"
        ),
    ]
    body = _web("body.html").replace("{{metric}}", _metric(recipe.metric))
    if dataset.facts.layout == UNION:
        body = body.replace("{{list}}", "This is a union of datasets, which ingest does not read: to exclude images, "
                            "explore the dataset that they come from.")  # fmt: skip
    body = body.replace("{{list}}", "<code>hilum ingest --exclude exclude.csv</code> leaves these images out, which "
                        "makes a new revision of the dataset.")  # fmt: skip
    run = {name: str(value) for name, value in facts.run.items()} | {"encoder": facts.encoder}
    content = page(
        f"Map of an embedding: {facts.encoder}",
        f"{SPOKEN[facts.modality]} · {counted} · t-SNE",
        [Html(f"<style>{_web('style.css')}</style>"), Html(body), *scripts],
        run,
        dataset.facts.caution,
    )
    return content.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">', 1)


def _payload(dataset: Dataset, points: Points, small: Sheets, recipe: Explore) -> dict[str, Any]:
    facts, table = dataset.facts, points.table
    keys = image_keys(facts.digest, list(table["image_id"]))
    numbers = np.random.default_rng(recipe.seed).permutation(table["patient_id"].nunique())
    return {
        "n": len(table),
        "dataset": facts.digest,
        "csv": [DATASET, KEY],
        "metric": recipe.metric,
        "k": points.near.index_NK.shape[1],
        "side": small.side,
        "across": small.across,
        "keys": _text(np.frombuffer(bytes.fromhex("".join(keys)), dtype=np.uint8)),
        "patient": _text(numbers[pd.factorize(table["patient_id"])[0]].astype("<u4")),
        "x": _text(points.at_N2[:, 0].astype("<f4")),
        "y": _text(points.at_N2[:, 1].astype("<f4")),
        "near": _text(points.near.index_NK.astype("<u4")),
        "distance": _text(points.near.distance_NK.astype("<f4")),
        "columns": [_column(one) for one in points.properties],
        "duplicates": [
            {"members": one.members, "same": one.same_pixels, "patients": one.n_patients, "splits": one.splits}
            for one in points.alike[:MAX_GROUPS]
        ],
        "n_duplicates": len(points.alike),
        "outliers": points.far.tolist(),
        "palette": [*OKABE_ITO, "#7A7A7A"],  # `other`, or an eighth level, is grey
        "scale": [to_hex(colormaps["viridis"](i / 63)) for i in range(64)],
    }


def _column(one: Column) -> dict[str, Any]:
    said: dict[str, Any] = {"name": one.name, "group": one.group, "note": one.note, "levels": one.levels}
    known = np.isfinite(one.values)
    if one.levels:
        codes = np.full(len(one.values), UNKNOWN_LEVEL, dtype=np.uint8)
        codes[known] = one.values[known]
        return {**said, "values": _text(codes)}
    low, high = (float(bound(one.values[known])) if known.any() else 0.0 for bound in (np.min, np.max))
    steps = np.full(len(one.values), UNKNOWN_NUMBER, dtype="<u2")
    steps[known] = np.round((one.values[known] - low) / ((high - low) or 1.0) * (UNKNOWN_NUMBER - 1))
    return {**said, "values": _text(steps), "low": low, "high": high, "whole": bool((one.values[known] % 1 == 0).all())}


def _metric(metric: str) -> str:
    return {
        "euclidean": "Euclidean distance of standardised dimensions, the distance that the map is made of",
        "cosine": "cosine distance of the vectors; the map is made of Euclidean distances of standardised dimensions",
    }[metric]


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _inert(name: str, content: str) -> Html:
    """Data in a page: a script that is none, which the browser neither runs nor lays out."""
    return Html(f'<script type="text/plain" id="{name}">{content}</script>')


def _web(name: str) -> str:
    return (files("hilum.judgement.explorer") / "web" / name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """plotly.js as plotly's Python package carries it; a closing tag inside it would end the page's script."""
    return str(get_plotlyjs()).replace("</script", "<\\/script")

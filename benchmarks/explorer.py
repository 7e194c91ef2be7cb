"""What `hilum explore` costs at 100,000 points, and how smoothly its page moves in Chromium without a GPU.

    python benchmarks/explorer.py                  # build the page of made points, open it, move it
    python benchmarks/explorer.py --libraries      # bare scatter plots of the same points, by library (needs npm)
    python benchmarks/explorer.py --points 20000   # fewer

The map's places are drawn, not computed: t-SNE is timed alone with --tsne. Chromium draws WebGL in software here, on
the machine's own cores, which is the worst that a reader may have; a frame is what lies between two animation frames.
Compare figures of one run only: they depend on what else the machine is doing.
"""

import argparse
import base64
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, Page, sync_playwright
from plotly.offline import get_plotlyjs

from hilum.data.store import Dataset, DatasetFacts
from hilum.data.vectors import VectorFacts, Vectors
from hilum.judgement.explorer import columns, explore
from hilum.judgement.explorer.maps import OKABE_ITO, project
from hilum.judgement.explorer.thumbnails import sheets
from hilum.recipe import Explore, Preprocessing

FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
MOVES = 30  # of the mouse, or of its wheel
GROUPS = 7
NPM = ("regl-scatterplot@1.16.0", "deck.gl@9.4.0", "esbuild@0.25.0")


class Films:
    """A thousand made pictures, again and again: as many images as wanted, in little memory."""

    def __init__(self, n: int, size: int = 64) -> None:
        random = np.random.default_rng(0)
        coarse = random.normal(120, 45, (1000, 8, 8)).repeat(size // 8, axis=1).repeat(size // 8, axis=2)
        self.pictures = np.clip(coarse + random.normal(0, 8, (1000, size, size)), 0, 255).astype(np.uint8)
        self.shape = (n, size, size)

    def __getitem__(self, row: int) -> np.ndarray:
        """One picture, (S, S)."""
        return self.pictures[row % 1000]


def made(n: int, dim: int) -> tuple[Dataset, Vectors, np.ndarray]:
    """A dataset of drawn attributes without a folder, embeddings in seven groups, and places on a map."""
    random = np.random.default_rng(0)
    group = random.integers(0, GROUPS, n)
    z_ND = (random.normal(size=(n, dim)) + 3 * random.normal(size=(GROUPS, dim))[group]).astype(np.float32)
    at_N2 = 10 * random.normal(size=(GROUPS, 2))[group] + 3 * random.normal(size=(n, 2))
    labels = tuple(f"finding_{i}" for i in range(14))
    table = pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in range(n)],
            "patient_id": [f"p{i // 3}" for i in range(n)],
            "view": np.array(["PA", "AP", "LATERAL"])[group % 3],
            "sex": np.array(["F", "M"])[random.integers(0, 2, n)],
            "age_years": random.uniform(18, 95, n),
            "site": np.array(list("ABCDEFG"))[group],
            "source": "made",
            "split": np.array(["train", "val", "test"])[random.integers(0, 3, n)],
            "pixel_digest": [f"{i:032x}" for i in range(n)],
            **{label: random.integers(0, 2, n).astype(float) for label in labels},
        }
    )
    facts = DatasetFacts(
        layout="folder", source_revision="folder", source_digest="0" * 64, digest="0" * 64, code_revision="benchmark",
        hilum_version="benchmark", preprocessing=Preprocessing(size=64), labels=labels, covariates=(), n_images=n,
        n_patients=-(-n // 3), n_rejected=0, licence="none", citation="none", caution="Made points: no real data.",
    )  # fmt: skip
    run = {"code_revision": "benchmark", "data_digest": "0" * 64, "recipe_digest": "0" * 64}
    rows = pd.DataFrame({"row": np.arange(n)})
    vectors = Vectors(z_ND, rows, VectorFacts(encoder="made", modality="XR", dim=dim, n=n, run=run))
    return Dataset(Path(), facts, table), vectors, at_N2


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what a block took, by the clock and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    yield
    print(
        f"{what:<40} {time.perf_counter() - clock:8.1f} s, processor {time.process_time() - processor:8.1f} s",
        flush=True,
    )


def build(n: int, dim: int, out: Path) -> None:
    """Write the page of n made points, part by part."""
    dataset, vectors, at_N2 = made(n, dim)
    recipe = Explore()
    placed = explore.along_the_map(at_N2)
    properties = columns.of_dataset(dataset, dataset.manifest)
    with timed(f"neighbours, duplicates, outliers ({dim}-D)"):
        points = explore.gather(vectors, dataset.manifest, properties, placed, at_N2[placed], recipe)
    with timed("thumbnails"):
        small = sheets(Films(n), points.rows, round(recipe.megabytes * 1e6))  # type: ignore[arg-type]
    with timed("page"):
        out.write_text(explore.whole_page(dataset, vectors, points, small, recipe), encoding="utf-8")
    print(
        f"{n:,} points: page {out.stat().st_size / 1e6:.1f} MB, thumbnails {small.side} px on {len(small.jpegs)} sheets"
    )


def moved(page: Page, left: float, top: float) -> None:
    """Print the frame times of dragging, of the wheel and of pointing, around a place of the window."""
    for what in ("drag", "wheel", "point"):
        page.evaluate(
            """() => { window.frames_ = []; let last = performance.now(); window.counting = true;
            const next = (now) => { window.frames_.push(now - last); last = now;
              if (window.counting) requestAnimationFrame(next); };
            requestAnimationFrame(next); }"""
        )
        begin = time.perf_counter()
        page.mouse.move(left, top)
        if what == "drag":
            page.mouse.down()
        for i in range(MOVES):
            if what == "wheel":
                page.mouse.wheel(0, -30 if i < MOVES // 2 else 30)
            else:
                page.mouse.move(left + 4 * i, top + 2 * i)
        if what == "drag":
            page.mouse.up()
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        took = time.perf_counter() - begin
        times = page.evaluate("() => { window.counting = false; return window.frames_; }")
        middle, slow = statistics.median(times), float(np.quantile(times, 0.95))
        print(
            f"  {what:<6} frame {middle:5.0f} ms, 95% within {slow:5.0f} ms; {MOVES} moves in {took:5.1f} s", flush=True
        )


def open_page(browser: Browser, path: Path) -> None:
    """Print how long the page takes until it is drawn, recoloured and moved."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(600_000)
    page.goto(path.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn > 0")
    print(f"  drawn after {int(page.evaluate('document.documentElement.dataset.drawn')):,} ms")
    took = page.evaluate(
        "(async () => { const t = performance.now(); await recolour(3); return performance.now() - t; })()"
    )
    print(f"  recoloured in {took:,.0f} ms")
    moved(page, 500, 500)
    page.close()


def libraries(browser: Browser, n: int) -> None:
    """Bare scatter plots of the same points in the same window: what each library costs by itself."""
    random = np.random.default_rng(0)
    group = random.integers(0, GROUPS, n)
    at_N2 = random.normal(size=(GROUPS, 2))[group] + 0.3 * random.normal(size=(n, 2))
    at_N2 /= np.abs(at_N2).max()
    arrays = (at_N2[:, 0].astype("<f4"), at_N2[:, 1].astype("<f4"), group.astype(np.uint8))
    x, y, g = (base64.b64encode(one.tobytes()).decode() for one in arrays)
    points = f"""const got = (s, T) => new T(Uint8Array.from(atob(s), (c) => c.charCodeAt(0)).buffer);
const X = got("{x}", Float32Array), Y = got("{y}", Float32Array), G = got("{g}", Uint8Array), P = {list(OKABE_ITO)};
const done = () => requestAnimationFrame(() => {{ window.done = performance.now(); }});"""
    plots = {
        "plotly": """Plotly.newPlot("v", [{type: "scattergl", mode: "markers", x: X, y: Y, hoverinfo: "none",
marker: {size: 4, color: Array.from(G, (g) => P[g])}}], {width: 1000, height: 700, dragmode: "pan",
margin: {l: 0, r: 0, t: 0, b: 0}}, {scrollZoom: true, plotGlPixelRatio: 1}).then(done);""",
        "regl-scatterplot": """const c = document.createElement("canvas"); document.getElementById("v").append(c);
createScatterplot({canvas: c, width: 1000, height: 700, pointSize: 4, pointColor: P, colorBy: "valueA"})
.draw({x: X, y: Y, z: G}).then(done);""",
        "deck.gl": """const p = new Float32Array(2 * X.length), c = new Uint8Array(4 * X.length);
for (let i = 0; i < X.length; i++) { p.set([300 * X[i], 300 * Y[i]], 2 * i); const h = parseInt(P[G[i]].slice(1), 16);
c.set([h >> 16, (h >> 8) & 255, h & 255, 255], 4 * i); }
new deck.Deck({parent: document.getElementById("v"), width: 1000, height: 700, views: new deck.OrthographicView(),
initialViewState: {target: [0, 0], zoom: 0}, controller: true, onAfterRender: () => window.done || done(),
layers: [new deck.ScatterplotLayer({id: "s", data: {length: X.length, attributes: {getPosition: {value: p, size: 2},
getFillColor: {value: c, size: 4}}}, getRadius: 2, radiusUnits: "pixels", pickable: true})]});""",
    }
    with tempfile.TemporaryDirectory() as folder:
        sources = {"plotly": get_plotlyjs(), **fetched(Path(folder))}
        for name, source in sources.items():
            path = Path(folder) / f"{name}.html"
            library = source.replace("</script", "<\\/script")
            path.write_text(
                f'<!doctype html><meta charset="utf-8"><div id="v" style="width:1000px;height:700px"></div>'
                f"<script>{library}</script><script>{points}\n{plots[name]}</script>",
                encoding="utf-8",
            )
            page = browser.new_page(viewport={"width": 1100, "height": 800})
            page.set_default_timeout(600_000)
            page.goto(path.as_uri())
            page.wait_for_function("window.done > 0")
            drawn = page.evaluate("window.done")
            print(f"{name}: library {len(source) / 1e6:.2f} MB, {n:,} points drawn after {drawn:,.0f} ms", flush=True)
            moved(page, 500, 350)
            page.close()


def fetched(folder: Path) -> dict[str, str]:
    """The libraries that no Python package carries, by npm, as one script each."""
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed: only plotly is measured")
        return {}
    quiet = {"cwd": folder, "check": True, "capture_output": True}
    subprocess.run([npm, "init", "-y"], **quiet)
    subprocess.run([npm, "install", "--no-audit", "--no-fund", *NPM], **quiet)
    (folder / "entry.js").write_text('import plot from "regl-scatterplot"; window.createScatterplot = plot;')
    bundle = ["entry.js", "--bundle", "--minify", "--format=iife", "--outfile=bundle.js"]
    subprocess.run([str(folder / "node_modules/.bin/esbuild"), *bundle], **quiet)
    return {
        "regl-scatterplot": (folder / "bundle.js").read_text(encoding="utf-8"),
        "deck.gl": (folder / "node_modules/deck.gl/dist.min.js").read_text(encoding="utf-8"),
    }


def main() -> int:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64, help="width of the made embeddings")
    parser.add_argument("--libraries", action="store_true", help="bare plots by library, instead of the page")
    parser.add_argument("--tsne", action="store_true", help="time t-SNE of the made embeddings, and nothing else")
    chosen = parser.parse_args()
    if chosen.tsne:
        with timed(f"t-SNE of {chosen.points:,} x {chosen.dim}"):
            project(np.asarray(made(chosen.points, chosen.dim)[1].z_ND, dtype=np.float64))
        return 0
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        print("explorer: not measured, no Chromium is installed")
        return 0
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=found[0], args=FLAGS)
        if chosen.libraries:
            libraries(browser, chosen.points)
        else:
            build(chosen.points, chosen.dim, Path(folder) / "page.html")
            open_page(browser, Path(folder) / "page.html")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

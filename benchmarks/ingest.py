"""What ingest costs over a bare decode-and-resize loop: the same files, cores and size; the aim is at most 1.3.

    python benchmarks/ingest.py                      # NIH and Kermany as they lie in ../shared/data
    python benchmarks/ingest.py --copies 20          # and 20 times as many images, where fixed costs no longer show

The bare loop opens a file with Pillow, converts it to grey, resizes it with the aspect ratio kept, pads it, and throws
the result away. Ingest also reads the cohort, checks each PNG's checksums, measures and hashes each image, writes
pixels, journal and manifest, and names the dataset by its content.

Each measurement is a new Python process in which the imports are done before the clock starts; both sides start their
own processes within the time. `fork server` is the bare loop on processes started as ingest starts them, `fork` on
plain forks, which start faster but may deadlock in a process with threads, so that ingest does not use them. Sides take
turns; the ratio is of the medians, and the spread that of the ratios turn by turn.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

AIM = 1.3
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"nih": ("nih-chestxray14-1000", "images/*.png"), "kermany": ("kermany-chest-xray", "chest_xray/*/*/*.jpeg")}
SIDES = ("ingest", "fork server", "fork")


def bare(job: tuple[str, int]) -> None:
    """Decode, resize and pad one image."""
    path, size = job
    with Image.open(path) as image:
        grey = image.convert("L")
    scale = size / max(grey.size)
    shape = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    resized = np.asarray(grey.resize(shape, Image.Resampling.BILINEAR))
    square = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - resized.shape[0]) // 2, (size - resized.shape[1]) // 2
    square[top : top + resized.shape[0], left : left + resized.shape[1]] = resized


def run_bare(start: str, paths: list[str], size: int, processes: int) -> float:
    """Seconds of the bare loop."""
    context = multiprocessing.get_context(start)
    jobs = [(path, size) for path in paths]
    begin = time.perf_counter()
    if start == "forkserver":
        context.set_forkserver_preload(["numpy", "PIL.Image", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"])
    with context.Pool(processes) as pool:
        pool.map(bare, jobs, chunksize=32)
    return time.perf_counter() - begin


def run_ingest(layout: str, source: Path, size: int, processes: int) -> float:
    """Seconds of an ingest."""
    import pyarrow.parquet  # noqa: F401  # imported by pandas when first needed; a process imports it once

    from hilum.data.ingest import ingest
    from hilum.data.layouts import LAYOUTS
    from hilum.recipe import Ingest, Preprocessing

    assert layout in LAYOUTS
    __import__(f"hilum.data.layouts.{layout}")
    recipe = Ingest(layout=layout, preprocessing=Preprocessing(size=size))
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        ingest(source, Path(folder) / "dataset", recipe, workers=processes)
        return time.perf_counter() - begin


def measure(side: str, layout: str, source: Path, pattern: str, size: int, processes: int) -> float:
    """Seconds of one side, in a new process."""
    command = [sys.executable, __file__, "--side", side, "--layout", layout, "--source", str(source)]
    command += ["--pattern", pattern, "--size", str(size), "--processes", str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout)


def multiplied(paths: list[Path], copies: int, folder: Path) -> Path:
    """A source of the layout `folder` with every image several times, each a patient of its own."""
    rows = ["image,image_id,patient_id,modality"]
    for number, path in enumerate(paths * copies):
        name = f"{number}{path.suffix}"
        shutil.copy(path, folder / name)
        rows.append(f"{name},i{number},p{number},XR")
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def compare(title: str, layout: str, source: Path, pattern: str, chosen: argparse.Namespace) -> None:
    """Measure all sides in turns and print the ratios."""
    n = len(list(source.glob(pattern)))
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(chosen.repeats):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            seconds[side].append(measure(side, layout, source, pattern, chosen.size, chosen.processes))
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    print(f"{title}: {n} images to {chosen.size} px, {chosen.processes} processes, {chosen.repeats} turns")
    for side in SIDES:
        low, high = min(seconds[side]), max(seconds[side])
        line = f"  {side:12} {medians[side]:7.3f} s ({low:.3f} to {high:.3f})"
        if side != "ingest":
            ratios = [ours / theirs for ours, theirs in zip(seconds["ingest"], seconds[side], strict=True)]
            ratio = medians["ingest"] / medians[side]
            line += f"   ingest / {side} = {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), aim {AIM}"
        print(line, flush=True)


def main() -> None:
    """Run one side where one is named (by this program itself), else compare them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--copies", type=int, default=0, help="also with this many copies of every image")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    for hidden in ("--side", "--layout", "--source", "--pattern"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side == "ingest":
        print(run_ingest(chosen.layout, Path(chosen.source), chosen.size, chosen.processes))
        return
    if chosen.side:
        paths = sorted(str(path) for path in Path(chosen.source).glob(chosen.pattern))
        print(run_bare(chosen.side.replace(" ", ""), paths, chosen.size, chosen.processes))
        return
    for layout, (name, pattern) in SETS.items():
        source = DATA / name
        if not source.is_dir():
            print(f"{name}: skipped, it does not lie in ../shared/data")
            continue
        compare(name, layout, source, pattern, chosen)
        if chosen.copies:
            with tempfile.TemporaryDirectory() as folder:
                copied = multiplied(sorted(source.glob(pattern)), chosen.copies, Path(folder))
                compare(f"{name} x {chosen.copies}", "folder", copied, f"[0-9]*.{pattern.rpartition('.')[2]}", chosen)


if __name__ == "__main__":
    main()

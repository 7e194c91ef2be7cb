"""How fast each encoder trains on this GPU, at the full settings of its source, and how long the source would take.

    python benchmarks/gpu.py --out benchmarks/results/h200.md      # every recipe of pipelines/recipes/sources
    python benchmarks/gpu.py --only mimic-moco --no-compile
    python benchmarks/gpu.py --smoke                               # tiny networks, also on a CPU: to see that it runs

Images are noise in a uint8 store that lies where training would put it. A row is the training step as it is, and again
with torch.compile: images a second, milliseconds a step, model FLOPs utilisation, peak memory, the cost of loading and
augmentation (full steps over steps on constant tensors, in turns), and the hours of the source's whole pretraining at
the better of the two. Model FLOPs are counted on the networks (hilum.learning.engine.cost), and utilisation is their
share of the device's dense bfloat16 peak. Where a batch does not fit, it is halved until it does, and the row says so.

It needs torch, numpy, pandas, pyarrow, pydantic, PyYAML and tqdm, and fetches nothing; `diffae` needs diffusers too,
and its rows are left out, and said to be, where that is missing. Nothing of hilum has to be installed.
"""

import argparse
import copy
import gc
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from loading import Steps, in_turns, ratio_of, seconds, steps_of

from hilum.errors import HilumError
from hilum.learning.engine import device as devices
from hilum.learning.engine.cost import of_step
from hilum.progress import track
from hilum.recipe import Recipe, Train, read

RECIPES = Path(__file__).resolve().parents[1] / "pipelines" / "recipes" / "sources"
# Images of a pretraining: source B reports 337,000; CheXpert's training table has 223,414; of the German National
# Cohort source A says "more than 30,000". The name of a recipe begins with its dataset.
IMAGES = {"mimic": 337_000, "chexpert": 223_414, "gnc": 30_000}
# Dense bfloat16, FLOP/s: NVIDIA's data sheets of the H100 SXM and the H200 say 1,979 TFLOP/s "with sparsity", which is
# twice the dense rate. The SXM module calls itself "H100 80GB HBM3"; PCIe cards are slower and not in this table.
PEAKS = {"H100 80GB HBM3": 989.4e12, "H200": 989.4e12}
STORED = 4096  # images of the synthetic store; a step's cost does not depend on it
COLUMNS = (
    "recipe",
    "px",
    "batch",
    "precision",
    "compiled",
    "images/s",
    "ms/step",
    "MFU",
    "peak GB",
    "loading",
    "hours",
)


@dataclass(frozen=True)
class Run:
    """One recipe's encoder."""

    title: str
    dataset: str
    size: int
    train: Train


@dataclass(frozen=True)
class Measured:
    """What was measured of a run.

    Attributes:
        batch: Images of a step that fitted.
        step: Seconds.
        flops: Of a step.
        peak: Bytes on the GPU without the images.
        loading: Full steps over steps on constant tensors.
    """

    batch: int
    step: float
    flops: float
    peak: float
    loading: float


def runs(only: str | None) -> list[Run]:
    """Every encoder of the sources' recipes that is trained in steps; one for fine-tuning pretrains nothing new."""
    found = []
    for path in sorted(RECIPES.glob("*.yaml")):
        if path.stem.endswith("-finetune") or (only and path.stem != only):
            continue
        recipe: Recipe = read(path)
        for section in recipe.encoders:
            if section.name not in ("pixels", "imagenet"):  # the floor, and one that is taken as it is
                dataset = path.stem.split("-")[0]
                train = recipe.train_of(section.name, "MR" if dataset == "gnc" else "XR")
                found.append(Run(path.stem, dataset, recipe.ingest.preprocessing.size, unweighted(train)))
    return found


def unweighted(train: Train) -> Train:
    """The same without published weights to begin with, which a bare machine does not have; the speed is the same."""
    values = train.model_dump()
    if "backbone" in values["encoder"]:
        values["encoder"]["backbone"]["weights"] = ""
    return Train.model_validate(values)


def shrunk(run: Run) -> Run:
    """The same run with networks so small that a CPU does some steps in a moment."""
    values = copy.deepcopy(run.train.model_dump())
    encoder = values["encoder"]
    small = {"channels": (16, 16), "attention_levels": (), "queue_size": 64, "projection_dim": 16, "semantic": 16}
    encoder.update({name: value for name, value in {**small, "latent": 8, "blocks": 1}.items() if name in encoder})
    if "backbone" in encoder:
        encoder["backbone"] |= {"name": "resnet_small", "width": 8, "stem": "3x3"}
    if "hessian" in encoder:
        encoder["hessian"] |= {"images": 2, "layers": ()}
    return replace(run, size=32, train=Train.model_validate({**values, "batch_size": 8, "precision": "float32"}))


def measure(run: Run, batch: int, device: torch.device, compiled: bool, budget: float) -> Measured:
    """Step for about `budget` seconds.

    Args:
        run: What is trained.
        batch: Images of a step.
        device: Where.
        compiled: Whether its networks are.
        budget: Seconds of measuring, for each of speed and loading, after warming up.
    """
    train = run.train.model_copy(update={"batch_size": batch})
    n_images = max(4 * batch, 64 if budget == 0 else STORED)
    flops = of_step(train, run.size, batch).flops
    with tempfile.TemporaryDirectory() as folder:
        steps = steps_of(train, run.size, Path(folder), device, n_images, compiled)
        once = warmed(steps, 3 if budget else 1)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        n = max(2, int(budget / 5 / once))
        step = statistics.median(seconds(steps.full, n, device) for _ in range(5 if budget else 1))
        peak = torch.cuda.max_memory_allocated(device) - n_images * run.size**2 if device.type == "cuda" else 0
        loading = ratio_of(in_turns(steps, 5 if budget else 1, max(1, int(budget / 10 / once))))
    return Measured(batch, step, flops, peak, loading)


def warmed(steps: Steps, n: int) -> float:
    """Seconds of a step after the first ones, in which kernels are chosen and compiled."""
    seconds(steps.full, n, steps.device)
    return seconds(steps.full, n, steps.device)


def fitting(run: Run, device: torch.device, compiled: bool, budget: float) -> Measured:
    """Measure with the recipe's batch, or with the half of it, and so on, that fits."""
    batch = run.train.batch_size
    while True:
        try:
            return measure(run, batch, device, compiled, budget)
        except torch.OutOfMemoryError:
            if batch < 4:
                raise
            batch //= 2
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            torch.compiler.reset()


def row(run: Run, found: Measured, compiled: bool, peak: float | None) -> list[str]:
    """One line of the table."""
    pace = found.batch / found.step
    used = f"{100 * found.flops / found.step / peak:.1f} %" if peak and run.train.precision == "bfloat16" else "n/a"
    asked = run.train.batch_size
    return [
        run.title,
        str(run.size),
        str(found.batch) if found.batch == asked else f"{found.batch} (of {asked})",
        run.train.precision,
        "yes" if compiled else "no",
        f"{pace:,.0f}",
        f"{1e3 * found.step:.1f}",
        used,
        f"{found.peak / 1e9:.1f}" if found.peak else "n/a",
        f"{found.loading:.3f}",
        f"{run.train.epochs * IMAGES[run.dataset] / pace / 3600:.1f}",
    ]


def peak_of(device: torch.device) -> float | None:
    """Dense bfloat16 FLOP/s of the device; None where the table does not know it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def page(device: torch.device, rows: list[list[str]], left_out: list[str], minutes: float, smoke: bool) -> str:
    """The table as Markdown, under the device's name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = peak_of(device)
    known = f"peak {peak / 1e12:.1f} TFLOP/s (dense bfloat16)" if peak else "its peak is not in the table: MFU n/a"
    sizes = ", ".join(f"{dataset} {n:,}" for dataset, n in IMAGES.items())
    return "\n".join(
        [
            f"# Training on one {name}",
            "",
            *(["A smoke run of tiny networks: no figure here says anything.", ""] if smoke else []),
            f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}; {known}; measured in {minutes:.0f} "
            "minutes by `benchmarks/gpu.py`.",
            f"`hours` is the recipe's epochs over all images of the source ({sizes}) at the measured pace, with "
            "nothing else counted; `loading` is full steps over steps on constant tensors; `peak GB` is without the "
            "images.",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|" + "-|" * len(COLUMNS),
            *("| " + " | ".join(cells) + " |" for cells in rows),
            *([""] if left_out else []),
            *(f"Left out: {reason}." for reason in left_out),
            "",
        ]
    )


def main() -> int:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one recipe, such as mimic-moco")
    parser.add_argument("--no-compile", action="store_true", help="leave out the rows with torch.compile")
    parser.add_argument("--smoke", action="store_true", help="tiny networks and two steps: nothing is measured by it")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring, for each row and figure")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    chosen = parser.parse_args()
    device = devices.pick()
    if device.type != "cuda" and not chosen.smoke:
        print("gpu: there is no GPU here; --smoke runs tiny networks on the CPU", file=sys.stderr)
        return 2
    begin = time.monotonic()
    rows: list[list[str]] = []
    left_out: list[str] = []
    sides = (False,) if chosen.no_compile or chosen.smoke else (False, True)
    for run, compiled in track([(run, side) for run in runs(chosen.only) for side in sides], "measure", unit="row"):
        name = f"{run.title}{', compiled' if compiled else ''}"
        try:
            found = fitting(
                shrunk(run) if chosen.smoke else run, device, compiled, 0.0 if chosen.smoke else chosen.seconds
            )
        except ImportError as error:
            left_out.append(f"{name}, because {error.name or 'a package'} is not installed here")
        except (HilumError, RuntimeError) as error:  # the other rows are worth having
            left_out.append(f"{name}, because of {type(error).__name__}: {str(error).splitlines()[0]}")
        else:
            rows.append(row(shrunk(run) if chosen.smoke else run, found, compiled, peak_of(device)))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    written = page(device, rows, left_out, (time.monotonic() - begin) / 60, chosen.smoke)
    print(written)
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        partial = chosen.out.with_name(chosen.out.name + ".partial")
        partial.write_text(written, encoding="utf-8")
        partial.replace(chosen.out)
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())

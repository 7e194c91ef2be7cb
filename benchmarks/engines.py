"""What an image costs in each engine: CPU-milliseconds, and their ratio to onnxruntime-fp32 in the same run.

    python benchmarks/engines.py            # ResNet-18 and DenseNet-121 at 224 px, one image at a time, one thread
    python benchmarks/engines.py --smoke    # tiny, to see that it runs; what it prints is no measurement

The weights are random, so that nothing here is about accuracy: `evidence/engines.json` of a release is. The engines
take turns, and every turn begins with another one; a figure is the median over the turns, its ratio the median of the
ratios turn by turn, with their range. An engine that cannot be had on this machine is named with the reason.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # also where hilum is not installed

import numpy as np
import torch

from hilum.delivery.engines import DEFAULT, FP32_MODEL, INT8_MODEL, NAMES, Engine, open_engine
from hilum.delivery.machine import usable_cores
from hilum.delivery.releasing import graph, quantise
from hilum.errors import HilumError
from hilum.learning.nets.embedder import embedder
from hilum.recipe import Backbone

NETS = {
    "ResNet-18": Backbone(name="resnet18", width=64, stem="7x7"),
    "DenseNet-121": Backbone(name="densenet121", width=32, stem="7x7"),
}
SMOKE_NETS = {"ResNet, small": Backbone(width=8)}
CALIBRATION = 16  # images; more would change the ranges, not the time


def measure(section: Backbone, size: int, runs: int, turns: int, folder: Path) -> tuple[dict[str, list[float]], str]:
    """CPU-milliseconds of an image by engine, turn by turn; and why others are not among them."""
    torch.manual_seed(0)
    images_NSS = np.random.default_rng(0).integers(0, 256, (CALIBRATION, size, size)).astype(np.uint8)
    graph.write(embedder(section).eval(), size, None, {"name": section.name}, folder / FP32_MODEL)
    quantise.quantise(folder / FP32_MODEL, images_NSS, folder / INT8_MODEL)
    engines: dict[str, Engine] = {}
    without = ""
    for name in NAMES:
        try:
            engines[name] = open_engine(name, folder)
        except HilumError as error:
            without += f"\n{name} is not among them: {error}."
    x_BCHW = images_NSS[:1, None].astype(np.float32) / np.float32(255)
    took: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.run(x_BCHW)
    order = list(engines)
    for turn in range(turns):
        for one in order[turn % len(order) :] + order[: turn % len(order)]:
            begun = time.process_time()  # of all threads of this process
            for _ in range(runs):
                engines[one].run(x_BCHW)
            took[one].append(1e3 * (time.process_time() - begun) / runs)
    return took, without


def rows(net: str, took: dict[str, list[float]]) -> list[str]:
    """Lines of the table."""
    lines = []
    for name, values in took.items():
        ratios = [value / base for value, base in zip(values, took[DEFAULT], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        lines.append(f"| {net} | {name} | {statistics.median(values):.1f} | {'1' if name == DEFAULT else spread} |")
    return lines


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--runs", type=int, default=20, help="images of a turn")
    parser.add_argument("--turns", type=int, default=9)
    chosen = parser.parse_args()
    size, runs, turns = (32, 2, 3) if chosen.smoke else (chosen.size, chosen.runs, chosen.turns)
    print(
        f"{platform.machine()}, {usable_cores()} cores; {size} px, batch 1, 1 thread, {turns} turns of {runs} images\n"
    )
    print("| network | engine | CPU-ms an image | ratio |\n| - | - | - | - |")
    without = ""
    for net, section in (SMOKE_NETS if chosen.smoke else NETS).items():
        with tempfile.TemporaryDirectory() as folder:
            took, without = measure(section, size, runs, turns, Path(folder))
        print("\n".join(rows(net, took)), flush=True)
    print(without)
    return 0


if __name__ == "__main__":
    sys.exit(main())

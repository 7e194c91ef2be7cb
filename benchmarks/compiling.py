"""What `torch.compile` is worth: training steps with compiled networks over the same steps without; below 1 it pays.

    python benchmarks/compiling.py            # the configurations of benchmarks/loading.py for a CPU
    python benchmarks/compiling.py --smoke    # tiny, to see that it runs

Both sides step an encoder of its own from the same seed, on batches as training takes them, and take turns: plain,
compiled, compiled, plain, ... The ratio is of the medians, its spread that of the ratios turn by turn. The seconds of
the first compiled step are what compiling costs a run; how many steps earn them back is said where any do. On a GPU
benchmarks/gpu.py has a row with and a row without.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where PYTHONSAFEPATH is set, as in the Makefile
import torch
from loading import CPU_CASES, SMOKE_CASES, Case, seconds, steps_of

CPU = torch.device("cpu")


def measure(one: Case, repeats: int) -> str:
    """The line of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            steps_of(one.train, one.size, Path(folder) / name, CPU, 4 * one.train.batch_size, name == "compiled")
            for name in ("plain", "compiled")
        ]
        seconds(sides[0].full, 1, CPU)
        first = seconds(sides[1].full, 1, CPU)
        took: tuple[list[float], list[float]] = ([], [])
        for turn in range(repeats):
            for side in (0, 1) if turn % 2 == 0 else (1, 0):
                took[side].append(seconds(sides[side].full, 1, CPU))
    torch.compiler.reset()
    plain, compiled = (statistics.median(values) for values in took)
    single = [b / a for a, b in zip(*took, strict=True)]
    saved = plain - compiled
    earned = f"earned back after {first / saved:,.0f} steps" if saved > 0 else "never earned back"
    return (
        f"{one.title}: plain {1e3 * plain:.1f} ms, compiled {1e3 * compiled:.1f} ms, ratio {compiled / plain:.3f} "
        f"({min(single):.3f} to {max(single):.3f}); the first step takes {first:.0f} s, {earned}"
    )


def main() -> int:
    """Print a line per configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny")
    parser.add_argument("--repeats", type=int, default=9)
    chosen = parser.parse_args()
    for one in SMOKE_CASES if chosen.smoke else CPU_CASES:
        print(measure(one, 1 if chosen.smoke else chosen.repeats), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training on several workers of one machine, started from a single call: a worker per GPU, by torchrun.

python -m hilum.learning.launching DATASET RECIPE.json OUT    what each worker runs
"""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from hilum.errors import HilumError, TrainingError
from hilum.learning import training
from hilum.recipe import Train


def gpus() -> int:
    """How many workers this machine's GPUs make; 1 without a GPU, where one worker uses all cores."""
    return max(1, torch.cuda.device_count())


def run(dataset: Path, recipe: Train, out: Path, n_workers: int) -> Path:
    """Train one encoder, with `n_workers` processes that share each batch; see hilum.learning.training.run.

    Args:
        dataset: A dataset folder.
        recipe: What is trained, and how.
        out: The encoder run's folder.
        n_workers: 1 trains in this process.

    Returns:
        `out`.

    Raises:
        HilumError: Of `training.run`, where one worker trains.
        TrainingError: A worker failed; worker 0 has said why.
    """
    if n_workers == 1:
        return training.run(dataset, recipe, out)
    with tempfile.TemporaryDirectory() as folder:
        section = Path(folder) / "recipe.json"
        section.write_text(recipe.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_workers}"]
        done = subprocess.run([*command, "-m", __name__, str(dataset), str(section), str(out)], check=False)
    if done.returncode:
        raise TrainingError(f"training on {n_workers} workers ended with status {done.returncode}; the reason is above")
    return out


def _work(dataset: str, section: str, out: str) -> int:
    logging.basicConfig(level=logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    try:
        training.run(Path(dataset), Train.model_validate_json(Path(section).read_text(encoding="utf-8")), Path(out))
    except HilumError as error:
        print(f"hilum: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(_work(*sys.argv[1:]))

"""What vital signs add to the image, on a phantom whose truth is known: the fusion ladder, side by side.

    python benchmarks/fusion.py --out /tmp/hilum-fusion

Draws a phantom cohort larger than the embedded one (for power), trains the recipe's `moco` on it, fine-tunes it with
each fusion, and prints the table with patient-bootstrap intervals. In the phantom, vital signs and laboratory values
follow the severity of pneumonia, and the ill are measured more often (hilum.data.anatomy.causes).

Exit status 1 where gated fusion does not beat the image alone in every mode (lower bound of the paired difference in
AUROC above 0), or where the fusions were not given the same trials.
"""

import argparse
import sys
import time
from pathlib import Path

from hilum.data import ingest
from hilum.data.layouts import phantom
from hilum.data.store import read_json
from hilum.judgement.fusion import ladder as fusion
from hilum.learning import finetune, training
from hilum.recipe import Recipe, read

RECIPE = Path(__file__).resolve().parents[1] / "pipelines" / "recipes" / "small" / "finetune.yaml"


def cohort(recipe: Recipe, patients: int, seed: int, out: Path) -> Path:
    """The phantom as a dataset folder; one that is there is taken as it is."""
    dataset, source = out / "dataset", out / "phantom"
    if not (dataset / "dataset.json").exists():
        size = recipe.ingest.preprocessing.size
        if not source.exists():
            phantom.generate(source, patients=patients, seed=seed, size=size)
        ingest.ingest(source, dataset, recipe.ingest, source_revision="folder", source_digest=f"{patients}-{seed}")
    return dataset


def same_trials(tuned: Path, modes: tuple[str, ...]) -> bool:
    """Whether all fusions of a mode tried the same rates with the same seeds."""
    for mode in modes:
        grids = {
            tuple((trial["learning_rate"], trial["seed"]) for trial in read_json(card)["trials"])
            for card in (tuned / mode).glob("*/card.json")
        }
        if len(grids) != 1:
            return False
    return True


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for all of it; a run that is there is not repeated"
    )
    parser.add_argument("--patients", type=int, default=700)
    parser.add_argument("--seed", type=int, default=5, help="of the phantom")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    options = parser.parse_args()
    recipe, began = read(options.recipe), time.monotonic()
    dataset = cohort(recipe, options.patients, options.seed, options.out)
    encoder = training.run(dataset, recipe.train_of("moco", "XR"), options.out / "encoder")
    finetune.ladder(dataset, encoder, recipe.finetune, options.out / "tuned")
    table = fusion.run(dataset, options.out / "tuned", recipe.finetune, options.out / "tuned")
    print((options.out / "tuned" / "fusion.md").read_text(encoding="utf-8"))
    print(f"{time.monotonic() - began:.0f} s")
    gated = table[(table["fusion"] == "gated") & (table["metric"] == "auroc") & (table["rows"] == "all")]
    fair = same_trials(options.out / "tuned", recipe.finetune.modes)
    return 0 if fair and len(gated) == len(recipe.finetune.modes) and (gated["gain_low"] > 0).all() else 1


if __name__ == "__main__":
    sys.exit(main())

"""The verb that does it all."""

import sys
from pathlib import Path
from typing import Any

import click

from hilum.cli.options import FOLDER, override_options, recipe_of, recipe_option, verb
from hilum.errors import UsageError
from hilum.recipe import compose, plain


@verb("hilum run --layout nih --source ~/ChestX-ray14 --size 64 --epochs 60 --out out/nih")
@click.option("--layout", help="How the source is laid out.  [default: the recipe's]")
@click.option("--source", required=True, help="A folder, or a git repository with data/ under DVC (with --revision).")
@click.option("--revision", default="", help="Branch, tag or commit of a DVC repository.")
@click.option(
    "--out", type=FOLDER, required=True, help="Folder for reports/, releases/, run.log; reused by a later run."
)
@click.option("--size", type=click.IntRange(16, 1024), help="Side of the square images in pixels.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the train split.")
@click.option("--encoders", help="Such as moco,pixels; pixels stays among them.")
@click.option("--release-encoder", help="Which of them is exported.")
@click.option("--label", help="What the released head answers.")
@click.option("--seed", type=int, help="Of splits, weights, order and resampling.")
@override_options
@recipe_option
def run(
    source: str, revision: str, out: Path, recipe: Path | None, override_by: str, override_reason: str, **flags: Any
) -> None:
    """Run the whole training pipeline on this machine, through KFP's local runner."""
    import json
    import subprocess

    from hilum.data.layouts import LAYOUTS
    from hilum.judgement.gate.override import Override

    Override.of(override_by, override_reason)  # refuse half of one now, not in the first step
    whole = recipe_of(recipe)
    form: dict[str, Any] = {
        "layout": flags["layout"] or whole.ingest.layout,
        "encoders": flags["encoders"].split(",") if flags["encoders"] else [one.name for one in whole.encoders],
        "epochs": flags["epochs"] or whole.train.epochs,
        "image_size": flags["size"] or whole.ingest.preprocessing.size,
        "seed": whole.train.seed if flags["seed"] is None else flags["seed"],
        "label": flags["label"] or whole.export.label,
        "release_encoder": flags["release_encoder"] or whole.export.encoder,
        "gate_min_auroc": _asked(whole.gate.min_auroc),
        "gate_max_auroc_gap": _asked(whole.gate.max_auroc_gap),
    }
    if form["layout"] not in LAYOUTS:
        raise UsageError(f"there is no layout {form['layout']!r}; there are {', '.join(LAYOUTS)}")
    base = plain(whole)
    compose(base, **form)  # refuse a wrong knob now, not in the first step
    overriding = {"override_by": override_by, "override_reason": override_reason}
    told = {**form, **overriding, "source": source, "revision": revision, "recipe": base}
    # KFP is imported by no module of hilum: the runner is a process of its own.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines.local", "--launch", str(out)], input=json.dumps(told), text=True
    )
    if done.returncode:
        sys.exit(done.returncode)


def _asked(tolerance: float | str) -> float:
    """A tolerance for the run form, which has no null: a negative number is not asked."""
    return tolerance if isinstance(tolerance, float) else -1.0

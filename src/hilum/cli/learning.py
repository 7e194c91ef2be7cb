"""Verbs that train, embed and fine-tune."""

from pathlib import Path
from typing import Any

import click

from hilum.cli.options import EXISTING, FOLDER, recipe_of, recipe_option, verb
from hilum.errors import UsageError
from hilum.recipe import ENCODER_SECTIONS, Finetune


@verb("hilum train data/nih224 --encoder moco --modality XR --epochs 60 --out runs/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--encoder", type=click.Choice(sorted(ENCODER_SECTIONS)), default="moco", show_default=True)
@click.option("--modality", type=click.Choice(["XR", "MR"]), default="XR", show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the train split.")
@click.option("--seed", type=int, help="Of weights, order and augmentation.")
@click.option("--out", type=FOLDER, help="Folder of the run; killed and called again, it goes on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes: one per GPU.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, refuse what cannot fit, and write nothing.")
@recipe_option
def train(
    dataset: Path,
    encoder: str,
    modality: str,
    epochs: int | None,
    seed: int | None,
    out: Path | None,
    workers: int,
    dry_run: bool,
    recipe: Path | None,
) -> None:
    """Train one encoder on the train split of one modality."""
    section = recipe_of(recipe).train_of(encoder, modality)
    changes = {name: value for name, value in {"epochs": epochs, "seed": seed}.items() if value is not None}
    section = section.model_copy(update=changes)
    if dry_run:
        from hilum.learning.engine import estimate

        click.echo("\n".join(estimate.dry_run(dataset, section, workers).lines()))
        return
    if out is None:
        raise UsageError("name the folder of the run with --out, or ask only what it would take with --dry-run")
    from hilum.learning import launching

    launching.run(dataset, section, out, workers)
    click.echo(f"wrote {out}")


@verb("hilum embed data/nih224 --run runs/moco --out vectors/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--run", "encoder_run", type=EXISTING, required=True, help="What `hilum train` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for vectors.npy, rows.parquet and embedding.json.")
def embed(dataset: Path, encoder_run: Path, out: Path) -> None:
    """Embed every image of the encoder's modality."""
    from hilum.learning import embedding

    vectors = embedding.run(dataset, encoder_run, out)
    click.echo(f"{out}: {vectors.facts.n} x {vectors.facts.dim} by {vectors.facts.encoder}")


@verb("hilum imagine data/nih224 --run runs/diffae --attribute age_years --attribute pneumonia --out strips")
@click.argument("dataset", type=EXISTING)
@click.option("--run", "encoder_run", type=EXISTING, required=True, help="Of an encoder that has a decoder.")
@click.option("--attribute", "attributes", multiple=True, help="A label, sex, age_years, view=AP, ...; repeatable.")
@click.option("--patients", default=6, show_default=True, type=click.IntRange(2), help="Rows of each picture.")
@click.option("--steps", default=250, show_default=True, type=click.IntRange(2), help="Of a diffusion; divides 1000.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of patients.")
@click.option("--out", type=FOLDER, required=True, help="Folder for reconstruct.png, interpolate.png, along-*.png.")
def imagine(
    dataset: Path, encoder_run: Path, attributes: tuple[str, ...], patients: int, steps: int, seed: int, out: Path
) -> None:
    """Draw what an embedding holds: rebuilt, halfway between two patients, and moved along an attribute."""
    from hilum.learning.pictures import strips

    strips.run(dataset, encoder_run, out, attributes, patients, steps, seed)
    click.echo(f"wrote {', '.join(path.name for path in sorted(out.glob('*.png')))} and strips.json to {out}")


@verb("hilum finetune data/nih224 --run runs/moco --label effusion --mode end_to_end --out tuned/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--run", "encoder_run", type=EXISTING, required=True, help="What `hilum train` wrote.")
@click.option("--label", help="What is to be answered.  [default: the recipe's]")
@click.option("--mode", type=click.Choice(["linear", "end_to_end"]), default="linear", show_default=True)
@click.option("--fusion", type=click.Choice(["image_only", "concatenation", "gated"]),
              help="[default: gated where the dataset has covariates, else image_only]")  # fmt: skip
@click.option("--out", type=FOLDER, required=True, help="Folder to write; killed and called again, it goes on.")
@recipe_option
def finetune(dataset: Path, encoder_run: Path, mode: Any, fusion: Any, out: Path, **flags: Any) -> None:
    """Fine-tune an encoder for one label, with covariates or without."""
    from hilum.judgement.fusion import ladder as judging
    from hilum.learning import finetune as tuning

    tuning.run(dataset, encoder_run, _finetune_section(**flags), mode, fusion or tuning.default_fusion(dataset), out)
    for metric, interval in judging.judge(out).items():
        click.echo(f"{metric:<8} {interval}  ({interval.n} test images of {interval.n_patients} patients)")


@verb("hilum fusion data/mimic224 --run runs/discern --mode linear --mode end_to_end --out fusion/discern")
@click.argument("dataset", type=EXISTING)
@click.option("--run", "encoder_run", type=EXISTING, required=True, help="What `hilum train` wrote.")
@click.option("--label", help="What is to be answered.  [default: the recipe's]")
@click.option("--mode", "modes", multiple=True, type=click.Choice(["linear", "end_to_end"]), help="Repeatable.")
@click.option("--out", type=FOLDER, required=True, help="Folder for fusion.csv, .md and .html, and each fine-tuning.")
@recipe_option
def fusion(dataset: Path, encoder_run: Path, modes: tuple[str, ...], out: Path, **flags: Any) -> None:
    """Compare image, covariates and their fusions, each fine-tuned on the same budget."""
    from hilum.judgement.fusion import ladder as judging
    from hilum.learning import finetune as tuning

    section = _finetune_section(**flags)
    section = section.model_copy(
        update={"modes": modes or section.modes or ("linear",), "fusions": section.fusions or judging.LADDER}
    )
    tuning.ladder(dataset, encoder_run, section, out)
    judging.run(dataset, out, section, out)
    click.echo((out / "fusion.md").read_text(encoding="utf-8"))


def _finetune_section(recipe: Path | None, label: str | None) -> Finetune:
    section = recipe_of(recipe).finetune
    return section.model_copy(update={"label": label}) if label else section

"""The command line: one verb, one function below it.

Exit status: 0 done, 1 a check did not hold or a step failed, 2 the call asks for what cannot be.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hilum import __version__
from hilum.errors import HilumError, UsageError
from hilum.recipe import ENCODER_SECTIONS, Ingest, Recipe, compose, parse, plain
from hilum.recipe import read as read_recipe

FOLDER = click.Path(path_type=Path, file_okay=False)
EXISTING = click.Path(path_type=Path, file_okay=False, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hilum")
@click.option("--debug", is_flag=True, help="Show the stack trace of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    r"""Medical images to fair, defensible embeddings: from a dataset revision to an answered X-ray.

    \b
    The way of the data:  ingest -> validate -> train -> embed -> probe -> audit -> compare -> export -> serve
    All of it at once:    hilum run
    """
    context.obj = debug


def _example(text: str) -> Callable[[Callable[..., None]], click.Command]:
    """A verb whose help ends with an example."""
    return cli.command(epilog=f"\b\nExample:\n  {text}")


def _pairs(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(value.partition("=")[::2] for value in values)
    if any("=" not in value for value in values):
        raise click.BadParameter(f"{option.opts[0]} takes NAME=VALUE")
    return pairs


def _recipe(path: Path | None) -> Recipe:
    recipe: Recipe = read_recipe(path) if path else Recipe()
    return recipe


_recipe_option = click.option("--recipe", type=FILE, help="A recipe (YAML) for every knob that has no flag here.")


@_example("hilum phantom --out phantom --patients 50")
@click.option("--out", type=FOLDER, required=True, help="Folder to write; must not exist or be empty.")
@click.option("--patients", default=260, show_default=True, type=click.IntRange(4), help="Number of patients.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same bytes.")
@click.option("--size", default=96, show_default=True, type=click.IntRange(32, 512), help="Side in pixels.")
@click.option("--site-shift/--no-site-shift", default=True, help="Plant the shift of position at one site.")
def phantom(out: Path, patients: int, seed: int, size: int, site_shift: bool) -> None:
    """Draw a phantom cohort: a test body with known causes, no real data."""
    from hilum.data.layouts import phantom as generator

    generator.generate(out, patients=patients, seed=seed, size=size, site_shift=site_shift)
    click.echo(f"wrote {out}")


@_example("hilum ingest --layout nih --source ~/ChestX-ray14 --out data/nih224 --size 224 --views PA,AP")
@click.option("--layout", required=True, help="How the source is laid out: nih, chexpert, mimic_cxr, covid_chestxray, "
              "kermany, oasis, bids, medmnist, dicom, folder, phantom.")  # fmt: skip
@click.option("--source", required=True, help="The folder of the distribution, or a DVC repository (with --revision).")
@click.option("--revision", default="", help="Branch, tag or commit of a DVC repository.")
@click.option("--out", type=FOLDER, required=True, help="The dataset folder to write.")
@click.option("--size", type=click.IntRange(16, 1024), help="Side of the square images in pixels.  [default: 224]")
@click.option("--views", help="Keep these views only, such as PA,AP.")
@click.option("--limit", type=click.IntRange(1), help="Keep the first patients, up to this many images.")
@click.option("--seed", type=int, help="Of the split by patient.  [default: 0]")
@click.option("--uncertain", multiple=True, callback=_pairs, metavar="LABEL=POLICY",
              help="keep, ignore, zeros or ones, for a label's uncertain values.")  # fmt: skip
@click.option("--option", "options", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Option of the layout.")
@click.option(
    "--max-rejected-share", type=click.FloatRange(0, 1), help="Refuse if more is unreadable.  [default: 0.05]"
)
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: usable cores]")
@_recipe_option
def ingest(source: str, revision: str, out: Path, workers: int | None, recipe: Path | None, **flags: Any) -> None:
    """Turn a native layout into a dataset folder; killed and called again, it goes on."""
    from hilum.data import ingest as ingesting
    from hilum.data import source as sources

    section = _ingest_section(_recipe(recipe).ingest, **flags)
    resolved = sources.resolve(source, revision)
    fetched = out.with_name(out.name + ".source")  # kept until the dataset is whole, so that a killed ingest goes on
    folder = sources.fetch(source, revision, fetched)
    dataset = ingesting.ingest(
        folder,
        out,
        section,
        source_revision=resolved.revision,
        source_digest=resolved.digest,
        workers=workers,
    )
    if folder == fetched:
        shutil.rmtree(fetched)
        fetched.with_name(fetched.name + ".digest").unlink(missing_ok=True)
    facts = dataset.facts
    click.echo(
        f"{out}: {facts.n_images} images of {facts.n_patients} patients, {facts.n_rejected} rejected, "
        f"digest {facts.digest[:12]}"
    )


def _ingest_section(section: Ingest, size: int | None, views: str | None, **flags: Any) -> Ingest:
    changes = {name: value for name, value in flags.items() if value not in (None, {})}
    if size is not None:
        changes["preprocessing"] = section.preprocessing.model_copy(update={"size": size})
    if views:
        changes["views"] = tuple(view.strip().upper() for view in views.split(","))
    changed: Ingest = parse({**section.model_dump(), **changes}, Ingest)
    return changed


@_example("hilum validate data/nih224 --out reports/nih224")
@click.argument("dataset", type=EXISTING)
@click.option("--out", type=FOLDER, required=True, help="Folder for validation.html and verdict.json.")
@click.option("--data-docs", is_flag=True, help="Also write Great Expectations' own Data Docs (they need a network).")
def validate(dataset: Path, out: Path, data_docs: bool) -> None:
    """Check a dataset with Great Expectations; exit status 1 if a critical check fails."""
    from hilum.data import expectations

    verdict = expectations.validate(dataset, out, data_docs=data_docs)
    failed = [check.name for check in verdict.checks if not check.ok]
    click.echo(f"{out / 'validation.html'}: {len(verdict.checks)} checks, {len(failed)} not met")
    verdict.require()


@_example("hilum train data/nih224 --encoder moco --modality XR --epochs 60 --out runs/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--encoder", type=click.Choice(sorted(ENCODER_SECTIONS)), default="moco", show_default=True)
@click.option("--modality", type=click.Choice(["XR", "MR"]), default="XR", show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the train split.")
@click.option("--seed", type=int, help="Of weights, order and augmentation.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the run; killed and called again, it goes on.")
@_recipe_option
def train(
    dataset: Path, encoder: str, modality: str, epochs: int | None, seed: int | None, out: Path, recipe: Path | None
) -> None:
    """Train one encoder on the train split of one modality."""
    from hilum.learning import training

    section = _recipe(recipe).train_of(encoder, modality)
    changes = {name: value for name, value in {"epochs": epochs, "seed": seed}.items() if value is not None}
    training.run(dataset, section.model_copy(update=changes), out)
    click.echo(f"wrote {out}")


@_example("hilum embed data/nih224 --run runs/moco --out vectors/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--run", "encoder_run", type=EXISTING, required=True, help="What `hilum train` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for vectors.npy, rows.parquet and embedding.json.")
def embed(dataset: Path, encoder_run: Path, out: Path) -> None:
    """Embed every image of the encoder's modality."""
    from hilum.learning import embedding

    vectors = embedding.run(dataset, encoder_run, out)
    click.echo(f"{out}: {vectors.facts.n} x {vectors.facts.dim} by {vectors.facts.encoder}")


@_example("hilum probe data/nih224 --vectors vectors/moco --out probes/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for scores.csv, head.json, map.png, ...")
@_recipe_option
def probe(dataset: Path, vectors: Path, out: Path, recipe: Path | None) -> None:
    """Score an embedding with SVM probes, fit the label's head, draw its map."""
    from hilum.judgement import judge

    found = judge.probe(dataset, vectors, _recipe(recipe), out)
    for name, value in found.metrics.items():
        click.echo(f"{name:<48} {value:8.3f}")


@_example("hilum audit data/nih224 --vectors vectors/moco --probe probes/moco --out audits/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option("--probe", "probed", type=EXISTING, required=True, help="What `hilum probe` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for audit.html, fairness.html, fairness.csv, ...")
@_recipe_option
def audit(dataset: Path, vectors: Path, probed: Path, out: Path, recipe: Path | None) -> None:
    """Report drift, quality and fairness by group."""
    from hilum.judgement import report

    report.run(dataset, vectors, probed, _recipe(recipe).audit, out)
    click.echo(f"wrote {out / 'audit.html'} and {out / 'fairness.html'}")


@_example("hilum compare probes/moco probes/pixels --out leaderboard")
@click.argument("probes", nargs=-1, required=True, type=EXISTING)
@click.option("--out", type=FOLDER, required=True, help="Folder for leaderboard.csv, .md and .html.")
def compare(probes: tuple[Path, ...], out: Path) -> None:
    """Put encoders side by side; `pixels`, the floor, must be among them."""
    from hilum.judgement import leaderboard

    leaderboard.run(list(probes), out)
    click.echo((out / "leaderboard.md").read_text(encoding="utf-8"))


@_example("hilum export data/nih224 --run runs/moco --probe probes/moco --audit audits/moco --out releases/xr-moco")
@click.argument("dataset", type=EXISTING)
@click.option("--run", "encoder_run", type=EXISTING, required=True, help="What `hilum train` wrote.")
@click.option("--probe", "probed", type=EXISTING, help="What `hilum probe` wrote; its head answers for the label.")
@click.option("--audit", "audited", type=EXISTING, help="What `hilum audit` wrote; its hash enters the dossier.")
@click.option(
    "--gate", "verdict", type=EXISTING, help="Folder of gate.json; a release that the gate refused is not made."
)
@click.option("--out", type=FOLDER, required=True, help="The release folder to write.")
@_recipe_option
def export(
    dataset: Path,
    encoder_run: Path,
    probed: Path | None,
    audited: Path | None,
    verdict: Path | None,
    out: Path,
    recipe: Path | None,
) -> None:
    """Export a release: ONNX, card, golden images, archives, dossier."""
    from hilum.delivery import export as exporting

    exporting.export(
        dataset,
        encoder_run,
        _recipe(recipe).export,
        out,
        scores=probed,
        findings=audited,
        verdict=verdict,
        serving=_serving(),
    )
    click.echo(f"wrote {out}")


@_example("hilum predict out/demo/releases/xr-moco film.png film.dcm --out answers.parquet")
@click.argument("release", type=EXISTING)
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Parquet file; JSON lines without it.")
def predict(release: Path, files: tuple[Path, ...], out: Path | None) -> None:
    """Answer for image files, without a server."""
    from hilum.delivery import batch

    failed = batch.predict(release, files, out)
    if failed:
        raise HilumError(f"{failed} of {len(files)} files were refused; their reasons are in the answers")


@_example("hilum serve out/demo/releases/xr-moco out/demo/releases/mr-moco --port 8080")
@click.argument("releases", nargs=-1, required=True, type=EXISTING)
@click.option("--port", default=8080, show_default=True, help="Of predictions; management is port + 1, metrics + 2.")
@click.option("--workers", type=click.IntRange(1), help="Processes per model.  [default: usable cores, shared]")
def serve(releases: tuple[Path, ...], port: int, workers: int | None) -> None:
    """Serve releases with TorchServe until Ctrl-C."""
    from hilum.delivery import torchserve

    torchserve.serve(list(releases), port=port, workers=workers, serving=_serving())


@_example("hilum run --layout nih --source ~/ChestX-ray14 --size 64 --epochs 60 --out out/nih")
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
@_recipe_option
def run(source: str, revision: str, out: Path, recipe: Path | None, **flags: Any) -> None:
    """Run the whole training pipeline on this machine, through KFP's local runner."""
    import json
    import subprocess

    from hilum.data.layouts import LAYOUTS

    whole = _recipe(recipe)
    form: dict[str, Any] = {
        "layout": flags["layout"] or whole.ingest.layout,
        "encoders": flags["encoders"].split(",") if flags["encoders"] else [one.name for one in whole.encoders],
        "epochs": flags["epochs"] or whole.train.epochs,
        "image_size": flags["size"] or whole.ingest.preprocessing.size,
        "seed": whole.train.seed if flags["seed"] is None else flags["seed"],
        "label": flags["label"] or whole.export.label,
        "release_encoder": flags["release_encoder"] or whole.export.encoder,
        "gate_min_auroc": whole.gate.min_auroc,
        "gate_max_auroc_gap": whole.gate.max_auroc_gap,
    }
    if form["layout"] not in LAYOUTS:
        raise UsageError(f"there is no layout {form['layout']!r}; there are {', '.join(LAYOUTS)}")
    base = plain(whole)
    compose(base, **form)  # refuse a wrong knob now, not in the first step
    told = {**form, "source": source, "revision": revision, "recipe": base}
    # KFP is imported by no module of hilum: the runner is a process of its own.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines.local", "--launch", str(out)], input=json.dumps(told), text=True
    )
    if done.returncode:
        sys.exit(done.returncode)


@cli.group()
def dossier() -> None:
    """The chain of hashes from a release back to its data, code and recipe."""


@dossier.command(epilog="\b\nExample:\n  hilum dossier verify out/demo/releases/xr-moco")
@click.argument("release", type=EXISTING)
def verify(release: Path) -> None:
    """Recompute a release's dossier; exit status 1 names the file that differs."""
    from hilum.delivery import dossier as dossiers

    click.echo(f"{release}: dossier {dossiers.verify(release)} holds")


def _serving() -> Path:
    """The folder of the TorchServe handlers, which is installed beside hilum."""
    import importlib.util

    found = importlib.util.find_spec("serving")
    if found is None or not found.submodule_search_locations:
        raise UsageError("the TorchServe handlers (serving/) are not installed; install hilum from its checkout")
    return Path(found.submodule_search_locations[0])


def main() -> None:
    """Run the command line; an error is one sentence, unless --debug asks for its stack trace."""
    try:
        status = cli(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HilumError as error:
        if "--debug" in sys.argv[1:]:
            raise
        click.echo(f"hilum: {error}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()

"""Verbs that make datasets and check them."""

import shutil
from pathlib import Path
from typing import Any

import click

from hilum.cli.options import EXISTING, FILE, FOLDER, pairs, recipe_of, recipe_option, verb
from hilum.recipe import Ingest, parse


@verb("hilum phantom --out phantom --patients 50")
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


@verb("hilum ingest --layout nih --source ~/ChestX-ray14 --out data/nih224 --size 224 --views PA,AP")
@click.option("--layout", required=True, help="How the source is laid out: nih, chexpert, mimic_cxr, covid_chestxray, "
              "kermany, oasis, bids, medmnist, dicom, folder, phantom.")  # fmt: skip
@click.option("--source", required=True, help="The folder of the distribution, or a DVC repository (with --revision).")
@click.option("--revision", default="", help="Branch, tag or commit of a DVC repository.")
@click.option("--out", type=FOLDER, required=True, help="The dataset folder to write.")
@click.option("--size", type=click.IntRange(16, 1024), help="Side of the square images in pixels.  [default: 224]")
@click.option("--views", help="Keep these views only, such as PA,AP.")
@click.option("--limit", type=click.IntRange(1), help="Keep the first patients, up to this many images.")
@click.option("--seed", type=int, help="Of the split by patient.  [default: 0]")
@click.option("--uncertain", multiple=True, callback=pairs, metavar="LABEL=POLICY",
              help="keep, ignore, zeros or ones, for a label's uncertain values.")  # fmt: skip
@click.option("--option", "options", multiple=True, callback=pairs, metavar="NAME=VALUE", help="Option of the layout.")
@click.option(
    "--max-rejected-share", type=click.FloatRange(0, 1), help="Refuse if more is unreadable.  [default: 0.05]"
)
@click.option(
    "--exclude", type=FILE, multiple=True, help="CSV of images to leave out, as `hilum explore`'s page writes."
)
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: usable cores]")
@recipe_option
def ingest(
    source: str,
    revision: str,
    out: Path,
    exclude: tuple[Path, ...],
    workers: int | None,
    recipe: Path | None,
    **flags: Any,
) -> None:
    """Turn a native layout into a dataset folder; killed and called again, it goes on."""
    from hilum.data import ingest as ingesting
    from hilum.data import source as sources

    section = _ingest_section(recipe_of(recipe).ingest, **flags)
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
        exclude=exclude,
    )
    if folder == fetched:
        shutil.rmtree(fetched)
        fetched.with_name(fetched.name + ".digest").unlink(missing_ok=True)
    facts = dataset.facts
    click.echo(
        f"{out}: {facts.n_images} images of {facts.n_patients} patients, {facts.n_rejected} rejected"
        f"{f' ({facts.n_excluded} by the curator)' if facts.n_excluded else ''}, digest {facts.digest[:12]}"
    )


def _ingest_section(section: Ingest, size: int | None, views: str | None, **flags: Any) -> Ingest:
    changes = {name: value for name, value in flags.items() if value not in (None, {})}
    if size is not None:
        changes["preprocessing"] = section.preprocessing.model_copy(update={"size": size})
    if views:
        changes["views"] = tuple(view.strip().upper() for view in views.split(","))
    changed: Ingest = parse({**section.model_dump(), **changes}, Ingest)
    return changed


@verb("hilum unite data/nih224 data/covid224 clinic=data/own224 --out data/all224 --as-train covid_chestxray")
@click.argument("datasets", nargs=-1, required=True, metavar="[NAME=]DATASET...")
@click.option("--out", type=FOLDER, required=True, help="The dataset folder to write.")
@click.option("--as-train", multiple=True, metavar="SOURCE", help="Put all images of this source into train.")
def unite(datasets: tuple[str, ...], out: Path, as_train: tuple[str, ...]) -> None:
    """Make one dataset of several; ids are led by the name of their source, splits are kept."""
    from hilum.data import union

    facts = union.unite(datasets, out, as_train).facts
    shared = union.shared_pictures(out)
    click.echo(f"{out}: {facts.n_images} images of {facts.n_patients} patients, digest {facts.digest[:12]}")
    click.echo(
        f"{shared['pictures']} pictures under two patients or more, {shared['between_sources']} of them in two "
        f"sources; {shared['moved']} patients moved away from training for that"
    )


@verb("hilum validate data/nih224 --out reports/nih224")
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

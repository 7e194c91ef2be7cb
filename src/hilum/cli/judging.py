"""Verbs that judge an embedding."""

from pathlib import Path

import click

from hilum.cli.options import EXISTING, FOLDER, override_options, recipe_of, recipe_option, verb
from hilum.errors import UsageError

PAGE = click.Path(path_type=Path, dir_okay=False)


@verb("hilum probe data/nih224 --vectors vectors/moco --out probes/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for scores.csv, head.json, map.png, ...")
@click.option(
    "--tuned", type=EXISTING, help="What `hilum finetune --mode linear` wrote: its fusion becomes the label's head."
)
@recipe_option
def probe(dataset: Path, vectors: Path, out: Path, tuned: Path | None, recipe: Path | None) -> None:
    """Score an embedding with SVM probes, fit the label's head, draw its map."""
    from hilum.judgement import judge

    asked = recipe_of(recipe)
    if asked.finetune.head is not None and tuned is None:
        raise UsageError(
            f"the recipe's head is the fusion {asked.finetune.head}; name its fine-tuning with --tuned, or leave "
            "finetune.head out"
        )
    found = judge.probe(dataset, vectors, asked, out, tuned)
    for name, value in found.metrics.items():
        click.echo(f"{name:<48} {value:8.3f}")


@verb("hilum audit data/nih224 --vectors vectors/moco --probe probes/moco --out audits/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option("--probe", "probed", type=EXISTING, required=True, help="What `hilum probe` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for audit.html, fairness.html, fairness.csv, ...")
@recipe_option
def audit(dataset: Path, vectors: Path, probed: Path, out: Path, recipe: Path | None) -> None:
    """Report drift, quality and fairness by group."""
    from hilum.judgement.report import audit as report

    report.run(dataset, vectors, probed, recipe_of(recipe).audit, out)
    click.echo(f"wrote {out / 'audit.html'} and {out / 'fairness.html'}")


@verb("hilum drift data/nih224-v1 data/nih224-v2 --vectors vectors/v1 vectors/v2 --out drift")
@click.argument("reference", type=EXISTING)
@click.argument("current", type=EXISTING)
@click.option(
    "--vectors", type=EXISTING, nargs=2, metavar="A B", help="What `hilum embed` wrote of each, by one encoder."
)
@click.option("--out", type=FOLDER, required=True, help="Folder for drift.html and drift.json.")
@recipe_option
def drift(reference: Path, current: Path, vectors: tuple[Path, Path] | None, out: Path, recipe: Path | None) -> None:
    """Report how one dataset differs from another, such as a revision from the one before."""
    from hilum.judgement.report import revisions

    found = revisions.run(reference, current, recipe_of(recipe).audit, out, vectors)
    changed = [name for name, column in found["columns"].items() if column["drifted"]]
    click.echo(f"columns that differ: {', '.join(changed) or 'none'}")
    click.echo(f"embeddings: {found['embedding']['verdict']}")
    click.echo(f"wrote {out / 'drift.html'}")


@verb("hilum mitigate data/nih224 --vectors vectors/moco --out mitigations/moco --recipe fair.yaml")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for mitigation.html, .csv, and a head of each method.")
@recipe_option
def mitigate(dataset: Path, vectors: Path, out: Path, recipe: Path | None) -> None:
    """Try what may narrow gaps between groups; report what it costs."""
    from hilum.judgement.fairness import mitigation

    mitigation.run(dataset, vectors, recipe_of(recipe), out)
    click.echo(f"wrote {out / 'mitigation.html'}")


@verb("hilum shortcuts data/nih224 --vectors vectors/moco --probe probes/moco --out shortcuts/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option(
    "--probe", "probed", type=EXISTING, help="What `hilum probe` wrote: its scores are looked at inside groups."
)
@click.option("--out", type=FOLDER, required=True, help="Folder for shortcuts.json, shortcuts.html, clusters.png.")
@recipe_option
def shortcuts(dataset: Path, vectors: Path, probed: Path | None, out: Path, recipe: Path | None) -> None:
    """Ask what else an embedding tells (hospital, view, sex, ...), and whether the label may lean on it."""
    from hilum.judgement.shortcuts import scan

    whole = recipe_of(recipe)
    found = scan.run(dataset, vectors, probed, whole.shortcuts, out, whole.audit.label)
    for one in found["entries"]:
        click.echo(f"{one['verdict']:<18} {one['attribute']:<8} {one['words']}")
    for one in (*(p for p in found["positions"] if p["found"]), *found["clusters"]["found"]):
        click.echo(f"{'':<27} {one['words']}")
    click.echo(f"wrote {out / 'shortcuts.html'}; it may show images, so keep it like the dataset")


@verb("hilum compare probes/moco probes/pixels --tuned fusion/moco --out leaderboard")
@click.argument("probes", nargs=-1, required=True, type=EXISTING)
@click.option("--tuned", multiple=True, type=EXISTING, help="What `hilum fusion` or `finetune` wrote; repeatable.")
@click.option("--out", type=FOLDER, required=True, help="Folder for leaderboard.csv, .md, .html and comparisons.csv.")
def compare(probes: tuple[Path, ...], tuned: tuple[Path, ...], out: Path) -> None:
    """Put encoders side by side, dataset by dataset; `pixels`, the floor, must be among them."""
    from hilum.judgement.leaderboard import board as leaderboard

    leaderboard.run(probes, out, tuned)
    click.echo((out / "leaderboard.md").read_text(encoding="utf-8"))


@verb("hilum gate --probe probes/moco --audit audits/moco --out gate --recipe recipe.yaml")
@click.option("--probe", "probed", type=EXISTING, multiple=True, required=True, help="What `hilum probe` wrote.")
@click.option("--audit", "audited", type=EXISTING, multiple=True, required=True, help="The audit of each, in order.")
@click.option("--shortcuts", type=EXISTING, multiple=True, help="Folders of shortcuts.json, unless it lies in these.")
@click.option("--encoder", help="Which encoder is to be released.  [default: the recipe's]")
@click.option("--label", help="What its head answers.  [default: the recipe's]")
@click.option("--out", type=FOLDER, required=True, help="Folder for verdict.json and gate.html.")
@override_options
@recipe_option
def gate(
    probed: tuple[Path, ...],
    audited: tuple[Path, ...],
    shortcuts: tuple[Path, ...],
    encoder: str | None,
    label: str | None,
    out: Path,
    override_by: str,
    override_reason: str,
    recipe: Path | None,
) -> None:
    """Judge the evidence against the recipe's tolerances; exit status 1 where it does not let a release pass."""
    from hilum.judgement.gate import verdict as verdicts
    from hilum.judgement.gate.override import Override

    override, whole = Override.of(override_by, override_reason), recipe_of(recipe)
    asked = (encoder or whole.export.encoder, label or whole.export.label)
    verdict = verdicts.run(probed, audited, whole.gate, *asked, out, override, shortcuts)
    for one in verdict.criteria:
        click.echo(f"{one.verdict:<18} {one.reason}")
    click.echo(f"{verdict.verdict}: {out / 'gate.html'}")
    if override is not None:
        click.echo("the gate passes, so the override is not recorded" if verdict.override is None else str(override))
    verdict.require()


@verb("hilum explore data/nih224 --vectors vectors/moco --probe probes/moco --out explore.html")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option("--probe", "probed", type=EXISTING, help="What `hilum probe` wrote: scores and errors become colours.")
@click.option("--out", type=PAGE, required=True, help="The HTML file to write.")
@recipe_option
def explore(dataset: Path, vectors: Path, probed: Path | None, out: Path, recipe: Path | None) -> None:
    """Write one page on which the embedding can be walked through; its selection goes to `hilum ingest --exclude`."""
    from hilum.judgement.explorer import explore as explorer

    explorer.run(dataset, vectors, out, recipe_of(recipe).explore, probed)
    click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB); it shows images, so keep it like the dataset")


@verb("hilum efficiency data/nih224 --vectors vectors/moco --vectors vectors/pixels --out efficiency")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, multiple=True, required=True, help="What `hilum embed` wrote; repeatable.")
@click.option("--out", type=FOLDER, required=True, help="Folder for efficiency.png, .svg, and one folder per encoder.")
@recipe_option
def efficiency(dataset: Path, vectors: tuple[Path, ...], out: Path, recipe: Path | None) -> None:
    """Draw what encoders reach with few labels: the same patients for each."""
    from hilum.data.vectors import Vectors
    from hilum.judgement.probing import efficiency as curves

    folders = []
    for source in vectors:
        folders.append(out / Vectors.open(source).facts.encoder)
        curves.run(dataset, source, recipe_of(recipe).probe, folders[-1])
    curves.plot(folders, out)
    click.echo(f"wrote {out / 'efficiency.png'} and {out / 'efficiency.svg'}")


@verb("hilum policies data/chexpert224 --vectors vectors/moco --out policies")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for policies.csv, .html and .json.")
@recipe_option
def policies(dataset: Path, vectors: Path, out: Path, recipe: Path | None) -> None:
    """Compare what uncertain training labels may count as, label by label."""
    from hilum.judgement.probing import policies as compared

    for words in compared.words(compared.compare(dataset, vectors, recipe_of(recipe).probe, out)):
        click.echo(words)


@verb("hilum figures --probe probes/moco --probe probes/pixels --audit audits/moco --out figures")
@click.option("--probe", "probes", type=EXISTING, multiple=True, help="What `hilum probe` wrote: ROC and calibration.")
@click.option("--audit", "audited", type=EXISTING, help="What `hilum audit` wrote: forest plot of gaps.")
@click.option("--map", "mapped", type=EXISTING, nargs=2, metavar="DATASET VECTORS", help="What the map is to show.")
@click.option("--label", default="pneumonia", show_default=True, help="Whose scores.")
@click.option("--seed", default=0, show_default=True, help="Of resamples and t-SNE.")
@click.option("--out", type=FOLDER, required=True, help="Folder for roc, calibration, gaps and map, as .png and .svg.")
def figures(
    probes: tuple[Path, ...], audited: Path | None, mapped: tuple[Path, Path] | None, label: str, seed: int, out: Path
) -> None:
    """Draw figures for a paper, as PNG and SVG."""
    from hilum.judgement.explorer import figures as drawing

    for line in drawing.run(probes, out, label, mapped, audited, seed):
        click.echo(line)

"""Verbs that judge an embedding."""

from pathlib import Path

import click

from hilum.cli.options import EXISTING, FOLDER, recipe_of, recipe_option, verb


@verb("hilum probe data/nih224 --vectors vectors/moco --out probes/moco")
@click.argument("dataset", type=EXISTING)
@click.option("--vectors", type=EXISTING, required=True, help="What `hilum embed` wrote.")
@click.option("--out", type=FOLDER, required=True, help="Folder for scores.csv, head.json, map.png, ...")
@recipe_option
def probe(dataset: Path, vectors: Path, out: Path, recipe: Path | None) -> None:
    """Score an embedding with SVM probes, fit the label's head, draw its map."""
    from hilum.judgement import judge

    found = judge.probe(dataset, vectors, recipe_of(recipe), out)
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


@verb("hilum compare probes/moco probes/pixels --out leaderboard")
@click.argument("probes", nargs=-1, required=True, type=EXISTING)
@click.option("--out", type=FOLDER, required=True, help="Folder for leaderboard.csv, .md and .html.")
def compare(probes: tuple[Path, ...], out: Path) -> None:
    """Put encoders side by side; `pixels`, the floor, must be among them."""
    from hilum.judgement.leaderboard import board as leaderboard

    leaderboard.run(list(probes), out)
    click.echo((out / "leaderboard.md").read_text(encoding="utf-8"))

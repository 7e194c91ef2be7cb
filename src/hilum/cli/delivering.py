"""Verbs that make a release and answer with it."""

import json
from pathlib import Path
from typing import get_args

import click

from hilum.cli.options import EXISTING, FILE, FOLDER, override_options, recipe_of, recipe_option, verb
from hilum.errors import HilumError, UsageError
from hilum.recipe import EngineName

ENGINES = get_args(EngineName)


@verb(
    "hilum export data/nih224 --run runs/moco --probe probes/moco --audit audits/moco --gate gate "
    "--out releases/xr-moco"
)
@click.argument("dataset", type=EXISTING)
@click.option("--run", "encoder_run", type=EXISTING, required=True, help="What `hilum train` wrote.")
@click.option("--probe", "probed", type=EXISTING, help="What `hilum probe` wrote; its head answers for the label.")
@click.option("--audit", "audited", type=EXISTING, help="What `hilum audit` wrote; its hash enters the dossier.")
@click.option("--shortcuts", type=EXISTING, help="Folder of shortcuts.json, unless it lies in one of these.")
@click.option("--gate", "verdict", type=EXISTING, help="What `hilum gate` wrote; only what it lets pass is exported.")
@click.option("--validation", type=EXISTING, help="What `hilum validate` wrote; the dataset's card tells of it.")
@click.option("--out", type=FOLDER, required=True, help="The release folder to write.")
@override_options
@recipe_option
def export(
    dataset: Path,
    encoder_run: Path,
    probed: Path | None,
    audited: Path | None,
    shortcuts: Path | None,
    verdict: Path | None,
    validation: Path | None,
    out: Path,
    override_by: str,
    override_reason: str,
    recipe: Path | None,
) -> None:
    """Export a release: ONNX, cards, golden images, archives, dossier."""
    from hilum.delivery.releasing import export as exporting
    from hilum.delivery.releasing.sources import Judged
    from hilum.judgement.gate.override import Override

    judged = Judged(probed, audited, shortcuts, verdict, validation, Override.of(override_by, override_reason))
    exporting.export(dataset, encoder_run, recipe_of(recipe).export, out, serving=_serving(), judged=judged)
    click.echo(f"wrote {out}")


_engine = click.option("--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True)


@verb("hilum predict out/demo/releases/xr-moco film.png film.dcm --out answers.parquet")
@click.argument("release", type=EXISTING)
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Parquet file; JSON lines without it.")
@_engine
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: usable cores]")
@click.option("--covariates", type=FILE, help="CSV or Parquet: column `file`, and one per covariate of the head.")
def predict(
    release: Path, files: tuple[Path, ...], out: Path | None, engine: str, workers: int | None, covariates: Path | None
) -> None:
    """Answer for image files, without a server."""
    from hilum.delivery import batch

    failed = batch.predict(release, files, out, engine=engine, workers=workers, covariates=covariates)
    if failed:
        raise HilumError(f"{failed} of {len(files)} files were refused; their reasons are in the answers")


@verb("hilum serve out/demo/releases/xr-moco out/demo/releases/mr-moco --port 8080")
@click.argument("releases", nargs=-1, required=True, type=EXISTING)
@click.option("--front", type=click.Choice(["torchserve", "starlette"]), default="torchserve", show_default=True)
@click.option("--port", default=8080, show_default=True, help="Of predictions; management is port + 1, metrics + 2.")
@click.option("--workers", type=click.IntRange(1), help="Processes (TorchServe: per model).  [default: usable cores]")
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1), help="Of a process: more answer one call sooner."
)
@_engine
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of predictions.  [starlette]")
@click.option("--keys", type=FILE, help="File of tokens; one is made where there is none.  [starlette]")
@click.option("--no-keys", "open_to_all", is_flag=True, help="Ask for no tokens; on loopback only.  [starlette]")
@click.option("--tls", nargs=2, type=FILE, help="Certificate and key, PEM.  [starlette]")
@click.option("--grpc-port", type=click.IntRange(0), help="Of predictions over gRPC; none without it.  [starlette]")
@click.option(
    "--waiting", type=click.IntRange(0), default=64, show_default=True, help="Calls that may wait.  [starlette]"
)
@click.option("--json", "as_json", is_flag=True, help="Say where it answers as a line of JSON.  [starlette]")
def serve(
    releases: tuple[Path, ...],
    front: str,
    port: int,
    workers: int | None,
    threads: int,
    engine: str,
    host: str,
    keys: Path | None,
    open_to_all: bool,
    tls: tuple[Path, Path] | None,
    grpc_port: int | None,
    waiting: int,
    as_json: bool,
) -> None:
    """Serve releases until Ctrl-C: with TorchServe, or with the maintained front."""
    if front == "torchserve":
        from hilum.delivery.fronts import torchserve

        torchserve.serve(list(releases), port=port, workers=workers, threads=threads, engine=engine, serving=_serving())
        return
    from hilum.delivery.fronts import door
    from hilum.delivery.fronts.crew import Bounds

    settings = door.Settings(
        releases,
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        engine=engine,
        keys=keys,
        open_to_all=open_to_all,
        tls=tls,
        grpc_port=grpc_port,
        bounds=Bounds(waiting=waiting),
    )
    door.serve(settings, json.dumps if as_json else door.greeting)


@verb("hilum cases out/demo/releases/xr-moco out/demo/dataset xr-000139 xr-000096")
@click.argument("release", type=EXISTING)
@click.argument("dataset", type=EXISTING)
@click.argument("case", nargs=-1)
def cases(release: Path, dataset: Path, case: tuple[str, ...]) -> None:
    """Say which images the training cases of an answer are, to who has the dataset."""
    from hilum.delivery.releasing import cases as training_cases

    click.echo(training_cases.look_up(release, dataset, case).to_csv(index=False), nl=False)


@click.group()
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

"""Model archives for TorchServe: a handler, its settings, and the releases that it answers from.

An archive holds whole release folders under releases/NAME/, each with its dossier, so that a worker proves what it was
given. It holds no code of hilum but the handler: the server has hilum installed.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import yaml

from hilum.delivery.card import EMBEDDINGS, ReleaseCard
from hilum.delivery.engines import DEFAULT
from hilum.errors import ReleaseError, UsageError

CONFIG: Final = "model-config.yaml"
HANDLERS: Final = {EMBEDDINGS: "embeddings.py"}
LABEL_HANDLER: Final = "pneumonia.py"  # answers for whatever label the archive's settings name
Form = Literal["default", "no-archive"]  # torch-model-archiver's words for a .mar and for a folder


def archive(
    question: str,
    releases: Sequence[Path],
    serving: Path,
    out: Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    engine: str = DEFAULT,
    form: Form = "default",
) -> Path:
    """Build one model archive.

    Args:
        question: `embeddings`, or the label of a head; it names the model.
        releases: Release folders, one per modality.
        serving: The folder of the handlers and of model-config.yaml.
        out: Folder to write into.
        workers: Processes of the model; model-config.yaml decides where None.
        threads: Of the engine per image, in each; likewise.
        engine: That runs the graphs.
        form: A .mar file, or a folder that TorchServe reads in place.

    Returns:
        `out/QUESTION.mar`, or the folder `out/QUESTION`.

    Raises:
        UsageError: torch-model-archiver is not installed, or `serving` has no handlers.
        ReleaseError: Two releases have one name, or the archiver fails.
    """
    if importlib.util.find_spec("model_archiver") is None:
        raise UsageError("model archives need torch-model-archiver; install hilum[serve]")
    handler = serving / HANDLERS.get(question, LABEL_HANDLER)
    if not handler.is_file():
        raise UsageError(f"{serving} has no handler {handler.name}; it should be the folder serving/ of hilum")
    cards = [ReleaseCard.load(release) for release in releases]
    if len({card.name for card in cards}) < len(cards):
        raise ReleaseError(f"releases in one archive need different names, not {', '.join(c.name for c in cards)}")
    out.mkdir(parents=True, exist_ok=True)
    # The archiver works in TMPDIR/MODEL-NAME, which two runs on one machine would share.
    with tempfile.TemporaryDirectory(prefix="hilum-archive-") as work:
        content = Path(work) / "content"
        for release, card in zip(releases, cards, strict=True):
            shutil.copytree(release, content / "releases" / card.name, ignore=shutil.ignore_patterns("*.mar"))
        config = Path(work) / CONFIG
        config.write_text(_config(serving / CONFIG, question, workers, threads, engine), encoding="utf-8")
        built = Path(work) / "built"
        built.mkdir()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "model_archiver.model_packaging"),
                *("--model-name", question, "--version", "+".join(sorted({card.version for card in cards}))),
                *("--handler", str(handler), "--extra-files", str(content), "--config-file", str(config)),
                *("--export-path", str(built), "--archive-format", form),
            ],
            env={**os.environ, "TMPDIR": work},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ReleaseError(f"torch-model-archiver could not build the archive {question}: {last}")
        name = question if form == "no-archive" else f"{question}.mar"
        _replace(built / name, out / name)
    return out / name


def _config(template: Path, question: str, workers: int | None, threads: int | None, engine: str) -> str:
    """The settings of one model."""
    settings = yaml.safe_load(template.read_text(encoding="utf-8"))
    settings["handler"] = {**(settings.get("handler") or {}), "question": question, "engine": engine}
    if threads is not None:
        settings["handler"]["threads"] = threads
    if workers is not None:
        settings |= {"minWorkers": workers, "maxWorkers": workers}
    return yaml.safe_dump(settings, sort_keys=False)


def _replace(made: Path, final: Path) -> None:
    """Put a file or folder in its place; the work folder may lie on another disk, so by way of a partial name."""
    partial = final.with_name(final.name + ".partial")
    if made.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(made, partial)
        shutil.rmtree(final, ignore_errors=True)
    else:
        shutil.copyfile(made, partial)
    partial.replace(final)

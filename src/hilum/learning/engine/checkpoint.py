"""Checkpoints: whole or not there, the newest and the one before, so that a kill at any moment costs little.

checkpoint.pt            the newest
checkpoint.previous.pt   the one before, for when the newest turns out damaged
checkpoint.best.pt       the one after the epoch with the lowest mean loss
"""

import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from hilum.errors import TrainingError

NEWEST: Final = "checkpoint.pt"
PREVIOUS: Final = "checkpoint.previous.pt"
BEST: Final = "checkpoint.best.pt"

log = logging.getLogger(__name__)


def save(folder: Path, state: dict[str, Any], best: bool = False) -> None:
    """Write `state` as the newest checkpoint and keep the one that was the newest.

    Args:
        folder: The encoder run's folder.
        state: Tensors, numbers, strings, and lists or dicts of them: what `torch.load(weights_only=True)` reads.
        best: Keep it as the best, too.

    Raises:
        TrainingError: It could not be written, as when the disk is full; the checkpoints that were there still are.
    """
    newest = folder / NEWEST
    partial = write(newest, state)
    if best:
        same = folder / (BEST + ".partial")
        same.unlink(missing_ok=True)
        try:
            os.link(partial, same)
        except OSError:  # not every file system has a second name for a file
            _or_say_so(same, lambda: shutil.copyfile(partial, same))
        same.replace(folder / BEST)
    if newest.exists():
        newest.replace(folder / PREVIOUS)
    partial.replace(newest)


def write(path: Path, state: dict[str, Any]) -> Path:
    """Write `state` to the disk beside `path`; the caller renames the returned file into place.

    Raises:
        TrainingError: It could not be written; nothing is left of the attempt.
    """
    partial = path.with_name(path.name + ".partial")

    def attempt() -> None:
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut could leave the new name on an empty file

    _or_say_so(partial, attempt)
    return partial


def _or_say_so(path: Path, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except (OSError, RuntimeError) as error:  # torch's writer tells of a full disk with a RuntimeError
        path.unlink(missing_ok=True)
        told = error if isinstance(error, OSError) else error.__context__ or error
        raise TrainingError(
            f"{path.name.removesuffix('.partial')} could not be written to {path.parent}: {told}; free some space and "
            "train again: the run goes on from the last checkpoint there"
        ) from error


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, its tensors on the CPU; None where there is none at all.

    Raises:
        TrainingError: There are checkpoints, but none of them can be read.
    """
    found = [folder / name for name in (NEWEST, PREVIOUS) if (folder / name).exists()]
    for path in found:
        if whole(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        log.warning("%s is damaged; trying the checkpoint before it", path.name)
    if found:
        raise TrainingError(
            f"none of {', '.join(path.name for path in found)} in {folder} can be read; "
            "remove them to train from the beginning"
        )
    return None


def whole(path: Path) -> bool:
    """Whether every part of the archive has its checksum; torch itself reads past a flipped bit."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError):
        return False


def discard(folder: Path) -> None:
    """Remove the older checkpoint and any half-written one: the run is finished."""
    for name in (PREVIOUS, NEWEST + ".partial", BEST + ".partial"):
        (folder / name).unlink(missing_ok=True)

"""Where ImageNet weights are found: a file that the recipe names, the cache folder, or the place they are published.

The published files are torchvision's. Their names end in the first eight hex digits of their own SHA-256, which is
checked each time, so that a file that is damaged, or another one under that name, is never taken for them.
"""

import hashlib
import logging
import os
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Final

from hilum import progress
from hilum.errors import TrainingError, UsageError
from hilum.identity import digest_file
from hilum.learning.engine import workers
from hilum.recipe import Backbone

FOLDER: Final = "HILUM_WEIGHTS"  # environment variable: the cache folder
SOURCE: Final = "https://download.pytorch.org/models"
FILES: Final = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "densenet121": "densenet121-a639ec97.pth",
}
PUBLISHED: Final = "imagenet"  # what `backbone.weights` says instead of naming a file
PIECE: Final = 1 << 20  # bytes, a MiB
TIMEOUT_S: Final = 30.0  # without an answer; a firewall that swallows packets would else hold the run for ever

log = logging.getLogger(__name__)


def locate(section: Backbone) -> Path:
    """The file of ImageNet weights for a backbone; downloaded into the cache folder where it has to be.

    Under `torchrun` worker 0 downloads, and the others wait for it.

    Args:
        section: Its `weights` names a file; where it is empty or `imagenet`, the published one is meant.

    Raises:
        UsageError: No weights are published for this backbone.
        TrainingError: The named file is not there, or there is neither a file nor a network; the message says where to
            put one.
    """
    if section.weights not in ("", PUBLISHED):
        path = Path(section.weights).expanduser()
        if not path.is_file():
            raise TrainingError(
                f"there is no weights file {path}; backbone.weights names a state dict of torchvision or timm, a "
                f".pth, .pt or .safetensors file, or says `{PUBLISHED}` for the published one"
            )
        return path
    if section.name not in FILES:
        raise UsageError(
            f"no ImageNet weights are published for {section.name}; there are some for {', '.join(FILES)}, and "
            "backbone.weights may name a file"
        )
    path = folder() / FILES[section.name]
    if workers.number() == 0 and not path.is_file():
        _download(path)
    workers.wait()
    if not path.is_file():  # this worker's machine is another one than worker 0's
        _download(path)
    _check(path)
    return path


def folder() -> Path:
    """The cache folder: $HILUM_WEIGHTS, else ~/.cache/hilum/weights."""
    return Path(os.environ.get(FOLDER) or "~/.cache/hilum/weights").expanduser()


def _check(path: Path) -> None:
    """Refuse a file whose SHA-256 does not begin as its name says."""
    wanted, found = path.stem.rpartition("-")[2], digest_file(path)
    if not found.startswith(wanted):
        raise TrainingError(
            f"{path} is damaged or another file: its SHA-256 begins with {found[:8]} and not {wanted}; remove it, and "
            "it is downloaded again"
        )


def _download(path: Path) -> None:
    """Fetch a published file to a temporary name, check it, and rename it into place."""
    url = f"{SOURCE}/{path.name}"
    log.info("%s is not in the cache folder; downloading it", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=path.stem + "-", suffix=".partial", dir=path.parent)
        try:
            found = _fetch(url, handle)
            wanted = path.stem.rpartition("-")[2]
            if not found.startswith(wanted):
                raise TrainingError(
                    f"what {url} gave is not {path.name}: its SHA-256 begins with {found[:8]}; get the file from "
                    f"elsewhere and put it at {path}"
                )
            os.chmod(partial, 0o644)  # a temporary file is its owner's alone; the cache folder may be shared
            os.replace(partial, path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except (OSError, HTTPException) as error:  # URLError and HTTPError are OSErrors
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise TrainingError(
            f"there are no ImageNet weights at {path}, and {url} cannot be downloaded ({error}); put the file there, "
            f"or name a folder that has it in ${FOLDER}, or a file in backbone.weights"
        ) from error


def _fetch(url: str, handle: int) -> str:
    """Write what `url` gives to an open file; its SHA-256 in hex."""
    digest = hashlib.sha256()
    with os.fdopen(handle, "wb") as stream, urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        length = answer.headers.get("Content-Length")
        total = -(-int(length) // PIECE) if length else None
        with progress.bar("download ImageNet weights", total, "MiB", silent=workers.number() > 0) as shown:
            while piece := answer.read(PIECE):
                stream.write(piece)
                digest.update(piece)
                shown.update()
    return digest.hexdigest()

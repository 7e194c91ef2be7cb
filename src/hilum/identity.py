"""Who made this: content hashes, and the triple (code revision, data digest, recipe digest) that names a run."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from typing_extensions import TypedDict  # pydantic needs this one on Python 3.11

from hilum.errors import TrainingError

PACKAGE = Path(__file__).parent
CODE_REVISION = "HILUM_CODE_REVISION"  # set in images, where there is neither git nor a working tree
PARTS: Final = {  # of a run's identity, as a person calls them; in the order in which they are told
    "recipe_digest": "recipe",
    "data_digest": "dataset",
    "code_revision": "code revision",
    "encoder_weights": "encoder",
}


class Run(TypedDict):
    """The three things that decide a result; printed in every artifact, report and response."""

    code_revision: str
    data_digest: str
    recipe_digest: str


def digest_bytes(content: bytes) -> str:
    """SHA-256 of `content`, in hex."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no blanks), in hex."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


@cache
def code_revision() -> str:
    """The revision of the code that runs: the git commit, with a digest of the sources where they differ from it.

    Without git it is the digest of the sources alone, so that a change of the package is never taken for none: KFP's
    cache key does not contain the package's code.
    """
    if named := os.environ.get(CODE_REVISION):
        return named
    sources = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        sources.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    content = f"src.{sources.hexdigest()[:12]}"
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return content
    return commit if _git("status", "--porcelain", "--", ".") == "" else f"{commit}+{content}"


def require_same(held: Mapping[str, Any], identity: Mapping[str, Any], out: Path, what: str = "run") -> None:
    """Refuse a folder that another run has begun: its results would be taken for this one's.

    Args:
        held: The identity that the folder names.
        identity: The identity of the run that is to be written there.
        out: The folder.
        what: What a run is called there.

    Raises:
        TrainingError: They differ; the message says in what.
    """
    other = [name for key, name in PARTS.items() if key in identity and held.get(key) != identity[key]]
    if other:
        raise TrainingError(
            f"{out} holds a {what} with another {' and another '.join(other)}; name another folder, or remove this one"
        )


def _git(*arguments: str) -> str | None:
    """What git prints about the package's folder; None where there is no git, or no repository that tracks it."""
    try:
        run = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()

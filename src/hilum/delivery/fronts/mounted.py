"""What a container tells the front in it: the releases that are mounted, and numbers of its environment."""

import os
from pathlib import Path

from hilum.errors import ReleaseError, UsageError


def releases() -> tuple[Path, ...]:
    """The release folders below the folder that HILUM_RELEASES names, else /releases, told by their card.

    Raises:
        ReleaseError: There are none.
    """
    folder = Path(os.environ.get("HILUM_RELEASES", "/releases"))
    found = tuple(sorted(card.parent for card in folder.glob("*/card.json")))
    if not found:
        raise ReleaseError(
            f"{folder} holds no release; mount one folder per modality there, as `hilum export` wrote it"
        )
    return found


def number(name: str) -> int | None:
    """A whole number above 0 of the environment; None where it says nothing.

    Raises:
        UsageError: It says something else.
    """
    said = os.environ.get(name)
    if not said:
        return None
    if not (said.isascii() and said.isdigit() and int(said) > 0):
        raise UsageError(f"{name} is a whole number above 0, not {said!r}")
    return int(said)

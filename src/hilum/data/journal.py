"""The journal of an unfinished ingest: which chunks are done, so that a killed one can go on.

images.npy       allocated at once; each chunk's pixels are at their place in it
journal.jsonl    first the fingerprint of the work, then one line per finished chunk

A chunk counts as done when its line is whole and its pixels have the digests that the line gives: a machine that lost
power may have written the one and not the other.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from hilum.data.decoding import Outcome
from hilum.data.images import pixel_digest
from hilum.data.store import IMAGES

JOURNAL: Final = "journal.jsonl"


@dataclass
class Journal:
    """What is done of an ingest.

    Attributes:
        offset: Where the pixels begin in the images file, in bytes.
        outcomes: By the number of a chunk's first image, what became of each of its images.
    """

    offset: int
    stream: TextIO
    outcomes: dict[int, Sequence[Outcome]] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """Images that are done, read or rejected."""
        return sum(len(outcomes) for outcomes in self.outcomes.values())

    def add(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Note a chunk as done; its pixels were written before."""
        self.outcomes[first] = outcomes
        self.stream.write(json.dumps([first, outcomes]) + "\n")
        self.stream.flush()


@contextmanager
def opened(partial: Path, fingerprint: str, shape: tuple[int, int, int]) -> Iterator[Journal]:
    """Go on with the journal of the same work, or begin one in place of what was there.

    Args:
        partial: The folder of the unfinished dataset.
        fingerprint: Names the work: other work, other fingerprint.
        shape: Of all images, (N, S, S).
    """
    done = _read(partial, fingerprint, shape)
    if done is None:
        for name in (JOURNAL, IMAGES):
            (partial / name).unlink(missing_ok=True)
        images = np.lib.format.open_memmap(partial / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        offset = images.offset
        del images
        with (partial / JOURNAL).open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(fingerprint) + "\n")
        done = offset, {}
    with (partial / JOURNAL).open("a", encoding="utf-8") as stream:
        stream.write("\n")  # after a line that a kill has cut
        yield Journal(done[0], stream, done[1])


def remove(folder: Path) -> None:
    """Remove the journal of an ingest that is finished."""
    (folder / JOURNAL).unlink(missing_ok=True)


def _read(
    partial: Path, fingerprint: str, shape: tuple[int, int, int]
) -> tuple[int, dict[int, Sequence[Outcome]]] | None:
    """The chunks that are done of the work of this fingerprint; None if there is no such work to go on with."""
    try:
        lines = (partial / JOURNAL).read_text(encoding="utf-8").split("\n")
        images = np.load(partial / IMAGES, mmap_mode="r")
        if json.loads(lines[0]) != fingerprint or images.shape != shape or images.dtype != np.uint8:
            return None
    except (OSError, ValueError):
        return None
    done: dict[int, Sequence[Outcome]] = {}
    for line in lines[1:]:
        with suppress(ValueError):  # the last line of a killed ingest may be cut
            first, outcomes = json.loads(line)
            if all(
                isinstance(outcome, str) or pixel_digest(images[first + i]) == outcome[0]
                for i, outcome in enumerate(outcomes)
            ):
                done[first] = outcomes
    return images.offset, done

"""Images that a curator leaves out: the list that `hilum ingest --exclude` takes, and the keys in it.

A page shows no image id, because an id is a file name in many sources. It names an image by a key: the first 64 bits of
a SHA-256 of the dataset's digest and the id. Whoever has the source can turn a key back into its image; whoever has the
page alone can not, unless the ids are guessable. A list has the columns `dataset` and `image_key`, as the page writes
it, or `image_id`, as a person would.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.errors import UsageError
from hilum.identity import digest_json

REASON: Final = "excluded by the curator"
IMAGE_ID: Final = "image_id"
DATASET: Final = "dataset"  # digest of the dataset that the page was made of
KEY: Final = "image_key"
KEY_DIGITS: Final = 16  # hex; 100,000 images collide with a probability of 3e-10


@dataclass(frozen=True)
class Exclusion:
    """A list of images to leave out.

    Attributes:
        image_ids: Images named by their id.
        keys: Images named by key: (digest of the dataset, key).
    """

    image_ids: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of what the list says, whatever its order."""
        return digest_json([sorted(set(self.image_ids)), sorted({"/".join(pair) for pair in self.keys})])

    def of(self, image_ids: pd.Series) -> NDArray[np.bool_]:
        """Which of the images are on the list, (N,).

        Raises:
            UsageError: The list names an image that is not among them.
        """
        known = {name: i for i, name in enumerate(image_ids)}
        found = [known.get(name) for name in self.image_ids]
        number_of = {
            (digest, key): i
            for digest in {digest for digest, _ in self.keys}
            for i, key in enumerate(image_keys(digest, list(image_ids)))
        }
        found += [number_of.get(pair) for pair in self.keys]
        named = [*self.image_ids, *(f"the key {key}" for _, key in self.keys)]
        if strange := [name for name, i in zip(named, found, strict=True) if i is None]:
            raise UsageError(
                f"{len(strange)} of the {len(named)} images to exclude are not among those to be read from this "
                f"source, for instance {strange[0]!r}; take a list of the same source, views and limit"
            )
        chosen = np.zeros(len(image_ids), dtype=bool)
        chosen[[i for i in found if i is not None]] = True
        return chosen


def image_keys(dataset_digest: str, image_ids: Sequence[str]) -> list[str]:
    """The key of each image: 16 hex digits."""
    return [hashlib.sha256(f"{dataset_digest}\0{image_id}".encode()).hexdigest()[:KEY_DIGITS] for image_id in image_ids]


def read(paths: Sequence[Path]) -> Exclusion:
    """Read lists of exclusions as one: a curator's second look adds to the first.

    Raises:
        UsageError: One is no CSV, lacks the columns, or has a blank in them.
    """
    lists = [_read(path) for path in paths]
    return Exclusion(
        tuple(dict.fromkeys(name for one in lists for name in one.image_ids)),
        tuple(dict.fromkeys(pair for one in lists for pair in one.keys)),
    )


def _read(path: Path) -> Exclusion:
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' parser errors and broken UTF-8 are ValueErrors
        raise UsageError(f"the list of exclusions {path.name} cannot be read as CSV: {error}") from error
    table = table.rename(columns=str.strip).apply(lambda column: column.str.strip())
    columns = [IMAGE_ID] if IMAGE_ID in table else [DATASET, KEY]
    if absent := [name for name in columns if name not in table]:
        raise UsageError(
            f"the list of exclusions {path.name} has no column {absent[0]}; it has either {IMAGE_ID}, or {DATASET} and "
            f"{KEY} as the page of `hilum explore` writes them"
        )
    if (table[columns] == "").any(axis=None):
        raise UsageError(f"the list of exclusions {path.name} has a row without {' or '.join(columns)}")
    if columns == [IMAGE_ID]:
        return Exclusion(image_ids=tuple(table[IMAGE_ID]))
    return Exclusion(keys=tuple(zip(table[DATASET], table[KEY].str.lower(), strict=True)))

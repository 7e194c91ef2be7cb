"""The dataset folder: what ingest writes once, and everything after it reads memory-mapped.

manifest.parquet   one row per image (hilum.data.manifest)
images.npy         uint8, (N, H, W), row i belongs to manifest row i
dataset.json       layout, source revision and digest, preprocessing, counts, licence: the `DatasetFacts`
rejected.csv       images that were left out, and why
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from hilum.data import parquet
from hilum.data.manifest import UncertainPolicy, resolve_uncertain
from hilum.errors import DatasetError
from hilum.recipe import Preprocessing

MANIFEST: Final = "manifest.parquet"
IMAGES: Final = "images.npy"
FACTS: Final = "dataset.json"
REJECTED: Final = "rejected.csv"


class DatasetFacts(BaseModel):
    """What `dataset.json` says of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: str
    source_revision: str  # the DVC or git revision asked for; "folder" where the source is a plain folder
    source_digest: str  # content digest of the source: DVC's, or of names and sizes for a plain folder
    digest: str  # of manifest and images together: names this dataset
    code_revision: str
    hilum_version: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    covariates: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    n_images: int
    n_patients: int
    n_rejected: int  # rows of rejected.csv
    n_excluded: int = 0  # of these, by a curator's list (`hilum ingest --exclude`)
    licence: str
    citation: str
    caution: str = ""


@dataclass(frozen=True)
class Dataset:
    """A dataset folder, opened.

    Attributes:
        path: The folder.
        facts: Its `dataset.json`.
        manifest: One row per image; the row number is the image's number in `images`.
    """

    path: Path
    facts: DatasetFacts
    manifest: pd.DataFrame

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Open a dataset folder.

        Raises:
            DatasetError: The folder is not a whole dataset; the message names what is missing or does not fit.
        """
        folder = Path(path)
        for name in (FACTS, MANIFEST, IMAGES):
            if not (folder / name).is_file():
                raise DatasetError(f"{folder} is not a dataset: it has no {name}; `hilum ingest` writes one")
        try:
            facts = DatasetFacts.model_validate_json((folder / FACTS).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DatasetError(f"{folder / FACTS} is not the facts of a dataset: {error}") from error
        dataset = cls(folder, facts, parquet.read(folder / MANIFEST))
        if not (len(dataset.manifest) == len(dataset.images) == facts.n_images):
            raise DatasetError(
                f"{folder} is damaged: {FACTS} says {facts.n_images} images, {MANIFEST} has {len(dataset.manifest)} "
                f"rows and {IMAGES} holds {len(dataset.images)}; ingest it again"
            )
        return dataset

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """All images, memory-mapped read-only: uint8, (N, H, W)."""
        images: NDArray[np.uint8] = np.load(self.path / IMAGES, mmap_mode="r")
        return images

    def rows(self, modality: str | None = None, splits: Sequence[str] = ()) -> NDArray[np.int64]:
        """Numbers of the rows of one modality and some splits, ascending; all where not restricted."""
        chosen = np.ones(len(self.manifest), dtype=bool)
        if modality is not None:
            chosen &= (self.manifest["modality"] == modality).to_numpy()
        if splits:
            chosen &= self.manifest["split"].isin(list(splits)).to_numpy()
        return np.flatnonzero(chosen)

    def labels(self, policy: dict[str, UncertainPolicy] | None = None) -> pd.DataFrame:
        """The label columns with the uncertain ones resolved; those without a policy become NaN."""
        return resolve_uncertain(self.manifest[list(self.facts.labels)], policy or {})

    @property
    def modalities(self) -> list[str]:
        """The modalities that the dataset has, most frequent first."""
        return [str(name) for name in self.manifest["modality"].value_counts().index]


def copy_into(source: Path, target: Path) -> None:
    """Copy everything in a folder into another, each entry whole or not at all, in place of its namesake there."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        final, partial = target / entry.name, target / (entry.name + ".partial")
        if entry.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(entry, partial)
            shutil.rmtree(final, ignore_errors=True)
        else:
            shutil.copyfile(entry, partial)
        partial.replace(final)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs: indented, UTF-8, no NaN; whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file that hilum wrote.

    Raises:
        DatasetError: It is not there, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from error

"""The embeddings folder: what embed writes, and probes, audit and export read.

vectors.npy       float32, (N, D)
rows.parquet      row (number in the dataset's manifest), image_id, patient_id, split
embedding.json    which encoder, modality and run made them: the `VectorFacts`
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from hilum.data import parquet
from hilum.data.store import Dataset, write_json
from hilum.errors import DatasetError
from hilum.identity import Run

VECTORS: Final = "vectors.npy"
ROWS: Final = "rows.parquet"
FACTS: Final = "embedding.json"


class VectorFacts(BaseModel):
    """What `embedding.json` says.

    Attributes:
        encoder: Its name in the recipe.
        modality: Of all images embedded.
        dim: Width D of a vector.
        n: How many vectors.
        run: Code and data of the embedding, and the recipe of the encoder's training.
        encoder_weights: SHA-256 of the encoder's weights file: two encoders of one recipe may have learned from two
            datasets. Empty where the vectors were not made by an encoder of hilum's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str
    modality: Literal["XR", "MR"]
    dim: int
    n: int
    run: Run
    encoder_weights: str = ""


@dataclass(frozen=True)
class Vectors:
    """Embeddings of one modality of one dataset by one encoder.

    Attributes:
        z_ND: float32, (N, D).
        rows: One row per vector: `row` into the dataset's manifest, `image_id`, `patient_id`, `split`.
        facts: The folder's `embedding.json`.
    """

    z_ND: NDArray[np.float32]
    rows: pd.DataFrame
    facts: VectorFacts

    @classmethod
    def open(cls, path: str | Path) -> "Vectors":
        """Open an embeddings folder.

        Raises:
            DatasetError: It is none, or not whole.
        """
        folder = Path(path)
        for name in (FACTS, ROWS, VECTORS):
            if not (folder / name).is_file():
                raise DatasetError(f"{folder} holds no embeddings: it has no {name}; `hilum embed` writes them")
        facts = VectorFacts.model_validate_json((folder / FACTS).read_text(encoding="utf-8"))
        vectors = cls(np.load(folder / VECTORS, mmap_mode="r"), parquet.read(folder / ROWS), facts)
        if not (vectors.z_ND.shape == (facts.n, facts.dim) and len(vectors.rows) == facts.n):
            raise DatasetError(f"{folder} is damaged: {VECTORS} and {ROWS} do not fit {FACTS}; embed again")
        return vectors

    def write(self, path: str | Path) -> None:
        """Write the folder; `embedding.json` comes last, so that a folder with it is whole."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / VECTORS, np.asarray(self.z_ND, dtype=np.float32))
        parquet.write(self.rows, folder / ROWS)
        write_json(folder / FACTS, self.facts.model_dump(mode="json"))

    def joined(self, dataset: Dataset) -> pd.DataFrame:
        """The dataset's manifest rows in the order of the vectors.

        Raises:
            DatasetError: The vectors were made from another dataset.
        """
        other = DatasetError("these embeddings were made from another dataset; embed this one first")
        if self.facts.run["data_digest"] != dataset.facts.digest:
            raise other  # before its rows are looked up: the other dataset may have fewer
        table = dataset.manifest.iloc[self.rows["row"].to_numpy()].reset_index(drop=True)
        if not table["image_id"].equals(self.rows["image_id"]):
            raise other
        return table

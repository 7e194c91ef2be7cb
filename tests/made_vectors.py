"""Embeddings that tests make for themselves, with known content."""

from pathlib import Path

import numpy as np

from hilum.data.store import Dataset
from hilum.data.vectors import VectorFacts, Vectors


def make_vectors(dataset: Path, out: Path, encoder: str, signal: float, dim: int = 8, modality: str = "XR") -> Path:
    """Noise of width `dim` whose first features carry sex, view, age and pneumonia, `signal` sd far."""
    cohort = Dataset.open(dataset)
    table = cohort.manifest
    random = np.random.default_rng(sum(map(ord, encoder)))
    z = random.normal(size=(len(table), dim))
    z[:, 0] += signal * (table["sex"] == "F")
    z[:, 1] += signal * (table["view"] == sorted(table["view"].unique())[0])
    z[:, 2] += signal * (table["age_years"] - 55) / 20
    z[:, 3] += signal * table["pneumonia"].fillna(0.5)
    rows = table[["image_id", "patient_id", "split"]].copy()
    rows.insert(0, "row", np.arange(len(table)))
    run = {"code_revision": "test", "data_digest": cohort.facts.digest, "recipe_digest": "test"}
    facts = VectorFacts(encoder=encoder, modality=modality, dim=dim, n=len(table), run=run)
    Vectors(z.astype(np.float32), rows, facts).write(out)
    return out

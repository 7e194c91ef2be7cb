"""Phantom chest radiographs with the site's planted effects on or off, as a dataset folder with pixel vectors."""

from pathlib import Path

import numpy as np
import pandas as pd

from hilum.data.anatomy.cohort import CHEST_LABELS, shots
from hilum.data.manifest import assign_splits, conform
from hilum.data.store import FACTS, IMAGES, MANIFEST, REJECTED, DatasetFacts, write_json
from hilum.data.vectors import VectorFacts, Vectors
from hilum.recipe import Preprocessing

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def write_dataset(path, rows, images, labels, digest, attributes=()):
    """A dataset folder of made rows and images."""
    path.mkdir(parents=True)
    table = conform(rows, labels, (), attributes)
    table["pixel_mean"] = images.reshape(len(images), -1).mean(axis=1)
    table.to_parquet(path / MANIFEST, index=False)
    np.save(path / IMAGES, images)
    (path / REJECTED).write_text("image_id,reason\n", encoding="utf-8")
    facts = DatasetFacts(
        layout="folder",
        source_revision="folder",
        source_digest="0" * 64,
        digest=digest,
        code_revision="test",
        hilum_version="test",
        preprocessing=Preprocessing(size=images.shape[1]),
        labels=labels,
        covariates=(),
        attributes=attributes,
        n_images=len(rows),
        n_patients=int(table["patient_id"].nunique()),
        n_rejected=0,
        licence="none",
        citation="none",
        caution="made by a test",
    )
    write_json(path / FACTS, facts.model_dump(mode="json"))
    return path


def write_vectors(path, rows, z_ND, digest, encoder="pixels"):
    """An embeddings folder of every row."""
    table = rows[["image_id", "patient_id", "split"]].reset_index(drop=True)
    table.insert(0, "row", np.arange(len(rows)))
    run = {"code_revision": "test", "data_digest": digest, "recipe_digest": "test"}
    facts = VectorFacts(encoder=encoder, modality="XR", dim=z_ND.shape[1], n=len(rows), run=run)
    Vectors(z_ND.astype(np.float32), table, facts).write(path)
    return path


def principal_pixels(images, dim=48):
    """What the encoder `pixels` embeds."""
    x_NP = images.reshape(len(images), -1) / 255.0
    x_NP = x_NP - x_NP.mean(axis=0)
    u, s, _ = np.linalg.svd(x_NP, full_matrices=False)
    return (u * s)[:, :dim]


def phantom(path: Path, seed: int, shift: bool, contrast: bool, patients: int = 260, size: int = 40):
    """Dataset and vectors of a phantom's chest radiographs; the folders `data` and `vectors` under `path`."""
    drawn = [shot for shot in shots(patients, seed, shift, contrast) if shot.row["modality"] == "XR"]
    rows = pd.DataFrame([shot.row for shot in drawn])
    rows["split"] = assign_splits(rows["patient_id"], SHARES, 0)
    images = np.stack([shot.draw(size) for shot in drawn])
    digest = f"{seed:060x}{int(shift)}{int(contrast)}00"
    write_dataset(path / "data", rows, images, CHEST_LABELS, digest)
    write_vectors(path / "vectors", rows, principal_pixels(images), digest)
    return path / "data", path / "vectors"

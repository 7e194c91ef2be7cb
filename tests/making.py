"""Small datasets that tests make for themselves, with known content."""

from pathlib import Path

import numpy as np
import pandas as pd

from hilum.data.images import pixel_digest
from hilum.data.manifest import conform
from hilum.data.store import FACTS, IMAGES, MANIFEST, REJECTED, Dataset, DatasetFacts, write_json
from hilum.recipe import Preprocessing


def make_dataset(
    path: Path, n_patients: int = 60, images_each: int = 2, size: int = 32, seed: int = 0, modality: str = "XR"
) -> Path:
    """A dataset folder whose pixels show `sex` (left brightness) and `pneumonia` (a bright patch) through noise.

    Splits are 60/20/20 by patient; `pneumonia` is known for all but every eleventh patient; `site` shifts contrast.
    """
    random = np.random.default_rng(seed)
    rows, images = [], []
    views = {"XR": ("PA", "AP"), "MR": ("AXIAL", "CORONAL")}[modality]
    for patient in range(n_patients):
        sex = "FM"[patient % 2]
        age = float(random.uniform(20, 90))
        ill = float(random.random() < 0.4)
        for image in range(images_each):
            x = random.normal(90, 12, (size, size))
            x[:, : size // 3] += 40 if sex == "F" else 0
            x[-(size // 4) :, :] += age / 2
            if ill:
                x[size // 2 : size // 2 + size // 5, size // 2 : size // 2 + size // 5] += 60
            images.append(np.clip(x, 0, 255).astype(np.uint8))
            rows.append(
                {
                    "image_id": f"p{patient:03d}-{image}",
                    "patient_id": f"p{patient:03d}",
                    "study_id": f"p{patient:03d}-s{image}",
                    "study_order": float(image),
                    "days": float(30 * image),
                    "modality": modality,
                    "view": views[image % 2],
                    "site": "AB"[patient % 3 == 0],
                    "source": "made",
                    "age_years": age,
                    "sex": sex,
                    "split": ("train", "train", "train", "val", "test")[patient % 5],
                    "pneumonia": np.nan if patient % 11 == 10 else ill,
                    "no_finding": np.nan if patient % 11 == 10 else 1.0 - ill,
                    "o2_saturation_pct": np.nan
                    if patient % 4 == 0
                    else min(100.0, 97.0 - 6 * ill + float(random.normal(0, 1))),
                    "pixel_digest": pixel_digest(images[-1]),
                    "pixel_mean": float(images[-1].mean()),
                    "pixel_std": float(images[-1].std()),
                    "pixel_min": float(images[-1].min()),
                    "pixel_max": float(images[-1].max()),
                    "saturated_share": float((images[-1] == 255).mean()),
                }
            )
    labels, covariates = ("pneumonia", "no_finding"), ("o2_saturation_pct",)
    path.mkdir(parents=True)
    table = conform(pd.DataFrame(rows), labels, covariates)
    table.to_parquet(path / MANIFEST, index=False)
    np.save(path / IMAGES, np.stack(images))
    (path / REJECTED).write_text("image_id,reason\n", encoding="utf-8")
    facts = DatasetFacts(
        layout="folder",
        source_revision="folder",
        source_digest="0" * 64,
        digest=f"{seed:064x}",
        code_revision="test",
        hilum_version="test",
        preprocessing=Preprocessing(size=size),
        labels=labels,
        covariates=covariates,
        n_images=len(rows),
        n_patients=n_patients,
        n_rejected=0,
        licence="none",
        citation="none",
        caution="made by a test",
    )
    write_json(path / FACTS, facts.model_dump(mode="json"))
    Dataset.open(path)
    return path

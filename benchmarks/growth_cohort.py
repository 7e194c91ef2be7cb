"""Made embeddings over CheXpert's real label table, at any number of rows: what benchmarks/growth.py measures on.

Labels, sex, age and view are the table's; rows are sampled by patient. An embedding is correlated noise, a part that a
patient's images share, and a planted direction for each label, sex, age and view. Images are a thousand made pictures,
again and again, with another brightness each: enough to be read, laid out and compressed.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data import parquet, tables
from hilum.data.layouts import chexpert
from hilum.data.manifest import assign_splits, conform
from hilum.data.store import FACTS, IMAGES, MANIFEST, REJECTED, DatasetFacts, read_json, write_json
from hilum.data.vectors import FACTS as EMBEDDING
from hilum.data.vectors import ROWS, VECTORS, VectorFacts
from hilum.data.vocabulary import CHEXPERT_FINDINGS
from hilum.errors import UsageError
from hilum.identity import Run, code_revision, digest_file, digest_json
from hilum.judgement.explorer.maps import sample_patients
from hilum.progress import bar
from hilum.recipe import Preprocessing

LABELS: Final = tuple(CHEXPERT_FINDINGS.values())
ENCODER: Final = "made"
DATASET_FOLDER, VECTORS_FOLDER, MADE = "dataset", "vectors", "made.json"
SEED: Final = 0
PICTURES: Final = 1_000
BLOCK: Final = 4_096  # rows made at once
SHARED: Final = 0.5  # standard deviation of what a patient's images share, where that of all noise is 1
# Lengths of the planted directions. Probes then reach AUROCs of 0.7 to 0.95, as they do on real embeddings.
FAINTEST, PLAINEST, SEX, AGE, VIEW = 0.5, 1.0, 1.0, 0.8, 2.0
VIEWS: Final = ("AP", "PA", "LATERAL")


def sampled(table: Path, n: int) -> pd.DataFrame:
    """About `n` rows of CheXpert's `train.csv` as manifest rows with splits: whole patients, as many as fit.

    Raises:
        UsageError: The table has fewer rows.
    """
    rows = chexpert.rows_of(tables.read_table(table), table)
    if n > len(rows):
        raise UsageError(f"{n:,} rows were asked for, but {table.name} has {len(rows):,}")
    rows = rows.iloc[sample_patients(rows["patient_id"], n, SEED)].reset_index(drop=True)
    rows["split"] = assign_splits(rows["patient_id"], {"train": 0.7, "val": 0.1, "test": 0.2}, SEED)
    return rows


def planted(rows: pd.DataFrame) -> NDArray[np.float32]:
    """How far each row lies along each planted direction, (N, labels + sex + age + views); 0 where nothing is known."""
    strengths = np.linspace(FAINTEST, PLAINEST, len(LABELS))
    columns = [k * (rows[name] == 1).to_numpy(dtype=float) for name, k in zip(LABELS, strengths, strict=True)]
    columns.append(SEX * (rows["sex"] == "F").to_numpy(dtype=float))
    columns.append(AGE * ((rows["age_years"] - 60) / 20).fillna(0.0).to_numpy(dtype=float))
    columns += [VIEW * (rows["view"] == name).to_numpy(dtype=float) for name in VIEWS]
    return np.stack(columns, axis=1).astype(np.float32)


def vectors_of(rows: pd.DataFrame, dim: int, out: Path) -> None:
    """Write the embeddings folder, (N, `dim`) in float32; never more than some thousand rows are held."""
    random = np.random.default_rng(SEED)
    along_NL = planted(rows)
    direction_LD = random.standard_normal((along_NL.shape[1], dim), dtype=np.float32)
    direction_LD /= np.linalg.norm(direction_LD, axis=1, keepdims=True)
    # Variances fall as 1/k along some axes that are not those of the features, as they do in learnt embeddings.
    spread_D = 1 / np.sqrt(np.arange(1, dim + 1))
    spread_D /= np.sqrt((spread_D**2).mean())
    axes_DD = np.linalg.qr(random.standard_normal((dim, dim)))[0]
    mixing_DD = (spread_D[:, None] * axes_DD).astype(np.float32)
    patient_N = pd.factorize(rows["patient_id"], sort=True)[0]
    patient_PD = SHARED * random.standard_normal((int(patient_N.max()) + 1, dim), dtype=np.float32)
    out.mkdir(parents=True, exist_ok=True)
    z_ND = np.lib.format.open_memmap(out / VECTORS, mode="w+", dtype=np.float32, shape=(len(rows), dim))
    with bar("embeddings", len(rows), "row") as shown:
        for start in range(0, len(rows), BLOCK):
            some = slice(start, start + BLOCK)
            noise = random.standard_normal((len(along_NL[some]), dim), dtype=np.float32) @ mixing_DD
            z_ND[some] = along_NL[some] @ direction_LD + patient_PD[patient_N[some]] + noise
            shown.update(len(noise))
    z_ND.flush()


def pictures_of(rows: pd.DataFrame, size: int, out: Path) -> pd.DataFrame:
    """Write the images, uint8, (N, size, size); the rows with what ingest measures of pixels."""
    random = np.random.default_rng(SEED)
    cells = max(1, size // 8)
    coarse = random.normal(110, 45, (PICTURES, cells, cells)).repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    picture_KHW = np.clip(coarse + random.normal(0, 8, coarse.shape), 0, 223).astype(np.uint8)
    brighter_N = random.integers(0, 32, len(rows), dtype=np.uint8)
    of_N = np.arange(len(rows)) % PICTURES
    out.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(out / IMAGES, mode="w+", dtype=np.uint8, shape=(len(rows), size, size))
    with bar("images", len(rows), "image") as shown:
        for start in range(0, len(rows), BLOCK):
            some = slice(start, start + BLOCK)
            images[some] = picture_KHW[of_N[some]] + brighter_N[some, None, None]
            shown.update(len(of_N[some]))
    images.flush()
    return rows.assign(
        pixel_digest=[f"{number:032x}" for number in range(len(rows))],
        pixel_mean=picture_KHW.mean(axis=(1, 2))[of_N] + brighter_N,
        pixel_std=picture_KHW.std(axis=(1, 2))[of_N],
        pixel_min=picture_KHW.min(axis=(1, 2))[of_N] + brighter_N.astype(float),
        pixel_max=picture_KHW.max(axis=(1, 2))[of_N] + brighter_N.astype(float),
        saturated_share=0.0,
    )


def make(table: Path, n: int, dim: int, size: int, home: Path) -> tuple[int, int]:
    """Write `home/dataset` and `home/vectors`, unless they are there; their numbers of images and of patients."""
    asked = {
        "rows": n, "dim": dim, "image_size": size, "seed": SEED, "table": digest_file(table),
        "maker": digest_file(Path(__file__)),
    }  # fmt: skip
    if (home / MADE).is_file() and (made := read_json(home / MADE))["asked"] == asked:
        return int(made["n"]), int(made["n_patients"])
    (home / MADE).unlink(missing_ok=True)  # written last: a folder that has it is whole
    rows = pictures_of(sampled(table, n), size, home / DATASET_FOLDER)
    manifest = conform(rows, LABELS, ())
    parquet.write(manifest, home / DATASET_FOLDER / MANIFEST)
    (home / DATASET_FOLDER / REJECTED).write_text("image_id,reason\n", encoding="utf-8")
    n_patients = int(manifest["patient_id"].nunique())
    facts = DatasetFacts(
        layout="chexpert",
        source_revision="folder",
        source_digest="0" * 64,
        digest=digest_json(asked),
        code_revision=code_revision(),
        hilum_version="benchmark",
        preprocessing=Preprocessing(size=size),
        labels=LABELS,
        covariates=(),
        n_images=len(manifest),
        n_patients=n_patients,
        n_rejected=0,
        licence="of the label table: Stanford University Dataset Research Use Agreement",
        citation="Irvin J. et al. 2019, CheXpert",
        caution="Made images and embeddings over real labels: nothing here is a finding.",
    )
    write_json(home / DATASET_FOLDER / FACTS, facts.model_dump(mode="json"))
    vectors = home / VECTORS_FOLDER
    vectors_of(rows, dim, vectors)
    kept = manifest[["image_id", "patient_id", "split"]]
    parquet.write(kept.assign(row=np.arange(len(kept)))[["row", *kept.columns]], vectors / ROWS)
    run = Run(code_revision=code_revision(), data_digest=facts.digest, recipe_digest=digest_json(asked))
    embedded = VectorFacts(encoder=ENCODER, modality="XR", dim=dim, n=len(kept), run=run)
    write_json(vectors / EMBEDDING, embedded.model_dump(mode="json"))
    write_json(home / MADE, {"asked": asked, "n": len(kept), "n_patients": n_patients})
    return len(kept), n_patients

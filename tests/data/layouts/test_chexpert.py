import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest

from hilum.data import layouts, tables
from hilum.data.layouts import chexpert
from hilum.data.manifest import conform
from hilum.errors import SourceError

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
TRAIN = (
    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
    "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Male,0,Frontal,PA,,,-1.0,1.0,,,,,,,,,,",
    "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,,-1.0,1.0,,,,,,,,,,",
    "CheXpert-v1.0-small/train/patient00002/study10/view1_frontal.jpg,Unknown,88,Frontal,LL,,,,,,,,,,,,,,",
)
VALID = (
    "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,0.0,1.0,1.0,1.0,0.0,0.0,0.0,"
    "0.0,0.0,0.0,0.0,0.0,0.0,0.0",
)


def published(folder: Path, draw, root: str = "", valid: bool = True) -> None:
    for name, rows in (("train.csv", TRAIN), ("valid.csv", VALID if valid else ())):
        if rows:
            (folder / root).mkdir(parents=True, exist_ok=True)
            (folder / root / name).write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
        for row in rows:
            draw(folder / root / row.partition(",")[0].partition("/")[2])


def manifest_of(source: Path):
    cohort = layouts.read("chexpert", source)
    return conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes), cohort


@pytest.mark.parametrize("root", ["", "CheXpert-v1.0-small"])
def test_reads_the_published_form(tmp_path, draw, root):
    published(tmp_path, draw, root)
    manifest, cohort = manifest_of(tmp_path)
    assert list(manifest["patient_id"]) == ["patient00001", *["patient00002"] * 3, "patient64541"]
    assert list(manifest["study_order"]) == [0, 0, 0, 1, 0]  # study10 comes after study2
    assert list(manifest["view"]) == ["AP", "PA", "LATERAL", "LATERAL", "AP"]
    np.testing.assert_array_equal(manifest["age_years"], [68, np.nan, 87, 88, 73])
    assert manifest["sex"].fillna("?").tolist() == ["F", "M", "M", "?", "M"]
    np.testing.assert_array_equal(manifest["cardiomegaly"], [np.nan, -1, -1, np.nan, 1])
    np.testing.assert_array_equal(manifest["pneumothorax"], [0, np.nan, np.nan, np.nan, 0])
    assert list(manifest["split"] == "test") == [False, False, False, False, True]
    assert manifest["split"].notna().all()
    assert len(cohort.labels) == 14
    assert cohort.load(cohort.rows["locator"].iloc[4]).shape == (6, 5)


def test_without_valid_csv_ingest_makes_the_splits(tmp_path, draw):
    published(tmp_path, draw, valid=False)
    manifest, _ = manifest_of(tmp_path)
    assert manifest["split"].isna().all()


def test_race_from_a_saved_sheet(tmp_path, draw):
    published(tmp_path, draw)
    (tmp_path / "CHEXPERT DEMO.csv").write_text(
        "PATIENT,GENDER,AGE_AT_CXR,PRIMARY_RACE,ETHNICITY\npatient00002,Male,87,Asian,Non-Hispanic\n"
        "patient00001,Female,68,Unknown,Unknown\n",
        encoding="utf-8",
    )
    manifest, cohort = manifest_of(tmp_path)
    assert cohort.attributes == ("race",)
    assert manifest["race"].fillna("?").tolist() == ["?", "Asian", "Asian", "Asian", "?"]


@pytest.mark.skipif(importlib.util.find_spec("openpyxl") is not None, reason="openpyxl is there, so the sheet is read")
def test_says_that_the_sheet_was_not_read(tmp_path, draw):
    published(tmp_path, draw)
    (tmp_path / "CHEXPERT DEMO.xlsx").write_bytes(b"PK")
    manifest, cohort = manifest_of(tmp_path)
    assert "race" not in manifest
    assert "install openpyxl" in cohort.caution


def test_refuses_other_paths_and_values(tmp_path, draw):
    published(tmp_path, draw)
    path = tmp_path / "train.csv"
    good = path.read_text(encoding="utf-8")
    for old, new, says in (
        ("train/patient00001/study1", "train/00001/study1", "are like CheXpert-v1.0-small/train"),
        ("68,Frontal,AP,1.0", "68,Frontal,AP,2.0", "has 2 under No Finding"),
        ("AP/PA", "Position", "lacks the column AP/PA"),
    ):
        path.write_text(good.replace(old, new), encoding="utf-8")
        with pytest.raises(SourceError, match=says):
            layouts.read("chexpert", tmp_path)
    path.unlink()
    with pytest.raises(SourceError, match=r"no train\.csv; it comes with CheXpert"):
        layouts.read("chexpert", tmp_path)


def test_real_table_of_full_size_in_seconds(real_data):
    path = real_data("metadata") / "chexpert_train.csv.gz"
    start = time.process_time()
    rows = chexpert.rows_of(tables.read_table(path), path)
    assert time.process_time() - start < 20  # 3 to 4 s alone; the machine may be shared
    assert len(rows) == 223_414
    assert rows["patient_id"].nunique() == 64_540
    assert rows["study_id"].nunique() == 187_641  # METHOD, section 2
    assert rows["image_id"].is_unique
    assert rows["view"].value_counts().to_dict() == {"AP": 161_590, "LATERAL": 32_387 + 17, "PA": 29_420}
    assert rows["age_years"].isna().sum() == 3
    assert rows["sex"].isna().sum() == 1
    assert rows["pneumonia"].value_counts().loc[[0.0, 1.0]].to_dict() == {0.0: 2_799, 1.0: 6_039}  # METHOD, section 6

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hilum.data import layouts, tables
from hilum.data.layouts import nih
from hilum.data.manifest import conform
from hilum.errors import SourceError, UsageError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = (
    "00000001_000.png,Cardiomegaly|Emphysema,0,1,058Y,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,No Finding,3,1,059Y,M,AP,2682,2749,0.143,0.143",
    "00000002_000.png,Effusion,0,2,412Y,F,PA,2682,2749,0.143,0.143",
    "00000003_000.png,Pleural_Thickening|Hernia,0,3,006M,F,PA,2682,2749,0.143,0.143",
)


def published(folder: Path, *rows: str, name: str = "Data_Entry_2017.csv", header: str = HEADER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join((header, *(rows or ROWS))) + "\n", encoding="utf-8")


def manifest_of(source: Path) -> tuple[pd.DataFrame, nih.Cohort]:
    cohort = layouts.read("nih", source)
    return conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes), cohort


def test_reads_the_original_distribution(tmp_path, draw):
    published(tmp_path)
    for number, row in enumerate(ROWS):
        draw(tmp_path / f"images_00{number + 1}" / "images" / row.partition(",")[0], shade=10 * (number + 1))
    manifest, cohort = manifest_of(tmp_path)
    assert list(manifest["image_id"]) == ["00000001_000", "00000001_001", "00000002_000", "00000003_000"]
    assert list(manifest["patient_id"]) == ["00000001", "00000001", "00000002", "00000003"]
    assert list(manifest["study_order"]) == [0, 1, 0, 0]
    assert manifest["study_id"].is_unique
    np.testing.assert_allclose(manifest["age_years"], [58, 59, np.nan, 0.5])
    assert list(manifest["sex"]) == ["M", "M", "F", "F"]
    assert list(manifest["view"]) == ["PA", "AP", "PA", "PA"]
    given = {name: list(manifest[name]) for name in cohort.labels}
    expected = {name: [0.0] * 4 for name in cohort.labels}
    expected["cardiomegaly"][0] = expected["emphysema"][0] = expected["no_finding"][1] = 1.0
    expected["pleural_effusion"][2] = expected["pleural_thickening"][3] = expected["hernia"][3] = 1.0
    assert given == expected
    assert manifest["split"].isna().all()
    assert cohort.load(cohort.rows["locator"].iloc[2])[0, 0] == 30
    assert "left out" not in cohort.caution


def test_trailing_commas_and_the_newer_sex_column(tmp_path, draw):
    header = HEADER.replace("Gender", "Sex") + ","
    published(tmp_path, ROWS[0] + ",", name="Data_Entry_2017_v2020.csv", header=header)
    draw(tmp_path / "images" / "00000001_000.png")
    manifest, _ = manifest_of(tmp_path)
    assert manifest["sex"].tolist() == ["M"]
    assert manifest["age_years"].tolist() == [58.0]


def test_part_of_the_images_is_counted(tmp_path, draw):
    published(tmp_path)
    draw(tmp_path / "images" / "00000002_000.png")
    manifest, cohort = manifest_of(tmp_path)
    assert manifest["image_id"].tolist() == ["00000002_000"]
    assert "3 of the 4 images" in cohort.caution


def test_published_test_list_keeps_patients_whole(tmp_path, draw):
    rows = [f"{p:08d}_{i:03d}.png,No Finding,{i},{p},040Y,M,PA,1,1,0.1,0.1" for p in range(1, 61) for i in range(2)]
    published(tmp_path, *rows)
    for row in rows:
        draw(tmp_path / "images" / row.partition(",")[0])
    (tmp_path / "test_list.txt").write_text("".join(f"{p:08d}_000.png\n" for p in range(1, 11)), encoding="utf-8")
    manifest, _ = manifest_of(tmp_path)
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    assert set(manifest.loc[manifest["split"] == "test", "patient_id"]) == {f"{p:08d}" for p in range(1, 11)}
    assert 0 < manifest.loc[manifest["split"] == "val", "patient_id"].nunique() < 20


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "Data_Entry_2017.csv").unlink(), "no Data_Entry_2017_v2020.csv or Data_Entry_2017"),
        (lambda folder: published(folder, ROWS[0].replace("Emphysema", "Gout")), "'Gout'"),
        (lambda folder: published(folder, header=HEADER.replace("Finding Labels", "Labels")), "lacks the column Find"),
        (lambda folder: published(folder, header=HEADER.replace("Patient Gender", "G")), "no column Patient Gender or"),
        (lambda folder: (folder / "images" / "00000001_000.png").unlink(), "holds none of the 4 images"),
        (lambda folder: (folder / "Data_Entry_2017.csv").write_bytes(b""), "cannot be read as a table"),
    ],
)
def test_refuses_what_is_not_as_published(tmp_path, draw, spoil, says):
    published(tmp_path)
    draw(tmp_path / "images" / "00000001_000.png")
    spoil(tmp_path)
    with pytest.raises(SourceError, match=says):
        layouts.read("nih", tmp_path)


def test_takes_no_options(tmp_path):
    with pytest.raises(UsageError, match="no such option"):
        layouts.read("nih", tmp_path, {"flag": "x"})


def test_real_films(real_data):
    manifest, cohort = manifest_of(real_data("nih-chestxray14-1000"))
    assert len(manifest) == 1000
    assert manifest["patient_id"].nunique() == 264
    assert manifest["pneumonia"].sum() == 11
    assert manifest["study_order"].notna().all()
    pixels = cohort.load(cohort.rows["locator"].iloc[500])
    assert pixels.shape == (64, 64)
    assert pixels.std() > 5


def test_real_table_of_full_size(real_data):
    path = real_data("metadata") / "Data_Entry_2017_v2020.csv.gz"
    rows = nih.rows_of(tables.read_table(path), path)
    assert len(rows) == 112_120
    assert rows["patient_id"].nunique() == 30_805
    assert rows["image_id"].is_unique
    published_counts = {"no_finding": 60_361, "pleural_effusion": 13_317, "pneumonia": 1_431, "hernia": 227}
    assert {name: int(rows[name].sum()) for name in published_counts} == published_counts
    findings = [name for name in nih.LABELS if name != "no_finding"]
    assert ((rows[findings].sum(axis=1) == 0) == (rows["no_finding"] == 1)).all()

import nibabel
import numpy as np
import pandas as pd
import pytest

from hilum.data import layouts
from hilum.data.layouts.folder import image_id
from hilum.data.manifest import conform
from hilum.errors import SourceError, UsageError

TABLE = """image,patient_id,modality,view,age_years,sex,split,pneumonia,O2 saturation pct,ward
a/one.png,007,xr,pa,40,female,train,1,97,x
a/two.png,007,XR,,n/a,?,train,-1,,y
b/three.png,8,XR,AP,61.5,M,test,,88,z
"""


@pytest.fixture
def source(tmp_path, draw):
    for shade, name in enumerate(("a/one.png", "a/two.png", "b/three.png")):
        draw(tmp_path / name, shade=50 + shade)
    (tmp_path / "images.csv").write_text(TABLE, encoding="utf-8")
    return tmp_path


def manifest_of(source, **options):
    cohort = layouts.read("folder", source, options)
    return conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes), cohort


def test_reads_ones_own_table(source):
    manifest, cohort = manifest_of(source, labels="pneumonia", covariates="O2 saturation pct", licence="ours")
    assert manifest["patient_id"].tolist() == ["007", "007", "8"]  # text, so leading zeros stay
    assert manifest["view"].fillna("?").tolist() == ["PA", "?", "AP"]
    assert manifest["modality"].tolist() == ["XR"] * 3
    assert manifest["sex"].fillna("?").tolist() == ["F", "?", "M"]
    np.testing.assert_array_equal(manifest["age_years"], [40, np.nan, 61.5])
    np.testing.assert_array_equal(manifest["pneumonia"], [1, -1, np.nan])
    np.testing.assert_array_equal(manifest["o2_saturation_pct"], [97, np.nan, 88])
    assert manifest["split"].tolist() == ["train", "train", "test"]
    assert "ward" not in manifest
    assert cohort.licence == "ours"
    assert [cohort.load(locator)[0, 0] for locator in cohort.rows["locator"]] == [50, 51, 52]


def test_image_ids_do_not_show_file_names(source):
    manifest, _ = manifest_of(source)
    assert manifest["image_id"].tolist() == [image_id(name) for name in ("a/one.png", "a/two.png", "b/three.png")]
    assert not manifest["image_id"].str.contains("one|two|three").any()
    table = pd.read_csv(source / "images.csv", dtype="str").assign(image_id=["mine", "", "yours"])
    table.to_csv(source / "images.csv", index=False)
    manifest, _ = manifest_of(source)
    assert manifest["image_id"].tolist() == ["mine", image_id("a/two.png"), "yours"]


def test_volumes_become_central_slices(source):
    path = source / "c" / "head.nii.gz"
    path.parent.mkdir()
    voxels = np.random.default_rng(0).random((8, 10, 12), dtype=np.float32)
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(path)
    with (source / "images.csv").open("a", encoding="utf-8") as table:
        table.write("c/head.nii.gz,9,MR,,,,,0,,\nc/head.nii.gz,10,MR,coronal,,,,1,,\n")
    manifest, cohort = manifest_of(source, labels="pneumonia")
    slices = manifest[manifest["modality"] == "MR"]
    assert sorted(zip(slices["patient_id"], slices["view"], strict=True)) == [
        ("10", "CORONAL"), ("9", "AXIAL"), ("9", "CORONAL"), ("9", "SAGITTAL"),
    ]  # fmt: skip
    assert slices.groupby("patient_id")["study_id"].nunique().tolist() == [1, 1]
    assert cohort.load(cohort.rows["locator"].iloc[-1]).shape == (12, 10)
    assert cohort.load(cohort.rows["locator"].iloc[0])[0, 0] == 50


@pytest.mark.parametrize(
    ("old", "new", "options", "error", "says"),
    [
        ("patient_id", "person", {}, SourceError, "lacks the column patient_id"),
        ("a/two.png", "a/none.png", {}, SourceError, "1 images that are not in .*for instance a/none.png"),
        (",8,", ",,", {}, SourceError, "1 rows with a blank patient_id"),
        (",xr,", ",CT,", {}, SourceError, "modality 'CT'; it is one of XR, MR"),
        ("x", "x", {"labels": "oedema"}, SourceError, "lacks the column oedema"),
        ("x", "x", {"labels": "O2 saturation pct"}, SourceError, "'97' in the label"),
        ("x", "x", {"covariates": "split"}, UsageError, "split is a column of every manifest"),
        ("x", "x", {"table": "other.csv"}, SourceError, "has no other.csv; the option `table`"),
    ],
)
def test_refuses(source, old, new, options, error, says):
    (source / "images.csv").write_text(TABLE.replace(old, new), encoding="utf-8")
    with pytest.raises(error, match=says):
        layouts.read("folder", source, options)


def test_needs_one_table(source):
    (source / "more.csv").write_text("x\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"one CSV at its top, but has images\.csv, more\.csv"):
        layouts.read("folder", source)
    assert len(manifest_of(source, table="images.csv")[0]) == 3
    (source / "more.csv").unlink()
    (source / "images.csv").unlink()
    with pytest.raises(SourceError, match="no CSV at its top; write one with the columns image, patient_id, modality"):
        layouts.read("folder", source)

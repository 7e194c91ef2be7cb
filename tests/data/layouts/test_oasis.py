import nibabel
import numpy as np
import pytest

from hilum.data import layouts
from hilum.data.manifest import conform
from hilum.errors import ImageError, SourceError

TABLE = (
    "\ufeffID,Age,M/F,Hand,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay\n"  # as a mirror has it: reordered, byte-order mark
    "OAS1_0001_MR1,74,F,R,2,3,29,0,1344,0.743,1.306,N/A\n"
    "OAS1_0002_MR1,55,F,R,4,1,,,1147,.81,1.531,N/A\n"
    "OAS1_0003_MR1,73,M,R,4,3,27,0.5,1454,708,1207,N/A\n"
    "OAS1_0003_MR2,73,M,R,,,,,1454,708,1207,40\n"
)


def manifest_of(source):
    cohort = layouts.read("oasis", source)
    return conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes), cohort


@pytest.fixture
def source(tmp_path):
    (tmp_path / "oasis_cross-sectional.csv").write_text(TABLE, encoding="utf-8")
    return tmp_path


def test_reads_slices(source, draw):
    for session in ("OAS1_0001_MR1", "OAS1_0002_MR1", "OAS1_0003_MR1", "OAS1_0003_MR2"):
        for plane in ("axial", "coronal", "sagittal"):
            draw(source / plane / f"{session}.jpg")
    manifest, cohort = manifest_of(source)
    assert len(manifest) == 12
    one = manifest[manifest["view"] == "AXIAL"].set_index("study_id")
    assert list(one["patient_id"]) == ["OAS1_0001", "OAS1_0002", "OAS1_0003", "OAS1_0003"]
    np.testing.assert_array_equal(one["study_order"], [0, 0, 0, 1])
    np.testing.assert_array_equal(one["days"], [0, 0, 0, 40])
    np.testing.assert_array_equal(one["dementia"], [0, np.nan, 1, np.nan])
    np.testing.assert_allclose(one["nwbv_share"], [0.743, 0.81, 0.708, 0.708])
    np.testing.assert_allclose(one["asf_ratio"], [1.306, 1.531, 1.207, 1.207])
    np.testing.assert_array_equal(one["mmse_points"], [29, np.nan, 27, np.nan])
    assert set(manifest["modality"]) == {"MR"}
    assert "dementia" not in cohort.covariates
    assert "cdr" in cohort.attributes


VOLUME = "disc1/OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc.img"


def test_reads_the_original_volumes(source):
    voxels = np.zeros((8, 10, 12, 1), np.int16)
    voxels[1:7, 1:9, 1:11] = np.random.default_rng(0).integers(50, 200, (6, 8, 10, 1))
    path = source / VOLUME
    path.parent.mkdir(parents=True)
    nibabel.AnalyzeImage(voxels, None).to_filename(path)
    manifest, cohort = manifest_of(source)
    assert list(manifest["view"]) == ["AXIAL", "CORONAL", "SAGITTAL"]
    shapes = [cohort.load(locator).shape for locator in cohort.rows["locator"]]
    assert shapes == [(10, 8), (12, 8), (12, 10)]
    # Analyze is taken as running from right to left, so the first column shown (the patient's right) is its first one.
    axial = cohort.load(cohort.rows["locator"].iloc[0])
    as_stored = voxels[:, :, 6, 0].T.astype(float)
    likeness = {
        "upright": np.corrcoef(axial.ravel(), as_stored[::-1].ravel())[0, 1],
        "mirrored": np.corrcoef(axial.ravel(), as_stored[::-1, ::-1].ravel())[0, 1],
    }
    assert likeness["upright"] > 0.95  # but for the grey values clipped at the ends
    assert likeness["mirrored"] < 0.9


def test_volume_without_header(source):
    path = source / VOLUME
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(1000))
    _, cohort = manifest_of(source)
    with pytest.raises(ImageError, match="missing or damaged"):
        cohort.load(cohort.rows["locator"].iloc[0])


def test_refuses_what_is_not_oasis(source, draw):
    with pytest.raises(SourceError, match="neither axial/OAS1_0001_MR1"):
        layouts.read("oasis", source)
    draw(source / "axial" / "OAS1_0999_MR1.jpg")
    with pytest.raises(SourceError, match="no image of a session that"):
        layouts.read("oasis", source)
    (source / "oasis_cross-sectional.csv").write_text("ID,M/F,Age\nOAS2_0001,F,70\n", encoding="utf-8")
    with pytest.raises(SourceError, match="'OAS2_0001'"):
        layouts.read("oasis", source)


def test_real_slices(real_data):
    manifest, cohort = manifest_of(real_data("oasis-1"))
    assert len(manifest) == 588
    assert manifest["patient_id"].nunique() == 196
    assert manifest["view"].value_counts().to_dict() == {"AXIAL": 196, "CORONAL": 196, "SAGITTAL": 196}
    assert manifest["nwbv_share"].between(0.6, 0.9).all()
    assert manifest["asf_ratio"].between(0.8, 1.6).all()
    assert manifest["dementia"].sum() == 3 * 98
    assert cohort.load(cohort.rows["locator"].iloc[1]).ndim == 2

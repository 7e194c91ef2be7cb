import nibabel
import numpy as np
import pytest

from hilum.data import layouts
from hilum.data.manifest import conform
from hilum.errors import SourceError, UsageError


def volume(path, seed=0):
    """A volume whose grey value grows from left to right, then posterior to anterior, then inferior to superior."""
    x, y, z = np.meshgrid(np.arange(8), np.arange(10), np.arange(12), indexing="ij")
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = (100 * x + 10 * y + z + 50 + seed).astype(np.float32)
    nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.0, 1.0])).to_filename(path)


@pytest.fixture
def source(tmp_path):
    volume(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    for session in ("late", "early"):
        stem = f"sub-02/ses-{session}/anat/sub-02_ses-{session}"
        volume(tmp_path / f"{stem}_run-1_T1w.nii")
        volume(tmp_path / f"{stem}_T2w.nii")
    volume(tmp_path / "derivatives" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tsex\tsite\tdiagnosis\tWeight kg\n"
        "01\t89+\tf\tA\t1\t70.5\nsub-02\tn/a\tMale\tn/a\tn/a\tn/a\n"
        "sub-03\t20\tM\tA\t0\t80\n",
        encoding="utf-8",
    )
    (tmp_path / "sub-02" / "sub-02_sessions.tsv").write_text(
        "session_id\tacq_time\nses-late\t2001-03-05T12:00:00\nses-early\t2001-02-03T12:00:00\n", encoding="utf-8"
    )
    return tmp_path


def manifest_of(source, **options):
    cohort = layouts.read("bids", source, options)
    return conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes), cohort


def test_three_planes_of_each_volume(source):
    manifest, cohort = manifest_of(source, labels="diagnosis", covariates="Weight kg")
    assert len(manifest) == 9  # three T1w volumes; derivatives and T2w are left alone
    axial = manifest[manifest["view"] == "AXIAL"].set_index("study_id")
    assert set(axial.index) == {"sub-01", "sub-02_ses-early", "sub-02_ses-late"}
    assert axial.loc["sub-01", "age_years"] == 89
    assert axial.loc["sub-01", "sex"] == "F"
    assert axial.loc["sub-01", "weight_kg"] == 70.5
    assert axial.loc["sub-01", "diagnosis"] == 1
    assert axial.loc["sub-02_ses-late", ["age_years", "site", "diagnosis", "weight_kg"]].isna().all()
    assert axial.loc["sub-02_ses-early", "study_order"] == 0
    assert axial.loc["sub-02_ses-late", ["study_order", "days"]].tolist() == [1, 30]
    assert np.isnan(axial.loc["sub-01", "study_order"])
    assert (cohort.labels, cohort.covariates) == (("diagnosis",), ("weight_kg",))
    shapes = {view: cohort.load(at).shape for view, at in zip(cohort.rows["view"], cohort.rows["locator"], strict=True)}
    assert shapes == {"AXIAL": (10, 8), "CORONAL": (12, 8), "SAGITTAL": (12, 10)}


def test_fractions_choose_the_slice(source):
    manifest, cohort = manifest_of(source, slices="0, 0.25,1")
    assert len(manifest) == 27
    sagittal = cohort.rows[(cohort.rows["view"] == "SAGITTAL") & (cohort.rows["patient_id"] == "sub-01")]
    means = [cohort.load(locator).mean() for locator in sagittal["locator"]]
    assert means == sorted(means)  # x grows to the right, and slices are counted from the left
    assert len(set(means)) == 3
    assert sagittal["image_id"].str.rpartition("_")[2].tolist() == ["0", "0.25", "1"]


def test_another_suffix(source):
    manifest, _ = manifest_of(source, suffix="T2w")
    assert set(manifest["patient_id"]) == {"sub-02"}


def test_counts_participants_without_a_row(source):
    path = source / "participants.tsv"
    path.write_text("participant_id\nsub-01\n", encoding="utf-8")
    manifest, cohort = manifest_of(source)
    assert manifest["age_years"].isna().all()
    assert cohort.caution.startswith("1 participants have images but no row")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"slices": "0.5,2"}, UsageError, "fractions from 0 to 1"),
        ({"slices": "middle"}, UsageError, "'middle'"),
        ({"suffix": "T1w.*"}, UsageError, "such as T1w"),
        ({"suffix": "FLAIR"}, SourceError, r"no sub-\*/anat/\*_FLAIR"),
        ({"labels": "iq"}, SourceError, "lacks the column iq"),
        ({"labels": "Weight kg"}, SourceError, "'70.5' in the label"),
        ({"covariates": "age,sex"}, UsageError, "sex is a column of every manifest"),
    ],
)
def test_refuses(source, options, error, says):
    with pytest.raises(error, match=says):
        layouts.read("bids", source, options)


def test_needs_participants(source):
    (source / "participants.tsv").unlink()
    with pytest.raises(SourceError, match=r"no participants\.tsv"):
        layouts.read("bids", source)

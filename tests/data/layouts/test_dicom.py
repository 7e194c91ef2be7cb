import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hilum.data import layouts
from hilum.data.manifest import conform
from hilum.errors import SourceError, UsageError

DX = "1.2.840.10008.5.1.4.1.1.1.1"
MR = "1.2.840.10008.5.1.4.1.1.4"
AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]


def uid(name):
    return generate_uid(entropy_srcs=[name])


def export(path, name, **attributes):
    """A small DICOM image; attributes override or, where None, remove those of a chest film."""
    given = {
        "SOPClassUID": DX, "SOPInstanceUID": uid(name), "StudyInstanceUID": uid(f"{name} study"),
        "SeriesInstanceUID": uid(f"{name} series"), "Modality": "DX", "PatientID": "MRN0042", "PatientSex": "F",
        "PatientAge": "058Y", "StudyDate": "20200131", "StudyTime": "120000", "ViewPosition": "PA",
        "InstitutionName": "North", "Manufacturer": "Acme", "ManufacturerModelName": "Ray 3", "Rows": 4, "Columns": 4,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "PixelData": bytes(range(16)),
    }  # fmt: skip
    given |= attributes
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = given["SOPClassUID"], given["SOPInstanceUID"]
    file = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    for tag, value in given.items():
        if value is not None:
            setattr(file, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


@pytest.fixture
def source(tmp_path):
    export(tmp_path / "a" / "IM1", "one")
    export(tmp_path / "a" / "IM2.dcm", "two", ViewPosition="LL", StudyDate="20200302", PatientAge="006M", Modality="CR")
    export(
        tmp_path / "b" / "x.img", "three", PatientID="7", PatientAge=None, PatientBirthDate="19500131",
        PatientSex="O", ViewPosition="", InstitutionName=None, Manufacturer=None, ManufacturerModelName=None,
    )  # fmt: skip
    export(tmp_path / "b" / "ct", "four", Modality="CT")
    export(tmp_path / "b" / "report", "five", Modality="SR", Rows=None, Columns=None, PixelData=None)
    export(tmp_path / "b" / "copy", "one")
    (tmp_path / "b" / "notes.txt").write_text("no DICOM", encoding="utf-8")
    (tmp_path / "b" / "empty.dcm").write_bytes(b"")
    return tmp_path


def manifest_of(source, **options):
    cohort = layouts.read("dicom", source, options)
    return conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes), cohort


def test_rows_from_headers(source):
    manifest, cohort = manifest_of(source)
    assert len(manifest) == 3
    assert manifest["modality"].tolist() == ["XR"] * 3
    assert manifest["view"].fillna("?").tolist() == ["PA", "LATERAL", "?"]
    assert manifest["patient_id"].iloc[0] == manifest["patient_id"].iloc[1] != manifest["patient_id"].iloc[2]
    np.testing.assert_allclose(manifest["age_years"], [58, 0.5, 70], atol=0.01)
    assert manifest["sex"].fillna("?").tolist() == ["F", "F", "?"]
    np.testing.assert_array_equal(manifest["days"], [0, 31, 0])
    np.testing.assert_array_equal(manifest["study_order"], [0, 1, 0])
    assert manifest["site"].fillna("?").tolist() == ["North", "North", "?"]
    assert manifest["scanner"].fillna("?").tolist() == ["Acme Ray 3", "Acme Ray 3", "?"]
    assert "2 DICOM files that are no X-ray" in cohort.caution
    assert "1 files that repeat an image" in cohort.caution
    assert cohort.load(cohort.rows["locator"].iloc[0]).shape == (4, 4)


def test_no_identifier_enters_the_manifest(source, tmp_path_factory):
    manifest, cohort = manifest_of(source)
    written = manifest.to_csv() + cohort.caution
    for secret in ("MRN0042", uid("one"), uid("one study"), "2020", "IM1", "x.img"):
        assert secret not in written
    again, _ = manifest_of(source)
    assert again["patient_id"].equals(manifest["patient_id"])
    key = tmp_path_factory.mktemp("key") / "secret"
    key.write_bytes(b"correct horse" * 10)
    keyed, with_key = manifest_of(source, key=str(key))
    assert not set(keyed["patient_id"]) & set(manifest["patient_id"])
    assert not set(keyed["image_id"]) & set(manifest["image_id"])
    assert "secret key" in cohort.caution
    assert "secret key" not in with_key.caution


def test_the_same_number_of_another_issuer_is_another_patient(tmp_path):
    export(tmp_path / "a", "one", IssuerOfPatientID="North")
    export(tmp_path / "b", "two", IssuerOfPatientID="South")
    export(tmp_path / "c", "three", PatientID=None)
    export(tmp_path / "d", "four", PatientID="", StudyInstanceUID=uid("three study"))
    manifest, cohort = manifest_of(tmp_path)
    assert manifest["patient_id"].nunique() == 3
    assert manifest["patient_id"].iloc[2] == manifest["patient_id"].iloc[3]
    assert "2 images have no PatientID" in cohort.caution


@pytest.mark.parametrize(
    ("orientation", "axis", "view"), [(AXIAL, 2, "AXIAL"), (CORONAL, 1, "CORONAL"), (SAGITTAL, 0, "SAGITTAL")]
)
def test_central_slice_of_an_mr_series(tmp_path, orientation, axis, view):
    for number in range(5):
        position = [0.0, 0.0, 0.0]
        position[axis] = 3.0 * number
        export(
            tmp_path / f"{9 - number}", f"slice {number}", Modality="MR", SOPClassUID=MR, ViewPosition=None,
            SeriesInstanceUID=uid("series"), StudyInstanceUID=uid("study"), ImageOrientationPatient=orientation,
            ImagePositionPatient=position, PixelData=bytes([number, 99] * 8),
        )  # fmt: skip
    export(tmp_path / "film", "film", StudyInstanceUID=uid("study"))
    manifest, cohort = manifest_of(tmp_path)
    assert manifest["modality"].tolist() == ["MR", "XR"]
    assert manifest["view"].iloc[0] == view
    assert cohort.rows["locator"].iloc[0] == "7"  # the third of five
    everything, _ = manifest_of(tmp_path, mr_slices="all")
    assert (everything["modality"] == "MR").sum() == 5
    assert everything["study_id"].nunique() == 1


@pytest.mark.parametrize("by", ["SOPInstanceUID", "StudyInstanceUID"])
def test_labels_are_joined_by_uid(source, by):
    suffix = " study" if by == "StudyInstanceUID" else ""
    (source / "labels.csv").write_text(
        f"{by},Pneumonia,lung opacity\n{uid('two' + suffix)},1,-1\n{uid('one' + suffix)},0,\n", encoding="utf-8"
    )
    manifest, cohort = manifest_of(source, labels="labels.csv")
    assert cohort.labels == ("pneumonia", "lung_opacity")
    np.testing.assert_array_equal(manifest["pneumonia"], [0, 1, np.nan])
    np.testing.assert_array_equal(manifest["lung_opacity"], [np.nan, -1, np.nan])


@pytest.mark.parametrize(
    ("table", "error", "says"),
    [
        ("image,pneumonia\na,1\n", SourceError, "neither of the columns SOPInstanceUID and StudyInstanceUID"),
        ("SOPInstanceUID,pneumonia\n1.2,1\n", SourceError, "no SOPInstanceUID of the images found"),
        (f"SOPInstanceUID,pneumonia\n{uid('one')},maybe\n", SourceError, "'maybe' in the label pneumonia"),
        (f"SOPInstanceUID,pneumonia\n{uid('one')},1\n{uid('one')},0\n", SourceError, "1 rows that repeat a SOP"),
        (f"SOPInstanceUID,sex\n{uid('one')},1\n", UsageError, "sex is a column of every manifest"),
    ],
)
def test_refuses_other_label_tables(source, table, error, says):
    (source / "labels.csv").write_text(table, encoding="utf-8")
    with pytest.raises(error, match=says):
        layouts.read("dicom", source, {"labels": "labels.csv"})


def test_refuses_options_and_folders(source, tmp_path_factory):
    for options, says in (
        ({"labels": "none.csv"}, "there is no none.csv"),
        ({"key": str(source / "none")}, "cannot be read"),
        ({"key": str(source / "b" / "empty.dcm")}, "is empty"),
        ({"mr_slices": "middle"}, "central or all"),
    ):
        with pytest.raises(UsageError, match=says):
            layouts.read("dicom", source, options)
    empty = tmp_path_factory.mktemp("empty")
    (empty / "notes.txt").write_text("no DICOM", encoding="utf-8")
    with pytest.raises(SourceError, match="of 1 files 0 are DICOM"):
        layouts.read("dicom", empty)


def test_values_that_break_the_standard_are_unknown(tmp_path):
    export(tmp_path / "a", "one")
    file = pydicom.dcmread(tmp_path / "a")
    with pytest.warns(UserWarning, match="Invalid value for VR"):
        file.PatientAge, file.StudyDate = "old", "1/2/2020"
    file["InstanceNumber"] = pydicom.DataElement("InstanceNumber", "IS", "")
    file.save_as(tmp_path / "a")
    manifest, _ = manifest_of(tmp_path)
    assert manifest[["age_years", "days", "study_order"]].isna().all(axis=None)

"""Which instances a study has, which are asked, and what of their headers is kept."""

import filming
import numpy as np
import pytest
from filming import PATIENT, Study
from pydicom import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from hilum.delivery.pacs import study
from hilum.delivery.pacs.study import Listed
from hilum.errors import SourceError

BLANK = np.full((8, 8), 7, dtype=np.uint8)


def listed(modality, series, instance):
    return Listed(modality, series, instance, lambda: b"")


def test_files_are_grouped_by_study_and_others_passed_over(tmp_path):
    one, two = Study(), Study()
    one.add(BLANK)
    one.add(BLANK, "MR", "")
    two.add(BLANK)
    one.write(tmp_path / "a" / "deep")
    two.write(tmp_path / "b")
    (tmp_path / "b" / "again").write_bytes(two.files[0])
    (tmp_path / "b" / "readme.txt").write_text("no image")
    (tmp_path / "b" / "empty").write_bytes(b"")
    (tmp_path / "b" / "header only").write_bytes(b"\0" * 128 + b"DICM")
    directory = filming.headers(one.files[0])
    directory.SOPClassUID = MediaStorageDirectoryStorage
    (tmp_path / "b" / "DICOMDIR").write_bytes(filming.encoded(directory))
    found = study.of_files([tmp_path / "a", tmp_path / "b"])
    assert {uid: len(members) for uid, members in found.studies.items()} == {one.uid: 2, two.uid: 1}
    assert (found.passed_over, found.repeated) == (4, 1)
    assert [member.load() for member in found.studies[one.uid]] == one.files


def test_a_folder_without_dicom_says_what_would_be_right(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(SourceError, match="none of the 1 files is a DICOM instance"):
        study.of_files([tmp_path])


def test_images_of_the_release_s_modality_are_asked_and_slices_of_a_volume_are_not():
    members = [
        listed("DX", "1", "1.1"),
        listed("CR", "2", "2.1"),
        listed("MR", "3", "3.1"),
        listed("MR", "4", "4.1"),
        listed("MR", "4", "4.2"),
        listed("SR", "5", "5.1"),
        listed("CT", "6", "6.1"),
        listed("DX", "1", "1.2"),
    ]
    films = study.choose(members, "XR")
    assert [one.instance for one in films.asked] == ["1.1", "1.2", "2.1"]
    assert (films.others, films.slices) == (4, 0)
    slices = study.choose(members, "MR")
    assert [one.instance for one in slices.asked] == ["3.1"]
    assert (slices.others, slices.slices) == (4, 2)


def test_only_what_a_report_needs_is_kept_as_text():
    made = Study()
    made.add(BLANK, PatientAddress="Geheimweg 1", InstitutionName="Klinik", PatientComments="privat")
    kept = study.header_of(made.files[0])
    assert {element.keyword for element in kept} == set(study.KEPT) - {"SpecificCharacterSet"}
    for name, value in PATIENT.items():
        assert str(kept[name].value) == value, name
    assert kept.Modality == "DX"


def test_names_in_an_older_encoding_are_read_in_it():
    names = {"PatientName": "Müller^Jürgen", "ReferringPhysicianName": "Weiß^Änne", "StudyDescription": "Übersicht"}
    made = Study(patient={"SpecificCharacterSet": "ISO_IR 100", **names})
    made.add(BLANK)
    assert "Müller".encode("latin-1") in made.files[0]
    kept = study.header_of(made.files[0])
    assert (str(kept.PatientName), str(kept.ReferringPhysicianName)) == ("Müller^Jürgen", "Weiß^Änne")
    assert kept.StudyDescription == "Übersicht"


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_what_the_standard_does_not_allow_is_taken_as_unknown():
    header = Study().add(
        BLANK,
        PatientSex="female",
        PatientBirthDate="1957-12-24",
        StudyDate="2026.02.03",
        StudyTime="10:11",
        StudyID=None,
    )
    kept = study.kept(header)
    assert (kept.PatientSex, kept.PatientBirthDate, kept.StudyID) == ("", "", "")
    assert (kept.StudyDate, kept.StudyTime) == ("20260203", "1011")  # as it was written before 1993


@pytest.mark.filterwarnings("ignore:The value length")
def test_an_id_that_is_too_long_is_not_cut_to_somebody_else_s():
    header = Study().add(BLANK, PatientID="4711" * 20)
    assert study.kept(header).PatientID == "4711" * 20


def test_an_optional_attribute_that_is_absent_stays_absent():
    header = Study(patient={"PatientID": "1"}).add(BLANK)
    kept = study.kept(header)
    assert "IssuerOfPatientID" not in kept
    assert kept.PatientName == ""


@pytest.mark.parametrize("name", study.UIDS)
@pytest.mark.parametrize("value", [None, "", "1.2.x"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_without_its_uids_an_image_cannot_be_referred_to(name, value):
    header = Study().add(BLANK)
    if value is None:
        del header[name]
    else:
        setattr(header, name, value)
    assert study.kept(header) is None
    assert study.kept(Dataset()) is None

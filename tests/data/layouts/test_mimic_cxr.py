import gzip

import numpy as np
import pytest

from hilum.data import layouts
from hilum.data.layouts.mimic_cxr import PREFIX
from hilum.data.manifest import conform
from hilum.errors import SourceError, UsageError

# Published form of MIMIC-CXR-JPG 2.0.0; ids as in it, values made up.
METADATA = """dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,\
StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning
d1,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506,213014.531,CHEST (PA AND LAT),postero-anterior,Erect
d2,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506,213114.531,CHEST (PA AND LAT),lateral,Erect
d3,10000032,53189527,CHEST (PORTABLE AP),AP,3056,2544,21800626,133.0,CHEST (PORTABLE AP),antero-posterior,
d4,10000764,57375967,CHEST,LL,3056,2544,21321015,83605.672,CHEST,left lateral,Erect
d5,10000898,50771383,CHEST,AP AXIAL,3056,2544,21880803,90000.0,CHEST,,Erect
"""
SPLIT = """dicom_id,study_id,subject_id,split
d5,50771383,10000898,test
d4,57375967,10000764,validate
d3,53189527,10000032,train
d2,50414267,10000032,train
d1,50414267,10000032,train
"""
LABELS = """subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,\
Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices
10000764,57375967,,,1.0,,,,,,,,,-1.0,,
10000032,53189527,,,,,,,,,1.0,,,,,
10000032,50414267,,,,,,,,,,,,0.0,,1.0
"""
PATIENTS = """subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
10000032,F,52,2180,2014 - 2016,
10000764,M,86,2130,2014 - 2016,
"""
ADMISSIONS = """subject_id,hadm_id,admittime,race
10000032,1,2180-05-06 22:23:00,UNKNOWN
10000032,2,2180-06-26 18:27:00,WHITE
10000032,3,2180-08-05 23:44:00,white
10000032,4,2180-09-05 23:44:00,ASIAN
"""
LABEVENTS = """labevent_id,subject_id,hadm_id,specimen_id,itemid,charttime,storetime,value,valuenum,valueuom
1,10000032,,9,51221,2180-05-05 10:00:00,,36,36,%
2,10000032,,9,51221,2180-05-06 21:30:15,,99,40,%
"""


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def source(tmp_path, draw):
    source = tmp_path / "cxr"
    for name, text in (("metadata", METADATA), ("split", SPLIT), ("chexpert", LABELS), ("negbio", LABELS)):
        put(source / f"{PREFIX}{name}.csv.gz", text)
    for line in METADATA.splitlines()[1:]:
        dicom, subject, study = line.split(",")[:3]
        draw(source / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg")
    return source


@pytest.fixture
def mimic_iv(tmp_path):
    folder = tmp_path / "iv"
    put(folder / "hosp" / "patients.csv.gz", PATIENTS)
    put(folder / "hosp" / "admissions.csv.gz", ADMISSIONS)
    put(folder / "hosp" / "labevents.csv.gz", LABEVENTS)
    return folder


def manifest_of(source, **options):
    cohort = layouts.read("mimic_cxr", source, {name: str(value) for name, value in options.items()})
    manifest = conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes)
    return manifest.set_index("image_id"), cohort


def test_joins_by_id(source):
    manifest, cohort = manifest_of(source)
    assert list(manifest.index) == ["d1", "d2", "d3", "d4", "d5"]
    assert list(manifest["split"]) == ["train", "train", "train", "val", "test"]
    assert manifest["view"].fillna("?").tolist() == ["PA", "LATERAL", "AP", "LATERAL", "?"]
    np.testing.assert_array_equal(manifest["pneumonia"], [0, 0, np.nan, -1, np.nan])
    np.testing.assert_array_equal(manifest["support_devices"], [1, 1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(manifest["no_finding"], [np.nan, np.nan, 1, np.nan, np.nan])
    np.testing.assert_array_equal(manifest["study_order"], [0, 0, 1, 0, 0])
    # From 2180-05-06 21:30:14 to 2180-06-26 00:01:33.
    whole_days, share = 51 - 1, (2 * 3600 + 31 * 60 + 19) / 86400
    np.testing.assert_allclose(manifest["days"], [0, 0, whole_days + share, 0, 0])
    assert manifest["age_years"].isna().all()
    assert cohort.covariates == ()
    assert cohort.load(cohort.rows["locator"].iloc[3]).shape == (6, 5)


def test_people_and_covariates(source, mimic_iv):
    manifest, cohort = manifest_of(source, mimic_iv=mimic_iv)
    np.testing.assert_array_equal(manifest["age_years"], [52, 52, 52, 88, np.nan])
    assert manifest["sex"].fillna("?").tolist() == ["F", "F", "F", "M", "?"]
    assert manifest["race"].fillna("?").tolist() == ["WHITE", "WHITE", "WHITE", "?", "?"]
    assert cohort.covariates == ("hematocrit_pct",)  # what was measured in nobody is no column
    # One second after the study's first film: not before the study, so it does not count, also for its later film.
    np.testing.assert_array_equal(manifest["hematocrit_pct"], [36, 36, np.nan, np.nan, np.nan])
    assert "icu/chartevents" in cohort.caution


def test_part_of_the_images_and_the_other_labeller(source):
    (source / "files" / "p10" / "p10000764" / "s57375967" / "d4.jpg").unlink()
    manifest, cohort = manifest_of(source, labeller="negbio")
    assert "d4" not in manifest.index
    assert "1 of the 5 images" in cohort.caution
    assert "(negbio)" in cohort.caution


def test_refuses(source, mimic_iv, tmp_path):
    with pytest.raises(UsageError, match="one of chexpert, negbio"):
        manifest_of(source, labeller="mine")
    with pytest.raises(UsageError, match="mimic_iv names a folder"):
        manifest_of(source, mimic_iv=tmp_path / "none")
    with pytest.raises(UsageError, match="mimic_iv_ed names a folder"):
        manifest_of(source, mimic_iv_ed=tmp_path / "none")
    (mimic_iv / "hosp" / "labevents.csv.gz").unlink()
    with pytest.raises(SourceError, match=r"no hosp/labevents\.csv\.gz or icu/chartevents"):
        manifest_of(source, mimic_iv=mimic_iv)
    (mimic_iv / "hosp" / "patients.csv.gz").unlink()
    with pytest.raises(SourceError, match=r"no hosp/patients\.csv\.gz; it comes with MIMIC-IV"):
        manifest_of(source, mimic_iv=mimic_iv)
    put(source / f"{PREFIX}chexpert.csv.gz", LABELS + LABELS.splitlines()[1] + "\n")
    with pytest.raises(SourceError, match="repeats a subject_id and study_id"):
        manifest_of(source)
    (source / f"{PREFIX}split.csv.gz").write_bytes(gzip.compress(SPLIT.encode())[:40])
    with pytest.raises(SourceError, match="cannot be read as a table"):
        manifest_of(source)
    (source / f"{PREFIX}split.csv.gz").unlink()
    with pytest.raises(SourceError, match=r"split\.csv\.gz or .*it comes with MIMIC-CXR-JPG"):
        manifest_of(source)

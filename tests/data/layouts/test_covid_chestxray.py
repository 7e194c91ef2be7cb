import numpy as np
import pandas as pd
import pytest

from hilum.data import layouts
from hilum.data.layouts.covid_chestxray import labels_of
from hilum.data.manifest import conform
from hilum.errors import SourceError

HEADER = (
    "patientid,offset,sex,age,finding,RT_PCR_positive,survival,intubated,intubation_present,went_icu,in_icu,"
    "needed_supplemental_O2,extubated,temperature,pO2_saturation,leukocyte_count,neutrophil_count,lymphocyte_count,"
    "view,modality,date,location,folder,filename,doi,url,license,clinical_notes,other_notes,"
)
ROWS = (
    'p,-3,M,65,Pneumonia/Viral/COVID-19,Y,Y,N,N,N,N,Y,,39.0,98,6.1,,,PA,X-ray,2020,"Ward, Hanoi, Vietnam",images,'
    "a.jpg,,,CC BY,,,",
    'p,4,M,65,Pneumonia/Viral/COVID-19,Y,Y,N,N,N,N,Y,,102.2,340,6100,,,AP Supine,X-ray,2020,"Hanoi, Vietnam",images,'
    "b.jpg,,,CC BY,,,",
    "q,,F,,No Finding,Unclear,,,,,,,,,,,,,L,X-ray,2020,,images,c.jpg,,,,,,",
    "r,0,,,todo,,,,,,,,,,,,,,AP Erect,X-ray,2020,Spain,images,d.jpg,,,,,,",
    "s,0,F,30,Pneumonia,,,,,,,,,,,,,,AP,X-ray,2020,Spain,images,a.jpg,,,,,,",
    "s,0,F,30,Pneumonia,,,,,,,,,,,,,,AP,X-ray,2020,Spain,images,e.jpg,,,,,,",
    "t,0,F,30,Tuberculosis,,,,,,,,,,,,,,Axial,CT,2020,Spain,volumes,f.nii.gz,,,,,,",
)


@pytest.fixture
def source(tmp_path, draw):
    text = "\n".join((HEADER, *ROWS)) + "\n"
    (tmp_path / "metadata.csv").write_bytes(text.encode().replace(b"Hanoi", b"H\xe0 N\xf4i"))  # Latin-1, not UTF-8
    for shade, name in enumerate("abcde"):
        draw(tmp_path / "images" / f"{name}.jpg", shade=40 * shade)
    return tmp_path


def test_reads_the_published_form(source):
    cohort = layouts.read("covid_chestxray", source)
    manifest = conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes).set_index("image_id")
    assert list(manifest.index) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]  # CT is out, a.jpg is there once
    # Patient s shares an image with patient p, so the two are one person.
    assert list(manifest["patient_id"]) == ["p", "p", "q", "r", "p"]
    assert list(manifest["view"]) == ["PA", "AP", "LATERAL", "AP", "AP"]
    np.testing.assert_array_equal(manifest["days"], [0, 7, np.nan, 0, 3])
    np.testing.assert_array_equal(manifest["study_order"], [0, 2, np.nan, 0, 1])
    assert manifest["site"].fillna("?").tolist() == ["Vietnam", "Vietnam", "?", "Spain", "Spain"]
    np.testing.assert_array_equal(manifest["temperature_celsius"], [39, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(manifest["o2_saturation_pct"], [98, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(manifest["leukocytes_1e9_per_l"], [6.1, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(manifest["survived"], [1, 1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(manifest["covid_19"], [1, 1, 0, np.nan, np.nan])
    np.testing.assert_array_equal(manifest["days_since_onset"], [-3, 4, np.nan, 0, 0])
    assert "1 rows that repeat" in cohort.caution
    assert cohort.load(cohort.rows["locator"].iloc[4])[0, 0] == 160


U = np.nan


@pytest.mark.parametrize(
    ("finding", "expected"),  # no_finding, pneumonia, viral, bacterial, fungal, covid_19, ards
    [
        ("Pneumonia/Viral/COVID-19", (0, 1, 1, 0, 0, 1, U)),
        ("COVID-19, ARDS", (0, 1, 1, 0, 0, 1, 1)),
        ("Pneumonia/Viral", (0, 1, 1, 0, 0, U, U)),
        ("Pneumonia/Viral/SARS", (0, 1, 1, 0, 0, 0, U)),
        ("SARS", (0, 1, 1, 0, 0, 0, U)),
        ("Pneumonia/Bacterial/Staphylococcus/MRSA", (0, 1, 0, 1, 0, 0, U)),
        ("Mycoplasma Bacterial Pneumonia", (0, 1, 0, 1, 0, 0, U)),
        ("Pneumonia/Fungal/Pneumocystis", (0, 1, 0, 0, 1, 0, U)),
        ("Lipoid", (0, 1, 0, 0, 0, 0, U)),
        ("Pneumonia", (0, 1, U, U, U, U, U)),
        ("ARDS", (0, U, U, U, U, U, 1)),
        ("Tuberculosis", (0, U, U, U, U, U, U)),
        ("No Finding", (1, 0, 0, 0, 0, 0, 0)),
        ("todo", (U,) * 7),
        ("Unknown", (U,) * 7),
        (np.nan, (U,) * 7),
    ],
)
def test_labels_of_a_finding(finding, expected):
    np.testing.assert_array_equal(list(labels_of(finding).values()), expected)


def test_refuses_another_table(source):
    (source / "metadata.csv").write_text("patientid,finding\n1,COVID-19\n", encoding="utf-8")
    with pytest.raises(SourceError, match="lacks the columns offset, sex"):
        layouts.read("covid_chestxray", source)


def test_real_films(real_data):
    source = real_data("covid-chestxray-dataset")
    cohort = layouts.read("covid_chestxray", source)
    manifest = conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes)
    table = pd.read_csv(source / "metadata.csv", encoding_errors="replace")
    assert len(table) == 575
    assert len(manifest) == table["filename"].nunique() == 570  # five rows name the image of another row
    assert manifest["patient_id"].nunique() == table["patientid"].nunique() - 3  # 285 = 339, 287 = 340, 78 = 201
    assert "201" not in set(manifest["patient_id"])
    assert manifest["no_finding"].sum() == 19
    assert manifest["view"].notna().all()
    named = table.drop_duplicates("filename")["finding"]
    assert manifest["covid_19"].eq(1).sum() == named.str.contains("COVID-19").sum() == 451
    assert cohort.load(cohort.rows["locator"].iloc[0]).max() > 200

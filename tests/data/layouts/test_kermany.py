import numpy as np
import pytest

from hilum.data import layouts
from hilum.data.manifest import conform
from hilum.errors import SourceError


def manifest_of(source):
    cohort = layouts.read("kermany", source)
    return conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes), cohort


def test_patients_and_labels_from_names(tmp_path, draw):
    names = {
        "NORMAL/IM-0115-0001.jpeg": ("im-0115", 1, 0, 0, 0),
        "NORMAL/IM-0429-0001-0002.jpeg": ("im-0429", 1, 0, 0, 0),
        "NORMAL/NORMAL2-IM-0429-0001.jpeg": ("normal2-im-0429", 1, 0, 0, 0),
        "NORMAL/NORMAL-28501-0001.jpeg": ("28501", 1, 0, 0, 0),
        "PNEUMONIA/person1_bacteria_2.jpeg": ("person1", 0, 1, 1, 0),
        "PNEUMONIA/person1_virus_6.jpeg": ("person1", 0, 1, 0, 1),
        "PNEUMONIA/VIRUS-1980593-0001.jpeg": ("1980593", 0, 1, 0, 1),
    }
    for name in names:
        draw(tmp_path / "chest_xray" / "train" / name)
    (tmp_path / "chest_xray" / "train" / "NORMAL" / ".DS_Store").write_bytes(b"")  # the archive has such
    manifest, cohort = manifest_of(tmp_path)
    given = manifest.assign(name=cohort.rows["locator"].str.removeprefix("chest_xray/train/")).set_index("name")
    for name, (patient, *labels) in names.items():
        row = given.loc[name]
        assert row["patient_id"] == patient
        assert [row[label] for label in cohort.labels] == labels
    assert manifest["split"].isna().all()
    assert manifest["view"].eq("AP").all()
    assert manifest["age_years"].isna().all()
    assert cohort.load(cohort.rows["locator"].iloc[0]).shape == (6, 5)


def test_patient_rule_wins_over_the_published_split(tmp_path, draw):
    for number in range(40):
        draw(tmp_path / "train" / "PNEUMONIA" / f"person{number}_bacteria_{number}.jpeg")
    draw(tmp_path / "val" / "NORMAL" / "NORMAL2-IM-1427-0001.jpeg")
    draw(tmp_path / "test" / "PNEUMONIA" / "person1_virus_6.jpeg")
    draw(tmp_path / "test" / "NORMAL" / "IM-0001-0001.jpeg")
    manifest, _ = manifest_of(tmp_path)  # the folder chest_xray itself
    assert (manifest.groupby("patient_id")["split"].nunique() == 1).all()
    assert set(manifest.loc[manifest["split"] == "test", "patient_id"]) == {"person1", "im-0001"}
    assert set(manifest["split"]) == {"train", "val", "test"}


def test_refuses_names_without_patients_and_empty_folders(tmp_path, draw):
    with pytest.raises(SourceError, match="no JPEG in chest_xray/train/NORMAL"):
        layouts.read("kermany", tmp_path)
    draw(tmp_path / "train" / "NORMAL" / "holiday.jpeg")
    with pytest.raises(SourceError, match="no patient id in its name"):
        layouts.read("kermany", tmp_path)


def test_real_films(real_data):
    manifest, cohort = manifest_of(real_data("kermany-chest-xray"))
    assert len(manifest) == 720
    assert manifest["patient_id"].nunique() == 578
    assert manifest[list(cohort.labels)].sum().to_dict() == {
        "no_finding": 240, "pneumonia": 480, "bacterial_pneumonia": 240, "viral_pneumonia": 240,
    }  # fmt: skip
    assert np.ptp(cohort.load(cohort.rows["locator"].iloc[-1])) > 100

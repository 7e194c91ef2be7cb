"""Training cases: who is chosen, under which names, and who can look them up."""

import numpy as np
import pandas as pd
import pytest
import releasing
from click.testing import CliRunner

from hilum.cli import cli
from hilum.data.store import Dataset
from hilum.delivery.answering import neighbours
from hilum.delivery.predictor import Release
from hilum.delivery.releasing import cases
from hilum.errors import DatasetError, UsageError


@pytest.fixture(scope="module")
def data(base):
    return Dataset.open(releasing.phantom_dataset(base))


def test_cases_are_training_images_of_the_modality_in_an_order_that_tells_nothing(data):
    rows = cases.chosen(data, "XR")
    chosen = data.manifest.iloc[rows]
    assert set(chosen["split"]) == {"train"}
    assert set(chosen["modality"]) == {"XR"}
    assert sorted(rows) == sorted(data.rows("XR", ("train",)))
    assert np.array_equal(rows, cases.chosen(data, "XR"))
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.3


def test_of_many_images_whole_patients_are_taken(data, monkeypatch):
    monkeypatch.setattr(neighbours, "MAX_CASES", 50)
    rows = cases.chosen(data, "XR")
    assert len(rows) == 50
    taken = data.manifest.iloc[rows]["patient_id"].value_counts()
    all_of_them = data.manifest.iloc[data.rows("XR", ("train",))]["patient_id"].value_counts()
    assert (taken != all_of_them[taken.index]).sum() <= 1  # the last one may be cut


def test_few_images_are_no_cases(data, monkeypatch):
    monkeypatch.setattr(neighbours, "MIN_CASES", 10_000)
    assert len(cases.chosen(data, "XR")) == 0


def test_the_embedding_of_a_case_is_that_of_its_image(data, base, xr_release):
    """The bank, the numbers and the look-up belong together: image by image."""
    from hilum.delivery.predictor import Predictor

    release = Release.open(xr_release)
    found = cases.look_up(xr_release, releasing.phantom_dataset(base))
    place = pd.Series(range(len(data.manifest)), index=data.manifest["image_id"])
    rows = place[found["image_id"]].to_numpy()[:20]
    z_ND = Predictor(release).run(np.ascontiguousarray(data.images[rows])).z_BD
    assert np.allclose(release.cases.z_MD[:20], z_ND, atol=1e-5)
    label = data.labels()["pneumonia"].to_numpy(dtype=float)[rows]
    assert np.array_equal(release.cases.label_M[:20], label.astype(np.float32), equal_nan=True)


def test_who_has_the_data_can_look_a_case_up(base, xr_release):
    dataset = releasing.phantom_dataset(base)
    whole = cases.look_up(xr_release, dataset)
    asked = CliRunner().invoke(cli, ["cases", str(xr_release), str(dataset), whole["case"][3]])
    assert asked.exit_code == 0
    assert asked.output.splitlines() == ["case,image_id,patient_id", ",".join(whole.iloc[3])]
    with pytest.raises(UsageError, match="has no case 'xr-999999'"):
        cases.look_up(xr_release, dataset, ("xr-999999",))


def test_another_dataset_is_refused(xr_release, tiny_dataset):
    with pytest.raises(DatasetError, match="another dataset"):
        cases.look_up(xr_release, tiny_dataset)


def test_no_image_and_no_patient_is_named_in_a_release(data, xr_release):
    names = {str(name).encode() for column in ("image_id", "patient_id") for name in data.manifest[column]}
    for path in xr_release.rglob("*"):
        if path.is_file() and path.suffix != ".mar":
            content = path.read_bytes()
            assert not [name for name in names if len(name) > 3 and name in content], path.name
    assert [path.name for path in xr_release.parent.iterdir() if "cases" in path.name] == []

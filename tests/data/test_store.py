"""The dataset folder: opened whole, or refused with what is missing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from making import make_dataset

from hilum.data import store
from hilum.data.store import FACTS, IMAGES, MANIFEST, Dataset, write_json
from hilum.errors import DatasetError


@pytest.fixture
def copied(tiny_dataset: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    return tmp_path / "dataset"


def test_a_dataset_opens_with_images_in_manifest_order(tiny_dataset: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    assert dataset.images.shape == (len(dataset.manifest), 32, 32)
    assert isinstance(dataset.images, np.memmap)
    assert not dataset.images.flags.writeable
    np.testing.assert_allclose(dataset.images.mean(axis=(1, 2)), dataset.manifest["pixel_mean"], rtol=1e-6)


def test_rows_are_restricted_by_modality_and_split(tiny_dataset: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    assert dataset.rows().tolist() == list(range(len(dataset.manifest)))
    assert len(dataset.rows("MR")) == 0
    parts = [dataset.rows("XR", [split]) for split in ("train", "val", "test")]
    assert sorted(np.concatenate(parts)) == dataset.rows("XR").tolist()
    assert set(dataset.manifest["split"].iloc[dataset.rows(splits=["val", "test"])]) == {"val", "test"}
    assert dataset.modalities == ["XR"]


def test_uncertain_labels_are_unknown_unless_a_policy_says_otherwise(copied: Path) -> None:
    dataset = Dataset.open(copied)
    dataset.manifest.loc[0, "pneumonia"] = -1.0
    assert np.isnan(dataset.labels()["pneumonia"][0])
    assert dataset.labels({"pneumonia": "ones"})["pneumonia"][0] == 1.0
    assert list(dataset.labels()) == ["pneumonia", "no_finding"]


@pytest.mark.parametrize("name", [FACTS, MANIFEST, IMAGES])
def test_a_folder_that_lacks_a_file_is_no_dataset(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(DatasetError, match=f"has no {name}; `hilum ingest` writes one"):
        Dataset.open(copied)


def test_facts_that_are_none_are_refused(copied: Path) -> None:
    (copied / FACTS).write_text("{", encoding="utf-8")
    with pytest.raises(DatasetError, match="not the facts of a dataset"):
        Dataset.open(copied)
    shutil.rmtree(copied)
    make_dataset(copied, n_patients=5)
    facts = json.loads((copied / FACTS).read_text(encoding="utf-8"))
    write_json(copied / FACTS, {**facts, "surprise": 1})
    with pytest.raises(DatasetError, match="surprise"):
        Dataset.open(copied)


def test_files_that_do_not_fit_each_other_are_refused(copied: Path) -> None:
    np.save(copied / IMAGES, np.load(copied / IMAGES)[:-1])
    with pytest.raises(DatasetError, match=r"says 120 images.*120 rows.*holds 119"):
        Dataset.open(copied)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"name": "é", "n": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "é", "n": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"n": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["n"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["facts.json"]


def test_results_are_copied_beside_what_lies_there_and_over_their_namesakes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "new").write_text("new")
    (source / "page").write_text("new")
    (target / "folder").mkdir(parents=True)
    (target / "folder" / "old").write_text("old")
    (target / "kept").write_text("kept")
    store.copy_into(source, target)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
        "folder",
        "folder/new",
        "kept",
        "page",
    ]


def test_json_that_is_not_there_or_broken_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name in ("none.json", "broken.json"):
        with pytest.raises(DatasetError, match=name):
            store.read_json(tmp_path / name)

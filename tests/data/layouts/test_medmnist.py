import pickle

import numpy as np
import pytest

from hilum.data import layouts
from hilum.data.manifest import conform
from hilum.data.vocabulary import NIH_FINDINGS
from hilum.errors import ImageError, SourceError, UsageError

COUNTS = {"train": 7, "val": 3, "test": 4}


def archive(path, n_labels=1, classes=2, shape=(28, 28), save=np.savez_compressed, **changes):
    random = np.random.default_rng(0)
    arrays = {}
    for split, n in COUNTS.items():
        arrays[f"{split}_images"] = random.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = random.integers(0, classes, (n, n_labels), dtype=np.uint8)
    arrays |= changes
    save(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def manifest_of(source, **options):
    cohort = layouts.read("medmnist", source, options)
    return conform(cohort.rows, cohort.labels, cohort.covariates), cohort


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pneumonia_with_the_published_splits(tmp_path, save):
    arrays = archive(tmp_path / "pneumoniamnist.npz", save=save)
    manifest, cohort = manifest_of(tmp_path)
    assert manifest["split"].value_counts().to_dict() == COUNTS
    expected = np.concatenate([arrays[f"{split}_labels"][:, 0] for split in COUNTS])
    np.testing.assert_array_equal(manifest["pneumonia"], expected)
    np.testing.assert_array_equal(manifest["no_finding"], 1 - expected)
    assert manifest["patient_id"].equals(manifest["image_id"])
    assert "no patient ids" in cohort.caution
    images = np.concatenate([arrays[f"{split}_images"] for split in COUNTS])
    load = pickle.loads(pickle.dumps(cohort.load))  # as worker processes get it
    for number in (0, 6, 3, 13, 8, 7, 12):  # forwards and backwards in each stream
        np.testing.assert_array_equal(load(cohort.rows["locator"].iloc[number]), images[number])


def test_chest_findings(tmp_path):
    labels = np.zeros((COUNTS["train"], 14), np.uint8)
    labels[0, 2] = labels[0, 13] = 1
    archive(tmp_path / "chestmnist_64.npz", n_labels=14, shape=(64, 64), train_labels=labels)
    archive(tmp_path / "pneumoniamnist.npz")
    manifest, cohort = manifest_of(tmp_path, flag="chestmnist_64")
    assert set(cohort.labels) == {*NIH_FINDINGS.values(), "no_finding"}
    first, second = manifest.iloc[0], manifest.iloc[1]
    assert first[list(cohort.labels)].loc[lambda row: row == 1].index.tolist() == ["pleural_effusion", "hernia"]
    assert second["no_finding"] == 1
    assert cohort.load(cohort.rows["locator"].iloc[0]).shape == (64, 64)
    with pytest.raises(SourceError, match=r"but has chestmnist_64\.npz, pneumoniamnist\.npz"):
        layouts.read("medmnist", tmp_path)


def test_an_archive_of_another_name(tmp_path):
    arrays = archive(tmp_path / "wards.npz", classes=3)
    manifest, cohort = manifest_of(tmp_path)
    assert cohort.labels == ("label_0", "label_1", "label_2")
    numbers = np.concatenate([arrays[f"{split}_labels"][:, 0] for split in COUNTS])
    np.testing.assert_array_equal(manifest[list(cohort.labels)].to_numpy().argmax(1), numbers)
    assert (manifest[list(cohort.labels)].sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("name", "changes", "error", "says"),
    [
        ("pathmnist.npz", {}, UsageError, "pathmnist is histology"),
        ("organamnist_64.npz", {}, UsageError, "organamnist is CT"),
        ("pneumoniamnist.npz", {"val_labels": None}, SourceError, "no array val_labels"),
        ("pneumoniamnist.npz", {"val_labels": np.zeros((9, 1), np.uint8)}, SourceError, "3 val images but 9 labels"),
        (
            "wards.npz",
            {"test_images": np.zeros((4, 28, 28, 3), np.uint8)},
            SourceError,
            r"so uint8 of shape \(N, H, W\)",
        ),
        ("wards.npz", {"test_images": np.zeros((4, 28, 28))}, SourceError, "images are float64"),
    ],
)
def test_refuses(tmp_path, name, changes, error, says):
    archive(tmp_path / name, **changes)
    with pytest.raises(error, match=says):
        layouts.read("medmnist", tmp_path)


def test_refuses_no_archive_and_a_damaged_one(tmp_path):
    with pytest.raises(SourceError, match="but has none"):
        layouts.read("medmnist", tmp_path)
    with pytest.raises(SourceError, match=r"no chestmnist\.npz; it comes from Zenodo"):
        layouts.read("medmnist", tmp_path, {"flag": "chestmnist"})
    (tmp_path / "chestmnist.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(SourceError, match="cannot be read as an"):
        layouts.read("medmnist", tmp_path)


def test_an_image_that_is_not_there(tmp_path):
    archive(tmp_path / "pneumoniamnist.npz")
    _, cohort = manifest_of(tmp_path)
    with pytest.raises(ImageError, match="ends before"):
        cohort.load("pneumoniamnist.npz#val/3")

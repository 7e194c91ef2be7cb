"""Which images training sees: train rows of one modality, each once an epoch, and never a patient of another split."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from making import make_dataset

from hilum.data.store import MANIFEST, Dataset
from hilum.errors import TrainingError
from hilum.learning.engine.batches import TrainImages, blocks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> TrainImages:
    return TrainImages(Dataset.open(tiny_dataset), "XR", CPU)


def test_an_epoch_sees_each_train_image_once_in_batches_of_nearly_one_size(
    images: TrainImages, tiny_dataset: Path
) -> None:
    manifest = Dataset.open(tiny_dataset).manifest
    batches = images.epoch(0, seed=0, batch_size=16)
    rows = np.concatenate([images.batch(numbers).rows_G for numbers in batches])
    assert sorted(rows) == list(np.flatnonzero(manifest["split"] == "train"))
    sizes = [len(numbers) for numbers in batches]
    assert max(sizes) <= 16
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == images.batches_per_epoch(16)


def test_the_order_follows_from_seed_and_epoch_alone(images: TrainImages) -> None:
    def order(epoch: int, seed: int) -> list[int]:
        return torch.cat(images.epoch(epoch, seed, 16)).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(0, 1)


def test_a_batch_holds_the_images_and_patients_of_its_rows(images: TrainImages, tiny_dataset: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    batch = images.batch(torch.tensor([5, 0, 9, 1]))
    rows = batch.rows_G
    assert batch.x_BCHW.dtype == torch.float32
    np.testing.assert_allclose(batch.x_BCHW[:, 0].numpy(), dataset.images[rows] / 255.0, rtol=1e-6)
    assert batch.patients_B.dtype == torch.int64
    names = dataset.manifest["patient_id"].to_numpy()[rows]
    same = batch.patients_B[:, None] == batch.patients_B[None]
    assert (same.numpy() == (names[:, None] == names[None])).all()
    assert same.sum() > 4  # image 0 and image 1 are of one patient


def test_a_modality_without_train_rows_is_refused(tiny_dataset: Path) -> None:
    with pytest.raises(TrainingError, match=r"no MR images in its train split; it has .*72 XR in train"):
        TrainImages(Dataset.open(tiny_dataset), "MR", CPU)


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "dataset", n_patients=10)
    manifest = pd.read_parquet(folder / MANIFEST)
    first = int(np.flatnonzero(manifest["split"] == "train")[0])
    manifest.loc[first, "split"] = "test"
    manifest.to_parquet(folder / MANIFEST, index=False)
    with pytest.raises(TrainingError, match="1 patients of the train split are also in val or test"):
        TrainImages(Dataset.open(folder), "XR", CPU)


def test_one_patient_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="of one patient only"):
        TrainImages(Dataset.open(make_dataset(tmp_path / "dataset", n_patients=1)), "XR", CPU)


def test_samples_are_without_repeats_and_blocks_cover_all(images: TrainImages) -> None:
    assert len(set(images.sample(30, 0))) == 30
    assert list(images.sample(10_000, 0)) == list(range(len(images)))
    assert [i for part in blocks(10, 4) for i in range(10)[part]] == list(range(10))

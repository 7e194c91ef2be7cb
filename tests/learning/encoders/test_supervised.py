"""`supervised`: its loss against a loop, its weights by hand, its refusals, and that it learns the label."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from making import make_dataset
from small_encoders import SIZE

from hilum.data.store import MANIFEST, Dataset
from hilum.errors import TrainingError
from hilum.learning import embedding, encoders, training
from hilum.learning.encoders.supervised import (
    LARGEST_WEIGHT,
    SupervisedEncoder,
    known_cross_entropy,
    positive_weights,
)
from hilum.learning.engine.batches import TrainImages
from hilum.learning.engine.draws import Draws
from hilum.recipe import Augment, Backbone, Optimizer, Supervised, Train

UNKNOWN = math.nan
MILD = Augment(crop_area=(0.9, 1.0), rotate_degrees=3, brightness=0.05, contrast=0.1, gamma=0.1, noise=0.01, blur=0)


def opened(folder: Path) -> TrainImages:
    return TrainImages(Dataset.open(folder), "XR", torch.device("cpu"))


def fitted(images: TrainImages, **section: object) -> SupervisedEncoder:
    encoder = encoders.build(Supervised.model_validate({"backbone": Backbone(width=8), **section}), SIZE)
    assert isinstance(encoder, SupervisedEncoder)
    encoder.fit(images, seed=0)
    return encoder


def test_the_loss_is_that_of_a_loop() -> None:
    random = np.random.default_rng(0)
    logits, weights, shares = random.normal(size=(6, 3)) * 3, [2.0, 1.0, 7.5], [0.9, 0.5, 1.0]
    labels = random.integers(0, 2, size=(6, 3)).astype(float)
    labels[[0, 0, 3], [1, 2, 0]] = UNKNOWN
    total = 0.0
    for b in range(6):
        for label in range(3):
            if not math.isnan(labels[b, label]):
                p = 1 / (1 + math.exp(-logits[b, label]))
                y, w = labels[b, label], weights[label]
                total -= (w * y * math.log(p) + (1 - y) * math.log(1 - p)) / shares[label]
    loss = known_cross_entropy(*map(torch.tensor, (logits, labels.astype(np.float32), weights, shares)))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(total / 18, rel=1e-5)


def test_unknown_labels_give_no_loss_and_no_gradient() -> None:
    logits = torch.tensor([[50.0, -1.0], [2.0, 1.0]], requires_grad=True)
    labels = torch.tensor([[UNKNOWN, 0.0], [UNKNOWN, UNKNOWN]])
    known_cross_entropy(logits, labels, torch.ones(2), torch.ones(2)).backward()
    assert (logits.grad != 0).tolist() == [[False, True], [False, False]]
    assert float(known_cross_entropy(logits.detach(), torch.full((2, 2), UNKNOWN), torch.ones(2), torch.ones(2))) == 0


def test_parts_of_a_batch_weigh_as_the_whole() -> None:
    """So that workers may share a batch: the mean of the parts, by their sizes, is the loss of the whole."""
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 2, generator=random), torch.randint(2, (7, 2), generator=random).float()
    labels[:3] = UNKNOWN
    weights = (torch.tensor([3.0, 1.0]), torch.tensor([0.5, 0.7]))
    parts = [known_cross_entropy(logits[s], labels[s], *weights) * len(logits[s]) / 7 for s in (slice(4), slice(4, 7))]
    torch.testing.assert_close(sum(parts), known_cross_entropy(logits, labels, *weights))


def test_positives_weigh_as_many_negatives_as_there_are_to_each_up_to_a_limit() -> None:
    labels = torch.full((200, 3), 0.0)
    labels[:50, 0] = 1  # 50 : 150
    labels[:150, 1] = 1  # 150 : 50, and
    labels[150:190, 1] = UNKNOWN  # only 10 known negatives
    labels[:1, 2] = 1  # 1 : 199
    weights = positive_weights(labels, ("a", "b", "c"))
    torch.testing.assert_close(weights, torch.tensor([3.0, 10 / 150, LARGEST_WEIGHT]))


@pytest.mark.parametrize(
    ("value", "told"), [(0.0, "0 images with rare and 4 without"), (1.0, "4 images with rare and 0")]
)
def test_a_label_of_one_kind_only_is_refused(value: float, told: str) -> None:
    labels = torch.tensor([[1.0, value]] * 4 + [[0.0, UNKNOWN]])
    with pytest.raises(TrainingError, match=told):
        positive_weights(labels, ("common", "rare"))


def test_only_train_labels_are_counted_and_the_knob_switches_weights_off(tiny_dataset: Path) -> None:
    images = opened(tiny_dataset)
    table = Dataset.open(tiny_dataset).manifest.query("split == 'train'")
    labels = table["pneumonia"]
    encoder = fitted(images)
    assert encoder.labels == ("pneumonia",)
    assert float(encoder.positive_weight_L) == pytest.approx((labels == 0).sum() / (labels == 1).sum())
    assert float(encoder.share_known_L) == pytest.approx(labels.notna().mean())
    assert 0 < float(encoder.share_known_L) < 1
    assert float(fitted(images, imbalance="none").positive_weight_L) == 1


def test_a_label_that_the_dataset_lacks_is_refused(tiny_dataset: Path) -> None:
    with pytest.raises(TrainingError, match="the dataset has no label gout; it has pneumonia, no_finding"):
        fitted(opened(tiny_dataset), labels=("gout",))


def test_a_train_split_without_a_positive_is_refused(tmp_path: Path) -> None:
    import pandas as pd

    folder = make_dataset(tmp_path / "dataset", n_patients=10)
    table = pd.read_parquet(folder / MANIFEST)
    table.loc[table["split"] == "train", "pneumonia"] = 0.0
    table.to_parquet(folder / MANIFEST, index=False)
    with pytest.raises(TrainingError, match=r"has 0 images with pneumonia and 12 without; `supervised` needs some of"):
        training.run(folder, Train(encoder=Supervised(backbone=Backbone(width=8))), tmp_path / "run")


def test_what_an_unlabelled_image_shows_moves_no_weight_but_by_batch_statistics(tiny_dataset: Path) -> None:
    images = opened(tiny_dataset)
    encoder = fitted(images, backbone=Backbone(width=8, norm="group")).train()
    images.attend(encoder.labels, None)
    batch = images.batch(torch.arange(len(images)))
    unknown = int(batch.labels_BL[:, 0].isnan().nonzero()[0])
    gradients = []
    for value in (0.0, 1.0):
        batch.x_BCHW[unknown] = value
        encoder.zero_grad()
        encoder.loss(batch, Draws(0, batch.n)).backward()
        gradients.append(encoder.classifier.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)
    assert gradients[0].abs().max() > 0


def test_the_classifier_is_not_kept_and_held_out_patients_are_told_apart(tiny_dataset: Path, tmp_path: Path) -> None:
    """Features of a short training separate the label on patients it never saw, along the line that train draws."""
    section = Supervised(backbone=Backbone(width=8), augment=MILD)
    recipe = Train(encoder=section, epochs=15, batch_size=16, optimizer=Optimizer(learning_rate=3e-3))
    out = training.run(tiny_dataset, recipe, tmp_path / "run")
    kept = torch.load(out / "weights.pt", weights_only=True)
    assert not any("classifier" in key or "weight_L" in key for key in kept)
    dataset = Dataset.open(tiny_dataset)
    z = embedding.embed(embedding.onnx_module(out), np.array(dataset.images), torch.device("cpu"))
    ill, split = dataset.manifest["pneumonia"].to_numpy(float), dataset.manifest["split"].to_numpy()
    train, held = (np.isin(split, names) & ~np.isnan(ill) for names in (["train"], ["val", "test"]))
    direction = z[train & (ill == 1)].mean(axis=0) - z[train & (ill == 0)].mean(axis=0)
    scores = z[held] @ direction
    positive, negative = scores[ill[held] == 1], scores[ill[held] == 0]
    auroc = (positive[:, None] > negative[None, :]).mean()
    assert auroc > 0.85

"""DisCeRn: what its weights are made of, what is refused, and that beta = 0 is MedAug and MoCo."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from making import make_dataset
from small_encoders import MILD, SIZE, SMALL, STILL

from hilum.data.store import MANIFEST, Dataset
from hilum.errors import TrainingError, UsageError
from hilum.learning import encoders
from hilum.learning.encoders.discern import DiseaseContrast
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.learning.momentum import MomentumContrast
from hilum.recipe import Backbone, Discern, MedAug, Moco, Section

CONTRAST = {"backbone": Backbone(width=8), "projection_dim": 16, "queue_size": 24, "augment": MILD}
NOTHING: dict[str, object] = {"target_labels": ()}


@pytest.fixture
def images(tiny_dataset: Path) -> TrainImages:
    return TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu"))


def discern(**changes: object) -> Discern:
    return Discern.model_validate({**CONTRAST, "weight_labels": ("no_finding", "pneumonia"), **NOTHING, **changes})


def made(section: Section, images: TrainImages) -> MomentumContrast:
    encoder = encoders.build(section, SIZE)
    encoder.fit(images, seed=0)
    images.attend(encoder.labels, encoder.pairing)
    assert isinstance(encoder, MomentumContrast)
    return encoder.train()


def trained(encoder: MomentumContrast, images: TrainImages, paired: bool = True) -> list[torch.Tensor]:
    """Losses, and the gradients of every parameter, of three steps; the queue is full by the third."""
    told: list[torch.Tensor] = []
    weights = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.03)
    for step in range(3):
        batch = images.batch(torch.arange(20 * step, 20 * step + 20), 0, step)
        if not paired:
            batch = Batch(**{**vars(batch), "partners_BCHW": None})
        optimizer.zero_grad()
        loss = encoder.loss(batch, Draws(step, 20))
        loss.backward()
        told += [loss.detach(), *(p.grad.clone() for p in weights if p.grad is not None)]
        optimizer.step()
        encoder.after_step()
    return told


@pytest.mark.parametrize("other", [MedAug, Moco])
def test_beta_0_is_medaug_and_without_partners_moco(other: type[Moco], images: TrainImages) -> None:
    """In loss and gradient, through augmentation, batch statistics, key encoder and queue."""
    paired = other is MedAug
    first = trained(made(discern(beta=0), images), images, paired)
    second = trained(made(other.model_validate(CONTRAST), images), images, paired)
    assert len(first) == len(second) > 30
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)
    weighted = trained(made(discern(beta=2), images), images, paired)
    assert abs(float(weighted[0] - first[0])) > 1e-3


@pytest.mark.parametrize("rule", [{"mode": "exp", "beta": 2.0}, {"mode": "mass", "hard_share": 0.8}], ids=str)
def test_the_loss_of_the_second_step_is_a_loop_over_queue_and_batch(rule: dict, images: TrainImages) -> None:
    """Positives are partners, negatives weigh by labels that came with them through the queue."""
    section = discern(backbone=Backbone(width=8, norm="group"), augment=STILL, **rule)
    encoder = made(section, images)
    batches = [images.batch(torch.arange(12), 0, 0), images.batch(torch.arange(30, 42), 0, 1)]
    with torch.no_grad():
        encoder.loss(batches[0], Draws(0, 12))
        encoder.after_step()
        k = [unit(encoder.key(batch.partners_BCHW)) for batch in batches]
        k[0] = encoder.queue.keys_KD[:12].double()
        q = unit(encoder.projection(encoder.embedder(batches[1].x_BCHW)))
        loss = encoder.loss(batches[1], Draws(1, 12))
    keys, patients = torch.cat(k), torch.cat([batch.patients_B for batch in batches])
    labels = torch.cat([batch.labels_BL for batch in batches])
    total = 0.0
    for i, (mine, patient) in enumerate(zip(batches[1].labels_BL, batches[1].patients_B, strict=True)):
        kept = [j for j in range(24) if patients[j] != patient]
        raw = {}
        for j in kept:
            shared, either = int(((mine == 1) & (labels[j] == 1)).sum()), int(((mine == 1) | (labels[j] == 1)).sum())
            if (mine == 1).any() and (labels[j] == 1).any():
                raw[j] = np.exp(2.0 * (1 - shared / either)) if rule["mode"] == "exp" else float(shared == 0)
        if rule["mode"] == "exp":
            weights = {j: value * len(raw) / sum(raw.values()) for j, value in raw.items()}
        else:
            hard = sum(raw.values())
            graded = 0 < hard < 0.8 * len(raw)
            n = len(raw)
            weights = {j: (0.8 * n / hard if h else 0.2 * n / (n - hard)) if graded else 1.0 for j, h in raw.items()}
        positive = torch.exp(q[i] @ k[1][i] / 0.2)
        below = positive + sum(weights.get(j, 1.0) * torch.exp(q[i] @ keys[j] / 0.2) for j in kept)
        total -= float(torch.log(positive / below))
    assert loss.item() == pytest.approx(total / 12, rel=1e-4)
    known = (batches[1].labels_BL == 1).any(dim=1).float().mean()
    assert encoder.told["labelled_share"].item() == pytest.approx(known.item())


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=1).double()


def test_without_a_list_all_labels_but_the_targets_weigh_and_the_log_says_so(
    images: TrainImages, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        encoder = made(Discern.model_validate(CONTRAST), images)
    assert encoder.labels == ("no_finding",)
    assert encoder.queue.labels_KL.shape == (24, 1)
    assert "weights negatives by no_finding, and not by pneumonia" in caplog.text
    batch = images.batch(torch.arange(16))
    encoder.loss(batch, Draws(0, 16))
    encoder.after_step()
    assert torch.equal(encoder.queue.labels_KL[:16], batch.labels_BL.nan_to_num(-1.0))


def test_a_target_among_the_weighting_labels_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weighted by pneumonia, .* would leak the answer; .*allow_overlap: true"):
        encoders.build(discern(target_labels=("pneumonia", "consolidation")), SIZE)


def test_a_target_that_is_allowed_is_said_aloud(images: TrainImages, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = made(discern(target_labels=("pneumonia",), allow_overlap=True), images)
    assert encoder.labels == ("no_finding", "pneumonia")
    assert "discern is weighted by pneumonia, which is also a target label" in caplog.text


def test_no_overlap_is_silent(images: TrainImages, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made(SMALL["discern"], images)
    assert caplog.text == ""


def test_a_label_that_the_dataset_lacks_is_refused(images: TrainImages) -> None:
    section = discern(weight_labels=("no_finding", "gout", "measles"))
    with pytest.raises(TrainingError, match="no label gout, measles; it has pneumonia, no_finding"):
        made(section, images)


def test_a_dataset_with_nothing_but_targets_is_refused(images: TrainImages) -> None:
    with pytest.raises(TrainingError, match="no label to weight negatives by: it has pneumonia, no_finding"):
        made(discern(weight_labels=(), target_labels=("pneumonia", "no_finding")), images)


def test_labels_without_a_case_and_targets_that_are_unheard_of_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_dataset(tmp_path / "dataset", n_patients=20)
    manifest = pd.read_parquet(folder / MANIFEST)
    manifest["no_finding"] = np.nan
    manifest.to_parquet(folder / MANIFEST, index=False)
    images = TrainImages(Dataset.open(folder), "XR", torch.device("cpu"))
    with caplog.at_level(logging.WARNING):
        made(discern(weight_labels=("no_finding",), target_labels=("Pneumonia",)), images)
    assert "no train image has any of the weighting labels, so that discern is medaug here" in caplog.text
    assert "the dataset has none of discern's target_labels (Pneumonia): is one misspelt?" in caplog.text


def test_a_state_of_labels_found_in_the_dataset_goes_into_a_fitted_encoder(images: TrainImages) -> None:
    """A resumed run fits first, so that the queue has room for the labels that the checkpoint holds."""
    first, second = (made(Discern.model_validate(CONTRAST), images) for _ in range(2))
    first.loss(images.batch(torch.arange(16)), Draws(0, 16))
    first.after_step()
    second.load_state_dict(first.state_dict())
    assert isinstance(second, DiseaseContrast)
    assert torch.equal(second.queue.labels_KL, first.queue.labels_KL)

"""Effective rank at its known values, what counts as collapse, and two encoders that do collapse."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from making import make_dataset
from runs import card, metrics, train_recipe
from small_encoders import MILD, SIZE, SMALL

from hilum.data.store import Dataset
from hilum.learning import encoders, training
from hilum.learning.collapse import Watch, collapse, effective_rank, judge
from hilum.learning.engine.batches import TrainImages
from hilum.recipe import Backbone, Moco, Train, Vae

random = np.random.default_rng(0)


def test_a_ball_has_all_its_directions() -> None:
    assert effective_rank(random.normal(size=(20_000, 8))) == pytest.approx(8, abs=0.01)


def test_a_line_has_one_and_a_point_none() -> None:
    line = random.normal(size=(100, 1)) * np.ones((1, 5)) + 3
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert effective_rank(np.ones((10, 4))) == 0.0


def test_unequal_directions_by_hand() -> None:
    """Singular values 3 : 1 give exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 1.7548."""
    z = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(z) == pytest.approx(1.7548, abs=1e-4)


@pytest.mark.parametrize(
    ("z", "warning"),
    [
        (random.normal(size=(50, 6)), ""),
        (5 + 1e-6 * random.normal(size=(50, 6)), "nearly one point"),
        (random.normal(size=(50, 1)) * np.ones((1, 6)), "effective rank of 1.00 out of 6"),
    ],
)
def test_collapse_is_told_from_spread(z: np.ndarray, warning: str) -> None:
    told = collapse(z.astype(np.float32))
    assert told["n"] == 50
    assert (warning in told["warning"]) if warning else told["warning"] == ""


# Without batch normalisation nothing holds features apart, and a rate a hundred times too large drives every image to
# one point: contrastive learning's own collapse.
CONTRASTIVE = Moco(backbone=Backbone(width=8, norm="group"), projection_dim=16, queue_size=24, augment=MILD)
# A KL term that outweighs every image makes the posterior the prior for all of them.
POSTERIOR = Vae(latent=8, channels=(8, 16, 16), norm="group", kl_weight=1e6, kl_warmup_share=0)


@pytest.mark.parametrize(("section", "rate"), [(CONTRASTIVE, 0.3), (POSTERIOR, 0.03)], ids=["contrastive", "posterior"])
def test_a_real_collapse_is_told_during_the_run_and_at_its_end(
    section: Moco | Vae, rate: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Train.model_validate(
        {"encoder": section, "epochs": 8, "batch_size": 16, "optimizer": {"learning_rate": rate}}
    )
    with caplog.at_level(logging.WARNING):
        out = training.run(make_dataset(tmp_path / "dataset"), recipe, tmp_path / "run")
    told = card(out)["collapse"]["warning"]
    assert told.startswith(
        ("the embeddings are nearly one point", "the embeddings have collapsed to an effective rank")
    )
    (during,) = [text for text in caplog.messages if text.startswith(f"{section.name} XR, in epoch ")]
    assert ": the embeddings " in during
    assert f"{section.name} XR: {told}" in caplog.messages
    first, *_, last = [line for line in metrics(out) if "embedding_rank" in line]
    assert last["embedding_std"] < 0.2 * first["embedding_std"]


def test_a_run_that_learns_has_no_warning(tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        out = training.run(tiny_dataset, train_recipe(epochs=3), tmp_path / "run")
    assert card(out)["collapse"]["warning"] == ""
    assert caplog.messages == []
    assert min(line["embedding_rank"] for line in metrics(out) if "embedding_rank" in line) > 2


def test_a_look_changes_nothing_and_sees_the_same_images_each_time(tiny_dataset: Path) -> None:
    images = TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu"))
    encoder = encoders.build(SMALL["moco"], SIZE)
    encoder.fit(images, seed=0)
    encoder.train()
    before = json.dumps({key: value.tolist() for key, value in encoder.state_dict().items()})
    random = torch.random.get_rng_state()
    looks = [Watch(images, 0, torch.device("cpu"), "moco XR").look(encoder, epoch) for epoch in (1, 2)]
    assert looks[0] == looks[1]
    assert torch.equal(random, torch.random.get_rng_state())
    assert json.dumps({key: value.tolist() for key, value in encoder.state_dict().items()}) == before
    assert encoder.embedder.training
    judged = judge(encoder.embedder, images, 16, 0, torch.device("cpu"))
    assert (judged["n"], judged["effective_rank"]) == (16, looks[0]["embedding_rank"])

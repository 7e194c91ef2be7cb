"""Momentum contrast: the loss over two steps as the papers have it, what follows a step, and several workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_encoders import SIZE, SMALL, STILL

from hilum.data.store import Dataset
from hilum.learning import encoders
from hilum.learning.engine import workers
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.learning.momentum import MomentumContrast
from hilum.recipe import Backbone, Moco, Pairing


@pytest.fixture
def images(tiny_dataset: Path) -> TrainImages:
    return TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu"))


def made(section: Moco, images: TrainImages) -> MomentumContrast:
    encoder = encoders.build(section, SIZE)
    encoder.fit(images, seed=0)
    images.attend(encoder.labels, encoder.pairing)
    assert isinstance(encoder, MomentumContrast)
    return encoder.train()


def still(images: TrainImages, name: str = "moco", **changes: object) -> MomentumContrast:
    """An encoder whose views are the images and whose normalisation looks at one image at a time."""
    alone = {"backbone": Backbone(width=8, norm="group"), "augment": STILL, **changes}
    return made(SMALL[name].model_copy(update=alone), images)  # type: ignore[arg-type]


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def partners(batch: Batch) -> torch.Tensor:
    return batch.x_BCHW if batch.partners_BCHW is None else batch.partners_BCHW


@pytest.mark.parametrize("name", ["moco", "medaug"])
def test_the_loss_over_two_steps_is_the_papers_without_same_patient_keys(name: str, images: TrainImages) -> None:
    encoder = still(images, name)
    first, second = images.batch(torch.arange(10), 0, 0), images.batch(torch.arange(6, 16), 0, 1)
    if name == "medaug":
        assert not torch.equal(partners(second), second.x_BCHW)
    with torch.no_grad():
        encoder.loss(first, Draws(0, 10))
        queued = unit(encoder.key(partners(first))).double()
        encoder.after_step()
        loss = encoder.loss(second, Draws(1, 10))
        q = unit(encoder.projection(encoder.embedder(second.x_BCHW))).double()
        k = unit(encoder.key(partners(second))).double()
    total, masked = 0.0, 0
    for i in range(10):
        positive = torch.exp(q[i] @ k[i] / 0.2)
        below = positive.clone()
        for keys, batch in ((queued, first), (k, second)):
            for j in range(10):
                if batch.patients_B[j] == second.patients_B[i]:
                    masked += 1
                else:
                    below += torch.exp(q[i] @ keys[j] / 0.2)
        total -= float(torch.log(positive / below))
    assert masked > 10  # more than each query's own key
    assert loss.item() == pytest.approx(total / 10, rel=1e-4)
    assert encoder.told["negatives_share"].item() == pytest.approx((200 - masked) / 340)  # of 24 + 10 keys
    assert encoder.told["queue_fill"].item() == pytest.approx(10 / 24)
    assert encoder.told["positive_similarity"].item() == pytest.approx((q * k).sum(dim=1).mean().item(), rel=1e-4)


def test_accuracy_and_self_pairs_are_told(images: TrainImages) -> None:
    encoder = still(images, "medaug")
    batch = images.batch(torch.arange(16), 0, 0)
    with torch.no_grad():
        encoder.loss(batch, Draws(0, 16))
        q, k = unit(encoder.projection(encoder.embedder(batch.x_BCHW))), unit(encoder.key(partners(batch)))
    right = 0
    for i in range(16):
        others = [q[i] @ k[j] for j in range(16) if batch.patients_B[j] != batch.patients_B[i]]
        right += bool(q[i] @ k[i] > max(others))
    assert encoder.told["contrast_accuracy"].item() == pytest.approx(right / 16)
    same = [torch.equal(a, b) for a, b in zip(batch.x_BCHW, partners(batch), strict=True)]
    assert 0 < sum(same) < 16
    assert encoder.told["self_pair_share"].item() == pytest.approx(sum(same) / 16)


def test_partners_are_augmented_too(images: TrainImages) -> None:
    """With a partner that is the image itself, medaug is moco to the bit: two views of it, drawn alike."""
    moco, medaug = made(SMALL["moco"], images), made(SMALL["medaug"], images)  # type: ignore[arg-type]
    images.attend((), None)
    batch = images.batch(torch.arange(16))
    alike = Batch(**{**vars(batch), "partners_BCHW": batch.x_BCHW})
    assert torch.equal(moco.loss(batch, Draws(3, 16)), medaug.loss(alike, Draws(3, 16)))
    other = Batch(**{**vars(batch), "partners_BCHW": batch.x_BCHW.flip(0)})
    assert not torch.equal(moco.loss(batch, Draws(3, 16)), medaug.loss(other, Draws(3, 16)))


def test_medaug_asks_for_the_pairs_of_its_recipe(images: TrainImages) -> None:
    rule = Pairing(within="study", laterality="same")
    assert still(images, "medaug", pairing=rule).pairing == rule
    assert images.pairs is not None
    assert images.pairs.fallback_share == 1.0  # every made study has one image
    assert still(images, "moco").pairing is None


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_key_encoder_follows_by_equation_2(norm: str, images: TrainImages) -> None:
    """Weights, and running statistics likewise: both networks then mean the same where they are asked one by one."""
    encoder = still(images, backbone=Backbone.model_validate({"width": 8, "norm": norm}))
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    before = {name: value.clone() for name, value in encoder.key.state_dict().items()}
    encoder.loss(images.batch(torch.arange(12)), Draws(0, 12)).backward()
    optimizer.step()
    encoder.after_step()
    query = torch.nn.Sequential(encoder.embedder, encoder.projection).state_dict()
    after = encoder.key.state_dict()
    assert set(after) == set(query)
    assert any("running" in name for name in after) == (norm == "batch")
    for name, value in after.items():
        expected = 0.99 * before[name] + 0.01 * query[name] if value.is_floating_point() else query[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert any("running_var" in name for name in moved) == (norm == "batch")
    assert any(name.endswith("weight") for name in moved)
    assert int(encoder.queue.valid_K.sum()) == 12


@pytest.mark.parametrize("name", ["moco", "medaug", "discern"])
def test_a_loss_in_training_moves_neither_queue_nor_keys_before_the_step(name: str, images: TrainImages) -> None:
    encoder = made(SMALL[name], images)  # type: ignore[arg-type]
    kept = [encoder.queue, encoder.key]
    before = [{key: value.clone() for key, value in part.state_dict().items()} for part in kept]
    for step in range(2):
        encoder.loss(images.batch(torch.arange(16), 0, step), Draws(step, 16))
    for part, state in zip(kept, before, strict=True):
        for key, value in part.state_dict().items():
            assert torch.equal(value, state[key]) or key.endswith("num_batches_tracked"), key
    encoder.after_step()
    assert int(encoder.queue.valid_K.sum()) == 16


def test_batch_statistics_are_not_shared_by_query_and_positive(images: TrainImages) -> None:
    """With batch normalisation the keys of a batch are computed in shuffled groups, and come back in order."""
    encoder = made(SMALL["moco"].model_copy(update={"augment": STILL, "key_groups": 3}), images)  # type: ignore[arg-type]
    x = images.batch(torch.arange(16)).x_BCHW
    with torch.no_grad():
        order = Draws(5, 16).order()
        expected = torch.empty(16, 16)
        for group in (order[:6], order[6:11], order[11:]):
            expected[group] = unit(encoder.key(x[group]))
        torch.testing.assert_close(encoder._keys(x, Draws(5, 16)), expected)
        assert not torch.allclose(unit(encoder.key(x)), expected, atol=1e-3)


def test_a_tiny_batch_makes_fewer_groups(images: TrainImages) -> None:
    """A group of one image has no batch statistics to speak of; a batch of two is one group."""
    encoder = made(SMALL["moco"].model_copy(update={"augment": STILL, "key_groups": 4}), images)  # type: ignore[arg-type]
    x = images.batch(torch.arange(2)).x_BCHW
    torch.testing.assert_close(encoder._keys(x, Draws(0, 2)), unit(encoder.key(x)))


def test_bfloat16_leaves_keys_and_loss_in_float32(images: TrainImages) -> None:
    encoder = made(SMALL["discern"], images)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        loss = encoder.loss(images.batch(torch.arange(16)), Draws(0, 16))
    loss.backward()
    encoder.after_step()
    assert loss.dtype == encoder.queue.keys_KD.dtype == torch.float32
    lengths = encoder.queue.keys_KD[:16].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(16), atol=1e-6, rtol=0)


def two_steps(section: Moco, images: TrainImages) -> dict[str, object]:
    """Loss and gradient of the global batch, and the queue, after two steps of 17 images."""
    encoder = made(section, images)
    losses = []
    for step in range(2):
        batch = images.batch(torch.arange(17 * step, 17 * (step + 1)), 0, step)
        loss = encoder.loss(batch, Draws(step, 17)) * len(batch.x_BCHW) / 17
        loss.backward()
        encoder.after_step()
        losses.append(workers.gather(loss.detach().reshape(1)).sum())
    gradient = next(encoder.embedder.parameters()).grad
    assert gradient is not None
    return {
        "losses": losses,
        "gradient": workers.gather(gradient[None]).sum(dim=0),
        "queue": encoder.queue.state_dict(),
    }


def answer_of(images: TrainImages) -> dict[str, dict[str, object]]:
    alone = {"backbone": Backbone(width=8, norm="group")}
    answer = {name: two_steps(SMALL[name].model_copy(update=alone), images) for name in ("moco", "medaug", "discern")}
    answer["shuffled"] = two_steps(SMALL["discern"].model_copy(update={"key_groups": 4}), images)
    for figure in ("losses", "gradient"):  # the query's batch statistics are made to agree by training, not here
        del answer["shuffled"][figure]
    return answer


WORKER = """
import sys
from pathlib import Path
import pytest, torch
sys.path[:0] = sys.argv[3:]
from small_encoders import SIZE, SMALL
from test_momentum import answer_of
from hilum.data.store import Dataset
from hilum.errors import TrainingError
from hilum.learning import encoders
from hilum.learning.engine import workers
from hilum.learning.engine.batches import TrainImages

with workers.together():
    images = TrainImages(Dataset.open(Path(sys.argv[1])), "XR", torch.device("cpu"))
    with pytest.raises(TrainingError, match="key_groups is 3, which 2 workers cannot share evenly; give a multiple"):
        encoders.build(SMALL["moco"].model_copy(update={"key_groups": 3}), SIZE).fit(images, 0)
    torch.save(answer_of(images), f"{sys.argv[2]}/{workers.number()}.pt")
"""


def test_two_workers_have_the_loss_gradient_and_queue_of_one(
    tiny_dataset: Path, images: TrainImages, tmp_path: Path
) -> None:
    """17 images a step, so that the workers' parts differ in length; groups of keys are dealt over both."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", WORKER, str(tiny_dataset), str(tmp_path), *paths]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000)}
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    one = answer_of(images)
    told = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(told)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in "01")
    torch.testing.assert_close(first, one, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(second, one, atol=1e-5, rtol=1e-4)
    for name, answer in first.items():
        for key, value in answer["queue"].items():
            assert torch.equal(value, second[name]["queue"][key]), (name, key)

"""The loop: what it writes, what it refuses, and that a killed run goes on as if nothing had happened."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from making import make_dataset
from small_encoders import BY_STEPS, SIZE, SMALL

from hilum import identity, recipe
from hilum.data.store import Dataset
from hilum.errors import TrainingError
from hilum.learning import checkpoint, encoders, training
from hilum.learning.encoders import ENCODERS
from hilum.recipe import Optimizer, Train


def train_recipe(name: str = "moco", **changes: object) -> Train:
    return Train.model_validate({"encoder": SMALL[name], "epochs": 2, "batch_size": 16, **changes})


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / training.METRICS).read_text(encoding="utf-8").splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(run / "weights.pt", weights_only=True)
    return loaded


@pytest.mark.parametrize("name", ENCODERS)
def test_a_run_says_what_it_is_and_what_it_saw(name: str, tiny_dataset: Path, tmp_path: Path) -> None:
    section = train_recipe(name)
    out = training.run(tiny_dataset, section, tmp_path / "run")
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    dataset = Dataset.open(tiny_dataset)
    assert card["encoder"] == name
    assert card["modality"] == "XR"
    assert card["size"] == 32
    assert card["dim"] == encoders.build(SMALL[name], SIZE).dim
    assert (card["n_images"], card["n_patients"]) == (72, 36)
    assert card["caution"] == "made by a test"
    assert card["run"] == {
        "code_revision": identity.code_revision(),
        "data_digest": dataset.facts.digest,
        "recipe_digest": recipe.digest(section),
    }
    assert card["collapse"]["effective_rank"] > 1
    assert recipe.read(out / "recipe.json", Train) == section
    text = (out / "card.json").read_text(encoding="utf-8") + (out / "recipe.json").read_text(encoding="utf-8")
    assert not any(patient in text for patient in dataset.manifest["patient_id"])
    assert not any(key.startswith(("queue", "key", "projection")) for key in weights(out))


def test_every_step_is_in_the_metrics(tiny_dataset: Path, tmp_path: Path) -> None:
    out = training.run(tiny_dataset, train_recipe(epochs=3), tmp_path / "run")
    lines = metrics(out)
    assert [line["step"] for line in lines] == list(range(1, 16))
    assert [line["epoch"] for line in lines] == [0] * 5 + [1] * 5 + [2] * 5
    assert all(math.isfinite(line["loss"]) and line["images_per_s"] > 0 for line in lines)
    assert lines[0]["lr"] == max(line["lr"] for line in lines)  # one warm-up step of fifteen
    assert lines[-1]["lr"] < 1e-4 * 2


@pytest.mark.parametrize("name", BY_STEPS)
def test_the_loss_falls(name: str, tiny_dataset: Path, tmp_path: Path) -> None:
    section = train_recipe(name, epochs=12, optimizer=Optimizer(learning_rate=3e-3))
    lines = metrics(training.run(tiny_dataset, section, tmp_path / "run"))
    early = [line["loss"] for line in lines if 2 <= line["epoch"] < 5]  # by then the queue is full
    late = [line["loss"] for line in lines if line["epoch"] >= 9]
    assert sum(late) / len(late) < 0.9 * sum(early) / len(early)


@pytest.mark.parametrize("name", ENCODERS)
def test_same_recipe_and_data_same_numbers(name: str, tiny_dataset: Path, tmp_path: Path) -> None:
    first, second = (weights(training.run(tiny_dataset, train_recipe(name), tmp_path / run)) for run in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
    if name in BY_STEPS:  # the others have nothing random while they see all images
        other = weights(training.run(tiny_dataset, train_recipe(name, seed=1), tmp_path / "c"))
        assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ENCODERS)
def test_images_of_val_and_test_change_nothing(name: str, tiny_dataset: Path, tmp_path: Path) -> None:
    """The strongest form of 'no held-out patient is seen': other held-out pixels, the same weights."""
    import numpy as np

    held = make_dataset(tmp_path / "dataset")
    images = np.load(held / "images.npy")
    hidden = Dataset.open(held).rows(splits=["val", "test"])
    images[hidden] = 255 - images[hidden]
    np.save(held / "images.npy", images)
    first = weights(training.run(tiny_dataset, train_recipe(name), tmp_path / "a"))
    second = weights(training.run(held, train_recipe(name), tmp_path / "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_bfloat16_keeps_float32_weights(tiny_dataset: Path, tmp_path: Path) -> None:
    out = training.run(tiny_dataset, train_recipe(precision="bfloat16", epochs=1), tmp_path / "run")
    assert {value.dtype for value in weights(out).values()} <= {torch.float32, torch.int64}
    assert all(math.isfinite(line["loss"]) for line in metrics(out))


RUN = """
import sys
from pathlib import Path
from hilum.learning import training
from hilum.recipe import Train
training.CHECKPOINT_SECONDS = 0.0
training.run(Path(sys.argv[1]), Train.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
"""


def _lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def test_a_killed_run_goes_on_bit_for_bit(tiny_dataset: Path, tmp_path: Path) -> None:
    section = train_recipe(epochs=12)
    whole = training.run(tiny_dataset, section, tmp_path / "whole")
    killed = tmp_path / "killed"
    environment = {
        **os.environ,
        identity.CODE_REVISION: identity.code_revision(),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tiny_dataset), section.model_dump_json(), str(killed)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while _lines(killed / training.METRICS) < 8 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (killed / "card.json").exists(), "the run was over before it could be killed; give it more epochs"
    state = checkpoint.load(killed)
    assert state is not None
    assert 6 <= state["step"] < 60  # with a checkpoint at each step, most likely amid an epoch of five
    training.run(tiny_dataset, section, killed)
    first, second = weights(whole), weights(killed)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert [(line["step"], line["loss"]) for line in metrics(whole)] == [
        (line["step"], line["loss"]) for line in metrics(killed)
    ]
    last, resumed = checkpoint.load(whole), checkpoint.load(killed)
    assert last is not None
    assert resumed is not None
    assert torch.equal(last["generator"], resumed["generator"])
    assert all(torch.equal(last["encoder"][key], resumed["encoder"][key]) for key in last["encoder"])
    for number, moments in last["optimizer"]["state"].items():
        assert all(torch.equal(value, resumed["optimizer"]["state"][number][key]) for key, value in moments.items())
    assert not (killed / checkpoint.PREVIOUS).exists()


def test_a_finished_run_is_kept(tiny_dataset: Path, tmp_path: Path) -> None:
    out = training.run(tiny_dataset, train_recipe(), tmp_path / "run")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    training.run(tiny_dataset, train_recipe(), out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_recipe_or_dataset_in_the_same_folder_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    out = training.run(tiny_dataset, train_recipe(), tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run with another recipe; name another folder"):
        training.run(tiny_dataset, train_recipe(seed=3), out)
    other = make_dataset(tmp_path / "other", seed=1)
    with pytest.raises(TrainingError, match="holds a run with another dataset;"):
        training.run(other, train_recipe(), out)
    (out / "card.json").unlink()  # as if it had been killed at the very end
    with pytest.raises(TrainingError, match="another recipe and another dataset"):
        training.run(other, train_recipe(seed=3), out)
    assert recipe.read(out / "recipe.json", Train) == train_recipe()


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rows(tiny_dataset: Path, tmp_path: Path) -> None:
    section = train_recipe(optimizer=Optimizer(learning_rate=1e37, warmup_share=0))
    with pytest.raises(TrainingError, match=r"the loss is nan .* at step \d+, on manifest rows \[\d+, .*learning_rate"):
        training.run(tiny_dataset, section, tmp_path / "run")
    assert not (tmp_path / "run" / "card.json").exists()


def test_a_modality_without_train_images_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no MR images in its train split"):
        training.run(tiny_dataset, train_recipe(modality="MR"), tmp_path / "run")


def test_a_batch_with_a_held_out_row_stops_the_run(tiny_dataset: Path) -> None:
    import numpy as np

    from hilum.learning.engine.batches import Batch

    batch = Batch(torch.zeros(2, 1, 4, 4), torch.tensor([1, 7]), torch.tensor([0, 1]))
    allowed = np.array([True] * 7 + [False])
    with pytest.raises(TrainingError, match="manifest row 7 is not of the train split"):
        training._only_train(batch, allowed)


def test_a_collapsed_encoder_is_told_in_card_and_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images that are all alike can only embed as one point."""
    import numpy as np

    folder = make_dataset(tmp_path / "dataset", n_patients=10)
    images = np.load(folder / "images.npy")
    np.save(folder / "images.npy", np.broadcast_to(images[:1], images.shape))
    with caplog.at_level(logging.WARNING):
        out = training.run(folder, train_recipe(epochs=1), tmp_path / "run")
    assert "nearly one point" in json.loads((out / "card.json").read_text(encoding="utf-8"))["collapse"]["warning"]
    assert "moco XR: the embeddings are nearly one point" in caplog.text


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    section = Optimizer(learning_rate=2.0, warmup_share=0.1)
    rates = [training.learning_rate(step, 100, section) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * k / 90) for k in range(90)])
    assert training.learning_rate(0, 1, Optimizer(warmup_share=0.9)) == 1e-3


def test_biases_and_norms_are_not_decayed() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    decayed, free = training.adamw(net, Optimizer(weight_decay=0.3)).param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 1, 3, 3)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert len(free["params"]) == 3

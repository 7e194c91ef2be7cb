"""The loop: what it writes, what it refuses, and what of it does not depend on chance."""

import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from making import make_dataset
from runs import card, metrics, repeatable, same, train_recipe, weights
from small_encoders import BY_STEPS, SIZE, SMALL

from hilum import identity, recipe
from hilum.data.ingest import ingest
from hilum.data.layouts import phantom
from hilum.data.store import Dataset
from hilum.errors import TrainingError
from hilum.learning import encoders, training
from hilum.learning.encoders import ENCODERS
from hilum.learning.engine import checkpoint
from hilum.learning.engine.batches import Batch
from hilum.recipe import Ingest, Optimizer, Preprocessing, Train

Trained = Callable[[str], Path]


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run of an encoder's `train_recipe`, made when first asked for."""
    folder = tmp_path_factory.mktemp("runs")
    return lambda name: training.run(tiny_dataset, train_recipe(name), folder / name)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_run_says_what_it_is_and_what_it_saw(name: str, trained: Trained, tiny_dataset: Path) -> None:
    out = trained(name)
    told, dataset = card(out), Dataset.open(tiny_dataset)
    assert told["encoder"] == name
    assert told["modality"] == "XR"
    assert told["size"] == 32
    assert told["dim"] == encoders.build(SMALL[name], SIZE).dim
    assert (told["n_images"], told["n_patients"], told["workers"]) == (72, 36, 1)
    assert told["caution"] == "made by a test"
    assert told["epochs"] == (2 if name in BY_STEPS else 0)
    assert told["run"] == {
        "code_revision": identity.code_revision(),
        "data_digest": dataset.facts.digest,
        "recipe_digest": recipe.digest(train_recipe(name)),
    }
    assert told["collapse"]["effective_rank"] > 1
    assert recipe.read(out / "recipe.json", Train) == train_recipe(name)
    text = (out / "card.json").read_text(encoding="utf-8") + (out / "recipe.json").read_text(encoding="utf-8")
    assert not any(patient in text for patient in dataset.manifest["patient_id"])


@pytest.mark.parametrize("name", ENCODERS)
def test_only_the_embedder_and_the_decoder_are_kept(name: str, trained: Trained) -> None:
    out, encoder = trained(name), encoders.build(SMALL[name], SIZE)
    assert list(weights(out)) == list(encoder.embedder.state_dict())
    assert (out / "decoder.pt").exists() == (encoder.decoder is not None) == (name in ("vae", "diffae"))
    if encoder.decoder is not None:
        encoder.decoder.load_state_dict(torch.load(out / "decoder.pt", weights_only=True))
    files = {path.name for path in out.iterdir()} - {"decoder.pt"}
    stepped = {"metrics.jsonl", "events", "checkpoint.pt", "checkpoint.best.pt"} if name in BY_STEPS else set()
    assert files == {"weights.pt", "card.json", "recipe.json"} | stepped


def test_every_step_is_in_the_metrics(tiny_dataset: Path, tmp_path: Path) -> None:
    out = training.run(tiny_dataset, train_recipe(epochs=3), tmp_path / "run")
    lines = metrics(out)
    assert [line["step"] for line in lines] == list(range(1, 16))
    assert [line["epoch"] for line in lines] == [0] * 5 + [1] * 5 + [2] * 5
    assert all(math.isfinite(line["loss"]) and line["images_per_s"] > 0 for line in lines)
    assert [line["step"] for line in lines if "embedding_rank" in line] == [5, 10, 15]
    assert lines[0]["lr"] == max(line["lr"] for line in lines)  # one warm-up step of fifteen
    assert lines[-1]["lr"] < 1e-4 * 2


@pytest.fixture(scope="module")
def phantom_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About a hundred drawn X-rays to train on, 32 px."""
    folder = tmp_path_factory.mktemp("phantom")
    drawn = phantom.generate(folder / "drawn", patients=48, size=SIZE)
    return ingest(drawn, folder / "dataset", Ingest(layout="phantom", preprocessing=Preprocessing(size=SIZE))).path


@pytest.mark.parametrize("name", BY_STEPS)
def test_the_loss_falls_on_the_phantom(name: str, phantom_cohort: Path, tmp_path: Path) -> None:
    section = train_recipe(name, epochs=12, optimizer=Optimizer(learning_rate=3e-3))
    lines = metrics(training.run(phantom_cohort, section, tmp_path / "run"))
    early = np.mean([line["loss"] for line in lines if 2 <= line["epoch"] < 5])  # by then the queue is full
    late = np.mean([line["loss"] for line in lines if line["epoch"] >= 9])
    assert early - late > 0.05 * abs(early)


@pytest.mark.parametrize("name", ENCODERS)
def test_same_recipe_and_data_same_numbers(name: str, trained: Trained, tiny_dataset: Path, tmp_path: Path) -> None:
    again = training.run(tiny_dataset, train_recipe(name), tmp_path / "again")
    assert same(weights(trained(name)), weights(again))
    if name in BY_STEPS:  # the others have nothing random while they see all images
        assert repeatable(trained(name)) == repeatable(again)
        other = weights(training.run(tiny_dataset, train_recipe(name, seed=1), tmp_path / "other"))
        assert not same(weights(again), other)


@pytest.mark.parametrize("name", ENCODERS)
def test_images_of_val_and_test_change_nothing(name: str, trained: Trained, tmp_path: Path) -> None:
    """The strongest form of 'no held-out patient is seen': other held-out pixels, the same weights."""
    held = make_dataset(tmp_path / "dataset")
    images = np.load(held / "images.npy")
    hidden = Dataset.open(held).rows(splits=["val", "test"])
    images[hidden] = 255 - images[hidden]
    np.save(held / "images.npy", images)
    assert same(weights(trained(name)), weights(training.run(held, train_recipe(name), tmp_path / "run")))


@pytest.mark.parametrize("name", ["moco", "vae"])
def test_bfloat16_keeps_float32_weights(name: str, trained: Trained, tiny_dataset: Path, tmp_path: Path) -> None:
    out = training.run(tiny_dataset, train_recipe(name, precision="bfloat16"), tmp_path / "run")
    state = checkpoint.load(out)
    assert state is not None
    assert {value.dtype for value in state["encoder"].values()} <= {torch.float32, torch.int64, torch.bool}
    assert not same(weights(out), weights(trained(name)))
    first, exact = metrics(out)[0]["loss"], metrics(trained(name))[0]["loss"]
    assert first == pytest.approx(exact, rel=0.05)
    assert first != exact


def test_the_weights_that_are_kept_are_their_average(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the states after each step, by the formula, in float64."""
    states: list[dict] = []
    save = checkpoint.save

    def noted(folder: Path, state: dict, best: bool = False) -> None:
        states.append({key: value.clone() for key, value in state["encoder"].items()})
        save(folder, state, best)

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "save", noted)
    out = training.run(tiny_dataset, train_recipe(ema=0.7), tmp_path / "run")
    begun = encoders.build(SMALL["moco"], SIZE, 0)
    for key, value in weights(out).items():
        if not value.is_floating_point() or key in ("mean", "std"):
            continue
        expected = begun.embedder.state_dict()[key].double()
        for step, state in enumerate(states):
            share = min(0.7, (1 + step) / (10 + step))
            expected = share * expected + (1 - share) * state[f"embedder.{key}"].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)
        assert not torch.equal(value, states[-1][f"embedder.{key}"])


def test_an_encoders_own_decay_holds_where_the_recipe_names_none(trained: Trained, tmp_path: Path) -> None:
    state = checkpoint.load(trained("diffae"))
    assert state is not None
    assert encoders.build(SMALL["diffae"], SIZE).ema == 0.9999
    assert same(weights(trained("diffae"))["project.weight"], state["average"]["embedder.project.weight"])
    assert not same(state["encoder"]["embedder.project.weight"], state["average"]["embedder.project.weight"])
    decoder = torch.load(trained("diffae") / "decoder.pt", weights_only=True)
    assert all(same(value, state["average"][f"decoder.{key}"]) for key, value in decoder.items())
    without = checkpoint.load(trained("vae"))
    assert without is not None
    assert without["average"] == {}


def test_a_finished_run_is_kept(trained: Trained, tiny_dataset: Path) -> None:
    out = trained("moco")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    training.run(tiny_dataset, train_recipe(), out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_recipe_or_dataset_in_the_same_folder_is_refused(
    trained: Trained, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained("moco"), out)
    with pytest.raises(TrainingError, match="holds a run with another recipe; name another folder"):
        training.run(tiny_dataset, train_recipe(seed=3), out)
    other = make_dataset(tmp_path / "other", seed=1)
    with pytest.raises(TrainingError, match="holds a run with another dataset;"):
        training.run(other, train_recipe(), out)
    (out / "card.json").unlink()  # as if it had been killed at the very end
    with pytest.raises(TrainingError, match="another recipe and another dataset"):
        training.run(other, train_recipe(seed=3), out)
    assert recipe.read(out / "recipe.json", Train) == train_recipe()


@pytest.mark.parametrize("name", ["moco", "vae", "supervised"])
def test_a_loss_that_is_no_number_stops_the_run_before_it_reaches_the_weights(
    name: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    section = train_recipe(name, optimizer=Optimizer(learning_rate=1e37, warmup_share=0))
    out = tmp_path / "run"
    message = r"the loss is \S+ and its gradient's norm \S+ at step \d+, on manifest rows \[\d+, .*learning_rate"
    with pytest.raises(TrainingError, match=message) as told:
        training.run(tiny_dataset, section, out)
    rows = {int(number) for number in str(told.value).split("[")[1].split("]")[0].split(",")}
    assert rows <= set(Dataset.open(tiny_dataset).rows("XR", ["train"]).tolist())
    assert not (out / "card.json").exists()
    state = checkpoint.load(out)
    assert state is not None
    assert all(torch.isfinite(value).all() for value in state["encoder"].values())
    assert metrics(out)[-1]["step"] == state["step"]


def test_a_modality_without_train_images_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no MR images in its train split"):
        training.run(tiny_dataset, train_recipe(modality="MR"), tmp_path / "run")


def test_a_batch_with_a_held_out_row_stops_the_run() -> None:
    none = torch.zeros(2, dtype=torch.int64)
    batch = Batch(torch.zeros(2, 1, 4, 4), np.array([1, 7]), none, none, torch.zeros(2, 0))
    training._only_train(batch, np.array([False, True] * 4))
    with pytest.raises(TrainingError, match="manifest row 7 is not of the train split"):
        training._only_train(batch, np.array([True] * 7 + [False]))


def test_a_collapsed_encoder_is_told_in_card_and_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images that are all alike can only embed as one point."""
    folder = make_dataset(tmp_path / "dataset", n_patients=10)
    images = np.load(folder / "images.npy")
    np.save(folder / "images.npy", np.broadcast_to(images[:1], images.shape))
    with caplog.at_level(logging.WARNING):
        out = training.run(folder, train_recipe(epochs=1), tmp_path / "run")
    assert "nearly one point" in card(out)["collapse"]["warning"]
    assert "moco XR: the embeddings are nearly one point" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch 2.13's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_networks_train_to_the_same_under_the_same_names(
    trained: Trained, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Kernels are fused in another order, so the tolerance is that of two workers."""
    out = training.run(tiny_dataset, train_recipe(compile=True), tmp_path / "run")
    first, second = weights(trained("moco")), weights(out)
    assert list(first) == list(second)
    plain, compiled = checkpoint.load(trained("moco")), checkpoint.load(out)
    assert plain is not None
    assert compiled is not None
    assert list(plain["encoder"]) == list(compiled["encoder"])
    assert [line["loss"] for line in metrics(out)] == pytest.approx(
        [line["loss"] for line in metrics(trained("moco"))], rel=1e-2
    )
    assert "embedding_rank" in metrics(out)[4]

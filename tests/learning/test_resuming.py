"""A killed run goes on as if nothing had happened: to the last bit on the CPU."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from disks import no_file_above
from runs import metrics, repeatable, same, train_recipe, weights
from small_encoders import BY_STEPS

from hilum import identity
from hilum.errors import TrainingError
from hilum.learning import training
from hilum.learning.engine import checkpoint
from hilum.recipe import Train


class Killed(BaseException):
    """As sudden as a kill: nothing in hilum catches it."""


def kill_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints at every step up to `step`; two steps on, the run ends in the middle."""
    save = checkpoint.save

    def failing(folder: Path, state: dict, best: bool = False) -> None:
        if state["step"] == step + 2:
            raise Killed
        if state["step"] <= step:
            save(folder, state, best)

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "save", failing)


def interrupted(
    dataset: Path, section: Train, out: Path, step: int, monkeypatch: pytest.MonkeyPatch, times: int = 1
) -> None:
    for number in range(times):
        with monkeypatch.context() as patched:
            kill_after(step + 2 * number, patched)
            with pytest.raises(Killed):
                training.run(dataset, section, out)
    assert not (out / "card.json").exists()


def assert_same_run(whole: Path, resumed: Path) -> None:
    assert same(weights(whole), weights(resumed))
    assert repeatable(whole) == repeatable(resumed)
    for name in (checkpoint.NEWEST, checkpoint.BEST):
        first, second = (torch.load(run / name, weights_only=True) for run in (whole, resumed))
        for state in (first, second):
            del state["metrics_bytes"]  # lines tell of the pace, which has more or fewer digits
        assert same(first, second), name
    assert not (resumed / checkpoint.PREVIOUS).exists()


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of moco that nothing disturbed."""
    return training.run(tiny_dataset, train_recipe(epochs=3), tmp_path_factory.mktemp("whole") / "run")


CASES = {name: {} for name in BY_STEPS} | {
    "averaged": {"ema": 0.9},
    "sgd": {"optimizer": {"name": "sgd"}},
    "bfloat16": {"precision": "bfloat16"},
    "rare checkpoints": {"checkpoint_every_epochs": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_ended_in_the_middle_goes_on_bit_for_bit(
    case: str, whole: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed amid the second of three epochs, the second time a little later, with metrics beyond the checkpoint."""
    section = train_recipe(case if case in BY_STEPS else "moco", epochs=3, **CASES[case])
    if case != "moco":
        whole = training.run(tiny_dataset, section, tmp_path / "whole")
    interrupted(tiny_dataset, section, tmp_path / "killed", 6, monkeypatch, times=2)
    state = checkpoint.load(tmp_path / "killed")
    assert state is not None
    assert state["step"] == 8
    assert metrics(tmp_path / "killed")[-1]["step"] > 8
    training.run(tiny_dataset, section, tmp_path / "killed")
    assert_same_run(whole, tmp_path / "killed")


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
    """With kill -9, wherever it hits."""
    section = train_recipe(epochs=8)
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
    deadline = time.monotonic() + 240
    while _lines(killed / "metrics.jsonl") < 8 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (killed / "card.json").exists(), "the run was over before it could be killed; give it more epochs"
    state = checkpoint.load(killed)
    assert state is not None
    assert 6 <= state["step"] < 40  # with a checkpoint at each step, most likely amid an epoch of five
    training.run(tiny_dataset, section, killed)
    assert_same_run(whole, killed)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    whole: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    section, out = train_recipe(epochs=3), tmp_path / "killed"
    interrupted(tiny_dataset, section, out, 6, monkeypatch)
    content = (out / checkpoint.NEWEST).read_bytes()
    (out / checkpoint.NEWEST).write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        training.run(tiny_dataset, section, out)
    assert "checkpoint.pt is damaged; trying the checkpoint before it" in caplog.text
    assert_same_run(whole, out)


def test_two_damaged_checkpoints_are_refused(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    interrupted(tiny_dataset, train_recipe(), out, 6, monkeypatch)
    for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
        (out / name).write_bytes(b"")
    with pytest.raises(TrainingError, match=r"can be read; remove them to train from the beginning"):
        training.run(tiny_dataset, train_recipe(), out)


@pytest.mark.parametrize("limit", [50_000, 3000])
def test_a_full_disk_stops_the_run_with_one_sentence_and_costs_nothing(
    limit: int, whole: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first limit a checkpoint cannot be written, at the second the metrics already cannot."""
    section, out = train_recipe(epochs=3), tmp_path / "full"
    interrupted(tiny_dataset, section, out, 6, monkeypatch)
    before = {name: (out / name).read_bytes() for name in (checkpoint.NEWEST, checkpoint.PREVIOUS)}
    with (
        no_file_above(limit),
        pytest.raises(TrainingError, match=r"could not be written to .*; free some space and train"),
    ):
        training.run(tiny_dataset, section, out)
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not list(out.glob("*.partial"))
    training.run(tiny_dataset, section, out)
    assert_same_run(whole, out)


def test_a_run_killed_before_its_card_has_only_the_card_to_write(tiny_dataset: Path, tmp_path: Path) -> None:
    out = training.run(tiny_dataset, train_recipe(ema=0.9), tmp_path / "run")
    before = weights(out)
    for name in ("card.json", "weights.pt"):
        (out / name).unlink()
    training.run(tiny_dataset, train_recipe(ema=0.9), out)
    assert same(before, weights(out))
    assert len(metrics(out)) == 10

"""Several workers from one call: the run they leave is a run, and what stops them is said."""

from pathlib import Path

import pytest
import torch
from runs import card, metrics, train_recipe

from hilum.errors import TrainingError
from hilum.learning import launching


def test_two_workers_leave_the_run_of_one(tiny_dataset: Path, tmp_path: Path) -> None:
    recipe = train_recipe("supervised", epochs=1)
    alone, shared = (launching.run(tiny_dataset, recipe, tmp_path / str(n), n) for n in (1, 2))
    assert (card(alone)["workers"], card(shared)["workers"]) == (1, 2)
    assert card(alone)["run"] == card(shared)["run"]
    losses = [[line["loss"] for line in metrics(run)] for run in (alone, shared)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_failure_of_the_workers_is_told_once(
    tiny_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = train_recipe("supervised", modality="MR")
    with pytest.raises(TrainingError, match="training on 2 workers ended with status 1; the reason is above"):
        launching.run(tiny_dataset, recipe, tmp_path / "run", 2)
    assert capfd.readouterr().err.count("hilum: the dataset has no MR images in its train split") == 1


@pytest.mark.parametrize(("n_gpus", "n_workers"), [(0, 1), (1, 1), (8, 8)])
def test_a_worker_for_each_gpu_and_one_without(n_gpus: int, n_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert launching.gpus() == n_workers

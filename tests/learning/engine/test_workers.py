"""Two workers, started by torchrun as a person would, against one: the same numbers, and an end when one fails.

Tolerance: sums over images are taken in another order, so each step differs by float32 rounding, some 1e-7 of a value;
Adam divides by the root of the second moment, which can turn rounding of a gradient near zero into a step of some of
the learning rate. Measured over ten steps: losses apart by 3e-7 of their size, weights by 4e-6 at a rate of 1e-4. So
1e-5 for figures and half a rate for weights, where another share of the images in a gradient would cost several rates.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from making import make_dataset
from on_workers import N, made_net
from small_encoders import BY_STEPS, SMALL

from hilum import identity
from hilum.errors import TrainingError
from hilum.learning import training
from hilum.learning.engine import checkpoint, workers
from hilum.recipe import Optimizer, Train

SCRIPT = Path(__file__).with_name("on_workers.py")
RATE = 1e-4
MODERATE = Optimizer(learning_rate=RATE, warmup_share=0)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Two workers on this machine; far longer than it takes is a hang."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, identity.CODE_REVISION: identity.code_revision(), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def own_lines(output: str) -> list[str]:
    """What hilum said, without torchrun's report of which process failed."""
    return [line for line in output.splitlines() if line.startswith("hilum: ")]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def agree(name: str, one: Path, two: Path) -> None:
    """Metrics and weights of a run on one worker and on two."""
    first, second = metrics(one), metrics(two)
    assert [line["step"] for line in first] == [line["step"] for line in second]
    for mine, its in zip(first, second, strict=True):
        assert set(mine) == set(its)
        for key in set(mine) - {"images_per_s", "feature_std"}:  # the latter diffae tells of a worker's part
            assert its[key] == pytest.approx(mine[key], rel=1e-4 if "norm" in key else 1e-5, abs=1e-5), (name, key)
    for file in ("weights.pt", "decoder.pt"):
        assert (one / file).exists() == (two / file).exists()
        if (one / file).exists():
            a, b = (torch.load(run / file, weights_only=True) for run in (one, two))
            assert list(a) == list(b)
            for key in a:
                torch.testing.assert_close(
                    b[key], a[key], rtol=1e-5, atol=RATE / 2, msg=lambda m, k=key: f"{name} {k}: {m}"
                )


def section(name: str, **changes: object) -> Train:
    values = {"encoder": SMALL[name], "epochs": 2, "batch_size": 15, "optimizer": MODERATE, **changes}
    return Train.model_validate(values)


def test_alone_every_function_answers_for_one_worker() -> None:
    assert (workers.count(), workers.number(), workers.part_of(5)) == (1, 0, slice(0, 5))
    x = torch.arange(3)
    assert workers.gather(x) is x
    assert workers.means({"a": torch.tensor(3)}, 1.0) == {"a": torch.tensor(3.0)}
    workers.agree(3, "nothing")
    workers.wait()
    with workers.together():
        assert workers.count() == 1


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, dict]:
    folder = tmp_path_factory.mktemp("parts")
    random = torch.Generator().manual_seed(0)
    net = made_net()
    state = {
        "x": torch.randn(N, 1, 4, 4, generator=random) * 3 + 10,
        "weight": torch.rand(N, 12, generator=random),
        "net": net.state_dict(),
    }
    torch.save(state, folder / "norm.pt")
    done = torchrun(SCRIPT, "parts", folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return state, *(torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))


def test_a_batch_is_dealt_in_parts_and_gathered_in_order(both: tuple[dict, dict, dict]) -> None:
    state, first, second = both
    assert (first["part"], second["part"]) == ([0, 4], [4, 7])
    for found in (first, second):
        assert found["gathered"].tolist() == [0, 10, 20, 30, 40, 50, 60]
        assert found["means"]["a"].item() == pytest.approx(state["x"][:, 0, 0, 0].mean().item(), rel=1e-6)
        assert found["means"]["b"].item() == pytest.approx(2.0)
        assert found["disagreed"].startswith("the workers do not agree on who they are: 0, 1; they must see the same")


def test_synchronised_norms_are_plain_ones_over_the_whole_batch(both: tuple[dict, dict, dict]) -> None:
    state, first, second = both
    net = made_net()
    net.load_state_dict(state["net"])
    net[2].eval()  # whose statistics stay each worker's own, and are held fixed here to have something to compare with
    x = state["x"].clone().requires_grad_()
    whole = torch.nn.Sequential(*list(net)[:2])(x)
    pieces = [torch.nn.BatchNorm2d(3)(part) for part in whole.split([4, 3])]  # what the frozen norm does with each part
    y = net[4](net[3](torch.cat(pieces)))
    (y.square() * state["weight"]).mean().backward()
    torch.testing.assert_close(torch.cat([first["y"], second["y"]]), y.detach(), rtol=1e-4, atol=1e-5)
    # A worker's loss is weighed by share * count, and x is not averaged over workers: hence the halves.
    torch.testing.assert_close(torch.cat([first["x_grad"], second["x_grad"]]) / 2, x.grad, rtol=1e-3, atol=1e-5)
    for name, parameter in net.named_parameters():
        for found in (first, second):
            if parameter.requires_grad:
                torch.testing.assert_close(found["grads"][name], parameter.grad, rtol=1e-3, atol=1e-5)
            else:
                assert found["grads"][name] is None
    for found in (first, second):
        assert list(found["net"]) == list(net.state_dict())
        for name, value in net.state_dict().items():
            if not name.startswith("2."):
                torch.testing.assert_close(found["net"][name], value, rtol=1e-5, atol=1e-5)
    assert first["kinds"] == ["Conv2d", "SharedBatchNorm", "BatchNorm2d", "Flatten", "SharedBatchNorm"]
    assert not torch.equal(first["net"]["2.running_mean"], second["net"]["2.running_mean"])
    net.load_state_dict(first["net"])
    torch.testing.assert_close(net.eval()(state["x"]), first["evaluated"])


def test_moco_on_two_workers_is_moco_on_one(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset")
    recipe = {"encoders": [SMALL["moco"].model_dump(), {"name": "pixels"}], "train": {"batch_size": 15, "epochs": 2}}
    recipe["train"]["optimizer"] = MODERATE.model_dump()
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    call = ["train", dataset, "--encoder", "moco", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "two"]
    done = torchrun("-m", "hilum", *call)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"wrote {tmp_path / 'two'}\n"
    assert "Warning" not in done.stderr
    training.run(dataset, section("moco"), tmp_path / "one")
    agree("moco", tmp_path / "one", tmp_path / "two")
    cards = [json.loads((tmp_path / run / "card.json").read_text(encoding="utf-8")) for run in ("one", "two")]
    assert [card["workers"] for card in cards] == [1, 2]
    assert cards[0]["run"] == cards[1]["run"]


@pytest.mark.slow
def test_every_encoder_on_two_workers_is_the_same_as_on_one(tmp_path: Path) -> None:
    make_dataset(tmp_path / "dataset")
    recipes = {name: section(name) for name in [*BY_STEPS, "pixels", "imagenet"]}
    recipes["averaged"] = section("moco", ema=0.9)
    dumped = {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()}
    (tmp_path / "recipes.json").write_text(json.dumps(dumped), encoding="utf-8")
    done = torchrun(SCRIPT, "runs", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, recipe in recipes.items():
        one = training.run(tmp_path / "dataset", recipe, tmp_path / "one" / name)
        two = tmp_path / "two" / name
        if name in ("pixels", "imagenet"):
            a, b = (torch.load(run / "weights.pt", weights_only=True) for run in (one, two))
            assert all(torch.equal(a[key], b[key]) for key in a)
        else:
            agree(name, one, two)


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_a_run_begun_by_one_worker_goes_on_with_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "dataset")
    recipe = section("moco")
    (tmp_path / "recipes.json").write_text(json.dumps({"moco": recipe.model_dump(mode="json")}), encoding="utf-8")
    save = checkpoint.save

    def stop_after_an_epoch(folder: Path, state: dict, best: bool = False) -> None:
        save(folder, state, best)
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", stop_after_an_epoch)
        with pytest.raises(Stopped):
            training.run(tmp_path / "dataset", recipe, tmp_path / "two" / "moco")
    assert [line["step"] for line in metrics(tmp_path / "two" / "moco")] == [1, 2, 3, 4, 5]
    done = torchrun(SCRIPT, "runs", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    training.run(tmp_path / "dataset", recipe, tmp_path / "one")
    agree("moco", tmp_path / "one", tmp_path / "two" / "moco")


def test_a_loss_that_is_no_number_ends_all_workers_and_is_told_once(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset")
    recipe = {"encoders": [SMALL["moco"].model_dump(), {"name": "pixels"}], "train": {"batch_size": 15, "epochs": 2}}
    recipe["train"]["optimizer"] = {"learning_rate": 1e37, "warmup_share": 0}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    call = ["train", dataset, "--encoder", "moco", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "two"]
    done = torchrun("-m", "hilum", *call)
    assert done.returncode != 0
    (said,) = own_lines(done.stderr)
    assert "the loss is nan" in said
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path / "two"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("one_fails", "hilum: worker 1 cannot go on"),
        ("one_is_killed", "hilum: worker 0 of 2 lost the connection to another, which ended without a word; "),
    ],
)
def test_a_worker_that_fails_ends_the_others_soon(tmp_path: Path, case: str, sentence: str) -> None:
    then = time.monotonic()
    done = torchrun(SCRIPT, case, tmp_path)
    assert time.monotonic() - then < 120
    assert done.returncode != 0
    said = own_lines(done.stderr)
    # Torchrun may be faster at ending worker 0 than worker 0 at noticing that worker 1 was killed.
    assert [line[: len(sentence)] for line in said] == [sentence] or (case == "one_is_killed" and said == [])


def test_a_batch_with_fewer_images_than_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count", lambda: 8)
    workers.check_shareable(8)
    with pytest.raises(TrainingError, match="a batch of 6 images cannot be dealt to 8 workers; raise"):
        workers.check_shareable(6)

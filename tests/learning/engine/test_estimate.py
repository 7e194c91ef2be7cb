"""What a run would take: against hand counts, against measured memory, and without a trace on the disk."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small_encoders import SMALL
from torch import Tensor, nn

from hilum.cli import cli
from hilum.errors import TrainingError
from hilum.learning import encoders
from hilum.learning.engine import cost, estimate
from hilum.learning.engine.cost import of_step
from hilum.learning.engine.room import Room
from hilum.recipe import Augment, Backbone, Hessian, Moco, Supervised, Train, Vae

MB = 10**6


def operations_by_hand(module: nn.Module, x_BCHW: Tensor) -> int:
    """Of a network's convolutions and matrices: 2 for each multiplication, forward and for two gradients.

    The first convolution needs no gradient of its input, which is the image.
    """
    counts: list[int] = []

    def count(layer: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            counts.append(2 * out.numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1])
        elif isinstance(layer, nn.Linear):
            counts.append(2 * out.numel() * layer.in_features)

    for layer in module.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        module(x_BCHW)
    return 3 * sum(counts) - counts[0]


def test_operations_agree_with_a_count_by_hand() -> None:
    section = Supervised(backbone=Backbone(width=16), augment=Augment(blur=0.0))
    step = of_step(Train(encoder=section), 64, 6)
    net = encoders.build(section, 64).embedder
    head = 3 * 2 * 6 * net.dim  # to one label
    assert step.flops == operations_by_hand(net, torch.rand(6, 1, 64, 64)) + head
    assert step.trained == sum(parameter.numel() for parameter in net.parameters()) + net.dim + 1
    assert step.kept == step.trained - net.dim - 1


@pytest.mark.parametrize("name", SMALL)
def test_every_encoder_is_estimated_without_doing_its_arithmetic(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cost.log, "level", 10)
    before = torch.random.get_rng_state()
    step = of_step(Train(encoder=SMALL[name]), 32, 8)
    assert not caplog.records  # it says so where a step had to be taken in earnest
    assert torch.equal(before, torch.random.get_rng_state())
    assert step.parameters >= step.kept
    assert (step.flops > 0) == (step.trained > 0) == (step.bytes["activations"] > 0)
    twice = of_step(Train(encoder=SMALL[name]), 32, 16)
    assert twice.bytes["weights"] == step.bytes["weights"]
    assert twice.bytes["activations"] == pytest.approx(2 * step.bytes["activations"], rel=0.25)


def test_a_real_step_gives_what_a_fake_one_gives() -> None:
    """The way out for an encoder that cannot run on fakes."""
    recipe = Train(encoder=Vae(latent=16, channels=(16, 32)))
    encoder = encoders.build(recipe.encoder, 32)
    encoder.train()
    real, fake = cost._measured(encoder, recipe, 32, 8), of_step(recipe, 32, 8)
    assert real.flops == fake.flops
    assert real.all_bytes == pytest.approx(fake.all_bytes, rel=0.1)


def test_what_is_kept_of_each_weight_follows_the_recipe() -> None:
    def of(**changes: object) -> dict[str, int]:
        return of_step(Train.model_validate({"encoder": SMALL["vae"], **changes}), 32, 8).bytes

    adam = of()
    assert adam["weights"] == adam["gradients"]
    assert adam["optimizer"] == 2 * adam["weights"]
    assert adam["moving average"] == 0
    assert of(optimizer={"name": "sgd"})["optimizer"] == adam["weights"]
    assert 0 < of(ema=0.99)["moving average"] <= adam["weights"] + adam["buffers"]
    moco = of_step(Train(encoder=Moco(queue_size=1000, projection_dim=32)), 32, 4)
    assert moco.bytes["buffers"] >= 1000 * (32 * 4 + 8 + 1)
    assert moco.parameters == 2 * moco.trained  # the key encoder has as many, which no gradient moves


def test_a_penalty_of_every_other_step_counts_half() -> None:
    def flops(**changes: object) -> float:
        section = Vae(latent=8, channels=(8, 16), hessian=Hessian.model_validate(changes))
        return of_step(Train(encoder=section), 32, 4).flops

    without, always, sometimes = flops(), flops(weight=1.0), flops(weight=1.0, every_n_steps=2)
    assert always > without
    assert sometimes == pytest.approx((without + always) / 2)


MEASURED = """
import torch
from hilum.learning.engine import device
from hilum.learning.engine.cost import _batch
from hilum.learning.engine.draws import Draws
from hilum.learning.engine.optimizers import moved_by
from hilum.recipe import Backbone, Moco, Optimizer
from hilum.learning import encoders

encoder = encoders.build(Moco(), 64)
device.lay_out(encoder)
optimizer = moved_by(encoder, Optimizer())


def told(name):  # of this program alone: getrusage's peak also holds that of the process it was started from
    return 1024 * int(open("/proc/self/status").read().split(name)[1].split()[0])


before = told("VmRSS:")
before -= sum(4 * parameter.numel() for parameter in encoder.parameters())
for step in range(2):
    batch = _batch(encoder, 64, 32, step)
    encoder.loss(batch, Draws(step, 32)).backward()
    optimizer.step()
    encoder.after_step()
print(told("VmHWM:") - before)
"""


def test_estimated_memory_is_within_a_factor_of_two_of_what_a_step_takes() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    measured, estimated = int(done.stdout), of_step(Train(encoder=Moco()), 64, 32).all_bytes
    assert 0.5 < measured / estimated < 2.0, (measured, estimated)


def test_what_cannot_fit_is_refused_with_the_largest_batch_that_would() -> None:
    recipe = Train(encoder=SMALL["supervised"], batch_size=64)
    step = of_step(recipe, 32, 64)
    for free in (Room(12 * MB), Room(10**12, 2**30 + 9 * MB)):
        with pytest.raises(TrainingError, match=r"batch_size 64 needs about .* free in") as refused:
            estimate.refuse_what_cannot_fit(recipe, 32, step, free)
        most = int(str(refused.value).rsplit(" ", 1)[1])
        assert 2 <= most < 64
        estimate.refuse_what_cannot_fit(recipe, 32, of_step(recipe, 32, most - 1), free)
        with pytest.raises(TrainingError):
            estimate.refuse_what_cannot_fit(recipe, 32, of_step(recipe, 32, most + 2), free)
    with pytest.raises(TrainingError, match="no batch would fit: two images need"):
        estimate.refuse_what_cannot_fit(recipe, 32, step, Room(MB))
    estimate.refuse_what_cannot_fit(recipe, 32, step, Room(10**12))


def test_workers_share_a_batch(tiny_dataset: Path) -> None:
    recipe = Train(encoder=SMALL["supervised"], batch_size=16)
    alone, shared = (estimate.dry_run(tiny_dataset, recipe, n) for n in (1, 4))
    assert (alone.step.images, shared.step.images) == (16, 4)
    assert shared.step.bytes["activations"] < alone.step.bytes["activations"]
    assert shared.n_steps == alone.n_steps
    step = of_step(recipe, 32, 4)
    with pytest.raises(TrainingError) as refused:
        estimate.refuse_what_cannot_fit(recipe, 32, step, Room(int(1.7 * step.all_bytes)), 4)
    assert int(str(refused.value).rsplit(" ", 1)[1]) % 4 == 0


def test_a_dry_run_tells_and_leaves_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    held = sorted(path.name for path in tiny_dataset.iterdir())
    asked = [
        "train",
        str(tiny_dataset),
        "--encoder",
        "moco",
        "--epochs",
        "3",
        "--dry-run",
        "--out",
        str(tmp_path / "run"),
    ]
    shown = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert shown.exit_code == 0
    lines = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in shown.output.splitlines()}
    assert lines["store"].startswith("72 images, 73.7 kB, ")
    assert lines["steps"] == "2 an epoch, 6 in all"
    assert "1,325,600 trained, 1,226,912 kept, 2,651,200 in all" in lines["parameters"]
    assert "activations" in lines["memory"]
    assert "FLOP a step" in lines["arithmetic"]
    assert not list(tmp_path.iterdir())
    assert sorted(path.name for path in tiny_dataset.iterdir()) == held


def test_an_encoder_without_steps_says_so(tiny_dataset: Path) -> None:
    shown = CliRunner().invoke(cli, ["train", str(tiny_dataset), "--encoder", "pixels", "--dry-run"])
    assert shown.output.splitlines()[-1] == "steps       none: it is fitted directly"


def test_training_without_a_folder_is_a_usage_error(tiny_dataset: Path) -> None:
    done = CliRunner().invoke(cli, ["train", str(tiny_dataset)])
    assert "name the folder of the run with --out" in str(done.exception)


@pytest.mark.slow
def test_the_largest_encoder_of_the_sources_is_estimated_in_seconds() -> None:
    """The diffusion autoencoder at 256 pixels: 119 million parameters and more."""
    section = {"name": "diffae", "channels": [128, 128, 256, 256, 512, 512], "attention_levels": [4]}
    recipe = Train.model_validate({"encoder": section, "precision": "bfloat16"})
    step = of_step(recipe, 256, 64)
    assert step.parameters > 100e6
    assert 20e9 < step.bytes["activations"] < 200e9

"""The variational autoencoder: its loss against loops in float64, and what its embedding is."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from making import make_dataset
from small_encoders import STILL
from torch import Tensor

from hilum.data.store import Dataset
from hilum.errors import UsageError
from hilum.learning import encoders, training
from hilum.learning.embedding import DECODER, onnx_module
from hilum.learning.encoders.vae import (
    FINEST_WIDTH,
    LOG_VARIANCE_BOUND,
    VariationalAutoencoder,
    kl_to_prior,
    negative_log_likelihood,
    warmed,
)
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.recipe import Augment, Hessian, Optimizer, Train, Vae

SIZE = 32
GROUP = Vae(latent=8, channels=(8, 16, 16), norm="group")


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> TrainImages:
    return TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu"))


@pytest.fixture
def batch(images: TrainImages) -> Batch:
    return images.batch(torch.arange(6), done=0.5)


def made(section: Vae, images: TrainImages) -> VariationalAutoencoder:
    encoder = encoders.build(section, SIZE)
    encoder.fit(images, seed=0)
    assert isinstance(encoder, VariationalAutoencoder)
    return encoder.train()


def naive_likelihood(y: list[list[float]], x: list[list[float]], kind: str) -> float:
    """-log p(x | z) of each pixel by its density, at the width of the whole batch, summed; the mean over images."""
    apart = [abs(a - b) for one, other in zip(y, x, strict=True) for a, b in zip(one, other, strict=True)]
    width = math.sqrt(sum(d * d for d in apart) / len(apart)) if kind == "mse" else sum(apart) / len(apart)
    total = 0.0
    for d in apart:
        if kind == "mse":
            total -= math.log(math.exp(-0.5 * (d / width) ** 2) / (width * math.sqrt(2 * math.pi)))
        else:
            total -= math.log(math.exp(-d / width) / (2 * width))
    return total / len(x)


def naive_kl(mu: list[float], log_variance: list[float]) -> float:
    """Kingma and Welling 2014, appendix B, one coordinate at a time."""
    total = 0.0
    for m, s in zip(mu, log_variance, strict=True):
        total += -0.5 * (1 + s - m**2 - math.exp(s))
    return total


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_the_likelihood_is_the_density_of_every_pixel(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    y, x = (torch.rand(3, 1, 4, 5, generator=generator) for _ in range(2))
    expected = naive_likelihood(y.flatten(1).double().tolist(), x.flatten(1).double().tolist(), kind)
    assert negative_log_likelihood(y, x, kind).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_the_width_is_the_best_one_and_its_gradient_is_counted(kind: str) -> None:
    """Rybkin et al. 2021, equation 5: P / 2 times the log of the mean squared error, with a gradient through it."""
    generator = torch.Generator().manual_seed(0)
    y, x = (torch.rand(3, 1, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(negative_log_likelihood(y, x, kind), y)
    profile = 10 * torch.log((y - x).square().mean()) if kind == "mse" else 20 * torch.log((y - x).abs().mean())
    (expected,) = torch.autograd.grad(profile, y)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_a_perfect_reconstruction_is_no_infinite_likelihood(kind: str) -> None:
    x = torch.rand(2, 1, 4, 4)
    loss = negative_log_likelihood(x.clone().requires_grad_(), x, kind)
    loss.backward()
    spread = math.log(2 * math.pi * FINEST_WIDTH**2) / 2 if kind == "mse" else math.log(2 * FINEST_WIDTH)
    assert loss.item() == pytest.approx(16 * spread, rel=1e-5)
    levels = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    assert pytest.approx((levels - (levels * 255).round() / 255).std().item(), rel=1e-3) == FINEST_WIDTH


def test_kl_is_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    mu, log_variance = (torch.randn(4, 6, generator=generator) for _ in range(2))
    expected = [naive_kl(m, s) for m, s in zip(mu.double().tolist(), log_variance.double().tolist(), strict=True)]
    assert kl_to_prior(mu, log_variance).tolist() == pytest.approx(expected, rel=1e-5)
    assert kl_to_prior(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0


def test_the_kl_is_warmed_up_in_a_line() -> None:
    assert [warmed(done, 0.2) for done in (0.0, 0.05, 0.1, 0.2, 0.9)] == pytest.approx([0, 0.25, 0.5, 1, 1])
    assert warmed(0.0, 0.0) == 1.0


@pytest.mark.parametrize("reconstruction", ["mse", "l1"])
@pytest.mark.parametrize("done", [0.0, 0.1, 0.5])
def test_the_loss_is_the_negative_bound(images: TrainImages, reconstruction: str, done: float) -> None:
    encoder = made(GROUP.model_copy(update={"reconstruction": reconstruction, "kl_weight": 3.0}), images)
    batch = images.batch(torch.arange(6), done=done)
    loss = encoder.loss(batch, Draws(5, 6))
    mu, log_variance = encoder.posterior(batch.x_BCHW)
    z = mu + torch.exp(log_variance / 2) * Draws(5, 6).normal(8)
    y, x = (image.flatten(1).double().tolist() for image in (encoder.decoder(z), batch.x_BCHW))
    likelihood = naive_likelihood(y, x, reconstruction)
    divergences = [naive_kl(m, s) for m, s in zip(mu.double().tolist(), log_variance.double().tolist(), strict=True)]
    kl = sum(divergences) / 6
    assert loss.item() == pytest.approx(likelihood + 3.0 * min(1.0, done / 0.2) * kl, rel=1e-4)
    assert encoder.told["reconstruction"].item() == pytest.approx(likelihood, rel=1e-4)
    assert encoder.told["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert set(encoder.told) == {"reconstruction", "kl", "active_units"}
    assert not any(value.requires_grad for value in encoder.told.values())


def test_the_embedding_is_mu_in_training_and_in_evaluation(images: TrainImages, batch: Batch) -> None:
    encoder = made(GROUP, images)
    with torch.no_grad():
        encoder.log_variance.bias.fill_(5.0)  # noise that could not be overlooked
        mu, log_variance = encoder.posterior(batch.x_BCHW)
        assert log_variance.min() > 3
        assert torch.equal(encoder.encode(batch.x_BCHW), mu)
        assert torch.equal(encoder.embedder(batch.x_BCHW), encoder.eval().embedder(batch.x_BCHW))
        normalised = (batch.x_BCHW - encoder.embedder.mean) / encoder.embedder.std
        features = encoder.embedder.net(normalised)
        torch.testing.assert_close(mu, features @ encoder.embedder.mu.weight.T + encoder.embedder.mu.bias)
    assert not any("log_variance" in name for name in encoder.embedder.state_dict())


def test_units_that_do_not_move_are_not_active(images: TrainImages, batch: Batch) -> None:
    encoder = made(GROUP, images)
    with torch.no_grad():
        encoder.embedder.mu.weight[3:] = 0
        encoder.embedder.mu.weight[:3] *= 100
        encoder.loss(batch, Draws(0, 6))
    assert encoder.told["active_units"].item() == 3


def test_a_wild_log_variance_stays_finite_and_finds_back(images: TrainImages, batch: Batch) -> None:
    encoder = made(GROUP, images)
    for wild in (-30.0, 30.0):
        with torch.no_grad():
            encoder.log_variance.bias.fill_(wild)
        _, log_variance = encoder.posterior(batch.x_BCHW)
        assert log_variance.abs().max() <= LOG_VARIANCE_BOUND
        loss = encoder.loss(batch, Draws(0, 6))
        (gradient,) = torch.autograd.grad(loss, encoder.log_variance.bias)
        assert torch.isfinite(loss)
        if wild > 0:
            assert (gradient > 0).all()  # down the gradient is back


def test_views_are_what_is_reconstructed(images: TrainImages, batch: Batch) -> None:
    plain, same, varied = (
        made(GROUP.model_copy(update={"augment": section}), images).loss(batch, Draws(0, 6)).item()
        for section in (None, STILL, Augment(noise=0.3))
    )
    assert same == pytest.approx(plain, rel=0.05)  # another draw of the noise, and resampling in place
    assert abs(varied - plain) > 0.05 * abs(plain)


def test_the_hessian_penalty_is_on_the_decoder_at_mu_when_it_is_due(images: TrainImages) -> None:
    section = Hessian(weight=50.0, every_n_steps=2, reduction="sum", layers=("stages.0.1.residual.1",))
    with_it, without = made(GROUP.model_copy(update={"hessian": section}), images), made(GROUP, images)
    for step in (0, 1):
        batch = images.batch(torch.arange(6), step=step, done=0.5)
        loss, base = (encoder.loss(batch, Draws(1, 6)).item() for encoder in (with_it, without))
        assert ("hessian" in with_it.told) == (step == 0)
        raw = with_it.told["hessian"].item() if step == 0 else 0.0
        assert loss == pytest.approx(base + 100.0 * raw, rel=1e-5)
        assert (raw > 0) == (step == 0)


def test_a_layer_that_the_decoder_has_not_is_refused() -> None:
    with pytest.raises(UsageError, match=r"hessian\.layers names 'stages\.9'; the generator's modules are spread"):
        encoders.build(GROUP.model_copy(update={"hessian": Hessian(layers=("stages.9",))}), SIZE)


def test_a_size_that_the_stages_do_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="36 pixels cannot be halved so often"):
        encoders.build(GROUP, 36)


def test_what_is_kept_draws_the_images_again(tmp_path: Path) -> None:
    """From the run's folder alone: images to mu to images, nearer to the images than their mean is."""
    dataset = make_dataset(tmp_path / "dataset", n_patients=40)
    recipe = Train(
        encoder=GROUP.model_copy(update={"hessian": Hessian(weight=1e-3, every_n_steps=3)}),
        epochs=40,
        batch_size=16,
        optimizer=Optimizer(learning_rate=3e-3),
    )
    run = training.run(dataset, recipe, tmp_path / "run")
    decoder = encoders.build(recipe.encoder, SIZE).decoder
    assert decoder is not None
    decoder.load_state_dict(torch.load(run / DECODER, weights_only=True))
    opened = Dataset.open(dataset)
    held_out = torch.from_numpy(opened.images[opened.rows(splits=["val", "test"])])[:, None] / 255.0
    train = torch.from_numpy(opened.images[opened.rows(splits=["train"])])[:, None] / 255.0
    with torch.inference_mode():
        drawn: Tensor = decoder.eval()(onnx_module(run)(held_out))
    assert (drawn - held_out).square().mean() < 0.7 * (train.mean(dim=0) - held_out).square().mean()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert ["hessian" in line for line in lines[:6]] == [True, False, False, True, False, False]
    assert {"reconstruction", "kl", "active_units"} <= set(lines[0])


ON_WORKERS = """
import sys
import numpy as np, torch
from hilum.learning import encoders
from hilum.learning.engine import workers
from hilum.learning.engine.batches import Batch
from hilum.learning.engine.draws import Draws
from hilum.recipe import Hessian, Vae

torch.set_num_threads(1)
found = []
with workers.together():
    for images in (1, 5):  # of a single image the second worker has none
        hessian = Hessian(weight=10.0, images=images, layers=("spread.1", "stages.0.1"))
        encoder = encoders.build(Vae(latent=4, channels=(8, 8), norm="group", hessian=hessian), 16).train()
        x = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))[workers.part_of(5)]
        no, share = torch.zeros(len(x), dtype=torch.int64), len(x) / 5
        batch = Batch(x, np.arange(5), no, no, torch.zeros(len(x), 0), n=5, done=0.1)
        loss = encoder.loss(batch, Draws(1, 5)) * share
        loss.backward()
        found += [loss.detach(), *(told * share for told in encoder.told.values())]
        found += [parameter.grad for parameter in encoder.parameters()]
    if workers.count() > 1:
        for value in found:
            torch.distributed.all_reduce(value)
    torch.save(found, f"{sys.argv[1]}-{workers.count()}.pt")
"""


def test_two_workers_have_the_loss_and_the_gradient_of_one(tmp_path: Path) -> None:
    """The likelihood's width and the penalty's largest element are those of the global batch."""
    (tmp_path / "script.py").write_text(ON_WORKERS, encoding="utf-8")
    call = [str(tmp_path / "script.py"), str(tmp_path / "found")]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for options in ([], torchrun):
        done = subprocess.run(
            [sys.executable, *options, *call],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"found-{n}.pt", weights_only=True) for n in (1, 2))
    assert len(one) == len(two) > 20
    for mine, its in zip(one, two, strict=True):
        torch.testing.assert_close(its, mine, rtol=1e-3, atol=1e-4 * float(mine.abs().max()))
    raw = [told[4].item() for told in (one, one[len(one) // 2 :])]
    assert 0 < raw[0] < raw[1]  # of more images the largest is larger

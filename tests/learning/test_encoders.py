"""What every encoder promises, asked of every encoder that there is; and moco's own rules."""

from pathlib import Path

import pytest
import torch
from small_encoders import BY_STEPS, SIZE, SMALL

from hilum import recipe
from hilum.data.store import Dataset
from hilum.errors import UsageError
from hilum.learning import encoders
from hilum.learning.engine.batches import TrainImages
from hilum.learning.encoders import ENCODERS, Encoder
from hilum.learning.encoders.moco import MomentumContrast
from hilum.recipe import Augment, Backbone, Moco


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> TrainImages:
    return TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def fitted(name: str, images: TrainImages) -> Encoder:
    encoder = encoders.build(SMALL[name], SIZE)
    encoder.fit(images, seed=0)
    return encoder


def test_every_section_has_its_encoder_and_every_encoder_its_test() -> None:
    assert list(ENCODERS) == list(recipe.ENCODER_SECTIONS) == list(SMALL)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no encoder 'Optimizer'; there are moco, pixels"):
        encoders.build(recipe.Optimizer(), SIZE)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_seed_decides_the_weights_and_leaves_torchs_generator_alone(name: str, images: TrainImages) -> None:
    before = torch.random.get_rng_state()
    first, second = (fitted(name, images).state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(first) > 0


@pytest.mark.parametrize("name", ENCODERS)
def test_embeddings_are_repeatable_and_independent_of_batch_mates(name: str, images: TrainImages) -> None:
    encoder = fitted(name, images).eval()
    x = images.batch(torch.arange(12)).x_BCHW
    with torch.inference_mode():
        z = encoder.encode(x)
        assert z.shape == (12, encoder.dim)
        assert z.dtype == torch.float32
        assert z.std(dim=0).max() > 0
        assert torch.equal(z, encoder.encode(x))
        alone = torch.cat([encoder.encode(x[i : i + 1]) for i in range(12)])
        torch.testing.assert_close(z, alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(z[[5, 2]], encoder.encode(x[[5, 2]]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_state_that_is_saved_and_loaded_is_the_same_encoder(name: str, images: TrainImages, tmp_path: Path) -> None:
    encoder = fitted(name, images).eval()
    torch.save(encoder.state_dict(), tmp_path / "state.pt")
    other = encoders.build(SMALL[name], SIZE, seed=5).eval()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x = images.batch(torch.arange(4)).x_BCHW
    assert torch.equal(encoder.encode(x), other.encode(x))


@pytest.mark.parametrize("name", BY_STEPS)
def test_gradients_reach_every_parameter_that_is_trained(
    name: str, images: TrainImages, generator: torch.Generator
) -> None:
    encoder = fitted(name, images).train()
    trained = {key: p for key, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    encoder.loss(images.batch(torch.arange(16)), generator).backward()
    without = [key for key, p in trained.items() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad is None for p in encoder.parameters() if not p.requires_grad)


@pytest.mark.parametrize("name", BY_STEPS)
def test_a_loss_that_no_step_follows_leaves_averages_and_queues(
    name: str, images: TrainImages, generator: torch.Generator
) -> None:
    encoder = fitted(name, images).eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with torch.no_grad():
        assert torch.isfinite(encoder.loss(images.batch(torch.arange(16)), generator))
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_pixels_takes_no_steps(images: TrainImages) -> None:
    assert not any(p.requires_grad for p in fitted("pixels", images).parameters())


def test_pixels_are_scores_on_the_components(images: TrainImages) -> None:
    """Over the train images scores have mean 0, are uncorrelated, and fall in variance."""
    encoder = fitted("pixels", images)
    z = encoder.encode(images.batch(torch.arange(len(images))).x_BCHW).double()
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(8, dtype=torch.float64), atol=1e-6, rtol=0)
    covariance = torch.cov(z.T)
    variance = covariance.diagonal()
    assert (variance.diff() < 0).all()
    off = covariance - torch.diag(variance)
    assert off.abs().max() < 1e-5 * variance[0]


STILL = Augment(
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    rotate_degrees=0,
    brightness=0,
    contrast=0,
    gamma=0,
    blur=0,
    noise=0,
)


def still(images: TrainImages) -> MomentumContrast:
    """A moco whose views are the images and whose normalisation looks at one image at a time."""
    section = Moco(backbone=Backbone(width=8, norm="group"), projection_dim=16, queue_size=24, augment=STILL)
    encoder = encoders.build(section, SIZE)
    encoder.fit(images, seed=0)
    assert isinstance(encoder, MomentumContrast)
    return encoder.train()


def test_mocos_loss_over_two_steps_is_the_papers_without_same_patient_keys(
    images: TrainImages, generator: torch.Generator
) -> None:
    encoder = still(images)
    first, second = images.batch(torch.arange(10)), images.batch(torch.arange(6, 16))
    with torch.no_grad():
        encoder.loss(first, generator)
        queued = torch.nn.functional.normalize(encoder.key(first.x_BCHW), dim=1).double()
        encoder.after_step()
        loss = encoder.loss(second, generator)
        q = torch.nn.functional.normalize(encoder.projection(encoder.embedder(second.x_BCHW)), dim=1).double()
        k = torch.nn.functional.normalize(encoder.key(second.x_BCHW), dim=1).double()
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


def test_mocos_key_encoder_follows_by_equation_2(images: TrainImages, generator: torch.Generator) -> None:
    encoder = still(images)
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    before = [p.clone() for p in encoder.key.parameters()]
    encoder.loss(images.batch(torch.arange(12)), generator).backward()
    optimizer.step()
    encoder.after_step()
    query = [*encoder.embedder.parameters(), *encoder.projection.parameters()]
    for key, old, q in zip(encoder.key.parameters(), before, query, strict=True):
        torch.testing.assert_close(key, 0.99 * old + 0.01 * q, atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(key, old) for key, old in zip(encoder.key.parameters(), before, strict=True))
    assert int(encoder.queue.valid_K.sum()) == 12


def test_mocos_batch_statistics_are_not_shared_by_query_and_positive(
    images: TrainImages, generator: torch.Generator
) -> None:
    """With batch normalisation the keys of a batch are computed in two shuffled groups, and come back in order."""
    encoder = encoders.build(SMALL["moco"].model_copy(update={"augment": STILL}), SIZE)
    assert isinstance(encoder, MomentumContrast)
    x = images.batch(torch.arange(16)).x_BCHW
    with torch.no_grad():
        together = torch.nn.functional.normalize(encoder.train().key(x), dim=1)
        apart = encoder._keys(x, generator)
        assert not torch.allclose(together, apart, atol=1e-3)
        encoder.eval()
        in_order = torch.nn.functional.normalize(encoder.key(x), dim=1)
        torch.testing.assert_close(encoder._keys(x, generator), in_order, atol=1e-5, rtol=1e-5)

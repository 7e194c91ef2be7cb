"""What every encoder promises, asked of every encoder that there is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from making import make_dataset
from small_encoders import BY_STEPS, SIZE, SMALL

from hilum import recipe
from hilum.data.store import Dataset
from hilum.errors import UsageError
from hilum.learning import encoders
from hilum.learning.encoders import ENCODERS, Encoder
from hilum.learning.engine.batches import TrainImages
from hilum.learning.engine.draws import Draws

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> TrainImages:
    return TrainImages(Dataset.open(tiny_dataset), "XR", CPU)


def fitted(name: str, images: TrainImages) -> Encoder:
    """Ready for its first step; from now on `images` gives batches as this encoder wants them."""
    encoder = encoders.build(SMALL[name], SIZE)
    encoder.fit(images, seed=0)
    images.attend(encoder.labels, encoder.pairing)
    return encoder


def draws(n: int = 16, seed: int = 0) -> Draws:
    return Draws(seed, n)


def test_every_section_has_its_encoder_and_every_encoder_its_test() -> None:
    assert list(ENCODERS) == list(recipe.ENCODER_SECTIONS) == list(SMALL)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no encoder 'Gate'; there are vae, diffae, moco, "):
        encoders.build(recipe.Gate(), SIZE)


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
def test_gradients_reach_every_parameter_that_is_trained(name: str, images: TrainImages) -> None:
    """Within three steps: a layer that begins at zero, as a U-Net's last does, first hides those before it."""
    encoder = fitted(name, images).train()
    trained = {key: p for key, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    optimizer, without = torch.optim.SGD(trained.values(), lr=1e-2), set(trained)
    for step in range(3):
        optimizer.zero_grad()
        encoder.loss(images.batch(torch.arange(16), step=step, done=step / 3), draws(seed=step)).backward()
        missing = [key for key, p in trained.items() if p.grad is None]
        assert missing == [], "data parallelism wants a gradient, be it zero, of every parameter at every step"
        without -= {key for key, p in trained.items() if p.grad.any()}
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        encoder.after_step()
    assert without == set()
    assert all(p.grad is None for p in encoder.parameters() if not p.requires_grad)


@pytest.mark.parametrize("name", BY_STEPS)
def test_a_loss_that_no_step_follows_leaves_averages_and_queues(name: str, images: TrainImages) -> None:
    encoder = fitted(name, images).eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with torch.no_grad():
        assert torch.isfinite(encoder.loss(images.batch(torch.arange(16)), draws()))
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", BY_STEPS)
def test_a_loss_is_a_function_of_weights_batch_and_draws(name: str, images: TrainImages) -> None:
    """Dropout apart, torch's own generator decides nothing."""
    encoder = fitted(name, images).train()
    batch, losses = images.batch(torch.arange(16)), []
    for seed, drawn in ((1, 7), (2, 7), (1, 8)):
        torch.manual_seed(seed)
        losses.append(encoder.loss(batch, draws(seed=drawn)).item())
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("name", BY_STEPS)
def test_losses_and_embeddings_are_float32_under_autocast(name: str, images: TrainImages) -> None:
    encoder = fitted(name, images).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = encoder.loss(images.batch(torch.arange(16)), draws())
        assert encoder.encode(torch.rand(2, 1, SIZE, SIZE)).dtype == torch.float32
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", BY_STEPS)
def test_what_is_told_are_detached_scalars_of_other_names(name: str, images: TrainImages) -> None:
    encoder = fitted(name, images).train()
    encoder.loss(images.batch(torch.arange(16)), draws())
    taken = {"step", "epoch", "lr", "loss", "gradient_norm", "images_per_s", "embedding_rank", "embedding_std"}
    assert not set(encoder.told) & taken
    for value in encoder.told.values():
        assert value.numel() == 1
        assert not value.requires_grad


@pytest.mark.parametrize("name", ENCODERS)
def test_no_batch_of_a_whole_run_holds_a_held_out_patient(name: str, tiny_dataset: Path) -> None:
    """From the rows that the loader yields, partners included."""
    images = TrainImages(Dataset.open(tiny_dataset), "XR", CPU)
    encoder = fitted(name, images)
    manifest = Dataset.open(tiny_dataset).manifest
    held_out = set(manifest["patient_id"][manifest["split"] != "train"])
    per_epoch = images.batches_per_epoch(16)
    seen, partnered = np.zeros(len(manifest), dtype=int), 0
    for batch in images.stream(0, 3 * per_epoch, seed=0, batch_size=16):
        assert set(manifest["split"].iloc[batch.rows_G]) == {"train"}
        assert not set(manifest["patient_id"].iloc[batch.rows_G]) & held_out
        seen[batch.rows_G[: batch.n]] += 1
        partnered += len(batch.rows_G) - batch.n
    assert (seen == 3 * (manifest["split"] == "train")).all()
    assert partnered == (3 * len(images) if encoder.pairing else 0)
    assert (encoder.pairing is not None) == (name in ("medaug", "discern"))


@pytest.mark.parametrize("name", ENCODERS)
def test_a_decoder_makes_images_of_embeddings_or_there_is_none(name: str, images: TrainImages) -> None:
    encoder = fitted(name, images).eval()
    assert (encoder.decoder is not None) == (name in ("vae", "diffae"))
    inside = {id(p) for p in encoder.parameters()}
    kept = [encoder.embedder] if encoder.decoder is None else [encoder.embedder, encoder.decoder]
    assert all(id(p) in inside for net in kept for p in net.parameters())
    assert not {id(p) for p in kept[0].parameters()} & {id(p) for net in kept[1:] for p in net.parameters()}


@pytest.mark.parametrize("name", BY_STEPS)
def test_the_hot_networks_are_the_encoders_own(name: str, images: TrainImages) -> None:
    encoder = fitted(name, images)
    modules = set(encoder.modules())
    assert encoder.hot()
    assert all(net in modules for net in encoder.hot())


@pytest.mark.parametrize("name", ENCODERS)
def test_any_batch_size_from_one_is_embedded(name: str, tmp_path: Path) -> None:
    images = TrainImages(Dataset.open(make_dataset(tmp_path / "dataset", n_patients=10)), "XR", CPU)
    encoder = fitted(name, images).eval()
    with torch.inference_mode():
        for n in (1, 2, 5):
            assert encoder.encode(torch.rand(n, 1, SIZE, SIZE)).shape == (n, encoder.dim)

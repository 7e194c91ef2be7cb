"""The diffusion autoencoder's loss, its penalty, and what it keeps."""

from pathlib import Path

import pytest
import torch

from hilum import recipe
from hilum.data.store import Dataset
from hilum.errors import UsageError
from hilum.learning import encoders
from hilum.learning.encoders import diffae
from hilum.learning.encoders.diffae import DiffusionAutoencoder
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.recipe import Augment, Backbone, Diffae, Hessian, Train

SIZE = 32
SMALL = Diffae(
    semantic=12,
    backbone=Backbone(width=8, norm="group"),
    channels=(8, 16),
    blocks=1,
    attention_levels=(1,),
    dropout=0,
)
RECIPES = Path(__file__).resolve().parents[3] / "pipelines" / "recipes"


def made(**changes: object) -> DiffusionAutoencoder:
    encoder = encoders.build(SMALL.model_copy(update=changes), SIZE)
    assert isinstance(encoder, DiffusionAutoencoder)
    return encoder.eval()


@pytest.fixture(scope="module")
def batch(tiny_dataset: Path) -> Batch:
    return TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu")).batch(torch.arange(6))


def test_the_loss_is_the_papers_at_the_drawn_noise_and_times(batch: Batch) -> None:
    """Preechakul et al. 2022, equation 6, by a loop over images in float64."""
    encoder, draws = made(), Draws(3, 6)
    t, noise = draws.integers(1000), draws.normal(1, SIZE, SIZE)
    assert len(set(t.tolist())) > 3
    loss, alpha_bar, total = encoder.loss(batch, Draws(3, 6)), 1.0, 0.0
    left = []
    for step in range(1000):
        alpha_bar *= 1.0 - (1e-4 + (0.02 - 1e-4) * step / 999)
        left.append(alpha_bar)
    with torch.no_grad():
        for image in range(6):
            a, x0 = left[int(t[image])], 2 * batch.x_BCHW[image].double() - 1
            xt = (a**0.5 * x0 + (1 - a) ** 0.5 * noise[image].double()).float()
            z = encoder.encode(batch.x_BCHW[image : image + 1])
            found = encoder.decoder.unet(xt[None], t[image : image + 1], class_labels=z).sample[0].double()
            total += float((found - noise[image].double()).square().sum())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(total / (6 * SIZE**2), rel=1e-4)
    assert encoder.told["noise_mse"].item() == loss.item()


def test_it_tells_how_far_embeddings_differ(batch: Batch) -> None:
    encoder = made()
    encoder.loss(batch, Draws(0, 6))
    z = encoder.encode(batch.x_BCHW)
    expected = ((z - z.mean(dim=0)) ** 2).mean(dim=0).sqrt().mean()
    assert encoder.told["feature_std"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert not encoder.told["feature_std"].requires_grad


def test_the_embedding_moves_the_loss(batch: Batch) -> None:
    encoder = made().train()
    encoder.loss(batch, Draws(0, 6)).backward()
    for name, parameter in encoder.embedder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_changed_view_is_embedded_and_the_film_itself_is_denoised(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = made(augment=Augment())
    seen: dict[str, torch.Tensor] = {}
    encoder.embedder.register_forward_pre_hook(lambda _, given: seen.update(view=given[0]))
    noised = encoder.decoder.noised

    def watched(x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen["film"] = x
        return noised(x, noise, t)

    monkeypatch.setattr(encoder.decoder, "noised", watched)
    encoder.loss(batch, Draws(0, 6))
    torch.testing.assert_close(seen["film"], batch.x_BCHW * 2 - 1)
    assert (seen["view"] - batch.x_BCHW).abs().mean() > 0.01


def test_the_penalty_is_added_with_its_weight_and_told_raw(batch: Batch) -> None:
    plain = made().loss(batch, Draws(0, 6))
    encoder = made(hessian=Hessian(weight=2.0, images=4))
    loss = encoder.loss(batch, Draws(0, 6))
    raw = encoder.told["hessian"]
    assert raw > 0
    assert loss.item() == pytest.approx(plain.item() + 2.0 * raw.item(), rel=1e-5)
    assert encoder.told["noise_mse"].item() == pytest.approx(plain.item(), rel=1e-6)


def test_the_penalty_vanishes_for_a_denoiser_that_is_linear_in_the_embedding(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = made(hessian=Hessian(weight=1.0, images=4))
    monkeypatch.setattr(
        encoder.decoder, "forward", lambda x, t, z: x * z.mean(dim=1)[:, None, None, None] + z[:, :1, None, None]
    )
    encoder.loss(batch, Draws(0, 6))
    assert encoder.told["hessian"].item() == pytest.approx(0, abs=1e-4)


def test_it_keeps_an_average_of_both_networks_and_compiles_both() -> None:
    encoder = made()
    assert encoder.ema == 0.9999
    assert encoder.hot() == [encoder.embedder, encoder.decoder]
    assert not any(key.startswith("hessian") for key in encoder.state_dict())


def test_the_width_of_the_embedding_is_free_of_the_backbones() -> None:
    encoder = made(semantic=20)
    assert encoder.dim == 20
    assert encoder.embedder.features.dim == 64
    assert encoder.encode(torch.rand(2, 1, SIZE, SIZE)).shape == (2, 20)


def test_images_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(UsageError, match="33 pixels cannot be halved 1 times"):
        encoders.build(SMALL, 33)


@pytest.mark.parametrize(("name", "rate", "batch_size"), [("chexpert", 5e-4, 64), ("gnc", 1e-3, 5)])
def test_the_sources_recipes_hold_their_settings(name: str, rate: float, batch_size: int) -> None:
    """METHOD section 11, the table of hyperparameters, and section 5, the network of 118.8 million parameters."""
    whole = recipe.read(RECIPES / "sources" / f"{name}-diffae.yaml")
    modality = "XR" if name == "chexpert" else "MR"
    section: Train = whole.train_of("diffae", modality)
    assert isinstance(section.encoder, Diffae)
    assert whole.ingest.preprocessing.size == 256
    assert (section.optimizer.learning_rate, section.batch_size) == (rate, batch_size)
    assert (section.encoder.semantic, section.encoder.hessian.weight, section.ema) == (512, 1.0, 0.9999)
    with torch.device("meta"):
        encoder = diffae.build(section.encoder, 256)
    parameters = sum(parameter.numel() for parameter in encoder.decoder.parameters())
    assert round(parameters / 1e6, 1) == 118.8


def test_the_small_recipe_is_whole() -> None:
    whole = recipe.read(RECIPES / "small" / "diffae.yaml")
    section = whole.train_of("diffae", "XR")
    encoders.build(section.encoder, whole.ingest.preprocessing.size)

"""`imagenet` stays as it was on ImageNet; and other encoders may begin where it is."""

from pathlib import Path

import pytest
import torch
from small_encoders import FROZEN, SIZE, SMALL
from weights_files import imagenet_state

from hilum.data.store import Dataset
from hilum.errors import UsageError
from hilum.learning import embedding, encoders, training
from hilum.learning.engine.batches import TrainImages
from hilum.learning.nets.embedder import Embedder, embedder
from hilum.recipe import Backbone, Imagenet, Train


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> TrainImages:
    return TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu"))


def test_nothing_in_it_is_trained_or_moved_by_a_batch(images: TrainImages) -> None:
    encoder = encoders.build(SMALL["imagenet"], SIZE)
    encoder.fit(images, seed=0)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    encoder.encode(images.batch(torch.arange(16)).x_BCHW)
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in before.items())


def test_its_embedding_is_the_files_network_and_nothing_of_the_dataset(images: TrainImages) -> None:
    first, second = (encoders.build(SMALL["imagenet"], SIZE, seed=seed) for seed in (0, 1))
    first.fit(images, seed=0)
    second.fit(images, seed=1)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert float(first.embedder.mean) == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert float(first.embedder.std) == pytest.approx((0.229 + 0.224 + 0.225) / 3)
    state = imagenet_state(FROZEN)
    assert torch.equal(first.state_dict()["embedder.net.layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    z = first.encode(images.batch(torch.arange(8)).x_BCHW)
    assert z.shape == (8, 64)
    assert z.min() >= 0


def test_a_finished_run_needs_the_file_no_more(tiny_dataset: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(imagenet_state(FROZEN), weights)
    section = Imagenet(backbone=FROZEN.model_copy(update={"weights": str(weights)}))
    out = training.run(tiny_dataset, Train(encoder=section), tmp_path / "run")
    assert not (out / "metrics.jsonl").exists()
    weights.unlink()
    module = embedding.onnx_module(out)
    encoder = encoders.build(SMALL["imagenet"], SIZE)
    encoder.fit(TrainImages(Dataset.open(tiny_dataset), "XR", torch.device("cpu")), seed=0)
    x = torch.rand(3, 1, SIZE, SIZE)
    assert torch.equal(module(x), encoder.encode(x))


def stem(embedder: Embedder, x: torch.Tensor) -> torch.Tensor:
    return embedder.net.bn1(embedder.net.conv1((x - embedder.mean) / embedder.std))


@pytest.mark.parametrize("name", ["moco", "supervised"])
def test_other_encoders_may_begin_with_imagenet_weights(name: str, images: TrainImages) -> None:
    """Whatever the train images' mean and spread are, the network in eval mode begins as the frozen one."""
    section = SMALL[name].model_copy(update={"backbone": FROZEN})
    encoder, frozen = encoders.build(section, SIZE), encoders.build(SMALL["imagenet"], SIZE)
    encoder.fit(images, seed=0)
    frozen.fit(images, seed=0)
    assert float(encoder.embedder.mean) != float(frozen.embedder.mean)
    x = images.batch(torch.arange(4)).x_BCHW
    with torch.inference_mode():
        maps = [stem(e.eval().embedder, x) for e in (encoder, frozen)]
    torch.testing.assert_close(maps[0][:, :, 2:-2, 2:-2], maps[1][:, :, 2:-2, 2:-2], atol=1e-4, rtol=1e-4)
    assert any(parameter.requires_grad for parameter in encoder.embedder.parameters())
    if name == "moco":
        key = encoder.key[0].state_dict()
        assert all(torch.equal(value, key[k]) for k, value in encoder.embedder.state_dict().items())


def test_an_encoder_without_weights_of_its_name_is_refused_when_fitted(images: TrainImages) -> None:
    encoder = encoders.build(Imagenet(backbone=Backbone(stem="7x7")), SIZE)
    with pytest.raises(UsageError, match="no ImageNet weights are published for resnet_small"):
        encoder.fit(images, seed=0)
    with pytest.raises(UsageError, match="go with the stem 7x7"):
        encoders.build(Imagenet(backbone=Backbone(name="resnet18", width=64)), SIZE).fit(images, seed=0)


def test_an_embedder_without_weights_measures_only(images: TrainImages) -> None:
    made = embedder(Backbone(width=8))
    before = {key: value.clone() for key, value in made.net.state_dict().items()}
    made.measure(images, seed=0)
    pixels = images.pixels() / 255.0
    assert float(made.mean) == pytest.approx(pixels.mean(), abs=1e-6)
    assert float(made.std) == pytest.approx(pixels.std(), abs=1e-6)
    assert all(torch.equal(value, made.net.state_dict()[key]) for key, value in before.items())

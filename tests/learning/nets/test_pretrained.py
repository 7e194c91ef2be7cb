"""ImageNet weights: the fold against a three-channel network, every form of file, every refusal."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from weights_files import imagenet_state

from hilum.errors import TrainingError, UsageError
from hilum.learning.nets import pretrained
from hilum.learning.nets.densenet import DenseNet
from hilum.learning.nets.embedder import embedder
from hilum.learning.nets.resnet import ResNet
from hilum.recipe import Backbone

RESNET = Backbone(name="resnet18", width=8, stem="7x7")
BOTTLENECK = Backbone(name="resnet50", width=8, stem="7x7")
DENSENET = Backbone(name="densenet121", width=8, stem="7x7")
WIDER = Backbone(name="resnet18", width=16, stem="7x7")
SHALLOW = Backbone(name="resnet_small", width=8, stem="7x7")


def network(section: Backbone) -> ResNet | DenseNet:
    net = embedder(section).net
    assert isinstance(net, ResNet | DenseNet)
    return net


def written(tmp_path: Path, state: dict[str, object], name: str = "weights.pth") -> Path:
    torch.save(state, tmp_path / name)
    return tmp_path / name


def loaded(section: Backbone, path: Path, mean: float = 0.449, std: float = 0.226) -> ResNet | DenseNet:
    net = network(section)
    pretrained.load(net, section, path, mean, std)
    return net.eval()


def three_channels(section: Backbone, state: dict[str, Tensor]) -> nn.Module:
    """The network as it was before the fold: the file's own stem, and all else as in the file, strictly."""
    net = network(section)
    stem = net.get_submodule(net.stem[0])
    assert isinstance(stem, nn.Conv2d)
    stem.weight = nn.Parameter(torch.empty(stem.out_channels, 3, 7, 7))
    net.load_state_dict({key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))})
    return net.eval()


def normalised_rgb(x: Tensor) -> Tensor:
    """An image replicated to RGB and normalised with ImageNet's mean and std, channel by channel."""
    colours = zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    return torch.cat([(x - mean) / std for mean, std in colours], dim=1)


def stem_of(net: nn.Module, x: Tensor) -> Tensor:
    """The output of the first convolution and its normalisation."""
    convolution, normalisation = (net.get_submodule(name) for name in net.stem)
    return normalisation(convolution(x))


@pytest.mark.parametrize("section", [RESNET, BOTTLENECK, DENSENET], ids=lambda section: section.name)
@pytest.mark.parametrize(("mean", "std"), [(0.449, 0.226), (0.2, 0.1), (0.6, 0.3)])
def test_the_fold_gives_the_stem_of_the_rgb_network_in_the_interior(
    section: Backbone, mean: float, std: float, tmp_path: Path
) -> None:
    state = imagenet_state(section)
    net = loaded(section, written(tmp_path, state), mean, std)
    x = torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    ours, theirs = stem_of(net, (x - mean) / std), stem_of(three_channels(section, state), normalised_rgb(x))
    torch.testing.assert_close(ours[:, :, 2:-2, 2:-2], theirs[:, :, 2:-2, 2:-2], atol=2e-5, rtol=1e-5)
    assert theirs.std() > 0.1
    assert not torch.allclose(ours[:, :, 0], theirs[:, :, 0], atol=1e-3)  # the border, as documented


@pytest.mark.parametrize("section", [RESNET, BOTTLENECK, DENSENET], ids=lambda section: section.name)
def test_features_are_those_of_the_rgb_network_but_for_the_border(section: Backbone, tmp_path: Path) -> None:
    """On a large smooth image, so that the border is a small part of it."""
    state = imagenet_state(section)
    net, rgb = loaded(section, written(tmp_path, state)), three_channels(section, state)
    x = torch.rand(4, 1, 14, 14, generator=torch.Generator().manual_seed(2))
    x = F.interpolate(x, size=(224, 224), mode="bilinear")
    with torch.inference_mode():
        ours, theirs = net((x - 0.449) / 0.226), rgb(normalised_rgb(x))
    assert (ours - theirs).norm() < 0.01 * theirs.norm()
    assert (ours - theirs).norm() < 0.5 * (theirs - theirs.mean(dim=0)).norm()  # far nearer than another image


@pytest.mark.parametrize("section", [RESNET, DENSENET], ids=lambda section: section.name)
def test_all_else_is_taken_as_it_is(section: Backbone, tmp_path: Path) -> None:
    state = imagenet_state(section)
    net = loaded(section, written(tmp_path, state))
    stem = {f"{net.stem[0]}.weight", f"{net.stem[1]}.running_mean"}
    for key, value in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert value == 0
        elif key not in stem:
            assert torch.equal(value, state[key]), key


def old_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's keys as of 2017: `denselayer1.norm.1.weight`."""
    changed = {
        key.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.")
        .replace(".conv2.", ".conv.2."): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in changed
    return changed


@pytest.mark.parametrize(
    "form", ["plain", "wrapped", "parallel", "both", "half", "headless", "legacy", "safetensors", "old", "training"]
)
def test_every_form_of_file_gives_the_same_network(form: str, tmp_path: Path) -> None:
    section = DENSENET if form == "old" else RESNET
    state = imagenet_state(section)
    expected = loaded(section, written(tmp_path, state, "plain.pth")).state_dict()
    path = tmp_path / "weights.pt"
    parallel = {f"module.{key}": value for key, value in state.items()}
    match form:
        case "wrapped":
            torch.save({"state_dict": state, "epoch": 90, "arch": "resnet18"}, path)
        case "training":
            torch.save({"model": state, "optimizer": {"state": {}}}, path)
        case "parallel":
            torch.save(parallel, path)
        case "both":
            torch.save({"state_dict": parallel}, path)
        case "half":
            torch.save({key: v.half() if v.is_floating_point() else v for key, v in state.items()}, path)
        case "headless":
            torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, path)
        case "legacy":
            torch.save(state, path, _use_new_zipfile_serialization=False)
        case "safetensors":
            path = tmp_path / "weights.safetensors"
            safetensors.torch.save_file(state, path)
        case "old":
            torch.save(old_keys(state), path, _use_new_zipfile_serialization=False)
        case _:
            path = tmp_path / "plain.pth"
    found = loaded(section, path).state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, atol=2e-3 if form == "half" else 0, rtol=2e-3 if form == "half" else 0
        )


def test_other_widths_and_depths_than_the_papers_may_be_loaded(tmp_path: Path) -> None:
    section = Backbone(name="resnet_small", width=16, stem="7x7")
    loaded(section, written(tmp_path, imagenet_state(section)))


@pytest.mark.parametrize(
    ("wanted", "given", "message"),
    [
        (RESNET, BOTTLENECK, r"does not fit the backbone resnet18 of width 8: .*of resnet50 of width 8$"),
        (BOTTLENECK, RESNET, r"it lacks layer1\.0\.conv3\.weight, .* and \d+ more; .*of resnet18 of width 8$"),
        (DENSENET, RESNET, r"it lacks features\.conv0\.weight, .*it also has conv1\.weight, .*of resnet18 of"),
        (RESNET, DENSENET, r"the file seems to be of densenet121 of width 8$"),
        (RESNET, WIDER, r"in it conv1\.weight is \(16, 3, 7, 7\) and not \(8, 3, 7, 7\), .*resnet18 of width 16$"),
        (RESNET, SHALLOW, r"it lacks layer1\.1\.conv1\.weight, .*of resnet_small of width 8$"),
    ],
)
def test_a_file_for_another_backbone_is_refused(
    wanted: Backbone, given: Backbone, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, imagenet_state(given))
    net = network(wanted)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(TrainingError, match=message) as raised:
        pretrained.load(net, wanted, path, 0.449, 0.226)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())


def test_networks_that_are_no_backbone_here_are_described(tmp_path: Path) -> None:
    state = imagenet_state(RESNET)
    deeper = {**state, **{key.replace("layer2.1", "layer2.2"): v for key, v in state.items() if "layer2.1" in key}}
    with pytest.raises(TrainingError, match=r"of a ResNet with \(2, 3, 2, 2\) basic blocks of width 8$"):
        loaded(RESNET, written(tmp_path, deeper))
    dense = imagenet_state(DENSENET)
    fewer = {key: value for key, value in dense.items() if "denseblock4.denselayer16" not in key}
    with pytest.raises(TrainingError, match=r"of a DenseNet with \(6, 12, 24, 15\) layers of width 8$"):
        loaded(DENSENET, written(tmp_path, fewer))
    with pytest.raises(TrainingError, match="of neither a ResNet nor a DenseNet"):
        loaded(RESNET, written(tmp_path, {"blocks.0.attn.qkv.weight": torch.zeros(3)}))
    grey = {**state, "conv1.weight": state["conv1.weight"][:, :1]}
    with pytest.raises(TrainingError, match=r"conv1\.weight is \(8, 1, 7, 7\) and not \(8, 3, 7, 7\)"):
        loaded(RESNET, written(tmp_path, grey))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"norm": "group"},
            "ImageNet weights go with batch normalisation, not backbone.norm: group; write `norm: batch`",
        ),
        ({"stem": "3x3"}, "ImageNet weights go with the stem 7x7, not backbone.stem: 3x3; write `stem: 7x7`"),
    ],
)
def test_a_backbone_that_cannot_have_such_weights_is_refused(
    change: dict[str, str], message: str, tmp_path: Path
) -> None:
    section = RESNET.model_copy(update=change)
    with pytest.raises(UsageError, match=message):
        loaded(section, written(tmp_path, imagenet_state(RESNET)))


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code from a weights file was run')",))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_is_no_weights_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for content in (b"", b"<html>403</html>", b"\x80\x02}q\x00."):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=rf"{name} (cannot be read as weights|holds no tensors by name)"):
            loaded(RESNET, path)


def test_a_file_with_code_or_without_tensors_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds more than tensors"):
        loaded(RESNET, written(tmp_path, {"state_dict": imagenet_state(RESNET), "args": Malicious()}))
    for content in ({}, [torch.zeros(2)], torch.zeros(2), {"epoch": 3}):
        with pytest.raises(TrainingError, match="holds no tensors by name"):
            loaded(RESNET, written(tmp_path, content))
    path = written(tmp_path, imagenet_state(RESNET))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(TrainingError, match="a checksum in it does not hold"):
        loaded(RESNET, path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="cannot be read as weights"):
        loaded(RESNET, path)

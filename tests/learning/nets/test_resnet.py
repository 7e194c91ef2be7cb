"""The residual networks: shapes, known sizes, names, and what normalisation shares."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hilum.learning.nets.resnet import BasicBlock, Bottleneck, ResNet
from hilum.recipe import Backbone


def resnet(name: str, **section: object) -> ResNet:
    return ResNet(Backbone.model_validate({"name": name, **section}))


@pytest.mark.parametrize("name", ["resnet_small", "resnet18", "resnet50"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("stem", ["3x3", "7x7"])
def test_features_have_a_known_width_at_any_size_and_are_not_negative(name: str, norm: str, stem: str) -> None:
    net = resnet(name, width=8, norm=norm, stem=stem).eval()
    with torch.inference_mode():
        for size in (32, 64, 97):
            z = net(torch.rand(2, 1, size, size))
            assert z.shape == (2, net.dim) == (2, 256 if name == "resnet50" else 64)
            assert z.min() >= 0


@pytest.mark.parametrize(
    ("name", "imagenet", "dim", "n_tensors"),
    [("resnet18", 11_689_512, 512, 122), ("resnet50", 25_557_032, 2048, 320)],
)
def test_the_papers_networks_have_their_known_parameters(name: str, imagenet: int, dim: int, n_tensors: int) -> None:
    """Those of the ImageNet model, less its classifier and two of the three input channels of 64 7x7 kernels."""
    net = resnet(name, width=64, stem="7x7")
    assert net.dim == dim
    assert sum(parameter.numel() for parameter in net.parameters()) == imagenet - (dim * 1000 + 1000) - 2 * 64 * 7 * 7
    assert len(net.state_dict()) == n_tensors - 2


def test_parameters_are_named_as_torchvisions() -> None:
    shapes = {key: tuple(value.shape) for key, value in resnet("resnet50", width=64, stem="7x7").state_dict().items()}
    known = {
        "conv1.weight": (64, 1, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer3.5.bn2.bias": (256,),
        "layer4.0.conv2.weight": (512, 512, 3, 3),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
    }
    assert {key: shapes.get(key) for key in known} == known
    assert "layer4.1.downsample.0.weight" not in shapes


@pytest.mark.parametrize(("stem", "side"), [("3x3", 4), ("7x7", 2)])
@pytest.mark.parametrize("name", ["resnet_small", "resnet50"])
def test_the_last_map_of_a_64_pixel_image(name: str, stem: str, side: int) -> None:
    net = resnet(name, width=8, stem=stem).eval()
    x = torch.rand(1, 1, 64, 64)
    maps = net.maps(x)
    assert maps.shape == (1, net.dim, side, side)
    torch.testing.assert_close(net(x), maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_a_block_by_hand(kind: type[nn.Module]) -> None:
    """F(x) + W x of equation 2, the stride in a 3x3 convolution."""
    torch.manual_seed(0)
    block = kind(8, 16, 2, "batch").double().eval()
    x = torch.rand(2, 8, 9, 9, dtype=torch.float64)
    deep = kind is Bottleneck
    kernels = [block.conv1.weight, block.conv2.weight] + ([block.conv3.weight] if deep else [])
    strides = (1, 2, 1) if deep else (2, 1)
    f = x
    for number, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
        f = F.conv2d(f, kernel, stride=stride, padding=kernel.shape[-1] // 2) / (1 + 1e-5) ** 0.5  # a new norm, eval
        f = f.clamp(min=0) if number < len(kernels) - 1 else f
    shortcut = F.conv2d(x, block.downsample[0].weight, stride=2) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(block(x), (f + shortcut).clamp(min=0))


def test_group_normalisation_shares_nothing_between_images_even_in_training() -> None:
    torch.manual_seed(0)
    net = resnet("resnet_small", width=12, norm="group").train()  # 12 channels are not a multiple of 8
    x = torch.rand(4, 1, 32, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-5, rtol=1e-5)

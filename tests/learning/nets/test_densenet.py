"""The densely connected network: shapes, known size, names, and its equation."""

import pytest
import torch
import torch.nn.functional as F

from hilum.learning.nets.densenet import DenseBlock, DenseNet
from hilum.recipe import Backbone


def densenet(**section: object) -> DenseNet:
    return DenseNet(Backbone.model_validate({"name": "densenet121", **section}))


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("stem", ["3x3", "7x7"])
def test_features_are_32_growth_rates_wide_at_any_size_and_not_negative(norm: str, stem: str) -> None:
    net = densenet(width=8, norm=norm, stem=stem).eval()
    with torch.inference_mode():
        for size in (32, 64, 97):
            z = net(torch.rand(2, 1, size, size))
            assert z.shape == (2, net.dim) == (2, 256)
            assert z.min() >= 0


def test_densenet121_has_its_known_parameters() -> None:
    """Those of the ImageNet model, less its classifier and two of the three input channels of 64 7x7 kernels."""
    net = densenet(width=32, stem="7x7")
    assert net.dim == 1024
    assert sum(p.numel() for p in net.parameters()) == 7_978_856 - (1024 * 1000 + 1000) - 2 * 64 * 7 * 7
    assert len(net.state_dict()) == 727 - 2


def test_parameters_are_named_as_torchvisions() -> None:
    shapes = {key: tuple(value.shape) for key, value in densenet(width=32, stem="7x7").state_dict().items()}
    known = {
        "features.conv0.weight": (64, 1, 7, 7),
        "features.norm0.running_mean": (64,),
        "features.denseblock1.denselayer1.norm1.weight": (64,),
        "features.denseblock1.denselayer1.conv1.weight": (128, 64, 1, 1),
        "features.denseblock1.denselayer6.conv2.weight": (32, 128, 3, 3),
        "features.transition1.norm.weight": (256,),
        "features.transition1.conv.weight": (128, 256, 1, 1),
        "features.denseblock3.denselayer24.norm1.bias": (992,),
        "features.denseblock4.denselayer16.conv1.weight": (128, 992, 1, 1),
        "features.norm5.running_var": (1024,),
    }
    assert {key: shapes.get(key) for key in known} == known


@pytest.mark.parametrize(("stem", "side"), [("3x3", 4), ("7x7", 2)])
def test_the_last_map_of_a_64_pixel_image(stem: str, side: int) -> None:
    net = densenet(width=8, stem=stem).eval()
    x = torch.rand(1, 1, 64, 64)
    maps = net.maps(x)
    assert maps.shape == (1, net.dim, side, side)
    torch.testing.assert_close(net(x), maps.mean(dim=(2, 3)))


def test_a_dense_block_by_hand() -> None:
    """x_l = H_l([x_0, ..., x_l-1]), equation 2; H: norm, ReLU, 1x1, norm, ReLU, 3x3."""
    torch.manual_seed(0)
    block = DenseBlock(6, 3, 4, "batch").double().eval()
    x = torch.rand(2, 6, 5, 5, dtype=torch.float64) - 0.3
    seen = [x]
    for layer in block.values():
        inner = F.conv2d(torch.cat(seen, dim=1).clamp(min=0) / (1 + 1e-5) ** 0.5, layer.conv1.weight)
        seen.append(F.conv2d(inner.clamp(min=0) / (1 + 1e-5) ** 0.5, layer.conv2.weight, padding=1))
    assert len(seen) == 4
    torch.testing.assert_close(block(x), torch.cat(seen, dim=1))


def test_group_normalisation_shares_nothing_between_images_even_in_training() -> None:
    torch.manual_seed(0)
    net = densenet(width=8, norm="group").train()
    x = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-5, rtol=1e-5)

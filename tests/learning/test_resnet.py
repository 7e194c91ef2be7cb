"""The residual networks: shapes, known sizes, and what normalisation shares."""

import pytest
import torch

from hilum.learning.nets.resnet import ResNet
from hilum.recipe import Backbone


@pytest.mark.parametrize("name", ["resnet_small", "resnet18"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("stem", ["3x3", "7x7"])
def test_features_have_eight_times_the_width_at_any_size(name: str, norm: str, stem: str) -> None:
    net = ResNet(Backbone.model_validate({"name": name, "width": 8, "norm": norm, "stem": stem})).eval()
    with torch.inference_mode():
        for size in (32, 64, 97):
            assert net(torch.rand(2, 1, size, size)).shape == (2, net.dim) == (2, 64)


def test_resnet18_has_the_papers_parameters() -> None:
    """11,689,512 in the ImageNet model, less its classifier (513,000) and two of the three input channels (6,272)."""
    net = ResNet(Backbone(name="resnet18", width=64, stem="7x7"))
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_689_512 - 513_000 - 6_272


@pytest.mark.parametrize(("stem", "side"), [("3x3", 4), ("7x7", 2)])
def test_the_last_map_of_a_64_pixel_image(stem: str, side: int) -> None:
    net = ResNet(Backbone.model_validate({"width": 8, "stem": stem}))
    assert net.stages(net.stem(torch.rand(1, 1, 64, 64))).shape[2:] == (side, side)


def test_group_normalisation_shares_nothing_between_images_even_in_training() -> None:
    torch.manual_seed(0)
    net = ResNet(Backbone(width=12, norm="group")).train()  # 12 channels are not a multiple of 8
    x = torch.rand(4, 1, 32, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-5, rtol=1e-5)

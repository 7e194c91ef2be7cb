"""Densely connected networks for one-channel images: Huang et al. 2017 (DenseNet), DenseNet-BC, table 1.

Parameters are named as torchvision and timm name them (`features.denseblock1.denselayer1.conv1`), so that their
ImageNet weights fit (hilum.learning.nets.pretrained). B: images, C: channels, H x W: pixels or places of a feature map,
D: width of the features, k: growth rate.
"""

from collections import OrderedDict
from typing import Final

import torch
from torch import Tensor, nn

from hilum.learning.nets.norm import norm
from hilum.recipe import Backbone

LAYERS: Final = {"densenet121": (6, 12, 24, 16)}  # dense layers per block
BOTTLENECK: Final = 4  # channels of a layer's 1x1 convolution, in k (section 3, bottleneck layers)


class DenseNet(nn.Module):
    """From images (B, 1, H, W) to globally averaged features (B, D); k = width, D = 32 * k for `densenet121`.

    The `7x7` stem of the paper halves twice, for 224 pixels; the `3x3` stem halves once, for about 64.

    Attributes:
        dim: D.
        stem: Names of the first convolution and of the normalisation behind it.
    """

    stem: Final = ("features.conv0", "features.norm0")

    def __init__(self, section: Backbone) -> None:
        super().__init__()
        growth, kind = section.width, section.norm
        channels = 2 * growth
        small = section.stem == "3x3"
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["conv0"] = nn.Conv2d(
            1, channels, 3 if small else 7, stride=1 if small else 2, padding=1 if small else 3, bias=False
        )
        parts["norm0"] = norm(kind, channels)
        parts["relu0"] = nn.ReLU(inplace=True)
        parts["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = LAYERS[section.name]
        for number, n_layers in enumerate(blocks, start=1):
            parts[f"denseblock{number}"] = DenseBlock(channels, n_layers, growth, kind)
            channels += n_layers * growth
            if number < len(blocks):
                parts[f"transition{number}"] = _transition(channels, kind)
                channels //= 2  # compression of 0.5 (section 3)
        parts["norm5"] = norm(kind, channels)
        parts["relu5"] = nn.ReLU(inplace=True)
        self.features = nn.Sequential(parts)
        self.dim = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def maps(self, x_BCHW: Tensor) -> Tensor:
        """The last feature maps, (B, D, H / 16, W / 16) with the 3x3 stem, else (B, D, H / 32, W / 32)."""
        maps_BDHW: Tensor = self.features(x_BCHW)
        return maps_BDHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, D), non-negative: the mean over places after the last normalisation and ReLU."""
        return torch.mean(self.maps(x_BCHW), dim=(2, 3))


class DenseBlock(nn.ModuleDict):
    """Layers each of which sees the maps of all before it (equation 2)."""

    def __init__(self, channels: int, n_layers: int, growth: int, kind: str) -> None:
        super().__init__()
        for number in range(n_layers):
            self[f"denselayer{number + 1}"] = DenseLayer(channels + number * growth, growth, kind)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The block's input and what its layers add to it, (B, C + n_layers * k, H, W)."""
        for layer in self.values():
            x_BCHW = torch.cat([x_BCHW, layer(x_BCHW)], dim=1)
        return x_BCHW


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution, each after normalisation and ReLU."""

    def __init__(self, channels: int, growth: int, kind: str) -> None:
        super().__init__()
        self.norm1 = norm(kind, channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = norm(kind, BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """What the layer adds, (B, k, H, W)."""
        x_BCHW = self.conv1(torch.relu_(self.norm1(x_BCHW)))
        added_BkHW: Tensor = self.conv2(torch.relu_(self.norm2(x_BCHW)))
        return added_BkHW


def _transition(channels: int, kind: str) -> nn.Sequential:
    """Half the channels and half the resolution, between two blocks."""
    return nn.Sequential(
        OrderedDict(
            norm=norm(kind, channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, stride=2),
        )
    )

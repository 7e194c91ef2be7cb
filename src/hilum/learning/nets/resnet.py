"""Residual networks for one-channel images: He et al. 2016 (Deep Residual Learning), basic blocks (figure 5, left).

B: images, C: channels, H x W: pixels or places of a feature map, D: width of the features.
"""

from typing import Final

import torch
from torch import Tensor, nn

from hilum.learning.nets.norm import norm
from hilum.recipe import Backbone

# Blocks per stage. `resnet_small` is for 64-pixel images and two CPU cores; `resnet18` is that of the paper (table 1).
BLOCKS: Final = {"resnet_small": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2)}


class ResNet(nn.Module):
    """From images (B, 1, H, W) to globally averaged features (B, D), D = 8 * width.

    The `3x3` stem keeps the resolution and leaves halving to the first stage, for images of about 64 pixels; the `7x7`
    stem of the paper halves twice before it, for 224.

    Attributes:
        dim: D.
    """

    def __init__(self, section: Backbone) -> None:
        super().__init__()
        width = section.width
        self.dim = 8 * width
        if section.stem == "7x7":
            self.stem = nn.Sequential(
                nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False),
                norm(section.norm, width),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, stride=2, padding=1),
            )
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(1, width, 3, padding=1, bias=False), norm(section.norm, width), nn.ReLU(inplace=True)
            )
        stages: list[nn.Module] = []
        channels = width
        for stage, n_blocks in enumerate(BLOCKS[section.name]):
            wider = width * 2**stage
            halve = stage > 0 or section.stem == "3x3"
            for number in range(n_blocks):
                stages.append(BasicBlock(channels, wider, 2 if halve and number == 0 else 1, section.norm))
                channels = wider
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, D), non-negative; the mean over places keeps their size whatever the image's."""
        return torch.mean(self.stages(self.stem(x_BCHW)), dim=(2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes (option B)."""

    def __init__(self, channels: int, wider: int, stride: int, kind: str) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, wider, 3, stride=stride, padding=1, bias=False),
            norm(kind, wider),
            nn.ReLU(inplace=True),
            nn.Conv2d(wider, wider, 3, padding=1, bias=False),
            norm(kind, wider),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != wider:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, wider, 1, stride=stride, bias=False), norm(kind, wider))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The block's output, (B, wider, H / stride, W / stride)."""
        return torch.relu(self.residual(x_BCHW) + self.shortcut(x_BCHW))

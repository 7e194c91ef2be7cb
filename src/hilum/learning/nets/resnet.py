"""Residual networks for one-channel images: He et al. 2016 (Deep Residual Learning), figure 5 and table 1.

Parameters are named as torchvision and timm name them (`layer1.0.conv1`), so that their ImageNet weights fit
(hilum.learning.nets.pretrained). B: images, C: channels, H x W: pixels or places of a feature map, D: width of the
features.
"""

from typing import Final

import torch
from torch import Tensor, nn

from hilum.learning.nets.norm import norm
from hilum.recipe import Backbone

# Blocks per stage. `resnet_small` is for 64-pixel images and two CPU cores; the others are those of the paper.
BLOCKS: Final = {"resnet_small": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


class ResNet(nn.Module):
    """From images (B, 1, H, W) to globally averaged features (B, D), D = 8 * width, or 32 * width for `resnet50`.

    The `3x3` stem keeps the resolution and leaves halving to the first stage, for images of about 64 pixels; the `7x7`
    stem of the paper halves twice before it, for 224. Either way the last map is 1/16 or 1/32 of the image's side.

    Attributes:
        dim: D.
        stem: Names of the first convolution and of the normalisation behind it.
    """

    stem: Final = ("conv1", "bn1")

    def __init__(self, section: Backbone) -> None:
        super().__init__()
        width, halve = section.width, section.stem == "3x3"
        block = Bottleneck if section.name == "resnet50" else BasicBlock
        self.dim = 8 * width * block.expansion
        self.conv1 = (
            nn.Conv2d(1, width, 3, padding=1, bias=False)
            if halve
            else nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False)
        )
        self.bn1 = norm(section.norm, width)
        self.pool = nn.Identity() if halve else nn.MaxPool2d(3, stride=2, padding=1)
        out, numbers = block.expansion * width, BLOCKS[section.name]  # of the first stage; each doubles the one before
        self.layer1 = _stage(block, width, width, numbers[0], 2 if halve else 1, section.norm)
        self.layer2 = _stage(block, out, 2 * width, numbers[1], 2, section.norm)
        self.layer3 = _stage(block, 2 * out, 4 * width, numbers[2], 2, section.norm)
        self.layer4 = _stage(block, 4 * out, 8 * width, numbers[3], 2, section.norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x_BCHW: Tensor) -> Tensor:
        """The last feature maps, (B, D, H / 16, W / 16) with the 3x3 stem, else (B, D, H / 32, W / 32)."""
        x_BCHW = self.pool(torch.relu_(self.bn1(self.conv1(x_BCHW))))
        maps_BDHW: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x_BCHW))))
        return maps_BDHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, D), non-negative; the mean over places keeps their size whatever the image's."""
        return torch.mean(self.maps(x_BCHW), dim=(2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes (option B)."""

    expansion: Final = 1

    def __init__(self, channels: int, width: int, stride: int, kind: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(kind, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(kind, width)
        self.downsample = _shortcut(channels, width, stride, kind)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The block's output, (B, width, H / stride, W / stride)."""
        residual = torch.relu_(self.bn1(self.conv1(x_BCHW)))
        residual = self.bn2(self.conv2(residual))
        return torch.relu_(residual + self.downsample(x_BCHW))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions about a quarter of the width.

    The stride sits in the 3x3 convolution, where torchvision has it and its weights expect it; in the paper it sits in
    the first 1x1, which skips three quarters of its input.
    """

    expansion: Final = 4

    def __init__(self, channels: int, width: int, stride: int, kind: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = norm(kind, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(kind, width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = norm(kind, width * self.expansion)
        self.downsample = _shortcut(channels, width * self.expansion, stride, kind)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The block's output, (B, 4 * width, H / stride, W / stride)."""
        residual = torch.relu_(self.bn1(self.conv1(x_BCHW)))
        residual = torch.relu_(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return torch.relu_(residual + self.downsample(x_BCHW))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, width: int, n_blocks: int, stride: int, kind: str
) -> nn.Sequential:
    """Blocks at one resolution, of which the first changes it."""
    later = [block(width * block.expansion, width, 1, kind) for _ in range(n_blocks - 1)]
    return nn.Sequential(block(channels, width, stride, kind), *later)


def _shortcut(channels: int, wider: int, stride: int, kind: str) -> nn.Module:
    if stride == 1 and channels == wider:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, wider, 1, stride=stride, bias=False), norm(kind, wider))

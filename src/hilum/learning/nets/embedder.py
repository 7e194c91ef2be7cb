"""A network with the normalisation of grey values before it: what an encoder keeps and a release carries."""

from typing import Final

import torch
from torch import Tensor, nn

from hilum.learning.engine.batches import TrainImages
from hilum.learning.nets.resnet import ResNet
from hilum.recipe import Backbone

MEASURED: Final = 4096  # images on which the mean and spread of grey values are measured


class Embedder(nn.Module):
    """Normalisation of grey values, then a convolutional network to features.

    Attributes:
        dim: D.
        mean: Of the train images' grey values, on the scale 0 to 1.
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, dim: int) -> None:
        super().__init__()
        self.net = net
        self.dim = dim
        self.register_buffer("mean", torch.tensor(0.5))
        self.register_buffer("std", torch.tensor(0.25))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embeddings (B, D), float32, of images (B, 1, H, W) in [0, 1]."""
        z_BD: Tensor = self.net((x_BCHW - self.mean) / self.std)
        return z_BD.float()

    def measure(self, images: TrainImages, seed: int) -> None:
        """Set mean and std from a sample of the train images."""
        pixels = images.pixels(images.sample(MEASURED, seed))
        self.mean.fill_(float(pixels.mean()) / 255.0)
        self.std.fill_(max(float(pixels.std()) / 255.0, 1.0 / 255.0))


def embedder(section: Backbone) -> Embedder:
    """The embedder that a recipe's backbone section describes, untrained or with the section's weights."""
    net = ResNet(section)
    return Embedder(net, net.dim)

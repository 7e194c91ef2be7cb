"""A network with the normalisation of grey values before it: what an encoder keeps and a release carries."""

from typing import Final

import torch
from torch import Tensor, nn

from hilum.identity import digest_file
from hilum.learning.engine.batches import TrainImages
from hilum.learning.nets import pretrained, published
from hilum.learning.nets.densenet import LAYERS, DenseNet
from hilum.learning.nets.resnet import ResNet
from hilum.recipe import Backbone

MEASURED: Final = 4096  # images on which the mean and spread of grey values are measured


class Embedder(nn.Module):
    """Normalisation of grey values, then a convolutional network to features.

    Attributes:
        dim: D.
        mean: Of the train images' grey values, on the scale 0 to 1.
        std: Likewise.
        begun_with: SHA-256 of the file of weights that were loaded, in hex; empty where none were.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, dim: int, section: Backbone | None = None) -> None:
        """Put a network behind the normalisation.

        Args:
            net: From normalised images to features (B, D).
            dim: D.
            section: What `net` was built from, where ImageNet weights may be asked for.
        """
        super().__init__()
        self.net = net
        self.dim = dim
        self.begun_with = ""
        self._section = section
        self.register_buffer("mean", torch.tensor(0.5))
        self.register_buffer("std", torch.tensor(0.25))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embeddings (B, D), float32, of images (B, 1, H, W) in [0, 1]."""
        z_BD: Tensor = self.net((x_BCHW - self.mean) / self.std)
        return z_BD.float()

    def measure(self, images: TrainImages, seed: int) -> None:
        """Set mean and std from a sample of the train images, and begin with the weights that the recipe names.

        Weights are read here and not where the network is built, because a trained encoder is built again to embed and
        to be exported, where there is no such file.

        Raises:
            UsageError: The recipe names weights that its backbone cannot have.
            TrainingError: They cannot be found or read, or are for another backbone.
        """
        pixels = images.pixels(images.sample(MEASURED, seed))
        self.normalise_by(float(pixels.mean()) / 255.0, max(float(pixels.std()) / 255.0, 1.0 / 255.0))
        if self._section is not None and self._section.weights:
            self.load_imagenet()

    def normalise_by(self, mean: float, std: float) -> None:
        """Set the mean and std of grey values, on the scale 0 to 1."""
        self.mean.fill_(mean)
        self.std.fill_(std)

    def load_imagenet(self) -> None:
        """Put ImageNet weights into the network, folded so that they suit the mean and std that are set.

        Raises:
            UsageError: There are no ImageNet weights for such a backbone.
            TrainingError: They cannot be found or read, or are for another backbone.
        """
        assert self._section is not None, "an embedder made by `embedder` knows its section"
        assert isinstance(self.net, ResNet | DenseNet), "and has one of its networks"
        pretrained.suits(self._section)
        path = published.locate(self._section)
        pretrained.load(self.net, self._section, path, float(self.mean), float(self.std))
        self.begun_with = digest_file(path)


def embedder(section: Backbone) -> Embedder:
    """The embedder that a recipe's backbone section describes, untrained; `measure` puts the section's weights in."""
    net = DenseNet(section) if section.name in LAYERS else ResNet(section)
    return Embedder(net, net.dim, section)

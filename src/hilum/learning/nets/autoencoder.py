"""A residual convolutional autoencoder: an image to features, and an embedding to an image again.

Residual blocks as in He et al. 2016 (Deep Residual Learning, figure 5, left). Each stage of the encoder halves the
image with a stride; each of the decoder doubles it with nearest-neighbour upsampling before its convolutions, which
leaves no checkerboard as transposed convolutions do (Odena et al. 2016, Deconvolution and Checkerboard Artifacts).

B: images, C: channels, H x W: pixels or places of a feature map, D: width of the embedding, F: of the features.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import UsageError
from hilum.learning.nets.norm import norm

FINEST: Final = 16  # channels at full resolution; not fewer, or nothing of it may lie channels last (engine/device.py)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

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
        """The block's output, (B, wider, H / stride, W / stride), not negative."""
        return torch.relu(self.residual(x_BCHW) + self.shortcut(x_BCHW))


class Downward(nn.Module):
    """From normalised images (B, 1, size, size) to features (B, F): the last stage's whole map, place by place.

    Attributes:
        dim: F.
    """

    def __init__(self, channels: Sequence[int], size: int, kind: str) -> None:
        """Make the network.

        Args:
            channels: Of each stage; each stage halves the image.
            size: Side of the images in pixels.
            kind: `group` or `batch` normalisation.

        Raises:
            UsageError: The image cannot be halved so often.
        """
        super().__init__()
        side = _coarsest(channels, size)
        self.dim = channels[-1] * side**2
        before = (1, *channels[:-1])
        self.stages = nn.Sequential(*[Block(a, b, 2, kind) for a, b in zip(before, channels, strict=True)])
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features (B, F)."""
        features_BF: Tensor = self.stages(x_BCHW).flatten(1)
        return features_BF


class Upward(nn.Module):
    """From embeddings (B, D) to images (B, 1, size, size) in [0, 1], float32."""

    def __init__(self, dim: int, channels: Sequence[int], size: int, kind: str) -> None:
        """Make the network.

        Args:
            dim: D.
            channels: Of each stage of the encoder that this one mirrors.
            size: Side of the images in pixels.
            kind: `group` or `batch` normalisation.

        Raises:
            UsageError: The image cannot be halved so often.
        """
        super().__init__()
        side = _coarsest(channels, size)
        self.spread = nn.Sequential(
            nn.Linear(dim, channels[-1] * side**2), nn.ReLU(inplace=True), nn.Unflatten(1, (channels[-1], side, side))
        )
        falling = tuple(reversed(channels))
        stages: list[nn.Module] = []
        for wide, narrow in pairwise(falling):
            stages.append(nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), Block(wide, narrow, 1, kind)))
        finest = max(FINEST, falling[-1] // 2)
        stages.append(
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(falling[-1], finest, 3, padding=1, bias=False),
                norm(kind, finest),
                nn.ReLU(inplace=True),
            )
        )
        self.stages = nn.Sequential(*stages)
        self.mix = nn.Linear(finest, 1)  # a 1x1 convolution to one channel; as such it would be too narrow (FINEST)
        _initialise(self)

    def forward(self, z_BD: Tensor) -> Tensor:
        """Images of the embeddings."""
        x_BCHW = self.stages(self.spread(z_BD))
        return torch.sigmoid(F.linear(x_BCHW.movedim(1, -1), self.mix.weight, self.mix.bias).movedim(-1, 1).float())


def _coarsest(channels: Sequence[int], size: int) -> int:
    """Side of the last stage's map in places."""
    factor = 1 << len(channels)
    if size % factor:
        raise UsageError(
            f"an autoencoder of {len(channels)} stages halves images {len(channels)} times, and {size} pixels cannot "
            f"be halved so often; name fewer channels, or ingest with a multiple of {factor}, such as "
            f"--size {-(-size // factor) * factor}"
        )
    return size // factor


def _initialise(net: nn.Module) -> None:
    """He et al. 2015 (Delving Deep into Rectifiers), equation 14."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

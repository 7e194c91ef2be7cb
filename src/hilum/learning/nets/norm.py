"""Normalisation layers, and their statistics over several workers."""

import math
from typing import Final

from torch import nn

from hilum.learning.engine import workers

CHANNELS_PER_GROUP: Final = 8


def norm(kind: str, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation (Wu and He 2018), in which no image sees its batch mates."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // math.gcd(channels, CHANNELS_PER_GROUP), channels)


def synchronise(module: nn.Module) -> None:
    """Let every trained batch normalisation use the statistics of the global batch; nothing where one worker is."""
    if workers.count() == 1:
        return
    raise NotImplementedError

"""The encoders, by name, and what each of them promises to training, embedding and export.

An encoder named `vae` is a module `vae.py` in this folder with `build(section, size)`, and a section in
`hilum.recipe.ENCODER_SECTIONS`; nothing else needs to know of it.
"""

import importlib
from typing import Final

import torch
from torch import Tensor, nn

from hilum.errors import UsageError
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.recipe import ENCODER_SECTIONS, Pairing, Section

ENCODERS: Final = {name: f"{__name__}.{name}" for name in ENCODER_SECTIONS}


class Encoder(nn.Module):
    """What training asks of an encoder; each method says what happens where an encoder has nothing to add.

    An encoder has two ways to learn, and may use both. `fit` computes what can be computed directly (principal
    components, the mean and spread of grey values). Then the parameters that require a gradient are trained in steps;
    an encoder that has none takes no steps.

    Attributes:
        embedder: What is kept: the weights that are written, embed and are exported; the rest serves training. Its
            `forward` takes images in [0, 1], float32 (B, 1, size, size), to embeddings, float32 (B, D), in plain
            operations that export to ONNX, with its normalisation inside; its `dim` is D.
        decoder: What turns embeddings into images again, kept beside the embedder; None where nothing does.
        labels: Label columns that `Batch.labels_BL` is to carry; settled by `fit` at the latest.
        pairing: How `Batch.partners_BCHW` is to be chosen; None where it is not needed.
        ema: Decay of the moving average of weights that is kept, where the recipe names none; 0 is no average.
        told: Figures of the last loss for the metrics stream, detached scalars by name.
    """

    ema: float = 0.0

    def __init__(self, embedder: nn.Module, decoder: nn.Module | None = None) -> None:
        super().__init__()
        self.embedder = embedder
        self.decoder = decoder
        self.labels: tuple[str, ...] = ()
        self.pairing: Pairing | None = None
        self.told: dict[str, Tensor] = {}

    @property
    def dim(self) -> int:
        """D, the width of an embedding."""
        return int(getattr(self.embedder, "dim"))  # noqa: B009  an attribute of nn.Module is a Tensor or Module to mypy

    def fit(self, images: TrainImages, seed: int) -> None:
        """Set what is computed from the train images directly, before the first step; nothing by default.

        Every worker computes the same.
        """

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """The mean loss of this worker's part of a batch, a float32 scalar; all randomness comes from `draws`.

        It moves no average and no queue: that is for `after_step`, so that a loss may be asked of held-out images.
        """
        raise NotImplementedError(f"{type(self).__name__} has no parameters to train in steps")

    def after_step(self) -> None:
        """What follows the optimizer's step: key encoders, queues; nothing by default."""

    def hot(self) -> list[nn.Module]:
        """The networks in which the time goes, for torch.compile; the embedder by default."""
        return [self.embedder]

    def encode(self, x_BCHW: Tensor) -> Tensor:
        """From images in [0, 1], float32 (B, 1, size, size), to embeddings (B, D)."""
        z_BD: Tensor = self.embedder(x_BCHW)
        return z_BD


def build(section: Section, size: int, seed: int = 0) -> Encoder:
    """Make the encoder of a recipe's section, untrained.

    Args:
        section: A section of ENCODER_SECTIONS; its `name` says which encoder.
        size: Side of the images in pixels.
        seed: Of the initial weights; torch's global generator is left as it was.

    Raises:
        UsageError: There is no such encoder.
    """
    name = str(getattr(section, "name", type(section).__name__))
    if name not in ENCODERS:
        raise UsageError(f"there is no encoder {name!r}; there are {', '.join(ENCODERS)}")
    module = importlib.import_module(ENCODERS[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: Encoder = module.build(section, size)
    return encoder

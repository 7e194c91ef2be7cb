"""Has an encoder collapsed: do its embeddings still spread, and in how many directions?

N: images, D: width of an embedding.
"""

import logging
import sys
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hilum.learning import embedding
from hilum.learning.encoders import Encoder
from hilum.learning.engine.batches import TrainImages

MIN_RANK: Final = 2.0  # fewer directions than this, and the embeddings lie on a line
MIN_SPREAD: Final = 1e-3  # standard deviation as a share of the embeddings' size; below it every image looks the same
FEWEST, MOST, SHARE = 16, 256, 8  # images looked at: an eighth of an epoch's forward passes at most, or sixteen images

log = logging.getLogger(__name__)


def effective_rank(z_ND: NDArray[np.floating]) -> float:
    """The effective number of directions in which embeddings spread: Roy and Vetterli 2007, definition 1.

    The exponential of the entropy of the singular values of the centred embeddings, normalised to sum to 1: D for a
    ball, 1 for a line, 0 where all embeddings are one point.
    """
    centred_ND = z_ND.astype(np.float64) - z_ND.mean(axis=0, dtype=np.float64)
    sizes = np.linalg.svd(centred_ND, compute_uv=False)
    if sizes.sum() == 0:
        return 0.0
    shares = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def collapse(z_ND: NDArray[np.float32]) -> dict[str, Any]:
    """Facts for the card: effective rank, mean standard deviation of a feature, n, and a warning where both are low."""
    rank, std = effective_rank(z_ND), float(z_ND.std(axis=0, dtype=np.float64).mean())
    size = float(np.abs(z_ND).mean(dtype=np.float64))
    warning = ""
    if std <= MIN_SPREAD * size:
        warning = f"the embeddings are nearly one point (standard deviation {std:.2g} at a size of {size:.2g})"
    elif rank < MIN_RANK:
        warning = f"the embeddings have collapsed to an effective rank of {rank:.2f} out of {z_ND.shape[1]}"
    return {"effective_rank": round(rank, 3), "feature_std": std, "n": len(z_ND), "warning": warning}


def judge(embedder: nn.Module, images: TrainImages, n: int, seed: int, where: torch.device) -> dict[str, Any]:
    """`collapse` on a sample of `n` train images (or all); the embedder is left in eval mode."""
    # Compiled code would be compiled anew for eval mode and another batch size, for one look. To import the compiler
    # where nothing has takes a second.
    loaded = "torch._dynamo" in sys.modules
    with torch.compiler.set_stance("force_eager") if loaded else nullcontext():
        return collapse(embedding.embed(embedder.eval(), images.pixels(images.sample(n, seed)), where))


class Watch:
    """A look at the embeddings at every epoch's end, so that a long run that has collapsed is not waited for."""

    def __init__(self, images: TrainImages, seed: int, where: torch.device, name: str) -> None:
        """Choose the images, the same ones for the whole run: at most 256, and few of few.

        Args:
            images: What is trained on.
            seed: Of the choice.
            where: The device.
            name: Of the run, in the log.
        """
        self._images = images
        self._n = max(FEWEST, min(MOST, len(images) // SHARE))
        self._seed = seed
        self._where = where
        self._name = name
        self._suspected = self._said = False

    def look(self, encoder: Encoder, epoch: int) -> dict[str, float]:
        """Effective rank and mean standard deviation of a feature, for the metrics.

        A collapse is logged once, when two looks in a row have found it: in its first epochs a run may pass one.
        """
        judged = judge(encoder.embedder, self._images, self._n, self._seed, self._where)
        encoder.train()
        if judged["warning"] and self._suspected and not self._said:
            self._said = True
            log.warning("%s, in epoch %d: %s", self._name, epoch, judged["warning"])
        self._suspected = bool(judged["warning"])
        return {"embedding_rank": judged["effective_rank"], "embedding_std": judged["feature_std"]}

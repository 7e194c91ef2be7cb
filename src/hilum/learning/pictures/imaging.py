"""From images to codes and back, by whichever encoder has a decoder; and codes between two images.

N: images, C: 1 channel, H x W: pixels, D: width of an embedding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilum.errors import TrainingError, UsageError
from hilum.learning import embedding, encoders
from hilum.learning.diffusion import Denoiser, decode, encode_stochastic, signed, unsigned
from hilum.learning.engine import checkpoint, device
from hilum.learning.engine.batches import BLOCK, blocks, unit_range
from hilum.recipe import Train, read

Pixels = NDArray[np.float32]
# From noise that no film gave, a network that has learned for minutes errs at every step, and more of them show more.
DRAWN_STEPS: Final = 100


@dataclass(frozen=True)
class Codes:
    """All that is known of some films: the embedding, and the stochastic code where the encoder has one."""

    z_ND: Tensor
    noise_NCHW: Tensor | None = None


@dataclass(frozen=True)
class Imager:
    """From films to codes and back.

    Attributes:
        embedder: Images in [0, 1] to embeddings.
        decoder: Either a Denoiser, which needs x_T beside z, or a module that takes z alone to images in [0, 1].
        steps: Of a Denoiser's walk.
        where: Where the arithmetic runs.
    """

    embedder: nn.Module
    decoder: nn.Module
    steps: int
    where: torch.device

    @property
    def is_stochastic(self) -> bool:
        """Whether z alone leaves something open that x_T says."""
        return isinstance(self.decoder, Denoiser)

    def codes(self, x_NHW: NDArray[np.uint8]) -> Codes:
        """The codes of uint8 images."""
        z_ND = torch.from_numpy(embedding.embed(self.embedder, x_NHW, self.where)).to(self.where)
        if not isinstance(self.decoder, Denoiser):
            return Codes(z_ND)
        x_NCHW = signed(unit_range(torch.from_numpy(x_NHW).to(self.where)))
        return Codes(z_ND, encode_stochastic(self.decoder, x_NCHW, z_ND, self.steps))

    @torch.inference_mode()
    def images(self, codes: Codes, drawn: bool = False) -> Pixels:
        """Images (N, H, W) of codes, about in [0, 1]: what a film's own codes give is not clipped, to hide no error.

        Args:
            codes: What is known of the films.
            drawn: The stochastic code was drawn at random; only then is the walk held within the range of images, and
                of `DRAWN_STEPS` at most.
        """
        if isinstance(self.decoder, Denoiser) and codes.noise_NCHW is not None:
            steps = self._drawn_steps(self.decoder.timesteps) if drawn else self.steps
            x_NCHW = unsigned(decode(self.decoder, codes.noise_NCHW, codes.z_ND, steps, clip=drawn))
        else:
            parts = [self.decoder(codes.z_ND[part]) for part in blocks(len(codes.z_ND), BLOCK)]
            x_NCHW = torch.cat(parts)
        made: Pixels = x_NCHW[:, 0].float().cpu().numpy()
        return made

    def _drawn_steps(self, timesteps: int) -> int:
        """The most steps up to `DRAWN_STEPS` that divide T, and not more than a film's own walk has."""
        return max(k for k in range(1, min(self.steps, DRAWN_STEPS) + 1) if timesteps % k == 0)


def load(encoder_run: Path, steps: int) -> Imager:
    """The trained embedder and decoder of an encoder run, on the device, in eval mode.

    Args:
        encoder_run: What `hilum train` wrote.
        steps: Of a Denoiser's walk; a divisor of its T.

    Raises:
        UsageError: The encoder has no decoder.
        TrainingError: The run is not finished, or its decoder is missing or damaged.
    """
    card = embedding.read_card(encoder_run)
    recipe: Train = read(encoder_run / embedding.RECIPE, Train)
    decoder = encoders.build(recipe.encoder, card["size"]).decoder
    if decoder is None:
        raise UsageError(f"{card['encoder']} has no decoder, so it makes no images; `diffae` and `vae` do")
    weights = encoder_run / embedding.DECODER
    if not checkpoint.whole(weights):
        raise TrainingError(f"{weights} is missing or damaged; train the encoder again")
    try:
        decoder.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise TrainingError(f"{weights} does not fit the recipe beside it; train the encoder again: {error}") from error
    where = device.pick()
    embedder = embedding.onnx_module(encoder_run).to(where)
    return Imager(embedder, decoder.eval().requires_grad_(False).to(where), steps, where)


def mixed(one: Codes, other: Codes, share: float) -> Codes:
    """The codes at `share` of the way from one film to another: z linear, x_T spherical.

    On a straight line between two draws of high-dimensional noise the length shrinks, and the denoiser has seen no
    noise so short: Shoemake 1985 (slerp), Song et al. 2021, appendix D.5.
    """
    z = (1 - share) * one.z_ND + share * other.z_ND
    if one.noise_NCHW is None or other.noise_NCHW is None:
        return Codes(z)
    a, b = one.noise_NCHW, other.noise_NCHW
    angle = torch.arccos(((a * b).sum() / (a.norm() * b.norm())).clamp(-1.0, 1.0))
    if angle < 1e-4:  # the same noise twice
        return Codes(z, (1 - share) * a + share * b)
    noise = (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
    return Codes(z, noise)

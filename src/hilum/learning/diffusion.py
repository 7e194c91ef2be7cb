"""Diffusion conditioned on an embedding: the denoising network, and the walk between an image and its noise.

Preechakul et al. 2022 (Diffusion Autoencoders), sections 3 and 4. An image has two codes: the embedding z, which says
what it shows, and the stochastic code x_T, which says what z leaves open. The network and the schedulers are those of
diffusers, which is imported nowhere else.

Images here lie in [-1, 1] (`signed`), as the noise is centred on 0. T: timesteps of training; t: 0 to T - 1, of which
each is one step noisier than the one before; B: images, C: 1 channel, H x W: pixels, D: width of z, L: levels.
"""

import math
from typing import Any, Final

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, UNet2DModel
from torch import Tensor, nn

from hilum import progress
from hilum.errors import UsageError
from hilum.learning.engine.batches import blocks

BETAS: Final = (1e-4, 0.02)  # first and last, linear between: Ho et al. 2020, section 4
MOST_GROUPS, LEAST_PER_GROUP = 32, 4  # Wu and He 2018; fewer channels per group are almost instance normalisation
BLOCK: Final = 64  # images that walk together


def signed(x_BCHW: Tensor) -> Tensor:
    """From [0, 1] to [-1, 1]."""
    return x_BCHW * 2.0 - 1.0


def unsigned(x_BCHW: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1]; what lies beyond stays beyond."""
    return (x_BCHW + 1.0) / 2.0


class Denoiser(nn.Module):
    """The network epsilon_theta(x_t, t, z): which noise is in an image, for one who knows what the image shows.

    z is added to the embedding of t, and their sum scales and shifts the normalised features of every residual block.
    The reference scales by z apart from t; diffusers' network does it jointly. Its layers begin as torch begins
    them, not at zero as the reference's last convolutions do, so that z has a gradient from the first step on.

    Attributes:
        unet: diffusers' network.
        timesteps: T.
        alpha_bar_T: The share of an image's variance that is left at each t: alpha of Song et al. 2021, alpha-bar of
            Ho et al. 2020. Not among the weights.
    """

    alpha_bar_T: Tensor

    def __init__(
        self,
        size: int,
        width: int,
        channels: tuple[int, ...],
        blocks: int = 2,
        attention_levels: tuple[int, ...] = (),
        dropout: float = 0.0,
        timesteps: int = 1000,
    ) -> None:
        """Make the network.

        Args:
            size: Side of the images in pixels.
            width: D.
            channels: Of each level; each level but the first halves the resolution.
            blocks: Residual blocks per level.
            attention_levels: Levels, from 0, with one-headed attention; the deepest point always has some.
            dropout: In residual blocks.
            timesteps: T.

        Raises:
            UsageError: The image cannot be halved so often, channels are no multiples of 4, or there is no such level.
        """
        super().__init__()
        n_levels = len(channels)
        if size % 2 ** (n_levels - 1):
            raise UsageError(
                f"diffae: {size} pixels cannot be halved {n_levels - 1} times, as {n_levels} `channels` ask; "
                f"take a size that is a multiple of {2 ** (n_levels - 1)}, or fewer levels"
            )
        if any(one % LEAST_PER_GROUP for one in channels):
            raise UsageError(f"diffae: `channels` are multiples of {LEAST_PER_GROUP}, not {list(channels)}")
        if any(not 0 <= level < n_levels for level in attention_levels):
            raise UsageError(f"diffae: `attention_levels` are among 0 to {n_levels - 1}, not {list(attention_levels)}")
        self.timesteps = timesteps
        attends = [level in attention_levels for level in range(n_levels)]
        groups = _groups(channels)
        self.unet = UNet2DModel(
            sample_size=size,
            in_channels=1,
            out_channels=1,
            block_out_channels=tuple(channels),
            layers_per_block=blocks,
            down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
            up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
            attention_head_dim=None,  # one head, as wide as its level
            norm_num_groups=groups,
            attn_norm_num_groups=groups,  # unsaid, the attention in the middle would have no normalisation
            dropout=dropout,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",  # z itself, where a class would have its embedding
            time_embedding_dim=width,
        )
        betas_T = torch.linspace(*BETAS, timesteps, dtype=torch.float64)
        self.register_buffer("alpha_bar_T", torch.cumprod(1.0 - betas_T, dim=0).float(), persistent=False)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, z_BD: Tensor) -> Tensor:
        """The noise in x_t, float32 (B, 1, H, W)."""
        noise_BCHW: Tensor = self.unet(x_BCHW, t_B, class_labels=z_BD, return_dict=False)[0]
        return noise_BCHW.float()

    def noised(self, x_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """x_t from x_0 and standard normal noise: Song et al. 2021, equation 4."""
        left_B111 = self.alpha_bar_T[t_B][:, None, None, None]
        return left_B111.sqrt() * x_BCHW + (1.0 - left_B111).sqrt() * noise_BCHW


def _groups(channels: tuple[int, ...]) -> int:
    """Groups that divide the channels of every level and of every pair of levels that a skip connection joins."""
    shared = math.gcd(*channels)
    return next(n for n in range(min(MOST_GROUPS, shared // LEAST_PER_GROUP), 0, -1) if shared % n == 0)


def schedulers(timesteps: int, steps: int, clip: bool = False) -> tuple[Any, Any]:
    """DDIM's steps from noise to image and from image to noise, as each other's mirror: (to image, to noise).

    Both take the same `steps` of the T timesteps, from T - 1 down (`trailing`), so that x_T lies at T - 1 whatever the
    number of steps. Clipped, the way back is another than the way there (a round trip's error is hundreds of times as
    large), and diffusers clips unless told otherwise; the way to noise never clips.

    Args:
        timesteps: T.
        steps: How many to take.
        clip: Hold the predicted image in [-1, 1] on the way to the image. For noise that is no film's code: at the
            noisiest steps the prediction is the noise's error times hundreds, and unclipped it may never come back.

    Raises:
        UsageError: `steps` does not divide T; steps of different lengths would not mirror each other.
    """
    if steps < 1 or timesteps % steps:
        fitting = [n for n in range(10, timesteps + 1) if timesteps % n == 0]
        raise UsageError(f"{timesteps} timesteps are not walked in {steps} equal steps; take one of {fitting}")
    settings = {
        "num_train_timesteps": timesteps,
        "beta_start": BETAS[0],
        "beta_end": BETAS[1],
        "beta_schedule": "linear",
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "epsilon",
        "timestep_spacing": "trailing",
    }
    to_image = DDIMScheduler(**settings, clip_sample=clip)
    to_noise = DDIMInverseScheduler(**settings, clip_sample=False)
    to_image.set_timesteps(steps)
    to_noise.set_timesteps(steps)
    return to_image, to_noise


def encode_stochastic(denoiser: Denoiser, x_BCHW: Tensor, z_BD: Tensor, steps: int) -> Tensor:
    """The stochastic code x_T of images: DDIM's deterministic step run backwards, Preechakul et al. 2022, equation 8.

    The noise in a step is that which the step from its end would find, at the end's t: as diffusers does it, and nearer
    to the step's exact inverse than the start's t.

    Args:
        denoiser: Put in eval mode for the walk.
        x_BCHW: Images in [-1, 1].
        z_BD: Their embeddings.
        steps: How many of the T timesteps are taken; a divisor of T.

    Returns:
        x_T, of the images' shape; about standard normal where the denoiser has learned.

    Raises:
        UsageError: `steps` does not divide T.
    """
    _, to_noise = schedulers(denoiser.timesteps, steps)
    return _walk(denoiser, to_noise, x_BCHW, z_BD, "image to noise")


def decode(denoiser: Denoiser, x_BCHW: Tensor, z_BD: Tensor, steps: int, clip: bool = False) -> Tensor:
    """Images from their two codes: Song et al. 2021, equation 12 with sigma = 0; Preechakul et al. 2022, equation 4.

    Args:
        denoiser: Put in eval mode for the walk.
        x_BCHW: x_T: `encode_stochastic`'s, or standard normal noise.
        z_BD: Embeddings.
        steps: How many of the T timesteps are taken; a divisor of T.
        clip: Hold the predicted image in [-1, 1]: for noise that was drawn, not for a film's own code.

    Returns:
        Images, about in [-1, 1], of the shape of x_T.

    Raises:
        UsageError: `steps` does not divide T.
    """
    to_image, _ = schedulers(denoiser.timesteps, steps, clip)
    return _walk(denoiser, to_image, x_BCHW, z_BD, "noise to image")


@torch.inference_mode()
def _walk(denoiser: Denoiser, scheduler: Any, x_BCHW: Tensor, z_BD: Tensor, what: str) -> Tensor:
    """All images through all steps of a scheduler, deterministic: no dropout, no noise."""
    mode = denoiser.training
    denoiser.eval()
    arrived: list[Tensor] = []
    parts = list(blocks(len(x_BCHW), BLOCK))
    try:
        with progress.bar(what, len(parts) * len(scheduler.timesteps), "step") as shown:
            for part in parts:
                x, z = x_BCHW[part], z_BD[part]
                for t in scheduler.timesteps.tolist():
                    noise = denoiser(x, torch.full((len(x),), t, device=x.device), z)
                    x = scheduler.step(noise, t, x, return_dict=False)[0]
                    shown.update()
                arrived.append(x)
    finally:
        denoiser.train(mode)
    return torch.cat(arrived)

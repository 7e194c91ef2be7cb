"""Random views of a batch: tensor operations over the whole batch, and parameters of its own for every image.

B: images, C: 1 channel, H x W: pixels. Every random number comes from the draws handed in.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.learning.engine.draws import Draws
from hilum.recipe import Augment


def augment(x_BCHW: Tensor, section: Augment, draws: Draws) -> Tensor:
    """One random view of each image.

    Geometry comes first, in a single resampling, then grey values; noise comes last, as in a detector.

    Args:
        x_BCHW: Images in [0, 1], float32.
        section: How strong each change may be.
        draws: Of this step, on the device of the images.

    Returns:
        Views of the same shape, in [0, 1].
    """
    x_BCHW = _geometry(x_BCHW, section, draws)
    x_BCHW = _grey(x_BCHW, section, draws)
    if section.blur > 0 and section.blur_sigma_px > 0:
        x_BCHW = _blur(x_BCHW, section, draws)
    if section.noise > 0:
        std_B111 = draws.uniform(0.0, section.noise)[:, None, None, None]
        x_BCHW = x_BCHW + std_B111 * draws.normal(*x_BCHW.shape[1:])
    return x_BCHW.clamp(0.0, 1.0)


def _geometry(x_BCHW: Tensor, section: Augment, draws: Draws) -> Tensor:
    """Crop, rotate and flip: one affine map per image, from places of the view to places of the image.

    In torch's coordinates an image spans [-1, 1] in either direction, so a crop of half-width s < 1 has its centre
    within +-(1 - s). Outside the image (corners of a rotation) the nearest edge pixel goes on.
    """
    area_B = draws.uniform(*section.crop_area)
    narrowest, widest = section.crop_aspect
    aspect_B = torch.exp(draws.uniform(math.log(narrowest), math.log(widest)))
    wide_B = torch.sqrt(area_B * aspect_B).clamp(max=1.0)
    high_B = torch.sqrt(area_B / aspect_B).clamp(max=1.0)
    centre_x_B = (1 - wide_B) * draws.uniform(-1.0, 1.0)
    centre_y_B = (1 - high_B) * draws.uniform(-1.0, 1.0)
    angle_B = math.radians(section.rotate_degrees) * draws.uniform(-1.0, 1.0)
    wide_B = torch.where(draws.uniform(0.0, 1.0) < section.hflip, -wide_B, wide_B)
    high_B = torch.where(draws.uniform(0.0, 1.0) < section.vflip, -high_B, high_B)
    cos_B, sin_B = torch.cos(angle_B), torch.sin(angle_B)
    theta_B23 = torch.stack(
        [
            torch.stack([cos_B * wide_B, -sin_B * high_B, centre_x_B], dim=1),
            torch.stack([sin_B * wide_B, cos_B * high_B, centre_y_B], dim=1),
        ],
        dim=1,
    )
    grid_BHW2 = F.affine_grid(theta_B23, list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def _grey(x_BCHW: Tensor, section: Augment, draws: Draws) -> Tensor:
    """Exposure: gamma, then contrast about the image's mean, then brightness."""
    gamma_B = torch.exp(draws.uniform(-section.gamma, section.gamma))
    contrast_B = draws.uniform(1 - section.contrast, 1 + section.contrast)
    brightness_B = draws.uniform(-section.brightness, section.brightness)
    x_BCHW = x_BCHW.clamp(0.0, 1.0) ** gamma_B[:, None, None, None]
    mean_B111 = x_BCHW.mean(dim=(1, 2, 3), keepdim=True)
    x_BCHW = mean_B111 + contrast_B[:, None, None, None] * (x_BCHW - mean_B111)
    return (x_BCHW + brightness_B[:, None, None, None]).clamp(0.0, 1.0)


def _blur(x_BCHW: Tensor, section: Augment, draws: Draws) -> Tensor:
    """Gaussian blur of some images: separable, each image its own kernel, as a convolution of B groups."""
    n = len(x_BCHW)
    sigma_B = draws.uniform(0.1, max(0.1, section.blur_sigma_px))
    chosen_B = draws.uniform(0.0, 1.0) < section.blur
    sigma_B = torch.where(chosen_B, sigma_B, 1e-3)  # so narrow that the kernel is 1 at its centre and 0 beside it
    radius = min(math.ceil(3 * section.blur_sigma_px), x_BCHW.shape[-1] - 1)
    at_T = torch.arange(-radius, radius + 1, device=x_BCHW.device, dtype=x_BCHW.dtype)
    kernel_BT = torch.softmax(-0.5 * (at_T[None, :] / sigma_B[:, None]) ** 2, dim=1)
    x_1BHW = F.pad(x_BCHW.transpose(0, 1), (radius,) * 4, mode="reflect")
    x_1BHW = F.conv2d(x_1BHW, kernel_BT[:, None, None, :], groups=n)
    x_1BHW = F.conv2d(x_1BHW, kernel_BT[:, None, :, None], groups=n)
    return x_1BHW.transpose(0, 1)

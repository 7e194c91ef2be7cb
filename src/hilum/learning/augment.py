"""Random views of a batch: tensor operations over the whole batch, and parameters of its own for every image.

B: images, C: 1 channel, H x W: pixels. Every random number comes from the draws handed in. What is done here is done
to every image of every step, so it is kept cheap (benchmarks/loading.py measures it): the parameters of a view are one
draw, the sampling grid is two outer sums instead of torch's product of matrices, powers go through base 2, and grey
values change in place.
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.learning.engine.draws import Draws
from hilum.recipe import Augment

PARAMETERS: Final = 13  # random numbers per view, besides the noise's


@torch.no_grad()
def augment(x_BCHW: Tensor, section: Augment, draws: Draws) -> Tensor:
    """One random view of each image.

    Geometry comes first, in a single resampling, then grey values; noise comes last, as in a detector. It is computed
    in float32 also where the caller computes in bfloat16, whose eight bits would band a radiograph's grey values.

    Args:
        x_BCHW: Images in [0, 1], float32; left as they are.
        section: How strong each change may be.
        draws: Of this step, on the device of the images.

    Returns:
        Views of the same shape, in [0, 1], without gradient.
    """
    with torch.autocast(x_BCHW.device.type, enabled=False):
        u_PB = draws.uniform(0.0, 1.0, PARAMETERS).T
        x_BCHW = _geometry(x_BCHW.float(), section, u_PB[:7])
        _grey(x_BCHW, section, u_PB[7:10])
        if section.blur > 0 and section.blur_sigma_px > 0:
            x_BCHW = _blur(x_BCHW, section, u_PB[10:12])
        if section.noise > 0:
            std_B111 = section.noise * u_PB[12][:, None, None, None]
            x_BCHW = torch.addcmul(x_BCHW, draws.normal(*x_BCHW.shape[1:]), std_B111)
        return x_BCHW.clamp_(0.0, 1.0)


def _geometry(x_BCHW: Tensor, section: Augment, u_PB: Tensor) -> Tensor:
    """Crop, rotate and flip: one affine map per image, from places of the view to places of the image.

    In torch's coordinates an image spans [-1, 1] in either direction, so a crop of half-width s < 1 has its centre
    within +-(1 - s). Outside the image (corners of a rotation) the nearest edge pixel goes on.
    """
    area_B = _spread(u_PB[0], *section.crop_area)
    narrowest, widest = section.crop_aspect
    aspect_B = torch.exp(_spread(u_PB[1], math.log(narrowest), math.log(widest)))
    wide_B = torch.sqrt(area_B * aspect_B).clamp(max=1.0)
    high_B = torch.sqrt(area_B / aspect_B).clamp(max=1.0)
    centre_x_B = (1 - wide_B) * _spread(u_PB[2], -1.0, 1.0)
    centre_y_B = (1 - high_B) * _spread(u_PB[3], -1.0, 1.0)
    angle_B = math.radians(section.rotate_degrees) * _spread(u_PB[4], -1.0, 1.0)
    wide_B = torch.where(u_PB[5] < section.hflip, -wide_B, wide_B)
    high_B = torch.where(u_PB[6] < section.vflip, -high_B, high_B)
    cos_B, sin_B = torch.cos(angle_B), torch.sin(angle_B)
    height, width = x_BCHW.shape[-2:]
    across_W, down_H = _middles(width, x_BCHW), _middles(height, x_BCHW)
    # A place of the view is (across, down); its place in the image is a sum of what either contributes.
    across_B2W = torch.stack([cos_B * wide_B, sin_B * wide_B], dim=1)[:, :, None] * across_W
    down_B2H = torch.stack([-sin_B * high_B, cos_B * high_B], dim=1)[:, :, None] * down_H
    down_B2H = down_B2H + torch.stack([centre_x_B, centre_y_B], dim=1)[:, :, None]
    grid_B2HW = across_B2W[:, :, None, :] + down_B2H[:, :, :, None]
    grid_BHW2 = grid_B2HW.permute(0, 2, 3, 1)  # the last axis outermost in memory: rows are added and read as vectors
    return F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def _middles(n: int, like: Tensor) -> Tensor:
    """Middles of `n` pixels that span [-1, 1]."""
    return (torch.arange(n, device=like.device, dtype=like.dtype) * 2 + 1) / n - 1


def _grey(x_BCHW: Tensor, section: Augment, u_PB: Tensor) -> None:
    """Exposure, in place: gamma, then contrast about the image's mean, then brightness."""
    x_BCHW.clamp_(0.0, 1.0)
    if section.gamma > 0:
        gamma_B = torch.exp(_spread(u_PB[0], -section.gamma, section.gamma))
        x_BCHW.log2_().mul_(gamma_B[:, None, None, None]).exp2_()  # x^gamma; log2(0) = -inf comes back as 0
    if section.contrast > 0 or section.brightness > 0:
        contrast_B111 = _spread(u_PB[1], 1 - section.contrast, 1 + section.contrast)[:, None, None, None]
        brightness_B111 = _spread(u_PB[2], -section.brightness, section.brightness)[:, None, None, None]
        mean_B111 = x_BCHW.mean(dim=(1, 2, 3), keepdim=True)
        x_BCHW.mul_(contrast_B111).add_(mean_B111 * (1 - contrast_B111) + brightness_B111).clamp_(0.0, 1.0)


def _blur(x_BCHW: Tensor, section: Augment, u_PB: Tensor) -> Tensor:
    """Gaussian blur of some images: separable, each image its own kernel, as a convolution of B groups.

    All images go through it, for to pick the chosen ones would make a GPU wait for their number.
    """
    n = len(x_BCHW)
    sigma_B = _spread(u_PB[0], 0.1, max(0.1, section.blur_sigma_px))
    sigma_B = torch.where(u_PB[1] < section.blur, sigma_B, 1e-3)  # so narrow that the kernel is 1 amid zeros
    radius = min(math.ceil(3 * section.blur_sigma_px), x_BCHW.shape[-1] - 1)
    at_T = torch.arange(-radius, radius + 1, device=x_BCHW.device, dtype=x_BCHW.dtype)
    kernel_BT = torch.softmax(-0.5 * (at_T[None, :] / sigma_B[:, None]) ** 2, dim=1)
    x_1BHW = F.pad(x_BCHW.transpose(0, 1), (radius,) * 4, mode="reflect")
    x_1BHW = F.conv2d(x_1BHW, kernel_BT[:, None, None, :], groups=n)
    x_1BHW = F.conv2d(x_1BHW, kernel_BT[:, None, :, None], groups=n)
    return x_1BHW.transpose(0, 1)


def _spread(u_B: Tensor, low: float, high: float) -> Tensor:
    """Uniform in [low, high) from uniform in [0, 1)."""
    return low + (high - low) * u_B

"""`pixels`: principal components of the pixels, the floor that every encoder must beat.

What a linear summary of grey values already knows about sex, age or view, no training should be praised for. It is
fitted in closed form and takes no steps. N: images, P = size * size pixels, D: components.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilum.learning.encoders import Encoder
from hilum.learning.engine.batches import TrainImages, blocks
from hilum.recipe import Pixels

NEGLIGIBLE: Final = 1e-10  # share of the first component's variance below which a direction is rounding error


class Projection(nn.Module):
    """Scores on the principal components, divided by the image's side.

    The division makes a score the root mean square change per pixel along its component, so that sizes compare and
    float32 rounding does not grow with the image.

    Attributes:
        mean_P: The mean image, in [0, 1].
        components_DP: Orthonormal rows, by falling variance; zero beyond the rank of the images.
        dim: D.
    """

    mean_P: Tensor
    components_DP: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.dim = dim
        self.size = size
        self.register_buffer("mean_P", torch.zeros(size * size))
        self.register_buffer("components_DP", torch.zeros(dim, size * size))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embeddings (B, D) of images in [0, 1]."""
        return (x_BCHW.flatten(1) - self.mean_P) @ (self.components_DP.T / self.size)


class PixelEncoder(Encoder):
    """Principal components of a sample of the train images; nothing in it is trained in steps."""

    def __init__(self, section: Pixels, size: int) -> None:
        super().__init__(Projection(section.components, size))
        self._max_images = section.max_images

    def fit(self, images: TrainImages, seed: int) -> None:
        """Find the mean image and the components."""
        x_NP = images.pixels(images.sample(self._max_images, seed)).reshape(-1, images.size**2)
        mean_P, components_RP = principal_components(x_NP, self.dim)
        state = self.embedder.state_dict()
        state["mean_P"].copy_(torch.from_numpy(mean_P))
        state["components_DP"].zero_()[: len(components_RP)].copy_(torch.from_numpy(components_RP))


def principal_components(x_NP: NDArray[np.uint8], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean and the first principal components of uint8 images on the scale 0 to 1.

    Eigenvectors of the smaller of the scatter matrix (P x P) and the Gram matrix (N x N) of the centred images: the
    non-zero spectrum is the same. The images are read in blocks, so that no float copy of all of them is made. Each
    component's largest loading is positive, which settles its sign.

    Args:
        x_NP: Images, one a row.
        n: How many components.

    Returns:
        The mean (P,) and up to `n` orthonormal components (R, P), fewer where the images have a lower rank.
    """
    n_images, n_pixels = x_NP.shape
    mean_P = x_NP.mean(axis=0, dtype=np.float64) / 255.0
    if n_pixels <= n_images:
        scatter_PP = np.zeros((n_pixels, n_pixels))
        for part in blocks(n_images):
            centred_BP = x_NP[part] / 255.0 - mean_P
            scatter_PP += centred_BP.T @ centred_BP
        variance, vectors = np.linalg.eigh(scatter_PP)
        components_RP = vectors.T[_leading(variance, n)]
    else:
        gram_NN = np.zeros((n_images, n_images))
        for part in blocks(n_pixels, 1024):
            centred_NB = x_NP[:, part] / 255.0 - mean_P[part]
            gram_NN += centred_NB @ centred_NB.T
        variance, vectors = np.linalg.eigh(gram_NN)
        chosen = _leading(variance, n)
        # A component is X^T u / sqrt(lambda) for an eigenvector u of X X^T.
        weights_RN = vectors.T[chosen] / np.sqrt(variance[chosen])[:, None]
        components_RP = np.empty((len(chosen), n_pixels))
        for part in blocks(n_pixels, 1024):
            components_RP[:, part] = weights_RN @ (x_NP[:, part] / 255.0 - mean_P[part])
    largest = components_RP[np.arange(len(components_RP)), np.abs(components_RP).argmax(axis=1)]
    return mean_P, components_RP * np.sign(largest)[:, None]


def _leading(variance: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Numbers of the `n` largest variances, falling, without those that are rounding error."""
    order = np.argsort(variance)[::-1][:n].astype(np.int64)
    real: NDArray[np.int64] = order[variance[order] > max(NEGLIGIBLE * float(variance[order[0]]), 0.0)]
    return real


def build(section: Pixels, size: int) -> PixelEncoder:
    """An unfitted encoder for images of `size` by `size` pixels."""
    return PixelEncoder(section, size)

"""Input limits: is this image of the kind that the encoder was trained on?

A PNG or JPEG does not say whether it shows a chest, a head or a holiday. The limits describe the images of one modality
by a Gaussian over the orientations of their edges on a coarse grid, and refuse what lies too far from it. Edges,
because the grey values themselves differ as much between an adult's and a child's chest film as between a film and an
MRI (measured on NIH, Kermany and OASIS images).

The features are histograms of oriented gradients (Dalal and Triggs 2005, section 6) without overlapping blocks. The
distance and the density are those of Moghaddam and Pentland 1997, "Probabilistic visual learning for object
representation", eqs 8 to 11: principal components, and one variance for all that they leave.

The limits are as sharp as the training set is uniform: set on the covid-chestxray collection, which gathers films and
crops from publications, they let MRIs pass, and only a second release's limits, by the density, tell them apart. They
are no detector of rare disease or poor quality; what passes them is not thereby well read.

Shapes: N images, H x W pixels, P features of an image, K components.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hilum.errors import ReleaseError

SIDE: Final = 64  # pixels at which edges are taken, whatever the encoder's image size
CELLS: Final = 8  # cells along each side
BINS: Final = 8  # orientations from 0 to 180 degrees
FEATURES: Final = CELLS * CELLS * BINS
MAX_COMPONENTS: Final = 24
QUANTILE: Final = (
    0.9  # of the distances of held-out images: robust against the strange ones that any collection has ...
)
MARGIN: Final = 1.4  # ... times this is the limit; on subsets of 200 and 500 NIH and Kermany films it let no MRI pass
MIN_IMAGES: Final = 40  # fewer cannot say what is usual
MAX_FITTED: Final = 4096  # more images than this hardly move the components
# The first feature of the cell in which a pixel lies.
_CELL_HW: Final = BINS * np.kron(
    np.arange(CELLS * CELLS).reshape(CELLS, CELLS), np.ones((SIDE // CELLS,) * 2, dtype=np.intp)
)
BLANK: Final = 1e-3  # root-mean-square gradient in grey values per pixel, below which there is nothing to see


@dataclass(frozen=True)
class Limits:
    """What images of one modality look like, and how far from it is too far.

    Attributes:
        mean_P: Mean of the features.
        components_KP: Orthonormal principal components, the leading one first.
        variance_K: Variance along each.
        rest_variance: Mean variance along the P - K directions that are left (rho of eq. 11).
        limit: Largest accepted distance.
    """

    mean_P: NDArray[np.float64]
    components_KP: NDArray[np.float64]
    variance_K: NDArray[np.float64]
    rest_variance: float
    limit: float

    def distances(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Mahalanobis distance of each image, squared and per feature: (N,), about 1 for a usual one; inf if blank."""
        features_NP = np.stack([edges(image) for image in images_NHW])
        centred_NP = features_NP - self.mean_P
        coefficients_NK = centred_NP @ self.components_KP.T
        rest = np.maximum((centred_NP**2).sum(axis=1) - (coefficients_NK**2).sum(axis=1), 0.0)
        distances = ((coefficients_NK**2 / self.variance_K).sum(axis=1) + rest / self.rest_variance) / FEATURES
        return np.where(features_NP.any(axis=1), distances, np.inf)

    def accepts(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether each preprocessed image (uint8, square) lies within the limits: (N,)."""
        accepted: NDArray[np.bool_] = self.distances(images_NHW) <= self.limit
        return accepted

    def log_densities(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Log density of each image per feature: (N,); comparable between limits, unlike the distance.

        A broad Gaussian is near to everything; its density says so.
        """
        densities: NDArray[np.float64] = -0.5 * (self.distances(images_NHW) + self._volume)
        return densities

    def log_density(self, distance: float) -> float:
        """The log density per feature of an image at a distance that is known already."""
        return -0.5 * (distance + self._volume)

    @cached_property
    def _volume(self) -> float:
        """What the density has of the Gaussian alone."""
        rest = (FEATURES - len(self.variance_K)) * np.log(self.rest_variance)
        return float((np.log(self.variance_K).sum() + rest) / FEATURES + np.log(2 * np.pi))

    def save(self, path: Path) -> None:
        """Write `path`, a .npz."""
        np.savez(
            path,
            mean_P=self.mean_P,
            components_KP=self.components_KP,
            variance_K=self.variance_K,
            rest_variance=self.rest_variance,
            limit=self.limit,
        )

    @classmethod
    def load(cls, path: Path) -> "Limits":
        """Read what `save` wrote.

        Raises:
            ReleaseError: It cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                limits = cls(
                    kept["mean_P"],
                    kept["components_KP"],
                    kept["variance_K"],
                    float(kept["rest_variance"]),
                    float(kept["limit"]),
                )
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ReleaseError(f"{path.name} of the release cannot be read as input limits: {error}") from error
        if limits.components_KP.shape != (len(limits.variance_K), FEATURES):
            raise ReleaseError(
                f"{path.name} of the release has components of shape {limits.components_KP.shape}, "
                f"not ({len(limits.variance_K)}, {FEATURES}): this hilum takes other features; export again"
            )
        return limits


def fit(fitted_NHW: NDArray[np.uint8], held_out_NHW: NDArray[np.uint8]) -> Limits:
    """Limits from preprocessed images of one modality.

    Args:
        fitted_NHW: Images that the components are fitted on; MIN_IMAGES at least.
        held_out_NHW: Images of other patients, from which the limit is set: the fitted ones lie too near.
    """
    assert len(fitted_NHW) >= MIN_IMAGES, "the caller asks whether there are enough images"
    assert len(held_out_NHW) > 0, "the caller holds some images out"
    chosen = np.linspace(0, len(fitted_NHW) - 1, min(len(fitted_NHW), MAX_FITTED)).astype(int)
    features_NP = np.stack([edges(fitted_NHW[row]) for row in chosen])
    mean_P = features_NP.mean(axis=0)
    _, singular, components_KP = np.linalg.svd(features_NP - mean_P, full_matrices=False)
    count = max(1, min(MAX_COMPONENTS, len(chosen) // 4))
    variance_K = np.maximum(singular[:count] ** 2 / (len(chosen) - 1), 1e-9)
    held_out_NP = np.stack([edges(image) for image in held_out_NHW]) - mean_P
    rest = (held_out_NP**2).sum(axis=1) - ((held_out_NP @ components_KP[:count].T) ** 2).sum(axis=1)
    # The median, so that a few strange images among the held-out ones do not make everything usual.
    rest_variance = max(float(np.median(rest)) / (FEATURES - count), 1e-9)
    unbounded = Limits(mean_P, components_KP[:count], variance_K, rest_variance, np.inf)
    distances = unbounded.distances(held_out_NHW)
    seen = distances[np.isfinite(distances)]
    limit = float(np.quantile(seen, QUANTILE)) * MARGIN if len(seen) else 0.0
    return Limits(mean_P, components_KP[:count], variance_K, rest_variance, limit)


def edges(image_HW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Histograms of oriented gradients of a preprocessed image: P features of mean square 1; zeros where it is blank.

    The scale is taken out as a whole, which makes the features blind to brightness and contrast.
    """
    resized = Image.fromarray(image_HW).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    down, across = _gradient(np.asarray(resized, dtype=np.float64))
    squared = across * across + down * down
    if float(squared.sum()) < BLANK**2 * squared.size:
        return np.zeros(FEATURES)
    magnitude = np.sqrt(squared)
    angle = np.arctan2(down, across) * (BINS / np.pi)  # in bins, from -BINS to BINS
    lower = np.floor(angle)
    share = angle - lower  # linear between neighbouring bins, cyclic
    bins = lower.astype(np.intp)
    upper_share = magnitude * share
    histograms = np.bincount((_CELL_HW + bins % BINS).ravel(), (magnitude - upper_share).ravel(), FEATURES)
    histograms += np.bincount((_CELL_HW + (bins + 1) % BINS).ravel(), upper_share.ravel(), FEATURES)
    features = np.sqrt(histograms)  # the square root tames the few strong edges (RootSIFT, HOG's L1-sqrt)
    features -= features.sum() / FEATURES
    standard: NDArray[np.float64] = features * np.sqrt(FEATURES / (features @ features))
    return standard


def _gradient(image_HW: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Central differences down and across, one-sided at the borders: numpy's gradient without its generality."""
    down, across = np.empty_like(image_HW), np.empty_like(image_HW)
    down[1:-1] = (image_HW[2:] - image_HW[:-2]) * 0.5
    across[:, 1:-1] = (image_HW[:, 2:] - image_HW[:, :-2]) * 0.5
    down[0], down[-1] = image_HW[1] - image_HW[0], image_HW[-1] - image_HW[-2]
    across[:, 0], across[:, -1] = image_HW[:, 1] - image_HW[:, 0], image_HW[:, -1] - image_HW[:, -2]
    return down, across

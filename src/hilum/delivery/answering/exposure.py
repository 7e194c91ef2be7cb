"""Exposure: can anything be read from this image, or is it black, white, or without contrast?

Four figures of the preprocessed image are compared with those of the training images: contrast (the 95th minus the 5th
percentile of grey values), mean, and the shares of pixels at the black and at the white end. An image is unreadable
where a figure lies far beyond what training images show; far, because a clinic's darkest film is still a film, and
because a wrong refusal of a readable one costs more than a poor one that is answered with its other caveats.

Padding is part of the figures on both sides. Shapes: N images, S x S pixels.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ENDS: Final = (2, 253)  # grey values at and beyond which a pixel is black or white
QUANTILE: Final = 0.005  # of training images that may lie beyond a bound before its margin
MARGIN: Final = 0.5  # a bound is moved this part of the way from that quantile towards the unreadable extreme
_LEVELS: Final = np.arange(256)


@dataclass(frozen=True)
class Exposure:
    """Bounds on the exposure of an image.

    Attributes:
        contrast_low: Least contrast, grey values.
        mean_low: Least mean.
        mean_high: Largest mean.
        black_high: Largest share of black pixels.
        white_high: Largest share of white pixels.
    """

    contrast_low: float
    mean_low: float
    mean_high: float
    black_high: float
    white_high: float

    def fault(self, image_SS: NDArray[np.uint8]) -> str | None:
        """What is wrong with the exposure of an image, in words; None where nothing is."""
        contrast, mean, black, white = figures(image_SS)
        if contrast < self.contrast_low:
            return f"it has next to no contrast ({contrast:.0f} of 255 grey values, at least {self.contrast_low:.0f})"
        if mean < self.mean_low or black > self.black_high:
            return f"it is nearly black (mean {mean:.0f} of 255, {100 * black:.0f}% of its pixels black)"
        if mean > self.mean_high or white > self.white_high:
            return f"it is nearly white (mean {mean:.0f} of 255, {100 * white:.0f}% of its pixels white)"
        return None

    def arrays(self) -> dict[str, Any]:
        """For a .npz."""
        return {f"exposure_{name}": np.float64(value) for name, value in vars(self).items()}

    @classmethod
    def of(cls, kept: Any) -> "Exposure":
        """From what `arrays` gave; a KeyError where it is not there."""
        return cls(**{name: float(kept[f"exposure_{name}"]) for name in cls.__dataclass_fields__})


def fit(images_NSS: NDArray[np.uint8]) -> Exposure:
    """Bounds from training images: uint8, (N, S, S)."""
    contrast_N, mean_N, black_N, white_N = np.array([figures(image) for image in images_NSS]).T
    low = {name: float(np.quantile(x_N, QUANTILE)) for name, x_N in (("contrast", contrast_N), ("mean", mean_N))}
    high = {
        name: float(np.quantile(x_N, 1 - QUANTILE))
        for name, x_N in (("mean", mean_N), ("black", black_N), ("white", white_N))
    }
    return Exposure(
        contrast_low=low["contrast"] * (1 - MARGIN),
        mean_low=low["mean"] * (1 - MARGIN),
        mean_high=high["mean"] + MARGIN * (255 - high["mean"]),
        black_high=high["black"] + MARGIN * (1 - high["black"]),
        white_high=high["white"] + MARGIN * (1 - high["white"]),
    )


def figures(image_SS: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Contrast, mean, share of black and share of white pixels, all from one histogram."""
    counts = np.asarray(Image.fromarray(image_SS).histogram())
    below = np.cumsum(counts)
    total = int(below[-1])
    low, high = np.searchsorted(below, [0.05 * total, 0.95 * total])
    black, white = float(below[ENDS[0]]), float(total - below[ENDS[1] - 1])
    return float(high - low), float(_LEVELS @ counts) / total, black / total, white / total

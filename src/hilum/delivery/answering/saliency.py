"""What moved a probability: occlusion sensitivity (Zeiler & Fergus 2014, section 4.2).

Patches of the image are covered one after the other, and the change of the logit is drawn where the patch lay. It needs
nothing of the model but its answers, so that it holds for every encoder and engine, and it shows what it says: how the
answer changes without this part of the image. It is no proof that the part shows the finding.

A patch is covered by a strong blur of the image itself: a grey square has edges, to which an encoder answers too.

Shapes: S x S pixels, P patches, B images of a batch.
"""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

GRID: Final = 8  # patches along each side, half overlapping: 225 forward passes would be 15 along each side
BLUR: Final = 6  # radius of the blur: a part of S
LEAST: Final = 1e-3  # nats; where no patch moves the logit by this much there is nothing to show
SHOWN: Final = 384  # pixels along the side of the picture, at least
# From blue over nothing to red (ColorBrewer RdBu's ends): told apart with any colour vision.
RAISES: Final = np.array([178, 24, 43])
LOWERS: Final = np.array([33, 102, 172])
METHOD: Final = "occlusion sensitivity (Zeiler & Fergus 2014)"


@dataclass(frozen=True)
class Saliency:
    """What moved an answer.

    Attributes:
        map_SS: Change of the logit that each pixel's patches brought, nats: positive where the covered part had raised
            the probability.
        passes: Images that were run for it.
        picture: The map over the image, PNG.
    """

    map_SS: NDArray[np.float32]
    passes: int
    picture: bytes

    @property
    def strongest(self) -> float:
        """Largest absolute value of the map, nats."""
        return float(np.abs(self.map_SS).max())

    def body(self) -> dict[str, Any]:
        """For JSON."""
        shown = (
            "Red parts raised the probability, blue parts lowered it: without them the model would have answered "
            f"otherwise, by up to {self.strongest:.2f} nats of its logit. "
            if self.strongest >= LEAST
            else "No part of the image alone moves the answer. "
        )
        return {
            "png": base64.b64encode(self.picture).decode(),
            "method": METHOD,
            "passes": self.passes,
            "strongest_nats": self.strongest,
            "what": shown + "It shows what the model looks at, not where a finding is.",
        }


def explain(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], image_SS: NDArray[np.uint8], grid: int = GRID
) -> Saliency:
    """Cover every patch of an image in turn, and see what becomes of the answer.

    Args:
        run: From images, uint8 (B, S, S), to probabilities (B,).
        image_SS: The image as the model sees it.
        grid: Patches along each side; they overlap by half.

    Returns:
        The map and its picture, after grid squared and one forward passes.
    """
    size = len(image_SS)
    blurred_SS = np.asarray(Image.fromarray(image_SS).filter(ImageFilter.GaussianBlur(size / BLUR)))
    boxes = patches(size, grid)
    images_BSS = np.repeat(image_SS[None], len(boxes) + 1, axis=0)
    for covered, (rows, columns) in zip(images_BSS[1:], boxes, strict=True):
        covered[rows, columns] = blurred_SS[rows, columns]
    logit_B = _logit(run(images_BSS))
    total_SS, count_SS = np.zeros((size, size)), np.zeros((size, size))
    for change, (rows, columns) in zip(logit_B[0] - logit_B[1:], boxes, strict=True):
        total_SS[rows, columns] += change
        count_SS[rows, columns] += 1
    map_SS = (total_SS / np.maximum(count_SS, 1)).astype(np.float32)
    return Saliency(map_SS, len(images_BSS), picture(image_SS, map_SS))


def patches(size: int, grid: int) -> list[tuple[slice, slice]]:
    """Rows and columns of grid x grid patches that cover the image, each twice as long as the step between them."""
    step = size / (grid + 1)
    spans = [
        slice(round(number * step), max(round(number * step) + 1, round((number + 2) * step))) for number in range(grid)
    ]
    return [(rows, columns) for rows in spans for columns in spans]


def picture(image_SS: NDArray[np.uint8], map_SS: NDArray[np.float32]) -> bytes:
    """The map in colours over the grey image, as a PNG."""
    scale = max(1, -(-SHOWN // len(image_SS)))
    side = scale * len(image_SS)
    grey = np.asarray(Image.fromarray(image_SS).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    smooth = np.asarray(Image.fromarray(map_SS).resize((side, side), Image.Resampling.BICUBIC))
    strongest = float(np.abs(map_SS).max())
    strength = np.clip(np.abs(smooth) / strongest, 0, 1) if strongest >= LEAST else np.zeros_like(smooth)
    colour = np.where((smooth > 0)[..., None], RAISES, LOWERS)
    alpha = (0.65 * strength)[..., None]
    shown = np.clip(grey[..., None] * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(shown).save(stream, "PNG")
    return stream.getvalue()


def _logit(probability_B: NDArray[Any]) -> NDArray[np.float64]:
    """Log odds; finite at 0 and 1, which float32 reaches."""
    clipped = np.clip(np.asarray(probability_B, dtype=np.float64), 1e-7, 1 - 1e-7)
    found: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return found

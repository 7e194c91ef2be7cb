"""What moved a probability: occlusion sensitivity (Zeiler & Fergus 2014, section 4.2).

Patches of the image are covered one after the other, and the change of the logit is drawn where the patch lay. It needs
nothing of the model but its answers, so that it holds for every encoder and engine, and it shows what it says: how the
answer changes without this part of the image. It is no proof that the part shows the finding.

The logit, not the probability, is compared: close to 0 and 1 a probability hardly moves, whatever is covered.
A patch is covered by a strong blur of the image itself: a patch of one grey value has edges, and on a film or beside a
black margin it is brighter or darker than all around, to which an encoder answers too.

Shapes: S x S pixels, B images of a batch.
"""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

GRID: Final = 8  # patches along each side, half overlapping: 65 forward passes; 15 would show more, and cost 226
BLUR: Final = 6  # S over the standard deviation of the blur: of the size of a patch, so that little of it is left
LEAST: Final = 1e-3  # of the logit: what rounding and quantisation may bring; below, nothing is shown
CLEAR: Final = 0.1  # of the logit, a tenth of the odds: smaller effects never get the full colour
SHOWN: Final = 384  # pixels along the side of the picture, at least
MOST: Final = 0.65  # share of colour at its deepest, so that the image is still seen through it
NEARLY: Final = 1e-7  # from 0 and 1; float32 reaches both, and the logit must stay finite
# From blue over nothing to red (ColorBrewer RdBu's ends): told apart with any colour vision.
RAISES: Final = np.array([178, 24, 43])
LOWERS: Final = np.array([33, 102, 172])
METHOD: Final = "occlusion sensitivity (Zeiler & Fergus 2014)"


@dataclass(frozen=True)
class Saliency:
    """What moved an answer.

    Attributes:
        map_SS: By how much covering a pixel lowers the logit, mean over its patches, float32: positive where the
            covered part had raised the probability.
        png: The map over the image.
        passes: Images that were run for it.
        method: How it was made.
        what: What the picture shows and what it does not, for its reader.
    """

    map_SS: NDArray[np.float32]
    png: bytes
    passes: int
    method: str
    what: str

    @property
    def strongest(self) -> float:
        """Largest absolute value of the map, in units of the logit."""
        return _strongest(self.map_SS)

    def body(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "png": base64.b64encode(self.png).decode(),
            "method": self.method,
            "passes": self.passes,
            "strongest_logit": self.strongest,
            "what": self.what,
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
        The map and its picture, after grid squared and one forward passes; the same ones for the same image.
    """
    size = len(image_SS)
    blurred_SS = np.asarray(Image.fromarray(image_SS).filter(ImageFilter.GaussianBlur(size / BLUR)))
    boxes = patches(size, grid)
    images_BSS = np.repeat(image_SS[None], len(boxes) + 1, axis=0)
    for covered_SS, box in zip(images_BSS[1:], boxes, strict=True):
        covered_SS[box] = blurred_SS[box]
    logit_B = _logit(run(images_BSS))
    total_SS, count_SS = np.zeros((size, size)), np.zeros((size, size))
    for change, box in zip(logit_B[0] - logit_B[1:], boxes, strict=True):
        total_SS[box] += change
        count_SS[box] += 1
    map_SS = (total_SS / count_SS).astype(np.float32)
    return Saliency(map_SS, picture(image_SS, map_SS, grid), len(images_BSS), METHOD, words(map_SS, grid))


def patches(size: int, grid: int) -> list[tuple[slice, slice]]:
    """Rows and columns of grid x grid patches that cover the image, each twice as long as the step between them."""
    step = size / (grid + 1)
    starts = [min(round(number * step), size - 1) for number in range(grid)]
    ends = [round((number + 2) * step) for number in range(grid)]
    spans = [slice(start, max(start + 1, end)) for start, end in zip(starts, ends, strict=True)]
    return [(rows, columns) for rows in spans for columns in spans]


def _factor(logit: float) -> str:
    odds = float(np.exp(logit))
    return f"a factor of {odds:.2g}" if odds >= 1.1 else "less than a tenth"


def words(map_SS: NDArray[np.float32], grid: int = GRID) -> str:
    """What a map shows and what it does not, for a reader who is no engineer."""
    strongest = _strongest(map_SS)
    if strongest < LEAST:
        shown = "No single part of the image moves this answer: whichever was covered, it stayed the same."
    else:
        shown = (
            "Red marks what raised the probability, blue what lowered it: with that part blurred, the model would have "
            f"answered lower or higher. Where the colour is deepest, the odds change by {_factor(strongest)}."
        )
        if strongest < CLEAR:
            shown += " That is little: the answer does not rest on any single part."
    return (
        f"{shown} It shows which parts the model's answer depends on, not where a finding is: a marker, a tube or the "
        "edge of the film can be red, and a finding can stay without colour. Details smaller than about "
        f"{2 / (grid + 1):.0%} of the image's side are not resolved."
    )


def picture(image_SS: NDArray[np.uint8], map_SS: NDArray[np.float32], grid: int = GRID) -> bytes:
    """The map in colours over the grey image, enlarged by a whole factor to SHOWN pixels at least, as a PNG.

    The map is constant on (grid + 1) squared cells, whose edges lie where the patches happen to end; drawn as they are,
    they would be taken for edges in the image. So the colour goes evenly from the middle of one cell to the next.
    """
    side = len(image_SS) * max(1, -(-SHOWN // len(image_SS)))
    grey = np.asarray(Image.fromarray(image_SS).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    cells = Image.fromarray(map_SS).resize((grid + 1, grid + 1), Image.Resampling.BOX)
    smooth = np.asarray(cells.resize((side, side), Image.Resampling.BILINEAR))
    strongest = _strongest(map_SS)
    strength = np.clip(np.abs(smooth) / max(strongest, CLEAR), 0, 1) if strongest >= LEAST else np.zeros_like(smooth)
    colour = np.where((smooth > 0)[..., None], RAISES, LOWERS)
    alpha = MOST * strength[..., None]
    shown = np.clip(grey[..., None] * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(shown).save(stream, "PNG")
    return stream.getvalue()


def _strongest(map_SS: NDArray[np.float32]) -> float:
    return float(np.abs(map_SS).max())


def _logit(probability_B: NDArray[Any]) -> NDArray[np.float64]:
    """Log odds, finite also for 0 and 1."""
    clipped = np.clip(np.asarray(probability_B, dtype=np.float64), NEARLY, 1 - NEARLY)
    found: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return found

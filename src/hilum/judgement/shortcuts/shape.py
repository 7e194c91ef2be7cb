"""The shape of the picture within its square: preparation pads the shorter side, and an encoder sees the padding.

A source that photographs, crops or exports in its own proportions signs its images with them. Legend: N images, S side.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement.shortcuts.permuting import Rows
from hilum.progress import track

BLOCK: Final = 2_000  # images whose pixels are read at once
DECIMALS: Final = 2  # of the proportion: a pixel in a hundred is rounding of the padding


def proportions(images_NSS: NDArray[np.uint8], rows: Rows, pad_value: int) -> NDArray[np.float64]:
    """Width over height of each picture without its padding, (N,); NaN where there is nothing but padding.

    Black film beyond the collimation counts as padding where it fills whole rows or columns and is as black.
    """
    found = np.full(len(rows), np.nan)
    for start in track(range(0, len(rows), BLOCK), "shapes of pictures", unit="block"):
        shown_BSS = images_NSS[rows[start : start + BLOCK]] != pad_value
        for place, (height, width) in enumerate(
            zip(_extent(shown_BSS.any(axis=2)), _extent(shown_BSS.any(axis=1)), strict=True)
        ):
            if height and width:
                found[start + place] = round(width / height, DECIMALS)
    return found


def _extent(any_BS: NDArray[np.bool_]) -> NDArray[np.int64]:
    """From the first to the last line that shows something, (B,); 0 where none does."""
    size = any_BS.shape[1]
    last = size - any_BS[:, ::-1].argmax(axis=1)
    return np.where(any_BS.any(axis=1), last - any_BS.argmax(axis=1), 0)

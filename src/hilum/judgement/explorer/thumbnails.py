"""Thumbnails of many images in a few JPEG sheets, as large as a budget of bytes allows."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hilum.errors import UsageError
from hilum.progress import bar

# Multiples of 8: a JPEG codes blocks of 8 x 8, so no thumbnail shines through into the next.
SIDES: Final = (160, 128, 96, 64, 48, 32, 24, 16)
SHEET_SIDE: Final = 1024  # pixels at most; a browser decodes one in some milliseconds, and keeps a few
QUALITY: Final = 80
SAMPLE_SHEETS: Final = 4  # from which the size of all is estimated


@dataclass(frozen=True)
class Sheets:
    """Thumbnail i lies on sheet i // per_sheet, in row-major order.

    Attributes:
        side: Of a thumbnail in pixels.
        across: Thumbnails in a row of a sheet, and rows at most.
        jpegs: The sheets.
    """

    side: int
    across: int
    jpegs: tuple[bytes, ...]

    @property
    def per_sheet(self) -> int:
        """Thumbnails on a full sheet."""
        return self.across**2


def sheets(images_NHW: NDArray[np.uint8], rows: NDArray[np.int64], budget_bytes: int) -> Sheets:
    """Thumbnails of some images.

    Args:
        images_NHW: All images, uint8, (N, H, W); may be memory-mapped.
        rows: Numbers of those that get one, in the sheets' order.
        budget_bytes: Of all sheets as base64 text. The largest of SIDES that keeps to it is taken, none larger than
            the images.

    Raises:
        UsageError: Not even the smallest thumbnails fit.
    """
    largest = max(images_NHW.shape[1:])
    sides = [side for side in SIDES if side <= largest] or [SIDES[-1]]
    for side in sides:
        if _estimate(images_NHW, rows, side) > 1.05 * budget_bytes:  # an estimate, so with some room
            continue
        made = _sheets(images_NHW, rows, side)
        if sum(map(_as_text, made.jpegs)) <= budget_bytes:
            return made
    raise UsageError(
        f"thumbnails of {len(rows):,} images at {sides[-1]} px do not fit into {budget_bytes / 1e6:g} MB; allow more, "
        "or show fewer images"
    )


def _as_text(jpeg: bytes) -> int:
    return 4 * -(-len(jpeg) // 3)


def _estimate(images_NHW: NDArray[np.uint8], rows: NDArray[np.int64], side: int) -> float:
    per_sheet = (SHEET_SIDE // side) ** 2
    if len(rows) <= SAMPLE_SHEETS * per_sheet:
        return 0.0  # as quickly made as estimated
    chosen = np.random.default_rng(0).choice(len(rows), SAMPLE_SHEETS * per_sheet, replace=False)
    sample = _sheets(images_NHW, rows[np.sort(chosen)], side, silent=True)
    return sum(map(_as_text, sample.jpegs)) / len(chosen) * len(rows)


def _sheets(images_NHW: NDArray[np.uint8], rows: NDArray[np.int64], side: int, silent: bool = False) -> Sheets:
    across = SHEET_SIDE // side
    jpegs = []
    with bar(f"thumbnails of {side} px", total=len(rows), unit="image", silent=silent) as shown:
        for start in range(0, len(rows), across**2):
            of = rows[start : start + across**2]
            jpegs.append(_sheet(images_NHW, of, side, across))
            shown.update(len(of))
    return Sheets(side, across, tuple(jpegs))


def _sheet(images_NHW: NDArray[np.uint8], rows: Sequence[int] | NDArray[np.int64], side: int, across: int) -> bytes:
    sheet = np.zeros((-(-len(rows) // across) * side, min(across, len(rows)) * side), dtype=np.uint8)
    for place, row in enumerate(rows):
        y, x = side * (place // across), side * (place % across)
        sheet[y : y + side, x : x + side] = _thumbnail(images_NHW[row], side)
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


def _thumbnail(image_HW: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if image_HW.shape == (side, side):
        return image_HW
    return np.asarray(Image.fromarray(np.asarray(image_HW)).resize((side, side), Image.Resampling.BOX))

"""A sheet of small pictures with words around them: rows and columns, a colour scale, and who made it; as one PNG.

H x W: pixels of a picture. Nothing here knows what the pictures show.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from hilum.page import INK, SOFT

CELL, GAP, MARGIN = 136, 6, 36  # pixels
TITLE, TEXT, SMALL = 28, 17, 14  # sizes of letters
LINE, GROUND = "#d9dfe7", "#ffffff"
# From less to more, through white: blue and orange look different to people with any colour vision.
LESS, MORE = np.array([0x1F, 0x5F, 0xA8]), np.array([0xC4, 0x5A, 0x00])
LIMITS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # of the grey range; less than the first is not worth a colour

Grey = NDArray[np.floating]
Colour = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Row:
    """One row of pictures.

    Attributes:
        label: What stands before it; lines are separated by a line break.
        cells: Grey pictures (H, W), float in [0, 1]; coloured ones (H, W, 3), uint8; or words in place of a picture.
        follows: Whether it belongs to the row above, and stands close to it.
    """

    label: str
    cells: Sequence[Grey | Colour | str]
    follows: bool = False


@dataclass(frozen=True)
class Sheet:
    """What is drawn.

    Attributes:
        title: In a few words.
        lead: What is to be seen, and how far it can be trusted.
        columns: One head per column.
        rows: See Row.
        limit: The difference that has the full colour, if differences are shown.
        run: Who made it, printed at the foot and kept in the file.
        caution: What a reader must know first.
    """

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[Row]
    run: Mapping[str, str]
    limit: float | None = None
    caution: str = ""


def limit_of(differences: Grey) -> float:
    """A round limit for the colours of some differences: nearly all lie within it."""
    largest = float(np.quantile(np.abs(differences), 0.995))
    return next((limit for limit in LIMITS if largest <= limit), LIMITS[-1])


def coloured(difference_HW: Grey, limit: float) -> Colour:
    """Signed differences as colours: blue is darker than before, orange is brighter, white is the same."""
    share_HW1 = np.clip(difference_HW / limit, -1.0, 1.0)[..., None]
    end_HW3 = np.where(share_HW1 < 0, LESS, MORE)
    colours: Colour = np.rint(255 + np.abs(share_HW1) * (end_HW3 - 255)).astype(np.uint8)
    return colours


def draw(sheet: Sheet) -> Image.Image:
    """The sheet as an RGB image."""
    title, text, small = (ImageFont.load_default(size) for size in (TITLE, TEXT, SMALL))
    label_width = max((int(small.getlength(line)) for row in sheet.rows for line in row.label.split("\n")), default=0)
    left = MARGIN + (label_width + 14 if label_width else 0)
    width = max(left + len(sheet.columns) * (CELL + GAP) - GAP + MARGIN, 760)
    lead = _wrapped(sheet.lead, text, width - 2 * MARGIN)
    caution = _wrapped(sheet.caution, small, width - 2 * MARGIN - 18)
    made = " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in sheet.run.items())
    foot = _wrapped(made, small, width - 2 * MARGIN)
    heads = [column.split("\n") for column in sheet.columns]
    head_height = max(len(head) for head in heads) * (SMALL + 5) + 6
    top = MARGIN + TITLE + 16 + len(lead) * (TEXT + 8) + (len(caution) * (SMALL + 6) + 18 if caution else 0) + 18
    tall = sum(CELL + GAP + (0 if row.follows or number == 0 else 3 * GAP) for number, row in enumerate(sheet.rows))
    scale_height = 62 if sheet.limit else 14
    height = top + head_height + tall + scale_height + len(foot) * (SMALL + 6) + MARGIN
    page = Image.new("RGB", (width, height), GROUND)
    pen = ImageDraw.Draw(page)

    pen.text((MARGIN, MARGIN - 6), sheet.title, INK, title)
    y = MARGIN + TITLE + 16
    for line in lead:
        pen.text((MARGIN, y), line, SOFT, text)
        y += TEXT + 8
    if caution:
        pen.rectangle((MARGIN, y + 6, MARGIN + 3, y + 8 + len(caution) * (SMALL + 6)), fill="#8a5a00")
        for line in caution:
            pen.text((MARGIN + 14, y + 8), line, INK, small)
            y += SMALL + 6
    for column, head in enumerate(heads):
        centre = left + column * (CELL + GAP) + CELL / 2
        for number, line in enumerate(reversed(head)):
            pen.text((centre, top + head_height - 8 - number * (SMALL + 5)), line, INK, small, anchor="ms")
    y = top + head_height
    for number, row in enumerate(sheet.rows):
        y += 0 if row.follows or number == 0 else 3 * GAP
        _lines(pen, row.label, MARGIN, y, "lm", INK, small)
        for column, cell in enumerate(row.cells):
            _cell(page, pen, cell, left + column * (CELL + GAP), y, small)
        y += CELL + GAP
    if sheet.limit:
        _scale(page, pen, sheet.limit, left, y + 12, small)
    y += scale_height
    pen.line((MARGIN, y, width - MARGIN, y), fill=LINE)
    for number, line in enumerate(foot):
        pen.text((MARGIN, y + 10 + number * (SMALL + 6)), line, SOFT, small)
    return page


def save(sheet: Sheet, path: Path) -> None:
    """Write the sheet as a PNG, whole or not at all; the run's identity is also among the file's own words."""
    words = PngImagePlugin.PngInfo()
    words.add_text("Title", sheet.title)
    words.add_text("Source", json.dumps(dict(sheet.run)))
    partial = path.with_name(path.name + ".partial")
    draw(sheet).save(partial, format="PNG", pnginfo=words, optimize=True)
    partial.replace(path)


def _cell(page: Image.Image, pen: ImageDraw.ImageDraw, cell: Grey | Colour | str, x: int, y: int, font: Font) -> None:
    if isinstance(cell, str):
        _lines(pen, cell, x + CELL / 2, y, "mm", SOFT, font)
        return
    pixels = cell if cell.ndim == 3 else np.rint(np.clip(cell, 0.0, 1.0) * 255.0).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.BICUBIC)
    page.paste(picture.convert("RGB"), (x, y))
    if cell.ndim == 3:
        pen.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline=LINE)


def _lines(pen: ImageDraw.ImageDraw, words: str, x: float, y: int, anchor: str, colour: str, font: Font) -> None:
    """Words on one line or more, halfway down a row that begins at `y`."""
    lines = words.split("\n")
    for number, line in enumerate(lines):
        at = y + CELL / 2 + (number - (len(lines) - 1) / 2) * (SMALL + 5)
        pen.text((x, at), line, colour, font, anchor=anchor)


def _scale(page: Image.Image, pen: ImageDraw.ImageDraw, limit: float, x: int, y: int, font: Font) -> None:
    """The colours of differences, with their meaning in grey levels of the image's range."""
    wide, high = 2 * CELL, 14
    ramp = np.tile(np.linspace(-limit, limit, wide), (high, 1))
    page.paste(Image.fromarray(coloured(ramp, limit)), (x, y))
    pen.rectangle((x, y, x + wide - 1, y + high - 1), outline=LINE)
    for share, anchor in ((-1, "la"), (0, "ma"), (1, "ra")):
        words = f"{share * limit:+.0%}" if share else "0"
        pen.text((x + (share + 1) / 2 * (wide - 1), y + high + 4), words, SOFT, font, anchor=anchor)
    pen.text((x + wide + 14, y + high / 2), "darker to brighter, as a share of black to white", SOFT, font, anchor="lm")


def _wrapped(words: str, font: Font, width: float) -> list[str]:
    """Lines no longer than `width` pixels; a word longer than that (a digest) is cut."""
    lines: list[str] = []
    line = ""
    for word in words.split():
        rest = word
        while font.getlength(rest) > width:
            cut = next(n for n in range(len(rest), 0, -1) if font.getlength(rest[:n]) <= width)
            lines += [line, rest[:cut]] if line else [rest[:cut]]
            line, rest = "", rest[cut:]
        longer = f"{line} {rest}" if line else rest
        if font.getlength(longer) > width:
            lines.append(line)
            longer = rest
        line = longer
    return [*lines, line] if line else lines

"""From the bytes of one image to grey pixels, and from grey pixels to the square that encoders see.

The format is told from the content, never from a file name. `preprocess` is the one preparation of training and of
serving: both call it with the numbers that ride in the model's card.

Judgements made here, each where it applies:
- Colour becomes grey by ITU-R BT.601 luma (0.299 R + 0.587 G + 0.114 B), as Pillow computes it.
- Transparency is dropped, not composited: an X-ray has none, and what lies beneath is the measurement.
- EXIF orientation is honoured, so that a photographed film stands upright.
- A 16-bit grey PNG that never exceeds 4095 holds 12-bit data, as detectors deliver it, and is scaled by 4095; others by
  65535. Where an sBIT chunk says that the writer scaled its samples (PNG specification, 11.3.2.4), it is by 65535.

Shapes: (H, W) is an image as decoded, (S, S) a preprocessed one.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin

from hilum.errors import ImageError

if TYPE_CHECKING:  # pandas and pydantic would cost every worker process half a second
    from hilum.data.manifest import Pixels
    from hilum.recipe import Preprocessing

MAX_PIXELS: Final = 50_000_000  # a radiograph of 43 x 43 cm at 0.1 mm has 18.5 million

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_KNOWN_BUT_NOT_READ: Final = (
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"BM", "a BMP"),
    (b"RIFF", "a WebP or other RIFF file"),
    (b"\x1f\x8b", "a gzip file that holds no NIfTI volume"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip file"),
)
_TURNS: Final = {  # EXIF 2.3, tag 0x0112: how the stored image is to be turned to stand upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    """An image, decoded.

    Attributes:
        pixels: Shape (H, W): uint8 in 0-255, or float32 in 0-1.
        modality: `XR` or `MR` where the file says so (DICOM), else None.
        view: A view of hilum.data.manifest.VIEWS where the file says so (DICOM), else None.
    """

    pixels: "Pixels"
    modality: str | None
    view: str | None


def decode(content: bytes) -> Decoded:
    """Decode a PNG, JPEG or DICOM image.

    Raises:
        ImageError: `empty`, `unsupported` (another format), `corrupt`, `too_large` (more than MAX_PIXELS, found before
            any pixel is decoded) or `refused` (several frames; a DICOM of a modality that hilum does not serve).
    """
    if not content:
        raise ImageError("the image is empty; a PNG, JPEG, DICOM or NIfTI file was expected", "empty")
    if content.startswith((_PNG, _JPEG)):
        with warnings.catch_warnings():  # Pillow's, of damaged EXIF and the like; what matters is an error below
            warnings.simplefilter("ignore")
            return Decoded(_png(content) if content.startswith(_PNG) else _jpeg(content), None, None)
    if is_dicom(content):
        from hilum.data.dicom_pixels import read  # pydicom takes a quarter of a second; sets of PNGs never need it

        return Decoded(*read(content, MAX_PIXELS))
    known = next(
        (name for magic, name in _KNOWN_BUT_NOT_READ if content.startswith(magic)), "no image that hilum knows"
    )
    raise ImageError(f"the content is {known}; hilum reads PNG, JPEG, DICOM and, of a volume, NIfTI", "unsupported")


def decode_file(path: Path) -> "Pixels":
    """Decode an image file to pixels of shape (H, W), uint8 in 0-255 or float32 in 0-1.

    Raises:
        ImageError: As `decode`; a file that is not there or not readable counts as `empty`.
    """
    try:
        with open(path, "rb", buffering=0) as stream:  # read whole anyway: a buffer would only be filled and copied
            content = stream.readall()
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror or type(error).__name__}", "empty") from error
    return decode(content).pixels


def is_dicom(content: bytes) -> bool:
    """Whether the content begins as DICOM does, with its preamble or, as in older files, at once with an element."""
    if content[128:132] == b"DICM":
        return True
    return content[:2] in (b"\x02\0", b"\x08\0") and content[3:4] == b"\0"


def preprocess(pixels: "Pixels", numbers: "Preprocessing") -> NDArray[np.uint8]:
    """Make the square image that encoders see: aspect ratio kept, antialiased bilinear, padded on both ends.

    Args:
        pixels: Shape (H, W): uint8 in 0-255, or float32 in 0-1.
        numbers: Side S and padding value.

    Returns:
        uint8, (S, S).

    Raises:
        ImageError: The pixels are not a two-dimensional image with finite values.
    """
    return fit(pixels, numbers.size, numbers.pad_value)


def fit(pixels: "Pixels", size: int, pad_value: int) -> NDArray[np.uint8]:
    """`preprocess`, its numbers given one by one."""
    square = np.full((size, size), pad_value, dtype=np.uint8)
    square[content_box(pixels.shape, size)] = np.asarray(resize(pixels, size))
    return square


def resize(pixels: "Pixels", size: int) -> Image.Image:
    """The 8-bit grey image that fills `content_box`: what `fit` makes, without the padding.

    Raises:
        ImageError: As `preprocess`.
    """
    rows, columns = content_box(pixels.shape, size)
    shape = (columns.stop - columns.start, rows.stop - rows.start)  # Pillow's order: width, height
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.size != shape:
        image = image.resize(shape, Image.Resampling.BILINEAR)
    if image.mode == "L":
        return image
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ImageError("the image has values that are not finite", "corrupt")
    return Image.fromarray(np.clip(values * 255.0 + 0.5, 0, 255).astype(np.uint8))


def content_box(shape: tuple[int, ...], size: int) -> tuple[slice, slice]:
    """Where the image of `shape` (H, W) lies in the square of side `size`: the rows and columns that are not padding.

    The longer side fills the square; an odd pixel of padding goes to the bottom or right.

    Raises:
        ImageError: The shape is not that of a two-dimensional image.
    """
    if len(shape) != 2 or 0 in shape:
        raise ImageError(f"pixels of shape {shape} are no grey image; (H, W) was expected", "corrupt")
    height, width = shape
    longer = max(height, width)
    box = []
    for side in (height, width):
        length = max(1, (2 * side * size + longer) // (2 * longer))  # rounded, halves up, in integers
        start = (size - length) // 2
        box.append(slice(start, start + length))
    return box[0], box[1]


def check_size(height: int, width: int) -> None:
    """Refuse an image by the size that its header states.

    Raises:
        ImageError: `too_large`, or `corrupt` where a side is not positive.
    """
    if height < 1 or width < 1:
        raise ImageError(f"the header states an image of {width} x {height} pixels", "corrupt")
    if height * width > MAX_PIXELS:
        raise ImageError(f"the image has {width} x {height} pixels; at most {MAX_PIXELS} in all are read", "too_large")


def _png(content: bytes) -> "Pixels":
    chunks = _png_chunks(content)
    if b"acTL" in chunks:
        raise ImageError("the PNG is animated; send one image", "refused")
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(content)) as image:
            return _grey(image, scaled=b"sBIT" in chunks)
    except (OSError, SyntaxError, ValueError, IndexError, struct.error, zlib.error) as error:
        raise ImageError("the PNG is damaged and cannot be decoded", "corrupt") from error


def _png_chunks(content: bytes) -> set[bytes]:
    """The kinds of chunks a PNG has, after its stated size and every checksum were found right (Pillow skips IDAT's).

    Chunks: PNG specification, 5.3.
    """
    kinds: set[bytes] = set()
    view, at = memoryview(content), len(_PNG)
    while b"IEND" not in kinds:
        if at + 12 > len(content):
            raise ImageError("the PNG is truncated", "corrupt")
        length = int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        if end + 4 > len(content):
            raise ImageError("the PNG is truncated", "corrupt")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ImageError("the PNG is damaged: a checksum does not hold", "corrupt")
        if not kinds:
            if kind != b"IHDR" or length != 13:
                raise ImageError("the PNG is damaged: it does not begin with its header", "corrupt")
            check_size(int.from_bytes(view[at + 12 : at + 16], "big"), int.from_bytes(view[at + 8 : at + 12], "big"))
        kinds.add(kind)
        at = end + 4
    return kinds


def _jpeg(content: bytes) -> "Pixels":
    try:
        # The plugin itself, not Image.open: the latter has a limit of its own, and decodes nothing that this does not.
        with JpegImagePlugin.JpegImageFile(io.BytesIO(content)) as image:
            check_size(image.height, image.width)
            return _grey(image)
    except (OSError, SyntaxError, ValueError, IndexError, struct.error) as error:
        if "cannot handle" in str(error):
            raise ImageError(
                "the JPEG is not 8-bit; hilum reads 8-bit JPEG, and more bits in DICOM", "unsupported"
            ) from error
        raise ImageError("the JPEG is damaged and cannot be decoded", "corrupt") from error


def _grey(image: Image.Image, scaled: bool = False) -> "Pixels":
    """Decode to (H, W); `scaled` says that 16-bit samples were stretched to the full range by their writer."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1)) if "exif" in image.info else None
    image.info.pop("transparency", None)  # dropped, as the alpha channel is
    if image.mode.startswith("I"):  # 16-bit grey
        image.load()
        stored = np.asarray(image)
        limit = 65535.0 if scaled or stored.max() > 4095 else 4095.0
        pixels = (stored / np.float32(limit)).astype(np.float32)
        return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
    grey = image if image.mode == "L" else image.convert("L")
    return np.asarray(grey if turn is None else grey.transpose(turn))


def pixel_digest(image: NDArray[np.uint8]) -> str:
    """XXH3-128 of a prepared image's bytes in C order, hex: equal exactly where the pixels are.

    It finds duplicates, which nobody forges; what must resist forging (datasets, releases) is named by SHA-256. A
    cryptographic hash of every image would be a good part of the time of an ingest.
    """
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(image).data)

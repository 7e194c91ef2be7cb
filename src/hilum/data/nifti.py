"""What the header of a NIfTI file promises, checked before memory is spent on it.

A few kilobytes can state, or inflate to, more than the machine's memory. So the header alone is read first: the bytes
that its voxels need follow from it, and no more than those are inflated.

Header fields and their offsets: nifti1.h and nifti2.h of the NIfTI Data Format Working Group, 2004 and 2011.
"""

import gzip
import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from hilum.errors import ImageError

GZIP: Final = b"\x1f\x8b"
HEADER: Final = 544  # bytes that hold the header of either version
MAX_BEFORE: Final = 16_000_000  # bytes between header and voxels, which hold extensions; a DICOM header of kilobytes
MAX_AFTER: Final = 1_000_000  # bytes behind the voxels, which mean nothing

# By the header's own size: of magic, dim, datatype, vox_offset, qform_code and sform_code, where and as what they lie.
_LAYOUTS: Final = {
    348: ((344, "4s"), (40, "8h"), (70, "h"), (108, "f"), (252, "h"), (254, "h")),
    540: ((4, "4s"), (16, "8q"), (12, "h"), (168, "q"), (344, "i"), (348, "i")),
}
_SIZES: Final = {2: 1, 256: 1, 4: 2, 512: 2, 8: 4, 768: 4, 16: 4, 64: 8, 1024: 8, 1280: 8}  # bytes, by datatype
_OTHERS: Final = {
    1: "single bits",
    32: "complex numbers",
    1792: "complex numbers",
    2048: "complex numbers",
    128: "colours",
    2304: "colours",
    1536: "numbers of 128 bits",
}


@dataclass(frozen=True)
class Header:
    """What a header states.

    Attributes:
        version: 1 or 2.
        shape: Voxels along the three axes.
        needed: Bytes from the file's beginning to the end of its voxels.
    """

    version: int
    shape: tuple[int, int, int]
    needed: int


def is_nifti(content: bytes) -> bool:
    """Whether the content begins with the header of a NIfTI file, compressed by gzip or not."""
    return _version(_beginning(content)) is not None


def read(content: bytes, max_voxels: int) -> tuple[Header, bytes]:
    """The header of a NIfTI file, and the file inflated as far as its voxels go.

    Raises:
        ImageError: `empty`, `unsupported` (not NIfTI, or half of a pair), `corrupt`, `too_large` (more than
            `max_voxels`), or `refused` (several volumes, no grey values, or no orientation stated).
    """
    if not content:
        raise ImageError("the volume is empty; a NIfTI file was expected", "empty")
    header = _header(_beginning(content), max_voxels)
    whole = _inflate(content, header.needed) if content.startswith(GZIP) else content
    if len(whole) < header.needed:
        raise ImageError(
            f"the NIfTI file is truncated: its header states {header.needed} bytes, and {len(whole)} are there",
            "corrupt",
        )
    return header, whole


def _beginning(content: bytes) -> bytes:
    """As many bytes as a header takes; fewer where there are fewer, none where the compressed stream is damaged."""
    if not content.startswith(GZIP):
        return content[:HEADER]
    try:
        return zlib.decompressobj(wbits=31).decompress(content[: 16 * HEADER], HEADER)
    except zlib.error:
        return b""


def _version(beginning: bytes) -> tuple[str, int] | None:
    """Byte order and size of the header; None where it is none of a NIfTI file."""
    for order in ("<", ">"):
        size = int.from_bytes(beginning[:4], "little" if order == "<" else "big")
        if size in _LAYOUTS and len(beginning) >= size:
            at = _LAYOUTS[size][0][0]
            return (order, size) if beginning[at : at + 2] in (b"n+", b"ni") else None
    return None


def _header(beginning: bytes, max_voxels: int) -> Header:
    found = _version(beginning)
    if found is None:
        raise ImageError("the content is no NIfTI file (.nii or .nii.gz)", "unsupported")
    order, size = found
    (magic,), dim, (datatype,), (offset,), (qform,), (sform,) = (
        struct.unpack_from(order + form, beginning, at) for at, form in _LAYOUTS[size]
    )
    if magic.startswith(b"ni"):
        raise ImageError(
            "the NIfTI file is half of a pair (.hdr and .img); send a single .nii or .nii.gz", "unsupported"
        )
    shape = _shape(dim)
    voxels = math.prod(shape)
    if voxels > max_voxels:
        stated = " x ".join(map(str, shape))
        raise ImageError(f"the NIfTI file states {stated} voxels; at most {max_voxels} in all are read", "too_large")
    if datatype not in _SIZES:
        if datatype in _OTHERS:
            raise ImageError(f"the NIfTI file holds {_OTHERS[datatype]}; one grey value was expected", "refused")
        raise ImageError(f"the NIfTI file states the datatype {datatype}, which there is not", "corrupt")
    if not (size + 4 <= offset <= MAX_BEFORE and offset == int(offset)):  # NaN fails the comparison
        raise ImageError(
            f"the NIfTI file states that its voxels begin at byte {offset:g}; from {size + 4} on was expected",
            "corrupt",
        )
    if not (qform or sform):
        raise ImageError("the NIfTI file does not state its orientation; set its sform or qform", "refused")
    return Header(1 if size == 348 else 2, shape, int(offset) + voxels * _SIZES[datatype])


def _shape(dim: tuple[int, ...]) -> tuple[int, int, int]:
    """The three axes; axes of length one behind them are none."""
    if not 1 <= dim[0] <= 7:
        raise ImageError(f"the NIfTI file states {dim[0]} axes; 3 were expected", "corrupt")
    axes = list(dim[1 : dim[0] + 1])
    if min(axes) < 1:
        raise ImageError(f"the NIfTI file states an axis of {min(axes)} voxels", "corrupt")
    while len(axes) > 3 and axes[-1] == 1:
        axes.pop()
    if len(axes) != 3:
        stated = " x ".join(map(str, axes))
        raise ImageError(f"the NIfTI file has axes of {stated}; one volume of three axes was expected", "refused")
    return axes[0], axes[1], axes[2]


def _inflate(content: bytes, needed: int) -> bytes:
    """The first `needed` bytes, after the whole stream's checksum was found right."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            inflated = stream.read(needed)
            rest = stream.read(MAX_AFTER + 1)  # reaching the end is what checks the checksum
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError("the gzip file is damaged or truncated", "corrupt") from error
    if len(rest) > MAX_AFTER:
        raise ImageError(
            f"the compressed NIfTI file goes on for more than {MAX_AFTER} bytes behind its voxels", "corrupt"
        )
    return inflated

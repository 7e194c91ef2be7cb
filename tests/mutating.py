"""Files of every format that hilum reads, and damaged copies of them: the same ones for the same seed.

`from mutating import mutants`; each mutant is bytes. They are made by ways in which files break and are broken: bits
that flip, transfers that stop, fields that state what is not so, chunks that come twice, formats glued together.
"""

import gzip
import io
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import gdcm
import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

SECRET = b"Jane^Secret"  # stands in every DICOM seed, and must stand in no message
FORMATS = ("png", "jpeg", "dicom", "nifti")
# Numbers at which readers stumble: borders of signed and unsigned fields, and what multiplies to more than memory.
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@cache
def seeds() -> dict[str, tuple[bytes, ...]]:
    """Small valid files by format, of all kinds that hilum reads."""
    y, x = np.mgrid[0:40, 0:32]
    grey = ((3 * x + 2 * y) % 256).astype(np.uint8)
    deep = ((x * 97 + y * 31) % 4096).astype(np.uint16)
    colour = np.stack([grey, grey.T.reshape(grey.shape), 255 - grey], axis=-1)
    return {
        "png": (*(_saved(one, "PNG") for one in (grey, deep, colour)), _saved(grey, "PNG", mode="P")),
        "jpeg": (
            _saved(grey, "JPEG"),
            _saved(colour, "JPEG", progressive=True),
            _saved(grey, "JPEG", exif=_turned()),
            _saved(colour, "JPEG", mode="CMYK"),
        ),
        "dicom": tuple(_dicoms(grey, deep, colour)),
        "nifti": tuple(_niftis()),
    }


def mutants(kind: str, count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged copies of the seeds of one format, one to three damages each.

    Args:
        kind: One of FORMATS.
        count: How many.
        seed: Other damages for another one.
    """
    chance = random.Random(f"{kind} {seed}")
    ways = (*_ANY, *_OF_A_FORMAT[kind])
    for _ in range(count):
        content = chance.choice(seeds()[kind])
        packed = content.startswith(b"\x1f\x8b") and chance.random() < 0.7
        if packed:  # the damage lies in what is compressed, not in the compression, which has a checksum
            content = gzip.decompress(content)
        for _ in range(chance.choice((1, 1, 2, 3))):
            content = chance.choice(ways)(content, chance)
        yield gzip.compress(content, 1, mtime=0) if packed else content


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 4, 16)) if changed else 0):
        changed[_place(changed, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    at, length = _place(changed, chance), chance.choice((1, 2, 4, 16))
    changed[at : at + length] = chance.choice((chance.randbytes(length), bytes(length), b"\xff" * length))
    return bytes(changed)


def _extreme(content: bytes, chance: random.Random) -> bytes:
    """A number that a reader may trust, of two or four bytes."""
    changed = bytearray(content)
    at, form = _place(changed, chance), chance.choice(("<H", ">H", "<I", ">I"))
    piece = struct.pack(form, chance.choice(EXTREMES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    changed[at : at + len(piece)] = piece
    return bytes(changed)


def _truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: _place(content, chance)]


def _remove(content: bytes, chance: random.Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + content[at + chance.choice((1, 2, 7, 64)) :]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    at, length = _place(content, chance), chance.choice((1, 4, 32, 300))
    return content[: at + length] + content[at : at + length] * chance.choice((1, 2, 8)) + content[at + length :]


def _glue(content: bytes, chance: random.Random) -> bytes:
    """The beginning of one file and the end of another, of any format."""
    other = chance.choice(seeds()[chance.choice(FORMATS)])
    return content[: _place(content, chance)] + other[_place(other, chance) :]


def _place(content: bytes | bytearray, chance: random.Random) -> int:
    """Anywhere, but every other time in the first 400 bytes, where headers are."""
    if not content:
        return 0
    return chance.randrange(min(len(content), 400) if chance.random() < 0.5 else len(content))


def _png_chunk(content: bytes, chance: random.Random) -> bytes:
    """Chunks doubled, dropped, exchanged or changed, with checksums that hold."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return content
    number = chance.randrange(len(chunks))
    kind, body = chunks[number]
    way = chance.randrange(5)
    if way == 0:
        chunks.insert(number, chunks[number])
    elif way == 1:
        del chunks[number]
    elif way == 2:
        other = chance.randrange(len(chunks))
        chunks[number], chunks[other] = chunks[other], chunks[number]
    elif way == 3:
        chunks.insert(
            number, (chance.choice((b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"zTXt", b"acTL", b"sBIT")), body[:60])
        )
    else:
        chunks[number] = kind, _extreme(body, chance) if body else b"\0"
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _jpeg_segment(content: bytes, chance: random.Random) -> bytes:
    """A marker's length or content changed, or its segment doubled."""
    markers = [at for at in range(2, len(content) - 4) if content[at] == 0xFF and content[at + 1] not in (0, 0xFF)]
    if not markers:
        return content
    at = chance.choice(markers)
    length = int.from_bytes(content[at + 2 : at + 4], "big")
    segment = content[at : at + 2 + length]
    way = chance.randrange(3)
    if way == 0:
        return content[:at] + segment + content[at:]
    if way == 1:
        return (
            content[: at + 2]
            + struct.pack(">H", chance.choice((0, 1, 2, min(length + 1, 0xFFFF), 0xFFFF)))
            + content[at + 4 :]
        )
    return content[:at] + segment[:4] + _extreme(segment[4:], chance) + content[at + 2 + length :]


def _dicom_element(content: bytes, chance: random.Random) -> bytes:
    """The length, the representation or the value of one element of those that decide over the pixels."""
    tags = (b"\x28\0\x02\0", b"\x28\0\x04\0", b"\x28\0\x10\0", b"\x28\0\x11\0", b"\x28\0\0\x01", b"\x28\0\x01\x01")
    more = (b"\x28\0\x02\x01", b"\x28\0\x03\x01", b"\x28\0\x50\x10", b"\x28\0\x51\x10", b"\x28\0\x52\x10")
    rest = (
        b"\x28\0\x53\x10",
        b"\x28\0\x10\x30",
        b"\xe0\x7f\x10\0",
        b"\x08\0\x60\0",
        b"\x02\0\x10\0",
        b"\xfe\xff\0\xe0",
    )
    at = content.find(chance.choice(tags + more + rest))
    if at < 0:
        return content
    way = chance.randrange(4)
    if way == 0:
        return content[: at + 4] + chance.choice((b"US", b"SQ", b"OB", b"DS", b"UN", b"??")) + content[at + 6 :]
    if way == 1:
        return content[: at + 6] + struct.pack("<H", chance.choice(EXTREMES) & 0xFFFF) + content[at + 8 :]
    if way == 2:
        return content[: at + 8] + struct.pack("<H", chance.choice(EXTREMES) & 0xFFFF) + content[at + 10 :]
    return (
        content[: at + 8]
        + chance.choice((b"nan ", b"1e99", b"-1\\0", b"inf ", b"\xff\xff\xff\xff"))
        + content[at + 12 :]
    )


def _nifti_field(content: bytes, chance: random.Random) -> bytes:
    """A field of the header: sizes, datatype, scale, offset, spacing, orientation, magic."""
    if len(content) < 544:
        return content
    changed = bytearray(content)
    first = content[:4] == struct.pack("<i", 348)
    fields = _FIRST if first else _SECOND
    at, form, count = chance.choice(fields)
    at += struct.calcsize(form) * chance.randrange(count)
    if form in ("<f", "<d"):
        struct.pack_into(form, changed, at, chance.choice((0.0, -1.0, 1e-30, 3e38, float("nan"), float("inf"), 1e9)))
    else:
        most = 2 ** (8 * struct.calcsize(form) - 1) - 1
        choices = (0, -1, 1, 2, 3, 4, 16, 64, 128, 512, 1024, 1280, 1536, 2304, 32767, most, -most - 1)
        struct.pack_into(form, changed, at, max(-most - 1, min(most, chance.choice(choices))))
    return bytes(changed)


# Where fields lie, their form, how many: dim, datatype, bitpix, pixdim, vox_offset, scale, codes, transforms.
_FIRST = (
    *((40, "<h", 8), (70, "<h", 1), (72, "<h", 1), (76, "<f", 4), (108, "<f", 1), (112, "<f", 1), (116, "<f", 1)),
    *((252, "<h", 1), (254, "<h", 1), (256, "<f", 18)),
)
_SECOND = (
    *((16, "<q", 8), (12, "<h", 1), (14, "<h", 1), (104, "<d", 4), (168, "<q", 1), (176, "<d", 1), (184, "<d", 1)),
    *((344, "<i", 1), (348, "<i", 1), (352, "<d", 18)),
)
_Way = Callable[[bytes, random.Random], bytes]
_ANY: tuple[_Way, ...] = (_flip, _overwrite, _extreme, _truncate, _remove, _repeat, _glue)
_OF_A_FORMAT: dict[str, tuple[_Way, ...]] = {
    "png": (_png_chunk,) * 7,
    "jpeg": (_jpeg_segment,) * 5,
    "dicom": (_dicom_element,) * 7,
    "nifti": (_nifti_field,) * 10,
}


def _saved(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _dicoms(grey: np.ndarray, deep: np.ndarray, colour: np.ndarray) -> Iterator[bytes]:
    yield _dicom(grey)
    yield _dicom(deep, WindowCenter=2000, WindowWidth=3000, PhotometricInterpretation="MONOCHROME1")
    yield _dicom(deep, RescaleSlope="2.5", RescaleIntercept="-100", PixelSpacing=[0.5, 0.7], PixelPaddingValue=7)
    yield _dicom(colour)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 10, 8])
    table.add_new("LUTData", "US", [0, 90, 200, 255])
    yield _dicom(deep, VOILUTSequence=Sequence([table]))
    yield _dicom(grey, ImplicitVRLittleEndian)
    yield _dicom(deep.byteswap(), ExplicitVRBigEndian)
    yield _dicom(grey, JPEGBaseline8Bit, PixelData=encapsulate([_saved(grey, "JPEG")]))
    yield _dicom(grey, JPEG2000Lossless, PixelData=encapsulate([_saved(grey, "JPEG2000", no_jp2=True)]))
    yield _dicom(deep, RLELossless)
    for syntax in (JPEGLosslessSV1, JPEGLSLossless):
        yield _by_gdcm(_dicom(deep), syntax)


def _by_gdcm(content: bytes, syntax: str) -> bytes:
    """Compressed as pydicom cannot."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.dcm"
        path.write_bytes(content)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        assert reader.Read()
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return path.read_bytes()


def _dicom(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **fields: object) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
    ds.Modality, ds.PatientName, ds.ViewPosition = "DX", SECRET.decode(), "PA"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored = 12 if ds.BitsAllocated == 16 else 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    ds.PixelData = pixels.tobytes()
    for name, value in fields.items():
        if name == "PixelPaddingValue":
            ds.add_new(name, "US", value)
        else:
            setattr(ds, name, value)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _niftis() -> Iterator[bytes]:
    x, y, z = np.mgrid[0:9, 0:10, 0:8]
    voxels = np.where((x > 1) & (y > 1) & (z > 0), 100 + 50 * x + 7 * y + z, 0)
    for kind, dtype in ((nibabel.Nifti1Image, np.int16), (nibabel.Nifti2Image, np.float32)):
        plain = kind(voxels.astype(dtype), np.diag([1.0, 1.5, 2.0, 1.0])).to_bytes()
        yield plain
        yield gzip.compress(plain, 1, mtime=0)
    scaled = nibabel.Nifti1Image(
        voxels.astype(np.uint8), np.array([[0, 2, 0, 1], [-1, 0, 0, 5], [0, 0, 1.0, 0], [0, 0, 0, 1]])
    )
    scaled.header.set_slope_inter(0.5, 3)
    yield scaled.to_bytes()

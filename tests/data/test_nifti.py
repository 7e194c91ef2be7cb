"""NIfTI headers: what is promised is checked before anything is inflated or decoded."""

import gzip
import struct
import tracemalloc
import zlib

import nibabel
import numpy as np
import pytest

from hilum.data import nifti
from hilum.data.volumes import decode_volume
from hilum.errors import ImageError

VOXELS = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)


def made(kind: type = nibabel.Nifti1Image, voxels: np.ndarray = VOXELS) -> bytes:
    return kind(voxels, np.eye(4)).to_bytes()


def edited(at: int, form: str, *values: float, content: bytes | None = None) -> bytes:
    changed = bytearray(made() if content is None else content)
    struct.pack_into("<" + form, changed, at, *values)
    return bytes(changed)


def refused(content: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_volume(content)
    return caught.value


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_header_is_read_as_nibabel_reads_it(kind: type, compressed: bool) -> None:
    content = made(kind)
    sent = gzip.compress(content) if compressed else content
    assert nifti.is_nifti(sent)
    header, whole = nifti.read(sent, 1000)
    assert header == nifti.Header(1 if kind is nibabel.Nifti1Image else 2, VOXELS.shape, len(content))
    assert whole == content


def test_big_endian_is_read() -> None:
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    swapped = nibabel.Nifti1Image(VOXELS, np.eye(4), header=image.header.as_byteswapped(">")).to_bytes()
    assert swapped[:4] == b"\0\0\x01\x5c"
    assert np.array_equal(decode_volume(swapped).voxels_XYZ, decode_volume(made()).voxels_XYZ)


def test_members_of_gzip_are_read_on() -> None:
    content = made()
    assert nifti.read(gzip.compress(content[:500]) + gzip.compress(content[500:]), 1000)[1] == content


@pytest.mark.parametrize(
    ("content", "fault", "words"),
    [
        (b"", "empty", "empty"),
        (b"\x1f\x8b rubbish", "unsupported", "no NIfTI file"),
        (gzip.compress(bytes(10_000)), "unsupported", "no NIfTI file"),
        (edited(344, "4s", b"ni1\0"), "unsupported", "half of a pair"),
        (edited(40, "h", 0), "corrupt", "0 axes"),
        (edited(40, "h", 9), "corrupt", "9 axes"),
        (edited(42, "h", 0), "corrupt", "axis of 0 voxels"),
        (edited(42, "h", -5), "corrupt", "axis of -5 voxels"),
        (edited(40, "hhhhh", 4, 5, 6, 7, 3), "refused", "5 x 6 x 7 x 3; one volume"),
        (edited(40, "h", 2), "refused", "5 x 6; one volume"),
        (edited(42, "hhh", 32000, 32000, 32000), "too_large", "32000 x 32000 x 32000 voxels"),
        (edited(42, "hhh", 50, 60, 70), "corrupt", "truncated: its header states 420352 bytes, and 772 are there"),
        (edited(70, "h", 128), "refused", "colours"),
        (edited(70, "h", 2304), "refused", "colours"),
        (edited(70, "h", 32), "refused", "complex"),
        (edited(70, "h", 1536), "refused", "128 bits"),
        (edited(70, "h", 77), "corrupt", "datatype 77"),
        (edited(108, "f", float("nan")), "corrupt", "byte nan"),
        (edited(108, "f", 0), "corrupt", "from 352 on"),
        (edited(108, "f", 3e9), "corrupt", "byte 3e\\+09"),
        (edited(252, "hh", 0, 0), "refused", "orientation"),
        (edited(112, "f", float("inf")), None, ""),  # which NIfTI says to ignore
        (edited(80, "f", float("nan")), "corrupt", "voxels of"),
        (edited(280, "ffff", 0, 0, 0, 0), "corrupt", "orientation that cannot be"),
        (edited(280, "f", float("nan")), "corrupt", "damaged|cannot be"),
    ],
)
def test_what_a_header_must_not_state(content: bytes, fault: str | None, words: str) -> None:
    if fault is None:
        assert decode_volume(content).voxels_XYZ.shape == VOXELS.shape
        return
    with pytest.raises(ImageError, match=words) as caught:
        decode_volume(content)
    assert caught.value.fault == fault


@pytest.mark.parametrize("cut", [3, 100, 351, 352, 500, 771])
def test_truncation_is_found_plain_and_compressed(cut: int) -> None:
    assert refused(made()[:cut]).fault == ("unsupported" if cut < 348 else "corrupt")
    packed = gzip.compress(made())
    assert refused(packed[: len(packed) * cut // 772]).fault in ("unsupported", "corrupt")


def test_a_wrong_checksum_is_found() -> None:
    packed = bytearray(gzip.compress(made()))
    packed[-5] ^= 1  # of the CRC
    assert refused(bytes(packed)).fault == "corrupt"


@pytest.mark.parametrize("bomb", ["states", "goes_on", "honest"])
def test_a_bomb_costs_no_memory(bomb: str) -> None:
    """300 MB of zeros in 300 kB: behind a header that states them, or one voxel, or more voxels than are read."""
    shape = {"states": (32000, 32000, 32000), "goes_on": (5, 6, 7), "honest": (700, 600, 700)}[bomb]
    packer = zlib.compressobj(9, wbits=31)
    content = packer.compress(edited(42, "hhh", *shape))
    content += b"".join(packer.compress(bytes(1_000_000)) for _ in range(300)) + packer.flush()
    assert len(content) < 1_000_000
    tracemalloc.start()
    with pytest.raises(ImageError) as caught:
        decode_volume(content, 50_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.fault == ("corrupt" if bomb == "goes_on" else "too_large")
    assert peak < 16_000_000


def test_values_that_are_not_finite_or_span_nothing() -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[2, 3, 3], voxels[2, 3, 4] = np.nan, np.inf
    assert np.isfinite(decode_volume(made(voxels=voxels)).voxels_XYZ).all()
    assert not decode_volume(made(voxels=np.full((4, 4, 4), np.nan, np.float32))).voxels_XYZ.any()
    voxels[1:3], voxels[3:] = -3e38, 3e38
    assert refused(made(voxels=voxels)).fault == "corrupt"


def test_slices_of_needles_are_refused_before_they_are_stretched() -> None:
    from hilum.data.volumes import slice_plane

    voxels = np.ones((1, 8000, 2), np.uint8)
    voxels[0, 0] = 0
    volume = decode_volume(nibabel.Nifti1Image(voxels, np.diag([80.0, 1.0, 80.0, 1.0])).to_bytes())
    assert slice_plane(volume, "SAGITTAL").shape == (160, 8000)
    wide = type(volume)(np.zeros((2, 60_000, 20), np.float32), (1.0, 1.0, 99.0))
    with pytest.raises(ImageError) as caught:
        slice_plane(wide, "SAGITTAL")
    assert caught.value.fault == "too_large"

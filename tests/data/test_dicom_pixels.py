"""DICOM: the grey values a reader would see, checked against the standard's formulas written as loops."""

import io
import math
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from hilum.data.images import decode
from hilum.errors import ImageError

RANDOM = np.random.default_rng(0)


def header(stored: np.ndarray, bits: int | None = None, **fields: Any) -> Dataset:
    """A film of the stored values (H, W) or (H, W, 3); `fields` are set over the defaults, None removes one."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.Modality = "DX"
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    if stored.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if stored.ndim == 3 else "MONOCHROME2"
    ds.BitsAllocated = stored.dtype.itemsize * 8
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    for name, value in fields.items():
        if value is None:
            del ds[name]
        else:
            setattr(ds, name, value)
    return ds


def content(ds: Dataset) -> bytes:
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def pixels_of(ds: Dataset) -> np.ndarray:
    return decode(content(ds)).pixels


def fault_of(ds: Dataset | bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(ds if isinstance(ds, bytes) else content(ds))
    return caught.value.fault


def windowed(x: float, c: float, w: float, function: str) -> float:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1, with y_min = 0 and y_max = 1."""
    if function == "LINEAR":
        if x <= c - 0.5 - (w - 1) / 2:
            return 0.0
        if x > c - 0.5 + (w - 1) / 2:
            return 1.0
        return (x - (c - 0.5)) / (w - 1) + 0.5
    if function == "LINEAR_EXACT":
        if x <= c - w / 2:
            return 0.0
        if x > c + w / 2:
            return 1.0
        return (x - c) / w + 0.5
    return 1 / (1 + math.exp(min(700.0, -4 * (x - c) / w)))


RAMP = np.linspace(0, 4095, 63, dtype=np.uint16).reshape(7, 9)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("c", "w"), [(2048, 1000), (40.5, 400.25), (1000, 1), (2048, 4096)])
def test_window(function: str, c: float, w: float) -> None:
    ds = header(RAMP, 12, WindowCenter=c, WindowWidth=w, VOILUTFunction=function)
    expected = [[windowed(float(x), c, w, function) for x in row] for row in RAMP]
    assert np.allclose(pixels_of(ds), expected, atol=1e-6)


def test_of_several_windows_the_first_is_used() -> None:
    ds = header(RAMP, 12, WindowCenter=[2048, 100], WindowWidth=[1000, 50])
    assert np.array_equal(pixels_of(ds), pixels_of(header(RAMP, 12, WindowCenter=2048, WindowWidth=1000)))


def test_rescale_comes_before_the_window() -> None:
    ds = header(RAMP, 12, RescaleSlope=2.5, RescaleIntercept=-1024, WindowCenter=300, WindowWidth=2000)
    expected = [[windowed(2.5 * x - 1024, 300, 2000, "LINEAR") for x in row] for row in RAMP.astype(float)]
    assert np.allclose(pixels_of(ds), expected, atol=1e-6)


def test_without_a_window_the_range_is_that_of_the_image() -> None:
    stored = np.array([[100, 200], [300, 400]], dtype=np.uint16)
    assert np.allclose(pixels_of(header(stored, 12)), [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)


def test_padding_takes_no_part_and_is_black() -> None:
    stored = np.array([[2000, 100, 200], [300, 400, 2000]], dtype=np.uint16)
    ds = header(stored, 12, PhotometricInterpretation="MONOCHROME1")
    ds.add_new("PixelPaddingValue", "US", 2000)
    assert np.allclose(pixels_of(ds), [[0, 1, 2 / 3], [1 / 3, 0, 0]], atol=1e-6)
    ds.add_new("PixelPaddingRangeLimit", "US", 400)  # 400 to 2000 are padding now
    assert np.allclose(pixels_of(ds), [[0, 1, 0.5], [0, 0, 0]], atol=1e-6)


def test_monochrome1_and_inverse_say_the_same_and_invert_once() -> None:
    plain = pixels_of(header(RAMP, 12))
    for fields in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ):
        assert np.allclose(pixels_of(header(RAMP, 12, **fields)), 1 - plain, atol=1e-6)
    assert np.array_equal(pixels_of(header(RAMP, 12, PresentationLUTShape="IDENTITY")), plain)


def test_signed_values() -> None:
    stored = np.array([[-1000, 0], [500, 1000]], dtype=np.int16)
    assert np.allclose(pixels_of(header(stored)), [[0, 0.5], [0.75, 1]], atol=1e-6)


def test_unused_high_bits_are_not_pixels() -> None:
    overlaid = RAMP | np.uint16(0x8000)  # an overlay in a bit that is not stored, as older devices did
    assert np.array_equal(pixels_of(header(overlaid, 12)), pixels_of(header(RAMP, 12)))
    signed = np.array([[-5, 3], [0, 7]], dtype=np.int16)
    cut = (signed & 0x0FFF).astype(np.int16)  # 12-bit two's complement without its sign extended
    assert np.array_equal(pixels_of(header(cut, 12)), pixels_of(header(signed)))


def lookup(first: int, outputs: list[int], bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(outputs), first, bits])
    item.add_new("LUTData", "US", outputs)
    return Sequence([item])


def test_voi_lookup_table_goes_before_a_window() -> None:
    stored = np.array([[0, 9, 10], [11, 12, 99]], dtype=np.uint16)
    ds = header(stored, 12, VOILUTSequence=lookup(10, [0, 100, 255], 8), WindowCenter=5, WindowWidth=2)
    assert np.allclose(pixels_of(ds), np.array([[0, 0, 0], [100, 255, 255]]) / 255, atol=1e-6)


def test_modality_lookup_table() -> None:
    stored = np.array([[0, 1], [2, 3]], dtype=np.uint16)
    table = lookup(0, [10, 20, 40, 50], 8)
    table[0].ModalityLUTType = "US"
    assert np.allclose(pixels_of(header(stored, 12, ModalityLUTSequence=table)), [[0, 0.25], [0.75, 1]], atol=1e-6)


def test_colour_becomes_grey() -> None:
    rgb = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(rgb).convert("L"))
    assert np.array_equal(pixels_of(header(rgb)), expected)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    shown = pixels_of(header(ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(shown.astype(int) - expected).max() <= 2


def test_palette_becomes_grey() -> None:
    stored = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    ds = header(stored, PhotometricInterpretation="PALETTE COLOR")
    for name, values in (("Red", [0, 255, 10]), ("Green", [0, 255, 200]), ("Blue", [0, 255, 30])):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [3, 0, 16])
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", (np.array(values, dtype="<u2") * 257).tobytes())
    third = (0.299 * 10 + 0.587 * 200 + 0.114 * 30) / 255
    assert np.allclose(pixels_of(ds), [[0, 1], [third, 1]], atol=1e-3)


FILM = RANDOM.integers(0, 4096, (32, 24), dtype=np.uint16)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
def test_lossless_syntaxes_that_pydicom_writes(syntax: str) -> None:
    ds = header(FILM, 12)
    expected = pixels_of(ds)
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(pixels_of(ds), expected)


def test_big_endian() -> None:
    ds = header(FILM, 12)
    expected = pixels_of(ds)
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    ds.PixelData = FILM.astype(">u2").tobytes()
    stream = io.BytesIO()
    ds.save_as(stream, implicit_vr=False, little_endian=False, enforce_file_format=True)
    assert np.array_equal(decode(stream.getvalue()).pixels, expected)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_syntaxes_that_gdcm_writes(syntax: str, tmp_path: Path) -> None:
    ds = header(FILM, 12)
    (tmp_path / "plain.dcm").write_bytes(content(ds))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "compressed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    compressed = (tmp_path / "compressed.dcm").read_bytes()
    assert str(syntax).encode() in compressed
    assert len(compressed) < len(content(ds)) + 2000
    assert np.array_equal(decode(compressed).pixels, pixels_of(ds))


def test_jpeg_baseline() -> None:
    smooth = np.add.outer(np.arange(32) * 4, np.arange(24) * 4).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, "JPEG", quality=100)
    ds = header(smooth)
    expected = pixels_of(ds)
    ds.PixelData = encapsulate([stream.getvalue()])
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert np.abs(pixels_of(ds) - expected).max() < 0.02


def test_a_compressed_image_of_another_size_than_the_header_says_is_refused() -> None:
    """Before it is decoded: 60 million pixels are a few hundred kilobytes of JPEG."""
    stream = io.BytesIO()
    Image.new("L", (10_000, 6_000)).save(stream, "JPEG")
    ds = header(np.zeros((32, 24), np.uint8))
    ds.PixelData = encapsulate([stream.getvalue()])
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    with pytest.raises(ImageError, match="states 24 x 32 pixels, and its compressed image has 10000 x 6000") as caught:
        decode(content(ds))
    assert caught.value.fault == "corrupt"


def test_a_modality_is_named_only_where_it_is_a_code() -> None:
    for stated, words in (("CT", "modality CT"), ("JANE SECRET", "no modality that is known"), ("", "no modality")):
        with pytest.raises(ImageError, match=words) as caught:
            decode(content(header(RAMP, 12, Modality=stated)))
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("stated", "modality"),
    [("CR", "XR"), ("DX", "XR"), ("DR", "XR"), ("RG", "XR"), ("MR", "MR"), ("CT", None), ("", None)],
)
def test_modality(stated: str, modality: str | None) -> None:
    ds = header(RAMP, 12, Modality=stated)
    if modality is None:
        assert fault_of(ds) == "refused"
    else:
        assert decode(content(ds)).modality == modality


@pytest.mark.parametrize(
    ("stated", "view"),
    [("PA", "PA"), ("AP", "AP"), ("LL", "LATERAL"), ("RL", "LATERAL"), ("LATERAL", "LATERAL"), ("LLO", None)],
)
def test_view(stated: str, view: str | None) -> None:
    assert decode(content(header(RAMP, 12, ViewPosition=stated))).view == view
    assert decode(content(header(RAMP, 12))).view is None


@pytest.mark.parametrize(
    ("cosines", "view"),
    [([1, 0, 0, 0, 1, 0], "AXIAL"), ([1, 0, 0, 0, 0, -1], "CORONAL"), ([0, 1, 0, 0, 0, -1], "SAGITTAL")],
)
def test_plane_of_a_magnetic_resonance_slice(cosines: list[float], view: str) -> None:
    decoded = decode(content(header(RAMP, 12, Modality="MR", ImageOrientationPatient=cosines)))
    assert (decoded.modality, decoded.view) == ("MR", view)


def test_pixels_that_are_not_square_are_made_so() -> None:
    assert pixels_of(header(RAMP, 12, PixelSpacing=[2.0, 1.0])).shape == (14, 9)
    assert pixels_of(header(RAMP, 12, PixelSpacing=[1.0, 1.5])).shape == (7, 14)
    assert pixels_of(header(RAMP, 12, PixelSpacing=[0.143, 0.143])).shape == (7, 9)


def test_file_without_preamble() -> None:
    ds = header(RAMP, 12)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    stream = io.BytesIO()
    del ds.file_meta
    ds.save_as(stream, implicit_vr=True, little_endian=True)
    assert stream.getvalue()[128:132] != b"DICM"
    assert np.array_equal(decode(stream.getvalue()).pixels, pixels_of(header(RAMP, 12)))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"PixelData": None}, "corrupt"),
        ({"NumberOfFrames": 2}, "refused"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "corrupt"),
        ({"WindowCenter": 100, "WindowWidth": 0}, "corrupt"),
        ({"WindowCenter": 100, "WindowWidth": -5, "VOILUTFunction": "SIGMOID"}, "corrupt"),
        ({"WindowCenter": 100, "WindowWidth": 5, "VOILUTFunction": "CUBIC"}, "corrupt"),
        ({"PixelData": RAMP.tobytes()[:-20]}, "corrupt"),
        ({"Rows": 60000, "Columns": 60000}, "too_large"),
        ({"Rows": 0}, "corrupt"),
        ({"PixelSpacing": [1.0, 0.0]}, "corrupt"),
        ({"PhotometricInterpretation": "ARGB"}, "unsupported"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], fault: str) -> None:
    assert fault_of(header(RAMP, 12, **fields)) == fault


def test_rescale_that_is_no_number() -> None:
    whole = content(header(RAMP, 12, RescaleSlope="1.0", RescaleIntercept="0.0"))
    assert decode(whole).pixels.max() == 1
    for bad in (b"nan", b"inf", b"one"):
        assert fault_of(whole.replace(b"DS\x04\x001.0 ", b"DS\x04\x00" + bad + b" ")) == "corrupt"


def test_syntaxes_that_are_not_decoded() -> None:
    ds = header(RAMP, 12)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert fault_of(ds) == "unsupported"
    ds = header(RAMP, 12)
    ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    ds.file_meta.TransferSyntaxUID = HTJ2K
    assert fault_of(ds) == "unsupported"


def test_any_damage_is_an_image_error_and_its_message_quotes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    whole = content(header(FILM, 12, PatientName="Jane^Secret", PatientID="secret-77", WindowCenter=9, WindowWidth=9))
    random = np.random.default_rng(2)
    messages = []
    for _ in range(300):
        changed = bytearray(whole)
        for at in random.integers(132, len(whole) - FILM.nbytes, 3):
            changed[at] = int(random.integers(256))
        try:
            decode(bytes(changed))
        except ImageError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert not [message for message in messages if "ecret" in message]
    said = capfd.readouterr()
    assert "ecret" not in said.out + said.err

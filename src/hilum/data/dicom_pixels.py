"""From a DICOM file to grey pixels as a reader of films would see them; the only door to its pixel data.

The chain is that of DICOM PS3.3 and PS3.4 N.2: stored values -> modality transformation (lookup table or rescale,
C.11.1) -> values of interest (lookup table or window, C.11.2) -> presentation (inverted for MONOCHROME1 and for the
shape INVERSE, C.11.6). Where a file gives no values of interest, they are the range of the image without its padding.
Padding pixels (C.7.5.1.1.2) take no part and become black. Pixels that are not square are made so.

pydicom decodes; beneath it Pillow decompresses, or GDCM, in a process apart. All raise nearly anything on a malformed
file, and their messages and warnings quote header values, which can identify a patient: so every failure becomes a
sentence of our own.
"""

import io
import logging
import re
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
from pydicom.uid import ImplicitVRLittleEndian, JPEGExtended12Bit

from hilum.data import gdcm_apart
from hilum.errors import ImageError

if TYPE_CHECKING:
    from hilum.data.manifest import Pixels

MODALITIES: Final = {"CR": "XR", "DX": "XR", "DR": "XR", "RG": "XR", "MR": "MR"}
VIEWS: Final = {"PA": "PA", "AP": "AP", "LL": "LATERAL", "RL": "LATERAL", "LATERAL": "LATERAL", "LAT": "LATERAL"}
PLANES: Final = ("SAGITTAL", "CORONAL", "AXIAL")  # by the axis (x, y, z of the patient) that a slice is normal to

_HERE: Final = ("pydicom", "pillow")  # what decompresses in this process; the rest is for GDCM, apart
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's
_SQUARE_WITHIN: Final = 0.01  # spacings that differ by less than a percent move no pixel of a 224-pixel image by 2

logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its lines quote header values


def read(content: bytes, max_pixels: int) -> "tuple[Pixels, str, str | None]":
    """Decode a DICOM image.

    Args:
        content: The whole file.
        max_pixels: Refuse images with more, before they are decoded.

    Returns:
        Pixels of shape (H, W), uint8 in 0-255 (from colour) or float32 in 0-1; the modality, `XR` or `MR`; the view,
        None where the header names none that hilum knows.

    Raises:
        ImageError: `corrupt`, `unsupported` (a transfer syntax that is not decoded), `too_large`, or `refused`
            (several frames; a modality other than radiography and magnetic resonance).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = _open(content)
            modality = _modality(header)
            _check(header, max_pixels)
            pixels = _square_pixels(_pixels(header, content), header, max_pixels)
            return pixels, modality, _view(header, modality)
        except ImageError:
            raise
        except NotImplementedError as error:
            raise ImageError("the DICOM file is compressed in a way that hilum cannot decode", "unsupported") from error
        except Exception as error:
            raise ImageError(
                f"the DICOM file is damaged and cannot be decoded ({type(error).__name__})", "corrupt"
            ) from error


def _open(content: bytes) -> Any:
    if _DEFLATED in content[:2048]:
        # A few megabytes can inflate to the whole memory, and pydicom sets no bound.
        raise ImageError(
            "the DICOM file is deflated as a whole; send it uncompressed or as JPEG, J2K or RLE", "unsupported"
        )
    header = pydicom.dcmread(io.BytesIO(content), force=content[128:132] != b"DICM")
    if "TransferSyntaxUID" not in header.file_meta:
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # the default, PS3.5 section 10.1
    return header


def _modality(header: Any) -> str:
    stated = str(header.get("Modality", None) or "").strip().upper()
    if stated not in MODALITIES:
        # Named only where it looks like a code: in a damaged file anything may stand there, a name too.
        named = f"modality {stated}" if re.fullmatch("[A-Z]{2}", stated) else "no modality that is known"
        raise ImageError(
            f"the DICOM file has {named}; hilum reads radiographs (CR, DX, DR, RG) and magnetic resonance (MR)",
            "refused",
        )
    return MODALITIES[stated]


def _check(header: Any, max_pixels: int) -> None:
    frames = int(header.get("NumberOfFrames", None) or 1)
    if frames > 1:
        raise ImageError(f"the DICOM file has {frames} frames; send one image", "refused")
    if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageError("the DICOM file has no pixel data", "corrupt")
    height, width = int(header.Rows), int(header.Columns)
    if height < 1 or width < 1:
        raise ImageError(f"the DICOM file states an image of {width} x {height} pixels", "corrupt")
    if height * width > max_pixels:
        raise ImageError(f"the image has {width} x {height} pixels; at most {max_pixels} in all are read", "too_large")
    if not get_decoder(header.file_meta.TransferSyntaxUID).is_available:
        raise NotImplementedError("no plugin decodes this transfer syntax")


def _pixels(header: Any, content: bytes) -> "Pixels":
    stored = _stored(header, content)
    photometric = str(header.PhotometricInterpretation).strip().upper()
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, header)
        return _luma(stored[..., :3], np.iinfo(stored.dtype).max)
    if stored.ndim == 3:
        return _luma(stored, 2 ** int(header.BitsStored) - 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError("the DICOM file's photometric interpretation is none that hilum knows", "unsupported")
    shown = _interest(_modality_values(stored, header), stored, header)
    shape = str(header.get("PresentationLUTShape", None) or "").strip().upper()
    if photometric == "MONOCHROME1" or shape == "INVERSE":  # the two say the same, C.8.11.3.1.2; never twice
        shown = 1.0 - shown
    shown[_padding(stored, header)] = 0.0
    return np.ascontiguousarray(shown, dtype=np.float32)


def _stored(header: Any, content: bytes) -> NDArray[Any]:
    """Stored values: unused high bits cleared, sign extended, YBR made RGB."""
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return np.asarray(pixel_array(header))
    # Pillow reads neither JPEG of 12 bits nor colours of more than 8.
    deep = int(header.BitsStored) > 8 and (syntax == JPEGExtended12Bit or int(header.SamplesPerPixel) > 1)
    plugins = [
        name for name in _HERE if name in get_decoder(syntax).available_plugins and not (deep and name == "pillow")
    ]
    if not plugins:
        return gdcm_apart.pixels(content)
    if plugins[0] == "pillow":
        _check_stream(header)
    # One is named: pydicom would hand a file that this one refuses to the next, and in the end to GDCM.
    return np.asarray(pixel_array(header, decoding_plugin=plugins[0]))


def _check_stream(header: Any) -> None:
    """Refuse a compressed image that is larger than the header says: it would be decoded whole, whatever that takes."""
    frame = get_frame(header.PixelData, 0, number_of_frames=1)
    with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
        if image.size != (int(header.Columns), int(header.Rows)):
            raise ImageError(
                f"the DICOM file's header states {header.Columns} x {header.Rows} pixels, and its compressed image has "
                f"{image.width} x {image.height}",
                "corrupt",
            )


def _luma(x_HWC: NDArray[Any], limit: int) -> "Pixels":
    """Grey of a colour image of shape (H, W, 3)."""
    if x_HWC.dtype == np.uint8 and limit == 255:
        return np.asarray(Image.fromarray(np.ascontiguousarray(x_HWC)).convert("L"))
    return np.asarray(np.clip((x_HWC.astype(np.float32) / limit) @ _LUMA, 0, 1), dtype=np.float32)


def _modality_values(stored: NDArray[Any], header: Any) -> NDArray[np.float64]:
    """Stored values to the modality's own (C.11.1): by a lookup table, else slope and intercept."""
    if header.get("ModalityLUTSequence"):
        table = header.ModalityLUTSequence[0]
        return _lookup(stored, table, header)[0]
    slope: float = _number(header, "RescaleSlope", 1.0)
    intercept: float = _number(header, "RescaleIntercept", 0.0)
    values = stored.astype(np.float64) * slope + intercept
    if slope == 0 or not np.isfinite(values).all():
        raise ImageError(f"the DICOM file's rescale (slope {slope}, intercept {intercept}) gives no image", "corrupt")
    return values


def _interest(values: NDArray[np.float64], stored: NDArray[Any], header: Any) -> NDArray[np.float64]:
    """The values of interest, spread over 0-1 (C.11.2): by a lookup table, a window, else the image's range."""
    if header.get("VOILUTSequence"):
        mapped, limit = _lookup(values, header.VOILUTSequence[0], header)
        return np.clip(mapped / limit, 0, 1)
    centre, width = _number(header, "WindowCenter", None), _number(header, "WindowWidth", None)
    if centre is not None and width is not None:
        return window(values, centre, width, str(header.get("VOILUTFunction", None) or "LINEAR").strip().upper())
    image = values[~_padding(stored, header)]
    low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
    if low == high:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)


def window(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Spread a window of values over 0-1.

    Args:
        values: Modality values, any shape.
        centre: The window's centre, in the modality's unit.
        width: The window's width, in the same unit.
        function: `LINEAR` (PS3.3 C.11.2.1.2.1), `LINEAR_EXACT` (C.11.2.1.3.2) or `SIGMOID` (C.11.2.1.3.1).

    Raises:
        ImageError: The width is too small for the function, or there is no such function.
    """
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ImageError("the DICOM file's VOI function is none of LINEAR, LINEAR_EXACT and SIGMOID", "corrupt")
    if not (width >= 1 if function == "LINEAR" else width > 0):
        raise ImageError(f"the DICOM file's window has width {width}; {function} needs a larger one", "corrupt")
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - centre) / width, -700, 700)  # exp stays finite
        return np.asarray(1.0 / (1.0 + np.exp(exponent)), dtype=np.float64)
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1.0
    if width == 0:  # LINEAR of width 1 is a threshold
        return (values > centre).astype(np.float64)
    return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1), dtype=np.float64)


def _lookup(values: NDArray[Any], table: Any, header: Any) -> tuple[NDArray[np.float64], float]:
    """Values through a lookup table (C.11.1.1.1, C.11.2.1.1), and the largest value that its output can have."""
    entries, first, bits = (int(number) for number in table.LUTDescriptor)
    entries = entries or 65536  # as the standard writes 2**16
    if int(header.get("PixelRepresentation", None) or 0) and first > 32767:
        first -= 65536  # a signed number, read as unsigned
    data = table.LUTData
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        outputs = np.frombuffer(data, dtype="<u2" if wide else "u1").astype(np.float64)
    else:
        outputs = np.atleast_1d(np.asarray(data, dtype=np.float64))
    if not 1 <= bits <= 16 or len(outputs) < entries:
        raise ImageError("the DICOM file has a lookup table shorter than it states", "corrupt")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return outputs[index], float(2**bits - 1)


def _padding(stored: NDArray[Any], header: Any) -> NDArray[np.bool_]:
    """Which stored values are padding: the padding value, or the range from it to its limit (C.7.5.1.1.2)."""
    value, limit = _number(header, "PixelPaddingValue", None), _number(header, "PixelPaddingRangeLimit", None)
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    if int(header.get("PixelRepresentation", None) or 0) and value > 32767:
        value -= 65536  # a signed number, read as unsigned
    other = value if limit is None else limit
    return np.asarray((stored >= min(value, other)) & (stored <= max(value, other)))


def _number(header: Any, name: str, default: Any) -> Any:
    """A header's number, the first where it has several; `default` where it has none."""
    value = header.get(name, None)
    if value is None or value == "":
        return default
    if not isinstance(value, str | bytes) and hasattr(value, "__len__"):
        if not len(value):
            return default
        value = value[0]
    number = float(value)
    if not np.isfinite(number):
        raise ImageError(f"the DICOM file's {name} is {number}", "corrupt")
    return number


def _square_pixels(pixels: "Pixels", header: Any, max_pixels: int) -> "Pixels":
    """Stretch the coarser axis of an image whose pixels are not square (spacing of rows, then of columns)."""
    names = ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio")
    spacing = next((header.get(name) for name in names if header.get(name)), (1, 1))
    vertical, horizontal = float(spacing[0]), float(spacing[1])
    if not (vertical > 0 and horizontal > 0 and max(vertical, horizontal) < 10 * min(vertical, horizontal)):
        raise ImageError(f"the DICOM file's pixels are {vertical} high and {horizontal} wide", "corrupt")
    if abs(vertical / horizontal - 1) < _SQUARE_WITHIN:
        return pixels
    height, width = pixels.shape
    finer = min(vertical, horizontal)
    shape = (round(width * horizontal / finer), round(height * vertical / finer))
    if shape[0] * shape[1] > max_pixels:
        raise ImageError(
            f"made square, its pixels would be {shape[0]} x {shape[1]}, more than {max_pixels}", "too_large"
        )
    return np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR))


def _view(header: Any, modality: str) -> str | None:
    if modality == "XR":
        return VIEWS.get(str(header.get("ViewPosition", None) or "").strip().upper())
    directions = header.get("ImageOrientationPatient", None)
    if not directions or len(directions) != 6:
        return None
    cosines = [float(value) for value in directions]
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    return PLANES[int(normal.argmax())] if normal.max() > 0.5 else None

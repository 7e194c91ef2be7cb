"""NIfTI volumes: to voxels in one orientation and one grey range, and from them to slices as a reader sees them.

Voxels are put in the orientation RAS+ (first axis to the patient's right, second to anterior, third to superior).
A slice is shown in the radiological convention, as DICOM shows it: the patient's right is on the left of axial and
coronal slices, anterior is up in axial ones and left in sagittal ones, superior is up in the other two.

Grey range: 0 and 1 are the 0.5th and 99.5th percentiles of the voxels that are not background. Background is the value
of the volume's corners (the median of the eight), which in a masked scan is its zero; voxels that are not finite, as
some tools write outside their mask, count as background.
"""

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hilum.errors import ImageError, UsageError

MAX_VOXELS: Final = 200_000_000  # 0.8 GB as float32; a head at 0.5 mm has 134 million
PERCENTILES: Final = (0.5, 99.5)
# Per plane: the axis that is fixed, then those that become rows and columns, both reversed (see above).
PLANES: Final = {"AXIAL": (2, 1, 0), "CORONAL": (1, 2, 0), "SAGITTAL": (0, 2, 1)}

_SQUARE_WITHIN: Final = 0.01


@dataclass(frozen=True)
class Volume:
    """A volume in RAS+ orientation.

    Attributes:
        voxels_XYZ: float32 in 0-1, shape (X, Y, Z): to the right, to anterior, to superior.
        spacing_mm: Distance of neighbouring voxels along X, Y and Z.
    """

    voxels_XYZ: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file, `.nii` or `.nii.gz` (told from the content).

    Raises:
        ImageError: As `decode_volume`; a file that is not there or not readable counts as `empty`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror or type(error).__name__}", "empty") from error
    return decode_volume(content)


def decode_volume(content: bytes) -> Volume:
    """Decode a NIfTI-1 or NIfTI-2 volume, compressed by gzip or not.

    Raises:
        ImageError: `empty`, `unsupported` (not NIfTI), `corrupt`, `too_large` (more than MAX_VOXELS), or `refused`
            (several volumes, colours, or no orientation stated).
    """
    if not content:
        raise ImageError("the volume is empty; a NIfTI file was expected", "empty")
    if content.startswith(b"\x1f\x8b"):
        content = _inflate(content)
    image = _open(content)
    shape = image.shape
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3:
        raise ImageError(f"the NIfTI file has shape {image.shape}; one volume of three axes was expected", "refused")
    if not 0 < int(np.prod(shape, dtype=np.int64)) <= MAX_VOXELS:
        raise ImageError(f"the NIfTI file has shape {shape}; at most {MAX_VOXELS} voxels are read", "too_large")
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError("the NIfTI file holds colours or complex numbers; one grey value was expected", "refused")
    if not (image.header["sform_code"] or image.header["qform_code"]):
        raise ImageError("the NIfTI file does not state its orientation; set its sform or qform", "refused")
    return _oriented(image, shape)


def _inflate(content: bytes) -> bytes:
    """Decompress, but never beyond what the largest volume takes: a few megabytes can hold the whole memory."""
    limit = 8 * MAX_VOXELS
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            inflated = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError("the gzip file is damaged or truncated", "corrupt") from error
    if len(inflated) > limit:
        raise ImageError(f"the compressed volume is larger than {MAX_VOXELS} voxels", "too_large")
    return inflated


def _open(content: bytes) -> Any:
    """The NIfTI image, its voxels not yet read."""
    import nibabel  # half a second, which the workers of sets without volumes need not spend

    sizes = {int.from_bytes(content[:4], order) for order in ("little", "big")}
    kind = nibabel.Nifti1Image if 348 in sizes else nibabel.Nifti2Image if 540 in sizes else None
    if kind is None or b"n+" not in content[4:8] + content[344:348]:
        raise ImageError("the content is no NIfTI file (.nii or .nii.gz)", "unsupported")
    try:
        return kind.from_bytes(content)
    except Exception as error:  # nibabel raises errors of many kinds on damaged headers
        raise ImageError("the NIfTI file's header is damaged", "corrupt") from error


def _oriented(image: Any, shape: tuple[int, ...]) -> Volume:
    from nibabel.orientations import apply_orientation, io_orientation

    try:
        voxels = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
        orientation = io_orientation(image.affine)
        zooms = [float(zoom) for zoom in image.header.get_zooms()[:3]]
    except Exception as error:  # truncated data, broken scale factors, a singular affine
        raise ImageError("the NIfTI file is truncated or damaged", "corrupt") from error
    possible = all(np.isfinite(zoom) and zoom > 0 for zoom in zooms) and max(zooms) < 100 * min(zooms)
    if np.isnan(orientation).any() or not possible:
        raise ImageError(f"the NIfTI file states voxels of {zooms} mm in an orientation that cannot be", "corrupt")
    spacing = [0.0, 0.0, 0.0]
    for axis, zoom in zip(orientation[:, 0], zooms, strict=True):
        spacing[int(axis)] = zoom
    scaled = _grey_range(np.asarray(apply_orientation(voxels, orientation)))
    return Volume(scaled, (spacing[0], spacing[1], spacing[2]))


def _grey_range(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    corners = voxels[np.ix_(*((0, -1) for _ in range(3)))]
    background = np.float32(np.median(corners[np.isfinite(corners)])) if np.isfinite(corners).any() else np.float32(0)
    finite = np.where(np.isfinite(voxels), voxels, background)
    inside = finite[finite != background]
    if not inside.size:
        return np.zeros(voxels.shape, dtype=np.float32)
    low, high = (np.float32(bound) for bound in np.percentile(inside, PERCENTILES))
    if low == high:  # a mask: one value inside
        low = background
    return np.asarray(np.clip((finite - low) / (high - low), 0, 1), dtype=np.float32)


def slice_plane(volume: Volume, plane: str, fraction: float = 0.5) -> NDArray[np.float32]:
    """One slice, as a reader sees it (see above), its pixels made square by stretching the coarser axis.

    Args:
        volume: The volume.
        plane: AXIAL, CORONAL or SAGITTAL.
        fraction: How far along the plane's axis: 0 is the first slice (inferior, posterior, left), 1 the last.

    Returns:
        float32 in 0-1, shape (H, W).

    Raises:
        UsageError: There is no such plane, or the fraction is outside 0-1.
    """
    if plane not in PLANES:
        raise UsageError(f"there is no plane {plane!r}; there are {', '.join(PLANES)}")
    if not 0 <= fraction <= 1:
        raise UsageError(f"a slice lies at a fraction of 0 to 1 of its axis, not at {fraction}")
    normal, rows, columns = PLANES[plane]
    count = volume.voxels_XYZ.shape[normal]
    flat = np.take(volume.voxels_XYZ, int(fraction * (count - 1) + 0.5), axis=normal)
    if rows > columns:  # `take` keeps the remaining axes in ascending order
        flat = flat.T
    image = np.ascontiguousarray(flat[::-1, ::-1])
    vertical, horizontal = volume.spacing_mm[rows], volume.spacing_mm[columns]
    if abs(vertical / horizontal - 1) < _SQUARE_WITHIN:
        return image
    finer = min(vertical, horizontal)
    shape = (max(1, round(image.shape[1] * horizontal / finer)), max(1, round(image.shape[0] * vertical / finer)))
    return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR))

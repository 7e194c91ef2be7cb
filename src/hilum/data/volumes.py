"""NIfTI volumes: to voxels in one orientation and one grey range, and from them to slices as a reader sees them.

Voxels are put in the orientation RAS+ (first axis to the patient's right, second to anterior, third to superior).
A slice is shown in the radiological convention, as DICOM shows it: the patient's right is on the left of axial and
coronal slices, anterior is up in axial ones and left in sagittal ones, superior is up in the other two.

Grey range: 0 and 1 are the 0.5th and 99.5th percentiles of the voxels that are not background. Background is the value
of the volume's corners (the median of the eight), which in a masked scan is its zero; voxels that are not finite, as
some tools write outside their mask, count as background.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hilum.data import nifti
from hilum.data.images import check_size
from hilum.errors import ImageError, UsageError

MAX_VOXELS: Final = 200_000_000  # 0.8 GB as float32; a head at 0.5 mm has 134 million
PERCENTILES: Final = (0.5, 99.5)
# Per plane: the axis that is fixed, then those that become rows and columns, both reversed (see above).
PLANES: Final = {"AXIAL": (2, 1, 0), "CORONAL": (1, 2, 0), "SAGITTAL": (0, 2, 1)}

_SQUARE_WITHIN: Final = 0.01

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # its lines quote header values


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


def decode_volume(content: bytes, max_voxels: int | None = None) -> Volume:
    """Decode a NIfTI-1 or NIfTI-2 volume, compressed by gzip or not.

    Args:
        content: The whole file.
        max_voxels: Refuse volumes with more, before memory is spent on them; MAX_VOXELS where None.

    Raises:
        ImageError: As `nifti.read`, and `corrupt` where the orientation, the spacing or the values cannot be.
    """
    header, content = nifti.read(content, MAX_VOXELS if max_voxels is None else max_voxels)
    import nibabel  # half a second, which the workers of sets without volumes need not spend

    kind = nibabel.Nifti1Image if header.version == 1 else nibabel.Nifti2Image
    with np.errstate(all="ignore"):  # what overflows is not finite, and that is looked at
        try:
            image = kind.from_bytes(content)
        except Exception as error:  # nibabel raises errors of many kinds on damaged headers
            raise ImageError("the NIfTI file's header is damaged", "corrupt") from error
        return _oriented(image, header.shape)


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
    scaled = np.where(np.isfinite(voxels), voxels, background)
    inside = scaled[scaled != background]
    if not inside.size:
        return np.zeros(voxels.shape, dtype=np.float32)
    low, high = (np.float32(bound) for bound in np.percentile(inside, PERCENTILES, overwrite_input=True))
    if low == high:  # a mask: one value inside
        low = background
    if not 0 < abs(high - low) < np.inf:
        raise ImageError(f"the NIfTI file's values, from {low:g} to {high:g}, span no grey range", "corrupt")
    # In place: a volume is the largest thing here, and a server has many requests.
    scaled -= low
    scaled /= high - low
    return np.asarray(np.clip(scaled, 0, 1, out=scaled), dtype=np.float32)


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
        ImageError: `too_large`: with square pixels the slice has more than images.MAX_PIXELS.
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
    check_size(shape[1], shape[0])
    return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR))

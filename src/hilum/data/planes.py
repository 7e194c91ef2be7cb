"""The planes of a volume that comes as one request: the slices on which encoders are trained, cut by the same code.

The layouts `bids` and `oasis` cut the central slice of each plane by volumes.slice_plane, and so does this. A file does
not say which of its slices matter, nor is the middle of a volume the middle of a head: what is answered is the plane at
the position that is named with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hilum.data.locators import CENTRE
from hilum.data.nifti import is_nifti
from hilum.errors import ImageError

if TYPE_CHECKING:
    from hilum.data.manifest import Pixels

__all__ = ["MAX_VOXELS", "Plane", "decode_planes", "is_nifti"]

# For requests, which are many and share a machine's memory: 0.2 GB as float32, some 0.7 GB while they are scaled. Heads
# at 1 mm have 17 million voxels, at 0.7 mm 32 million; what is larger is read by the layouts, from a source.
MAX_VOXELS: Final = 50_000_000


@dataclass(frozen=True)
class Plane:
    """One slice of a volume.

    Attributes:
        pixels: float32 in 0-1, shape (H, W), as volumes.slice_plane shows it.
        view: AXIAL, CORONAL or SAGITTAL.
        position: How far along the plane's axis, 0 to 1.
    """

    pixels: "Pixels"
    view: str
    position: float


def decode_planes(content: bytes, views: Sequence[str], position: float = CENTRE) -> list[Plane]:
    """Decode a NIfTI volume, and cut one slice per view, in the order of `views`.

    Args:
        content: A `.nii` or `.nii.gz` file's bytes; the format is told from them.
        views: Of AXIAL, CORONAL and SAGITTAL.
        position: How far along each plane's axis, 0 to 1.

    Raises:
        ImageError: `empty`, `unsupported`, `corrupt`, `too_large` (more than MAX_VOXELS, found before memory is spent)
            or `refused`, as volumes.decode_volume.
        UsageError: There is no such view, or position.
    """
    from hilum.data.volumes import decode_volume, slice_plane  # nibabel: only where a volume comes

    volume = decode_volume(content, MAX_VOXELS)
    planes = [Plane(slice_plane(volume, view, position), view, position) for view in views]
    if not any(plane.pixels.any() for plane in planes):
        raise ImageError("the planes through the volume's centre are empty: one value throughout", "refused")
    return planes

"""Locators: how a layout names the pixels of a row, relative to the source folder.

images/a.png                      an image or DICOM file
sub-01/anat/x.nii.gz#AXIAL@0.5    a slice of a volume: the plane, and how far along the plane's axis (0 to 1)

Worker processes import this module to call `load`, so it imports neither pandas nor, before a volume is asked for,
the reader of volumes.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hilum.data.images import decode_file

if TYPE_CHECKING:
    from hilum.data.manifest import Pixels
    from hilum.data.volumes import Volume

CENTRE: Final = 0.5
_SLICE: Final = re.compile(r"^(?P<path>.+)#(?P<plane>AXIAL|CORONAL|SAGITTAL)@(?P<fraction>[0-9.]+)$")


def slice_locator(path: str, plane: str, fraction: float = CENTRE) -> str:
    """Name one slice of a volume.

    Args:
        path: The volume's path relative to the source folder.
        plane: AXIAL, CORONAL or SAGITTAL.
        fraction: How far along the plane's axis, from 0 to 1.
    """
    return f"{path}#{plane}@{fraction:.6f}".rstrip("0").removesuffix(".")


def load(source: Path, locator: str) -> "Pixels":
    """The pixels that a locator names, of shape (H, W).

    Raises:
        ImageError: The file is absent or cannot be read.
    """
    named = _SLICE.match(locator)
    if named is None:
        return decode_file(source / locator)
    from hilum.data.volumes import slice_plane

    return slice_plane(_volume(source / named["path"]), named["plane"], float(named["fraction"]))


@lru_cache(maxsize=1)  # the slices of a volume follow each other, and a volume costs much more to read than to slice
def _volume(path: Path) -> "Volume":
    from hilum.data.volumes import read_volume

    return read_volume(path)

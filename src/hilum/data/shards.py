"""Shards: many small images in a few uncompressed zip archives, each read in place.

Version control of data is slow with many files. A locator names the bytes themselves, so that reading one image opens
one file, once, and shares no open archive between worker processes.

shards/xr-000.zip:12345:2040      the archive relative to the source folder, the first byte, and how many

Worker processes import this module to call `load`, so it imports no pandas.
"""

import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from hilum.data.images import decode
from hilum.errors import ImageError, SourceError

if TYPE_CHECKING:
    from hilum.data.manifest import Pixels


def places(source: Path, shard: str) -> dict[str, str]:
    """The locator of each member of a shard.

    Args:
        source: The source folder.
        shard: Path of the archive relative to it.

    Raises:
        SourceError: The archive is missing or damaged, or compresses its members.
    """
    found = {}
    try:
        with zipfile.ZipFile(source / shard) as archive, (source / shard).open("rb") as stream:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise SourceError(f"{source / shard} compresses its members; a shard is a zip that only stores")
                stream.seek(member.header_offset + 26)  # of a local header: the lengths of the name and of the extras
                name_length, extra_length = struct.unpack("<HH", stream.read(4))
                start = member.header_offset + 30 + name_length + extra_length
                found[member.filename] = f"{shard}:{start}:{member.file_size}"
    except (OSError, zipfile.BadZipFile, struct.error) as error:
        raise SourceError(f"{source / shard} is missing or damaged; fetch or draw its cohort again") from error
    return found


def load(source: Path, locator: str) -> "Pixels":
    """The pixels that a locator names, of shape (H, W): uint8 in 0-255, or float32 in 0-1.

    Raises:
        ImageError: The archive cannot be read, or the image in it.
    """
    shard, start, length = locator.rsplit(":", 2)
    try:
        with (source / shard).open("rb") as stream:
            stream.seek(int(start))
            content = stream.read(int(length))
    except OSError as error:
        raise ImageError(f"the shard cannot be read: {error.strerror or type(error).__name__}", "empty") from error
    return decode(content).pixels

"""Shards: members are read in place, whatever their local headers carry."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum.data import shards
from hilum.errors import SourceError


def _png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6), value, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_each_member_is_found_where_it_lies(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for value in (10, 20, 30):
            member = zipfile.ZipInfo(f"{'long-' * value}{value}.png")
            if value == 20:
                member.extra = b"\x99\x99\x04\x00abcd"  # an extra field shifts the content behind the local header
            archive.writestr(member, _png(value))
    found = shards.places(tmp_path, "a.zip")
    for (name, locator), value in zip(found.items(), (10, 20, 30), strict=True):
        assert name.endswith(f"-{value}.png")
        assert np.array_equal(shards.load(tmp_path, locator), np.full((4, 6), value))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", _png(1))
    with pytest.raises(SourceError, match="compresses its members"):
        shards.places(tmp_path, "a.zip")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not an archive")
    for name in ("a.zip", "absent.zip"):
        with pytest.raises(SourceError, match="missing or damaged"):
            shards.places(tmp_path, name)

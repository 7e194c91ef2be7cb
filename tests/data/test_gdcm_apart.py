"""GDCM apart: the same pixels as in this process, and a file that ends it costs that file alone."""

import io
import os
import time

import numpy as np
import pydicom
import pytest
from mutating import seeds
from pydicom.pixels import pixel_array

from hilum.data import gdcm_apart
from hilum.data.images import decode
from hilum.errors import ImageError

LOSSLESS, JPEG_LS = seeds()["dicom"][-2:]


def deadly() -> bytes:
    """A lossless JPEG that states 255 bits per sample, which GDCM reads beyond its memory for."""
    at = LOSSLESS.index(b"\xff\xc3")
    return LOSSLESS[: at + 4] + b"\xff" + LOSSLESS[at + 5 :]


@pytest.mark.parametrize("content", [LOSSLESS, JPEG_LS])
def test_the_pixels_are_those_of_gdcm_here(content: bytes) -> None:
    expected = pixel_array(pydicom.dcmread(io.BytesIO(content)), decoding_plugin="gdcm")
    found = gdcm_apart.pixels(content)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert decode(content).pixels.std() > 0.1


def test_a_file_that_ends_the_decoder_is_refused_and_the_next_is_read() -> None:
    whole = gdcm_apart.pixels(LOSSLESS)
    before = gdcm_apart._child
    with pytest.raises(ImageError, match="ended their decoder") as caught:
        decode(deadly())
    assert caught.value.fault == "corrupt"
    assert np.array_equal(gdcm_apart.pixels(LOSSLESS), whole)
    assert gdcm_apart._child is not before


def test_a_file_that_cannot_be_decoded_costs_no_process() -> None:
    gdcm_apart.pixels(LOSSLESS)
    before = gdcm_apart._child
    with pytest.raises(ImageError, match="cannot be decoded"):
        gdcm_apart.pixels(LOSSLESS[:-400])
    with pytest.raises(ImageError):
        gdcm_apart.pixels(b"")
    assert gdcm_apart._child is before
    assert len(gdcm_apart.pixels(LOSSLESS))


def test_a_decoder_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    gdcm_apart.pixels(LOSSLESS)
    assert gdcm_apart._child is not None
    stopped = gdcm_apart._child
    os.kill(stopped.pid, 19)  # SIGSTOP
    monkeypatch.setattr(gdcm_apart, "SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(ImageError, match="ended their decoder"):
        gdcm_apart.pixels(LOSSLESS)
    assert time.monotonic() - start < 5
    assert stopped.poll() is not None
    monkeypatch.undo()
    assert len(gdcm_apart.pixels(LOSSLESS))
    gdcm_apart.close()
    assert gdcm_apart._child is None

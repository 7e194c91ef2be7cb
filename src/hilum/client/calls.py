"""Calls as bytes: what an image may be, and how it is sent."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hilum.client.faults import Unsendable

# The bytes of a file, its path, an open file, or decoded grey pixels: uint8, (H, W).
Image = bytes | str | PathLike[str] | IO[bytes] | NDArray[np.uint8]


@dataclass(frozen=True)
class Asked:
    """What is asked of one image."""

    path: str
    content: bytes
    headers: Mapping[str, str]


def ask(
    image: Image,
    path: str,
    *,
    modality: str | None = None,
    covariates: Mapping[str, float | None] | None = None,
    neighbours: int = 0,
    saliency: bool = False,
    seen: bool = False,
) -> Asked:
    """A call for one image, its options in headers, so that the image need not be encoded."""
    headers = {"content-type": "application/octet-stream", "accept": "application/json"}
    if modality is not None:
        headers["x-modality"] = modality
    if covariates:
        try:
            headers["x-covariates"] = json.dumps(dict(covariates), allow_nan=False)
        except (TypeError, ValueError):
            raise Unsendable("a covariate is not a finite number; give None where it is unknown") from None
    if neighbours:
        headers["x-neighbours"] = str(neighbours)
    for name, wanted in (("x-saliency", saliency), ("x-seen", seen)):
        if wanted:
            headers[name] = "true"
    return Asked(path, content_of(image), headers)


def content_of(image: Image) -> bytes:
    """The bytes of an image file.

    Raises:
        Unsendable: It is none of what an image may be, or cannot be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _encoded(image)
    try:
        if isinstance(image, str | PathLike):
            return Path(image).read_bytes()
        content = image.read() if hasattr(image, "read") else None
    except OSError as error:
        # Without the path: names of image files name patients, and this message may go to a log.
        raise Unsendable(f"the file cannot be read ({error.strerror}); give one that can") from None
    if isinstance(content, bytes):
        return content
    raise Unsendable("an image is bytes, a path, a file opened in binary mode, or an array of uint8 of shape (H, W)")


def _encoded(pixels: NDArray[Any]) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise Unsendable(
            f"an array of {pixels.dtype} and shape {pixels.shape} is no grey image; give uint8 of shape (H, W)"
        )
    from PIL import Image as Pictures

    stream = io.BytesIO()
    Pictures.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()

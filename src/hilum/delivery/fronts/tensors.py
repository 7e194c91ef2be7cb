"""The one input of the Open Inference Protocol, `image`: what its shape, its numbers and its bytes may be.

The rules here are those of every form of the protocol: JSON, JSON with binary tensors after it, and gRPC.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.delivery.desk import Request
from hilum.delivery.fronts.asking import MAX_IMAGES, MAX_NAMED, unbased
from hilum.delivery.fronts.refusals import CallError

SIZE: Final = "binary_data_size"
BYTES: Final = "BYTES"
PIXELS: Final[dict[str, np.dtype[Any]]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
MAX_ELEMENTS: Final = 50_000_000  # pixels of one image, as hilum.data.images has it
ONE_INPUT: Final = 'give one input: {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["BASE64"]}'


def requests(one: Mapping[str, Any], rest: bytes, modality: str | None) -> list[Request]:
    """The images of an input.

    Args:
        one: The input as JSON has it: name, datatype, shape, and data where they are not in `rest`.
        rest: Binary data; none where empty.
        modality: As the caller declares it.

    Raises:
        CallError: It is not as the protocol has it.
    """
    shape = _shape(one.get("shape"))
    datatype = one.get("datatype")
    raw = _raw(one, rest)
    if datatype == BYTES:
        return [Request(item, modality) for item in _items(one, shape, raw)]
    if not isinstance(datatype, str) or datatype not in PIXELS:
        raise CallError(
            "bad_request", f"datatype {str(datatype)[:MAX_NAMED]!r} is not read", "use BYTES, UINT8 or FP32"
        )
    if modality is None:
        raise CallError(
            "bad_request", "a tensor does not say its modality", 'declare it: "parameters": {"modality": "XR"}', 422
        )
    return [Request(b"", modality, pixels=image) for image in _pixels(one, shape, PIXELS[datatype], raw)]


def strings(values: list[bytes]) -> bytes:
    """A BYTES tensor as binary data: each element after its length, little-endian 4 bytes."""
    return b"".join(struct.pack("<I", len(one)) + one for one in values)


def parameters(said: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a call, an input or an output.

    Raises:
        CallError: They are no object.
    """
    found = said.get("parameters", {})
    if not isinstance(found, dict):
        raise CallError("bad_request", "parameters is not an object", 'give {"modality": "XR"} or nothing')
    return found


def _shape(given: Any) -> tuple[int, ...]:
    whole = isinstance(given, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in given)
    if not whole or not 1 <= len(given) <= 4 or any(one < 1 for one in given):
        raise CallError("bad_request", "shape is not a list of one to four positive numbers", ONE_INPUT)
    if np.prod([float(one) for one in given]) > MAX_ELEMENTS * 4.0:
        raise CallError("too_large", "the shape has more elements than are read", "send fewer or smaller images", 413)
    return tuple(given)


def _raw(one: Mapping[str, Any], rest: bytes) -> bytes | None:
    """The binary data of an input; None where it has its data in JSON."""
    size = parameters(one).get(SIZE)
    if size is None:
        if rest:
            raise CallError("bad_request", f"there are binary data, but no {SIZE}", f"state {SIZE} of the input")
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size != len(rest):
        raise CallError("bad_request", f"{SIZE} is not the length of the binary data", f"state {len(rest)}")
    if "data" in one:
        raise CallError("bad_request", "an input has data in JSON and in binary", "give one of them")
    return rest


def _items(one: Mapping[str, Any], shape: tuple[int, ...], raw: bytes | None) -> list[bytes]:
    """The files of a BYTES tensor."""
    count = int(np.prod(shape))
    if count > MAX_IMAGES:
        raise CallError("too_many", f"{count} images are more than {MAX_IMAGES}", "send several calls", 413)
    if raw is None:
        data = one.get("data")
        if not isinstance(data, list) or len(data) != count:
            raise CallError("bad_request", f"data is not a list of {count}, as the shape says", ONE_INPUT)
        return [unbased(item, f"data[{number}]") for number, item in enumerate(data)]
    found, at = [], 0
    for number in range(count):
        if at + 4 > len(raw):
            raise CallError(
                "bad_request", f"the binary data end before element {number}", "prefix each with its length"
            )
        (length,) = struct.unpack_from("<I", raw, at)
        if at + 4 + length > len(raw):
            raise CallError("bad_request", f"element {number} is longer than the binary data", "give its true length")
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(raw):
        raise CallError("bad_request", "the binary data go on after the last element", "match the shape")
    return found


def _pixels(
    one: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any], raw: bytes | None
) -> list[NDArray[Any]]:
    """Images of a tensor, each (H, W)."""
    if len(shape) == 1 or (len(shape) == 4 and shape[1] != 1):
        raise CallError(
            "bad_request", f"shape {list(shape)} is not that of grey images", "use [N, H, W] or [N, 1, H, W]"
        )
    count = 1 if len(shape) == 2 else shape[0]
    if count > MAX_IMAGES:
        raise CallError("too_many", f"{count} images are more than {MAX_IMAGES}", "send several calls", 413)
    if shape[-1] * shape[-2] > MAX_ELEMENTS:
        raise CallError("too_large", "an image has more pixels than are read", "send it smaller", 413)
    values = _values(one.get("data"), dtype) if raw is None else None
    if raw is not None:
        if len(raw) % dtype.itemsize:
            raise CallError("bad_request", "the binary data are no whole number of values", "match datatype and shape")
        values = np.frombuffer(raw, dtype)
    assert values is not None, "one of the two has set it"
    if values.size != np.prod(shape):
        wrong = f"there are {values.size} values, and the shape asks for {int(np.prod(shape))}"
        raise CallError("bad_request", wrong, "match data and shape")
    if dtype.kind == "f" and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise CallError(
            "corrupt", "the pixels are not all finite and between 0 and 1", "scale FP32 pixels to 0 to 1", 422
        )
    return list(np.ascontiguousarray(values.reshape(count, shape[-2], shape[-1])))


def _values(data: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers of a JSON list, flat or nested as the shape is."""
    right = "give data as a list of numbers"
    if not isinstance(data, list):
        raise CallError("bad_request", "data is not a list", right)
    try:
        values = np.asarray(data)
    except ValueError:
        raise CallError("bad_request", "data is nested unevenly", right) from None
    if values.dtype.kind not in "iuf":
        raise CallError("bad_request", "data are not numbers", right)
    if dtype.kind == "u" and (values.dtype.kind == "f" or values.min(initial=0) < 0 or values.max(initial=0) > 255):
        raise CallError("bad_request", "UINT8 data are not whole numbers from 0 to 255", right)
    with np.errstate(over="ignore"):
        return values.reshape(-1).astype(dtype)

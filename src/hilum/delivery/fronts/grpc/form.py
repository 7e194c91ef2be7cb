"""A ModelInferRequest as the JSON of the protocol has it, and an answer as a ModelInferResponse.

Raw and typed contents both become binary tensors, so that the rules of fronts.tensors hold for every form. Answers have
their numbers raw (`raw_output_contents`): little-endian float32 is what typed contents have on the wire, too.

A message is looked at twice. `addressed` runs in the front: it walks over the fields of the message without taking them
apart, for to whom the call goes, and refuses what has more of them than a call needs: two bytes of an empty input
would become eighty in memory. The rest runs in a worker.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from hilum.delivery.desk import Desk
from hilum.delivery.fronts.asking import BINARY, MAX_NAMED
from hilum.delivery.fronts.grpc.messages import INFERENCE
from hilum.delivery.fronts.inference_protocol import BESIDE, Answered, Inference, blob, described, read_object, respond
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.tensors import BYTES, PIXELS, SIZE, strings
from hilum.delivery.fronts.wire import Reply

MAX_FIELDS: Final = 1000  # of a call, at its outermost: an input, its bytes, a few outputs and parameters
_CONTENTS: Final = {BYTES: "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf; groups (3, 4) are not in these messages
_MODEL_NAME, _MODEL_VERSION = 1, 2


def answer(desk: Desk, content: bytes) -> Reply:
    """Answer a ModelInferRequest; a bad one gets a refusal in JSON, never an exception."""
    return respond(desk, lambda offered: read(content, offered), written)


def addressed(content: bytes) -> tuple[str, str]:
    """The model and the version (empty: any) that a ModelInferRequest names.

    Raises:
        CallError: It is no message of protobuf, or has too many fields.
    """
    found, at, count = {_MODEL_NAME: b"", _MODEL_VERSION: b""}, 0, 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _DELIMITED:
            length, at = _varint(content, at)
            if number in found:
                found[number] = content[at : at + length]
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _damaged("ModelInferRequest")
        count += 1
        if count > MAX_FIELDS:
            raise CallError("too_many", f"the message has more than {MAX_FIELDS} fields", "send one input", 413)
    if at > len(content):
        raise _damaged("ModelInferRequest")
    try:
        return found[_MODEL_NAME].decode(), found[_MODEL_VERSION].decode()
    except UnicodeDecodeError:
        raise _damaged("ModelInferRequest") from None


def parsed(name: str, content: bytes) -> Any:
    """A message of protobuf.

    Raises:
        CallError: It is none.
    """
    try:
        return INFERENCE[name].FromString(content)
    except DecodeError:
        raise _damaged(name) from None


def read(content: bytes, offered: Sequence[str]) -> Inference:
    """A call, understood.

    Args:
        content: A ModelInferRequest.
        offered: Names of the outputs that there are.

    Raises:
        CallError: It is not as the protocol has it.
    """
    message = parsed("ModelInferRequest", content)
    if len(message.inputs) != 1:
        raise CallError("bad_request", f"there are {len(message.inputs)} inputs", "give one input, named image")
    [one] = message.inputs
    rest = _raw(one, list(message.raw_input_contents))
    parameters = {**_parameters(message.parameters), **_parameters(one.parameters)}
    said: dict[str, Any] = {
        "id": message.id or None,
        "parameters": {**{name: parameters.get(name) for name in BESIDE}, "binary_data_output": True},
        "inputs": [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}],
        "outputs": [{"name": output.name} for output in message.outputs] or None,
    }
    said["inputs"][0]["parameters"] = {SIZE: len(rest)}
    return replace(read_object(said, rest, offered), version=message.model_version or None)


def written(answered: Answered) -> tuple[bytes, dict[str, str]]:
    """A ModelInferResponse."""
    head = answered.head
    message = INFERENCE["ModelInferResponse"](
        model_name=head["model_name"], model_version=head["model_version"], id=head.get("id", "")
    )
    for key, value in head["parameters"].items():
        if isinstance(value, float):
            message.parameters[key].double_param = value
        else:
            message.parameters[key].string_param = str(value)
    for name, values in answered.outputs.items():
        message.outputs.add(**described(name, values))
        message.raw_output_contents.append(blob(values))
    return message.SerializeToString(), {"content-type": BINARY}


def _raw(one: Any, raw: list[bytes]) -> bytes:
    """The contents of an input as a binary tensor."""
    typed = [field.name for field, _ in one.contents.ListFields()]
    if raw:
        if typed:
            raise CallError("bad_request", "an input has raw and typed contents", "give one of them")
        if len(raw) != 1:
            raise CallError("bad_request", f"there are {len(raw)} raw contents", "give one, for the one input")
        return raw[0]
    wanted = _CONTENTS.get(one.datatype)
    if wanted is None:
        raise CallError("bad_request", f"datatype {one.datatype[:MAX_NAMED]!r} is not read", "use BYTES, UINT8 or FP32")
    if typed != [wanted]:
        there = ", ".join(typed) or "no contents"
        raise CallError(
            "bad_request", f"{one.datatype} has {there}", f"give {wanted}, or raw_input_contents, and nothing else"
        )
    values = getattr(one.contents, wanted)
    if one.datatype == BYTES:
        return strings(list(values))
    dtype = PIXELS[one.datatype]
    if dtype.kind == "f":
        return np.fromiter(values, dtype, len(values)).tobytes()
    wide = np.fromiter(values, np.uint32, len(values))
    if wide.max(initial=0) > 255:
        raise CallError("bad_request", "UINT8 data are not whole numbers from 0 to 255", "give uint_contents below 256")
    return wide.astype(dtype).tobytes()


def _parameters(given: Any) -> dict[str, Any]:
    """Parameters by name, whatever their type; None where none is set."""
    return {
        name: getattr(one, kind) if (kind := one.WhichOneof("parameter_choice")) else None
        for name, one in given.items()
    }


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of variable length at `at`, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= len(content):
            break
        byte = content[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise _damaged("ModelInferRequest")


def _damaged(name: str) -> CallError:
    return CallError("bad_request", f"the message is no {name}", "send it as the published protocol has it")

"""The Open Inference Protocol, version 2 (KServe, Triton, MLServer): its JSON, its binary tensors, its metadata.

A model is a question: `embeddings`, or the label of a head. It has one input, `image`, in one of two forms:

- datatype BYTES, shape [N]: the bytes of a file each; in JSON as base64, in the binary extension as they are;
- datatype UINT8 (0 to 255) or FP32 (0 to 1), shape [H, W], [N, H, W] or [N, 1, H, W]: decoded grey pixels. Nothing in
  a tensor says what it shows, so the modality is declared: `"parameters": {"modality": "XR"}`.

Outputs: `embedding` FP32 [N, D]; of a label `probability` FP32 [N], `decision` BYTES [N] and `abstention` BYTES [N]
(the reason, empty where there is none). JSON has no NaN: where the model abstains, `probability` is null in JSON, and
NaN in the binary form. A call is answered whole or refused whole: the protocol knows no error of one element.

What goes with every answer stands in `parameters`: version, dossier, engine, gate, threshold, intended use.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum import __version__
from hilum.delivery.card import EMBEDDINGS
from hilum.delivery.desk import Answer, Desk, Request
from hilum.delivery.fronts.asking import BINARY, JSON, MAX_IMAGES, MAX_NAMED, parsed, unbased
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply, dumped, failure, outcome, overrides
from hilum.delivery.predictor import Release
from hilum.errors import ImageError

HEADER_LENGTH: Final = "inference-header-content-length"
SIZE: Final = "binary_data_size"
BYTES: Final = "BYTES"
PIXELS: Final[dict[str, np.dtype[Any]]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
MAX_ELEMENTS: Final = 50_000_000  # pixels of one image, as hilum.data.images has it
_INPUT: Final = 'give one input: {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["BASE64"]}'


@dataclass(frozen=True)
class Inference:
    """What a call asks.

    Attributes:
        requests: One per image.
        outputs: Names of what is wanted, in order.
        binary: Those of them that are wanted in the binary form.
        ident: The caller's own id of the call.
    """

    requests: tuple[Request, ...]
    outputs: tuple[str, ...]
    binary: frozenset[str]
    ident: str | None


def answer(desk: Desk, content: bytes, headers: Mapping[str, str]) -> Reply:
    """Answer a call of `POST /v2/models/QUESTION/infer`; a bad one gets a refusal, never an exception."""
    named = overrides(list(desk.releases.values()))
    try:
        asked = read(content, headers, output_names(desk.question))
    except (CallError, ImageError) as error:
        return _refusal(error, named)
    answers = desk.answer(asked.requests)
    outcomes = tuple(map(outcome, answers))
    for number, one in enumerate(answers):
        if isinstance(one, ImageError):
            return _refusal(one, named, f"image[{number}]: " if len(answers) > 1 else "", outcomes)
    good = [one for one in answers if isinstance(one, Answer)]
    if len({one.values.shape for one in good}) > 1 or len({one.body["model"]["name"] for one in good}) > 1:
        wrong = CallError(
            "bad_request", "the images belong to different releases", "send those of one modality in one call", 422
        )
        return _refusal(wrong, named)
    return _reply(desk, asked, good, named, outcomes)


def output_names(question: str) -> tuple[str, ...]:
    """What a model can give."""
    return ("embedding",) if question == EMBEDDINGS else ("probability", "decision", "abstention")


def read(content: bytes, headers: Mapping[str, str], offered: Sequence[str]) -> Inference:
    """A call, understood.

    Raises:
        CallError: It is not as the protocol has it.
    """
    said, rest = _split(content, headers)
    if not isinstance(said, dict):
        raise CallError("bad_request", "the JSON is not an object", _INPUT)
    inputs = said.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise CallError("bad_request", "inputs is not a list of one object", _INPUT)
    one, parameters = inputs[0], _parameters(said)
    if one.get("name") != "image":
        raise CallError("bad_request", f"there is no input {str(one.get('name'))[:MAX_NAMED]!r}", _INPUT)
    modality = {**parameters, **_parameters(one)}.get("modality")
    if modality is not None and not isinstance(modality, str):
        raise CallError("bad_request", "the parameter modality is not a string", "give XR or MR")
    shape = _shape(one.get("shape"))
    datatype = one.get("datatype")
    raw = _raw(one, rest)
    if datatype == BYTES:
        requests = [Request(item, modality) for item in _items(one, shape, raw)]
    elif isinstance(datatype, str) and datatype in PIXELS:
        if modality is None:
            raise CallError(
                "bad_request", "a tensor does not say its modality", 'declare it: "parameters": {"modality": "XR"}', 422
            )
        images = _pixels(one, shape, PIXELS[datatype], raw)
        requests = [Request(b"", modality, pixels=image) for image in images]
    else:
        raise CallError(
            "bad_request", f"datatype {str(datatype)[:MAX_NAMED]!r} is not read", "use BYTES, UINT8 or FP32"
        )
    names, binary = _wanted(said.get("outputs"), offered, bool(parameters.get("binary_data_output", False)))
    ident = said.get("id")
    return Inference(tuple(requests), names, binary, ident if isinstance(ident, str) else None)


def server_metadata() -> dict[str, Any]:
    """GET /v2."""
    return {"name": "hilum", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(question: str, releases: Sequence[Release]) -> dict[str, Any]:
    """GET /v2/models/QUESTION."""
    answering = [release for release in releases if release.answers(question)]
    dim = answering[0].card.dim if len({release.card.dim for release in answering}) == 1 else -1
    outputs = [
        {"name": name, "datatype": "FP32" if name in ("embedding", "probability") else BYTES, "shape": [-1]}
        for name in output_names(question)
    ]
    if question == EMBEDDINGS:
        outputs[0]["shape"] = [-1, dim]
    return {
        "name": question,
        "versions": [release.card.version for release in answering],
        "platform": "hilum_onnx",
        "inputs": [{"name": "image", "datatype": BYTES, "shape": [-1]}],
        "outputs": outputs,
        "releases": [
            {
                "name": release.card.name,
                "version": release.card.version,
                "modality": release.card.modality,
                "dossier": release.short_id,
                "gate": release.card.gate.model_dump(mode="json"),
                "intended_use": release.card.intended_use,
            }
            for release in answering
        ],
    }


def _split(content: bytes, headers: Mapping[str, str]) -> tuple[Any, bytes]:
    """The JSON of a call, and the binary tensors after it."""
    stated = headers.get(HEADER_LENGTH)
    if stated is None:
        return parsed(content), b""
    length = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 12 else -1
    if not 0 < length <= len(content):
        raise CallError(
            "bad_request", "Inference-Header-Content-Length does not lie in the body", "give the length of the JSON"
        )
    return parsed(content[:length]), content[length:]


def _parameters(said: Mapping[str, Any]) -> dict[str, Any]:
    found = said.get("parameters", {})
    if not isinstance(found, dict):
        raise CallError("bad_request", "parameters is not an object", 'give {"modality": "XR"} or nothing')
    return found


def _shape(given: Any) -> tuple[int, ...]:
    whole = isinstance(given, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in given)
    if not whole or not 1 <= len(given) <= 4 or any(one < 1 for one in given):
        raise CallError("bad_request", "shape is not a list of one to four positive numbers", _INPUT)
    if np.prod([float(one) for one in given]) > MAX_ELEMENTS * 4.0:
        raise CallError("too_large", "the shape has more elements than are read", "send fewer or smaller images", 413)
    return tuple(given)


def _raw(one: Mapping[str, Any], rest: bytes) -> bytes | None:
    """The binary data of an input; None where it has its data in JSON."""
    size = _parameters(one).get(SIZE)
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
            raise CallError("bad_request", f"data is not a list of {count}, as the shape says", _INPUT)
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


def _wanted(asked: Any, offered: Sequence[str], binary: bool) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of the outputs, and which of them in binary."""
    if asked is None:
        return tuple(offered), frozenset(offered if binary else ())
    right = f"ask for {', '.join(offered)}"
    if not isinstance(asked, list) or not asked or not all(isinstance(one, dict) for one in asked):
        raise CallError("bad_request", "outputs is not a list of objects", right)
    names = [one.get("name") for one in asked]
    for name in names:
        if name not in offered:
            raise CallError("bad_request", f"there is no output {str(name)[:MAX_NAMED]!r}", right)
    in_binary = {name for name, one in zip(names, asked, strict=True) if _parameters(one).get("binary_data", binary)}
    return tuple(dict.fromkeys(names)), frozenset(in_binary)


def _reply(
    desk: Desk, asked: Inference, answers: Sequence[Answer], named: Mapping[str, str], outcomes: tuple[str, ...]
) -> Reply:
    body = answers[0].body
    outputs, blobs = [], []
    for name in asked.outputs:
        values = _output(name, answers)
        said: dict[str, Any] = {"name": name, "datatype": BYTES if isinstance(values, list) else "FP32"}
        said["shape"] = [len(values)] if isinstance(values, list) else list(values.shape)
        if name in asked.binary:
            blob = _strings(values) if isinstance(values, list) else values.astype("<f4").tobytes()
            said["parameters"] = {SIZE: len(blob)}
            blobs.append(blob)
        elif isinstance(values, list):
            said["data"] = values
        else:
            said["data"] = [None if np.isnan(one) else float(str(one)) for one in values.reshape(-1)]
        outputs.append(said)
    model = body["model"]
    told: dict[str, Any] = {"release": model["name"], "dossier": body["dossier"], "engine": body["engine"]["name"]}
    told |= {"precision": body["engine"]["precision"], "gate": body["gate"]["verdict"], "modality": body["modality"]}
    if body["gate"]["override"]:
        told["override"] = json.dumps(body["gate"]["override"], ensure_ascii=False)
    if "threshold" in body:
        told["threshold"] = body["threshold"]
    told["intended_use"] = body["intended_use"]
    document = {"model_name": desk.question, "model_version": model["version"], "outputs": outputs, "parameters": told}
    if asked.ident is not None:
        document["id"] = asked.ident
    head = dumped(document)
    if not blobs:
        return Reply(200, head, JSON, dict(named), outcomes)
    return Reply(200, head + b"".join(blobs), BINARY, {**named, HEADER_LENGTH: str(len(head))}, outcomes)


def _output(name: str, answers: Sequence[Answer]) -> NDArray[np.float32] | list[str]:
    if name == "embedding":
        return np.stack([one.values for one in answers])
    if name == "probability":
        return np.concatenate([one.values for one in answers])
    if name == "decision":
        return [one.body["decision"] for one in answers]
    return [(one.body["abstention"] or {}).get("reason", "") for one in answers]


def _strings(values: Sequence[str]) -> bytes:
    return b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in values)


def _refusal(
    error: CallError | ImageError, named: Mapping[str, str], where: str = "", outcomes: tuple[str, ...] = ()
) -> Reply:
    """As the protocol has it, `error`, and as hilum's other answers have it."""
    said = failure(error)
    said["message"] = where + said["message"]
    body = dumped({"error": f"{said['message']}; {said['right']}", **said})
    return Reply(said["status"], body, JSON, dict(named), outcomes or (f"refused:{said['code']}",))

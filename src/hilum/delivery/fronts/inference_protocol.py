"""The Open Inference Protocol, version 2 (KServe, Triton, MLServer): its JSON, its binary tensors, its metadata.

A model is a question: `embeddings`, or the label of a head. It has one input, `image`, in one of two forms:

- datatype BYTES, shape [N]: the bytes of a file each; in JSON as base64, in the binary extension as they are;
- datatype UINT8 (0 to 255) or FP32 (0 to 1), shape [H, W], [N, H, W] or [N, 1, H, W]: decoded grey pixels. Nothing in
  a tensor says what it shows, so the modality is declared: `"parameters": {"modality": "XR"}`.

Covariates, where the head fuses some, are the parameter `covariates`, a string of JSON: an object for all images, or a
list with one for each.

Outputs: `embedding` FP32 [N, D]; of a label `probability` FP32 [N], and as BYTES [N] `decision`, `abstention` (the
reason, empty where there is none) and `meaning` (what the number says, in words). JSON has no NaN: where the model
abstains, `probability` is null in JSON, and NaN in the binary form. A call is answered whole or refused whole: the
protocol knows no error of one element.

What goes with every answer stands in `parameters`: version, dossier, engine, gate, threshold, intended use.

The same call over gRPC is a message of protobuf (fronts.grpc); it is turned into what the JSON says, and answered by
the same rules. A worker knows it by a header that the front sets; its name has a blank, so that no HTTP call has it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum import __version__
from hilum.delivery.card import EMBEDDINGS
from hilum.delivery.desk import Answer, Desk, Request
from hilum.delivery.fronts import tensors
from hilum.delivery.fronts.asking import BINARY, JSON, MAX_NAMED, covariates, parsed
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.tensors import BYTES, ONE_INPUT, SIZE, parameters
from hilum.delivery.fronts.wire import Reply, dumped, failure, of_refusal, outcome, overrides
from hilum.delivery.predictor import Release
from hilum.errors import ImageError

HEADER_LENGTH: Final = "inference-header-content-length"
PROTOBUF: Final = "grpc message"  # a call with this header is a message of gRPC, and so is its answer
BESIDE: Final = ("modality", "covariates")  # parameters that go along with an image
Values = NDArray[np.float32] | list[str]


@dataclass(frozen=True)
class Inference:
    """What a call asks.

    Attributes:
        requests: One per image.
        outputs: Names of what is wanted, in order.
        binary: Those of them that are wanted in the binary form.
        ident: The caller's own id of the call.
        version: Of the release that is to answer; any where None.
    """

    requests: tuple[Request, ...]
    outputs: tuple[str, ...]
    binary: frozenset[str]
    ident: str | None
    version: str | None = None


@dataclass(frozen=True)
class Answered:
    """What goes back to a call that is answered, in no form yet.

    Attributes:
        head: model_name, model_version, parameters, and the caller's id where there is one.
        outputs: Numbers or words by the names that were asked for.
        asked: The call.
    """

    head: dict[str, Any]
    outputs: dict[str, Values]
    asked: Inference


def answer(desk: Desk, content: bytes, headers: Mapping[str, str]) -> Reply:
    """Answer a call of `POST /v2/models/QUESTION/infer`; a bad one gets a refusal, never an exception."""
    if PROTOBUF in headers:
        from hilum.delivery.fronts.grpc import form  # protobuf is loaded where somebody speaks it

        return form.answer(desk, content)
    return respond(desk, lambda offered: read(content, headers, offered), _written)


def respond(
    desk: Desk, read: Callable[[Sequence[str]], Inference], write: Callable[[Answered], tuple[bytes, dict[str, str]]]
) -> Reply:
    """Answer a call of any form of the protocol.

    Args:
        desk: Of the model.
        read: Understands the call, told the outputs that there are; raises CallError.
        write: Makes the body of the answer, and headers; the content type is among them where it is not JSON.
    """
    named = overrides(list(desk.releases.values()))
    try:
        asked = read(output_names(desk.question))
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
    head = _head(desk.question, good[0].body, asked.ident)
    if asked.version not in (None, head["model_version"]):
        return _refusal(other_version(desk.question, str(asked.version), [head["model_version"]]), named)
    body, headers = write(Answered(head, {name: _output(name, good) for name in asked.outputs}, asked))
    return Reply(200, body, headers.pop("content-type", JSON), {**named, **headers}, outcomes)


def other_version(question: str, asked: str, there: Sequence[str]) -> CallError:
    """404 for a version of a model that there is not."""
    wrong = f"{question} has no version {asked[:MAX_NAMED]!r} for this"
    return CallError("unknown_model", wrong, f"ask for {' or '.join(there)}, or for none in particular", 404)


def output_names(question: str) -> tuple[str, ...]:
    """What a model can give."""
    return ("embedding",) if question == EMBEDDINGS else ("probability", "decision", "abstention", "meaning")


def read(content: bytes, headers: Mapping[str, str], offered: Sequence[str]) -> Inference:
    """A call in JSON, with binary tensors after it or without, understood.

    Raises:
        CallError: It is not as the protocol has it.
    """
    return read_object(*_split(content, headers), offered)


def read_object(said: Any, rest: bytes, offered: Sequence[str]) -> Inference:
    """A call as JSON has it, understood.

    Args:
        said: The JSON.
        rest: Binary tensors; none where empty.
        offered: Names of the outputs that there are.

    Raises:
        CallError: It is not as the protocol has it.
    """
    if not isinstance(said, dict):
        raise CallError("bad_request", "the JSON is not an object", ONE_INPUT)
    inputs = said.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise CallError("bad_request", "inputs is not a list of one object", ONE_INPUT)
    one, common = inputs[0], parameters(said)
    if one.get("name") != "image":
        raise CallError("bad_request", f"there is no input {str(one.get('name'))[:MAX_NAMED]!r}", ONE_INPUT)
    beside = {**common, **parameters(one)}
    modality = beside.get("modality")
    if modality is not None and not isinstance(modality, str):
        raise CallError("bad_request", "the parameter modality is not a string", "give XR or MR")
    requests = _measured(tensors.requests(one, rest, modality), beside.get("covariates"))
    names, binary = _wanted(said.get("outputs"), offered, bool(common.get("binary_data_output", False)))
    ident = said.get("id")
    return Inference(requests, names, binary, ident if isinstance(ident, str) else None)


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


def _measured(requests: Sequence[Request], value: Any) -> tuple[Request, ...]:
    """Requests with their covariates: the same for all, or one of a list for each."""
    given = parsed(value.encode()) if isinstance(value, str) else value
    each = given if isinstance(given, list) else [given] * len(requests)
    if len(each) != len(requests):
        wrong = f"there are covariates for {len(each)} images, and {len(requests)} images"
        raise CallError("bad_request", wrong, "give one object for all images, or a list with one for each")
    return tuple(replace(one, covariates=covariates(its)) for one, its in zip(requests, each, strict=True))


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
    in_binary = {name for name, one in zip(names, asked, strict=True) if parameters(one).get("binary_data", binary)}
    return tuple(dict.fromkeys(names)), frozenset(in_binary)


def _head(question: str, body: Mapping[str, Any], ident: str | None) -> dict[str, Any]:
    model = body["model"]
    told: dict[str, Any] = {"release": model["name"], "dossier": body["dossier"], "engine": body["engine"]["name"]}
    told |= {"precision": body["engine"]["precision"], "gate": body["gate"]["verdict"], "modality": body["modality"]}
    if body["gate"]["override"]:
        told["override"] = json.dumps(body["gate"]["override"], ensure_ascii=False)
    if "threshold" in body:
        told["threshold"] = body["threshold"]
    told["intended_use"] = body["intended_use"]
    head = {"model_name": question, "model_version": model["version"], "parameters": told}
    return head if ident is None else {**head, "id": ident}


def _output(name: str, answers: Sequence[Answer]) -> Values:
    if name == "embedding":
        return np.stack([one.values for one in answers])
    if name == "probability":
        return np.concatenate([one.values for one in answers])
    if name in ("decision", "meaning"):
        return [one.body[name] for one in answers]
    return [(one.body["abstention"] or {}).get("reason", "") for one in answers]


def blob(values: Values) -> bytes:
    """An output as binary data."""
    if isinstance(values, list):
        return tensors.strings([one.encode() for one in values])
    return values.astype("<f4").tobytes()


def described(name: str, values: Values) -> dict[str, Any]:
    """Name, datatype and shape of an output."""
    words = isinstance(values, list)
    return {
        "name": name,
        "datatype": BYTES if words else "FP32",
        "shape": [len(values)] if isinstance(values, list) else list(values.shape),
    }


def _written(answered: Answered) -> tuple[bytes, dict[str, str]]:
    """An answer as JSON, with binary tensors after it where they are wanted."""
    outputs, blobs = [], []
    for name, values in answered.outputs.items():
        said = described(name, values)
        if name in answered.asked.binary:
            blobs.append(blob(values))
            said["parameters"] = {SIZE: len(blobs[-1])}
        elif isinstance(values, list):
            said["data"] = values
        else:
            said["data"] = [None if np.isnan(one) else float(str(one)) for one in values.reshape(-1)]
        outputs.append(said)
    head = dumped({**answered.head, "outputs": outputs})
    if not blobs:
        return head, {}
    return head + b"".join(blobs), {"content-type": BINARY, HEADER_LENGTH: str(len(head))}


def _refusal(
    error: CallError | ImageError, named: Mapping[str, str], where: str = "", outcomes: tuple[str, ...] = ()
) -> Reply:
    """As the protocol has it, `error`, and as hilum's other answers have it."""
    said = failure(error)
    said["message"] = where + said["message"]
    body = dumped({"error": f"{said['message']}; {said['right']}", **said})
    return Reply(said["status"], body, JSON, dict(named), outcomes or (of_refusal(error),))

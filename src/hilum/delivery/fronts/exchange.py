"""Between TorchServe's rows and the desk: what a request holds, and how an answer or a refusal goes back.

A refusal is the affair of its own row: raising would fail the whole batch. TorchServe's context is known by its shape
alone, so that nothing here imports it.

Answers are JSON, or, where the request accepts application/octet-stream, little-endian float32 values with x-dtype,
x-shape, x-model, x-dossier and x-gate headers, and x-mitigation where the probability is of a head that was fitted with
one (JSON says so under `mitigation`). Errors are JSON: {"code", "error", "right"}.

Where a release stands under an override, every answer says so: in its JSON under `gate`, and, refusals and bare numbers
included, in the headers x-override-by, -on and -reason (percent-encoded UTF-8; one per release, separated by commas).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from hilum.delivery.card import Mitigated
from hilum.delivery.desk import Answer, Desk, Refusal, Request
from hilum.errors import ImageError, ImageFault

STATUS: Final[dict[ImageFault, int]] = {
    "empty": 400,
    "too_large": 413,
    "unsupported": 415,
    "corrupt": 422,
    "refused": 422,
}
_RIGHT: Final[dict[ImageFault, str]] = {
    "empty": "send the bytes of one PNG, JPEG or DICOM image as the body, or as the field `data` of a multipart form",
    "too_large": "send the image at the size at which it was taken, not enlarged",
    "unsupported": "send the bytes of one PNG, JPEG or DICOM image",
    "corrupt": "send the whole file, unchanged",
    "refused": "send a single image of a kind that the model was trained on",
}
_BINARY: Final = "application/octet-stream"
Row = Mapping[str, Any]


class Context(Protocol):
    """The part of TorchServe's context that the handlers use."""

    system_properties: Mapping[str, Any]
    model_yaml_config: Mapping[str, Any] | None

    def get_all_request_header(self, idx: int) -> Mapping[str, object]:
        """The headers of request `idx`; names keep the case in which the client sent them."""

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        """Set the status of the answer to request `idx`."""

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of the answer to request `idx`."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of the answer to request `idx`."""


def open_desk(context: Context, question: str) -> Desk:
    """The desk of a model archive, loaded and proven; the section `handler` of its model-config.yaml sets it up.

    Args:
        context: TorchServe's context.
        question: What is answered where the settings do not name the `question`.
    """
    settings = (context.model_yaml_config or {}).get("handler") or {}
    releases = Path(context.system_properties["model_dir"]) / "releases"
    return Desk.load(
        sorted(path for path in releases.iterdir() if path.is_dir()),
        str(settings.get("question", question)),
        int(settings.get("threads", 1)),
    )


def respond(desk: Desk, rows: Sequence[Row], context: Context) -> list[str | bytes]:
    """Answer a batch of TorchServe rows: one body each, status and headers set on the context."""
    requests, refused = [], {}
    for number, row in enumerate(rows):
        try:
            requests.append(Request(_content(row), _modality(row, context, number)))
        except ImageError as error:
            refused[number] = error
    answers = iter(desk.answer(requests))
    bodies: list[str | bytes] = []
    for number in range(len(rows)):
        answer = refused[number] if number in refused else next(answers)
        bodies.append(_body(answer, context, number))
        for key, value in _overrides(desk, answer).items():
            context.set_response_header(number, key, value)
    return bodies


def _overrides(desk: Desk, answer: Answer | ImageError) -> dict[str, str]:
    """Headers that name the overrides under which an answer is given; for a refusal, those of the whole desk."""
    cards = [release.card for release in desk.releases.values()]
    if isinstance(answer, Answer):
        cards = [card for card in cards if card.name == answer.body["model"]["name"]]
    found = [card.gate.override for card in cards if card.gate.override is not None]
    return {
        f"x-override-{part}": ",".join(quote(getattr(one, part), safe=" ") for one in found)
        for part in ("by", "on", "reason")
        if found
    }


def _content(row: Row) -> bytes:
    """The image's bytes: the body, or the field `data` of a form; a broken form arrives as an empty row."""
    given = next((row[key] for key in ("data", "body") if row.get(key) is not None), b"")
    if isinstance(given, bytes | bytearray):
        return bytes(given)
    if given == "":
        return b""
    # TorchServe parses JSON bodies to dicts and decodes text bodies to str.
    raise ImageError("the body is text or JSON, not an image; PNG, JPEG or DICOM bytes were expected", "unsupported")


def _modality(row: Row, context: Context, number: int) -> str | None:
    """What the field `modality` of a form, or the header X-Modality, declares; TorchServe passes no query on."""
    named = row.get("modality")
    if named is None:
        return _header(context, number, "X-Modality")
    return bytes(named).decode("utf-8", "replace") if isinstance(named, bytes | bytearray) else str(named)


def _header(context: Context, number: int, name: str) -> str | None:
    """A header by its name, which the client may have written in any case."""
    sent = context.get_all_request_header(number)
    return next((str(value) for key, value in sent.items() if key.lower() == name.lower()), None)


def _body(answer: Answer | ImageError, context: Context, number: int) -> str | bytes:
    if isinstance(answer, ImageError):
        return _failure(answer, context, number)
    if _BINARY in (_header(context, number, "Accept") or ""):
        context.set_response_content_type(number, _BINARY)
        model = answer.body["model"]
        for key, value in {
            "x-dtype": "<f4",
            "x-shape": str(len(answer.values)),
            "x-model": f"{model['name']}/{model['version']}",
            "x-dossier": answer.body["dossier"],
            "x-gate": answer.body["gate"]["verdict"],
        }.items():
            context.set_response_header(number, key, value)
        if treated := answer.body.get("mitigation"):
            context.set_response_header(number, "x-mitigation", quote(str(Mitigated(**treated)), safe=" "))
        return answer.values.astype("<f4").tobytes()
    context.set_response_content_type(number, "application/json")
    return json.dumps(answer.body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _failure(error: ImageError, context: Context, number: int) -> str:
    code = STATUS[error.fault]
    context.set_response_status(code, "", number)
    context.set_response_content_type(number, "application/json")
    wrong, right = (error.wrong, error.right) if isinstance(error, Refusal) else (str(error), _RIGHT[error.fault])
    return json.dumps({"code": code, "error": wrong, "right": right}, separators=(",", ":"), ensure_ascii=False)

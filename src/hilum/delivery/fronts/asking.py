"""What an HTTP call asks, image by image.

A call holds one image or many: the body itself; parts `data` of a multipart form; or base64 in JSON, as
`{"image": ...}` or `{"images": [{"image": ...}, ...]}`. What is asked beside the answer (modality, covariates,
neighbours, saliency, seen) stands in the form or the JSON, else in the query, else in headers (X-Modality and so on).
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hilum.delivery.answering.neighbours import MAX_ASKED
from hilum.delivery.desk import Request
from hilum.delivery.fronts import forms
from hilum.delivery.fronts.refusals import CallError

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
MULTIPART: Final = "multipart/form-data"
# What curl and browsers say of a body that they do not know.
RAW: Final = ("", BINARY, "application/x-www-form-urlencoded", "application/dicom", "application/gzip", "text/plain")
MAX_IMAGES: Final = 64  # of one call; `hilum predict` is there for more
MAX_NAMED: Final = 40  # characters of the caller's own words that a message repeats
_BESIDE: Final = ("modality", "covariates", "neighbours", "saliency", "seen")  # see _TAKEN
_KEYS: Final = {"image", *_BESIDE}
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_STANDARD: Final = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class Call:
    """One HTTP call.

    Attributes:
        content: The body.
        headers: Names in lower case.
        query: Of the URL; the last of several values.
        form: Parts of a multipart body that the server has taken apart already, by name; None where it has not.
    """

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, Sequence[bytes]] | None = None


def parsed(content: bytes) -> Any:
    """JSON of a body.

    Raises:
        CallError: It is none, or nested too deep.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise CallError(
            "bad_request", "the JSON is nested too deep", "send an object with an image in base64"
        ) from None
    except ValueError as error:  # UnicodeDecodeError is one too
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise CallError(
            "bad_request", f"the body is not JSON, though its Content-Type says so{where}", "send valid JSON in UTF-8"
        ) from None


def unbased(value: Any, what: str = "image") -> bytes:
    """The bytes of a base64 string, of either alphabet.

    Raises:
        CallError: It is none.
    """
    if not isinstance(value, str):
        raise CallError("bad_request", f"{what} is not a string", f"give {what} as base64 of the file's bytes")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text.translate(_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        raise CallError(
            "bad_request", f"{what} is not base64", f"give {what} as base64 of the file's bytes, without line breaks"
        ) from None


def requests(call: Call) -> tuple[list[Request], bool]:
    """What a call asks, image by image, and whether it asks for many.

    Raises:
        CallError: It cannot be understood.
    """
    kind = call.headers.get("content-type", "").split(";")[0].strip().lower()
    outer = _outer(call)
    if call.form is not None or kind == MULTIPART:
        form = call.form if call.form is not None else forms.parse(call.content, call.headers["content-type"])
        return _from_form(form, outer)
    if kind == JSON:
        return _from_json(parsed(call.content), outer)
    if kind in RAW or kind.startswith("image/"):
        return [Request(call.content, **outer)], False
    raise CallError(
        "unsupported",
        f"a body of type {kind[:MAX_NAMED]} is not read",
        f"send the image's bytes as {BINARY}, a form as {MULTIPART}, or base64 as {JSON}",
        415,
    )


def _outer(call: Call) -> dict[str, Any]:
    """What the query, or else a header, asks."""
    headers = {key: call.headers[f"x-{key}"] for key in _BESIDE if f"x-{key}" in call.headers}
    return _options(headers) | _options({key: call.query[key] for key in _BESIDE if key in call.query})


def _from_form(form: Mapping[str, Sequence[bytes]], outer: dict[str, Any]) -> tuple[list[Request], bool]:
    contents = [content for name in ("data", "image", "body") for content in form.get(name, ())]
    if strange := sorted(set(form) - _KEYS - {"data", "body"}):
        raise CallError(
            "bad_request",
            f"the form has a field {strange[0][:MAX_NAMED]!r}, which means nothing here",
            "name images `data`; beside them there may be modality, covariates, neighbours, saliency and seen",
        )
    options = outer | _options({key: _text(form[key][-1], key) for key in form if key in _BESIDE})
    _count(len(contents))
    return [Request(content, **options) for content in contents or [b""]], len(contents) > 1


def _from_json(said: Any, outer: dict[str, Any]) -> tuple[list[Request], bool]:
    right = 'send {"image": "BASE64"}, or {"images": [{"image": "BASE64"}, ...]}'
    if not isinstance(said, dict):
        raise CallError("bad_request", "the JSON is not an object", right)
    if "images" not in said:
        return [_from_object(said, outer, right)], False
    images = said["images"]
    if strange := sorted(set(said) - {"images", *_BESIDE}):
        raise CallError("bad_request", f"{strange[0][:MAX_NAMED]!r} means nothing beside images", right)
    common = outer | _options(said)
    if not isinstance(images, list) or not images:
        raise CallError("bad_request", "images is not a list with something in it", right)
    _count(len(images))
    found: list[Request] = []
    for number, one in enumerate(images):
        if not isinstance(one, dict):
            raise CallError("bad_request", f"images[{number}] is not an object", right)
        found.append(_from_object(one, common, right, f"images[{number}]."))
    return found, True


def _from_object(said: Mapping[str, Any], outer: dict[str, Any], right: str, where: str = "") -> Request:
    if strange := sorted(set(said) - _KEYS):
        raise CallError("bad_request", f"{where}{strange[0][:MAX_NAMED]} means nothing here", right)
    if "image" not in said:
        raise CallError("bad_request", f"{where}image is missing", right)
    return Request(unbased(said["image"], f"{where}image"), **outer | _options(said))


def _options(said: Mapping[str, Any]) -> dict[str, Any]:
    """What one place asks beside the answer, as `Request` has it.

    Raises:
        CallError: Something of it is malformed, whether or not a place nearer to the image overrules it.
    """
    return {key: taken(said[key], key) for key, taken in _TAKEN.items() if key in said}


def _modality(value: Any, _: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise CallError("bad_request", "modality is not a string", "give XR or MR, or leave it out")
    return value


def _covariates(value: Any, _: str) -> dict[str, float | None] | None:
    return covariates(value)


def _number(value: Any, _: str) -> int:
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 6 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows no difference
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CallError("bad_request", "neighbours is not a whole number", f"ask for 1 to {MAX_ASKED}, or for none")
    if value > MAX_ASKED:
        wrong = f"more than {MAX_ASKED} neighbours were asked for"
        raise CallError("bad_request", wrong, f"ask for {MAX_ASKED} at most")
    return value


def _flag(value: Any, key: str) -> bool:
    if isinstance(value, str):
        value = {**dict.fromkeys(_YES, True), **dict.fromkeys(_NO, False)}.get(value.strip().lower())
    if not isinstance(value, bool):
        raise CallError("bad_request", f"{key} is neither true nor false", f"give {key} as true, or leave it out")
    return value


def covariates(value: Any) -> dict[str, float | None] | None:
    """Numbers by name, None where missing, of an object or of one in JSON; None where there are none.

    Raises:
        CallError: They are something else.
    """
    right = 'give covariates as an object of numbers, null where unknown: {"age_years": 61, "o2_saturation_pct": null}'
    if isinstance(value, str):
        value = parsed(value.encode())
    if value is None:
        return None
    if not isinstance(value, dict):
        raise CallError("bad_request", "covariates is not an object", right)
    for name, number in value.items():
        is_number = isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < 1e12
        if number is not None and not is_number:  # NaN and infinity fail the comparison
            raise CallError("bad_request", f"the covariate {name[:MAX_NAMED]!r} is not a number", right)
    return {name: None if number is None else float(number) for name, number in value.items()}


def _text(value: bytes, key: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CallError("bad_request", f"the field {key} is not text in UTF-8", f"send {key} as plain text") from None


def _count(number: int) -> None:
    if number > MAX_IMAGES:
        raise CallError(
            "too_many",
            f"the call holds {number} images, and at most {MAX_IMAGES} are answered at once",
            "send several calls, or use `hilum predict`",
            413,
        )


_TAKEN: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "modality": _modality,
    "covariates": _covariates,
    "neighbours": _number,
    "saliency": _flag,
    "seen": _flag,
}

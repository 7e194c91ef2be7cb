"""One HTTP call in bytes and headers, its answer in bytes and headers: what every front has in common.

An answer is JSON, or numbers alone where the call accepts them: `application/octet-stream` (little-endian float32, its
shape in a header) or `application/x-npy`. A refusal is JSON: {"code", "status", "message", "right"}. Of many images in
JSON each has its own answer or refusal; numbers alone are given for all of them or for none.

Where a release stands under an override, every answer says so: in its JSON under `gate`, and, refusals and bare numbers
included, in the headers x-override-by, -on and -reason (percent-encoded UTF-8; one per release, separated by commas).

Nothing here knows a server: TorchServe's handlers and the maintained front both come here, and tests do too.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.delivery.answering.routing import Refusal
from hilum.delivery.card import Mitigated, ReleaseCard
from hilum.delivery.desk import Answer, Desk
from hilum.delivery.fronts import asking, forms
from hilum.delivery.fronts.asking import BINARY, JSON, MAX_NAMED, Call
from hilum.delivery.fronts.refusals import STATUS, CallError, right_of
from hilum.errors import ImageError

NPY: Final = "application/x-npy"


@dataclass(frozen=True)
class Reply:
    """What goes back.

    Attributes:
        status: Of HTTP.
        body: JSON, or numbers.
        content_type: Of the body.
        headers: Others, names in lower case.
        outcomes: For counters, one per image: `answered`, `abstained:REASON` or `refused:CODE`; or `declined:CODE` for
            a call that is refused as a whole, whatever images it held.
    """

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    outcomes: tuple[str, ...] = ()


def answer(desk: Desk, call: Call) -> Reply:
    """Answer a call; a bad one gets a refusal, never an exception."""
    try:
        accepted = _accepted(call.headers.get("accept", ""))
        requests, many = asking.requests(call)
    except CallError as error:
        return refusal(error, overrides(list(desk.releases.values())))
    answers = desk.answer([replace(one, bare=accepted != JSON) for one in requests])
    outcomes = tuple(map(outcome, answers))
    said = _override_headers(desk, answers)
    if not many and isinstance(answers[0], ImageError):
        return refusal(answers[0], said)
    if accepted != JSON:
        return _bare(answers, many, accepted, said, outcomes)
    bodies = [failure(one) if isinstance(one, ImageError) else one.body for one in answers]
    return Reply(200, dumped({"answers": bodies} if many else bodies[0]), JSON, said, outcomes)


def refusal(error: CallError | ImageError, headers: Mapping[str, str] | None = None) -> Reply:
    """The reply to a call that is refused as a whole."""
    said = failure(error)
    extra = error.headers if isinstance(error, CallError) else {}
    return Reply(said["status"], dumped(said), JSON, {**(headers or {}), **extra}, (of_refusal(error),))


def failure(error: CallError | ImageError) -> dict[str, Any]:
    """What a refusal says."""
    if isinstance(error, CallError):
        return {"code": error.code, "status": error.status, "message": error.message, "right": error.right}
    message, right = (error.wrong, error.right) if isinstance(error, Refusal) else (str(error), right_of(error.fault))
    return {"code": error.fault, "status": STATUS[error.fault], "message": message, "right": right}


def outcome(answered: Answer | ImageError) -> str:
    """What became of an image, for counters."""
    if isinstance(answered, ImageError):
        return of_refusal(answered)
    abstention = answered.body.get("abstention")
    return f"abstained:{abstention['reason']}" if abstention else "answered"


def of_refusal(error: CallError | ImageError) -> str:
    """The outcome of a refusal: of a call, or of an image."""
    return f"declined:{error.code}" if isinstance(error, CallError) else f"refused:{error.fault}"


def overrides(releases: Sequence[Any]) -> dict[str, str]:
    """Headers that name the overrides under which releases stand."""
    cards: list[ReleaseCard] = [release.card for release in releases]
    return forms.override_headers([card.gate.override for card in cards if card.gate.override is not None])


def dumped(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _accepted(accept: str) -> str:
    """The form of answer that a call accepts: the first that is named, JSON where anything will do.

    Raises:
        CallError: It accepts none that there is.
    """
    named = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    for one in named:
        if one in (BINARY, NPY, JSON):
            return one
    if not accept.strip() or any(one in ("*/*", "application/*") for one in named):
        return JSON
    raise CallError(
        "not_acceptable",
        f"an answer as {accept[:MAX_NAMED].strip()} is not made",
        f"accept {JSON}, {BINARY} or {NPY}",
        406,
    )


def _bare(
    answers: Sequence[Answer | ImageError],
    many: bool,
    accepted: str,
    said: Mapping[str, str],
    outcomes: tuple[str, ...],
) -> Reply:
    """Numbers alone; abstentions are NaN, which floats have and JSON has not."""
    good = [one for one in answers if isinstance(one, Answer)]
    for number, one in enumerate(answers):
        if isinstance(one, ImageError):
            told = failure(one)
            told["message"] = f"image {number} of {len(answers)}: {told['message']}"
            return Reply(told["status"], dumped(told), JSON, said, outcomes)
    if len({one.values.shape for one in good}) > 1:
        wrong = "the answers differ in shape, and numbers alone are one array"
        return refusal(
            CallError("not_acceptable", wrong, f"accept {JSON}, or send these images in several calls", 406), said
        )
    values: NDArray[np.float32] = np.stack([one.values for one in good]) if many else good[0].values
    body = good[0].body
    model = {f"{one.body['model']['name']}/{one.body['model']['version']}": one.body["dossier"] for one in good}
    headers = {
        **said,
        "x-dtype": "<f4",
        "x-shape": ",".join(map(str, values.shape)),
        "x-model": ",".join(model),
        "x-dossier": ",".join(model.values()),
        "x-gate": ",".join(dict.fromkeys(one.body["gate"]["verdict"] for one in good)),
        "x-outcome": ",".join(outcomes),
    }
    if treated := body.get("mitigation"):
        headers["x-mitigation"] = forms.quoted(str(Mitigated(**treated)))
    return Reply(200, _npy(values) if accepted == NPY else values.astype("<f4").tobytes(), accepted, headers, outcomes)


def _npy(values: NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values.astype("<f4"), allow_pickle=False)
    return stream.getvalue()


def _override_headers(desk: Desk, answers: Sequence[Answer | ImageError]) -> dict[str, str]:
    """For an answer those of its release; for a refusal those of the whole desk."""
    releases = list(desk.releases.values())
    if all(isinstance(one, Answer) for one in answers):
        names = {one.body["model"]["name"] for one in answers if isinstance(one, Answer)}
        releases = [release for release in releases if release.card.name in names]
    return overrides(releases)

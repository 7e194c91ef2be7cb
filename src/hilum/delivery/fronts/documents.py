"""What the maintained front says without a worker: health, metadata, its API, its page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette

from hilum.delivery.answering.covariates import ending_of
from hilum.delivery.card import EMBEDDINGS
from hilum.delivery.fronts import asgi, inference_protocol, openapi, wire
from hilum.delivery.fronts.asgi import House
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply

WEB: Final = Path(__file__).parent / "web"
PAGE: Final = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
OPEN: Final = ("/about.json", "/openapi.json", "/v2/health/live", "/v2/health/ready")  # to callers without a token


def application(house: House) -> Starlette:
    """The application for callers, with all its documents and pages."""
    return asgi.predictions(house, page_files(), DOCUMENTS, OPEN)


def page_files() -> dict[str, tuple[str, bytes]]:
    """The files of the web page by path: content type and bytes."""
    found = {f"/{name}": (kind, (WEB / name).read_bytes()) for name, kind in PAGE.items()}
    return {"/": found["/page.html"], **found}


def _about(house: House) -> dict[str, Any]:
    """What the page must know before anybody has shown a token: nothing that a caller without one may not."""
    return {
        "models": list(house.questions),
        "token_needed": house.keys is not None,
        "covariates": {question: _covariates(house, question) for question in house.questions},
        "intended_use": list(dict.fromkeys(release.card.intended_use for release in house.releases)),
        "releases": [
            {
                "name": release.card.name,
                "version": release.card.version,
                "modality": release.card.modality,
                "dossier": release.short_id,
                "gate": release.card.gate.verdict,
                "engine": house.crew.orders.engine,
            }
            for release in house.releases
        ],
    }


def _covariates(house: House, question: str) -> list[dict[str, Any]]:
    """What the heads that answer a question take beside the image, by name."""
    heads = [release.card.head for release in house.releases if question != EMBEDDINGS and release.answers(question)]
    found = {one.name: one for head in heads if head is not None and head.fusion for one in head.fusion.covariates}
    return [
        {
            **one.model_dump(include={"name", "unit", "low", "high", "usual_low", "usual_high"}),
            "ending": ending_of(one.name),
        }
        for one in found.values()
    ]


def _live(_: House) -> dict[str, bool]:
    return {"live": True}


def _ready(house: House) -> dict[str, bool] | Reply:
    if house.ready:
        return {"ready": True}
    return wire.refusal(
        CallError("not_ready", "not every worker is ready", "ask again in a moment", 503, {"retry-after": "2"})
    )


def _model_ready(house: House, model: str) -> dict[str, Any] | Reply:
    if model not in house.questions:
        return wire.refusal(asgi.unknown(house, model))
    found = _ready(house)
    return found if isinstance(found, Reply) else {"name": model, "ready": True}


def _server(_: House) -> dict[str, Any]:
    return inference_protocol.server_metadata()


def _model(house: House, model: str) -> dict[str, Any] | Reply:
    if model not in house.questions:
        return wire.refusal(asgi.unknown(house, model))
    return inference_protocol.model_metadata(model, house.releases)


DOCUMENTS: Final[dict[str, Callable[..., Any]]] = {
    "/about.json": _about,
    "/openapi.json": openapi.document,
    "/v2": _server,
    "/v2/models/{model}": _model,
    "/v2/health/live": _live,
    "/v2/health/ready": _ready,
    "/v2/models/{model}/ready": _model_ready,
}

"""What the maintained front says without a worker: health, metadata, its API, its page."""

from collections.abc import Callable
from typing import Any, Final

from starlette.applications import Starlette

from hilum.delivery.fronts import asgi, inference_protocol, wire
from hilum.delivery.fronts.asgi import House
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply


def application(house: House) -> Starlette:
    """The application for callers, with all its documents and pages."""
    return asgi.predictions(house, {}, DOCUMENTS)


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
    "/v2": _server,
    "/v2/models/{model}": _model,
    "/v2/health/live": _live,
    "/v2/health/ready": _ready,
    "/v2/models/{model}/ready": _model_ready,
}

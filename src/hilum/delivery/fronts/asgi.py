"""The maintained front's HTTP: who may ask, how large and slow a call may be, where it goes, and what is counted.

Three applications on three ports: predictions for callers; metrics and management, which are bound to loopback unless
somebody asks for more. A call is looked at in the order of what it costs: its token, its stated size, its bytes; and a
worker process does the rest. Nothing of a call is logged.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from hilum.delivery.fronts import wire
from hilum.delivery.fronts.asking import JSON, Call
from hilum.delivery.fronts.counters import CONTENT_TYPE, Counters
from hilum.delivery.fronts.crew import Crew
from hilum.delivery.fronts.keys import Keys, Use
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.fronts.worker import Task
from hilum.delivery.predictor import Release
from hilum.errors import HilumError

PASSED_ON: Final = frozenset(  # headers that a worker sees; the others stay here
    (
        *("accept", "content-type", "inference-header-content-length"),
        *("x-modality", "x-covariates", "x-neighbours", "x-saliency", "x-seen"),
    )
)
UNKNOWN: Final = "unknown"  # the question of calls for models that there are not: a caller's word is no label


@dataclass(frozen=True)
class Caps:
    """How much of a call is read.

    Attributes:
        body_bytes: Of one call: a chest film in uncompressed DICOM has about 20 MB.
        held_bytes: Of all calls that are read, wait or are answered.
        body_seconds: For the last byte to come.
    """

    body_bytes: int = 32 * 2**20
    held_bytes: int = 512 * 2**20
    body_seconds: float = 30.0


class House:
    """What the applications share: the releases that answer, their crew, tokens, bounds and counters."""

    def __init__(self, releases: Sequence[Release], crew: Crew, keys: Keys | None, caps: Caps) -> None:
        self.crew, self.keys, self.caps, self.counters = crew, keys, caps, Counters()
        self.releases: list[Release] = []
        self.stopping = False
        self._held = 0
        self.take(releases)
        self.counters.watch("hilum_workers", "Workers that are there.", lambda: crew.alive)
        self.counters.watch("hilum_worker_restarts", "Workers that were started anew.", lambda: crew.restarts)
        self.counters.watch("hilum_ready", "1 where every worker has proven itself.", lambda: float(self.ready))
        self.counters.watch("hilum_waiting", "Calls that wait for a worker.", lambda: crew.waiting)
        self.counters.watch("hilum_held_bytes", "Bytes of calls in hand.", lambda: self._held)

    @property
    def ready(self) -> bool:
        """Whether calls are answered: every worker has answered the golden images, and nobody said stop."""
        return self.crew.ready and not self.stopping

    def take(self, releases: Sequence[Release]) -> None:
        """Answer from these releases."""
        self.releases = list(releases)
        self.questions = tuple(dict.fromkeys(question for one in releases for question in one.card.answers))
        self.counters.serve(releases, self.crew.orders.engine)

    def admit(self, request: Request, use: Use) -> None:
        """Refuse who has no token for this use.

        Raises:
            CallError: 401.
        """
        if self.keys is None or self.keys.admits(request.headers.get("authorization", ""), use):
            return
        raise CallError(
            "unauthorized",
            f"the call has no valid token for {use}",
            "send the header Authorization: Bearer TOKEN",
            401,
            {"www-authenticate": "Bearer"},
        )

    async def read(self, request: Request) -> bytes:
        """The body of a call, within its caps.

        Raises:
            CallError: It is too large (413) or too slow (408), compressed (415), or too many are in hand (503).
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise CallError("unsupported", "the body is compressed", "send it as it is, without Content-Encoding", 415)
        stated = request.headers.get("content-length", "")
        length = int(stated) if stated.isascii() and stated.isdigit() else None
        if length is not None and length > self.caps.body_bytes:
            raise self._too_large()
        reserved = self.caps.body_bytes if length is None else length
        self.hold(reserved)
        request.scope["hilum.held"] = reserved
        pieces, read = [], 0
        try:
            async with asyncio.timeout(self.caps.body_seconds):
                async for piece in request.stream():
                    read += len(piece)
                    if read > self.caps.body_bytes:
                        raise self._too_large()
                    pieces.append(piece)
        except TimeoutError:
            limit = f"{self.caps.body_seconds:g}"
            raise CallError(
                "timeout", f"the body did not come within {limit} s", "send it faster", 408, {"connection": "close"}
            ) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release_held(self, request: Request) -> None:
        """What `read` has reserved is free again."""
        self.let_go(request.scope.pop("hilum.held", 0))

    def hold(self, size: int) -> None:
        """Reserve bytes for a call, of whatever front.

        Raises:
            CallError: 503, there are too many in hand.
        """
        if self._held + size > self.caps.held_bytes:
            raise CallError(
                "overloaded", "too many large calls are in hand", "come back later", 503, {"retry-after": "2"}
            )
        self._held += size

    def let_go(self, size: int) -> None:
        """They are free again."""
        self._held -= size

    def _too_large(self) -> CallError:
        limit = self.caps.body_bytes // 2**20
        return CallError(
            "too_large",
            f"the body has more than {limit} MiB",
            "send fewer images in a call, or the image at the size at which it was taken",
            413,
            {"connection": "close"},
        )


def predictions(
    house: House, pages: Mapping[str, tuple[str, bytes]], documents: Mapping[str, Any], open_to_all: Sequence[str]
) -> Starlette:
    """The application for callers.

    Args:
        house: What answers.
        pages: Files of the web page by path: content type and bytes.
        documents: Functions of the house that make the JSON of a GET, by path; `{model}` stands for a question.
        open_to_all: Paths of documents for which no token is asked.
    """

    def asked(task: Task) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            return await _ask(house, task, request)

        return respond

    def document(make: Callable[..., Any], closed: bool) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            if closed:
                house.admit(request, "inference")
            found = make(house, **request.path_params)
            if isinstance(found, Reply):
                return response(found)
            return Response(wire.dumped(found), media_type=JSON)

        return respond

    def page(content_type: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
        async def respond(_: Request) -> Response:
            return Response(content, media_type=content_type, headers=PAGE_HEADERS)

        return respond

    routes = [
        Route("/predictions/{model}", asked("predictions"), methods=["POST"]),
        Route("/v2/models/{model}/infer", asked("infer"), methods=["POST"]),
        *(
            Route(path, document(make, closed=path not in open_to_all), methods=["GET"])
            for path, make in documents.items()
        ),
        *(Route(path, page(*file), methods=["GET"]) for path, file in pages.items()),
    ]
    return _application(routes)


# The page may load its own files and nothing else, and nobody may put it into a frame.
PAGE_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def metrics(house: House) -> Starlette:
    """The application of the metrics port: GET /metrics."""

    async def respond(_: Request) -> Response:
        return Response(house.counters.text(), headers={"content-type": CONTENT_TYPE})

    return _application([Route("/metrics", respond, methods=["GET"])])


def management(house: House, reload: Callable[[], Awaitable[None]]) -> Starlette:
    """The application of the management port: GET /status and POST /reload, for tokens of management."""

    async def status(request: Request) -> Response:
        house.admit(request, "management")
        said = {
            "ready": house.ready,
            "workers": {"wanted": house.crew.size, "there": house.crew.alive, "restarts": house.crew.restarts},
            "waiting": house.crew.waiting,
            "releases": [
                {"name": one.card.name, "version": one.card.version, "dossier": one.short_id} for one in house.releases
            ],
        }
        return Response(wire.dumped(said), media_type=JSON)

    async def again(request: Request) -> Response:
        house.admit(request, "management")
        try:
            await reload()
        except HilumError as error:
            raise CallError(
                "not_reloaded",
                f"what lies there now is not taken up: {error}",
                "mend it; what was served before goes on",
                409,
            ) from error
        return await status(request)

    return _application([Route("/status", status, methods=["GET"]), Route("/reload", again, methods=["POST"])])


async def _ask(house: House, task: Task, request: Request) -> Response:
    question = request.path_params["model"]
    known = question in house.questions
    began: float | None = None
    try:
        house.admit(request, "inference")
        if not known:
            raise unknown(house, question)
        content = await house.read(request)
        began = time.perf_counter()
        headers = {key: value for key, value in request.headers.items() if key in PASSED_ON}
        reply = await house.crew.ask(task, question, Call(content, headers, dict(request.query_params)), _gone(request))
    except CallError as error:
        reply = wire.refusal(error, wire.overrides(house.releases))
    except ClientDisconnect:
        reply = wire.refusal(CallError("gone", "the caller has hung up", "wait for the answer", 499))
    finally:
        house.release_held(request)
    house.counters.count(question if known else UNKNOWN, reply, None if began is None else time.perf_counter() - began)
    return response(reply)


def unknown(house: House, question: str) -> CallError:
    """404 for a model that there is not."""
    there = ", ".join(house.questions)
    return CallError("unknown_model", f"there is no model {question[:40]!r} here", f"ask one of: {there}", 404)


def response(reply: Reply) -> Response:
    """A reply as Starlette sends it."""
    return Response(reply.body, reply.status, {"content-type": reply.content_type, **reply.headers})


def _gone(request: Request) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait


def _application(routes: Sequence[Route]) -> Starlette:
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, CallError)
        return response(wire.refusal(error))

    async def strayed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            told = CallError(
                "method", f"{request.method} is not for this path", f"use {allowed}", 405, {"allow": allowed}
            )
        else:
            told = CallError(
                "unknown_path", "there is nothing at this path", "GET /openapi.json says what there is", 404
            )
        return response(wire.refusal(told))

    return Starlette(routes=list(routes), exception_handlers={CallError: refused, HTTPException: strayed})

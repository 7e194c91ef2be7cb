"""The calls of gRPC, each with the tokens, bounds, counters and words of the HTTP calls beside it.

| call | over HTTP | token |
| - | - | - |
| ServerLive, ServerReady; Check of grpc.health.v1 | GET /v2/health/live, ready | none |
| ServerMetadata, ModelMetadata, ModelReady | GET /v2, /v2/models/QUESTION, its ready | for inference |
| ModelInfer | POST /v2/models/QUESTION/infer | for inference |

A token is metadata, `authorization: Bearer TOKEN`. A refusal is a status with a sentence, and in the trailing metadata
`hilum-refusal-bin` the same JSON that HTTP has (code, status, message, right). Where HTTP has 503 with Retry-After it
is UNAVAILABLE with `retry-after` (seconds) and `grpc-retry-pushback-ms`, which gRPC's own retries heed. Where a release
stands under an override, `hilum-override-bin` says so with every answer and refusal, as JSON.

gRPC knows a call's size only when it has come. So the message of a call is asked for after its token was seen, and
only as many are asked for at once as fit into what may be held; a call that shows no token is answered unread, and
Check answers for the server as a whole whatever service it names. For that the handlers are those of streams, although
each call has one message: gRPC would read the message of any other handler before it calls it.

A caller that hangs up, or whose deadline passes, has its call dropped: gRPC cancels the handler, and with it the wait.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from hilum.delivery.fronts import asgi, inference_protocol, wire
from hilum.delivery.fronts.asgi import UNKNOWN, House
from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.grpc import form
from hilum.delivery.fronts.grpc.messages import HEALTH, HEALTH_CHECK, INFERENCE, NOT_SERVING, SERVICE, SERVING
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply

REFUSAL: Final = "hilum-refusal-bin"
OVERRIDE: Final = "hilum-override-bin"
MAX_NAMING: Final = 2**16  # bytes of a message that names a model and nothing more
_STATUS: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.RESOURCE_EXHAUSTED,  # with retry-after it is UNAVAILABLE
}


class Service:
    """What answers the calls of one server."""

    def __init__(self, house: House) -> None:
        self._house = house
        caps = house.caps
        self._reading = asyncio.Semaphore(max(1, caps.held_bytes // caps.body_bytes))

    def handlers(self) -> list[Any]:
        """For a server of gRPC."""
        said = {
            "ServerLive": self._plain(self._live, closed=False),
            "ServerReady": self._plain(self._ready, closed=False),
            "ServerMetadata": self._plain(self._server, closed=True),
            "ModelMetadata": self._plain(self._model, closed=True),
            "ModelReady": self._plain(self._model_ready, closed=True),
            "ModelInfer": self._infer,
        }
        return [
            grpc.method_handlers_generic_handler(
                name, {one: grpc.stream_stream_rpc_method_handler(call) for one, call in calls.items()}
            )
            for name, calls in ((SERVICE, said), (HEALTH, {"Check": self._plain(self._check, closed=False)}))
        ]

    async def _infer(self, _: Any, context: Any) -> None:
        """ModelInfer."""
        house, question, held = self._house, UNKNOWN, 0
        began: float | None = None
        reply = wire.refusal(CallError("fault", "the server failed at this call", "report it, with the time", 500))
        try:
            self._admit(context)
            content = await self._message(context)
            house.hold(len(content))
            held = len(content)
            began = time.perf_counter()
            named, version = form.addressed(content)
            self._known(named, version)
            question = named
            reply = await house.crew.ask("infer", question, Call(content, {inference_protocol.PROTOBUF: "1"}))
        except CallError as error:
            reply = wire.refusal(error)
        except asyncio.CancelledError:
            reply = wire.refusal(CallError("gone", "the caller has hung up", "wait for the answer", 499))
            raise
        finally:
            house.let_go(held)
            seconds = None if began is None else time.perf_counter() - began
            house.counters.count(question, reply, seconds)
        await self._send(context, reply)

    def _plain(self, make: Callable[[Any], Awaitable[Any]], closed: bool) -> Callable[[Any, Any], Awaitable[None]]:
        """A call that no worker is asked for."""

        async def respond(_: Any, context: Any) -> None:
            try:
                if closed:
                    self._admit(context)
                reply = Reply(200, (await make(context)).SerializeToString())
            except CallError as error:
                reply = wire.refusal(error)
            await self._send(context, reply)

        return respond

    async def _live(self, _: Any) -> Any:
        return INFERENCE["ServerLiveResponse"](live=True)

    async def _ready(self, _: Any) -> Any:
        return INFERENCE["ServerReadyResponse"](ready=self._house.ready)

    async def _check(self, _: Any) -> Any:
        return HEALTH_CHECK["HealthCheckResponse"](status=SERVING if self._house.ready else NOT_SERVING)

    async def _server(self, _: Any) -> Any:
        return INFERENCE["ServerMetadataResponse"](**inference_protocol.server_metadata())

    async def _model(self, context: Any) -> Any:
        asked = await self._naming("ModelMetadataRequest", context)
        said = inference_protocol.model_metadata(asked.name, self._house.releases)
        return INFERENCE["ModelMetadataResponse"](**{key: value for key, value in said.items() if key != "releases"})

    async def _model_ready(self, context: Any) -> Any:
        await self._naming("ModelReadyRequest", context)
        return INFERENCE["ModelReadyResponse"](ready=self._house.ready)

    async def _naming(self, name: str, context: Any) -> Any:
        """A message that names a model which there is."""
        content = await self._message(context)
        if len(content) > MAX_NAMING:
            raise CallError("too_large", "the message is larger than a name", "send the name of a model", 413)
        asked = form.parsed(name, content)
        self._known(asked.name, asked.version)
        return asked

    def _admit(self, context: Any) -> None:
        keys = self._house.keys
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if keys is None or keys.admits(given, "inference"):
            return
        right = "send the metadata authorization: Bearer TOKEN"
        raise CallError("unauthorized", "the call has no valid token for inference", right, 401)

    def _known(self, question: str, version: str) -> None:
        """Refuse a model that there is not, or a version of it."""
        if question not in self._house.questions:
            raise asgi.unknown(self._house, question)
        there = [one.card.version for one in self._house.releases if one.answers(question)]
        if version and version not in there:
            raise inference_protocol.other_version(question, version, there)

    async def _message(self, context: Any) -> bytes:
        """The one message of a call, within its caps."""
        seconds = self._house.caps.body_seconds
        try:
            async with asyncio.timeout(seconds), self._reading:
                message = await context.read()
        except TimeoutError:
            raise CallError(
                "timeout", f"the message did not come within {seconds:g} s", "send it faster", 408
            ) from None
        if not isinstance(message, bytes):
            raise CallError("bad_request", "the call has no message", "send one")
        return message

    async def _send(self, context: Any, reply: Reply) -> None:
        trailing: list[tuple[str, str | bytes]] = []
        overridden = [one.card.gate.override for one in self._house.releases]
        if told := [one.model_dump(mode="json") for one in overridden if one is not None]:
            trailing.append((OVERRIDE, wire.dumped(told)))
        if reply.status == 200:
            context.set_trailing_metadata(tuple(trailing))
            await context.write(reply.body)
            return
        said = json.loads(reply.body)
        trailing.append((REFUSAL, wire.dumped({key: said[key] for key in ("code", "status", "message", "right")})))
        code = _STATUS.get(reply.status, grpc.StatusCode.INTERNAL)
        if (after := reply.headers.get("retry-after")) is not None:
            code = grpc.StatusCode.UNAVAILABLE
            trailing += [("retry-after", after), ("grpc-retry-pushback-ms", f"{1000 * int(after)}")]
        context.set_trailing_metadata(tuple(trailing))
        context.set_code(code)
        context.set_details(f"{said['message']}; {said['right']}")

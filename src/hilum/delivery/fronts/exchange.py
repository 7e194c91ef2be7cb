"""Between TorchServe's rows and the wire: how a call reaches a handler, and how its reply goes back.

A refusal is the affair of its own row: raising would fail the whole batch. TorchServe's context is known by its shape
alone, so that nothing here imports it.

TorchServe takes multipart forms apart itself, and keeps one part of each name. JSON and text it would parse too, which
`decode_input_request=false` in its config.properties prevents.
"""

import gc
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from hilum.delivery.desk import Desk
from hilum.delivery.engines import DEFAULT
from hilum.delivery.fronts import inference_protocol, metering, wire
from hilum.delivery.fronts.asking import JSON, MULTIPART, Call
from hilum.delivery.fronts.metering import Meter
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.machine import bound_arithmetic

DECODE: Final = "decode_input_request"
INPUTS: Final = re.compile(rb'"inputs"\s*:')  # what such a call must have and no other JSON here may
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


def open_desk(context: Context, question: str) -> tuple[Desk, Meter | None]:
    """The desk of a model archive, loaded and proven, and what counts its answers (None where there are no metrics).

    The section `handler` of its model-config.yaml sets it up.

    Args:
        context: TorchServe's context.
        question: What is answered where the settings do not name the `question`.
    """
    settings = (context.model_yaml_config or {}).get("handler") or {}
    releases = Path(context.system_properties["model_dir"]) / "releases"
    engine, threads = str(settings.get("engine", DEFAULT)), int(settings.get("threads", 1))
    bound_arithmetic(threads)
    desk = Desk.load(
        sorted(path for path in releases.iterdir() if path.is_dir()),
        str(settings.get("question", question)),
        threads,
        engine,
    )
    gc.freeze()  # what is loaded stays: the collector need not look through it after every call
    metering.quiet()
    metrics: metering.Cache | None = getattr(context, "metrics", None)
    if metrics is None:
        return desk, None
    metering.serve(metrics, list(desk.releases.values()), engine)
    return desk, Meter(metrics)


def respond(desk: Desk, rows: Sequence[Row], context: Context, meter: Meter | None = None) -> list[str | bytes]:
    """Answer a batch of TorchServe rows: one body each, status and headers set on the context."""
    bodies: list[str | bytes] = []
    for number, row in enumerate(rows):
        began = time.perf_counter()
        try:
            call = _call(row, context, number)
            infer = inference_protocol.answer if _is_inference(call) else None
            reply = infer(desk, call.content, call.headers) if infer is not None else wire.answer(desk, call)
        except CallError as error:
            reply = wire.refusal(error, wire.overrides(list(desk.releases.values())))
        if reply.status != 200:
            context.set_response_status(reply.status, "", number)
        context.set_response_content_type(number, reply.content_type)
        for key, value in reply.headers.items():
            context.set_response_header(number, key, value)
        bodies.append(reply.body)
        if meter is not None:
            meter.count(desk.question, reply, time.perf_counter() - began)
    return bodies


def _call(row: Row, context: Context, number: int) -> Call:
    """A row as a call; a broken form arrives as an empty row."""
    headers = {key.lower(): str(value) for key, value in context.get_all_request_header(number).items()}
    if headers.get("content-type", "").lower().startswith(MULTIPART):
        return Call(b"", headers, form={name: [_bytes(value)] for name, value in row.items()})
    given = next((row[key] for key in ("body", "data") if row.get(key) is not None), b"")
    return Call(_bytes(given), headers)


def _is_inference(call: Call) -> bool:
    """Whether a call speaks the Open Inference Protocol: TorchServe tells a handler no path."""
    if inference_protocol.HEADER_LENGTH in call.headers:
        return True
    is_json = call.headers.get("content-type", "").split(";")[0].strip().lower() == JSON
    return is_json and INPUTS.search(call.content) is not None


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    raise CallError(
        "bad_request", "the server has parsed the body already", f"set {DECODE}=false in its config.properties", 400
    )

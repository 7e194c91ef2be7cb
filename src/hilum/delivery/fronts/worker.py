"""A worker: one process that answers calls over a socket, one after the other, until the socket is closed.

It is started by fronts.crew, proves its releases on their golden images before it says that it is ready, and knows
nothing of HTTP servers. What takes it down (a decoder that crashes, memory that runs out) takes no other call with it.

The body of a call lies in memory that both sides share, where there is such a thing: through the socket it would go in
many small pieces, each of them a change from one process to the other and back. There is a slot for the call in work
and one for the next, which is laid ready meanwhile. Before the slots lies a byte for each: where it is not zero when
the call's turn comes, the call has been withdrawn, and the frame {"withdrawn": true} is the answer.

A frame is two lengths (of a JSON head, of a body), big-endian 4 and 8 bytes, the head and the body. The worker begins
with a frame {"ready": true} or {"failed": SENTENCE}. A call's head holds task, question, headers and query; the reply's
status, content_type, headers and outcomes.
"""

import gc
import json
import mmap
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from hilum.delivery.desk import Desk, desks
from hilum.delivery.fronts import inference_protocol, wire
from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.machine import bound_arithmetic
from hilum.delivery.predictor import Release
from hilum.errors import HilumError

LENGTHS: Final = struct.Struct("!IQ")
SLOTS: Final = 2  # calls in a worker's hands: one in work, one laid ready
SHARED_BYTES: Final = 32 * 2**20  # of a slot; what is larger goes through the socket. Unused pages cost nothing
Task = Literal["predictions", "infer"]


@dataclass(frozen=True)
class Orders:
    """What a worker is started with.

    Attributes:
        releases: Release folders.
        engine: That runs their graphs.
        threads: Of the engine, per image.
    """

    releases: tuple[str, ...]
    engine: str
    threads: int = 1


def frame(head: dict[str, Any], body: bytes) -> tuple[bytes, bytes]:
    """A frame in two pieces: lengths and head, and the body, which need not be copied."""
    said = json.dumps(head, separators=(",", ":")).encode()
    return LENGTHS.pack(len(said), len(body)) + said, body


def slot_at(slot: int) -> int:
    """Where a slot begins in the shared memory; that of the one after the last is its size."""
    return mmap.PAGESIZE + slot * SHARED_BYTES


def main(descriptor: int, shared: int, orders: Orders) -> None:
    """Load, say so, and answer until the other side is gone.

    Args:
        descriptor: Of the socket.
        shared: Of the memory that holds bodies; -1 where there is none.
        orders: What to load.
    """
    bodies = mmap.mmap(shared, slot_at(SLOTS)) if shared >= 0 else None
    # Ctrl-C and a stopping container reach the whole group; the parent decides when a worker's work is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as wires:
        bound_arithmetic(orders.threads)
        try:
            opened = desks([Release.open(Path(path)) for path in orders.releases], orders.threads, orders.engine)
        except HilumError as error:
            _send(wires, {"failed": str(error)}, b"")
            return
        _send(wires, {"ready": True}, b"")
        gc.freeze()  # what is loaded stays: the collector need not look through it after every call
        while (received := _receive(wires)) is not None:
            head, body = received
            if bodies is not None:
                if bodies[head["slot"]]:
                    _send(wires, {"withdrawn": True}, b"")
                    continue
                if "shared" in head:
                    at = slot_at(head["slot"])
                    body = bodies[at : at + head["shared"]]
            call = Call(body, head["headers"], head["query"])
            desk = opened.get(head["question"])
            reply = _GONE if desk is None else _answered(_TASKS[head["task"]], desk, call)
            _send(wires, {key: value for key, value in vars(reply).items() if key != "body"}, reply.body)


def _answered(task: Callable[[Desk, Call], Reply], desk: Desk, call: Call) -> Reply:
    """A reply in any case: an error that nobody foresaw is hilum's fault, not the caller's, and ends no worker."""
    try:
        return task(desk, call)
    except Exception as error:
        places = traceback.extract_tb(error.__traceback__)[-3:]
        # The kind and the places, never the message: it may hold what a file says of a patient.
        told = ", ".join(f"{Path(place.filename).name}:{place.lineno}" for place in places)
        print(f"hilum: a call failed with {type(error).__name__} ({told})", file=sys.stderr, flush=True)
        return wire.refusal(CallError("fault", "the server failed at this call", "report it, with the time", 500))


def _infer(desk: Desk, call: Call) -> Reply:
    return inference_protocol.answer(desk, call.content, call.headers)


# A call that has waited through a reload may ask what the new releases do not answer.
_GONE: Final = wire.refusal(
    CallError("unknown_model", "the releases have changed, and none answers this any more", "ask GET /v2 what is", 404)
)
_TASKS: Final[dict[Task, Callable[[Desk, Call], Reply]]] = {"predictions": wire.answer, "infer": _infer}


def _send(wires: socket.socket, head: dict[str, Any], body: bytes) -> None:
    wires.sendall(b"".join(frame(head, body)))


def _receive(wires: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None where the other side is gone."""
    lengths = _exactly(wires, LENGTHS.size)
    if lengths is None:
        return None
    head_length, body_length = LENGTHS.unpack(lengths)
    head, body = _exactly(wires, head_length), _exactly(wires, body_length)
    return (json.loads(head), bytes(body)) if head is not None and body is not None else None


def _exactly(wires: socket.socket, length: int) -> bytearray | None:
    buffer = bytearray(length)
    view, at = memoryview(buffer), 0
    while at < length:
        got = wires.recv_into(view[at:])
        if not got:
            return None
        at += got
    return buffer


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Orders(**json.loads(sys.argv[3])))

"""A worker process as the front sees it: its start, the socket to it, and the calls in its hands.

It works on one call at a time. Where the system has memory that both sides can share, the body of a call goes through
it, and a second call is laid ready there: a worker that has answered would otherwise wait until the front has seen its
answer and sent the next one. What is laid ready can be withdrawn. See fronts.worker, which is the other side.
"""

import asyncio
import contextlib
import json
import mmap
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

from typing_extensions import override

from hilum.delivery.fronts.errand import Errand
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.fronts.worker import LENGTHS, SHARED_BYTES, SLOTS, Orders, frame, slot_at
from hilum.errors import ReleaseError

START_SECONDS: Final = 180.0


@dataclass(eq=False)
class Held:
    """A call in a worker's hands.

    Attributes:
        errand: The call.
        slot: Of the shared memory.
        withdrawn: It need not be answered here any more.
        began: When the worker began with it, on the loop's clock.
        limit: Ends the worker when it has taken too long.
    """

    errand: Errand
    slot: int
    withdrawn: bool = False
    began: float = 0.0
    limit: asyncio.TimerHandle | None = None


class Worker(asyncio.Protocol):
    """One process and the socket to it.

    Attributes:
        process: It.
        held: The calls in its hands: the one that it works on, and what is laid ready.
        retired: It is to leave when it has answered what it holds.
    """

    process: asyncio.subprocess.Process
    _transport: asyncio.WriteTransport

    def __init__(
        self,
        shared: mmap.mmap | None,
        answered: Callable[["Worker", Held, Reply | None], None],
        ended: Callable[["Worker", Sequence[Held]], None],
    ) -> None:
        self.held: deque[Held] = deque()
        self.retired = False
        self._shared, self._answered, self._ended = shared, answered, ended
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()

    @classmethod
    async def start(
        cls,
        orders: Orders,
        answered: Callable[["Worker", Held, Reply | None], None],
        ended: Callable[["Worker", Sequence[Held]], None],
    ) -> "Worker":
        """Start a process and wait until it has proven its releases.

        Args:
            orders: What it is started with.
            answered: Told the reply to a call the moment it is there; None for one that was withdrawn in time.
            ended: Told what it held when the socket to it was closed.

        Raises:
            ReleaseError: It could not; the message is its own.
        """
        here, there = socket.socketpair()
        descriptor, shared = _shared()
        worker = cls(shared, answered, ended)
        with there:
            worker.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hilum.delivery.fronts.worker", str(there.fileno()), str(descriptor)),
                json.dumps(asdict(orders)),
                pass_fds=[there.fileno(), *([descriptor] if descriptor >= 0 else [])],
                stdin=asyncio.subprocess.DEVNULL,
            )
        if descriptor >= 0:
            os.close(descriptor)
        here.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=here)
        try:
            said = await asyncio.wait_for(worker._ready, START_SECONDS)
        except (TimeoutError, ConnectionError) as error:
            worker.end()
            status = await worker.process.wait()
            raise ReleaseError(f"a worker ended before it was ready (status {status})") from error
        if "failed" in said:
            worker.end()
            raise ReleaseError(said["failed"])
        return worker

    @property
    def laid(self) -> list[Held]:
        """What it holds and is to answer, but has not begun with."""
        return [held for number, held in enumerate(self.held) if number and not held.withdrawn]

    @property
    def room(self) -> int:
        """Calls that it can take beside those that it holds."""
        if self.retired or self._transport.is_closing():
            return 0
        return (SLOTS if self._shared is not None else 1) - len(self.held)

    def take(self, errand: Errand) -> Held:
        """Send it a call, for which there must be room."""
        used = {one.slot for one in self.held}
        held = Held(errand, next(slot for slot in range(SLOTS) if slot not in used))
        self.held.append(held)
        head: dict[str, Any] = {"task": errand.task, "question": errand.question, "slot": held.slot}
        head |= {"headers": dict(errand.call.headers), "query": dict(errand.call.query)}
        body = errand.call.content
        if self._shared is not None:
            self._shared[held.slot] = 0
            if len(body) <= SHARED_BYTES:
                at = slot_at(held.slot)
                self._shared[at : at + len(body)] = body
                head["shared"], body = len(body), b""
        self._transport.writelines(one for one in frame(head, body) if one)
        return held

    def withdraw(self, errand: Errand) -> None:
        """Spare it a call that it has not begun with; where it just has, its reply comes all the same."""
        for held in self.held:
            if held.errand is errand and self._shared is not None:
                held.withdrawn = True
                self._shared[held.slot] = 1

    def leave(self) -> None:
        """Let it end by itself: it does when its socket is closed."""
        self.retired = True
        self._transport.close()

    def end(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._transport.close()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one without being registered as one

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= LENGTHS.size:
            head_length, body_length = LENGTHS.unpack_from(self._buffer)
            begin = LENGTHS.size + head_length
            end = begin + body_length
            if len(self._buffer) < end:
                return
            said = json.loads(self._buffer[LENGTHS.size : begin].decode())  # decoded: it would guess the encoding
            body = bytes(memoryview(self._buffer)[begin:end])
            del self._buffer[:end]
            self._heard(said, body)

    def _heard(self, said: dict[str, Any], body: bytes) -> None:
        if not self._ready.done():
            self._ready.set_result(said)
            return
        held = self.held.popleft()  # it answers in the order in which it was asked
        reply = None if "withdrawn" in said else Reply(body=body, **{**said, "outcomes": tuple(said["outcomes"])})
        self._answered(self, held, reply)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ready.done():
            self._ready.set_exception(ConnectionResetError())
        held = list(self.held)
        self.held.clear()
        self._ended(self, held)


def _shared() -> tuple[int, mmap.mmap | None]:
    """Memory for bodies that a child can map too, and its descriptor; -1 and None where the system has none."""
    if not hasattr(os, "memfd_create"):
        return -1, None
    shared, size = os.memfd_create("hilum-bodies"), slot_at(SLOTS)
    os.ftruncate(shared, size)
    return shared, mmap.mmap(shared, size)

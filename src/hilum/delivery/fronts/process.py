"""A worker process as the front sees it: its start, the socket to it, and one call at a time.

The body of a call goes through memory that both sides share, where there is such a thing; see fronts.worker, which is
the other side.
"""

import asyncio
import contextlib
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, cast

from typing_extensions import override

from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.fronts.worker import LENGTHS, SHARED_BYTES, Orders, Task, frame
from hilum.errors import ReleaseError

START_SECONDS: Final = 180.0


class Worker(asyncio.Protocol):
    """One process and the socket to it.

    Attributes:
        process: It.
        retired: It is to leave when it has answered what it holds.
    """

    process: asyncio.subprocess.Process
    _transport: asyncio.WriteTransport

    def __init__(self, bodies: mmap.mmap | None) -> None:
        self.retired = False
        self._bodies = bodies
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answered: Callable[[Reply | None], None] | None = None
        self._buffer = bytearray()
        self._lost = False

    @classmethod
    async def start(cls, orders: Orders) -> "Worker":
        """Start a process and wait until it has proven its releases.

        Raises:
            ReleaseError: It could not; the message is its own.
        """
        here, there = socket.socketpair()
        shared, bodies = _shared()
        worker = cls(bodies)
        with there:
            worker.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hilum.delivery.fronts.worker", str(there.fileno()), str(shared)),
                json.dumps(asdict(orders)),
                pass_fds=[there.fileno(), *([shared] if shared >= 0 else [])],
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(orders.threads))},
            )
        if shared >= 0:
            os.close(shared)
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

    def exchange(self, task: Task, question: str, call: Call, answered: Callable[[Reply | None], None]) -> None:
        """Send a call to a worker that holds none.

        Args:
            task: What is asked.
            question: Of which desk.
            call: The call.
            answered: Told the reply the moment it is there, or None where the process has ended instead.
        """
        assert self._answered is None, "one call at a time"
        if self._lost:
            asyncio.get_running_loop().call_soon(answered, None)
            return
        self._answered = answered
        head: dict[str, Any] = {"task": task, "question": question}
        head |= {"headers": dict(call.headers), "query": dict(call.query)}
        body = call.content
        if self._bodies is not None and len(body) <= SHARED_BYTES:
            self._bodies[: len(body)] = body
            head["shared"], body = len(body), b""
        self._transport.writelines(one for one in frame(head, body) if one)

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
        if len(self._buffer) < LENGTHS.size:
            return
        head_length, body_length = LENGTHS.unpack_from(self._buffer)
        end = LENGTHS.size + head_length
        if len(self._buffer) < end + body_length:
            return
        said = json.loads(self._buffer[LENGTHS.size : end].decode())  # of bytes it would have to guess the encoding
        body = bytes(memoryview(self._buffer)[end : end + body_length])
        self._buffer = bytearray()  # it speaks when it is asked, and then once: nothing comes after
        if not self._ready.done():
            self._ready.set_result(said)
            return
        answered, self._answered = self._answered, None
        assert answered is not None, "it speaks when it is asked"
        answered(Reply(body=body, **{**said, "outcomes": tuple(said["outcomes"])}))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if not self._ready.done():
            self._ready.set_exception(ConnectionResetError())
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(None)


def _shared() -> tuple[int, mmap.mmap | None]:
    """Memory for bodies that a child can map too, and its descriptor; -1 and None where the system has none."""
    if not hasattr(os, "memfd_create"):
        return -1, None
    shared = os.memfd_create("hilum-bodies")
    os.ftruncate(shared, SHARED_BYTES)
    return shared, mmap.mmap(shared, SHARED_BYTES)

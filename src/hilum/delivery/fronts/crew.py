"""The crew: worker processes that answer calls, one call at a time each, and the short queue before them.

- A call is accepted only if it will be answered: where too many wait already it is refused at once, with the seconds
  after which to come back. One that waits too long is refused too.
- A worker that ends with a call in its hands is started anew, and the call goes to another worker once; a call that
  ends two workers is refused.
- A worker that needs too long is ended: its call is refused.
- A reload starts a second crew beside the first, and takes it over when all of it has proven itself; until then the
  first one answers, and where the new releases do not load it goes on.

One event loop owns a crew; nothing in it is shared between threads.
"""

import asyncio
import contextlib
import json
import math
import mmap
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.fronts.worker import LENGTHS, SHARED_BYTES, Orders, Task, frame
from hilum.errors import HilumError, ReleaseError

START_SECONDS: Final = 180.0
ATTEMPTS: Final = 2  # a call that has ended two workers is not tried on a third
RESTART_SECONDS: Final = (0.0, 0.5, 2.0, 5.0)  # before a worker is started anew, by how often it failed in a row
COME_BACK: Final = "send the call again after the seconds that Retry-After names"


@dataclass(frozen=True)
class Bounds:
    """How much a crew takes on.

    Attributes:
        waiting: Calls that may wait for a worker.
        wait_seconds: That one of them waits at most.
        work_seconds: That a worker may take for a call.
    """

    waiting: int = 64
    wait_seconds: float = 15.0
    work_seconds: float = 30.0


class WorkerEnded(HilumError):
    """A worker has ended while it held a call."""


class Worker:
    """One process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        bodies: mmap.mmap | None,
    ) -> None:
        self.process, self._reader, self._writer, self._bodies = process, reader, writer, bodies
        self.retired = False

    @classmethod
    async def start(cls, orders: Orders) -> "Worker":
        """Start a process and wait until it has proven its releases.

        Raises:
            ReleaseError: It could not; the message is its own.
        """
        here, there = socket.socketpair()
        shared = os.memfd_create("hilum-bodies") if hasattr(os, "memfd_create") else -1  # Linux has it
        bodies = None
        if shared >= 0:
            os.ftruncate(shared, SHARED_BYTES)
            bodies = mmap.mmap(shared, SHARED_BYTES)
        with there:
            passed = [there.fileno(), *([shared] if shared >= 0 else [])]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hilum.delivery.fronts.worker", str(there.fileno()), str(shared)),
                json.dumps(asdict(orders)),
                pass_fds=passed,
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(orders.threads))},
            )
        if shared >= 0:
            os.close(shared)
        here.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=here)
        worker = cls(process, reader, writer, bodies)
        try:
            head, _ = await asyncio.wait_for(worker._receive(), START_SECONDS)
        except (TimeoutError, WorkerEnded) as error:
            worker.end()
            status = await process.wait()
            raise ReleaseError(f"a worker ended before it was ready (status {status})") from error
        if "failed" in head:
            worker.end()
            raise ReleaseError(head["failed"])
        return worker

    async def exchange(self, task: Task, question: str, call: Call) -> Reply:
        """Send a call and receive its reply.

        Raises:
            WorkerEnded: The process ended instead.
        """
        head: dict[str, Any] = {
            "task": task,
            "question": question,
            "headers": dict(call.headers),
            "query": dict(call.query),
        }
        body = call.content
        if self._bodies is not None and len(body) <= SHARED_BYTES:
            self._bodies[: len(body)] = body
            head, body = {**head, "shared": len(body)}, b""
        try:
            self._writer.writelines(frame(head, body))
            await self._writer.drain()
        except OSError as error:
            raise WorkerEnded("a worker has ended") from error
        said, body = await self._receive()
        return Reply(body=body, **{**said, "outcomes": tuple(said["outcomes"])})

    async def _receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            head_length, body_length = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
            head = json.loads(await self._reader.readexactly(head_length))
            return head, await self._reader.readexactly(body_length)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise WorkerEnded("a worker has ended") from error

    def leave(self) -> None:
        """Let it end by itself: it does when its socket is closed."""
        self.retired = True
        self._writer.close()

    def end(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._writer.close()


class Crew:
    """Workers and the calls that wait for them.

    Attributes:
        size: Workers that there should be.
        waiting: Calls that wait.
        restarts: Workers that had to be started anew.
    """

    def __init__(self, orders: Orders, size: int, bounds: Bounds, say: Callable[[str], None] = print) -> None:
        self.orders, self.size, self.bounds, self._say = orders, size, bounds, say
        self.restarts = 0
        self._crew: set[Worker] = set()
        self._idle: deque[Worker] = deque()
        self._queue: deque[asyncio.Future[Worker]] = deque()
        self._watching: set[asyncio.Task[None]] = set()
        self._seconds = 0.1  # that a call took of late, smoothed
        self._closing = False
        self._changing = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether every worker is there, each proven on its golden images."""
        return len(self._crew) >= self.size and not self._closing

    @property
    def alive(self) -> int:
        """Workers that are there."""
        return len(self._crew)

    @property
    def waiting(self) -> int:
        """Calls that wait for a worker."""
        return len(self._queue)

    async def start(self) -> None:
        """Start every worker.

        Raises:
            ReleaseError: One of them does not load its releases.
        """
        self._take_in(await self._started(self.orders))

    async def ask(
        self, task: Task, question: str, call: Call, gone: Callable[[], Awaitable[None]] | None = None
    ) -> Reply:
        """The reply of a worker.

        Args:
            task: What is asked.
            question: Of which desk.
            call: The call.
            gone: Returns when the caller has hung up: a call that still waits is then dropped.

        Raises:
            CallError: It is refused: `overloaded`, `timeout`, `worker_ended`, `stopping` or `gone`.
        """
        for _ in range(ATTEMPTS):
            worker = self._idle.popleft() if self._idle else await self._wait(gone)
            work = asyncio.ensure_future(self._work(worker, task, question, call))
            work.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, also where nobody waits
            try:
                return await asyncio.shield(work)  # a caller that gives up does not leave half a reply in the socket
            except WorkerEnded:
                continue
        raise CallError(
            "worker_ended", "the workers that held this call have ended", COME_BACK, 503, {"retry-after": "5"}
        )

    async def reload(self, orders: Orders) -> None:
        """Take new orders: start another crew, and let the present one go when the new one is ready.

        Raises:
            ReleaseError: The new releases do not load; the present ones go on.
        """
        async with self._changing:
            started = await self._started(orders)
            before, self.orders = list(self._crew), orders
            self._crew.clear()
            for worker in before:
                worker.retired = True
            while self._idle:
                self._idle.popleft().leave()
            self._take_in(started)

    async def stop(self) -> None:
        """Refuse what waits, let workers finish what they hold, and end."""
        self._closing = True
        while self._queue:
            if not (one := self._queue.popleft()).done():
                one.set_exception(self._refusal("stopping", "the server is stopping"))
        while self._idle:
            self._idle.popleft().leave()
        crew = list(self._crew)
        for worker in crew:
            worker.retired = True  # those that hold a call leave when they have answered it
        ended = asyncio.gather(*(worker.process.wait() for worker in crew))
        try:
            await asyncio.wait_for(ended, self.bounds.work_seconds)
        except TimeoutError:
            for worker in crew:
                worker.end()
        for task in self._watching:
            task.cancel()

    async def _started(self, orders: Orders) -> list[Worker]:
        begun = [asyncio.ensure_future(Worker.start(orders)) for _ in range(self.size)]
        done, _ = await asyncio.wait(begun)
        failed = [error for one in done if (error := one.exception()) is not None]
        if failed:
            for one in done:
                if one.exception() is None:
                    one.result().leave()
            raise failed[0]
        return [one.result() for one in begun]

    def _take_in(self, workers: list[Worker]) -> None:
        for worker in workers:
            self._crew.add(worker)
            watch = asyncio.ensure_future(self._watch(worker))
            self._watching.add(watch)
            watch.add_done_callback(self._watching.discard)
            self._give(worker)

    async def _watch(self, worker: Worker) -> None:
        """Start another worker where this one ends unasked."""
        status = await worker.process.wait()
        worker.end()
        self._crew.discard(worker)
        with contextlib.suppress(ValueError):
            self._idle.remove(worker)
        if worker.retired or self._closing:
            return
        cause = f"signal {-status}" if status < 0 else f"status {status}"
        self._say(f"a worker ended ({cause}); another one is started")
        self.restarts += 1
        failures = 0
        while not self._closing and len(self._crew) < self.size:
            await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])
            try:
                async with self._changing:
                    if len(self._crew) < self.size:
                        self._take_in([await Worker.start(self.orders)])
            except ReleaseError as error:
                failures += 1
                self._say(f"a worker does not start: {error}")

    async def _wait(self, gone: Callable[[], Awaitable[None]] | None) -> Worker:
        if self._closing:
            raise self._refusal("stopping", "the server is stopping")
        if len(self._queue) >= self.bounds.waiting:
            raise self._refusal("overloaded", f"{len(self._queue)} calls are waiting already")
        place: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        leaving: asyncio.Future[None] = asyncio.ensure_future(gone()) if gone is not None else asyncio.Future()
        try:
            both: list[asyncio.Future[Any]] = [place, leaving]
            await asyncio.wait(both, timeout=self.bounds.wait_seconds, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if place.done() and place.exception() is None:
                self._give(place.result())
            raise
        finally:
            left = leaving.done()
            leaving.cancel()
            if not place.done():
                place.cancel()
                with contextlib.suppress(ValueError):
                    self._queue.remove(place)
        if not place.cancelled():
            return place.result()
        if left:
            raise CallError("gone", "the caller has hung up", "wait for the answer", 499)
        raise self._refusal("overloaded", f"no worker was free for {self.bounds.wait_seconds:g} s")

    async def _work(self, worker: Worker, task: Task, question: str, call: Call) -> Reply:
        began = time.perf_counter()
        try:
            reply = await asyncio.wait_for(worker.exchange(task, question, call), self.bounds.work_seconds)
        except TimeoutError:
            worker.end()
            limit = f"{self.bounds.work_seconds:g}"
            raise CallError(
                "timeout", f"the call took longer than {limit} s", "send fewer or smaller images", 503
            ) from None
        except WorkerEnded:
            worker.end()
            raise
        self._seconds += 0.05 * (time.perf_counter() - began - self._seconds)
        self._give(worker)
        return reply

    def _give(self, worker: Worker) -> None:
        """Give a worker that is free to the call that waits longest, or let it rest."""
        if worker.retired:
            worker.leave()
            return
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(worker)
                return
        self._idle.append(worker)

    def _refusal(self, code: str, message: str) -> CallError:
        seconds = math.ceil(max(1.0, self._seconds * (len(self._queue) + 1) / max(1, len(self._crew))))
        return CallError(code, message, COME_BACK, 503, {"retry-after": str(seconds)})

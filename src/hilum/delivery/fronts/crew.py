"""The crew: worker processes that answer calls, one call at a time each, and the short queue before them.

- A call is accepted only if it will be answered: where too many wait already it is refused at once, with the seconds
  after which to come back. One that waits too long is refused too.
- A worker that ends with a call in its hands is started anew, and the call goes to another worker once; a call that
  ends two workers is refused.
- A worker that needs too long is ended: its call is refused.
- A reload starts a second crew beside the first, and takes it over when all of it has proven itself; until then the
  first one answers, and where the new releases do not load it goes on.

One event loop owns a crew; nothing in it is shared between threads. A worker that has answered gets the next call in
the same step of the loop, before anything is done with its answer: it is what the machine has too few of.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.process import Worker
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.fronts.worker import Orders, Task
from hilum.errors import ReleaseError

ATTEMPTS: Final = 2  # a call that has ended two workers is not tried on a third
RESTART_SECONDS: Final = (0.0, 0.5, 2.0, 5.0)  # before a worker is started anew, by how often it failed in a row
LISTEN_SECONDS: Final = 0.2  # of waiting, after which it is worth a task to know whether the caller is still there
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


@dataclass(eq=False, repr=False)
class _Errand:
    """A call on its way: what is asked, where its reply is waited for, and what ends its waiting."""

    task: Task
    question: str
    call: Call
    gone: Callable[[], Awaitable[None]] | None
    reply: "asyncio.Future[Reply]"
    attempts: int = 0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    leaving: "asyncio.Future[None] | None" = None

    def refuse(self, error: CallError) -> None:
        """Its reply is a refusal, unless it has one."""
        if not self.reply.done():
            self.reply.set_exception(error)

    def waits_no_more(self) -> None:
        """It has a worker, or a reply."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
        if self.leaving is not None:
            self.leaving.cancel()
            self.leaving = None

    def listen(self) -> None:
        """Drop it when its caller hangs up."""
        assert self.gone is not None, "asked for where there is such a thing"
        self.leaving = asyncio.ensure_future(self.gone())
        self.leaving.add_done_callback(self._left)

    def _left(self, done: "asyncio.Future[None]") -> None:
        if not done.cancelled() and done.exception() is None:
            self.refuse(CallError("gone", "the caller has hung up", "wait for the answer", 499))


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
        self._queue: deque[_Errand] = deque()
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
        if not self._idle and len(self._queue) >= self.bounds.waiting:
            raise self._refusal("overloaded", f"{len(self._queue)} calls are waiting already")
        errand = _Errand(task, question, call, gone, asyncio.get_running_loop().create_future())
        self._accept(errand)
        try:
            return await errand.reply
        finally:
            errand.waits_no_more()
            if errand in self._queue:
                self._queue.remove(errand)

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
            self._queue.popleft().refuse(self._refusal("stopping", "the server is stopping"))
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

    def _accept(self, errand: _Errand, first: bool = False) -> None:
        """Give a call to a worker that is free, or let it wait; `first` before all others."""
        if self._closing:
            errand.refuse(self._refusal("stopping", "the server is stopping"))
        elif self._idle:
            self._hand(self._idle.popleft(), errand)
        else:
            (self._queue.appendleft if first else self._queue.append)(errand)
            loop = asyncio.get_running_loop()
            errand.timers.append(loop.call_later(self.bounds.wait_seconds, self._waited, errand))
            if errand.gone is not None:
                errand.timers.append(loop.call_later(LISTEN_SECONDS, errand.listen))

    def _hand(self, worker: Worker, errand: _Errand) -> None:
        """Give a call to a worker that is free."""
        errand.waits_no_more()
        errand.attempts += 1
        began = time.perf_counter()
        limit = asyncio.get_running_loop().call_later(self.bounds.work_seconds, self._overtime, worker, errand)

        def answered(reply: Reply | None) -> None:
            limit.cancel()
            if reply is None:
                worker.end()
                self._lost(errand)
                return
            self._seconds += 0.05 * (time.perf_counter() - began - self._seconds)
            self._give(worker)
            if not errand.reply.done():
                errand.reply.set_result(reply)

        worker.exchange(errand.task, errand.question, errand.call, answered)

    def _give(self, worker: Worker) -> None:
        """Give a worker that is free to the call that waits longest, or let it rest."""
        if worker.retired:
            worker.leave()
            return
        while self._queue:
            errand = self._queue.popleft()
            if not errand.reply.done():
                self._hand(worker, errand)
                return
        self._idle.append(worker)

    def _lost(self, errand: _Errand) -> None:
        """The worker that held a call has ended."""
        if errand.reply.done():
            return
        if errand.attempts < ATTEMPTS:
            self._accept(errand, first=True)
            return
        wrong = "the workers that held this call have ended"
        errand.refuse(CallError("worker_ended", wrong, COME_BACK, 503, {"retry-after": "5"}))

    def _waited(self, errand: _Errand) -> None:
        """A call has waited as long as it may."""
        errand.refuse(self._refusal("overloaded", f"no worker was free for {self.bounds.wait_seconds:g} s"))

    def _overtime(self, worker: Worker, errand: _Errand) -> None:
        """A worker has worked on a call as long as it may."""
        limit = f"{self.bounds.work_seconds:g}"
        wrong = f"the call took longer than {limit} s"
        errand.refuse(CallError("timeout", wrong, "send fewer or smaller images", 503))
        worker.end()

    def _refusal(self, code: str, message: str) -> CallError:
        seconds = math.ceil(max(1.0, self._seconds * (len(self._queue) + 1) / max(1, len(self._crew))))
        return CallError(code, message, COME_BACK, 503, {"retry-after": str(seconds)})

"""The crew: worker processes that answer calls, and the short queue before them.

- A call is accepted only if it will be answered: where too many wait already it is refused at once, with the seconds
  after which to come back. One that waits too long is refused too.
- A worker that ends with a call in its hands is started anew, and the call goes to another worker once; a call that
  ends two workers is refused.
- A worker that needs too long is ended: its call is refused.
- A reload starts a second crew beside the first, and takes it over when all of it has proven itself; until then the
  first one answers, and where the new releases do not load it goes on.

- A worker is what the machine has too few of. While it works, the next call is laid ready beside it; where another one
  is free before it comes to that, the call is withdrawn and goes there.

One event loop owns a crew; nothing in it is shared between threads. A worker that has answered gets another call in the
same step of the loop, before anything is done with its answer.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.errand import Errand
from hilum.delivery.fronts.process import Held, Worker
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.fronts.worker import Orders, Task
from hilum.errors import ReleaseError

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
        self._queue: deque[Errand] = deque()
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
        """Calls that no worker has begun with."""
        return len(self._queue) + sum(len(worker.laid) for worker in self._crew)

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
        if not self._idle and (waiting := self.waiting) >= self.bounds.waiting:
            raise self._refusal("overloaded", f"{waiting} calls are waiting already")
        errand = Errand(task, question, call, gone, asyncio.get_running_loop().create_future())
        self._accept(errand)
        try:
            return await errand.reply
        except (CallError, asyncio.CancelledError):
            self._drop(errand)
            raise
        finally:
            errand.waits_no_more()

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

    async def _start(self, orders: Orders) -> Worker:
        return await Worker.start(orders, self._answered, self._ended)

    async def _started(self, orders: Orders) -> list[Worker]:
        begun = [asyncio.ensure_future(self._start(orders)) for _ in range(self.size)]
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
            self._feed(worker)

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
                        self._take_in([await self._start(self.orders)])
            except ReleaseError as error:
                failures += 1
                self._say(f"a worker does not start: {error}")

    def _accept(self, errand: Errand, first: bool = False) -> None:
        """Give a call to a worker, or let it wait; `first` before all others."""
        if self._closing:
            errand.refuse(self._refusal("stopping", "the server is stopping"))
        elif self._idle:
            self._lay(self._idle.popleft(), errand)
        else:
            errand.waits(self.bounds.wait_seconds, self._waited)
            if (worker := self._soonest()) is not None:
                self._lay(worker, errand)
            else:
                (self._queue.appendleft if first else self._queue.append)(errand)

    def _soonest(self) -> Worker | None:
        """The worker beside which a call may be laid that has worked longest on what it holds."""
        able = [worker for worker in self._crew if worker.room and worker.held]
        return min(able, key=lambda worker: worker.held[0].began, default=None)

    def _lay(self, worker: Worker, errand: Errand) -> None:
        """Send a call to a worker, which begins with it now if it holds no other."""
        if worker.take(errand) is worker.held[0]:
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        """A worker begins with the first call that it holds."""
        held, loop = worker.held[0], asyncio.get_running_loop()
        held.began = loop.time()
        held.limit = loop.call_later(self.bounds.work_seconds, self._overtime, worker, held)
        if not held.withdrawn:
            held.errand.waits_no_more()
            held.errand.attempts += 1

    def _answered(self, worker: Worker, held: Held, reply: Reply | None) -> None:
        """A worker has answered a call, or seen that it was withdrawn."""
        assert held.limit is not None, "it had begun"
        held.limit.cancel()
        if worker.held:
            self._begin(worker)
        self._feed(worker)
        if reply is not None:
            self._seconds += 0.05 * (asyncio.get_running_loop().time() - held.began - self._seconds)
            if not held.errand.reply.done():
                held.errand.reply.set_result(reply)

    def _feed(self, worker: Worker) -> None:
        """Give a worker what it has room for, or let it rest, or leave."""
        while worker.room and (errand := self._next(worker)) is not None:
            self._lay(worker, errand)
        if worker.held:
            return
        if worker.retired:
            worker.leave()
        else:
            self._idle.append(worker)

    def _next(self, worker: Worker) -> Errand | None:
        """The call that waits longest; for a worker with nothing in its hands also one that is laid beside another."""
        while self._queue:
            errand = self._queue.popleft()
            if not errand.reply.done():
                return errand
        if worker.held:
            return None
        able = [other for other in self._crew if any(not held.errand.reply.done() for held in other.laid)]
        if not able:
            return None
        last = max(able, key=lambda other: other.held[0].began)
        errand = last.laid[0].errand
        last.withdraw(errand)
        return errand

    def _drop(self, errand: Errand) -> None:
        """Nobody waits for a call any more."""
        with contextlib.suppress(ValueError):
            self._queue.remove(errand)
        for worker in self._crew:
            worker.withdraw(errand)

    def _ended(self, worker: Worker, holding: Sequence[Held]) -> None:
        """A worker has ended; what it held goes to others."""
        if not worker.retired:
            worker.end()
        with contextlib.suppress(ValueError):
            self._idle.remove(worker)
        for held in reversed(holding):  # so that the first of them is the first again
            if held.limit is not None:
                held.limit.cancel()
            if not held.withdrawn:
                self._lost(held.errand)

    def _lost(self, errand: Errand) -> None:
        """The worker that held a call has ended."""
        if errand.reply.done():
            return
        if errand.attempts < ATTEMPTS:
            self._accept(errand, first=True)
            return
        wrong = "the workers that held this call have ended"
        errand.refuse(CallError("worker_ended", wrong, COME_BACK, 503, {"retry-after": "5"}))

    def _waited(self, errand: Errand) -> None:
        """A call has waited as long as it may."""
        errand.refuse(self._refusal("overloaded", f"no worker was free for {self.bounds.wait_seconds:g} s"))

    def _overtime(self, worker: Worker, held: Held) -> None:
        """A worker has worked on a call as long as it may."""
        if not held.withdrawn:
            wrong = f"the call took longer than {self.bounds.work_seconds:g} s"
            held.errand.refuse(CallError("timeout", wrong, "send fewer or smaller images", 503))
        worker.end()

    def _refusal(self, code: str, message: str) -> CallError:
        seconds = math.ceil(max(1.0, self._seconds * (self.waiting + 1) / max(1, len(self._crew))))
        return CallError(code, message, COME_BACK, 503, {"retry-after": str(seconds)})

"""A call on its way through the crew: what is asked, where its reply is waited for, and what ends its waiting."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.fronts.worker import Task

LISTEN_SECONDS: Final = 0.2  # of waiting, after which it is worth a task to know whether the caller is still there


@dataclass(eq=False, repr=False)
class Errand:
    """A call on its way.

    Attributes:
        task: What is asked.
        question: Of which desk.
        call: The call.
        gone: Returns when the caller has hung up.
        reply: Where its reply is waited for.
        attempts: Workers that have begun with it.
    """

    task: Task
    question: str
    call: Call
    gone: Callable[[], Awaitable[None]] | None
    reply: "asyncio.Future[Reply]"
    attempts: int = 0
    _timers: list[asyncio.TimerHandle] = field(default_factory=list)
    _leaving: "asyncio.Future[None] | None" = None

    def refuse(self, error: CallError) -> None:
        """Its reply is a refusal, unless it has one."""
        if not self.reply.done():
            self.reply.set_exception(error)

    def waits(self, seconds: float, too_long: Callable[["Errand"], None]) -> None:
        """It waits from now on: at most so long, and while its caller does."""
        self.waits_no_more()
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(seconds, too_long, self))
        if self.gone is not None:
            self._timers.append(loop.call_later(LISTEN_SECONDS, self._listen))

    def waits_no_more(self) -> None:
        """A worker has begun with it, or it has a reply."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _listen(self) -> None:
        """Drop it when its caller hangs up."""
        assert self.gone is not None, "asked for where there is such a thing"
        self._leaving = asyncio.ensure_future(self.gone())
        self._leaving.add_done_callback(self._left)

    def _left(self, done: "asyncio.Future[None]") -> None:
        if not done.cancelled() and done.exception() is None:
            self.refuse(CallError("gone", "the caller has hung up", "wait for the answer", 499))

"""The crew in this process, over real workers: what is laid ready, withdrawn, tried again and refused.

A worker is stopped where its slowness is asked for: a signal is as slow as anything can be, and ends when it should.
"""

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager

import pytest
from coroutines import finished
from releasing import drawn_image, encoded

from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.crew import Bounds, Crew
from hilum.delivery.fronts.refusals import CallError
from hilum.delivery.fronts.worker import SHARED_BYTES, Orders

SECONDS = 20


class StoppedCrew(Crew):
    """One whose workers are stopped before they get a call."""

    def _take_in(self, workers):
        for worker in workers:
            send(worker, signal.SIGSTOP)
        super()._take_in(workers)


def run(release, size, bounds, asked, kind=Crew):
    """The result of a coroutine that is given a crew."""

    async def inside():
        async with working(kind, release, size, bounds) as crew:
            return await asyncio.wait_for(asked(crew), 3 * SECONDS)

    return finished(inside())


@asynccontextmanager
async def working(kind, release, size, bounds):
    crew = kind(Orders((str(release),), "onnxruntime-fp32"), size, bounds, lambda _: None)
    await crew.start()
    try:
        yield crew
    finally:
        for worker in crew._crew:
            send(worker, signal.SIGCONT)
        await crew.stop()


def film(view="PA"):
    return Call(encoded(drawn_image(view)), {"x-neighbours": "2"}, {})


def asking(crew, call=None, gone=None):
    return asyncio.ensure_future(crew.ask("predictions", "embeddings", call or film(), gone))


def send(worker, number):
    if worker.process.returncode is None:
        os.kill(worker.process.pid, number)


async def until(true):
    async with asyncio.timeout(SECONDS):
        while not true():
            await asyncio.sleep(0.01)


async def refusal(asked):
    with pytest.raises(CallError) as caught:
        await asked
    return caught.value


def vector(reply):
    assert reply.status == 200
    return json.loads(reply.body)["embedding"]


def test_the_next_call_lies_ready_and_each_gets_its_own_answer(xr_release):
    async def asked(crew):
        [worker] = crew._crew
        alone = [vector(await asking(crew, film(view))) for view in ("PA", "AP", "PA")]
        send(worker, signal.SIGSTOP)
        together = [asking(crew, film(view)) for view in ("PA", "AP", "PA")]
        await asyncio.sleep(0.1)
        assert [held.slot for held in worker.held] == [0, 1]
        assert (crew.waiting, worker.room, len(crew._queue)) == (2, 0, 1)
        send(worker, signal.SIGCONT)
        assert [vector(await one) for one in together] == alone
        assert alone[0] != alone[1]
        assert crew.waiting == 0

    run(xr_release, 1, Bounds(), asked)


def test_a_body_that_no_slot_holds_waits_its_turn_too(xr_release):
    async def asked(crew):
        large = Call(b"\x89PNG\r\n\x1a\n" + bytes(SHARED_BYTES), {}, {})
        [worker] = crew._crew
        send(worker, signal.SIGSTOP)
        together = [asking(crew, one) for one in (film(), large, film(), large)]
        await asyncio.sleep(0.1)
        send(worker, signal.SIGCONT)
        assert [(await one).status for one in together] == [200, 422, 200, 422]

    run(xr_release, 1, Bounds(), asked)


def test_who_is_free_first_takes_what_lies_beside_another(xr_release):
    async def asked(crew):
        for worker in crew._crew:
            send(worker, signal.SIGSTOP)
        together = [asking(crew) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert [len(worker.held) for worker in crew._crew] == [2, 2]
        slow, quick = crew._crew
        send(quick, signal.SIGCONT)
        await until(lambda: sum(one.done() for one in together) == 3)
        assert [held.withdrawn for held in slow.held] == [False, True]
        send(slow, signal.SIGCONT)
        for one in together:
            vector(await one)
        await until(lambda: not slow.held)
        assert sorted(worker.room for worker in crew._crew) == [2, 2]
        vector(await asking(crew))

    run(xr_release, 2, Bounds(), asked)


def test_what_lay_ready_does_not_pay_for_the_call_before_it(xr_release):
    async def asked(crew):
        first, second = asking(crew), asking(crew, film("AP"))
        for killed in (0, 1):
            await until(lambda killed=killed: crew.restarts == killed and any(len(one.held) == 2 for one in crew._crew))
            [worker] = crew._crew
            assert [held.errand.attempts for held in worker.held] == [killed + 1, 0]
            send(worker, signal.SIGKILL)
        assert (await refusal(first)).code == "worker_ended"
        await until(lambda: crew.restarts == 2 and crew.alive)
        [worker] = crew._crew
        send(worker, signal.SIGCONT)
        vector(await second)

    run(xr_release, 1, Bounds(), asked, StoppedCrew)


def test_a_call_whose_caller_has_gone_is_withdrawn(xr_release):
    async def asked(crew):
        gone = asyncio.Event()
        [worker] = crew._crew
        send(worker, signal.SIGSTOP)
        kept, left = asking(crew), asking(crew, gone=gone.wait)
        await asyncio.sleep(0.5)
        assert crew.waiting == 1
        gone.set()
        assert (await refusal(left)).code == "gone"
        assert crew.waiting == 0
        assert [held.withdrawn for held in worker.held] == [False, True]
        send(worker, signal.SIGCONT)
        vector(await kept)
        vector(await asking(crew))

    run(xr_release, 1, Bounds(), asked)


def test_lying_ready_is_waiting(xr_release):
    async def asked(crew):
        [worker] = crew._crew
        send(worker, signal.SIGSTOP)
        kept, late = asking(crew), asking(crew)
        await asyncio.sleep(0)
        full = await refusal(crew.ask("predictions", "embeddings", film()))
        assert (full.code, int(full.headers["retry-after"]) >= 1) == ("overloaded", True)
        assert (await refusal(late)).code == "overloaded"  # after wait_seconds
        send(worker, signal.SIGCONT)
        vector(await kept)

    run(xr_release, 1, Bounds(waiting=1, wait_seconds=0.3), asked)


def test_who_takes_too_long_is_ended_and_what_lay_beside_it_is_answered(xr_release):
    async def asked(crew):
        [worker] = crew._crew
        send(worker, signal.SIGSTOP)
        slow, beside = asking(crew), asking(crew)
        assert (await refusal(slow)).code == "timeout"
        vector(await beside)
        assert crew.restarts == 1

    run(xr_release, 1, Bounds(work_seconds=1.0), asked)


def test_a_crew_that_stops_answers_what_its_workers_hold(xr_release):
    async def asked(crew):
        [worker] = crew._crew
        send(worker, signal.SIGSTOP)
        held = [asking(crew), asking(crew)]
        queued = asking(crew)
        await asyncio.sleep(0.1)
        stopping = asyncio.ensure_future(crew.stop())
        assert (await refusal(queued)).code == "stopping"
        assert (await refusal(crew.ask("predictions", "embeddings", film()))).code == "stopping"
        send(worker, signal.SIGCONT)
        for one in held:
            vector(await one)
        await stopping
        assert worker.process.returncode == 0

    run(xr_release, 1, Bounds(), asked)


def test_workers_that_leave_for_others_answer_what_they_hold(xr_release):
    async def asked(crew):
        [before] = crew._crew
        send(before, signal.SIGSTOP)
        held = [asking(crew), asking(crew)]
        await asyncio.sleep(0.1)
        await crew.reload(crew.orders)
        [after] = crew._crew
        assert after is not before
        vector(await asking(crew))
        send(before, signal.SIGCONT)
        for one in held:
            vector(await one)
        assert await asyncio.wait_for(before.process.wait(), SECONDS) == 0

    run(xr_release, 1, Bounds(), asked)

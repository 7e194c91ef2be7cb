"""Minutes at four fifths of what a server can do: no error, no growth, no call that takes much longer than most.

What it can do depends on the machine, and a lent machine has neighbours: one was seen to fall to 0.6 of its speed for
seconds at a time. So the caller times a fixed piece of work beside its calls, and four fifths stay four fifths of what
the machine can do just then.
"""

import asyncio
import os
import time

import httpx
import numpy as np
import psutil
import pytest
from coroutines import finished
from releasing import drawn_image, encoded
from threadpoolctl import threadpool_limits

SECONDS = float(os.environ.get("HILUM_SOAK_SECONDS", "600"))
LATE = 0.05


class Pace:
    """How fast the machine is just now, as a share of how fast it was while its capacity was measured.

    By the processor time of a fixed piece of work, not by the clock: waiting for a core that the server holds is no
    slowness of the machine's.
    """

    def __init__(self):
        self._factor = np.random.default_rng(0).normal(size=(160, 160))
        self.seen = []
        self._usual = None

    def look(self):
        began = time.thread_time()
        for _ in range(3):
            self._factor @ self._factor
        self.seen.append(time.thread_time() - began)

    async def watch(self, seconds):
        """Look until the end of that many seconds, and take what was seen for the machine's full speed."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.look()
            await asyncio.sleep(0.1)
        self._usual = float(np.median(self.seen))

    def share(self, last=3):
        return min(1.0, self._usual / float(np.median(self.seen[-last:])))


async def capacity(client, path, film, seconds, at_once=4):
    """Calls per second in a closed loop."""
    end, done = time.perf_counter() + seconds, 0

    async def loop():
        nonlocal done
        while time.perf_counter() < end:
            (await client.post(path, content=film)).raise_for_status()
            done += 1

    await asyncio.gather(*(loop() for _ in range(at_once)))
    return done / seconds


async def steadily(client, path, film, rate, pace, watch):
    """Calls whether or not the ones before are answered, for SECONDS: their milliseconds and statuses.

    They come at the rate times the pace of the machine. Where this process itself comes late by more than LATE, the
    times after it move: a machine that stood still would otherwise be followed by more calls at once than the load that
    is meant. Returned last are the seconds by which they moved, and the pace from call to call.
    """
    took, statuses, running, moved, paces = [], [], set(), 0.0, []

    async def one(begun):
        answer = await client.post(path, content=film)
        took.append(1e3 * (time.perf_counter() - begun))
        statuses.append(answer.status_code)

    planned = start = time.perf_counter()
    looked = watched = 0.0
    while planned < start + SECONDS:
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        now = time.perf_counter()
        late = max(0.0, now - planned - LATE)
        moved += late
        task = asyncio.ensure_future(one(now))
        running.add(task)
        task.add_done_callback(running.discard)
        if now - looked > 0.1:
            pace.look()
            looked = now
        if now - watched > SECONDS / 40:
            watch()
            watched = now
        paces.append(pace.share())
        planned += late + 1 / (rate * paces[-1])
    await asyncio.gather(*running)
    return took, statuses, moved, paces


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_a_long_time_at_four_fifths_of_its_load(xr_release, mr_release, starlette_front):
    film, path = encoded(drawn_image("PA", 1024), "JPEG"), "/predictions/pneumonia"
    with starlette_front([xr_release, mr_release]) as front, threadpool_limits(1):
        process = psutil.Process(front.running.process.pid)
        sizes, pace = [], Pace()

        def watch():
            sizes.append(sum(one.memory_info().rss for one in (process, *process.children())))

        async def soak():
            headers = {"Authorization": f"Bearer {front.running.token}", "Content-Type": "application/octet-stream"}
            async with httpx.AsyncClient(base_url=front.running.url, headers=headers, timeout=30) as client:
                await capacity(client, path, film, 3.0)  # warm
                can, _ = await asyncio.gather(capacity(client, path, film, 10.0), pace.watch(10.0))
                return 0.8 * can, *await steadily(client, path, film, 0.8 * can, pace, watch)

        rate, took, statuses, moved, paces = finished(soak())
    p50, p99 = np.percentile(took, [50, 99])
    first, last = np.mean(sizes[4:12]), np.mean(sizes[-8:])
    print(
        f"{len(statuses)} calls at {rate:.0f}/s of a machine at {np.mean(paces):.2f} of its pace (lowest "
        f"{min(paces):.2f}): p50 {p50:.1f} ms, p99 {p99:.1f} ms, memory {first / 1e6:.0f} to {last / 1e6:.0f} MB; "
        f"{statuses.count(503)} refused, {moved:.1f} s late itself"
    )
    assert moved < 0.01 * SECONDS  # else it was no such load
    assert np.mean(paces) > 0.75  # nor here
    assert set(statuses) == {200}
    assert last < 1.05 * first
    assert p99 <= 3 * p50

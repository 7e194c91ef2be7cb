"""Minutes at four fifths of what a server can do: no error, no growth, no call that takes much longer than most."""

import asyncio
import os
import time

import httpx
import numpy as np
import psutil
import pytest
from coroutines import finished
from releasing import drawn_image, encoded

SECONDS = float(os.environ.get("HILUM_SOAK_SECONDS", "600"))
LATE = 0.05


async def capacity(client, path, film, seconds=8.0, at_once=4):
    """Calls per second in a closed loop."""
    end, done = time.perf_counter() + seconds, 0

    async def loop():
        nonlocal done
        while time.perf_counter() < end:
            (await client.post(path, content=film)).raise_for_status()
            done += 1

    await asyncio.gather(*(loop() for _ in range(at_once)))
    return done / seconds


async def steadily(client, path, film, rate, seconds, watch):
    """Calls at fixed times, whether or not the ones before are answered: their milliseconds and statuses.

    Where this process itself comes late by more than LATE, the times after it move: a machine that stood still would
    otherwise be followed by more calls at once than the load that is meant. Returned last is by how much they moved.
    """
    took, statuses, running, moved = [], [], set(), 0.0

    async def one(planned):
        answer = await client.post(path, content=film)
        took.append(1e3 * (time.perf_counter() - planned))
        statuses.append(answer.status_code)

    start = time.perf_counter()
    for number in range(int(rate * seconds)):
        planned = start + moved + number / rate
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        moved += max(0.0, time.perf_counter() - planned - LATE)
        task = asyncio.ensure_future(one(time.perf_counter()))
        running.add(task)
        task.add_done_callback(running.discard)
        if number % max(1, int(rate * seconds / 40)) == 0:
            watch()
    await asyncio.gather(*running)
    return took, statuses, moved


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_a_long_time_at_four_fifths_of_its_load(xr_release, mr_release, starlette_front):
    film, path = encoded(drawn_image("PA", 1024), "JPEG"), "/predictions/pneumonia"
    with starlette_front([xr_release, mr_release]) as front:
        process = psutil.Process(front.running.process.pid)
        sizes = []

        def watch():
            sizes.append(sum(one.memory_info().rss for one in (process, *process.children())))

        async def soak():
            headers = {"Authorization": f"Bearer {front.running.token}", "Content-Type": "application/octet-stream"}
            async with httpx.AsyncClient(base_url=front.running.url, headers=headers, timeout=30) as client:
                rate = 0.8 * await capacity(client, path, film)
                return rate, *await steadily(client, path, film, rate, SECONDS, watch)

        rate, took, statuses, moved = finished(soak())
    p50, p99 = np.percentile(took, [50, 99])
    first, last = np.mean(sizes[4:12]), np.mean(sizes[-8:])
    print(
        f"{len(statuses)} calls at {rate:.0f}/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"memory {first / 1e6:.0f} to {last / 1e6:.0f} MB; {statuses.count(503)} refused, {moved:.1f} s late itself"
    )
    assert moved < 0.01 * SECONDS  # else it was no such load
    assert set(statuses) == {200}
    assert last < 1.05 * first
    assert p99 <= 3 * p50

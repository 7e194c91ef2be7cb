"""Mutated files over HTTP: every answer has a status of its own, no worker dies, memory stays as it was."""

import http.client
import json
import re

import psutil
import pytest
from mutating import FORMATS, mutants

EXPECTED = {200, 400, 413, 415, 422}


def exchanged(front, contents):
    """Statuses of many calls over one connection, and what was said of each."""
    host, port = front.running.url.removeprefix("http://").split(":")
    headers = {"Authorization": f"Bearer {front.running.token}", "Content-Type": "application/octet-stream"}
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    for number, content in enumerate(contents):
        question = ("embeddings", "pneumonia")[number % 2]
        connection.request("POST", f"/predictions/{question}", content, headers)
        answer = connection.getresponse()
        yield content, answer.status, json.loads(answer.read())
    connection.close()


def fuzzed(front, count, seed):
    process = psutil.Process(front.running.process.pid)
    workers = process.children()
    sizes = []
    for kind in FORMATS:
        for number, (content, status, said) in enumerate(exchanged(front, mutants(kind, count, seed))):
            assert status in EXPECTED, (kind, number, status, said, content[:64])
            if status != 200:
                assert set(said) == {"code", "status", "message", "right"}
                assert "ecret" not in said["message"]  # what the made headers say of their patients
            if number % max(1, count // 10) == 0:
                sizes.append(sum(one.memory_info().rss for one in (process, *workers)))
    assert process.children() == workers  # none has ended
    text = front.ask("/metrics", port="metrics", authorized=False).body.decode()
    assert re.search(r"^hilum_worker_restarts 0\.0$", text, re.MULTILINE)
    return sizes


@pytest.fixture(scope="module")
def front(xr_release, mr_release, starlette_front):
    with starlette_front([xr_release, mr_release], "--workers", "1") as running:
        yield running


def test_more_than_a_thousand_mutants(front):
    fuzzed(front, 400, seed=7)


@pytest.mark.slow
def test_twenty_thousand_mutants_leave_memory_as_it_was(front):
    fuzzed(front, 500, seed=1)  # what is allocated once
    sizes = fuzzed(front, 20_000 // len(FORMATS), seed=2)
    first, last = sum(sizes[:4]) / 4, sum(sizes[-4:]) / 4
    assert last - first < 64e6, (first, last)

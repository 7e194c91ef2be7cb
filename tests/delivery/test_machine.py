"""Cores and ports."""

import os
import socket

import pytest

from hilum.delivery import machine
from hilum.errors import UsageError


def test_cores_are_those_that_the_control_group_leaves(tmp_path):
    here = len(os.sched_getaffinity(0))
    quota = tmp_path / "cpu.max"
    assert machine.usable_cores(tmp_path / "none") == here
    quota.write_text("max 100000\n")
    assert machine.usable_cores(quota) == here
    quota.write_text("50000 100000\n")
    assert machine.usable_cores(quota) == 1
    quota.write_text("150000 100000\n")
    assert machine.usable_cores(quota) == min(2, here)


def test_workers_and_their_threads_fill_the_cores_and_no_more(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    assert [machine.workers_for(threads) for threads in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert [machine.workers_for(1, models=2), machine.workers_for(2, models=3)] == [4, 1]


def test_a_port_that_is_taken_is_refused_and_a_free_one_is_not():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} cannot be used"):
            machine.refuse_taken("127.0.0.1", port)
    free = machine.free_port("127.0.0.1", [port])
    assert free != port
    machine.refuse_taken("127.0.0.1", free)
    with pytest.raises(UsageError, match="70000 is no port"):
        machine.refuse_taken("127.0.0.1", 70000)

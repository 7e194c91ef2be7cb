"""What a server finds on its machine: cores that it may use, and ports that are free; and what it leaves to others."""

import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from threadpoolctl import threadpool_limits

from hilum.errors import UsageError


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: by affinity, and by the quota of its control group (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text(encoding="utf-8").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or `max`: no quota
        return max(1, cores)


def workers_for(threads: int, models: int = 1) -> int:
    """Worker processes per model, so that all of them together have a thread per usable core, and no fewer than one."""
    return max(1, usable_cores() // (threads * models))


def bound_arithmetic(threads: int) -> None:
    """Let NumPy's matrix products use this many threads, in a process that stands beside others like it.

    OpenBLAS keeps a thread per core, and each goes on spinning for a while after a product that it took part in: with a
    worker on every core, they take the cores from one another.
    """
    threadpool_limits(threads, user_api="blas")


def free_port(host: str, besides: Sequence[int] = ()) -> int:
    """A port that nothing listens on, other than `besides`."""
    while True:
        with socket.socket() as asked:
            asked.bind((host, 0))
            port = int(asked.getsockname()[1])
        if port not in besides:
            return port


def refuse_taken(host: str, port: int) -> None:
    """Refuse a port that something listens on, or that is none; 0 stands for any free one.

    Raises:
        UsageError: It is taken.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"{port} is no port; name one between 1024 and 65533 with --port")
    with socket.socket() as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used ({error.strerror}); name another with --port, which also moves "
                "management (+1) and metrics (+2)"
            ) from error

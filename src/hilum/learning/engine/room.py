"""How much memory there is: on the GPU, and on the host as far as this process may use it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Room:
    """How much memory is free.

    Attributes:
        host: Bytes of host memory that this process may still take.
        gpu: Bytes of the GPU's memory; None where there is no GPU.
    """

    host: int
    gpu: int | None = None


def room(device: torch.device) -> Room:
    """What is free now; memory that torch holds for reuse counts as free."""
    if device.type != "cuda":
        return Room(free_host_bytes())
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Room(free_host_bytes(), int(free + held))


def free_host_bytes(system: Path = Path("/")) -> int:
    """Host memory that this process may still take: of the machine, and of its control groups (version 1 or 2).

    Args:
        system: Where `proc` and `sys` lie.
    """
    facts = dict(line.split(":", 1) for line in (system / "proc/meminfo").read_text(encoding="utf-8").splitlines())
    free = int(facts["MemAvailable"].split()[0]) * 1024
    for folder, limit, used, idle in _groups(system):
        try:
            bound = int((folder / limit).read_text(encoding="utf-8"))  # `max` is none
            taken = int((folder / used).read_text(encoding="utf-8"))
            lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            continue
        cached = next((int(line.split()[1]) for line in lines if line.split()[0] == idle), 0)
        free = min(free, bound - taken + cached)  # pages of files are given back when memory is asked for
    return max(free, 0)


def _groups(system: Path) -> Iterator[tuple[Path, str, str, str]]:
    """This process's control groups and those above: folder, files of limit and use, name of the idle file pages."""
    try:
        lines = (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers == "":
            root, files = system / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = system / "sys/fs/cgroup/memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / own.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            yield group, *files


def size_told(n_bytes: float) -> str:
    """Bytes for people: three digits and a unit of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"

"""What judgement costs, and how the cost grows: time and memory of every part at 1,000, 20,000 and 223,414 rows.

    python benchmarks/growth.py                                       # all parts at all sizes: some hours
    python benchmarks/growth.py --sizes 1000,20000 --parts probe-rbf,head,audit
    python benchmarks/growth.py --limit 30                            # minutes that a part may take

Labels, sex, age and view are those of CheXpert's table, sampled by patient; embeddings and images are made
(benchmarks/growth_cohort.py). Each part runs in a process of its own. Its clock begins when its libraries are imported;
its memory is the most that the process held in RAM, pages of memory-mapped files and libraries among it. Growth between
two sizes is the exponent x in cost ~ rows^x: of processor time, which other programs on the machine hardly change. A
part that passes the limit is ended, and its cell says so. What is done is kept in the work folder: a run that was
stopped goes on where it was, and parts that were measured with this code are not measured again.
"""

import argparse
import math
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where PYTHONSAFEPATH is set, as in the Makefile
from growth_cohort import make
from growth_parts import PARTS

from hilum.data.store import read_json, write_json
from hilum.errors import HilumError, UsageError
from hilum.identity import code_revision

ROOT: Final = Path(__file__).resolve().parents[1]
TABLE: Final = ROOT / ".." / "shared" / "data" / "metadata" / "chexpert_train.csv.gz"
SIZES: Final = (1_000, 20_000, 223_414)  # the last is the whole of CheXpert's training table
EVERY_SECONDS: Final = 0.2  # between two looks at a running part
DONE, LIMIT, FAILED, MISSING = "done", "limit", "failed", "missing"


@dataclass(frozen=True)
class Measured:
    """What one part took at one size.

    Attributes:
        ended: One of DONE, LIMIT, FAILED, MISSING.
        seconds: By the clock.
        processor_seconds: Of all cores together.
        peak_bytes: Most memory at once.
        load: Of the machine when the part began: processes that wanted a core.
        code: Revision that was measured.
        remark: Size of a page, number of questions, or why it did not end well.
    """

    ended: str
    seconds: float = math.nan
    processor_seconds: float = math.nan
    peak_bytes: float = math.nan
    load: float = math.nan
    code: str = ""
    remark: str = ""


def child(name: str, home: Path) -> None:
    """Measure one part in this process, and write what it took."""
    load = os.getloadavg()[0]
    work = PARTS[name].ready(home)
    clock, processor = time.perf_counter(), time.process_time()
    remark = work()
    seconds, busy = time.perf_counter() - clock, time.process_time() - processor
    found = Measured(DONE, seconds, busy, peak_of(os.getpid()), load, code_revision(), remark)
    write_json(home / f"{name}.json", asdict(found))


def peak_of(process: int) -> float:
    """Most memory that a process held so far, in bytes; NaN where it cannot be read.

    Not `getrusage` where there is /proc: it gives a child the memory of its parent to begin with.
    """
    try:
        said = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.0 if process == os.getpid() else math.nan
    lines = [line.split() for line in said.splitlines() if line.startswith("VmHWM:")]
    return 1024.0 * int(lines[0][1]) if lines else math.nan  # a process that is ending has none


def measure(name: str, home: Path, limit_minutes: float, command: Sequence[str] = ()) -> Measured:
    """Run one part in a process of its own, and end it where it takes too long; keeps what was found in `home`."""
    result = home / f"{name}.json"
    result.unlink(missing_ok=True)
    load, peak, began = os.getloadavg()[0], math.nan, time.perf_counter()
    asked = list(command) or [sys.executable, str(Path(__file__).resolve()), "--child", name, "--work", str(home)]
    # A group of its own, so that threads' and libraries' processes end with it.
    running = subprocess.Popen(asked, start_new_session=True)
    late = False
    try:
        while running.poll() is None and not late:
            time.sleep(EVERY_SECONDS)
            peak = np.fmax(peak, peak_of(running.pid))
            late = time.perf_counter() - began > 60 * limit_minutes
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    if late:
        found = Measured(LIMIT, 60 * limit_minutes, math.nan, float(peak), load, code_revision())
    elif running.returncode == 0 and result.is_file():
        return Measured(**read_json(result))
    else:
        ended = f"signal {-running.returncode}" if running.returncode < 0 else f"exit status {running.returncode}"
        found = Measured(FAILED, math.nan, math.nan, float(peak), load, code_revision(), ended)
    kept = {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in vars(found).items()
    }
    write_json(result, kept)
    return found


def known(name: str, home: Path, limit_minutes: float = math.inf) -> Measured | None:
    """What an earlier run measured with this code: a part that was done, or was ended after as long as it may take."""
    path = home / f"{name}.json"
    if not path.is_file():
        return None
    kept: dict[str, Any] = {key: math.nan if value is None else value for key, value in read_json(path).items()}
    said = Measured(**kept)
    enough = said.ended == DONE or (said.ended == LIMIT and said.seconds >= 60 * limit_minutes)
    return said if enough and said.code == code_revision() else None


def exponent(rows: tuple[int, int], cost: tuple[float, float]) -> float:
    """The x in cost ~ rows^x between two sizes; NaN where a cost is not known."""
    if not all(math.isfinite(one) and one > 0 for one in cost) or rows[0] == rows[1]:
        return math.nan
    return math.log(cost[1] / cost[0]) / math.log(rows[1] / rows[0])


def cell(found: Measured) -> str:
    """One part at one size, as the table says it."""
    if found.ended == DONE:
        return f"{spoken(found.seconds)} ({spoken(found.processor_seconds)}), {found.peak_bytes / 1e9:.2f} GB"
    if found.ended == LIMIT:
        held = f", {found.peak_bytes / 1e9:.2f} GB by then" if math.isfinite(found.peak_bytes) else ""
        return f"ended after {spoken(found.seconds)}, the limit{held}"
    return f"failed: {found.remark}" if found.ended == FAILED else found.remark


def spoken(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `5.1 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def rendered(found: Mapping[int, Mapping[str, Measured]], parts: Sequence[str]) -> str:
    """The table in Markdown.

    Args:
        found: By number of rows and part.
        parts: In the order of the lines.
    """
    sizes = sorted(found)
    steps = list(pairwise(sizes))
    grows = [f"time, {a:,} to {b:,}" for a, b in steps] + [f"memory, {a:,} to {b:,}" for a, b in steps]
    columns = ["part", *(f"{n:,} rows" for n in sizes), *grows, "remark"]
    lines = ["| " + " | ".join(columns) + " |", "|" + " - |" * len(columns)]
    for part in parts:
        at = [found[n].get(part, Measured(MISSING, remark="not asked for")) for n in sizes]
        powers = [
            exponent((sizes[i], sizes[i + 1]), (getattr(at[i], what), getattr(at[i + 1], what)))
            if at[i].ended == at[i + 1].ended == DONE
            else math.nan
            for what in ("processor_seconds", "peak_bytes")
            for i in range(len(steps))
        ]
        remarks = ", ".join(dict.fromkeys(one.remark for one in at if one.ended == DONE))
        shown = ["" if math.isnan(power) else f"n^{power:.2f}" for power in powers]
        lines.append("| " + " | ".join([f"`{part}`", *map(cell, at), *shown, remarks]) + " |")
    return "\n".join(lines)


def machine(found: Mapping[int, Mapping[str, Measured]], dim: int) -> str:
    """What the figures were measured on, and how busy it was."""
    done = [one for of in found.values() for one in of.values() if one.ended == DONE]
    loads = [one.load for one in done] or [os.getloadavg()[0]]
    codes = sorted({one.code for one in done}) or [code_revision()]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    threads = [
        f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ
    ]
    return (
        f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}), {memory:.0f} GB of memory"
        f"{'; ' + ', '.join(threads) if threads else ''}; {dim} dimensions; the machine's load when a part began: "
        f"{min(loads):.1f} to {max(loads):.1f}; code {', '.join(codes)}. A cell: seconds by the clock (of processor), "
        "most memory. Growth is x in cost ~ rows^x, of processor time and of memory."
    )


def run(sizes: Sequence[int], parts: Sequence[str], limit: float, table: Path, dim: int, image: int, work: Path) -> str:
    """Measure what is not known yet, and return the table."""
    found: dict[int, dict[str, Measured]] = {}
    for n in sorted(sizes):
        home = work / f"{n}-{dim}-{image}"
        home.mkdir(parents=True, exist_ok=True)
        rows, patients = make(table, n, dim, image, home)
        print(f"{rows:,} rows of {patients:,} patients", file=sys.stderr, flush=True)
        of = found[rows] = {}
        for name in parts:
            kept = known(name, home, limit)
            lacking = [one for one in PARTS[name].needs if known(one, home) is None]
            if kept is None and lacking:
                of[name] = Measured(MISSING, remark=f"not run: needs {', '.join(lacking)}")
            else:
                of[name] = kept or measure(name, home, limit)
            print(f"{rows:,} rows, {name}: {cell(of[name])}", file=sys.stderr, flush=True)
    return f"{machine(found, dim)}\n\n{rendered(found, parts)}"


def chosen_parts(named: str) -> list[str]:
    """Parts by name, what they need added, in the order in which they can be run.

    Raises:
        UsageError: There is no such part.
    """
    asked = [name for name in named.split(",") if name] or list(PARTS)
    if strange := [name for name in asked if name not in PARTS]:
        raise UsageError(f"there is no part {strange[0]!r}; there are {', '.join(PARTS)}")
    while more := {need for name in asked for need in PARTS[name].needs} - set(asked):
        asked += sorted(more)
    return [name for name in PARTS if name in asked]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="rows, by commas  [default: %(default)s]")
    parser.add_argument("--parts", default="", help=f"by commas, of {', '.join(PARTS)}  [default: all]")
    parser.add_argument("--limit", type=float, default=60.0, help="minutes that a part may take")
    parser.add_argument("--dim", type=int, default=512, help="width of the embeddings")
    parser.add_argument("--image", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--table", type=Path, default=TABLE, help="CheXpert's train.csv")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "growth", help="keeps what is done")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child, options.work)
        return 0
    if not options.table.is_file():
        print(f"growth: not measured, CheXpert's label table is not at {options.table.name}; name it with --table")
        return 0
    try:
        sizes = [int(size) for size in options.sizes.split(",")]
        parts = chosen_parts(options.parts)
        print(run(sizes, parts, options.limit, options.table, options.dim, options.image, options.work))
    except (HilumError, ValueError) as error:
        print(f"growth: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part that runs is ended with this process
    sys.exit(main())

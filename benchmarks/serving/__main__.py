"""Servers on the same release, engine and images: images/s over what the machine can do without a server.

    make bench-serving                                     # all of it: about half an hour, with nothing else running
    python benchmarks/serving --models resnet18 --engines onnxruntime-fp32 --rounds 1 --seconds 2

The ceiling is one process with a thread per core, each with an engine of its own, decoding and resizing included.
All servers are started, and stand still but for their turn. Every round measures a bare call, and then, between one
ceiling and the next, each server at every concurrency; a ratio is over the mean of the two. The server that begins is
another in every round. So all servers get the same of what a machine does in the minutes of a run, and hilum's fronts
are held against the others round by round. Printed are medians over the rounds with their range. What a call costs
beside its image is the processor time of the server's processes per call at 4 at once, less that of the ceiling per
image: it tells what the ratios would be where an image takes longer or shorter. The images are 1024 px JPEGs of drawn
films; weights are random, because time does not depend on them. The load comes from wrk (Debian's package), in a
closed loop.

Servers: `torchserve` and `starlette` are hilum's fronts, as `hilum serve` starts them, with everything they do beside
the graph (dossier, input limits, training cases); the others do no more than decode, resize and run the graph.
`fastapi-plain` is FastAPI as its documentation shows it, an uploaded file and a function; `fastapi` is the fastest that
was found to be made of it, a thread per core with an engine of its own. LitServe and `fastapi-plain` get a form; KServe
gets base64 in JSON, because over HTTP it takes nothing else (with_kserve.py says why).
"""

import argparse
import base64
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where PYTHONSAFEPATH is set, as in the Makefile
from releases import millions, release_of
from same import Same, film
from servers import OWN, ROOT, SERVERS, Target, held, others

from hilum.delivery.machine import usable_cores

CONCURRENCY: Final = (1, 4, 16)
WARM_SECONDS: Final = (3.0, 12.0)  # of load before anything is measured; TorchServe's Java compiles itself meanwhile
T = TypeVar("T")


class Measured(NamedTuple):
    """What one load brought."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_ms: float


def ceiling(release: Path, engine: str, content: bytes, cores: int, seconds: float) -> Measured:
    """One process, a thread per core."""
    same = [Same(str(release), engine) for _ in range(cores)]
    for one in same:
        one(content)
    until, took = time.perf_counter() + seconds, []

    def work(one: Same) -> None:
        while (began := time.perf_counter()) < until:
            one(content)
            took.append(time.perf_counter() - began)

    began, spent = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=work, args=(one,)) for one in same]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    return Measured(len(took) / seconds, *_quantiles(took), 0, 1e3 * spent / len(took))


def bare(release: Path, engine: str, content: bytes, calls: int = 20) -> float:
    """Median milliseconds of a call in this process, one after the other."""
    same, took = Same(str(release), engine), []
    same(content)
    for _ in range(calls):
        began = time.perf_counter()
        same(content)
        took.append(time.perf_counter() - began)
    return 1e3 * statistics.median(took)


def load(target: Target, content: bytes, concurrency: int, seconds: float, work: Path) -> Measured:
    """Wrk in a closed loop."""
    body, script = work / "body", work / "post.lua"
    kind = "application/octet-stream"
    if target.form:
        kind = "multipart/form-data; boundary=bench"
        head = b'--bench\r\nContent-Disposition: form-data; name="request"; filename="a.jpg"\r\n\r\n'
        content = head + content + b"\r\n--bench--\r\n"
    headers = {"Content-Type": kind, **target.headers}
    if target.inference:
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(content).decode()]}
        content = json.dumps({"inputs": [image], "parameters": {"binary_data_output": True}}).encode()
        headers["Inference-Header-Content-Length"] = str(len(content))
    body.write_bytes(content)
    lines = ['wrk.method = "POST"', f'local file = io.open("{body}", "rb")', 'wrk.body = file:read("*a")']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    lines += [
        "done = function(summary, latency, requests)",
        "  io.write(string.format('RESULT %d %d %d %f %f\\n', summary.requests, summary.duration,",
        "    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout,",
        "    latency:percentile(50), latency:percentile(99)))",
        "end",
    ]
    script.write_text("\n".join(lines))
    servers = {one: _spent(one) for one in psutil.Process().children(recursive=True)}
    done = subprocess.run(
        ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script), target.url],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\S+) (\S+)", done.stdout)
    assert found is not None, done.stdout
    requests, microseconds, failed = (int(found[number]) for number in (1, 2, 3))
    spent = sum(_spent(one) - before for one, before in servers.items())
    per_second = 1e6 * (requests - failed) / microseconds
    cpu_ms = 1e3 * spent / max(1, requests)
    return Measured(per_second, float(found[4]) / 1e3, float(found[5]) / 1e3, failed, cpu_ms)


def _spent(process: psutil.Process) -> float:
    """Seconds of processor time of a process; none where it is gone."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def compare(
    release: Path, engine: str, servers: Sequence[str], rounds: int, seconds: float, work: Path
) -> Iterator[str]:
    """The lines of one release and engine, and what is said of them."""
    cores, content = usable_cores(), film()
    ceilings: list[float] = []
    calls_ms: list[float] = []
    found: dict[tuple[str, int], list[tuple[float, Measured]]] = {}
    slower: dict[str, list[float]] = {server: [] for server in servers}
    beside: dict[str, list[float]] = {server: [] for server in servers}
    with ExitStack() as stack:
        running = [stack.enter_context(held(server, release, engine, cores)) for server in servers]
        for server, (target, working) in zip(servers, running, strict=True):
            with working():
                load(target, content, 4, WARM_SECONDS[server == "torchserve"] if seconds >= 2 else seconds, work)
        for turn in range(rounds):
            calls_ms.append(bare(release, engine, content))
            before = ceiling(release, engine, content, cores, seconds)
            ceilings.append(before.per_second)
            for server, (target, working) in _from(turn, list(zip(servers, running, strict=True))):
                with working():
                    load(target, content, 4, 1, work)  # what stood still has lost its caches
                    loads = {c: load(target, content, c, seconds, work) for c in CONCURRENCY}
                after = ceiling(release, engine, content, cores, seconds)
                ceilings.append(after.per_second)
                middle = (before.per_second + after.per_second) / 2
                for c, one in loads.items():
                    found.setdefault((server, c), []).append((one.per_second / middle, one))
                slower[server].append(loads[1].p50_ms / calls_ms[-1])
                beside[server].append(loads[4].cpu_ms - (before.cpu_ms + after.cpu_ms) / 2)
                before = after
    spread = f"{min(ceilings):.1f} to {max(ceilings):.1f}"
    yield (
        f"ceiling {statistics.median(ceilings):.1f} images/s ({spread}); a bare call "
        f"{statistics.median(calls_ms):.1f} ms ({min(calls_ms):.1f} to {max(calls_ms):.1f})\n\n"
        "| server | c=1 | c=4 | c=16 | ratio c=4 | ratio c=16 | p50 c=1 over a bare call | CPU-ms beside | failed |\n"
        "| - | - | - | - | - | - | - | - | - |"
    )
    for server in servers:
        cells = []
        for c in CONCURRENCY:
            of = [one for _, one in found[server, c]]
            cells.append(
                f"{_middle(one.per_second for one in of):.1f} / {_middle(one.p50_ms for one in of):.0f} / "
                f"{_middle(one.p99_ms for one in of):.0f}"
            )
        ratios = [_spread([ratio for ratio, _ in found[server, c]]) for c in (4, 16)]
        failed = sum(one.failed for c in CONCURRENCY for _, one in found[server, c])
        last = [_spread(slower[server]), _spread(beside[server]), str(failed)]
        yield f"| {server} | {' | '.join([*cells, *ratios, *last])} |"
    fronts = [one for one in servers if one in OWN]
    if len(fronts) < len(servers):
        yield "\n| against, round by round | " + " | ".join(f"{one} c={c}" for one in fronts for c in (4, 16)) + " |"
        yield "| - |" + " - |" * 2 * len(fronts)
    for other in (one for one in servers if one not in OWN):
        cells = [_spread(_over(found[one, c], found[other, c])) for one in fronts for c in (4, 16)]
        yield f"| {other} | {' | '.join(cells)} |"


def _from(turn: int, of: Sequence[T]) -> list[T]:
    begins = turn % len(of)
    return [*of[begins:], *of[:begins]]


def _over(own: Sequence[tuple[float, Measured]], other: Sequence[tuple[float, Measured]]) -> list[float]:
    return [mine / theirs for (mine, _), (theirs, _) in zip(own, other, strict=True)]


def _middle(values: Iterator[float]) -> float:
    return statistics.median(values)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return 1e3 * ordered[len(ordered) // 2], 1e3 * ordered[int(0.99 * (len(ordered) - 1))]


def processor() -> str:
    """What the machine computes with."""
    said = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    named = re.search(r"model name\s*: (.*)", said)
    has = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512_vnni") if f" {flag}" in said]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    name = named[1] if named else platform.machine()
    return f"{usable_cores()} cores of {name} ({', '.join(has) or 'neither bf16 nor VNNI'}), {memory:.0f} GB"


def main(arguments: Sequence[str] | None = None, make: Callable[[str, Path], Path] = release_of) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,densenet121", help="backbones, by commas")
    parser.add_argument("--engines", default="onnxruntime-fp32,openvino-bf16", help="by commas")
    parser.add_argument("--servers", default=",".join(SERVERS), help="by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench-serving", help="keeps the releases")
    chosen = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        print("bench-serving: the load generator wrk is missing; apt-get install wrk", file=sys.stderr)
        return 2
    servers = chosen.servers.split(",")
    if set(servers) - set(OWN):
        others()
    print(f"{processor()}; load of the machine when it began: {os.getloadavg()[0]:.1f}")
    print("Cells: images/s / p50 ms / p99 ms, medians over the rounds; the rest: median (range).")
    for model in chosen.models.split(","):
        release = make(model, chosen.work)
        for engine in chosen.engines.split(","):
            print(f"\n### {model}, {engine}\n\n{millions(release):.1f} million weights; ", end="", flush=True)
            with tempfile.TemporaryDirectory() as work:
                for line in compare(release, engine, servers, chosen.rounds, chosen.seconds, Path(work)):
                    print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""gRPC of the Open Inference Protocol: the maintained front beside KServe's Python server, on one release.

    make bench-serving                                  # first: it installs KServe and makes the releases
    python benchmarks/serving/over_grpc.py out/bench-serving/resnet18/release

The image, the engine and the work are those of the benchmark beside this; the load is a closed loop of grpcio's client
in this process, which takes some of the machine from both alike. The two are measured in turn; printed are medians
over the rounds with their range.
"""

import argparse
import asyncio
import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent))
from same import film

from hilum.delivery.fronts import door
from hilum.delivery.fronts.grpc.messages import INFERENCE, SERVICE
from hilum.delivery.machine import free_port, usable_cores

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
PYTHON: Final = ROOT / "build" / "bench-serving" / "bin" / "python"
CONCURRENCY: Final = (1, 4, 16)
Address = tuple[str, tuple[tuple[str, str], ...]]


@contextmanager
def kserve(release: Path, engine: str, python: Path) -> Iterator[Address]:
    """KServe's server for the time of a block."""
    ports = free_port("127.0.0.1"), free_port("127.0.0.1")
    environment = {
        **os.environ,
        "BENCH_RELEASE": str(release.resolve()),
        "BENCH_ENGINE": engine,
        "BENCH_CORES": str(usable_cores()),
        "BENCH_PORT": str(ports[0]),
        "BENCH_GRPC_PORT": str(ports[1]),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT / "src")]),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONSAFEPATH", None)
    command = [str(python), str(HERE / "with_kserve.py"), "--configure_logging", "false"]
    running = subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", ports[1]), 1).close()
                break
            except OSError:
                if running.poll() is not None or time.monotonic() > until:
                    raise SystemExit("kserve did not start; what it said is above") from None
                time.sleep(0.1)
        yield f"127.0.0.1:{ports[1]}", ()
    finally:
        running.kill()
        running.wait()


async def load(address: Address, message: bytes, concurrency: int, seconds: float) -> tuple[float, float, bytes]:
    """Calls per second, the median of their milliseconds, and the embedding."""
    where, metadata = address
    took: list[float] = []
    async with grpc.aio.insecure_channel(where) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        answer = INFERENCE["ModelInferResponse"].FromString(await infer(message, metadata=metadata))
        began = time.perf_counter()

        async def loop() -> None:
            while (sent := time.perf_counter()) < began + seconds:
                await infer(message, metadata=metadata)
                took.append(time.perf_counter() - sent)

        await asyncio.gather(*(loop() for _ in range(concurrency)))
        per_second = len(took) / (time.perf_counter() - began)
    return per_second, 1e3 * statistics.median(took), answer.raw_output_contents[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--engine", default="onnxruntime-fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--kserve", type=Path, default=PYTHON, help="a Python that has it")
    chosen = parser.parse_args(arguments)
    content = film()
    request = INFERENCE["ModelInferRequest"](model_name="embeddings")
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(content)) + content)
    message = request.SerializeToString()
    front = [str(chosen.release), "--port", "0", "--grpc-port", "0", "--engine", chosen.engine]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with door.start(front) as running, kserve(chosen.release, chosen.engine, chosen.kserve) as other:
        assert running.grpc is not None, "it was asked for"
        addresses: dict[str, Address] = {
            "starlette": (running.grpc, (("authorization", f"Bearer {running.token}"),)),
            "kserve": other,
        }
        embeddings = {
            asyncio.run(load(address, message, 4, chosen.seconds))[2]  # and warm
            for address in addresses.values()
        }
        assert len(embeddings) == 1, "the two do the same"
        for _ in range(chosen.rounds):
            for concurrency in CONCURRENCY:
                for name, address in addresses.items():
                    measured = asyncio.run(load(address, message, concurrency, chosen.seconds))
                    found.setdefault((name, concurrency), []).append(measured[:2])
    print(f"{usable_cores()} cores; load of the machine at the end: {os.getloadavg()[0]:.1f}")
    print("Cells: images/s (range) / p50 ms\n")
    print("| server, over gRPC | c=1 | c=4 | c=16 |\n| - | - | - | - |")
    for name in addresses:
        cells = []
        for concurrency in CONCURRENCY:
            rates, medians = zip(*found[name, concurrency], strict=True)
            spread = f"{min(rates):.1f} to {max(rates):.1f}"
            cells.append(f"{statistics.median(rates):.1f} ({spread}) / {statistics.median(medians):.0f}")
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

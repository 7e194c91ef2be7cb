"""The servers that are compared: hilum's fronts, and the others in a virtual environment of their own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from hilum.delivery.fronts import door, torchserve
from hilum.delivery.machine import free_port

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
OTHERS: Final = ROOT / "build" / "bench-serving"  # a virtual environment with the other servers
VERSIONS: Final = ("litserve==0.2.19", "bentoml==1.4.39", "fastapi==0.165.0", "kserve==0.21.0")
OWN: Final = ("torchserve", "starlette")
SERVERS: Final = (*OWN, "fastapi-plain", "fastapi", "litserve", "bentoml", "kserve")
Turn = Callable[[], AbstractContextManager[None]]


class Target(NamedTuple):
    """Where a server answers, and how it is asked: with the image as it is, in a form, or as the protocol has it."""

    url: str
    headers: dict[str, str]
    form: bool = False
    inference: bool = False


@contextmanager
def served(server: str, release: Path, engine: str, cores: int) -> Iterator[Target]:
    """A server for the time of a block, ready."""
    accept = {"Accept": "application/octet-stream", "X-Modality": "XR"}
    if server == "torchserve":
        with torchserve.start([release], serving=ROOT / "serving", port=0, workers=cores, engine=engine) as running:
            key = running.key("inference")
            yield Target(running.url("embeddings"), {**accept, "Authorization": f"Bearer {key}"})
    elif server == "starlette":
        arguments = [str(release), "--port", "0", "--workers", str(cores), "--engine", engine]
        with door.start(arguments) as front:
            yield Target(f"{front.url}/predictions/embeddings", {**accept, "Authorization": f"Bearer {front.token}"})
    else:
        with _other(server, release, engine, cores) as target:
            yield target


@contextmanager
def held(server: str, release: Path, engine: str, cores: int) -> Iterator[tuple[Target, Turn]]:
    """A server whose processes stand still (SIGSTOP) but for the time of the blocks of what comes with it."""
    before = set(psutil.Process().children())
    with served(server, release, engine, cores) as target:
        roots = [one for one in psutil.Process().children() if one not in before]

        @contextmanager
        def working() -> Iterator[None]:
            _signal(roots, signal.SIGCONT)
            try:
                yield
            finally:
                time.sleep(1.0)  # the calls that the load left behind: halted in one, a worker is ended for its silence
                _signal(roots, signal.SIGSTOP)

        _signal(roots, signal.SIGSTOP)
        try:
            yield target, working
        finally:
            _signal(roots, signal.SIGCONT)


def _signal(roots: Sequence[psutil.Process], what: signal.Signals) -> None:
    """To processes and all below them: servers start helpers that soon end, so they are asked for anew."""
    for root in roots:
        for one in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(what)


@contextmanager
def _other(server: str, release: Path, engine: str, cores: int) -> Iterator[Target]:
    port, beside = free_port("127.0.0.1"), free_port("127.0.0.1")
    python = OTHERS / "bin" / "python"
    uvicorn = ["--port", str(port), "--log-level", "error", "--no-access-log"]
    commands = {
        "fastapi-plain": ["-m", "uvicorn", "with_fastapi_plain:app", *uvicorn],
        "fastapi": ["-m", "uvicorn", "with_fastapi:app", *uvicorn],
        "litserve": [str(HERE / "with_litserve.py")],
        "bentoml": ["-m", "bentoml", "serve", "with_bentoml:Embeddings", "--port", str(port), "--host", "127.0.0.1"],
        "kserve": [str(HERE / "with_kserve.py"), "--configure_logging", "false"],
    }
    ready = {"litserve": "/health", "bentoml": "/readyz", "kserve": "/v2/health/ready"}.get(server, "/ready")
    path = "/v2/models/embeddings/infer" if server == "kserve" else "/predict"
    environment = {
        **os.environ,
        "BENCH_RELEASE": str(release),
        "BENCH_ENGINE": engine,
        "BENCH_CORES": str(cores),
        "BENCH_PORT": str(port),
        "BENCH_GRPC_PORT": str(beside),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT / "src")]),
        "PYTHONSAFEPATH": "",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(OTHERS / "home"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONSAFEPATH")
    with tempfile.TemporaryFile("w+") as log:
        running = subprocess.Popen(
            [str(python), *commands[server]], cwd=HERE, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=2) as answered:
                        if answered.status == 200:
                            break
                except OSError:
                    pass
                if running.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise SystemExit(f"{server} did not start: {log.read()[-2000:]}")
                time.sleep(0.2)
            takes_form = server in ("litserve", "fastapi-plain")
            yield Target(f"http://127.0.0.1:{port}{path}", {}, takes_form, server == "kserve")
        finally:
            os.killpg(running.pid, signal.SIGTERM)  # BentoML's workers have groups of their own: it ends them itself
            try:
                running.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def others() -> None:
    """The virtual environment of the other servers: theirs beside this one's packages."""
    done, wanted = OTHERS / ".done", "\n".join(VERSIONS)
    if done.is_file() and done.read_text() == wanted:
        return
    shutil.rmtree(OTHERS, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(OTHERS)], check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = Path(sys.prefix) / "lib" / version / "site-packages"
    (OTHERS / "lib" / version / "site-packages" / "zz_hilum.pth").write_text(f"{own}\n")
    subprocess.run(
        [str(OTHERS / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *VERSIONS], check=True
    )
    done.write_text(wanted)

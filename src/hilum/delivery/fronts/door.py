"""The maintained front as a process: its ports, its signals, its crew.

SIGTERM and Ctrl-C: no new connections, what was accepted is answered, workers end, then the process does. SIGHUP, or
POST /reload on the management port: the release folders are opened anew (a link may point elsewhere by then), and taken
over when new workers have proven them. The certificate of TLS is read anew then, too.
"""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from hilum.delivery.fronts import asgi, documents, tls
from hilum.delivery.fronts.asgi import Caps, House
from hilum.delivery.fronts.connections import Protocol
from hilum.delivery.fronts.crew import Bounds, Crew
from hilum.delivery.fronts.keys import Keys
from hilum.delivery.fronts.worker import Orders
from hilum.delivery.machine import refuse_taken, workers_for
from hilum.delivery.predictor import Release
from hilum.errors import HilumError, ReleaseError, UsageError

if TYPE_CHECKING:
    from hilum.delivery.fronts.grpc.listening import Listening

LOOPBACK: Final = "127.0.0.1"
KEYS: Final = "keys"
KEEP_ALIVE_SECONDS: Final = 75  # as nginx's default: a proxy before it closes first
BACKLOG: Final = 1024  # connections that the kernel holds before they are accepted
DRAIN_SECONDS: Final = 40  # a little more than a call may wait and work


@dataclass(frozen=True)
class Settings:
    """How a front is set up.

    Attributes:
        releases: Release folders, one per modality.
        host: Address of predictions.
        port: Of predictions; 0 for a free one.
        management_port: Loopback only; `port` + 1 where None, a free one where `port` is 0.
        metrics_port: `port` + 2 where None, a free one where `port` is 0.
        metrics_host: Address of metrics.
        workers: Processes; the usable cores where None.
        threads: Of the engine per image, in each worker.
        engine: That runs the graphs.
        keys: File of tokens; one is made in a temporary folder where None.
        open_to_all: No tokens are asked for; on loopback only.
        tls: Certificate and key of predictions, PEM.
        grpc_port: Of predictions over gRPC, at `host`, with the same tokens and certificate; 0 for a free one. There
            is none where None: it is a second door for callers, and a firewall or a proxy has to know of it.
        bounds: Of waiting and working.
        caps: Of bodies.
    """

    releases: tuple[Path, ...]
    host: str = LOOPBACK
    port: int = 8080
    management_port: int | None = None
    metrics_port: int | None = None
    metrics_host: str = LOOPBACK
    workers: int | None = None
    threads: int = 1
    engine: str = "onnxruntime-fp32"
    keys: Path | None = None
    open_to_all: bool = False
    tls: tuple[Path, Path] | None = None
    grpc_port: int | None = None
    bounds: Bounds = field(default_factory=Bounds)
    caps: Caps = field(default_factory=Caps)


def serve(settings: Settings, told: Callable[[dict[str, Any]], str] = json.dumps) -> None:
    """Serve until a signal.

    Args:
        settings: How.
        told: What is printed once the front is ready, of its addresses and models.

    Raises:
        UsageError: A port is taken, the file of tokens is none, tokens are waived beyond loopback, or the certificate
            and key of TLS cannot be served.
        ReleaseError: A release does not load.
    """
    if settings.open_to_all and settings.host != LOOPBACK:
        raise UsageError(f"without tokens the server may listen on {LOOPBACK} only, not on {settings.host}")
    if settings.tls:
        tls.check(*settings.tls)
    with contextlib.ExitStack() as stack:
        keys = None
        path = settings.keys
        if not settings.open_to_all:
            if path is None:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-serve-"))) / KEYS
                keys = Keys.made(path)
            else:
                keys = Keys(path)
        sockets = [stack.enter_context(one) for one in _sockets(settings)]
        with contextlib.suppress(ImportError):
            import uvloop

            uvloop.run(_serve(settings, sockets, keys, path, told))
            return
        asyncio.run(_serve(settings, sockets, keys, path, told))


async def _serve(
    settings: Settings,
    sockets: Sequence[socket.socket],
    keys: Keys | None,
    where: Path | None,
    told: Callable[[dict[str, Any]], str],
) -> None:
    opened = open_releases(settings.releases)
    crew = Crew(_orders(settings), settings.workers or workers_for(settings.threads), settings.bounds, _say)
    house = House(opened, crew, keys, settings.caps)
    rpc = _rpc(house, settings)
    await crew.start()
    for one in sockets:
        one.listen(BACKLOG)  # not before somebody can answer; and before the line that says so
    if rpc is not None:
        await rpc.start()

    async def reload() -> None:
        try:
            found = open_releases(settings.releases)
            if settings.tls and (context := servers[0].config.ssl) is not None:
                tls.take_up(context, *settings.tls)
                if rpc is not None:
                    rpc.take_up()
            await crew.reload(_orders(settings))
        except HilumError:
            house.counters.reloads.labels("refused").inc()
            raise
        house.take(found)
        house.counters.reloads.labels("done").inc()

    applications = [
        documents.application(house),
        asgi.management(house, reload),
        asgi.metrics(house),
    ]
    servers = [
        _Server(_config(application, settings if number == 0 else None))
        for number, application in enumerate(applications)
    ]

    def stop() -> None:
        house.stopping = True
        servers[0].should_exit = True
        if rpc is not None:
            draining.append(asyncio.ensure_future(rpc.stop(DRAIN_SECONDS)))

    def again() -> None:
        async def tried() -> None:
            try:
                await reload()
                _say("reloaded")
            except HilumError as error:
                _say(f"not reloaded: {error}")

        reloading.add(task := asyncio.ensure_future(tried()))
        task.add_done_callback(reloading.discard)

    reloading: set[asyncio.Task[None]] = set()
    draining: list[asyncio.Future[None]] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, again)
    beside = [
        asyncio.ensure_future(server.serve(sockets=[one])) for server, one in zip(servers[1:], sockets[1:], strict=True)
    ]
    facts = _facts(settings, sockets, house, where)
    facts["grpc"] = f"{settings.host}:{rpc.port}" if rpc is not None else None
    print(told(facts), flush=True)
    await servers[0].serve(sockets=[sockets[0]])
    await asyncio.gather(*draining)
    await crew.stop()
    for server in servers[1:]:
        server.should_exit = True
    await asyncio.gather(*beside)
    _say("stopped")


def _rpc(house: House, settings: Settings) -> "Listening | None":
    """The port of gRPC, bound, where one is asked for."""
    if settings.grpc_port is None:
        return None
    try:
        from hilum.delivery.fronts.grpc.listening import Listening
    except ImportError as error:
        raise UsageError(
            f"gRPC needs a package that is not installed ({error.name}); install grpcio, or leave --grpc-port out"
        ) from error
    return Listening(house, settings.host, settings.grpc_port, settings.tls)


def open_releases(paths: Sequence[Path]) -> list[Release]:
    """Release folders, opened and seen to be one per modality.

    Raises:
        ReleaseError: They are not, or a dossier does not hold.
    """
    opened = [Release.open(path) for path in paths]
    if len({release.card.modality for release in opened}) < len(opened):
        names = ", ".join(f"{release.card.name} ({release.card.modality})" for release in opened)
        raise ReleaseError(f"one release is served per modality, but there are {names}; name one of each")
    return opened


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: several of them run here, and one place decides."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(application: Any, settings: Settings | None) -> uvicorn.Config:
    pair = settings.tls if settings is not None else None
    return uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody is let in by the address that a header gives
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        ssl_certfile=pair[0] if pair else None,
        ssl_keyfile=pair[1] if pair else None,
    )


def _orders(settings: Settings) -> Orders:
    # Resolved now: workers of one crew must not open different folders when a link is turned while they start.
    return Orders(tuple(str(path.resolve()) for path in settings.releases), settings.engine, settings.threads)


def _sockets(settings: Settings) -> list[socket.socket]:
    """Bound sockets of predictions, management and metrics."""
    beside = [
        given if given is not None else settings.port + offset if settings.port else 0
        for offset, given in enumerate((settings.management_port, settings.metrics_port), start=1)
    ]
    hosts = (settings.host, LOOPBACK, settings.metrics_host)
    found = []
    for host, port in zip(hosts, (settings.port, *beside), strict=True):
        refuse_taken(host, port)
        one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, port))
        found.append(one)
    return found


def _facts(settings: Settings, sockets: Sequence[socket.socket], house: House, keys: Path | None) -> dict[str, Any]:
    """Where the front answers, and what."""
    ports = [one.getsockname()[1] for one in sockets]
    return {
        "ready": True,
        "url": f"{'https' if settings.tls else 'http'}://{settings.host}:{ports[0]}",
        "management": f"http://{LOOPBACK}:{ports[1]}",
        "metrics": f"http://{settings.metrics_host}:{ports[2]}/metrics",
        "models": list(house.questions),
        "workers": house.crew.size,
        "engine": settings.engine,
        "keys": str(keys) if keys is not None else None,
    }


def greeting(facts: Mapping[str, Any]) -> str:
    """Where a front answers, and a line for a shell that asks it."""
    url, model = facts["url"], facts["models"][-1]
    lines = [f"ready: {facts['workers']} worker(s), {facts['engine']}", f"  page {url}/"]
    lines += [f"  POST {url}/predictions/{name}" for name in facts["models"]]
    lines += [f"  gRPC {facts['grpc']} inference.GRPCInferenceService"] if facts.get("grpc") else []
    lines += [f"  GET  {facts['metrics']}", f"  management {facts['management']}"]
    header = ""
    if facts["keys"]:
        lines.append(f"tokens (readable by you alone): {facts['keys']}")
        header = f"""-H "Authorization: Bearer $(awk '/^inference/ {{print $2; exit}}' {facts["keys"]})" """
    lines.append(f"  curl {header}--data-binary @IMAGE {url}/predictions/{model}")
    return "\n".join([*lines, "Ctrl-C stops it; SIGHUP takes up new releases."])


def _say(sentence: str) -> None:
    print(f"hilum: {sentence}", file=sys.stderr, flush=True)


@dataclass
class Running:
    """A front that runs in a process of its own.

    Attributes:
        url: Of predictions.
        management: URL of the management port.
        metrics: URL of the metrics.
        models: The questions that it answers.
        keys: File of tokens; None where none are asked for.
        process: The front; workers are its children.
        grpc: Address and port of gRPC, where it was asked for.
    """

    url: str
    management: str
    metrics: str
    models: tuple[str, ...]
    keys: Path | None
    process: "subprocess.Popen[str]"
    grpc: str | None = None

    @property
    def token(self) -> str | None:
        """A token for inference."""
        return Keys(self.keys).first("inference") if self.keys is not None else None


@contextmanager
def start(arguments: Sequence[str], *, seconds: float = 120.0) -> Iterator[Running]:
    """Run `hilum serve --front starlette ARGUMENTS` for the time of a `with` block; it begins when it is ready.

    Raises:
        HilumError: It does not come up; the message is its own.
    """
    start = "from hilum.cli import main; main()"
    command = [sys.executable, "-c", start, "serve", "--front", "starlette", "--json", *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None, "it is piped"
        try:
            line = process.stdout.readline()
            if not line:
                process.wait(seconds)
                errors.seek(0)
                raise HilumError(f"the server did not start: {errors.read()[-2000:].strip()}")
            said = json.loads(line)
            keys = Path(said["keys"]) if said["keys"] else None
            yield Running(
                said["url"], said["management"], said["metrics"], tuple(said["models"]), keys, process, said["grpc"]
            )
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(DRAIN_SECONDS + 20)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.stdout.close()
            process.wait()

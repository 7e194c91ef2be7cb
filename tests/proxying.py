"""A real nginx with the configuration of k8s/base, before whatever a test puts behind it.

The files are read from where they lie and changed in no more than what k8s/base/nginx.conf says that a host changes.
"""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certificates
import httpx
import psutil
import pytest

from hilum.delivery.machine import free_port

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "k8s" / "base" / "nginx.conf"
BACKENDS = {
    "torchserve": ROOT / "k8s" / "base" / "backend.conf",
    "starlette": ROOT / "docker" / "front" / "backend.conf",
}
TOKEN = "ab" * 32
ANSWER = b'{"said": "behind"}'


@dataclass
class Said:
    """What came through the proxy."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Proxy:
    """An nginx that runs."""

    port: int
    folder: Path
    ca: Path
    process: "subprocess.Popen[bytes]"
    token: str
    backend: str
    beside: Path | None = None  # another log that must name nobody

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    def ask(self, path, content=None, headers=None, *, authorized=True, method=None, timeout=60) -> Said:
        """One request; POST where it has content."""
        sent = dict(headers or {})
        if authorized:
            sent["Authorization"] = f"Bearer {self.token}"
        if content is not None:
            sent.setdefault("Content-Type", "application/octet-stream")
        method = method or ("GET" if content is None else "POST")
        with httpx.Client(verify=self.trust, timeout=timeout) as caller:
            answer = caller.request(method, self.url + path, content=content, headers=sent)
        return Said(answer.status_code, answer.content, {k.lower(): v for k, v in answer.headers.items()})

    @contextmanager
    def connected(self, timeout: float = 30) -> Iterator[ssl.SSLSocket]:
        """A bare connection through TLS, for what no library would send."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout) as bare,
            self.trust.wrap_socket(bare, server_hostname="localhost") as wrapped,
        ):
            yield wrapped

    def keys(self, *lines: str) -> None:
        """Put these lines in the place of the keys, as a mounted Secret does, and have them taken up."""
        new = self.folder / "new"
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(self.folder / "keys" / "keys.conf")
        self.process.send_signal(signal.SIGHUP)

    @property
    def workers(self) -> set[int]:
        """Processes that answer; for a moment of a reload those of before do, too."""
        return {worker.pid for worker in psutil.Process(self.process.pid).children()}

    @property
    def log(self) -> list[str]:
        """What the access log has."""
        return (self.folder / "out").read_text().splitlines()

    @property
    def errors(self) -> str:
        """What nginx has said beside it."""
        return (self.folder / "errors").read_text()


@contextmanager
def proxy(folder: Path, backend: str, port_behind: int, token: str = TOKEN) -> Iterator[Proxy]:
    """Run nginx before a server on this port of loopback; it begins when it listens."""
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if binary is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    port = free_port("127.0.0.1")
    (folder / "keys").mkdir(parents=True)
    (folder / "tmp").mkdir()
    _, _, ca = certificates.made(folder / "tls")
    (folder / "keys" / "keys.conf").write_text(f'"Bearer {token}" 1;\n')
    changes = {
        "listen 8443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server 127.0.0.1:8080;": f"server 127.0.0.1:{port_behind};",
        "/etc/hilum/": f"{folder}/",
        " /tmp/": f" {folder}/tmp/",
    }
    text = CONFIGURATION.read_text()
    for old in changes:
        assert old in text, f"nginx.conf says {old!r} no longer"
    text = re.sub(
        "|".join(map(re.escape, changes)), lambda found: changes[found[0]], text
    )  # at once: a folder has /tmp/ in it
    (folder / "nginx.conf").write_text(text)
    shutil.copyfile(BACKENDS[backend], folder / "backend.conf")
    # Workers of an nginx that root starts run as somebody who may not enter the folders of a test.
    beside = "daemon off;" + (" user root;" if os.getuid() == 0 else "")
    command = [binary, "-p", str(folder), "-e", "/dev/stderr", "-c", str(folder / "nginx.conf"), "-g", beside]
    with (folder / "out").open("ab") as out, (folder / "errors").open("ab") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
    running = Proxy(port, folder, ca, process, token, backend)
    try:
        until(lambda: _listens(port) or process.poll() is not None)
        assert process.poll() is None, running.errors
        yield running
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def behind_a_proxy(folder: Path) -> Path:
    """TorchServe's settings as docker/serve/launch.py makes them in a pod: the proxy looks at the callers' keys."""
    shutil.copytree(ROOT / "serving", folder)
    settings = folder / "config.properties"
    said = settings.read_text()
    assert "disable_token_authorization=false" in said
    settings.write_text(said.replace("disable_token_authorization=false", "disable_token_authorization=true"))
    return folder


@dataclass
class Recorder:
    """A server behind the proxy that answers anything alike, and keeps what reaches it.

    Attributes:
        port: Of loopback.
        lines: Request lines.
        headers: Of each request, names in lower case.
        bodies: Lengths of those that came whole.
        status: That it answers with.
    """

    port: int = 0
    lines: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)
    status: int = 200


@contextmanager
def recorder() -> Iterator[Recorder]:
    """Run one."""
    kept = Recorder()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            kept.lines.append(self.requestline)
            kept.headers.append({name.lower(): value for name, value in self.headers.items()})
            length = int(self.headers.get("Content-Length", 0))
            kept.bodies.append(len(self.rfile.read(length)))
            self.send_response(kept.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        do_GET = do_PUT = do_DELETE = do_POST

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()

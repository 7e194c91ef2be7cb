"""A real DICOMweb server, Orthanc from Debian's packages, started by the tests on loopback and stopped by them.

Debian's Orthanc 1.10.1 ends in a segmentation fault at the first TLS connection, so TLS ends before it; the faults that
a test asks for come from there too.
"""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from hilum.delivery.machine import free_port
from hilum.delivery.pacs.calling import Patience

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
QUICK = Patience(attempts=3, connect_seconds=2, answer_seconds=2, total_seconds=5, first_wait_seconds=0.01)
USER, PASSWORD = "hilum", "nur für den Test"


@dataclass
class Orthanc:
    """An Orthanc that runs.

    Attributes:
        rest: Address of its own interface.
        login: A file of its user and password.
        log: What it has said.
    """

    rest: str
    login: Path
    log: Path

    @property
    def url(self) -> str:
        """Of its DICOMweb service."""
        return f"{self.rest}/dicom-web"

    @property
    def session(self) -> requests.Session:
        session = requests.Session()
        session.auth = (USER.encode(), PASSWORD.encode())
        session.trust_env = False
        return session

    def send(self, files: list[bytes]) -> None:
        """Put images there, by its own interface."""
        with self.session as session:
            for content in files:
                session.post(f"{self.rest}/instances", content, timeout=30).raise_for_status()

    def reports(self, study: str) -> list[bytes]:
        """The structured reports of a study, found by QIDO-RS, as the bytes that are stored."""
        with self.session as session:
            asked = {"StudyInstanceUID": study, "Modality": "SR"}
            found = session.get(f"{self.url}/instances", params=asked, timeout=30).json()
            return [self._file(session, one["00080018"]["Value"][0]) for one in found]

    def _file(self, session: requests.Session, uid: str) -> bytes:
        [own] = session.post(f"{self.rest}/tools/lookup", uid, timeout=30).json()
        return session.get(f"{self.rest}/instances/{own['ID']}/file", timeout=30).content


@contextmanager
def started(folder: Path) -> Iterator[Orthanc]:
    """An Orthanc of its own, empty; gone afterwards."""
    program = shutil.which("Orthanc")
    if program is None or not PLUGIN.exists():
        pytest.skip("no Orthanc with DICOMweb is installed: apt-get install orthanc orthanc-dicomweb")
    folder.mkdir(parents=True)
    port = free_port("127.0.0.1")
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    running = Orthanc(f"http://127.0.0.1:{port}", folder / "login", folder / "log")
    running.login.write_text(f"{USER}:{PASSWORD}\n", encoding="utf-8")
    with running.log.open("wb") as out:
        server = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=out, stderr=out, cwd=folder)
        try:
            _wait(running, server)
            yield running
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@dataclass
class Before:
    """What stands before an Orthanc and hands calls on, unless a fault is asked for.

    Attributes:
        url: Of the DICOMweb service, through it.
        fault: Given the call and its number from 0, answers in Orthanc's place and returns True, or returns False.
        calls: Method, path and headers of every call so far.
    """

    url: str
    fault: "Callable[[BaseHTTPRequestHandler, int], bool]"
    calls: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@contextmanager
def before(
    archive: Orthanc,
    fault: "Callable[[BaseHTTPRequestHandler, int], bool]" = lambda call, number: False,
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[Before]:
    """A server before an Orthanc, with TLS where a key and certificate are given."""
    behind = urlsplit(archive.rest)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            said.calls.append((self.command, self.path, dict(self.headers)))
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if said.fault(self, len(said.calls) - 1):
                return
            with_host = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            there = http.client.HTTPConnection(behind.hostname, behind.port, timeout=30)
            there.request(self.command, self.path, content, with_host)
            answer = there.getresponse()
            kept = ("Content-Type", "Content-Encoding")
            self.reply(
                answer.status, answer.read(), {key: answer.headers[key] for key in kept if key in answer.headers}
            )
            there.close()

        do_POST = do_GET

        def reply(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[1], certificate[0])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    said = Before(f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/dicom-web", fault)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield said
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _wait(running: Orthanc, server: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        try:
            with running.session as session:
                if session.get(f"{running.rest}/plugins/dicom-web", timeout=2).ok:
                    return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise RuntimeError(f"Orthanc did not start: {running.log.read_text(errors='replace')[-2000:]}")


def certificate(folder: Path) -> tuple[Path, Path]:
    """Key and certificate for 127.0.0.1, signed by itself."""
    key, signed = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(signed)],
        check=True, capture_output=True, env={**os.environ, "RANDFILE": str(folder / "rnd")},
    )  # fmt: skip
    return key, signed

"""The front image, built and run: nobody special, nothing writable, no torch, no Java, ready when it says so.

It needs a Docker Engine, and the base image on this machine: a test downloads none.
"""

import json
import shutil
import subprocess
import time
from pathlib import Path

import certificates
import httpx
import pytest
import releasing

from hilum.client import Client
from hilum.delivery.machine import free_port

ROOT = Path(__file__).resolve().parents[2]
BASE = "python:3.11-slim-bookworm"
TAG = "hilum-python-front:test"
TOKENS = ("a" * 32, "b" * 32)

pytestmark = pytest.mark.slow


def docker(*arguments: str, check: bool = True, **more) -> subprocess.CompletedProcess:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check, **more)


@pytest.fixture(scope="module")
def image() -> str:
    if shutil.which("docker") is None or docker("info", check=False).returncode:
        pytest.skip("there is no Docker Engine here")
    if docker("image", "inspect", BASE, check=False).returncode:
        pytest.skip(f"the base image {BASE} is not on this machine")
    build = ("build", "--network", "host", "-f", "docker/front.Dockerfile", "-t", TAG, ".")
    done = docker(*build, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return TAG


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What is mounted, readable by anybody, as the container is somebody else."""
    folder = tmp_path_factory.mktemp("mounted")
    release = releasing.release(tmp_path_factory.getbasetemp() / "releasing", "XR")
    shutil.copytree(release, folder / "releases" / "xr")
    certificates.made(folder / "tls")
    (folder / "tokens").mkdir()
    write(folder, TOKENS[0])
    for path in (folder, *folder.parents):
        if path.is_relative_to(tmp_path_factory.getbasetemp().parent):
            path.chmod(path.stat().st_mode | 0o055)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def write(folder: Path, token: str) -> None:
    """Exchange the file of tokens, as a mounted Secret is."""
    new = folder / "new"
    new.write_text(f"inference {token}\nmanagement {'m' * 32}\n")
    new.chmod(0o644)
    new.replace(folder / "tokens" / "tokens")


@pytest.fixture(scope="module")
def container(image, folder):
    """A front in a container, its port of predictions, its port of metrics."""
    ports = free_port("127.0.0.1"), free_port("127.0.0.1")
    mounts = [
        f"{folder}/releases:/releases:ro",
        f"{folder}/tokens:/etc/hilum/tokens:ro",
        f"{folder}/tls:/etc/hilum/tls:ro",
    ]
    said = {"HILUM_TLS_CERTIFICATE": "/etc/hilum/tls/tls.crt", "HILUM_TLS_KEY": "/etc/hilum/tls/tls.key"}
    said["HILUM_WORKERS"] = "1"
    command = ["run", "-d", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--memory", "1g"]
    command += ["--security-opt", "no-new-privileges", "--pids-limit", "256"]
    command += ["-p", f"127.0.0.1:{ports[0]}:8443", "-p", f"127.0.0.1:{ports[1]}:8082"]
    command += [word for mount in mounts for word in ("-v", mount)]
    command += [word for name, value in said.items() for word in ("-e", f"{name}={value}")]
    name = docker(*command, image).stdout.strip()
    try:
        until = time.monotonic() + 90
        while health(name) != "healthy":
            assert time.monotonic() < until, docker("logs", name).stderr
            time.sleep(0.5)
        yield name, *ports
    finally:
        docker("rm", "-f", name)


def health(name: str) -> str:
    return json.loads(docker("inspect", name).stdout)[0]["State"]["Health"]["Status"]


def test_it_answers_through_tls_and_takes_up_new_tokens(container, folder):
    _, port, metrics = container
    url, film, ca = (
        f"https://127.0.0.1:{port}",
        releasing.encoded(releasing.drawn_image("PA")),
        folder / "tls" / "ca.crt",
    )
    with Client(url, TOKENS[0], ca=ca) as client:
        assert client.ready()
        assert 0 < client.predict(film).probability < 1
    write(folder, TOKENS[1])
    with Client(url, TOKENS[1], ca=ca) as client:
        assert 0 < client.predict(film).probability < 1
    assert "hilum_ready 1.0" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text


def test_it_is_nobody_and_can_write_nowhere(container):
    name = container[0]
    assert docker("exec", name, "id", "-u").stdout.strip() == "10001"
    status = docker("exec", name, "grep", "-E", "^(CapEff|CapBnd|NoNewPrivs|Seccomp):", "/proc/1/status").stdout
    assert status.split() == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    for path in ("/x", "/app/x", "/opt/venv/x", "/releases/x", "/etc/hilum/tokens/x"):
        assert docker("exec", name, "touch", path, check=False).returncode != 0


def test_it_has_no_torch_no_java_and_no_authority_of_the_builder(container):
    found = docker(
        *("exec", container[0], "find", "/", "-xdev"),
        *("(", "-name", "libtorch*", "-o", "-name", "torch", "-o", "-name", "java", "-o", "-name", "*.jar"),
        *("-o", "-name", "extra-ca*", ")"),
        check=False,
    )
    assert found.stdout == ""


def test_it_ends_in_order_on_sigterm(container):
    name = container[0]
    began = time.monotonic()
    docker("stop", name)
    assert time.monotonic() - began < 9  # and not by SIGKILL after 10
    assert json.loads(docker("inspect", name).stdout)[0]["State"]["ExitCode"] == 0

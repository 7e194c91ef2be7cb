"""A real TorchServe on real releases, started once: what it answers, refuses, and leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from releasing import SERVING, dicom, drawn_image, encoded

from hilum.delivery.fronts import torchserve
from hilum.errors import HilumError, ReleaseError, UsageError


@pytest.fixture(scope="module")
def server(xr_release, mr_release, tmp_path_factory):
    """TorchServe where no Java is on the PATH."""
    bare = tmp_path_factory.mktemp("bin")
    assert shutil.which("java", path=str(bare)) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(bare))
        patch.delenv("JAVA_HOME", raising=False)
        with torchserve.start([xr_release, mr_release], serving=SERVING, port=0, workers=1) as running:
            yield running


def test_without_the_key_nothing_is_answered(server):
    content = encoded(drawn_image("PA"))
    assert 400 <= server.post("embeddings", content, authorized=False)[0] < 500
    assert 400 <= server.post("embeddings", content, authorized=False, headers={"Authorization": "Bearer x"})[0] < 500
    assert server.key_file.stat().st_mode & 0o077 == 0


def test_keys_outlive_the_hour_after_which_torchserve_would_let_nobody_in(server):
    kept = json.loads(server.key_file.read_text())
    for use in ("inference", "management"):
        until = datetime.fromisoformat(kept[use]["expiration time"].replace("Z", "+00:00"))
        assert until - datetime.now(UTC) > timedelta(days=5 * 365)


def test_models_cannot_be_registered_and_metrics_can_be_read(server):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.management_port}/models?url=http://127.0.0.1:1/x.mar",
        method="POST",
        headers={"Authorization": f"Bearer {server.key('management')}"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value:
        assert refused.value.code == 405
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answered:
        assert b"ts_inference_requests_total" in answered.read()


def test_the_log_names_no_patient_and_the_workers_have_no_torch(server):
    server.post("pneumonia", dicom(drawn_image("PA")))
    assert "secret-patient" not in (server.work / torchserve.LOG).read_text()
    workers = [one for one in psutil.Process(server.process.pid).children() if "python" in one.name()]
    assert len(workers) == 2
    for worker in workers:
        assert not [one.path for one in worker.memory_maps() if "libtorch" in one.path]


def test_a_taken_port_is_refused(server, xr_release):
    with (
        pytest.raises(UsageError, match=f"port {server.port} cannot be used"),
        torchserve.start([xr_release], serving=SERVING, port=server.port),
    ):
        pass


def test_a_release_that_was_tampered_with_is_not_served(xr_release, tmp_path):
    release = shutil.copytree(xr_release, tmp_path / "release")
    (release / "limits.npz").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"limits\.npz"), torchserve.start([release], serving=SERVING, port=0):
        pass


def test_a_worker_that_fails_ends_the_start_with_its_words(mr_release, tmp_path):
    broken = shutil.copytree(SERVING, tmp_path / "serving")
    source = (broken / "embeddings.py").read_text()
    (broken / "embeddings.py").write_text(source.replace("import hilum  #", "raise OSError('no luck')  #"))
    with pytest.raises(HilumError, match="no luck"), torchserve.start([mr_release], serving=broken, port=0, workers=1):
        pass


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_in_order_on_a_signal(mr_release, tmp_path, name):
    code = (
        "import sys; from pathlib import Path; from hilum.delivery.fronts import torchserve; "
        "torchserve.serve([Path(sys.argv[1])], serving=Path(sys.argv[2]), port=0, workers=1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(mr_release), str(SERVING)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path) if len(str(tmp_path)) < 60 else "/tmp"},
    ) as running:
        lines = []
        while not lines or "stops it" not in lines[-1]:
            lines.append(running.stdout.readline())
            assert lines[-1], "the server ended before it said that it is ready"
        below = psutil.Process(running.pid).children(recursive=True)
        assert len(below) >= 2
        started = time.monotonic()
        running.send_signal(name)
        rest = running.stdout.read()
        assert running.wait(30) == 0
    assert rest.strip() == "stopped"
    assert [line.split("/")[-1].strip() for line in lines if "POST" in line] == ["embeddings"]
    assert time.monotonic() - started < 15
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    [keys] = [line.split(": ")[1].strip() for line in lines if line.startswith("keys")]
    assert not os.path.exists(os.path.dirname(keys))

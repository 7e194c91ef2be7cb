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
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from releasing import SERVING, dicom, drawn_image, encoded, photograph

from hilum.delivery.desk import Desk, Request
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


@pytest.mark.parametrize(
    "content", [encoded(drawn_image("PA")), encoded(drawn_image("PA"), "JPEG"), dicom(drawn_image("PA"))]
)
def test_films_are_answered_as_the_desk_answers_them(server, xr_release, mr_release, content):
    for question in ("embeddings", "pneumonia"):
        answered = server.exchange(question, content)
        assert answered.status == 200
        assert answered.headers["content-type"] == "application/json"
        [expected] = Desk.load([xr_release, mr_release], question).answer([Request(content)])
        assert json.loads(answered.body) == expected.body


def test_an_mri_is_embedded_and_not_asked_for_pneumonia(server):
    content = encoded(drawn_image("CORONAL"))
    status, body = server.post("embeddings", content)
    assert (status, json.loads(body)["model"]["name"]) == (200, "mr-pixels")
    status, body = server.post("pneumonia", content)
    refused = json.loads(body)
    assert (status, refused["code"]) == (422, 422)
    assert "not asked of an MRI" in refused["error"]
    assert "X-ray" in refused["right"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"garbage", 415),
        (b"GIF89a", 415),
        (encoded(drawn_image("PA"))[:500], 422),
        (encoded(photograph()), 422),
    ],
)
@pytest.mark.parametrize("model", ["embeddings", "pneumonia"])
def test_what_is_no_film_gets_its_own_status(server, model, content, status):
    found, body = server.post(model, content)
    assert found == status
    assert set(json.loads(body)) == {"code", "error", "right"}


def test_numbers_alone(server):
    content = encoded(drawn_image("PA"))
    vector = json.loads(server.post("embeddings", content)[1])["embedding"]
    answered = server.exchange("embeddings", content, headers={"Accept": "application/octet-stream"})
    assert np.array_equal(np.frombuffer(answered.body, "<f4"), np.float32(vector))
    assert (answered.headers["x-dtype"], answered.headers["x-shape"]) == ("<f4", "12")


def test_a_form_and_a_header_declare_the_modality(server):
    content = encoded(drawn_image("PA"))
    form = (
        b'--xyz\r\nContent-Disposition: form-data; name="data"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + content
        + b'\r\n--xyz\r\nContent-Disposition: form-data; name="modality"\r\n\r\nXR\r\n--xyz--\r\n'
    )
    status, body = server.post("pneumonia", form, headers={"Content-Type": "multipart/form-data; boundary=xyz"})
    assert (status, json.loads(body)["modality_known_by"]) == (200, "declared")
    status, body = server.post("pneumonia", content, headers={"x-modality": "XR"})
    assert (status, json.loads(body)["modality_known_by"]) == (200, "declared")
    status, body = server.post("pneumonia", content, headers={"X-Modality": "CT"})
    assert (status, "'CT' is no modality" in json.loads(body)["error"]) == (422, True)


def test_without_the_key_nothing_is_answered(server):
    content = encoded(drawn_image("PA"))
    assert 400 <= server.post("embeddings", content, authorized=False)[0] < 500
    assert 400 <= server.post("embeddings", content, authorized=False, headers={"Authorization": "Bearer x"})[0] < 500
    assert server.key_file.stat().st_mode & 0o077 == 0


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


def test_many_at_once(server):
    contents = [encoded(drawn_image(view)) for view in ("PA", "AXIAL", "LATERAL", "SAGITTAL")] * 6
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda content: server.post("embeddings", content)[0], contents))
    assert statuses == [200] * len(contents)


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

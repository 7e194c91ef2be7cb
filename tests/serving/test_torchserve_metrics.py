"""hilum's own counters on TorchServe's metrics port, under the names of the maintained front."""

import ast
import re
import subprocess
import sys
import time
import urllib.request

import numpy as np
import psutil
import pytest
import yaml
from releasing import SERVING, dicom, drawn_image, encoded

from hilum.delivery.fronts import metering, torchserve
from hilum.delivery.fronts.counters import Counters
from hilum.delivery.fronts.wire import Reply
from hilum.delivery.predictor import Release


@pytest.fixture(scope="module")
def server(xr_release, mr_release):
    with torchserve.start([xr_release, mr_release], serving=SERVING, port=0, workers=1) as running:
        yield running


def scraped(server, calls=0):
    """The metrics, once they tell of so many calls: Java reads what workers count a little after they have answered."""
    until = time.monotonic() + 10
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answered:
            text = answered.read().decode()
        told = re.findall(r"^hilum_requests_total{[^}]*} (\S+)$", text, re.MULTILINE)
        if sum(map(float, told)) >= calls or time.monotonic() > until:
            return text
        time.sleep(0.1)


def counted(text, name, **labels):
    """The value of the one series of a metric with these labels (TorchServe adds Hostname)."""
    found = []
    for said, value in re.findall(rf"^{name}{{([^}}]*)}} (\S+)$", text, re.MULTILINE):
        has = dict(re.findall(r'(\w+)="([^"]*)"', said))
        if {key: has.get(key) for key in labels} == labels:
            found.append(float(value))
    assert len(found) <= 1
    return found[0] if found else 0.0


def test_a_scrape_tells_outcomes_reasons_seconds_and_releases(server, xr_release, mr_release):
    film, dark = encoded(drawn_image("PA")), encoded(np.zeros((96, 96), np.uint8))
    assert server.post("pneumonia", film)[0] == 200
    assert server.post("pneumonia", dicom(drawn_image("PA")))[0] == 200
    assert server.post("pneumonia", dark, headers={"X-Modality": "XR"})[0] == 200
    assert server.post("pneumonia", encoded(drawn_image("AXIAL")))[0] == 200
    assert server.post("pneumonia", b"Erika Mustermann")[0] == 415
    assert server.post("embeddings", film, headers={"X-Patient": "Erika Mustermann"})[0] == 200
    assert server.exchange("/predictions/Erika", film).status == 404
    text = scraped(server, calls=6)
    assert counted(text, "hilum_requests_total", model="pneumonia", status="200") == 4
    assert counted(text, "hilum_requests_total", model="pneumonia", status="415") == 1
    assert counted(text, "hilum_requests_total", model="embeddings", status="200") == 1
    outcomes = {
        kind: counted(text, "hilum_images_total", model="pneumonia", outcome=kind)
        for kind in ("answered", "abstained", "refused")
    }
    assert outcomes == {"answered": 2, "abstained": 2, "refused": 1}
    assert counted(text, "hilum_abstentions_total", model="pneumonia", reason="unreadable_exposure") == 1
    assert counted(text, "hilum_abstentions_total", model="pneumonia", reason="wrong_modality") == 1
    assert counted(text, "hilum_refusals_total", model="pneumonia", code="unsupported") == 1
    assert counted(text, "hilum_request_seconds_count", model="pneumonia") == 5
    assert counted(text, "hilum_request_seconds_bucket", model="pneumonia", le="+Inf") == 5
    assert 0 < counted(text, "hilum_request_seconds_sum", model="pneumonia") < 60
    for path in (xr_release, mr_release):
        release = Release.open(path)
        named = {"model": release.card.name, "version": release.card.version, "dossier": release.short_id}
        assert counted(text, "hilum_release_info", **named, engine="onnxruntime-fp32") == 1
    for secret in ("Erika", "secret"):
        assert secret not in text


def test_what_is_counted_outlives_a_worker(server):
    assert server.post("embeddings", b"")[0] == 400
    text = scraped(server, calls=7)
    assert counted(text, "hilum_requests_total", model="embeddings", status="400") == 1
    for worker in psutil.Process(server.process.pid).children():
        worker.kill()
    film, until = encoded(drawn_image("PA")), time.monotonic() + 60
    while server.post("embeddings", film)[0] != 200:
        assert time.monotonic() < until
    text = scraped(server, calls=8)
    assert counted(text, "hilum_requests_total", model="embeddings", status="400") == 1
    assert counted(text, "hilum_requests_total", model="embeddings", status="200") >= 2


class Written:
    """A metric that keeps what it is told, as TorchServe's writes it to its standard output."""

    def __init__(self):
        self.told = []

    def add_or_update(self, value, dimension_values):
        self.told.append((value, dimension_values))


class Cache:
    def __init__(self):
        said = yaml.safe_load((SERVING / "metrics.yaml").read_text())["model_metrics"]
        self.cache = {kind: {one["name"]: Written() for one in metrics} for kind, metrics in said.items()}
        self.labels = {one["name"]: one["dimensions"] for metrics in said.values() for one in metrics}

    def __getitem__(self, name):
        return next(metrics[name] for metrics in self.cache.values() if name in metrics).told


def test_names_and_labels_are_those_of_the_maintained_front(xr_release):
    reply = Reply(200, b"", outcomes=("answered", "abstained:out_of_distribution", "refused:corrupt"))
    release = Release.open(xr_release)
    front, cache = Counters(), Cache()
    front.count("pneumonia", reply, 0.25)
    front.serve([release], "onnxruntime-fp32")
    meter = metering.Meter(cache)
    meter.count("pneumonia", reply, 0.25)
    meter.tell()
    metering.serve(cache, [release], "onnxruntime-fp32")
    text = front.text().decode()
    for name in (
        *("hilum_requests_total", "hilum_images_total", "hilum_abstentions_total"),
        *("hilum_refusals_total", "hilum_release_info"),
    ):
        assert cache[name]
        for value, labels in cache[name]:
            assert counted(text, name, **dict(zip(cache.labels[name], labels, strict=True))) == value
    assert cache["hilum_request_seconds"] == [(0.25, ["pneumonia"])]
    assert counted(text, "hilum_request_seconds_sum", model="pneumonia") == 0.25


def test_calls_are_told_together_and_soon():
    cache = Cache()
    meter = metering.Meter(cache, every_seconds=0.05)
    for seconds in (0.1, 0.2, 0.3):
        meter.count("pneumonia", Reply(200, b"", outcomes=("answered",)), seconds)
    until = time.monotonic() + 10
    while len(cache["hilum_request_seconds"]) < 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert sum(value for value, _ in cache["hilum_requests_total"]) == 3
    assert sum(value for value, _ in cache["hilum_images_total"]) == 3
    assert [value for value, _ in cache["hilum_request_seconds"]] == [0.1, 0.2, 0.3]
    meter.tell()
    assert len(cache["hilum_request_seconds"]) == 3


WORKER = """
import logging, sys
from hilum.delivery.fronts import metering
from hilum.delivery.fronts.wire import Reply
class Raw:
    writes = []
    def write(self, text): self.writes.append(text)
    def flush(self): pass
sys.stdout = Raw()
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
class Metric:
    def __init__(self, name): self.name = name
    def add_or_update(self, value, labels):
        logging.getLogger("ts.metrics.caching_metric").info(f"[METRICS]{self.name}:{value} {labels}")
class Cache:
    cache = {"counter": {name: Metric(name) for name in ("hilum_requests_total", "hilum_request_seconds")}}
metering.quiet()
logging.info("Backend received inference at: %d", 1)
Metric("PredictionTime").add_or_update(1, [])
logging.info("Frontend disconnected.")
meter = metering.Meter(Cache, every_seconds=60)
for _ in range(3):
    meter.count("pneumonia", Reply(200, b""), 0.25)
meter.tell()
logging.info("last")
sys.stdout, raw = sys.__stdout__, sys.stdout
print(repr(raw.writes))
"""


def test_a_telling_is_one_write_and_torchserves_own_lines_are_none():
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True)
    before, told, last = ast.literal_eval(done.stdout)
    assert (before, last) == ("Frontend disconnected.\n", "last\n")
    once = "[METRICS]hilum_request_seconds:0.25 ['pneumonia']"
    assert told.splitlines() == ["[METRICS]hilum_requests_total:3 ['pneumonia', '200']", once, once, once]


def test_what_a_server_has_no_metric_for_is_passed_over():
    other = Cache()
    other.cache = {"counter": {}}  # a server that was started with a metrics.yaml of its own
    meter = metering.Meter(other)
    meter.count("pneumonia", Reply(200, b"", outcomes=("answered",)), 0.1)
    meter.tell()

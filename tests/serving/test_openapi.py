"""The document of the API is true: what it says is there, what is there it says, and every answer is as it says."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from releasing import dicom, drawn_image, encoded, overridden, photograph

from hilum.delivery.fronts import documents
from hilum.delivery.fronts.asgi import Caps, House
from hilum.delivery.fronts.crew import Bounds, Crew
from hilum.delivery.fronts.worker import Orders
from hilum.delivery.predictor import Release

FILM, SLICE = encoded(drawn_image("PA")), encoded(drawn_image("AXIAL"))
BLACK = encoded(np.zeros((96, 96), np.uint8))
XR = {"X-Modality": "XR"}


@pytest.fixture(scope="module")
def front(base, mr_release, starlette_front):
    with starlette_front([overridden(base), mr_release], "--workers", "1") as running:
        yield running


@pytest.fixture(scope="module")
def document(front):
    said = front.ask("/openapi.json", authorized=False)
    assert said.status == 200
    return said.json


def as_documented(document, path, method, said):
    """Look an answer up in the document, and hold it against what stands there."""
    operation = document["paths"][path][method]
    assert str(said.status) in operation["responses"], f"{path} gives {said.status}, which is not documented"
    told = operation["responses"][str(said.status)]
    kind = said.headers["content-type"].split(";")[0]
    assert kind in told["content"], f"{path} gives {kind}, which is not documented"
    schema = {**told["content"][kind]["schema"], "components": document["components"]}
    if kind == "application/json":
        errors = list(Draft202012Validator(schema).iter_errors(said.json))
        assert not errors, f"{path}: {errors[0].message} at {list(errors[0].absolute_path)}; {errors[0].context[:3]}"
    for name in ("x-dtype", "x-shape", "x-model", "x-dossier", "x-gate", "x-outcome", "x-override-by"):
        assert name not in said.headers or name in told.get("headers", {}) or said.status != 200
    return said


def many(*images, **more):
    listed = [{"image": base64.b64encode(one).decode()} for one in images]
    return json.dumps({"images": listed, **more}).encode()


def form(*images):
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n' + one + b"\r\n" for one in images
    ]
    return b"".join(parts) + b'--b\r\nContent-Disposition: form-data; name="seen"\r\n\r\ntrue\r\n--b--\r\n'


ASKED = {
    "raw": (FILM, {}, 200),
    "dicom": (dicom(drawn_image("PA")), {}, 200),
    "many": (many(FILM, BLACK, b"rubbish", SLICE), {"Content-Type": "application/json"}, 200),
    "form": (form(FILM, FILM), {"Content-Type": "multipart/form-data; boundary=b"}, 200),
    "everything": (
        json.dumps({"image": base64.b64encode(FILM).decode(), "neighbours": 3, "seen": True}).encode(),
        {"Content-Type": "application/json"},
        200,
    ),
    "numbers": (FILM, {"Accept": "application/octet-stream"}, 200),
    "npy": (FILM, {"Accept": "application/x-npy"}, 200),
    "other accept": (FILM, {"Accept": "text/html"}, 406),
    "photograph": (encoded(photograph()), XR, None),
    "black": (BLACK, XR, None),
    "empty": (b"", {}, 400),
    "rubbish": (b"rubbish", {}, 415),
    "half": (FILM[: len(FILM) // 2], {}, 422),
    "no JSON": (b"{", {"Content-Type": "application/json"}, 400),
    "no type": (FILM, {"Content-Type": "video/mp4"}, 415),
    "too many": (many(*[b"x"] * 65), {"Content-Type": "application/json"}, 413),
    "compressed": (FILM, {"Content-Encoding": "gzip"}, 415),
}


@pytest.mark.parametrize("question", ["embeddings", "pneumonia"])
@pytest.mark.parametrize("name", ASKED)
def test_calls_are_answered_as_documented(front, document, question, name):
    content, headers, status = ASKED[name]
    path = "/predictions/embeddings" if question == "embeddings" else "/predictions/{label}"
    said = as_documented(document, path, "post", front.ask(f"/predictions/{question}", content, headers))
    assert status is None or said.status == status


def test_an_answer_with_a_map_and_one_that_abstains(front, document):
    path = "/predictions/pneumonia?saliency=true&neighbours=2&seen=true"
    said = as_documented(document, "/predictions/{label}", "post", front.ask(path, FILM))
    assert said.json["saliency"]["png"]
    said = as_documented(document, "/predictions/{label}", "post", front.ask(path, BLACK, XR))
    assert said.json["abstention"]["reason"] == "unreadable_exposure"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("question", ["embeddings", "pneumonia"])
def test_so_is_the_open_inference_protocol(front, document, question, binary):
    one = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(FILM).decode()]}
    asked = {"inputs": [one], "id": "7", "parameters": {"binary_data_output": binary}}
    sent = {"Content-Type": "application/json"}
    for content, status in ((json.dumps(asked).encode(), 200), (b"[]", 400), (b'{"inputs": [{}]}', 400)):
        said = front.ask(f"/v2/models/{question}/infer", content, sent)
        assert as_documented(document, "/v2/models/{model}/infer", "post", said).status == status


@pytest.mark.parametrize("authorized", [True, False])
def test_so_are_documents(front, document, authorized):
    for path, operations in document["paths"].items():
        if "get" in operations:
            asked = path.replace("{model}", "pneumonia")
            said = as_documented(document, path, "get", front.ask(asked, authorized=authorized))
            is_open = "security" not in operations["get"]
            assert said.status == (200 if authorized or is_open else 401)


def test_refusals_of_paths_methods_and_callers(front, document):
    as_documented(document, "/predictions/{label}", "post", front.ask("/predictions/none", FILM))
    as_documented(document, "/predictions/{label}", "post", front.ask("/predictions/pneumonia", FILM, authorized=False))
    said = front.ask("/predictions/pneumonia", method="DELETE")
    assert as_documented(document, "/predictions/{label}", "post", said).headers["allow"] == "POST"


def test_every_path_is_documented_and_every_documented_path_is_there(xr_release):
    house = House([Release.open(xr_release)], Crew(Orders((), "onnxruntime-fp32"), 1, Bounds()), None, Caps())
    paths = documents.openapi.document(house)["paths"]
    there = {route.path for route in documents.application(house).routes}
    said = {"/predictions/{model}" if path.startswith("/predictions/") else path for path in paths}
    assert there == said
    assert not any("security" in one for path in paths.values() for one in path.values() if isinstance(one, dict))


def test_every_example_is_valid(document):
    for name, schema in document["components"]["schemas"].items():
        whole = {**schema, "components": document["components"]}
        Draft202012Validator.check_schema(whole)
        for example in schema.get("examples", []):
            assert Draft202012Validator(whole).is_valid(example), name


def schemathesis(front, examples, folder):
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("st"), "--config-file", Path(__file__).with_name("schemathesis.toml")),
            *("run", f"{front.running.url}/openapi.json", "-H", f"Authorization: Bearer {front.running.token}"),
            *("--generation-database", "none", "--no-color", "-n", str(examples), "--request-timeout", "20"),
            *("--phases", "examples,coverage,fuzzing", "--warnings", "off", "--continue-on-failure", "--seed", "1"),
        ],
        cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "default"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert "generated" in done.stdout


def test_schemathesis_finds_nothing(front, tmp_path):
    schemathesis(front, 20, tmp_path)


@pytest.mark.slow
def test_schemathesis_finds_nothing_for_long(front, tmp_path):
    schemathesis(front, 1000, tmp_path)

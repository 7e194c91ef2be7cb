"""Covariates over HTTP: what a head that fuses them answers, through both fronts, the client and the page."""

import base64
import json

import numpy as np
import pytest
from releasing import SERVING, drawn_image, encoded, fused
from rpc import Caller, field, outputs, parameter, request, strings, tensor

from hilum.client import Client, Refused
from hilum.delivery.desk import Desk, Request
from hilum.delivery.fronts import torchserve

SENT = {"heart_rate_per_min": 118.0, "o2_saturation_pct": 88.0, "crp_mg_per_l": None}
OTHER = {"heart_rate_per_min": 70.0, "o2_saturation_pct": 98.0}
FILM = encoded(drawn_image("PA"))


@pytest.fixture(scope="module")
def release(base):
    return fused(base, "gated")


@pytest.fixture(scope="module")
def expected(release):
    [answer] = Desk.load([release], "pneumonia").answer([Request(FILM, "XR", covariates=SENT)])
    return answer.body


@pytest.fixture(scope="module")
def front(release, starlette_front):
    with starlette_front([release], "--workers", "1", "--grpc-port", "0") as running:
        yield running


def form():
    parts = [("data", FILM), ("modality", b"XR"), ("covariates", json.dumps(SENT).encode())]
    said = b"".join(
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in parts
    )
    return said + b"--xyz--\r\n", {"Content-Type": "multipart/form-data; boundary=xyz"}


def as_json(image, covariates):
    said = json.dumps({"image": image, "modality": "XR", "covariates": covariates})
    return said.encode(), {"Content-Type": "application/json"}


def based():
    return base64.b64encode(FILM).decode()


def test_covariates_reach_the_head_by_header_form_and_json(front, expected):
    header = (FILM, {"X-Modality": "XR", "X-Covariates": json.dumps(SENT)})
    for body, headers in (header, form(), as_json(based(), SENT)):
        said = front.ask("/predictions/pneumonia", body, headers)
        assert said.status == 200, said.body
        assert said.json == expected
    assert expected["covariates"]["used"] == {"o2_saturation_pct": 88.0, "heart_rate_per_min": 118.0}


def infer(front, covariates, images=1):
    data = {"name": "image", "datatype": "BYTES", "shape": [images], "data": [based()] * images}
    said = {"inputs": [data], "parameters": {"modality": "XR", "covariates": covariates}}
    return front.ask("/v2/models/pneumonia/infer", json.dumps(said).encode(), {"Content-Type": "application/json"})


def by_name(said):
    assert said.status == 200, said.body
    return {one["name"]: one["data"] for one in said.json["outputs"]}


def test_the_inference_protocol_takes_them_for_all_images_or_for_each(front, expected):
    headers = {"X-Modality": "XR", "X-Covariates": json.dumps(OTHER)}
    other = front.ask("/predictions/pneumonia", FILM, headers).json
    assert other["probability"] != expected["probability"]
    for covariates, images, rows in (
        (json.dumps(SENT), 2, [expected, expected]),
        (json.dumps([SENT, OTHER]), 2, [expected, other]),
        (json.dumps([OTHER, SENT]), 2, [other, expected]),
        (SENT, 1, [expected]),  # no string, as the protocol would have it, and still clear
    ):
        found = by_name(infer(front, covariates, images))
        assert found["probability"] == pytest.approx([row["probability"] for row in rows], rel=1e-6)
        assert found["meaning"] == [row["meaning"] for row in rows]


@pytest.mark.parametrize(
    ("covariates", "status", "words"),
    [
        ("{", 400, "not JSON"),
        ("[[]]", 400, "not an object"),
        ("[{}, {}]", 400, "covariates for 2 images, and 1"),
        ('{"heart_rate_per_min": 900}', 422, "not plausible"),
    ],
)
def test_the_inference_protocol_refuses_what_is_none(front, covariates, status, words):
    said = infer(front, covariates)
    assert said.status == status
    assert words in said.json["message"]


def test_grpc_takes_them_too(front, expected):
    with Caller(front) as caller:
        beside = parameter("modality", "XR") + parameter("covariates", json.dumps(SENT))
        found = outputs(caller.ask("ModelInfer", request("pneumonia", tensor(contents=field(8, FILM)), beside)))
    assert found["probability"][2] == np.float32(expected["probability"]).tobytes()
    assert found["meaning"][2] == strings(expected["meaning"].encode())


def test_torchserve_answers_as_the_desk_does(release, expected):
    with torchserve.start([release], serving=SERVING, port=0, workers=1) as running:
        headers = {"X-Modality": "XR", "X-Covariates": json.dumps(SENT)}
        found = running.exchange("/predictions/pneumonia", FILM, headers=headers)
        assert found.status == 200
        assert json.loads(found.body) == expected
        headers["X-Covariates"] = json.dumps({"heart_rate_per_min": 900})
        found = running.exchange("/predictions/pneumonia", FILM, headers=headers)
        assert (found.status, json.loads(found.body)["code"]) == (422, "refused")


@pytest.mark.parametrize(
    ("covariates", "status", "words"),
    [
        ({"pulse": 80}, 422, "'pulse' is not known"),
        ({"heart_rate_per_min": 900}, 422, "not plausible"),
        ({"heart_rate_per_min": "80"}, 400, "not a number"),
        ({"heart_rate_per_min": True}, 400, "not a number"),
        ([80], 400, "not an object"),
    ],
)
def test_what_is_no_measurement_is_refused(front, covariates, status, words):
    said = front.ask("/predictions/pneumonia", *as_json(based(), covariates))
    assert said.status == status
    assert words in said.json["message"]


def test_the_client_gives_them_types(front):
    running = front.running
    with Client(running.url, token=running.token) as client:
        found = client.predict(FILM, modality="XR", covariates=SENT)
        assert found.covariates.used["heart_rate_per_min"] == 118.0
        assert "crp_mg_per_l" in found.covariates.missing
        assert found.covariates.unusual == tuple(found.raw["covariates"]["unusual"])
        with pytest.raises(Refused, match="not plausible"):
            client.predict(FILM, modality="XR", covariates={"o2_saturation_pct": 140.0})


@pytest.fixture
def page(browser, front):
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    opened = context.new_page()
    complaints = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(front.running.url + "/")
    opened.get_by_label("Token").fill(front.running.token)
    yield opened
    assert not complaints
    context.close()


def test_the_page_asks_for_them_where_the_question_takes_them(page, tmp_path):
    (tmp_path / "film").write_bytes(FILM)
    field = page.get_by_label("heart rate (1/min)")
    field.focus()
    page.keyboard.type("118")
    page.keyboard.press("Tab")
    page.get_by_label("o2 saturation (%)").fill("88")
    page.get_by_label("Modality").select_option("XR")
    page.set_input_files("#files", [tmp_path / "film"])
    page.get_by_text("Done:").wait_for(timeout=60_000)
    told = page.locator("#answer").inner_text()
    assert "Measured of the patient" in told
    assert "118" in told
    assert "2 of 6 covariates" in told
    assert field.input_value() == "", "the next image may be of another patient"
    page.get_by_label("Question").select_option("embeddings")
    assert page.locator("#covariates").is_hidden()
    page.get_by_label("Question").select_option("pneumonia")
    page.get_by_label("heart rate (1/min)").press_sequentially("1e")
    page.set_input_files("#files", [tmp_path / "film"])
    assert "Nothing was sent" in page.locator("#status").inner_text()

"""Rows and contexts of TorchServe, by the shape that TorchServe gives them."""

import json

import numpy as np
import pytest
from releasing import drawn_image, encoded

from hilum.delivery.desk import Desk
from hilum.delivery.fronts import exchange


class Context:
    """What a handler sees of TorchServe 0.12 (ts.context.Context), for a batch of requests with these headers."""

    def __init__(self, *headers):
        self.sent = headers
        self.status, self.headers = {}, {}

    def get_all_request_header(self, idx):
        return {**self.sent[idx], "body": {"content-type": "image/png"}}

    def set_response_status(self, code=200, phrase="", idx=0):
        self.status[idx] = code

    def set_response_content_type(self, idx, value):
        self.set_response_header(idx, "content-type", value)

    def set_response_header(self, idx, key, value):
        self.headers.setdefault(idx, {})[key] = value


@pytest.fixture(scope="module")
def desk(xr_release, mr_release):
    return Desk.load([xr_release, mr_release], "embeddings")


def test_a_batch_of_everything(desk):
    film, brain = encoded(drawn_image("PA")), bytearray(encoded(drawn_image("AXIAL")))
    form = {"content-type": "multipart/form-data; boundary=taken-apart-by-torchserve"}
    rows = [
        {"body": film},
        {"data": brain, "modality": bytearray(b"MR")},
        {},
        {"body": ""},
        {"body": {"image": "parsed by the server"}},
        {"body": "text"},
        {"body": film[:300]},
        {"body": film},
        {"body": film},
    ]
    headers = [{} for _ in rows]
    headers[1] = headers[2] = form
    headers[7] = {"X-MODALITY": "mr"}
    headers[8] = {"accept": "application/octet-stream"}
    context = Context(*headers)
    bodies = exchange.respond(desk, rows, context)
    assert context.status == {2: 400, 3: 400, 4: 400, 5: 415, 6: 422, 7: 422}
    for number in range(8):
        assert context.headers[number] == {"content-type": "application/json"}
    answers = [json.loads(body) for body in bodies[:8]]
    assert answers[0]["modality"] == "XR"
    assert answers[1]["modality_known_by"] == "declared"
    for number, status in context.status.items():
        assert set(answers[number]) == {"code", "status", "message", "right"}
        assert answers[number]["status"] == status
    assert "declared as MR, but looks like an X-ray" in answers[7]["message"]
    assert exchange.DECODE in answers[4]["right"]
    assert np.array_equal(np.frombuffer(bodies[8], "<f4"), np.float32(answers[0]["embedding"]))
    assert context.headers[8]["x-shape"] == "12"

"""What a caller may rely on, whichever front answers: every test runs against TorchServe and the maintained front."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from releasing import SERVING, dicom, drawn_image, encoded, photograph

from hilum.delivery.desk import Desk, Request
from hilum.delivery.fronts import torchserve


class OverTorchServe:
    """TorchServe, asked as the maintained front is."""

    def __init__(self, server):
        self.server = server

    def ask(self, path, content=None, headers=None, *, authorized=True):
        found = self.server.exchange(path, content or b"", headers=headers, authorized=authorized)
        return Said(found.status, found.body, found.headers)


class Said:
    def __init__(self, status, body, headers):
        self.status, self.body, self.headers = status, body, headers

    @property
    def json(self):
        return json.loads(self.body)


@pytest.fixture(scope="module", params=["torchserve", "starlette"])
def front(request, xr_release, mr_release, starlette_front):
    if request.param == "torchserve":
        with torchserve.start([xr_release, mr_release], serving=SERVING, port=0, workers=1) as running:
            yield OverTorchServe(running)
    else:
        with starlette_front([xr_release, mr_release], "--workers", "2") as running:
            yield running


@pytest.fixture(scope="module")
def desks(xr_release, mr_release):
    return {name: Desk.load([xr_release, mr_release], name) for name in ("embeddings", "pneumonia")}


def form(*parts):
    said = b""
    for name, content in parts:
        said += (
            f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode() + content + b"\r\n"
        )
    return said + b"--xyz--\r\n", {"Content-Type": "multipart/form-data; boundary=xyz"}


def document(said):
    return json.dumps(said).encode(), {"Content-Type": "application/json"}


def based(content):
    return base64.b64encode(content).decode()


@pytest.mark.parametrize("question", ["embeddings", "pneumonia"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "DICOM"])
def test_films_are_answered_as_the_desk_answers_them(front, desks, question, kind):
    content = dicom(drawn_image("PA")) if kind == "DICOM" else encoded(drawn_image("PA"), kind)
    said = front.ask(f"/predictions/{question}", content)
    [expected] = desks[question].answer([Request(content)])
    assert (said.status, said.headers["content-type"]) == (200, "application/json")
    assert said.json == expected.body


def test_every_form_of_a_call_has_the_same_answer(front):
    film = encoded(drawn_image("PA"))
    expected = front.ask("/predictions/pneumonia", film).json
    for content, headers in (
        (film, {"Content-Type": "image/png"}),
        (film, {"Content-Type": "text/plain"}),
        form(("data", film)),
        document({"image": based(film)}),
    ):
        said = front.ask("/predictions/pneumonia", content, headers)
        assert (said.status, said.json) == (200, expected)


def test_many_images_in_one_call(front):
    contents = [encoded(drawn_image("PA")), b"rubbish", encoded(drawn_image("AXIAL"))]
    said = front.ask("/predictions/embeddings", *document({"images": [{"image": based(one)} for one in contents]}))
    first, second, third = said.json["answers"]
    assert said.status == 200
    assert (first["modality"], second["code"], third["modality"]) == ("XR", "unsupported", "MR")


@pytest.mark.parametrize("accept", ["application/octet-stream", "application/x-npy"])
def test_numbers_alone(front, accept):
    film = encoded(drawn_image("PA"))
    vector = np.float32(front.ask("/predictions/embeddings", film).json["embedding"])
    said = front.ask("/predictions/embeddings", film, {"Accept": accept})
    assert said.headers["content-type"] == accept
    found = np.load(io.BytesIO(said.body)) if "npy" in accept else np.frombuffer(said.body, said.headers["x-dtype"])
    assert np.array_equal(found, vector)
    assert said.headers["x-shape"] == "12"
    assert len(said.headers["x-dossier"]) == 16


def test_a_declared_modality_is_taken_in_every_form(front):
    film = encoded(drawn_image("PA"))
    for content, headers in (
        (film, {"x-modality": "XR"}),
        form(("data", film), ("modality", b"XR")),
        document({"image": based(film), "modality": "XR"}),
    ):
        said = front.ask("/predictions/pneumonia", content, headers)
        assert (said.status, said.json["modality_known_by"]) == (200, "declared")
    said = front.ask("/predictions/pneumonia", film, {"X-Modality": "CT"})
    assert (said.status, "'CT' is no modality" in said.json["message"]) == (422, True)


def test_what_is_asked_beside_comes_along(front):
    headers = {"X-Neighbours": "2", "X-Saliency": "true", "X-Seen": "1"}
    said = front.ask("/predictions/pneumonia", encoded(drawn_image("PA")), headers).json
    assert [one["case"][:3] for one in said["nearest"]] == ["xr-", "xr-"]
    for png in (said["seen"], said["saliency"]["png"]):
        assert base64.b64decode(png).startswith(b"\x89PNG")


def test_an_mri_is_embedded_and_gets_no_prediction(front):
    brain = encoded(drawn_image("CORONAL"))
    assert front.ask("/predictions/embeddings", brain).json["model"]["name"] == "mr-pixels"
    said = front.ask("/predictions/pneumonia", brain)
    assert (said.status, said.json["probability"]) == (200, None)
    assert said.json["abstention"]["reason"] == "wrong_modality"
    said = front.ask("/predictions/pneumonia", brain, {"X-Modality": "MR"})
    assert (said.status, said.json["code"]) == (422, "refused")
    assert "not asked of an MRI" in said.json["message"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, "empty"),
        (b"garbage", {}, 415, "unsupported"),
        (b"GIF89a", {}, 415, "unsupported"),
        (encoded(drawn_image("PA"))[:500], {}, 422, "corrupt"),
        (encoded(photograph()), {}, 422, "refused"),
        (b"x", {"Content-Type": "video/mp4"}, 415, "unsupported"),
        (b"{", {"Content-Type": "application/json"}, 400, "bad_request"),
        (b"[" * 100_000, {"Content-Type": "application/json"}, 400, "bad_request"),
        (b"{}", {"Content-Type": "application/json"}, 400, "bad_request"),
        (b"x", {"Accept": "text/html"}, 406, "not_acceptable"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
def test_bad_input_has_its_status_and_says_what_would_be_right(front, content, headers, status, code):
    said = front.ask("/predictions/embeddings", content, headers)
    assert (said.status, said.headers["content-type"]) == (status, "application/json")
    assert set(said.json) == {"code", "status", "message", "right"}
    assert (said.json["code"], said.json["status"]) == (code, status)


def test_many_calls_at_once(front):
    contents = [encoded(drawn_image(view)) for view in ("PA", "AXIAL", "LATERAL", "SAGITTAL")] * 6
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda content: front.ask("/predictions/embeddings", content), contents))
    assert [one.status for one in said] == [200] * len(contents)
    modalities = [one.json["modality"] for one in said]
    assert modalities == ["XR", "MR", "XR", "MR"] * 6


def test_without_a_token_nothing_is_answered(front):
    film = encoded(drawn_image("PA"))
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert 400 <= front.ask("/predictions/embeddings", film, headers, authorized=False).status < 500


def inference(**changes):
    one = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [based(encoded(drawn_image("PA")))], **changes}
    return document({"id": "7", "inputs": [one]})


def test_the_open_inference_protocol(front):
    film = encoded(drawn_image("PA"))
    expected = front.ask("/predictions/embeddings", film).json
    said = front.ask("/v2/models/embeddings/infer", *inference())
    assert (said.status, said.json["id"], said.json["model_name"]) == (200, "7", "embeddings")
    [output] = said.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [1, 12])
    assert output["data"] == expected["embedding"]
    assert said.json["parameters"]["dossier"] == expected["dossier"]
    said = front.ask("/v2/models/pneumonia/infer", *inference()).json
    assert [one["name"] for one in said["outputs"]] == ["probability", "decision", "abstention", "meaning"]
    assert said["outputs"][0]["data"] == [front.ask("/predictions/pneumonia", film).json["probability"]]


def test_the_open_inference_protocol_in_binary(front):
    film = encoded(drawn_image("PA"))
    rest = len(film).to_bytes(4, "little") + film
    one = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(rest)}}
    head = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    sent = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    said = front.ask("/v2/models/embeddings/infer", head + rest, sent)
    assert said.status == 200
    length = int(said.headers["inference-header-content-length"])
    [output] = json.loads(said.body[:length])["outputs"]
    assert output["parameters"]["binary_data_size"] == 48
    vector = np.float32(front.ask("/predictions/embeddings", film).json["embedding"])
    assert np.array_equal(np.frombuffer(said.body[length:], "<f4"), vector)


def test_a_bad_inference_call_says_what_is_wrong(front):
    said = front.ask("/v2/models/embeddings/infer", *inference(shape=[2]))
    assert (said.status, said.json["code"]) == (400, "bad_request")
    assert said.json["error"].startswith("data is not a list of 2")

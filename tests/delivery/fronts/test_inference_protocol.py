"""The Open Inference Protocol against naive encodings, and calls that are not as it has them."""

import base64
import json
import re
import struct

import numpy as np
import pytest
from releasing import drawn_image, encoded

from hilum.delivery.desk import Desk, Request
from hilum.delivery.fronts import inference_protocol
from hilum.delivery.fronts.inference_protocol import HEADER_LENGTH
from hilum.delivery.predictor import Release

FILM = encoded(drawn_image("PA"))


@pytest.fixture(scope="module")
def embeddings(xr_release, mr_release):
    return Desk.load([xr_release, mr_release], "embeddings")


@pytest.fixture(scope="module")
def pneumonia(xr_release, mr_release):
    return Desk.load([xr_release, mr_release], "pneumonia")


def tensor(**changes):
    given = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(FILM).decode()], **changes}
    return {name: value for name, value in given.items() if value is not None}


def ask(desk, said, rest=None, **headers):
    head = said if isinstance(said, bytes) else json.dumps(said).encode()
    if rest is not None:
        headers[HEADER_LENGTH] = str(len(head))
    return inference_protocol.answer(desk, head + (rest or b""), headers)


def pixels(**changes):
    image = drawn_image("PA")
    given = {"datatype": "UINT8", "shape": list(image.shape), "data": image.reshape(-1).tolist(), **changes}
    return {"inputs": [tensor(**given)], "parameters": {"modality": "XR"}}


def test_decoded_pixels_are_answered_as_the_file_is(embeddings):
    image = drawn_image("PA")
    [expected] = embeddings.answer([Request(FILM, "XR")])
    for said in (
        pixels(),
        pixels(shape=[1, *image.shape]),
        pixels(shape=[1, 1, *image.shape]),
        pixels(data=image.tolist()),
    ):
        [output] = json.loads(ask(embeddings, said).body)["outputs"]
        assert output["data"] == expected.body["embedding"]
    scaled = (image / np.float32(255)).astype("<f4")
    said = pixels(datatype="FP32", data=None, parameters={"binary_data_size": scaled.nbytes})
    [output] = json.loads(ask(embeddings, said, scaled.tobytes()).body)["outputs"]
    assert np.allclose(output["data"], expected.body["embedding"], atol=0.05)


def test_several_images_and_the_outputs_that_are_asked_for(pneumonia):
    data = [base64.b64encode(one).decode() for one in (FILM, encoded(drawn_image("CORONAL")))]
    said = {"inputs": [tensor(shape=[2], data=data)], "outputs": [{"name": "abstention"}, {"name": "probability"}]}
    reply = ask(pneumonia, said)
    first, second = json.loads(reply.body)["outputs"]
    assert (first["name"], first["data"]) == ("abstention", ["", "wrong_modality"])
    assert second["data"][1] is None
    assert 0 < second["data"][0] < 1
    assert reply.outcomes == ("answered", "abstained:wrong_modality")


def test_binary_outputs_lie_behind_the_json_in_order(pneumonia):
    reply = ask(pneumonia, {"inputs": [tensor()], "parameters": {"binary_data_output": True}})
    length = int(reply.headers[HEADER_LENGTH])
    head, rest = json.loads(reply.body[:length]), reply.body[length:]
    sizes = [one["parameters"]["binary_data_size"] for one in head["outputs"]]
    assert sum(sizes) == len(rest)
    [expected] = pneumonia.answer([Request(FILM)])
    assert struct.unpack("<f", rest[:4])[0] == np.float32(expected.body["probability"])
    (count,) = struct.unpack("<I", rest[4:8])
    assert rest[8 : 8 + count].decode() == expected.body["decision"]


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        (b"[", 400, "not JSON"),
        (b"[" * 100_000, 400, "too deep"),
        ([], 400, "not an object"),
        ({}, 400, "inputs"),
        ({"inputs": [1]}, 400, "inputs"),
        ({"inputs": [tensor(), tensor()]}, 400, "inputs"),
        ({"inputs": [tensor(name="film")]}, 400, "'film'"),
        ({"inputs": [tensor(datatype="FP64")]}, 400, "'FP64'"),
        ({"inputs": [tensor(datatype=None)]}, 400, "datatype"),
        ({"inputs": [tensor(shape=[2])]}, 400, "list of 2"),
        ({"inputs": [tensor(shape=[-1])]}, 400, "positive"),
        ({"inputs": [tensor(shape=[True])]}, 400, "positive"),
        ({"inputs": [tensor(shape=[100])]}, 413, "100 images"),
        ({"inputs": [tensor(shape=[10**9, 10**9])]}, 413, "elements"),
        ({"inputs": [tensor(data=["%"])]}, 400, "data[0] is not base64"),
        ({"inputs": [tensor(data=[[1]])]}, 400, "data[0] is not a string"),
        ({"inputs": [tensor(data="x")]}, 400, "list of 1"),
        ({"inputs": [tensor(parameters=[])]}, 400, "parameters"),
        ({"inputs": [tensor(parameters={"binary_data_size": 3})]}, 400, "binary_data_size"),
        ({"inputs": [tensor()], "parameters": {"modality": 5}}, 400, "modality"),
        ({"inputs": [tensor()], "parameters": {"modality": "CT"}}, 422, "'CT'"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, 400, "'logits'"),
        ({"inputs": [tensor()], "outputs": []}, 400, "outputs"),
        ({"inputs": [tensor(data=[""])]}, 400, "empty"),
        ({"inputs": [tensor(data=[base64.b64encode(b"rubbish").decode()])]}, 415, "no image"),
        ({"inputs": [tensor(shape=[2], data=[base64.b64encode(FILM).decode(), ""])]}, 400, "image[1]: "),
        ({**pixels(), "parameters": {}}, 422, "modality"),
        (pixels(shape=[96]), 400, "grey images"),
        (pixels(shape=[1, 3, 96, 32]), 400, "grey images"),
        (pixels(shape=[96, 95]), 400, "9216 values"),
        (pixels(data=[["x"]]), 400, "not numbers"),
        (pixels(data=[[1], [1, 2]]), 400, "unevenly"),
        (pixels(data=[300] * 9216), 400, "0 to 255"),
        (pixels(datatype="FP32", data=[2.0] * 9216), 422, "between 0 and 1"),
        (pixels(datatype="FP32", data=[1e300] * 9216), 422, "finite"),
    ],
)
def test_what_is_not_as_the_protocol_has_it(embeddings, said, status, words):
    reply = ask(embeddings, said)
    told = json.loads(reply.body)
    assert (reply.status, told["status"]) == (status, status)
    assert words in told["message"]
    assert told["error"] == f"{told['message']}; {told['right']}"


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (b"", "end before"),
        (b"\0\0", "end before"),
        (struct.pack("<I", 100) + b"x", "longer"),
        (struct.pack("<I", 1) + b"xx", "go on"),
    ],
)
def test_binary_elements_that_do_not_fit(embeddings, rest, words):
    reply = ask(embeddings, {"inputs": [tensor(data=None, parameters={"binary_data_size": len(rest)})]}, rest)
    assert reply.status == 400
    assert re.search(words, json.loads(reply.body)["message"])


@pytest.mark.parametrize("stated", ["-1", "99999999", "x", "", "0"])
def test_a_header_length_that_is_none(embeddings, stated):
    assert inference_protocol.answer(embeddings, b"{}", {HEADER_LENGTH: stated}).status == 400


def test_thousands_of_mutated_calls_are_refused_and_nothing_else(embeddings):
    random = np.random.default_rng(5)
    whole = {"id": "1", "inputs": [tensor()]}
    seeds = [json.dumps(one).encode() for one in (whole, pixels(shape=[2, 3], data=[1] * 6))]
    bits = [b"null", b"[[", b"1e999", b"-0", b"NaN", b'"\\ud800"', b"{}"]
    statuses = set()
    for number in range(3000):
        mutant = bytearray(seeds[number % 2])
        for _ in range(int(random.integers(1, 4))):
            place = int(random.integers(0, min(200, len(mutant))))
            kind = random.integers(0, 3)
            if kind == 0:
                mutant[place] = int(random.choice(list(b'0123456789[]{}":,-.eEnulltruefas\\')))
            elif kind == 1:
                del mutant[place : place + int(random.integers(1, 9))]
            else:
                mutant[place:place] = bits[int(random.integers(0, len(bits)))]
        statuses.add(ask(embeddings, bytes(mutant)).status)
    assert statuses <= {200, 400, 413, 415, 422}
    assert {200, 400} <= statuses


def test_metadata(xr_release, mr_release):
    releases = [Release.open(xr_release), Release.open(mr_release)]
    said = inference_protocol.model_metadata("embeddings", releases)
    assert (said["name"], said["inputs"][0]["datatype"]) == ("embeddings", "BYTES")
    assert said["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 12]}]
    assert [one["name"] for one in said["releases"]] == ["xr-pixels", "mr-pixels"]
    said = inference_protocol.model_metadata("pneumonia", releases)
    assert [one["name"] for one in said["outputs"]] == ["probability", "decision", "abstention", "meaning"]
    assert len(said["releases"]) == 1
    assert inference_protocol.server_metadata()["name"] == "hilum"

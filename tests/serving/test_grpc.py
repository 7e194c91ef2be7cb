"""gRPC of the Open Inference Protocol has the answers and refusals of the HTTP beside it."""

import json
import struct

import grpc
import numpy as np
import pytest
from releasing import SOMEBODY, drawn_image, encoded, overridden, photograph
from rpc import (
    BAD,
    FILM,
    UNKNOWN,
    Caller,
    field,
    fields,
    outputs,
    packed,
    parameter,
    parameters,
    request,
    strings,
    tensor,
)


@pytest.fixture(scope="module")
def front(xr_release, mr_release, starlette_front):
    with starlette_front([xr_release, mr_release], "--workers", "2", "--grpc-port", "0") as running:
        yield running


@pytest.fixture(scope="module")
def caller(front):
    with Caller(front) as opened:
        yield opened


def over_http(front, question, said, rest=b""):
    """The same question as JSON with binary tensors: names and raw outputs, and the rest of the head."""
    head = json.dumps({**said, "parameters": {**said.get("parameters", {}), "binary_data_output": True}}).encode()
    sent = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    answered = front.ask(f"/v2/models/{question}/infer", head + rest, sent)
    length = int(answered.headers["inference-header-content-length"])
    told, blobs, found = json.loads(answered.body[:length]), answered.body[length:], {}
    for one in told["outputs"]:
        size = one["parameters"]["binary_data_size"]
        found[one["name"]], blobs = (one["datatype"], one["shape"], blobs[:size]), blobs[size:]
    return told, found


def files(*contents):
    rest = strings(*contents)
    one = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(contents)],
        "parameters": {"binary_data_size": len(rest)},
    }
    return {"inputs": [one]}, rest


@pytest.mark.parametrize("question", ["embeddings", "pneumonia"])
def test_a_file_has_the_answer_that_it_has_over_http(front, caller, question):
    said, expected = over_http(front, question, *files(FILM))
    typed = request(question)
    raw = request(question, tensor(), field(7, strings(FILM)))
    for message in (typed, raw):
        answer = caller.ask("ModelInfer", message)
        assert answer[1] == [question.encode()]
        assert answer[2] == [said["model_version"].encode()]
        assert outputs(answer) == expected
        assert parameters(answer) == said["parameters"]
        assert 3 not in answer
    assert caller.ask("ModelInfer", typed + field(3, "mine"))[3] == [b"mine"]


def test_numbers_are_those_of_predictions_bit_for_bit(front, caller):
    bare = front.ask("/predictions/embeddings", FILM, {"Accept": "application/octet-stream"})
    kind, shape, raw = outputs(caller.ask("ModelInfer", request()))["embedding"]
    assert (kind, shape, raw) == ("FP32", [1, len(bare.body) // 4], bare.body)
    label = front.ask("/predictions/pneumonia", FILM).json
    found = outputs(caller.ask("ModelInfer", request("pneumonia")))
    assert np.float32(label["probability"]).tobytes() == found["probability"][2]
    assert found["decision"][2] == strings(label["decision"].encode())


def test_a_model_that_abstains_gives_nan_and_its_reason(caller):
    message = request("pneumonia", tensor(contents=field(8, encoded(photograph()))), parameter("modality", "XR"))
    found = outputs(caller.ask("ModelInfer", message))
    assert np.isnan(struct.unpack("<f", found["probability"][2])[0])
    assert found["decision"][2] == strings(b"abstained")
    assert len(found["abstention"][2]) > 4


def test_many_images_in_one_call(front, caller):
    contents = [FILM, encoded(drawn_image("PA"), "JPEG"), FILM]
    _, expected = over_http(front, "embeddings", *files(*contents))
    typed = request(inputs=tensor(shape=[3], contents=b"".join(field(8, one) for one in contents)))
    raw = request(inputs=tensor(shape=[3]), rest=field(7, strings(*contents)))
    assert outputs(caller.ask("ModelInfer", typed)) == expected
    assert outputs(caller.ask("ModelInfer", raw)) == expected
    assert expected["embedding"][1][0] == 3


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_decoded_pixels(front, caller, datatype):
    image = drawn_image("PA", 48)
    if datatype == "FP32":
        image = (image / np.float32(255)).astype("<f4")
    one = {"name": "image", "datatype": datatype, "shape": [48, 48], "parameters": {"binary_data_size": image.nbytes}}
    _, expected = over_http(front, "embeddings", {"inputs": [one], "parameters": {"modality": "XR"}}, image.tobytes())
    typed = field(6, image.tobytes()) if datatype == "FP32" else field(4, packed(image.reshape(-1).tolist()))
    for inputs, rest in (
        (tensor(datatype, (48, 48), typed), parameter("modality", "XR")),
        (tensor(datatype, (1, 48, 48), parameters=parameter("modality", "XR")), field(7, image.tobytes())),
    ):
        assert outputs(caller.ask("ModelInfer", request(inputs=inputs, rest=rest))) == expected


def test_outputs_are_those_that_were_asked_for_in_their_order(caller):
    asked = b"".join(field(6, field(1, name)) for name in ("abstention", "probability"))
    assert list(outputs(caller.ask("ModelInfer", request("pneumonia", rest=asked)))) == ["abstention", "probability"]


REFUSED = {
    "no message of protobuf": (b"\xff\xff\xff", BAD, "bad_request"),
    "cut off": (request()[:-7], BAD, "bad_request"),
    "empty": (b"", UNKNOWN, "unknown_model"),
    "a name that is no text": (field(1, b"\xff\xfe") + request(), BAD, "bad_request"),
    "damaged within": (request(inputs=field(5, b"\x0a\x7fshort")), BAD, "bad_request"),
    "a group": (request(rest=b"\x4b"), BAD, "bad_request"),
    "many fields": (request(inputs=field(5, b"") * 2000), BAD, "too_many"),
    "no such model": (request("lungs"), UNKNOWN, "unknown_model"),
    "no such version": (request(rest=field(2, "99")), UNKNOWN, "unknown_model"),
    "no input": (request(inputs=b""), BAD, "bad_request"),
    "two inputs": (request(inputs=2 * tensor(contents=field(8, FILM))), BAD, "bad_request"),
    "another input": (request(inputs=tensor(name="x", contents=field(8, FILM))), BAD, "bad_request"),
    "no such output": (request(rest=field(6, field(1, "logits"))), BAD, "bad_request"),
    "raw and typed": (request(rest=field(7, strings(FILM))), BAD, "bad_request"),
    "two raw contents": (request(inputs=tensor(), rest=2 * field(7, strings(FILM))), BAD, "bad_request"),
    "raw without lengths": (request(inputs=tensor(), rest=field(7, FILM)), BAD, "bad_request"),
    "no contents": (request(inputs=tensor()), BAD, "bad_request"),
    "contents of another type": (request(inputs=tensor(contents=field(1, packed([1])))), BAD, "bad_request"),
    "a datatype that is not read": (request(inputs=tensor("FP64", contents=field(7, 1.0))), BAD, "bad_request"),
    "fewer files than the shape says": (request(inputs=tensor(shape=[2], contents=field(8, FILM))), BAD, "bad_request"),
    "a negative shape": (request(inputs=tensor(shape=[-1], contents=field(8, FILM))), BAD, "bad_request"),
    "no shape": (request(inputs=tensor(shape=[], contents=field(8, FILM))), BAD, "bad_request"),
    "a vast shape": (request(inputs=tensor("UINT8", [2**40, 2**40], field(4, packed([1])))), BAD, "too_large"),
    "65 files": (request(inputs=tensor(shape=[65], contents=65 * field(8, b"x"))), BAD, "too_many"),
    "a tensor without modality": (
        request(inputs=tensor("UINT8", [1, 2], field(4, packed([1, 2])))),
        BAD,
        "bad_request",
    ),
    "a modality that is no word": (request(rest=parameter("modality", field(2, 7))), BAD, "bad_request"),
    "256 in UINT8": (
        request(inputs=tensor("UINT8", [1, 2], field(4, packed([1, 256]))), rest=parameter("modality", "XR")),
        BAD,
        "bad_request",
    ),
    "NaN in FP32": (
        request(
            inputs=tensor("FP32", [1, 2], field(6, struct.pack("<2f", 0.5, float("nan")))),
            rest=parameter("modality", "XR"),
        ),
        BAD,
        "corrupt",
    ),
    "no image": (request(inputs=tensor(contents=field(8, b"secret words"))), BAD, "unsupported"),
    "half an image": (request(inputs=tensor(contents=field(8, FILM[:-999]))), BAD, "corrupt"),
    "another modality": (request(rest=parameter("modality", "CT")), BAD, "refused"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_said(caller, what):
    message, status, code = REFUSED[what]
    found, trailing = caller.refused("ModelInfer", message)
    told = json.loads(trailing["hilum-refusal-bin"])
    assert (found, told["code"]) == (status, code), told
    assert set(told) == {"code", "status", "message", "right"}
    assert "secret" not in told["message"]


def test_a_refusal_has_the_words_that_it_has_over_http(front, caller):
    said = front.ask("/predictions/embeddings", b"no image").json
    with pytest.raises(grpc.RpcError) as caught:
        caller.start("ModelInfer", request(inputs=tensor(contents=field(8, b"no image")))).result()
    assert json.loads(dict(caught.value.trailing_metadata())["hilum-refusal-bin"]) == said
    assert caught.value.details() == f"{said['message']}; {said['right']}"


def test_metadata_and_health_are_those_of_http(front, caller):
    said = caller.ask("ServerMetadata")
    expected = front.ask("/v2").json
    assert (said[1][0].decode(), said[2][0].decode()) == (expected["name"], expected["version"])
    for question in ("embeddings", "pneumonia"):
        said = caller.ask("ModelMetadata", field(1, question))
        expected = front.ask(f"/v2/models/{question}").json
        assert [one.decode() for one in said[2]] == expected["versions"]
        assert said[3] == [expected["platform"].encode()]
        for number, name in ((4, "inputs"), (5, "outputs")):
            tensors = [fields(one) for one in said[number]]
            assert [one[1][0].decode() for one in tensors] == [one["name"] for one in expected[name]]
            assert [one[2][0].decode() for one in tensors] == [one["datatype"] for one in expected[name]]
            assert [one[3][0] for one in tensors] == [packed(one["shape"]) for one in expected[name]]
        assert caller.ask("ModelReady", field(1, question)) == {1: [1]}
    for name in ("ModelMetadata", "ModelReady"):
        assert caller.refused(name, field(1, "lungs"))[0] == UNKNOWN
        assert caller.refused(name, field(1, "embeddings") + field(2, "99"))[0] == UNKNOWN
        assert caller.refused(name, b"\x0a\x05")[0] == BAD
        assert caller.refused(name, field(1, "x" * 70_000))[0] == BAD
    assert caller.refused("RepositoryIndex")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_an_override_is_told_with_answers_and_refusals(base, starlette_front):
    with (
        starlette_front([overridden(base)], "--workers", "1", "--grpc-port", "0") as front,
        Caller(front) as caller,
    ):
        answered = caller.start("ModelInfer", request())
        told = json.loads(parameters(fields(answered.result()))["override"])
        assert told == SOMEBODY.model_dump(mode="json")
        assert json.loads(dict(answered.trailing_metadata())["hilum-override-bin"]) == [told]
        assert json.loads(caller.refused("ModelInfer", b"")[1]["hilum-override-bin"]) == [told]

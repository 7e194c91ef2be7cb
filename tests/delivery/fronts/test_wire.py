"""Calls in every form that there is, and what comes back."""

import base64
import io
import json
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from releasing import SOMEBODY, dicom, drawn_image, encoded, overridden

from hilum.delivery.desk import Desk, Request
from hilum.delivery.fronts import asking, refusals, wire
from hilum.delivery.fronts.asking import Call
from hilum.delivery.fronts.refusals import CallError
from hilum.errors import ImageFault

BOUNDARY = "x-boundary"


@pytest.fixture(scope="module")
def desk(xr_release, mr_release):
    return Desk.load([xr_release, mr_release], "embeddings")


@pytest.fixture(scope="module")
def pneumonia(xr_release):
    return Desk.load([xr_release], "pneumonia")


def form(*parts, boundary=BOUNDARY):
    """A multipart body, written out as RFC 7578 has it."""
    said = b""
    for name, content in parts:
        said += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="secret name.png"\r\n'.encode()
        )
        said += b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n"
    return Call(said + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"})


def document(said):
    return Call(json.dumps(said).encode(), {"content-type": "application/json"})


def based(content):
    return base64.b64encode(content).decode()


def test_the_same_film_in_every_form_has_the_same_answer(desk):
    film = encoded(drawn_image("PA"))
    calls = [
        Call(film),
        Call(film, {"content-type": "image/png"}),
        Call(film, {"content-type": "application/x-www-form-urlencoded"}),
        form(("data", film)),
        form(("image", film)),
        Call(b"", {"content-type": "multipart/form-data"}, form={"data": [film]}),
        document({"image": based(film)}),
        document({"image": base64.urlsafe_b64encode(film).decode()}),
        document({"image": f"data:image/png;base64,{based(film)}"}),
    ]
    [expected] = desk.answer([Request(film)])
    for call in calls:
        reply = wire.answer(desk, call)
        assert (reply.status, reply.content_type, reply.outcomes) == (200, "application/json", ("answered",))
        assert json.loads(reply.body) == expected.body


@pytest.mark.parametrize("kind", ["form", "json"])
def test_many_images_have_an_answer_each_and_a_bad_one_spoils_no_other(desk, kind):
    film, brain, broken = encoded(drawn_image("PA")), encoded(drawn_image("AXIAL")), encoded(drawn_image("PA"))[:200]
    contents = [film, broken, brain]
    if kind == "form":
        call = form(*(("data", one) for one in contents))
    else:
        call = document({"images": [{"image": based(one)} for one in contents]})
    reply = wire.answer(desk, call)
    first, second, third = json.loads(reply.body)["answers"]
    assert reply.status == 200
    assert reply.outcomes == ("answered", "refused:corrupt", "answered")
    assert (first["modality"], third["modality"]) == ("XR", "MR")
    assert (second["code"], second["status"]) == ("corrupt", 422)


def test_what_is_asked_beside_stands_in_json_form_query_or_header():
    film = b"film"
    for call in (
        document({"image": based(film), "modality": "XR", "neighbours": 3, "saliency": True, "covariates": {"a": 1}}),
        form(
            *[("data", film), ("modality", b"XR"), ("neighbours", b"3")],
            *[("saliency", b"true"), ("covariates", b'{"a": 1}')],
        ),
        Call(film, query={"modality": "XR", "neighbours": "3", "saliency": "1", "covariates": '{"a": 1}'}),
        Call(film, {"x-modality": "XR", "x-neighbours": "3", "x-saliency": "yes", "x-covariates": '{"a": 1}'}),
    ):
        [request], many = asking.requests(call)
        assert request == Request(film, "XR", {"a": 1.0}, 3, True, False)
        assert not many


def test_what_many_images_share_is_said_once_and_may_be_said_otherwise_for_one():
    call = document({"modality": "XR", "seen": True, "images": [{"image": ""}, {"image": "", "modality": "MR"}]})
    requests, many = asking.requests(call)
    assert many
    assert [(one.modality, one.seen) for one in requests] == [("XR", True), ("MR", True)]


@pytest.mark.parametrize("key", ["neighbours", "saliency", "seen", "covariates"])
def test_what_is_malformed_is_refused_also_where_it_is_overruled(key):
    good = {"neighbours": 2, "saliency": True, "seen": False, "covariates": {"a": 1}}[key]
    query, headers = {key: "nonsense"}, {f"x-{key}": "nonsense"}
    for call in (
        document({key: ["nonsense"], "images": [{"image": "", key: good}]}),
        replace(document({"image": "", key: good}), query=query),
        Call(b"film", headers, {key: json.dumps(good)}),
        replace(form(("data", b"film"), (key, json.dumps(good).encode())), query=query),
    ):
        with pytest.raises(CallError) as refused:
            asking.requests(call)
        assert (refused.value.status, refused.value.code) == (400, "bad_request")


@pytest.mark.parametrize("accept", ["application/octet-stream", "application/x-npy"])
def test_numbers_alone(desk, accept):
    film = encoded(drawn_image("PA"))
    expected = json.loads(wire.answer(desk, Call(film)).body)
    for call, shape in ((Call(film), "12"), (form(("data", film), ("data", film)), "2,12")):
        reply = wire.answer(desk, Call(call.content, {**call.headers, "accept": accept}))
        assert (reply.status, reply.content_type) == (200, accept)
        values = (
            np.load(io.BytesIO(reply.body)) if "npy" in accept else np.frombuffer(reply.body, reply.headers["x-dtype"])
        )
        assert np.array_equal(values.reshape(-1, 12)[0], np.float32(expected["embedding"]))
        assert reply.headers["x-shape"] == shape
        assert reply.headers["x-model"] == "xr-pixels/1.0"
        assert reply.headers["x-dossier"] == expected["dossier"]
        assert reply.headers["x-gate"] == "pass"


def test_numbers_alone_are_for_all_images_or_for_none(desk):
    film, broken = encoded(drawn_image("PA")), b"no image"
    call = form(("data", film), ("data", broken))
    reply = wire.answer(desk, Call(call.content, {**call.headers, "accept": "application/x-npy"}))
    said = json.loads(reply.body)
    assert (reply.status, said["status"]) == (415, 415)
    assert said["message"].startswith("image 1 of 2")


@pytest.mark.parametrize(
    ("call", "status", "code", "words"),
    [
        (Call(b""), 400, "empty", "empty"),
        (Call(b"%PDF-1.7"), 415, "unsupported", "a PDF"),
        (Call(b"x", {"content-type": "video/mp4"}), 415, "unsupported", "video/mp4"),
        (Call(b"x", {"accept": "text/html"}), 406, "not_acceptable", "text/html"),
        (Call(b"{", {"content-type": "application/json"}), 400, "bad_request", "at character 1"),
        (Call(b"\xff\xfe", {"content-type": "application/json"}), 400, "bad_request", "not JSON"),
        (Call(b"[" * 200_000, {"content-type": "application/json"}), 400, "bad_request", "too deep"),
        (document([]), 400, "bad_request", "not an object"),
        (document({}), 400, "bad_request", "image is missing"),
        (document({"image": 5}), 400, "bad_request", "not a string"),
        (document({"image": "%%%"}), 400, "bad_request", "not base64"),
        (document({"image": "", "colour": 1}), 400, "bad_request", "colour means nothing"),
        (document({"image": "", "modality": 3}), 400, "bad_request", "modality is not a string"),
        (document({"image": "", "neighbours": -1}), 400, "bad_request", "neighbours"),
        (document({"image": "", "neighbours": True}), 400, "bad_request", "neighbours"),
        (document({"image": "", "saliency": "perhaps"}), 400, "bad_request", "saliency"),
        (document({"image": "", "covariates": [1]}), 400, "bad_request", "not an object"),
        (document({"image": "", "covariates": {"a": "b"}}), 400, "bad_request", "'a' is not a number"),
        (document({"image": "", "covariates": {"a": math.nan}}), 400, "bad_request", "'a' is not a number"),
        (document({"images": []}), 400, "bad_request", "not a list with something in it"),
        (document({"images": ["x"]}), 400, "bad_request", "images[0] is not an object"),
        (document({"images": [{"image": ""}, {}]}), 400, "bad_request", "images[1].image is missing"),
        (document({"images": [{"image": ""}], "image": ""}), 400, "bad_request", "means nothing beside images"),
        (document({"images": [{"image": ""}] * 65}), 413, "too_many", "65 images"),
        (form(("data", b""), ("note", b"x")), 400, "bad_request", "'note'"),
        (form(*[("data", b"x")] * 129), 413, "too_many", "128 parts"),
        (form(("", b"x")), 400, "bad_request", "no name"),
        (form(("data", b"x"), ("modality", b"\xff")), 400, "bad_request", "UTF-8"),
        (Call(b"x", {"content-type": "multipart/form-data"}), 400, "bad_request", "boundary"),
        (Call(b"x", {"content-type": "multipart/form-data; boundary=b"}), 400, "bad_request", "malformed"),
        (Call(form(("data", b"x")).content[:60], form().headers), 400, "bad_request", "truncated"),
        (Call(b"", form().headers), 400, "bad_request", "truncated"),
    ],
)  # fmt: skip
def test_bad_calls_get_a_status_a_code_and_what_would_be_right(desk, call, status, code, words):
    reply = wire.answer(desk, call)
    said = json.loads(reply.body)
    assert (reply.status, said["status"], said["code"]) == (status, status, code)
    assert words in said["message"]
    assert set(said) == {"code", "status", "message", "right"}
    assert said["right"]
    assert reply.outcomes in ((f"refused:{code}",), (f"declined:{code}",))


def test_a_file_name_of_a_form_comes_back_nowhere(desk):
    reply = wire.answer(desk, form(("data", b"nothing")))
    assert b"secret" not in reply.body


def test_every_fault_has_a_status_and_a_remedy():
    assert set(refusals.STATUS) == set(get_args(ImageFault))
    assert all(refusals.right_of(fault) for fault in get_args(ImageFault))
    assert refusals.STATUS["too_large"] == 413


def test_the_override_stands_in_every_reply(base):
    desk = Desk.load([overridden(base)], "pneumonia")
    for call in (Call(encoded(drawn_image("PA"))), Call(b"no image"), document([]), Call(dicom(drawn_image("PA")))):
        reply = wire.answer(desk, call)
        assert {key for key in reply.headers if key.startswith("x-override")} == {
            f"x-override-{name}" for name in SOMEBODY.model_dump()
        }


def test_a_call_error_carries_its_headers():
    reply = wire.refusal(CallError("overloaded", "too much", "later", 503, {"retry-after": "3"}))
    assert (reply.status, reply.headers["retry-after"]) == (503, "3")


def test_probabilities_alone_are_one_number(pneumonia):
    film = encoded(drawn_image("PA"))
    reply = wire.answer(pneumonia, Call(film, {"accept": "application/octet-stream"}))
    [value] = np.frombuffer(reply.body, "<f4")
    assert value == np.float32(json.loads(wire.answer(pneumonia, Call(film)).body)["probability"])


def test_numbers_of_different_shapes_are_not_one_array(desk):
    film = encoded(drawn_image("PA"))
    [image, other] = desk.answer([Request(film), Request(film)])
    volume = replace(other, values=np.stack([other.values] * 3))
    reply = wire._bare([image, volume], True, "application/x-npy", {}, ("answered", "answered"))
    assert (reply.status, json.loads(reply.body)["code"]) == (406, "not_acceptable")
    assert wire._bare([image, other], True, "application/x-npy", {}, ("answered", "answered")).status == 200

"""nginx as k8s/base sets it up, really started: before TorchServe, before the maintained front, before a recorder."""

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import proxying
import pytest
from proxying import behind_a_proxy, proxy, recorder, until
from releasing import dicom, drawn_image, encoded
from sockets import heard

from hilum.client import Client
from hilum.delivery.fronts import torchserve
from hilum.delivery.machine import free_port

FILM = "/predictions/pneumonia"
REFUSAL = {"code", "status", "message", "right"}


@pytest.fixture(scope="module")
def film():
    return encoded(drawn_image("PA"))


@pytest.fixture(scope="module", params=["torchserve", "starlette"])
def front(request, xr_release, starlette_front, tmp_path_factory):
    """A real server with nginx before it."""
    folder = tmp_path_factory.mktemp("proxy")
    if request.param == "torchserve":
        serving = behind_a_proxy(folder / "serving")
        with (
            torchserve.start([xr_release], serving=serving, port=0, workers=1) as behind,
            proxy(folder / "p", "torchserve", behind.port) as running,
        ):
            running.beside = behind.work / torchserve.LOG
            yield running
    else:
        with starlette_front([xr_release], "--workers", "1") as behind:
            port = int(behind.running.url.rsplit(":", 1)[1])
            with proxy(folder / "p", "starlette", port, behind.running.token) as running:
                yield running


@pytest.fixture(scope="module", params=["torchserve", "starlette"])
def recorded(request, tmp_path_factory):
    """nginx before a recorder, and the recorder."""
    with recorder() as kept, proxy(tmp_path_factory.mktemp("proxy") / "p", request.param, kept.port) as running:
        yield running, kept


def refused(said, status, code):
    """It is a refusal in hilum's form, and not a page of nginx's."""
    assert (said.status, said.headers["content-type"]) == (status, "application/json")
    assert set(said.json) == REFUSAL
    assert (said.json["status"], said.json["code"]) == (status, code)


def test_predictions_pass_through_tls_with_the_token(front, film):
    said = front.ask(FILM, film)
    assert said.status == 200
    assert 0 < said.json["probability"] < 1
    vector = front.ask("/predictions/embeddings", film, {"Accept": "application/octet-stream"})
    assert (vector.headers["x-dtype"], len(vector.body)) == ("<f4", 48)
    bare = front.ask(FILM, film, {"Content-Type": "application/x-www-form-urlencoded"})  # curl's default
    assert bare.json == said.json
    with Client(front.url, front.token, ca=front.ca) as client:
        assert client.predict(film).probability == pytest.approx(said.json["probability"])


def test_what_the_server_refuses_stays_as_it_says_it(front):
    refused(front.ask("/predictions/nothing", b"garbage"), 404, "unknown_model")
    refused(front.ask(FILM, b"garbage"), 415, "unsupported")
    refused(front.ask(FILM, b"x", {"Accept": "text/html"}), 406, "not_acceptable")


@pytest.mark.parametrize("token", [None, "Bearer wrong", "Basic x", "Bearer"])
def test_without_a_token_nothing_is_answered(front, film, token):
    said = front.ask(FILM, film, {"Authorization": token} if token else {}, authorized=False)
    refused(said, 401, "unauthorized")
    assert said.headers["www-authenticate"] == "Bearer"


def test_a_dicom_film_of_20_mb_passes(front):
    pixels = np.kron(drawn_image("PA"), np.ones((47, 47), np.uint8))
    content = dicom(pixels)
    assert len(content) > 20_000_000
    said = front.ask(FILM, content)
    assert (said.status, said.json["modality"]) == (200, "XR")


def test_the_token_is_asked_for_before_the_body_is_sent(front):
    for token in ("Authorization: Bearer wrong", "X-No: token"):
        with front.connected() as caller:
            lines = ["Host: h", token, "Content-Length: 20000000", "", ""]
            caller.sendall("\r\n".join([f"POST {FILM} HTTP/1.1", *lines]).encode())
            assert caller.recv(4000).startswith(b"HTTP/1.1 401")


def test_nobody_is_asked_for_the_body_of_a_call_that_torchserve_may_not_have(tmp_path):
    with recorder() as kept, proxy(tmp_path / "p", "torchserve", kept.port) as running, running.connected() as caller:
        lines = ["Host: h", "Authorization: Bearer wrong", "Content-Length: 20000000", "Expect: 100-continue", "", ""]
        caller.sendall("\r\n".join([f"POST {FILM} HTTP/1.1", *lines]).encode())
        assert caller.recv(4000).startswith(b"HTTP/1.1 401")  # and not 100 Continue
        assert kept.lines == []


def test_a_body_over_the_limit_is_refused(front):
    head = [f"POST {FILM} HTTP/1.1", "Host: h", f"Authorization: Bearer {front.token}"]
    with front.connected() as caller:
        caller.sendall("\r\n".join([*head, f"Content-Length: {32 * 2**20 + 1}", "", ""]).encode())
        answer = heard(caller)
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["code"] == "too_large"
    with front.connected() as caller:  # one that does not say how long it is
        caller.sendall("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())
        answer = b""
        for _ in range(40):
            try:
                caller.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
            except OSError:
                break
        answer = heard(caller)
    assert answer.startswith(b"HTTP/1.1 413")


def test_compressed_bodies_do_not_pass(front, film):
    refused(front.ask(FILM, film, {"Content-Encoding": "gzip"}), 415, "unsupported")


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/models", "/models/pneumonia", "/status", "/reload", "/token?type=inference", "/ping"),
        *(
            "/api-description",
            "/workflows",
            "/explanations/pneumonia",
            "/v1/models/pneumonia:predict",
            "/-/unavailable",
        ),
        *("/predictions/../models", "/predictions/%2e%2e/models", "//models", "/predictions/pneumonia/../../models"),
        *("/v2/repository/index", "/nothing"),
    ],
)
def test_management_metrics_and_other_paths_are_not_there(front, path):
    with front.connected(timeout=30) as caller:  # by hand: libraries tidy paths up
        lines = ["Host: h", f"Authorization: Bearer {front.token}", "Connection: close", "", ""]
        caller.sendall("\r\n".join([f"GET {path} HTTP/1.1", *lines]).encode())
        head, _, body = heard(caller).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404"), head
    assert json.loads(body)["code"] == "unknown_path"


def test_open_paths_are_those_of_the_server_behind(front, film):
    assert front.ask("/healthz", authorized=False).status == 204
    refused(front.ask(FILM), 405, "method")
    if front.backend == "starlette":
        assert front.ask("/v2/health/ready", authorized=False).json == {"ready": True}
        assert front.ask("/v2/models/pneumonia").json["name"] == "pneumonia"
        assert b"<html" in front.ask("/", authorized=False).body
    else:  # TorchServe says ready whatever is
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/"):
            refused(front.ask(path), 404, "unknown_path")


def test_headers_and_bodies_that_do_not_come_are_cut_off(front):
    def slow(sent: bytes) -> tuple[bytes, float]:
        with front.connected(timeout=40) as caller:
            began = time.monotonic()
            caller.sendall(sent)
            return heard(caller), time.monotonic() - began

    head = f"POST {FILM} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {front.token}\r\n"
    with ThreadPoolExecutor(2) as callers:
        headers = callers.submit(slow, head.encode())
        body = callers.submit(slow, f"{head}Content-Length: 1000\r\n\r\nbegun".encode())
        for one in (headers, body):
            said, seconds = one.result()
            assert said == b"" or said.startswith(b"HTTP/1.1 408")  # nginx writes 408 to its log and hangs up
            assert 5 < seconds < 20
    until(lambda: sum(" 408 " in line for line in front.log) >= 2)


def test_what_is_not_http_or_not_tls_is_told_so(front):
    with socket.create_connection(("127.0.0.1", front.port), 10) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = heard(caller)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["message"] == "this port speaks TLS only"
    with front.connected() as caller:
        caller.sendall(b"nonsense\r\n\r\n")
        answer = heard(caller)
    assert b"<html" not in answer
    said = front.ask(FILM, b"x", {"X-Long": "x" * 40_000})
    refused(said, 431, "bad_request")


def test_only_headers_that_are_used_reach_the_server(recorded, film):
    proxy, kept = recorded
    kept.headers.clear(), kept.lines.clear()
    sent = {
        **dict.fromkeys(("X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP"), "10.9.8.7"),
        **dict.fromkeys(("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Original-URL"), "secret"),
        **dict.fromkeys(("Cookie", "X-Patient", "Referer", "User-Agent", "X-Request-Id", "Via"), "Erika"),
        "X-Modality": "XR",
        "X-Neighbours": "3",
        "X-Saliency": "true",
        "X-Seen": "1",
        "X-Covariates": "{}",
        "Accept": "application/x-npy",
        "Content-Type": "image/png",
        "Inference-Header-Content-Length": "5",
    }
    assert proxy.ask(FILM + "?patient=Erika", film, sent).status == 200
    used = {"x-modality", "x-neighbours", "x-saliency", "x-seen", "x-covariates", "accept", "content-type"}
    used |= {"inference-header-content-length"}
    [reached] = kept.headers
    assert {name: value for name, value in reached.items() if name in used} == {
        name.lower(): value for name, value in sent.items() if name.lower() in used
    }
    if proxy.backend == "torchserve":
        assert set(reached) - used == {"host", "content-length", "connection"}
        assert kept.lines == [f"POST {FILM} HTTP/1.1"]
    else:  # its tokens are its own affair, and it reads options from the query
        assert set(reached) - used == {"host", "content-length", "authorization"}
        assert reached["authorization"] == f"Bearer {proxy.token}"
        assert kept.lines == [f"POST {FILM}?patient=Erika HTTP/1.1"]


def test_nothing_without_a_token_reaches_torchserve_and_bodies_reach_it_whole(tmp_path):
    with recorder() as kept, proxy(tmp_path / "p", "torchserve", kept.port) as running:
        for token in ("Bearer wrong", "Bearer", "", f"Bearer {running.token}0", f"Bearer {running.token[:-1]}"):
            said = running.ask(FILM, b"x" * 1000, {"Authorization": token}, authorized=False)
            refused(said, 401, "unauthorized")
        with running.connected() as caller:
            lines = ["Host: h", f"Authorization: Bearer {running.token}", "Content-Length: 200000", "", ""]
            caller.sendall("\r\n".join([f"POST {FILM} HTTP/1.1", *lines]).encode() + bytes(100_000))
            time.sleep(0.5)
            assert (kept.lines, kept.bodies) == ([], [])
            caller.sendall(bytes(100_000))
            assert caller.recv(4000).startswith(b"HTTP/1.1 200")
        assert kept.bodies == [200_000]
        assert not list((tmp_path / "p" / "tmp" / "body").rglob("*0*"))  # nothing of it stays


def test_the_maintained_front_sees_a_call_before_its_body_is_there(tmp_path):
    with recorder() as kept, proxy(tmp_path / "p", "starlette", kept.port) as running, running.connected() as caller:
        lines = ["Host: h", "Content-Length: 200000", "", ""]
        caller.sendall("\r\n".join([f"POST {FILM} HTTP/1.1", *lines]).encode() + bytes(100_000))
        until(lambda: len(kept.lines) == 1)  # so that it can refuse it
        assert kept.bodies == []
        caller.sendall(bytes(100_000))
        assert caller.recv(4000).startswith(b"HTTP/1.1 200")


def test_keys_change_without_a_restart_and_without_a_lost_call(tmp_path):
    with recorder() as kept, proxy(tmp_path / "p", "torchserve", kept.port) as running:
        old, new = running.token, "cd" * 32

        def status(token):
            return running.ask(FILM, b"x", {"Authorization": f"Bearer {token}"}, authorized=False).status

        stop, found = threading.Event(), []

        def ask():
            while not stop.is_set():
                found.append(status(new))

        assert (status(old), status(new)) == (200, 401)
        before = running.workers
        running.keys(f'"Bearer {old}" 1;', f'"Bearer {new}" 1;')  # both, while callers change over
        until(lambda: running.workers and not running.workers & before)
        assert (status(old), status(new)) == (200, 200)
        with ThreadPoolExecutor(1) as caller:
            asked = caller.submit(ask)
            until(lambda: len(found) > 25)
            before = running.workers
            running.keys(f'"Bearer {new}" 1;')
            until(lambda: running.workers and not running.workers & before)
            assert status(old) == 401
            stop.set()
            asked.result()
        assert set(found) == {200}
        running.keys("no configuration at all")  # nobody is locked out by a slip
        until(lambda: "emerg" in running.errors)
        assert (status(old), status(new)) == (401, 200)


def test_a_server_that_is_down_is_told_in_the_same_form(tmp_path, film):
    port = free_port("127.0.0.1")
    for backend in proxying.BACKENDS:
        with proxy(tmp_path / backend, backend, port) as running:
            said = running.ask(FILM, film)
            refused(said, 503, "unavailable")
            assert int(said.headers["retry-after"]) >= 1
            assert running.ask("/healthz", authorized=False).status == 204  # the proxy itself is there


def test_what_torchserve_says_of_itself_is_said_in_the_same_form(tmp_path):
    with recorder() as kept, proxy(tmp_path / "p", "torchserve", kept.port) as running:
        for kept.status in (500, 503, 507):  # a worker that died, a full queue
            said = running.ask(FILM, b"x")
            refused(said, 503, "unavailable")
            assert int(said.headers["retry-after"]) >= 1
        kept.status = 404
        refused(running.ask("/predictions/nothing", b"x"), 404, "unknown_model")
        for kept.status in (200, 400, 406, 413, 415, 422):  # hilum's handlers
            said = running.ask(FILM, b"x")
            assert (said.status, said.body) == (kept.status, proxying.ANSWER)


def test_what_the_maintained_front_says_passes_whatever_it_is(tmp_path):
    with recorder() as kept, proxy(tmp_path / "p", "starlette", kept.port) as running:
        for kept.status in (200, 401, 404, 405, 409, 413, 422, 500, 503):
            said = running.ask(FILM, b"x")
            assert (said.status, said.body) == (kept.status, proxying.ANSWER)


def test_a_server_that_dies_over_a_call_is_told_so_too(tmp_path, film):
    with socket.create_server(("127.0.0.1", 0)) as behind:

        def hang_up():
            with behind.accept()[0] as call:
                call.recv(100)

        with ThreadPoolExecutor(1) as server, proxy(tmp_path / "p", "torchserve", behind.getsockname()[1]) as running:
            server.submit(hang_up)
            refused(running.ask(FILM, film), 503, "unavailable")


LINE = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:]{8}[+-]\d\d:\d\d (GET|HEAD|POST|other) (/predictions|/v2|/v2/infer|/healthz|other) \d{3} "
    r"in=\d+ out=\d+ s=[\d.]+"
)


def test_logs_name_nobody(front, film):
    front.ask("/predictions/Erika?patient=Mustermann", film, {"X-Patient": "Erika", "User-Agent": "Erika"})
    front.ask("/Erika", film)
    front.ask(FILM, b"Erika Mustermann", {"X-Modality": "Erika"})
    front.ask(FILM, film, {"Authorization": "Bearer Erika"}, authorized=False)
    front.ask(FILM, dicom(drawn_image("PA")))
    with front.connected() as caller:
        caller.sendall(b"ERIKA /Erika HTTP/1.1\r\nHost: Erika\r\n\r\n")
        assert b" 40" in caller.recv(100)
    until(lambda: len(front.log) >= 6)
    assert {line.split()[2] for line in front.log} >= {"/predictions", "other"}
    assert re.search(r" POST /predictions 401 ", "\n".join(front.log))
    assert [line for line in front.log if not LINE.fullmatch(line)] == []
    assert front.errors == ""
    said = "".join(front.log) + (front.beside.read_text() if front.beside else "")
    for secret in ("Erika", "Mustermann", "secret-patient", "127.0.0.1:", front.token):
        assert secret not in said.replace("http://127.0.0.1:", "")

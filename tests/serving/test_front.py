"""The maintained front as a process: tokens, bounds, workers that die, releases that change, signals."""

import json
import os
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from releasing import SOMEBODY, drawn_image, encoded, overridden
from sockets import heard

from hilum.delivery.fronts.keys import Keys
from hilum.delivery.machine import workers_for
from hilum.errors import HilumError

FILM = "/predictions/pneumonia"


@pytest.fixture(scope="module")
def film():
    return encoded(drawn_image("PA"))


@pytest.fixture(scope="module")
def front(xr_release, mr_release, starlette_front):
    with starlette_front([xr_release, mr_release], "--workers", "2") as running:
        yield running


def workers(front):
    return psutil.Process(front.running.process.pid).children()


def counted(front, name):
    """The sum of a metric over its labels."""
    text = front.ask("/metrics", port="metrics", authorized=False).body.decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_threads_of_a_worker_leave_fewer_workers(xr_release, starlette_front, film):
    with starlette_front([xr_release], "--threads", "2") as front:
        told = [json.loads(worker.cmdline()[-1])["threads"] for worker in workers(front)]
        assert front.ask(FILM, film).status == 200
    assert told == [2] * workers_for(2)


def test_no_path_but_health_is_open_to_callers_without_a_token(front, film):
    for path, content in ((FILM, film), ("/predictions/nothing", film), ("/v2/models/pneumonia/infer", b"{}")):
        said = front.ask(path, content, authorized=False)
        assert (said.status, said.json["code"]) == (401, "unauthorized")
        assert said.headers["www-authenticate"] == "Bearer"
    for token in ("", "Basic x", "Bearer", "Bearer wrong", "Bearer " + "é" * 5):
        assert front.ask(FILM, film, {"Authorization": token}, authorized=False).status == 401
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert front.ask(path, authorized=False).status == 200


def test_a_token_for_one_use_is_none_for_the_other(front, film):
    keys = Keys(front.running.keys)
    wrong = {"Authorization": f"Bearer {keys.first('management')}"}
    assert front.ask(FILM, film, wrong, authorized=False).status == 401
    wrong = {"Authorization": f"Bearer {keys.first('inference')}"}
    assert front.ask("/status", headers=wrong, port="management", authorized=False).status == 401
    assert front.ask("/status", port="management").json["ready"] is True


def test_tokens_change_without_a_restart(front, film):
    path = front.running.keys
    before = path.read_text()
    old, new = Keys(path).first("inference"), "n" * 32
    try:
        path.write_text(before + f"inference {new}\n")
        for token in (old, new):
            assert front.ask(FILM, film, {"Authorization": f"Bearer {token}"}, authorized=False).status == 200
        path.write_text(before.replace(old, new))
        asked = [
            front.ask(FILM, film, {"Authorization": f"Bearer {one}"}, authorized=False).status for one in (old, new)
        ]
        assert asked == [401, 200]
        path.write_text("nonsense\n")  # nobody is locked out by a slip
        assert front.ask(FILM, film, {"Authorization": f"Bearer {new}"}, authorized=False).status == 200
    finally:
        path.write_text(before)


def test_management_and_metrics_are_not_on_the_port_of_callers(front):
    for path in ("/status", "/reload", "/metrics"):
        assert front.ask(path).status == 404
    assert front.running.management.startswith("http://127.0.0.1:")


def test_a_body_over_the_limit_is_refused_before_it_is_sent(front):
    host, port = front.running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as caller:
        token = front.running.token
        lines = ["Host: h", f"Authorization: Bearer {token}", "Content-Length: 40000000", "", ""]
        caller.sendall("\r\n".join([f"POST {FILM} HTTP/1.1", *lines]).encode())
        answer = heard(caller)
    assert b"413" in answer.split(b"\r\n")[0]
    assert b"32 MiB" in answer


def test_a_body_without_a_length_is_counted(front):
    host, port = front.running.url.removeprefix("http://").split(":")
    piece = b"100000\r\n" + bytes(2**20) + b"\r\n"
    with socket.create_connection((host, int(port)), 20) as caller:
        lines = ["Host: h", f"Authorization: Bearer {front.running.token}", "Transfer-Encoding: chunked", "", ""]
        caller.sendall("\r\n".join([f"POST {FILM} HTTP/1.1", *lines]).encode())
        for _ in range(33):
            caller.sendall(piece)
        assert b"413" in caller.recv(4000).split(b"\r\n")[0]


def test_compressed_bodies_are_not_inflated(front, film):
    said = front.ask(FILM, film, {"Content-Encoding": "gzip"})
    assert (said.status, said.json["code"]) == (415, "unsupported")


def test_headers_that_never_end_are_cut_off(front):
    host, port = front.running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as caller:
        caller.sendall(f"POST {FILM} HTTP/1.1\r\nHost: h\r\n".encode())
        began = time.monotonic()
        assert caller.recv(100) == b""
        assert 5 < time.monotonic() - began < 20


def test_ready_means_that_every_worker_is_there(front, film):
    assert len(workers(front)) == 2
    workers(front)[0].kill()
    until(lambda: front.ask("/v2/health/ready", authorized=False).status == 503)
    assert front.ask(FILM, film).status == 200  # the other one answers
    until(lambda: front.ask("/v2/health/ready", authorized=False).status == 200)
    assert len(workers(front)) == 2


def test_no_accepted_call_is_lost_when_workers_are_killed(front, film):
    stop, found = threading.Event(), []

    def ask():
        while not stop.is_set():
            found.append(front.ask(FILM, film).status)

    before = counted(front, "hilum_worker_restarts")
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(ask) for _ in range(4)]
        for _ in range(3):
            time.sleep(0.5)
            victims = workers(front)
            if victims:
                victims[0].kill()
        time.sleep(1.0)
        stop.set()
        for one in asked:
            one.result()
    assert set(found) <= {200, 503}
    assert found.count(200) > 0.9 * len(found)
    assert counted(front, "hilum_worker_restarts") >= before + 2
    until(lambda: front.ask("/v2/health/ready", authorized=False).status == 200)


def test_a_stopped_worker_does_not_hold_up_the_others(front, film):
    """One that hangs is one that is slow: the other answers meanwhile."""
    victim = workers(front)[0]
    victim.suspend()
    try:
        statuses = []
        with ThreadPoolExecutor(1) as caller:
            hanging = caller.submit(front.ask, FILM, film)
            time.sleep(0.2)
            statuses += [front.ask(FILM, film).status for _ in range(3) if not hanging.done()]
            victim.resume()
            assert hanging.result().status == 200
        assert set(statuses) <= {200}
    finally:
        victim.resume()


def test_counters_tell_outcomes_and_nothing_of_callers(front, film):
    before = counted(front, "hilum_images_total")
    assert front.ask(FILM, film).status == 200
    assert front.ask(FILM, b"secret-words").status == 415
    assert front.ask("/predictions/secret-model", film).status == 404
    text = front.ask("/metrics", port="metrics", authorized=False).body.decode()
    assert counted(front, "hilum_images_total") == before + 2  # a call for a model that there is not holds no image
    assert 'hilum_refusals_total{code="unsupported",model="pneumonia"}' in text
    assert 'hilum_refusals_total{code="unknown_model",model="unknown"}' in text
    assert 'model="unknown",status="404"' in text
    assert re.search(r'hilum_release_info{dossier="[0-9a-f]{16}",engine="onnxruntime-fp32",gate="pass"', text)
    assert re.search(r'hilum_request_seconds_bucket{le="0.1",model="pneumonia"}', text)
    assert "secret" not in text


def test_a_reload_takes_up_another_release_and_loses_no_call(base, xr_release, starlette_front, film, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(xr_release)
    with starlette_front([link], "--workers", "1") as front:
        stop, found = threading.Event(), []

        def ask():
            while not stop.is_set():
                said = front.ask(FILM, film)
                found.append((said.status, said.json["gate"]["verdict"]))

        with ThreadPoolExecutor(2) as callers:
            asked = [callers.submit(ask) for _ in range(2)]
            time.sleep(0.3)
            link.unlink()
            link.symlink_to(overridden(base))
            assert front.ask("/reload", b"", port="management").status == 200
            time.sleep(0.3)
            link.unlink()
            link.symlink_to(tmp_path)  # no release: refused, and the one that answers goes on
            refused = front.ask("/reload", b"", port="management")
            assert (refused.status, refused.json["code"]) == (409, "not_reloaded")
            link.unlink()
            link.symlink_to(xr_release)
            front.running.process.send_signal(signal.SIGHUP)
            until(lambda: found[-1][1] == "pass")
            stop.set()
            for one in asked:
                one.result()
        assert {status for status, _ in found} == {200}
        verdicts = [verdict for _, verdict in found]
        assert verdicts[0] == "pass"
        assert "fail" in verdicts  # under the override of SOMEBODY
        assert SOMEBODY.by


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_before_the_server_ends(xr_release, starlette_front, film, number):
    with starlette_front([xr_release], "--workers", "1") as front:
        children = workers(front)
        with ThreadPoolExecutor(8) as callers:
            asked = [callers.submit(front.ask, FILM, film) for _ in range(8)]
            until(lambda: counted(front, "hilum_waiting") >= 1 or all(one.done() for one in asked))
            front.running.process.send_signal(number)
            assert [one.result().status for one in asked] == [200] * 8
        assert front.running.process.wait(20) == 0
        assert not psutil.wait_procs(children, timeout=10)[1]
        assert not front.running.keys.exists()


def test_workers_end_with_a_front_that_was_killed(xr_release, starlette_front):
    with starlette_front([xr_release], "--workers", "1") as front:
        children = workers(front)
        front.running.process.kill()
        assert not psutil.wait_procs(children, timeout=10)[1]


def test_more_than_can_wait_is_refused_with_the_time_to_come_back(xr_release, starlette_front, film):
    with starlette_front([xr_release], "--workers", "1", "--waiting", "2") as front:
        [worker] = workers(front)
        worker.suspend()
        with ThreadPoolExecutor(8) as callers:
            asked = [callers.submit(front.ask, FILM, film) for _ in range(8)]
            until(lambda: sum(one.done() for one in asked) == 5)
            worker.resume()
            said = [one.result() for one in asked]
        statuses = sorted(one.status for one in said)
        assert statuses == [200] * 3 + [503] * 5
        for one in said:
            if one.status == 503:
                assert one.json["code"] == "overloaded"
                assert int(one.headers["retry-after"]) >= 1


def test_a_changed_release_is_not_served(xr_release, starlette_front, tmp_path):
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(xr_release, changed)
    with (changed / "card.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(HilumError, match=r"card\.json of the release is not the one that its dossier\.json names"):
        starlette_front([changed]).__enter__()


def test_without_tokens_on_loopback_only(xr_release, starlette_front, film):
    with starlette_front([xr_release], "--no-keys", "--workers", "1") as front:
        assert front.running.keys is None
        assert front.ask(FILM, film).status == 200
    with pytest.raises(HilumError, match=r"127\.0\.0\.1 only"):
        starlette_front([xr_release], "--no-keys", "--host", "0.0.0.0").__enter__()


def test_nothing_of_a_call_is_said_or_kept(xr_release, starlette_front, film, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with starlette_front([xr_release], "--workers", "1") as front:
        front.ask(FILM, film, {"X-Patient": "Erika Mustermann"})
        front.ask("/predictions/Erika-Mustermann", film)
        front.ask(FILM, b"Erika Mustermann")
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert [path.name for path in files] == ["keys"]
        assert os.stat(files[0]).st_mode & 0o077 == 0
        front.running.process.terminate()
        said = front.running.process.stdout.read()
    assert "Erika" not in said
    assert json.dumps(said)

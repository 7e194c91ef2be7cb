"""The client against servers and callers that do what nobody should: it ends in time, and in an error of its own."""

import asyncio
import io
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from hilum.client import (
    AsyncClient,
    Client,
    ClientError,
    Patience,
    Refused,
    Unauthorized,
    Unavailable,
    Unexpected,
    Unsendable,
)

QUICK = Patience(attempts=3, first_wait_seconds=0.01, answer_seconds=1.0, connect_seconds=1.0, total_seconds=2.0)
NOBODY = "http://127.0.0.1:9"
GATE = {"verdict": "pass", "override": None}
EMBEDDED = {"model": {"name": "m", "version": "1"}, "dossier": "0" * 16, "shape": [2], "embedding": [1.0, 2.0]}
MEASURED = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 30}
PREDICTED = {
    "label": "pneumonia",
    "probability": 0.4,
    "interval": None,
    "threshold": 0.3,
    "decision": "at or above",
    "abstention": None,
    "meaning": "much",
    "engine": {"name": "e"},
    "model": {"name": "m", "version": "1"},
    "dossier": "0" * 16,
    "gate": GATE,
    "intended_use": "none",
    "operating_point": {"threshold": 0.3, "rule": "r", "sensitivity": MEASURED, "specificity": MEASURED},
}


@contextmanager
def server(*steps):
    """Answers calls with bytes, or lets a function do it, in turn; the last stays. Yields its URL and all bodies."""
    listening = socket.create_server(("127.0.0.1", 0))
    left, bodies = list(steps), []

    def one(connection):
        with connection, connection.makefile("rb") as stream:
            length = 0
            while (line := stream.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            bodies.append(stream.read(length))
            step = left.pop(0) if len(left) > 1 else left[0]
            with suppress(OSError):
                step(connection) if callable(step) else connection.sendall(step)

    def loop():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=loop, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", bodies
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def said(status, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-length": len(content), "connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content


def drip(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(40):
        connection.sendall(b" ")
        time.sleep(0.25)


def sync_ask(url, image, method):
    with Client(url, patience=QUICK) as client:
        return getattr(client, method)(image)


def async_ask(url, image, method):
    async def ask():
        async with AsyncClient(url, patience=QUICK) as client:
            return await getattr(client, method)(image)

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [sync_ask, async_ask])


@both
def test_an_answer_that_drips_ends_with_the_time_of_the_call(ask):
    began = time.monotonic()
    with server(drip) as (url, _), pytest.raises(Unavailable, match="in time"):
        ask(url, b"film", "embed")
    assert time.monotonic() - began < 3.5


@both
def test_an_open_file_is_sent_whole_at_every_attempt(ask):
    with server(said(503, {}), said(200, EMBEDDED)) as (url, bodies):
        ask(url, io.BytesIO(b"film"), "embed")
    assert bodies == [b"film", b"film"]


def test_one_bad_image_among_many_loses_no_other_and_tells_no_name():
    images = [b"a", Path("/nowhere/mustermann.png"), np.zeros((3, 3)), b"d"]

    async def ask(url):
        async with AsyncClient(url, patience=QUICK) as client:
            return await client.embed_all(images)

    with server(said(200, EMBEDDED)) as (url, _):
        first, missing, wrong, last = asyncio.run(ask(url))
    assert first.z.tolist() == last.z.tolist() == [1.0, 2.0]
    assert isinstance(missing, Unsendable)
    assert isinstance(wrong, Unsendable)
    assert "mustermann" not in str(missing)


@both
@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (said(200, b"no gzip", content_encoding="gzip"), Unexpected, "compressed"),
        (said(200, b"[" * 200_000), Unexpected, "no answer"),
        (said(301, b"", location="https://example.org/"), Unexpected, "301"),
        (said(500, {"code": 500, "message": "Worker died."}), Unavailable, "the server failed"),
        (said(507, {"code": 507, "message": "Worker died."}), Unavailable, "the server failed"),
        (said(400, {"code": 400, "type": "InvalidKeyException", "message": "no"}), Unauthorized, "no"),
        (said(413, b""), Refused, "larger than"),
        (said(403, b"<html>"), Unauthorized, "forbidden"),
        (said(429, b"slow down"), Refused, "too many"),
        (
            said(200, b'{"model":{"name":"m","version":"1"},"dossier":"","shape":[1],"embedding":[1e999]}'),
            Unexpected,
            "finite",
        ),
    ],
)
def test_what_proxies_and_broken_servers_say(ask, step, kind, words):
    with server(step) as (url, bodies), pytest.raises(kind, match=words):
        ask(url, b"film", "embed")
    assert len(bodies) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"probability": None},
        {"probability": "high"},
        {"probability": 7},
        {"probability": float("nan")},
        {"probability": True},
        {"abstention": {"reason": "wrong_view", "words": "it is", "score": None, "limit": None}},
        {"saliency": ["png"]},
        {"seen": "no base64"},
        {"operating_point": {**PREDICTED["operating_point"], "sensitivity": {**MEASURED, "low": "0.4"}}},
    ],
)
def test_an_answer_that_contradicts_itself_is_none(change):
    with server(said(200, PREDICTED)) as (url, _):
        assert sync_ask(url, b"film", "predict").probability == 0.4
    with server(said(200, PREDICTED | change)) as (url, _), pytest.raises(Unexpected):
        sync_ask(url, b"film", "predict")


def test_a_date_after_which_to_come_back_is_kept():
    with server(said(503, {}, retry_after="Wed, 21 Oct 2099 07:28:00 GMT"), said(200, EMBEDDED)) as (url, bodies):
        with pytest.raises(Unavailable, match="after 1 attempt"):
            sync_ask(url, b"film", "embed")
        assert len(bodies) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Client("scans.example"), "https://HOST"),
        (lambda: Client("ftp://scans.example"), "https://HOST"),
        (lambda: Client(NOBODY, "abc\r\nX-Evil: 1"), "token"),
        (lambda: Client(NOBODY, "Schlüssel"), "token"),
        (lambda: Client(NOBODY, ca=Path("/nowhere/mustermann.pem")), "PEM"),
        (lambda: AsyncClient(NOBODY, at_once=0), "at least"),
        (lambda: Client(NOBODY).predict(b"film", covariates={"age_years": float("nan")}), "finite"),
        (lambda: Client(NOBODY).embed(Path("/nowhere/mustermann.png")), "cannot be read"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is(make, words):
    with pytest.raises(Unsendable, match=words) as raised:
        make()
    assert isinstance(raised.value, ClientError)
    assert "mustermann" not in str(raised.value)

"""The client against a server that fails on purpose: what is tried again, and what comes out in the end."""

import asyncio
import io
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from hilum.client import AsyncClient, Client, Patience, Refused, Unauthorized, Unavailable, Unexpected, Unsendable

QUICK = Patience(attempts=4, first_wait_seconds=0.01, answer_seconds=1.0, connect_seconds=1.0, total_seconds=20)
EMBEDDED = {
    "model": {"name": "xr-moco", "version": "1.0"},
    "dossier": "0123456789abcdef",
    "shape": [3],
    "embedding": [1.0, 2.0, 3.0],
}


class Server:
    """Answers calls with what it was told, in turn; the last one stays."""

    def __init__(self):
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                told.received.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
                step = told.steps.pop(0) if len(told.steps) > 1 else told.steps[0]
                if step == "break":
                    self.connection.close()
                    return
                if step == "sleep":
                    time.sleep(1.5)
                    step = (200, EMBEDDED, {})
                status, body, headers = step
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.steps, self.received = [(200, EMBEDDED, {})], []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def answered(server, kind, image=b"film"):
    if kind == "sync":
        with Client(server.url, "t" * 20, patience=QUICK) as client:
            return client.embed(image)

    async def ask():
        async with AsyncClient(server.url, "t" * 20, patience=QUICK) as client:
            return await client.embed(image)

    return asyncio.run(ask())


kinds = pytest.mark.parametrize("kind", ["sync", "async"])


@kinds
@pytest.mark.parametrize(
    "steps", [["break"], ["sleep"], [(503, {}, {"retry-after": "0"})], [(502, b"proxy", {}), (504, b"", {})]]
)
def test_accidents_are_tried_again(server, kind, steps):
    server.steps = [*steps, (200, EMBEDDED, {})]
    found = answered(server, kind)
    assert found.z.tolist() == [1.0, 2.0, 3.0]
    assert found.z.dtype == np.float32
    assert (found.model, found.dossier) == ("xr-moco/1.0", "0123456789abcdef")
    assert len(server.received) == len(steps) + 1
    for headers, content in server.received:
        assert content == b"film"
        assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer " + "t" * 20


@kinds
def test_it_waits_as_long_as_the_server_says(server, kind):
    server.steps = [(503, {}, {"retry-after": "1"}), (200, EMBEDDED, {})]
    began = time.monotonic()
    answered(server, kind)
    assert time.monotonic() - began >= 1.0


@kinds
def test_a_wait_beyond_the_time_there_is_is_not_begun(server, kind):
    server.steps = [(503, {}, {"retry-after": "3600"})]
    with pytest.raises(Unavailable, match=r"status 503\), after 1 attempt; try again later"):
        answered(server, kind)


@kinds
def test_after_every_retry_it_gives_up_and_says_how_often_it_tried(server, kind):
    server.steps = ["break"]
    with pytest.raises(Unavailable, match="the connection broke, after 4 attempts") as raised:
        answered(server, kind)
    assert raised.value.attempts == len(server.received) == 4


@kinds
def test_a_refusal_is_not_tried_again_and_says_what_would_be_right(server, kind):
    said = {"code": "corrupt", "status": 422, "message": "the PNG is truncated", "right": "send the whole file"}
    server.steps = [(422, said, {})]
    with pytest.raises(Refused, match="the PNG is truncated; send the whole file") as raised:
        answered(server, kind)
    assert (raised.value.status, raised.value.code) == (422, "corrupt")
    assert len(server.received) == 1
    server.steps = [(401, {**said, "code": "unauthorized"}, {})]
    with pytest.raises(Unauthorized):
        answered(server, kind)


@kinds
@pytest.mark.parametrize("step", [(200, b"<html>", {}), (404, b"nginx", {}), (200, [], {}), (200, {"shape": [1]}, {})])
def test_what_is_no_answer_of_hilums_is_said_to_be_none(server, kind, step):
    server.steps = [step]
    with pytest.raises(Unexpected):
        answered(server, kind)


@kinds
def test_a_server_that_is_not_there(kind):
    class Nowhere:
        url = "http://127.0.0.1:9"

    with pytest.raises(Unavailable, match="cannot be reached"):
        answered(Nowhere, kind)


def test_an_image_may_be_bytes_a_path_a_file_or_pixels(server, tmp_path):
    path = tmp_path / "film"
    path.write_bytes(b"content")
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with Client(server.url, patience=QUICK) as client, path.open("rb") as stream:
        for image in (b"content", path, str(path), stream):
            client.embed(image)
            assert server.received[-1][1] == b"content"
        client.embed(pixels)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(server.received[-1][1]))), pixels)
        for wrong in (pixels.astype(float), np.zeros((2, 2, 3), np.uint8), 5, io.StringIO("x")):
            with pytest.raises(Unsendable):
                client.embed(wrong)


def test_many_at_once_keep_their_order_their_bound_and_their_errors(server):
    refused = {"code": "empty", "status": 400, "message": "empty", "right": "send one"}
    server.steps = [(200, EMBEDDED, {}), (400, refused, {}), (200, EMBEDDED, {})]

    async def ask():
        async with AsyncClient(server.url, patience=QUICK, at_once=1) as client:
            return await client.embed_all([b"a", b"", b"c"])

    first, second, third = asyncio.run(ask())
    assert isinstance(second, Refused)
    assert first.z.tolist() == third.z.tolist()
    assert [content for _, content in server.received] == [b"a", b"", b"c"]


def test_importing_it_is_light():
    code = (
        "import sys; import hilum.client; "
        "heavy = ('torch', 'pandas', 'onnxruntime', 'pydantic', 'PIL', 'starlette'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

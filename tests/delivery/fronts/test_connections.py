"""What the front writes to a connection, by the pieces in which it goes."""

import asyncio

from coroutines import finished
from starlette.responses import Response
from uvicorn import Config
from uvicorn.server import ServerState

from hilum.delivery.fronts.connections import Protocol


class Wire:
    """A transport that keeps what is done with it."""

    def __init__(self):
        self.done = []

    def write(self, data):
        self.done.append(bytes(data))

    def close(self):
        self.done.append("closed")

    def is_closing(self):
        return "closed" in self.done

    def get_extra_info(self, name, default=None):
        return default

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def answers(asked, application):
    """What is written to a connection on which this is asked."""
    wire = Wire()
    config = Config(application, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    protocol = Protocol(config, ServerState(), {})
    protocol.connection_made(wire)
    for piece in asked:
        protocol.data_received(piece)
        for _ in range(5):
            await asyncio.sleep(0)
    done = list(wire.done)
    protocol.connection_lost(None)
    return done


GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


def test_an_answer_goes_in_one_piece():
    [whole] = finished(answers([GET], Response("told", 200)))
    head, body = whole.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 4" in head
    assert body == b"told"


def test_each_of_several_answers_goes_in_its_own():
    assert [one[-4:] for one in finished(answers([GET, GET, GET], Response("told", 200)))] == [b"told"] * 3


def test_a_connection_is_closed_after_its_answer():
    last = GET.replace(b"Host: h", b"Host: h\r\nConnection: close")
    whole, *rest = finished(answers([last], Response("told", 200)))
    assert whole.endswith(b"told")
    assert b"connection: close" in whole
    assert set(rest) == {"closed"}


def test_who_asks_whether_to_go_on_is_told_before_the_body_comes():
    async def reading(scope, receive, send):
        body = (await receive())["body"]
        await Response(body, 200)(scope, receive, send)

    head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    told, whole = finished(answers([head, b"body"], reading))
    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert whole.endswith(b"body")


def test_an_answer_in_pieces_waits_for_none_of_them():
    async def dripping(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in (b"1", b"2"):
            await send({"type": "http.response.body", "body": number, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    head, second, end = finished(answers([GET], dripping))
    assert head.endswith(b"\r\n\r\n1\r\n1\r\n")
    assert second == b"1\r\n2\r\n"
    assert end == b"0\r\n\r\n"

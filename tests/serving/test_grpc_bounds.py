"""gRPC on the maintained front as a process: tokens, bounds, deadlines, TLS, signals, damaged messages."""

import asyncio
import json
import random
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import certificates
import grpc
import numpy as np
import psutil
import pytest
from coroutines import finished
from releasing import drawn_image, encoded
from rpc import (
    BAD,
    HEALTH,
    INFERENCE,
    UNKNOWN,
    Caller,
    counted,
    field,
    fields,
    outputs,
    parameter,
    request,
    strings,
    tensor,
    until,
)

from hilum.delivery.fronts.asgi import Caps, House
from hilum.delivery.fronts.crew import Bounds, Crew
from hilum.delivery.fronts.grpc.listening import Listening
from hilum.delivery.fronts.keys import Keys
from hilum.delivery.fronts.worker import Orders
from hilum.delivery.predictor import Release
from hilum.errors import HilumError

SMALL = encoded(drawn_image("PA", 48))


@pytest.fixture(scope="module")
def front(xr_release, mr_release, starlette_front):
    with starlette_front([xr_release, mr_release], "--workers", "2", "--grpc-port", "0") as running:
        yield running


@pytest.fixture(scope="module")
def caller(front):
    with Caller(front) as opened:
        yield opened


def test_only_health_is_open_to_callers_without_a_token(front, caller):
    wrong = Keys(front.running.keys).first("management")
    for name in ("ServerMetadata", "ModelMetadata", "ModelReady", "ModelInfer"):
        for token in ("", "wrong", wrong):
            channel = caller.channel.unary_unary(f"/{INFERENCE}/{name}")
            metadata = [("authorization", f"Bearer {token}")] if token else []
            with pytest.raises(grpc.RpcError) as caught:
                channel(request(), metadata=metadata, timeout=20)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    for name, service in (("ServerLive", INFERENCE), ("ServerReady", INFERENCE), ("Check", HEALTH)):
        answer = caller.channel.unary_unary(f"/{service}/{name}")(b"", timeout=20)
        assert answer == b"\x08\x01"


def test_messages_have_the_bound_of_bodies_and_are_not_inflated(caller):
    assert caller.refused("ModelInfer", bytes(33 * 2**20))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    status, _ = caller.refused("ModelInfer", request(), compression=grpc.Compression.Gzip)
    assert status == grpc.StatusCode.UNIMPLEMENTED
    film = np.repeat(np.repeat(drawn_image("PA", 500), 10, axis=0), 10, axis=1)  # 25 MB
    large = request(inputs=tensor("UINT8", film.shape), rest=field(7, film.tobytes()) + parameter("modality", "XR"))
    assert outputs(caller.ask("ModelInfer", large))["embedding"][1][0] == 1


def test_a_call_without_a_message(front, caller):
    metadata = [("authorization", f"Bearer {front.running.token}")]
    call = caller.channel.stream_unary(f"/{INFERENCE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(iter(()), metadata=metadata, timeout=20)
    assert caught.value.code() == BAD


def test_calls_are_counted_with_those_of_http(front, caller):
    images, calls = 'hilum_images_total{model="pneumonia",outcome="answered"}', r"hilum_requests_total{[^}]*}"
    before = counted(front, re.escape(images)), counted(front, calls)
    caller.ask("ModelInfer", request("pneumonia"))
    caller.refused("ModelInfer", request("secret-model"))
    assert (counted(front, re.escape(images)), counted(front, calls)) == (before[0] + 1, before[1] + 2)
    assert "secret" not in front.ask("/metrics", port="metrics", authorized=False).body.decode()


def test_ready_means_that_every_worker_is_there(front, caller):
    psutil.Process(front.running.process.pid).children()[0].kill()
    until(lambda: caller.ask("ServerReady") == {})  # false is what is not there
    assert caller.ask("Check", service=HEALTH) == {1: [2]}
    assert caller.ask("ModelReady", field(1, "embeddings")) == {}
    assert caller.ask("ModelInfer", request())  # the other one answers
    until(lambda: caller.ask("ServerReady") == {1: [1]})


def test_more_than_can_wait_is_refused_and_a_deadline_is_kept(xr_release, starlette_front):
    with (
        starlette_front([xr_release], "--workers", "1", "--waiting", "2", "--grpc-port", "0") as front,
        Caller(front) as caller,
    ):
        [worker] = psutil.Process(front.running.process.pid).children()
        worker.suspend()
        asked = [caller.start("ModelInfer", request()) for _ in range(8)]
        until(lambda: sum(one.done() for one in asked) == 5)
        for one in [one for one in asked if one.done()]:
            assert one.code() == grpc.StatusCode.UNAVAILABLE
            trailing = dict(one.trailing_metadata())
            assert json.loads(trailing["hilum-refusal-bin"])["code"] == "overloaded"
            assert int(trailing["grpc-retry-pushback-ms"]) == 1000 * int(trailing["retry-after"]) >= 1000
        waiting = [one for one in asked if not one.done()]
        for one in waiting:
            one.cancel()
        until(lambda: counted(front, "hilum_waiting") == 0)
        assert caller.refused("ModelInfer", request(), timeout=0.5)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: counted(front, "hilum_waiting") == 0)
        worker.resume()
        assert caller.ask("ModelInfer", request())


def test_what_was_accepted_is_answered_before_the_server_ends(xr_release, starlette_front):
    with starlette_front([xr_release], "--workers", "1", "--grpc-port", "0") as front, Caller(front) as caller:
        [worker] = psutil.Process(front.running.process.pid).children()
        worker.suspend()
        asked = [caller.start("ModelInfer", request()) for _ in range(8)]
        until(lambda: counted(front, "hilum_waiting") == 7)
        front.running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        worker.resume()
        for one in asked:
            assert fields(one.result())[1] == [b"embeddings"]
        assert front.running.process.wait(20) == 0
        with pytest.raises(grpc.RpcError):
            caller.ask("ServerLive", token="", timeout=1)


def listening(release, asked, **caps):
    """The result of a coroutine that asks a port behind which no worker is there yet."""

    async def run():
        crew = Crew(Orders((str(release),), "onnxruntime-fp32"), 1, Bounds())
        port = Listening(House([Release.open(release)], crew, None, Caps(**caps)), "127.0.0.1", 0, None)
        await port.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.port}") as channel:
            found = await asked(channel)
        await port.stop(0)
        return found

    return finished(run())


def test_a_message_that_does_not_come_is_not_waited_for(xr_release):
    async def asked(channel):
        call = channel.stream_unary(f"/{INFERENCE}/ModelInfer")()
        return await call.code(), dict(await call.trailing_metadata())

    code, trailing = listening(xr_release, asked, body_seconds=0.3)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert json.loads(trailing["hilum-refusal-bin"])["code"] == "timeout"


def test_what_all_calls_hold_is_bounded(xr_release):
    async def asked(channel):
        call = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
        first, second = call(request()), call(request())
        done, waiting = await asyncio.wait(
            [asyncio.ensure_future(one.code()) for one in (first, second)], return_when=asyncio.FIRST_COMPLETED
        )
        [code], [rest] = [one.result() for one in done], waiting
        rest.cancel()
        refused = first if first.done() else second
        return code, dict(await refused.trailing_metadata())

    size = len(request())
    code, trailing = listening(xr_release, asked, body_bytes=size, held_bytes=2 * size - 1)
    assert (code, trailing["retry-after"]) == (grpc.StatusCode.UNAVAILABLE, "2")
    assert json.loads(trailing["hilum-refusal-bin"])["code"] == "overloaded"


def test_a_connection_that_says_nothing_is_closed(front):
    host, port = front.running.grpc.split(":")
    with socket.create_connection((host, int(port)), 30) as caller:
        began = time.monotonic()
        while caller.recv(1000):  # the server's own settings
            pass
        assert 5 < time.monotonic() - began < 20


def test_tls_has_the_certificate_of_http_also_after_a_reload(xr_release, starlette_front, tmp_path):
    certificate, key, first = certificates.made(tmp_path / "first")
    second = certificates.made(tmp_path / "second")
    arguments = ("--workers", "1", "--grpc-port", "0", "--tls", str(certificate), str(key))
    with starlette_front([xr_release], *arguments) as front:

        def answered(authority):
            with Caller(front, grpc.ssl_channel_credentials(authority.read_bytes())) as caller:
                return caller.ask("ServerLive") == {1: [1]} and 6 in caller.ask("ModelInfer", request())

        assert answered(first)
        with Caller(front) as plain:
            assert plain.refused("ServerLive", timeout=5)[0] == grpc.StatusCode.UNAVAILABLE
        for new, old in zip(second[:2], (certificate, key), strict=True):
            new.replace(old)
        assert front.ask("/reload", b"", port="management").status == 200
        assert answered(second[2])
        with Caller(front, grpc.ssl_channel_credentials(first.read_bytes())) as stranger:
            assert stranger.refused("ServerLive", timeout=5)[0] == grpc.StatusCode.UNAVAILABLE


def test_there_is_no_second_door_unless_it_is_asked_for(xr_release, starlette_front):
    with starlette_front([xr_release], "--workers", "1") as front:
        assert front.running.grpc is None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(HilumError, match=port):
            starlette_front([xr_release], "--grpc-port", port).__enter__()
    with pytest.raises(HilumError, match=r"127\.0\.0\.1 only"):
        starlette_front([xr_release], "--no-keys", "--host", "0.0.0.0", "--grpc-port", "0").__enter__()


def mutants(count, seed):
    """Calls that are damaged: bits that flip, pieces that are lost, come twice, or are something else."""
    drawn = random.Random(seed)
    modality, pixels = parameter("modality", "XR"), drawn_image("PA", 48)
    whole = [
        request(inputs=tensor(contents=field(8, SMALL))),
        request("pneumonia", tensor(), field(7, strings(SMALL)) + field(3, "id") + field(6, field(1, "probability"))),
        request(inputs=tensor("UINT8", (48, 48)), rest=field(7, pixels.tobytes()) + modality),
        request(inputs=tensor("FP32", (48, 48), field(6, (pixels / np.float32(255)).tobytes())), rest=modality),
    ]
    for number in range(count):
        message = bytearray(whole[number % len(whole)])
        for _ in range(drawn.randint(1, 4)):
            # Half of the damage where the structure is: most bytes of a message are those of the image.
            at = drawn.randrange(min(len(message), 64) if drawn.random() < 0.5 else len(message))
            kind = drawn.randrange(5)
            if kind == 0:
                message[at] ^= 1 << drawn.randrange(8)
            elif kind == 1:
                message[at] = drawn.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif kind == 2:
                del message[at : at + drawn.choice((1, 2, 8, 4000))]
            elif kind == 3:
                message[at:at] = message[at : at + drawn.randint(1, 40)]
            else:
                message[at:at] = drawn.randbytes(drawn.randint(1, 12))
            if not message:
                break
        yield bytes(message)


def fuzzed(front, caller, count, seed):
    """Send damaged messages; memory of the server and its workers on the way, in bytes."""
    process = psutil.Process(front.running.process.pid)
    allowed, seen, sizes = {grpc.StatusCode.OK, BAD, UNKNOWN}, set(), []
    before = counted(front, "hilum_worker_restarts"), process.children()

    def asked(message):
        call = caller.start("ModelInfer", message)
        return call.code(), call.details()

    with ThreadPoolExecutor(2) as threads:
        for number, (code, details) in enumerate(threads.map(asked, mutants(count, seed))):
            assert code in allowed, (number, code, details)
            seen.add(code)
            if number % max(1, count // 10) == 0:
                sizes.append(sum(one.memory_info().rss for one in (process, *process.children())))
    assert (counted(front, "hilum_worker_restarts"), process.children()) == before
    assert seen == allowed  # the damage is of many kinds
    return sizes


def test_two_thousand_damaged_messages(front, caller):
    fuzzed(front, caller, 2000, seed=5)


@pytest.mark.slow
def test_twenty_thousand_damaged_messages_leave_memory_as_it_was(front, caller):
    fuzzed(front, caller, 2000, seed=6)  # what is allocated once
    sizes = fuzzed(front, caller, 20_000, seed=7)
    first, last = sum(sizes[:3]) / 3, sum(sizes[-3:]) / 3
    assert last - first < 64e6, (first, last)

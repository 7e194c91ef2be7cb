"""A caller over gRPC, and the messages of the Open Inference Protocol, written by the published field numbers.

Nothing here is generated, and nothing comes from hilum: what its server reads and writes is held against the numbers.
"""

import re
import struct
import time

import grpc
import pytest
from releasing import drawn_image, encoded

FILM = encoded(drawn_image("PA"))
INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
BAD, UNKNOWN = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def varint(value):
    value &= 2**64 - 1
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def field(number, value):
    """A field on the wire: a number as varint, a float as eight bytes, text and bytes after their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields(message):
    """A message's fields by number: lists of ints and bytes."""
    found, at = {}, 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            value = number()
        else:
            length = 8 if tag & 7 == 1 else number()
            value = message[at : at + length]
            at += length
        found.setdefault(tag >> 3, []).append(value)
    return found


def packed(values):
    return b"".join(map(varint, values))


def parameter(key, value, number=4):
    """An entry of a map of parameters: a string in a message in a message."""
    return field(number, field(1, key) + field(2, field(3, value) if isinstance(value, str) else value))


def tensor(datatype="BYTES", shape=(1,), contents=b"", name="image", parameters=b""):
    held = field(5, contents) if contents else b""
    return field(5, field(1, name) + field(2, datatype) + field(3, packed(shape)) + parameters + held)


def request(model="embeddings", inputs=None, rest=b""):
    inputs = tensor(contents=field(8, FILM)) if inputs is None else inputs
    return field(1, model) + inputs + rest


def strings(*values):
    return b"".join(struct.pack("<I", len(one)) + one for one in values)


class Caller:
    """A caller over gRPC."""

    def __init__(self, front, credentials=None):
        self.front = front
        where = front.running.grpc
        self.channel = grpc.insecure_channel(where) if credentials is None else grpc.secure_channel(where, credentials)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def start(self, name, message=b"", token=None, service=INFERENCE, timeout=60, **options):
        token = self.front.running.token if token is None else token
        metadata = [("authorization", f"Bearer {token}")] if token else []
        return self.channel.unary_unary(f"/{service}/{name}").future(
            message, metadata=metadata, timeout=timeout, **options
        )

    def ask(self, name, message=b"", **options):
        return fields(self.start(name, message, **options).result())

    def refused(self, name, message=b"", **options):
        """Status, and what the trailing metadata say."""
        with pytest.raises(grpc.RpcError) as caught:
            self.start(name, message, **options).result()
        return caught.value.code(), dict(caught.value.trailing_metadata() or ())


def until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def counted(front, pattern):
    text = front.ask("/metrics", port="metrics", authorized=False).body.decode()
    return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))


def outputs(answer):
    """Raw contents of an answer by the name of the output, with datatype and shape."""
    found = {}
    for one, raw in zip(answer[5], answer[6], strict=True):
        said = fields(one)
        shape = list(said[3][0])  # single bytes as varints: all below 128
        found[said[1][0].decode()] = (said[2][0].decode(), shape, raw)
    return found


def parameters(answer):
    found = {}
    for entry in answer[4]:
        said = fields(entry)
        [(number, [value])] = fields(said[2][0]).items()
        found[said[1][0].decode()] = value.decode() if number == 3 else struct.unpack("<d", value)[0]
    return found

"""How connections are read and written: who says nothing is let go after a while, and nothing goes in small pieces."""

import asyncio
from typing import Any, Final

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS: Final = 10.0  # from the first byte of a request, or from the connection, to the end of its headers
PIECE_BYTES: Final = 2**20  # of a body, before the application sees it and reading pauses


class Joined:
    """The transport of one answer, whose head and body it writes together.

    uvicorn writes the one and then the other. Each write is a way into the kernel and wakes the caller, who can do
    nothing with a head.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write at the end of this step of the loop, with whatever else is written in it."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        """Close, after what was written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is closed already."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._pieces:
            self._transport.write(b"".join(self._pieces))
            self._pieces.clear()


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with a time limit for headers, which it lacks, and a body in pieces of a MiB.

    uvicorn wakes the application for every read from the socket and pauses reading at 64 KiB; for a radiograph that is
    a dozen turns of the loop. What an application has not yet asked for stays bounded, by PIECE_BYTES.
    """

    _waiting: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._heard()
        super().connection_lost(exc)

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._watch()

    @override
    def on_headers_complete(self) -> None:
        self._heard()
        super().on_headers_complete()
        cycle: Any = self.cycle
        cycle.transport = Joined(self.transport, self.loop)

    @override
    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if cycle.response_complete:
            return
        if not cycle.body:
            cycle.body = bytearray()  # uvicorn puts bytes there, and each piece would copy all before it
        cycle.body += body
        if len(cycle.body) > PIECE_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()

    def _watch(self) -> None:
        self._heard()
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._close)

    def _heard(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _close(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.close()

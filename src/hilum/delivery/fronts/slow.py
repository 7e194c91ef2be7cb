"""Connections that say nothing: closed after a while, so that they cannot use up what a server has."""

import asyncio
from typing import Any, Final

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS: Final = 10.0  # from the first byte of a request, or from the connection, to the end of its headers


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with a time limit for headers, which it lacks."""

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

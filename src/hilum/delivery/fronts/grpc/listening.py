"""The port of gRPC: in the process and the event loop of the HTTP ports, with the same certificate."""

import os
from pathlib import Path
from typing import Any, Final

# A worker that is started anew is a fork of a process in which gRPC runs; it executes another program at once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # nothing of a call is logged

import grpc
from grpc import aio

from hilum.delivery.fronts.asgi import House
from hilum.delivery.fronts.grpc.service import Service
from hilum.delivery.machine import refuse_taken
from hilum.errors import UsageError

MAX_CALLS: Final = 1024  # at once, on all connections; those beyond are refused by gRPC itself
MAX_STREAMS: Final = 128  # of one connection
MAX_METADATA_BYTES: Final = 16 * 2**10
HANDSHAKE_SECONDS: Final = 10  # from the connection to the end of what precedes calls, as HTTP's headers have
IDLE_SECONDS: Final = 600  # without a call; a client connects again by itself
ALIVE_SECONDS: Final = 75  # without a word, before the other side is asked whether it is there


class Listening:
    """A server of gRPC for a house.

    Attributes:
        port: That it has.
    """

    def __init__(self, house: House, host: str, port: int, tls: tuple[Path, Path] | None) -> None:
        """Bind the port; nobody is answered before `start`.

        Args:
            house: What answers.
            host: Address.
            port: 0 for a free one.
            tls: Certificate and key, PEM; None for plain connections.

        Raises:
            UsageError: The port cannot be had.
        """
        refuse_taken(host, port)
        self._tls = tls
        self._server = aio.server(options=_options(house.caps.body_bytes), maximum_concurrent_rpcs=MAX_CALLS)
        self._server.add_generic_rpc_handlers(tuple(Service(house).handlers()))
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                self.port = int(self._server.add_insecure_port(where))
            else:
                self.take_up()
                credentials = grpc.dynamic_ssl_server_credentials(self._shown, lambda: self._shown, False)
                self.port = int(self._server.add_secure_port(where, credentials))
        except RuntimeError as error:
            raise UsageError(f"gRPC cannot listen on {where}; name another --grpc-port") from error

    def take_up(self) -> None:
        """Read the certificate anew; connections that are made from now on are shown it."""
        if self._tls is not None:
            certificate, key = (path.read_bytes() for path in self._tls)
            self._shown: Any = grpc.ssl_server_certificate_configuration([(key, certificate)])

    async def start(self) -> None:
        """Answer calls."""
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Take no more calls; end when those that were accepted are answered, or after so many seconds."""
        await self._server.stop(seconds)


def _options(body_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", 1000 * HANDSHAKE_SECONDS),
        ("grpc.max_connection_idle_ms", 1000 * IDLE_SECONDS),
        ("grpc.keepalive_time_ms", 1000 * ALIVE_SECONDS),
        ("grpc.so_reuseport", 0),  # else two servers share a port, and each gets some of the calls
        ("grpc.compression_enabled_algorithms_bitset", 1),  # as they are and no other: nothing is inflated
    ]

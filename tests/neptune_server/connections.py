"""The client's TCP connections: a test can have one broken in the middle of a request."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import Any, cast

from starlette.types import Receive, Scope

Address = tuple[str, int]


class Connections:
    def __init__(self) -> None:
        self._open: dict[Address, asyncio.Transport] = {}
        self.opened = 0

    def opening(self, address: Address, transport: asyncio.Transport) -> None:
        self._open[address] = transport
        self.opened += 1

    def closed(self, address: Address) -> None:
        self._open.pop(address, None)

    async def reset(self, scope: Scope, receive: Receive) -> None:
        """Breaks the request's connection, which its client sees as a reset."""
        transport = self._open[tuple(scope["client"])]
        connected_socket = transport.get_extra_info("socket")
        if connected_socket is not None:
            no_lingering = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            connected_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
        transport.abort()
        await _gone(receive)

    async def close(self, scope: Scope, receive: Receive) -> None:
        """Ends the connection in good order, after what has been sent."""
        self._open[tuple(scope["client"])].close()
        await _gone(receive)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def watching(protocol: type[asyncio.Protocol], connections: Connections) -> type[asyncio.Protocol]:
    """The web server's protocol class, made to report its connections."""

    class WatchedProtocol(protocol):  # type: ignore[misc, valid-type]
        client: Any

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            connections.opening(self.client, cast(asyncio.Transport, transport))

        def connection_lost(self, exc: Exception | None) -> None:
            connections.closed(self.client)
            super().connection_lost(exc)

    return WatchedProtocol

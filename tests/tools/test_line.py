"""The emulated line is as slow as it says. That it is no slower shows only on a machine with nothing else to do."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.tools.line import Line, Speed

SPEED = Speed(down=80, up=40, round_trip=30)
MEGABYTE = 1_000_000
BLOCK = bytes(1 << 16)
WISH = struct.Struct("!QQ?")
"""What a client says first: how many bytes it is going to send, how many it wants to have, and whether that is all."""


class Peer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        connection: socket.socket = self.request
        while wish := connection.recv(WISH.size, socket.MSG_WAITALL):
            sent, wanted, is_last = WISH.unpack(wish)
            receive(connection, sent)
            send(connection, wanted)
            if is_last:
                break


def receive(connection: socket.socket, size: int) -> None:
    while size:
        received = len(connection.recv(min(size, len(BLOCK))))
        if not received:
            raise ConnectionError(f"The connection has ended {size} bytes too early")
        size -= received


def send(connection: socket.socket, size: int) -> None:
    for start in range(0, size, len(BLOCK)):
        connection.sendall(BLOCK[: size - start])


def exchange(connection: socket.socket, *, up: int = 0, down: int = 1, is_last: bool = False) -> float:
    """Sends and receives that many bytes, and gives the seconds that it took."""
    began = time.monotonic()
    connection.sendall(WISH.pack(up, down, is_last))
    send(connection, up)
    receive(connection, down)
    return time.monotonic() - began


class PeerServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with PeerServer(("127.0.0.1", 0), Peer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Line("127.0.0.1", server.server_address[1], SPEED) as line:
            yield line
        server.shutdown()


@contextmanager
def connected(line: Line) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", line.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange(connection)
        yield connection


def nominal(*, down: int = 0, up: int = 0) -> float:
    """How long an exchange takes on the line: one direction after the other, and the round trip."""
    return sum(SPEED.seconds(down, up)) + SPEED.round_trip / 1000


@pytest.mark.parametrize("sizes", [{"down": 4 * MEGABYTE}, {"up": 2 * MEGABYTE}, {"down": MEGABYTE, "up": MEGABYTE}])
def test_rate(line: Line, sizes: dict[str, Any]) -> None:
    with connected(line) as connection:
        took = exchange(connection, **sizes)
    assert nominal(**sizes) * 0.99 < took


def test_connections_share_the_rate(line: Line) -> None:
    with connected(line) as one, connected(line) as another, ThreadPoolExecutor() as threads:
        began = time.monotonic()
        both = [threads.submit(exchange, each, down=2 * MEGABYTE) for each in (one, another)]
        for each in both:
            each.result()
        took = time.monotonic() - began
    assert nominal(down=4 * MEGABYTE) * 0.99 < took


def test_round_trip(line: Line) -> None:
    with connected(line) as connection:
        assert exchange(connection) > SPEED.round_trip / 1000 - 0.001


def test_a_new_connection_takes_a_round_trip_more(line: Line) -> None:
    began = time.monotonic()
    with connected(line):
        took = time.monotonic() - began
    assert 2 * SPEED.round_trip / 1000 - 0.002 < took


def test_counts(line: Line) -> None:
    before = line.carried()
    with connected(line) as connection:
        exchange(connection, up=100_000, down=200_000)
    carried = line.carried().since(before)
    assert (carried.up, carried.down, carried.connections) == (100_000 + 2 * WISH.size, 200_001, 1)


def test_what_was_sent_before_the_end_arrives(line: Line) -> None:
    with connected(line) as connection:
        exchange(connection, down=MEGABYTE, is_last=True)
        assert connection.recv(1) == b""


def test_nobody_at_the_far_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Line("127.0.0.1", port, SPEED) as line:
        connection = socket.create_connection(("127.0.0.1", line.port), timeout=30)
        with connection, pytest.raises(ConnectionError):
            exchange(connection)

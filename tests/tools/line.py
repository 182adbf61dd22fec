"""An emulated line: a TCP proxy behind which a local server is as far away, and as slow to reach, as a real one.

    with Line("127.0.0.1", 8080, Speed(down=340, up=110, round_trip=28)) as line: ...

All connections share the rate of each direction, which carries one chunk after the other in the order in which they
come. Every chunk takes half a round trip more, and a new connection a whole one before its first byte, as its handshake
would. What a real line has besides (headers of packets, losses, slow starts) is left out, so it is the best that such a
line could do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import cast

REPOSITORY = Path(__file__).parents[2]
BITS_PER_BYTE = 8
CHUNK = 32 * 1024
AHEAD = 0.01
"""Seconds of the line's time for which a connection may have chunks waiting. As those of a router's queue, they keep
the line busy between two looks at the connection, which an event loop takes a millisecond apart at best."""
TIMER = 0.0005
"""Seconds by which an event loop wakes up late, on average: it counts in whole milliseconds, rounded up."""


@dataclass(frozen=True)
class Speed:
    """`down` and `up` in Mbit/s, `round_trip` in milliseconds."""

    down: float
    up: float
    round_trip: float

    def seconds(self, down: int, up: int) -> tuple[float, float]:
        """How long a number of bytes in each direction keeps the line busy at least."""
        return down / bytes_per_second(self.down), up / bytes_per_second(self.up)


@dataclass(frozen=True)
class Carried:
    """What a line has carried: bytes in each direction, connections; and the processor time that it took for it."""

    down: int
    up: int
    connections: int
    processor_seconds: float

    def since(self, before: Carried) -> Carried:
        return Carried(
            self.down - before.down,
            self.up - before.up,
            self.connections - before.connections,
            self.processor_seconds - before.processor_seconds,
        )


class Line:
    """A line in a process of its own."""

    def __init__(self, host: str, port: int, speed: Speed) -> None:
        words = [host, port, speed.down, speed.up, speed.round_trip]
        self._command = [sys.executable, "-m", "tests.tools.line", *map(str, words)]
        self.port = 0

    def __enter__(self) -> Line:
        self._process = subprocess.Popen(
            self._command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._answer())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def carried(self) -> Carried:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Carried(**json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def bytes_per_second(megabits: float) -> float:
    return megabits * 1_000_000 / BITS_PER_BYTE


class Direction:
    """One direction of the line, shared by all connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: float, delay: float) -> None:
        self.loop = loop
        self.rate = rate
        self.delay = delay
        self.free_at = 0.0
        self.carried = 0

    def take(self, size: int) -> float:
        """Puts bytes behind all others; comes back with the time at which the last of them has left."""
        self.free_at = max(self.free_at, self.loop.time()) + size / self.rate
        self.carried += size
        return self.free_at


class End(asyncio.BufferedProtocol):
    """One end of a connection. What comes in there goes out at the other end, when the line has carried it."""

    other: End

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.loop = direction.loop
        self.transport: asyncio.Transport | None = None
        self.chunk = bytearray(CHUNK)
        self.under_way: deque[bytes | None] = deque()
        self.holds: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.chunk

    def buffer_updated(self, size: int) -> None:
        left = self.direction.take(size)
        self._send(bytes(memoryview(self.chunk)[:size]), left)
        if left - self.loop.time() > AHEAD:
            self.hold("the line is busy")
            self.loop.call_at(left - AHEAD, self.release, "the line is busy")

    def abort(self) -> None:
        assert self.transport is not None
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._send(None, self.direction.take(0))

    def _send(self, data: bytes | None, left: float) -> None:
        self.under_way.append(data)
        self.loop.call_at(left + self.direction.delay - TIMER, self._arrive)

    def _arrive(self) -> None:
        data, to = self.under_way.popleft(), self.other.transport
        if to is None or to.is_closing():
            return
        if data is None:
            to.close()
        else:
            to.write(data)

    def pause_writing(self) -> None:
        self.other.hold("the receiver is busy")

    def resume_writing(self) -> None:
        self.other.release("the receiver is busy")

    def hold(self, reason: str) -> None:
        assert self.transport is not None
        self.holds.add(reason)
        self.transport.pause_reading()

    def release(self, reason: str) -> None:
        assert self.transport is not None
        self.holds.discard(reason)
        if not self.holds:
            self.transport.resume_reading()


class Emulator:
    """The line itself, as its process runs it."""

    def __init__(self, host: str, port: int, speed: Speed) -> None:
        self.loop = asyncio.get_running_loop()
        self.host, self.port = host, port
        self.round_trip = speed.round_trip / 1000
        self.down, self.up = (
            Direction(self.loop, bytes_per_second(rate), self.round_trip / 2) for rate in (speed.down, speed.up)
        )
        self.connections = 0
        self.connecting: set[asyncio.Task[None]] = set()

    def accept(self) -> End:
        """The near end of a new connection."""
        near, far = NearEnd(self.up, self), End(self.down)
        near.other, far.other = far, near
        self.connections += 1
        return near

    def connect(self, near: End) -> None:
        """Lets a connection begin when the far end is there and the handshake is over."""
        near.hold("handshake")
        self.loop.call_later(self.round_trip, near.release, "handshake")
        near.hold("connecting")
        task = self.loop.create_task(self._reach(near))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)

    async def _reach(self, near: End) -> None:
        try:
            await self.loop.create_connection(lambda: near.other, self.host, self.port)
        except OSError:
            near.abort()
        else:
            near.release("connecting")

    def carried(self) -> Carried:
        return Carried(self.down.carried, self.up.carried, self.connections, time.process_time())


class NearEnd(End):
    def __init__(self, direction: Direction, emulator: Emulator) -> None:
        super().__init__(direction)
        self.emulator = emulator

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Before Python 3.11, a loop begins to read after this call, even if reading was paused during it.
        self.loop.call_soon(self.emulator.connect, self)


async def serve(host: str, port: int, speed: Speed) -> None:
    """Prints the port, and what was carried for each line of the standard input, at whose end it ends."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    emulator = Emulator(host, port, speed)
    server = await loop.create_server(emulator.accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)

    def answer() -> None:
        for _ in sys.stdin:
            print(json.dumps(vars(emulator.carried())), flush=True)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=answer, daemon=True).start()
    await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.line")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    for name in ("down", "up", "round_trip"):
        parser.add_argument(name, type=float)
    wanted = parser.parse_args()
    asyncio.run(serve(wanted.host, wanted.port, Speed(wanted.down, wanted.up, wanted.round_trip)))


if __name__ == "__main__":
    main()

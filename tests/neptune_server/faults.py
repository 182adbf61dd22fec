"""Faults that a test orders: which request is to go wrong, and how."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson

LATE_KINDS = ("late", "repeated_late")
KINDS = ("status", "reset", "truncate", "delay", "operation_error", "lost_answer", "reset_body", *LATE_KINDS)


@dataclass
class Fault:
    operation: str
    kind: str
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    after: int = 0
    times: int | None = 1
    path: str | None = None
    seconds: float = 0.0
    byte_count: int = 0
    requests: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is none of {', '.join(KINDS)}")

    def concerns(self, operation_id: str, query: bytes, body: bytes) -> bool:
        if self.operation not in ("*", operation_id):
            return False
        return self.path is None or self._named_in(query) or self._quoted_in(body)

    def _named_in(self, query: bytes) -> bool:
        return any(value == self.path for _, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True))

    def _quoted_in(self, body: bytes) -> bool:
        return bool(body) and self.path in texts_of(orjson.loads(body))

    async def delay(self) -> None:
        """Come back after the fault's seconds, or when it is released."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.released.wait(), self.seconds)

    def strikes(self) -> bool:
        """Counts one request that it concerns."""
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


def texts_of(document: Any) -> set[str]:
    """All strings of a JSON document, at any depth of its lists and objects' values."""
    if isinstance(document, str):
        return {document}
    if isinstance(document, dict):
        return set().union(*(texts_of(each) for each in document.values()))
    if isinstance(document, list):
        return set().union(*(texts_of(each) for each in document))
    return set()


@dataclass
class Late:
    """A request that is kept, and arrives after some more requests about the same objects."""

    operation: str
    objects: frozenset[str]
    requests: int
    carry_out: Callable[[], Awaitable[int]]
    """Carries the request out; nobody waits for the answer, of which the status is told."""
    has_arrived: bool = False
    status: int | None = None

    async def arrive(self) -> None:
        if not self.has_arrived:
            self.has_arrived = True
            self.status = await self.carry_out()

    def as_data(self) -> dict[str, Any]:
        return {"operation": self.operation, "requests": self.requests, "status": self.status}


@dataclass
class Outage:
    until: float
    kind: str


@dataclass
class Faults:
    ordered: list[Fault] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    _known: list[Fault] = field(default_factory=list)
    """All that were ever ordered: a delay may go on when its fault is used up or taken back."""
    _outage: Outage | None = None

    def order(self, description: dict[str, Any]) -> int:
        """Order a fault; return its number."""
        byte_count = description.pop("bytes", 0)
        fault = Fault(**description, byte_count=byte_count)
        self.ordered.append(fault)
        self._known.append(fault)
        return len(self._known) - 1

    def clear(self) -> None:
        self.ordered.clear()
        self.late.clear()
        self._outage = None

    def release(self, number: int) -> None:
        """End the delays of one fault, by its number."""
        self._known[number].released.set()

    async def overtake(self, objects: frozenset[str]) -> None:
        """Count a request about some objects. Late ones that have waited for enough of them arrive before it."""
        for late in self.on_their_way():
            if late.objects != objects and not late.objects & objects:
                continue
            if late.requests > 0:
                late.requests -= 1
            else:
                await late.arrive()

    def on_their_way(self) -> list[Late]:
        return [late for late in self.late if not late.has_arrived]

    async def arrive(self) -> int:
        """Make all late requests arrive; return their number."""
        waiting = self.on_their_way()
        for late in waiting:
            await late.arrive()
        return len(waiting)

    def begin_outage(self, seconds: float, kind: str) -> None:
        self._outage = Outage(time.monotonic() + seconds, kind)

    def outage(self) -> Fault | None:
        if self._outage is None or time.monotonic() > self._outage.until:
            return None
        return Fault(operation="*", kind=self._outage.kind)

    def strike(self, operation_id: str, query: bytes, body: bytes) -> Fault | None:
        """The fault that this request is to meet, if any: the first one ordered that strikes."""
        for fault in list(self.ordered):
            if fault.concerns(operation_id, query, body) and fault.strikes():
                if fault.times == 0:
                    self.ordered.remove(fault)
                return fault
        return None

"""Counts of what has been asked of the server."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Send

LOG_LENGTH = 100_000


@dataclass
class Traffic:
    requests: Counter[str] = field(default_factory=Counter)
    bytes_in: Counter[str] = field(default_factory=Counter)
    bytes_out: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most_running: int = 0
    clients: set[Any] = field(default_factory=set)
    log: deque[Visit] = field(default_factory=lambda: deque(maxlen=LOG_LENGTH))
    number: int = 0

    def reset(self) -> None:
        self.requests.clear()
        self.bytes_in.clear()
        self.bytes_out.clear()
        self.most_running = self.running
        self.clients.clear()
        self.log.clear()

    def begin(self, operation_id: str, client: Any) -> Visit:
        self.number += 1
        self.requests[operation_id] += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.clients.add(client)
        visit = Visit(self, self.number, operation_id)
        self.log.append(visit)
        return visit

    def counts(self) -> dict[str, Any]:
        return {
            "requests": dict(self.requests),
            "bytes_in": dict(self.bytes_in),
            "bytes_out": dict(self.bytes_out),
            "max_concurrent": self.most_running,
            "connections": len(self.clients),
        }


@dataclass
class Visit:
    """One request, from its beginning to its end."""

    traffic: Traffic
    number: int
    operation_id: str
    container_id: str | None = None
    status: int | None = None

    def counting(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        async def counted_receive() -> Message:
            message = await receive()
            self.traffic.bytes_in[self.operation_id] += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            self.traffic.bytes_out[self.operation_id] += len(message.get("body", b""))
            await send(message)

        return counted_receive, counted_send

    def end(self) -> None:
        self.traffic.running -= 1

    def as_data(self) -> list[Any]:
        return [self.number, self.operation_id, self.status, self.container_id]

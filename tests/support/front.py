"""A gateway before the local server: it forwards what comes, but for the requests that a test tells it to spoil."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import anyio.from_thread
import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from tests.neptune_server.process import ServerProcess

BLOCK = 1 << 16
START_SECONDS = 10
PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Sign in to go on</h1></body></html>"
HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
"""Headers that concern one connection, and so are the gateway's own."""


class TooLargeError(Exception):
    """A body has more bytes than a rule allows."""


@dataclass
class Rule:
    """What is to become of the next `times` requests (None: all) in whose path the pattern is found."""

    path: str
    times: int | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    largest_body: int | None = None
    target: str | None = None

    def concerns(self, request: Request) -> bool:
        if not re.search(self.path, request.url.path):
            return False
        return self.largest_body is None or body_length(request) is None or body_length(request) > self.largest_body

    def response(self, request: Request) -> Response:
        headers = dict(self.headers)
        if self.target is not None:
            headers["Location"] = self.target + target_of(request)
        return HTMLResponse(self.body, status_code=self.status, headers=headers)


class Front:
    """`with Front(server) as front: ...` A client that uses `front.url`, or has `front.environment`, goes through it.

    The server is told the front's own address by the `Host` header, and so hands out URLs that lead through it as well.
    Where the server cannot be reached, or breaks off before its answer, the answer is a 502. No WebSockets.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.seen: list[tuple[str, str, int]] = []
        """Method, path and status of each request, in the order of the answers."""
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
        self._web_server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._web_server.run, args=([self._listener],), daemon=True)

    def __enter__(self) -> Front:
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._web_server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("The front did not start")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._web_server.should_exit = True
        self._thread.join()
        self._listener.close()

    @property
    def environment(self) -> dict[str, str]:
        """The server's, with a token that leads to the front."""
        environment = dict(self._server.environment)
        token = json.loads(base64.b64decode(environment["NEPTUNE_API_TOKEN"]))
        token.update(api_address=self.url, api_url=self.url)
        environment["NEPTUNE_API_TOKEN"] = base64.b64encode(json.dumps(token).encode()).decode()
        return {**environment, "OAUTHLIB_INSECURE_TRANSPORT": "1"}

    # -- what a test orders; of several rules that concern a request, the first is followed --

    def page(self, path: str = "", *, times: int | None = 1, html: str = PAGE) -> None:
        """Answer with an HTML page and the status 200, as a gateway does that wants somebody to sign in."""
        self._order(Rule(path, times, body=html))

    def answer(
        self,
        status: int,
        path: str = "",
        *,
        times: int | None = 1,
        headers: dict[str, str] | None = None,
        body: str = "",
    ) -> None:
        self._order(Rule(path, times, status=status, headers=headers or {}, body=body))

    def limit_bodies(self, largest: int, path: str = "", *, times: int | None = None) -> None:
        """Refuse bodies of more bytes with 413."""
        page = "<html><head><title>413 Request Entity Too Large</title></head></html>"
        self._order(Rule(path, times, status=413, body=page, largest_body=largest))

    def redirect(self, target: str, path: str = "", *, times: int | None = None, status: int = 301) -> None:
        """Send the client to the same path at another address, such as `https://127.0.0.1:8443`."""
        self._order(Rule(path, times, status=status, target=target))

    def unmet(self) -> list[str]:
        """The paths of the rules that wait for more requests."""
        with self._lock:
            return [rule.path for rule in self._rules if rule.times]

    def clear(self) -> None:
        """Forward everything from now on."""
        with self._lock:
            self._rules.clear()

    def _order(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    # -- requests --

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close()
            return
        request = Request(scope, receive)
        response = await run_in_threadpool(self._answer, request)
        self.seen.append((request.method, request.url.path, response.status_code))
        await response(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        rule = self._rule_for(request)
        if rule is None:
            return self._forward(request, None)
        if rule.largest_body is not None and body_length(request) is None:
            return self._forward(request, rule)
        self._use_up(rule)
        return rule.response(request)

    def _rule_for(self, request: Request) -> Rule | None:
        with self._lock:
            return next((rule for rule in self._rules if rule.times != 0 and rule.concerns(request)), None)

    def _use_up(self, rule: Rule) -> None:
        with self._lock:
            if rule.times is not None:
                rule.times -= 1

    def _forward(self, request: Request, limit: Rule | None) -> Response:
        connection = self._connection()
        try:
            largest = limit.largest_body if limit else None
            return streamed(connection, send_on(connection, request, largest))
        except TooLargeError:
            assert limit is not None
            self._use_up(limit)
            connection.close()
            return limit.response(request)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Response(f"The server cannot be reached: {error!r}", status_code=502, media_type="text/plain")

    def _connection(self) -> http.client.HTTPConnection:
        address = urlsplit(self._server.url)
        assert address.hostname is not None
        if address.scheme == "https":
            context = ssl.create_default_context(cafile=str(self._server.certificate))
            return http.client.HTTPSConnection(address.hostname, address.port, context=context)
        return http.client.HTTPConnection(address.hostname, address.port)


def target_of(request: Request) -> str:
    """The path and the query as they were sent."""
    query = request.scope["query_string"]
    target: bytes = request.scope["raw_path"] + (b"?" + query if query else b"")
    return target.decode("ascii")


def body_length(request: Request) -> Any:
    """None where only the body's end tells."""
    if "transfer-encoding" in request.headers:
        return None
    return int(request.headers.get("content-length", 0))


def send_on(
    connection: http.client.HTTPConnection, request: Request, largest_body: int | None
) -> http.client.HTTPResponse:
    connection.putrequest(request.method, target_of(request), skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.raw:
        if name.lower() not in HOP_BY_HOP:
            connection.putheader(name.decode("latin-1"), value)
    is_chunked = body_length(request) is None
    if is_chunked:
        connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(body_of(request, largest_body), encode_chunked=is_chunked)
    return connection.getresponse()


def body_of(request: Request, largest: int | None) -> Iterator[bytes]:
    """Give the body as it comes."""

    async def next_message() -> Message:
        return await request.receive()

    count, has_more = 0, True
    while has_more:
        message = anyio.from_thread.run(next_message)
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError("The client has gone")
        block = message.get("body", b"")
        count += len(block)
        if largest is not None and count > largest:
            raise TooLargeError
        if block:
            yield block
        has_more = message.get("more_body", False)


def streamed(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Response:
    def blocks() -> Iterator[bytes]:
        try:
            while block := answer.read1(BLOCK):
                yield block
        finally:
            connection.close()

    response = StreamingResponse(blocks(), status_code=answer.status)
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.getheaders()]
    response.raw_headers = [(name, value) for name, value in headers if name not in HOP_BY_HOP]
    return response

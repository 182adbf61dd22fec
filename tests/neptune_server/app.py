"""The web application: each operation of the descriptions is routed to the handler registered under its id."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from . import (
    handlers_artifacts,
    handlers_attributes,
    handlers_containers,
    handlers_files,
    handlers_projects,
    spec,
)
from .auth import REALM, TokenError
from .faults import LATE_KINDS, Fault, Late
from .instruments import routes as instrument_routes
from .nql import NqlSyntaxError
from .pages import routes as page_routes
from .server import Server
from .store import ConflictError, Container, ForbiddenError, InvalidError, NotFoundError
from .traffic import Visit
from .web import HANDLERS, ApiError, Call, Handler, JsonResponse, base_url, json_body, parameters_of

HANDLER_MODULES = (
    handlers_artifacts,
    handlers_attributes,
    handlers_containers,
    handlers_files,
    handlers_projects,
)

SIGNED_BY_API_TOKEN = {"getClientConfig", "exchangeApiToken"}
NAMING_IN_BODY = {"createExperiment", "trashExperiments", "restoreExperiments", "deleteExperiments"}


class Endpoint:
    """A route's end: counts the request, lets it meet its fault, and has it answered."""

    def __init__(self, server: Server, operation_id: str) -> None:
        self.server = server
        self.operation_id = operation_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = self.server.traffic.begin(self.operation_id, scope.get("client"))
        receive, send = visit.counting(receive, send)
        try:
            await self._serve(scope, receive, send, visit)
        except ClientDisconnect:
            pass
        finally:
            visit.end()

    async def _serve(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        request = Request(scope, receive)
        fault = self.server.faults.outage() or await self._fault(request)
        if fault is None:
            response = await self._carry_out(request, visit)
            await response(scope, receive, send)
        else:
            await self._fail(fault, request, send, visit)

    async def _fault(self, request: Request) -> Fault | None:
        faults = self.server.faults
        if not faults.ordered:
            return None
        body = await self.readable_body(request) if any(fault.path for fault in faults.ordered) else b""
        return faults.strike(self.operation_id, request.scope["query_string"], body)

    async def readable_body(self, request: Request) -> bytes:
        """What a fault that is ordered for one field may look into."""
        return b""

    async def objects(self, request: Request) -> frozenset[str]:
        """Tell which objects the request names: late ones wait for those that name the same."""
        return frozenset()

    async def _carry_out(self, request: Request, visit: Visit, fault: Fault | None = None) -> Response:
        if self.server.faults.on_their_way():
            await self.server.faults.overtake(await self.objects(request))
        return await self.answer(request, visit, fault)

    async def _fail(self, fault: Fault, request: Request, send: Send, visit: Visit) -> None:
        scope, receive, connections = request.scope, request.receive, self.server.connections
        if fault.kind == "status":
            await status_answer(fault)(scope, receive, send)
        elif fault.kind == "reset":
            await connections.reset(scope, receive)
        elif fault.kind == "reset_body":
            await _receive_some(receive, fault.byte_count)
            await connections.reset(scope, receive)
        elif fault.kind == "lost_answer":
            await (await self._carry_out(request, visit))(scope, receive, _nowhere)
            await connections.reset(scope, receive)
        elif fault.kind in LATE_KINDS:
            await self._keep(fault, request, visit)
            await connections.reset(scope, receive)
        elif fault.kind == "truncate":
            response = await self._carry_out(request, visit)
            await response(scope, receive, _cut_after(fault.byte_count, send))
            await asyncio.sleep(fault.seconds)
            await connections.close(scope, receive)
        elif fault.kind == "delay":
            await fault.delay()
            await (await self._carry_out(request, visit))(scope, receive, send)
        else:
            await (await self._carry_out(request, visit, fault))(scope, receive, send)

    async def _keep(self, fault: Fault, request: Request, visit: Visit) -> None:
        """Keep a request that is to arrive late, as something between client and server may."""
        scope, body = request.scope, await request.body()

        async def carry_out() -> int:
            response = await self.answer(Request(scope, _receiving(body)), visit, None)
            await response(scope, _receiving(b""), _nowhere)
            return response.status_code

        objects = await self.objects(request)
        if fault.kind == "repeated_late":
            await (await self._carry_out(request, visit))(scope, _receiving(b""), _nowhere)
        self.server.faults.late.append(Late(self.operation_id, objects, fault.requests, carry_out))

    async def answer(self, request: Request, visit: Visit, fault: Fault | None) -> Response:
        raise NotImplementedError


class OperationEndpoint(Endpoint):
    def __init__(self, server: Server, operation: spec.Operation, handler: Handler) -> None:
        super().__init__(server, operation.operation_id)
        self.operation = operation
        self.handler = handler

    async def readable_body(self, request: Request) -> bytes:
        return await request.body() if self.operation.body else b""

    async def objects(self, request: Request) -> frozenset[str]:
        with suppress(ApiError, NotFoundError):
            call = Call(self.server, self.operation, request, parameters_of(self.operation, request))
            if self.operation.body and self.operation_id in NAMING_IN_BODY:
                call.body = json_body(await request.body(), self.operation.body)
            return frozenset(_objects_of(call))
        return frozenset()

    async def answer(self, request: Request, visit: Visit, fault: Fault | None) -> Response:
        try:
            result = await self._result(request, visit, fault)
        except ApiError as error:
            return error.response()
        except NotFoundError as error:
            return ApiError(404, str(error)).response()
        except ForbiddenError as error:
            return ApiError(403, str(error)).response()
        except ConflictError as error:
            return ApiError(409, str(error)).response()
        except InvalidError as error:
            return ApiError(400, str(error)).response()
        except NqlSyntaxError as error:
            return ApiError(400, "Syntax error", detail=str(error)).response()
        if isinstance(result, Response):
            return result
        return JsonResponse(self.server.omissions.applied(self.operation_id, result))

    async def _result(self, request: Request, visit: Visit, fault: Fault | None) -> Any:
        if self.operation_id not in SIGNED_BY_API_TOKEN:
            self.server.authority.check_access(request.headers.get("authorization"))
        call = Call(self.server, self.operation, request, parameters_of(self.operation, request))
        visit.container_id = call.params.get("experimentId") or call.params.get("experimentIdentifier")
        if self.operation.body:
            call.body = json_body(await request.body(), self.operation.body)
        if fault is not None:
            call.refusal = fault.body or "The operation was refused"
            call.refused_path = fault.path
        self.server.limits.check(call)
        result = self.handler(call)
        return await result if inspect.isawaitable(result) else result


class DocumentEndpoint(Endpoint):
    def __init__(self, server: Server, document: bytes) -> None:
        super().__init__(server, "swagger")
        self.document = document

    async def answer(self, request: Request, visit: Visit, fault: Fault | None) -> Response:
        return Response(self.document, media_type="application/json")


class TokenEndpoint(Endpoint):
    """Refreshes access tokens, as OAuth has it."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, "token")

    async def answer(self, request: Request, visit: Visit, fault: Fault | None) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if form.get("grant_type") != "refresh_token":
            return JsonResponse({"error": "unsupported_grant_type"}, status_code=400)
        try:
            tokens = self.server.authority.refreshed(form.get("refresh_token", ""), base_url(request))
        except TokenError as error:
            return JsonResponse({"error": "invalid_grant", "error_description": str(error)}, status_code=400)
        return JsonResponse(tokens)


def status_answer(fault: Fault) -> Response:
    if isinstance(fault.body, str):
        return Response(fault.body, status_code=fault.status, headers=fault.headers)
    body = {"code": fault.status, "message": "Ordered by a test"} if fault.body is None else fault.body
    return JsonResponse(body, status_code=fault.status, headers=fault.headers)


async def _receive_some(receive: Receive, count: int) -> None:
    received = 0
    while received < max(count, 1):
        message = await receive()
        received += len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _objects_of(call: Call) -> Iterator[str]:
    """List the objects that a call names. A custom ID names a run even before it is created."""
    if call.operation.operation_id == "createExperiment":
        if call.body.get("customId"):
            project = call.store.project(call.body.get("projectIdentifier") or call.body.get("projectId"))
            yield f"{project.id}/{call.body['customId']}"
    elif call.operation.operation_id in NAMING_IN_BODY:
        for identifier in call.body or ():
            with suppress(NotFoundError):
                yield _name_of(call.project().by_sys_id.get(identifier) or call.store.container(identifier))
    else:
        yield _name_of(call.container())


def _name_of(container: Container) -> str:
    return f"{container.project.id}/{container.custom_id}" if container.custom_id else container.id


def _receiving(body: bytes) -> Receive:
    """Give a request's body once more, from a client that has gone."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


async def _nowhere(_: Message) -> None:
    pass


def _cut_after(count: int, send: Send) -> Send:
    left = count

    async def cutting(message: Message) -> None:
        nonlocal left
        if message["type"] == "http.response.start":
            await send(message)
        elif left > 0:
            body = message.get("body", b"")[:left]
            left -= len(body)
            await send({"type": "http.response.body", "body": body, "more_body": True})

    return cutting


async def _until_disconnected(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def signals(server: Server) -> Callable[[WebSocket], Any]:
    """The channel on which an app would tell a run to stop. This server never says anything."""

    async def listen(websocket: WebSocket) -> None:
        server.traffic.requests["websocket"] += 1
        try:
            server.authority.check_access(websocket.headers.get("authorization"))
            server.store.container(websocket.path_params["run"])
        except (ApiError, NotFoundError):
            await websocket.close()
        else:
            await websocket.accept()
            await _until_disconnected(websocket)
        finally:
            server.connections.closed(tuple(websocket.scope["client"]))

    return listen


def bind(descriptions: list[spec.Description], without: frozenset[str]) -> dict[str, Handler]:
    """Every operation has its handler, and every handler its operation."""
    declared = {operation.operation_id for each in descriptions for operation in each.operations}
    lost, idle = declared - HANDLERS.keys(), HANDLERS.keys() - declared - without
    if lost or idle:
        raise RuntimeError(f"Operations without a handler: {sorted(lost)}; handlers without one: {sorted(idle)}")
    return {operation_id: HANDLERS[operation_id] for operation_id in declared}


def create_app(server: Server) -> ASGIApp:
    descriptions = spec.load(server.options.without)
    handlers = bind(descriptions, server.options.without)
    routes: list[BaseRoute] = [Mount("/_instruments", routes=instrument_routes(server))]
    for description in descriptions:
        path = f"/api/{description.api}/swagger.json"
        routes.append(Route(path, DocumentEndpoint(server, description.document), methods=["GET"]))
        for operation in description.operations:
            endpoint = OperationEndpoint(server, operation, handlers[operation.operation_id])
            routes.append(Route(operation.path, endpoint, methods=[operation.method]))
            server.paths[operation.operation_id] = operation.path
    routes.append(Route(f"{REALM}/protocol/openid-connect/token", TokenEndpoint(server), methods=["POST"]))
    routes.append(WebSocketRoute("/api/notifications/v1/runs/{project}/{run}/signal", signals(server)))
    routes += page_routes(server)
    return Starlette(routes=routes)

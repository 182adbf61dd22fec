"""What a handler gets and gives: a call with its parameters parsed, and answers in JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from .spec import Operation, Parameter

if TYPE_CHECKING:
    from .server import Server
    from .store import Container, Project, Store


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class ApiError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, error_type: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"code": status, "message": message, "title": message, **details}
        if error_type is not None:
            self.body["errorType"] = error_type

    def response(self) -> JsonResponse:
        return JsonResponse(self.body, status_code=self.status)


def base_url(request: Request) -> str:
    """The address that the client knows the server by."""
    return f"{request.url.scheme}://{request.url.netloc}"


@dataclass
class Call:
    server: Server
    operation: Operation
    request: Request
    params: dict[str, Any]
    body: Any = None
    refusal: str | None = None
    """Ordered by a test: what is to be answered as the error of one operation, instead of carrying it out."""
    refused_path: str | None = None

    @property
    def store(self) -> Store:
        return self.server.store

    @property
    def base_url(self) -> str:
        return base_url(self.request)

    def container(self) -> Container:
        identifier = self.params.get("experimentId") or self.params.get("experimentIdentifier")
        identifier = identifier or self.params.get("holderIdentifier")
        if not identifier:
            raise ApiError(400, "No object is named: experimentId is missing")
        return self.store.container(identifier)

    def container_to_write(self) -> Container:
        container = self.container()
        container.project.check_writable()
        return container

    def project(self) -> Project:
        return self.store.project(self.params["projectIdentifier"])

    def project_to_write(self) -> Project:
        project = self.project()
        project.check_writable()
        return project


Handler = Callable[[Call], Any]

HANDLERS: dict[str, Handler] = {}


def handles(operation_id: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS[operation_id] = handler
        return handler

    return register


def parameters_of(operation: Operation, request: Request) -> dict[str, Any]:
    """All declared parameters but the body, by name; 400 where a required one is missing or one cannot be read."""
    found: dict[str, Any] = {}
    for parameter in operation.parameters:
        if parameter.place == "body":
            continue
        texts = _texts(parameter, request)
        if parameter.type == "array":
            found[parameter.name] = [_value(parameter, parameter.item_type, text) for text in texts] or None
        elif texts:
            found[parameter.name] = _value(parameter, parameter.type, texts[-1])
        else:
            found[parameter.name] = parameter.default
        if parameter.required and not texts:
            raise ApiError(400, f"The parameter {parameter.name} is missing")
    return found


def _texts(parameter: Parameter, request: Request) -> list[str]:
    if parameter.place == "path":
        return [request.path_params[parameter.name]]
    if parameter.place == "header":
        return request.headers.getlist(parameter.name)
    return request.query_params.getlist(parameter.name)


def _value(parameter: Parameter, type_name: str, text: str) -> Any:
    try:
        if type_name == "integer":
            return int(text)
        if type_name == "number":
            return float(text)
    except ValueError:
        raise ApiError(400, f"The parameter {parameter.name} is no number: {text!r}") from None
    if type_name == "boolean":
        if text.lower() not in ("true", "false"):
            raise ApiError(400, f"The parameter {parameter.name} is neither true nor false: {text!r}")
        return text.lower() == "true"
    return text


def json_body(raw: bytes, parameter: Parameter) -> Any:
    if not raw:
        if parameter.required:
            raise ApiError(400, f"The body ({parameter.name}) is missing")
        return None
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is no JSON: {error}") from None
    if not isinstance(content, list if parameter.type == "array" else dict):
        raise ApiError(400, f"The body ({parameter.name}) is no {parameter.type}")
    return content

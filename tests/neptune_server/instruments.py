"""What tests may see and do that no client can, under `/_instruments`. No sign-in, and not counted as traffic."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .attributes import (
    Artifact,
    Attribute,
    Bool,
    Datetime,
    ExperimentState,
    File,
    FileSet,
    Float,
    FloatSeries,
    Image,
    ImageSeries,
    Int,
    Json,
    Reference,
    String,
    StringSeries,
    StringSet,
)
from .files import StoredFile, store_bytes
from .operations import content_type_of
from .server import Server
from .store import ROLES, ArtifactVersion, Container, NotFoundError, Project, Store
from .web import JsonResponse


def routes(server: Server) -> list[BaseRoute]:
    instruments = Instruments(server)
    return [
        Route("/state", instruments.state, methods=["GET"]),
        Route("/counts", instruments.counts, methods=["GET"]),
        Route("/counts/reset", instruments.reset_counts, methods=["POST"]),
        Route("/log", instruments.log, methods=["GET"]),
        Route("/faults", instruments.order_fault, methods=["POST"]),
        Route("/faults", instruments.clear_faults, methods=["DELETE"]),
        Route("/faults/release", instruments.release, methods=["POST"]),
        Route("/late", instruments.late, methods=["GET"]),
        Route("/late", instruments.arrive, methods=["POST"]),
        Route("/lost-bytes", instruments.lose_bytes, methods=["POST"]),
        Route("/omissions", instruments.leave_out, methods=["POST"]),
        Route("/limits", instruments.set_limits, methods=["POST"]),
        Route("/attributes", instruments.set_attribute, methods=["POST"]),
        Route("/artifacts", instruments.add_artifact, methods=["POST"]),
        Route("/projects", instruments.create_project, methods=["POST"]),
        Route("/projects", instruments.set_project, methods=["PATCH"]),
        Route("/expire-tokens", instruments.expire_tokens, methods=["POST"]),
        Route("/outage", instruments.begin_outage, methods=["POST"]),
        Route("/index", instruments.catch_up, methods=["POST"]),
    ]


def done() -> Response:
    return JsonResponse({})


class Instruments:
    def __init__(self, server: Server) -> None:
        self.server = server

    async def state(self, request: Request) -> Response:
        try:
            project = self.server.store.project(request.query_params["project"])
        except NotFoundError as error:
            return JsonResponse({"message": str(error)}, status_code=404)
        await hash_files(project.containers.values())
        return JsonResponse(state_of(project))

    async def counts(self, _: Request) -> Response:
        return JsonResponse(self.server.traffic.counts())

    async def reset_counts(self, _: Request) -> Response:
        self.server.traffic.reset()
        return done()

    async def log(self, _: Request) -> Response:
        return JsonResponse([visit.as_data() for visit in self.server.traffic.log])

    async def order_fault(self, request: Request) -> Response:
        try:
            number = self.server.faults.order(orjson.loads(await request.body()))
        except (TypeError, ValueError) as error:
            return JsonResponse({"message": str(error)}, status_code=400)
        return JsonResponse({"number": number})

    async def clear_faults(self, _: Request) -> Response:
        self.server.faults.clear()
        self.server.limits.clear()
        self.server.omissions.clear()
        return done()

    async def release(self, request: Request) -> Response:
        self.server.faults.release(orjson.loads(await request.body())["number"])
        return done()

    async def late(self, _: Request) -> Response:
        return JsonResponse([late.as_data() for late in self.server.faults.late])

    async def arrive(self, _: Request) -> Response:
        return JsonResponse({"arrived": await self.server.faults.arrive()})

    async def leave_out(self, request: Request) -> Response:
        wanted = orjson.loads(await request.body())
        if wanted["operation"] not in self.server.paths:
            return JsonResponse({"message": f"There is no operation {wanted['operation']!r}"}, status_code=400)
        self.server.omissions.order(wanted["operation"], wanted["part"])
        return done()

    async def set_limits(self, request: Request) -> Response:
        wanted = orjson.loads(await request.body())
        try:
            self.server.limits.order(wanted["bytes"], wanted["operations"], wanted["status"])
        except ValueError as error:
            return JsonResponse({"message": str(error)}, status_code=400)
        return done()

    async def lose_bytes(self, request: Request) -> Response:
        wanted = orjson.loads(await request.body())
        container = self.server.store.project(wanted["project"]).by_sys_id[wanted["container"]]
        files = container.attributes[wanted["path"]].stored_files()
        if not files:
            return JsonResponse({"message": f"'{wanted['path']}' has no bytes"}, status_code=400)
        for stored in files:
            stored.lose()
        return done()

    async def set_attribute(self, request: Request) -> Response:
        wanted = orjson.loads(await request.body())
        store, path = self.server.store, wanted["path"]
        container = store.project(wanted["project"]).by_sys_id[wanted["container"]]
        if not wanted.get("remove"):
            container.put(path, attribute_from(wanted["attribute"], store))
        elif path in container.attributes:
            container.remove(path)
        _tell_index(container, path)
        return done()

    async def add_artifact(self, request: Request) -> Response:
        wanted = orjson.loads(await request.body())
        files = wanted["files"]
        version = ArtifactVersion(wanted["hash"], sum(file.get("size") or 0 for file in files), files)
        self.server.store.project(wanted["project"]).artifacts[version.hash] = version
        return done()

    async def create_project(self, request: Request) -> Response:
        workspace, _, name = orjson.loads(await request.body())["project"].partition("/")
        store = self.server.store
        project = store.create_project(store.ensure_workspace(workspace), name)
        return JsonResponse({"id": project.id, "key": project.key})

    async def set_project(self, request: Request) -> Response:
        wanted = orjson.loads(await request.body())
        if wanted["role"] not in ROLES:
            return JsonResponse({"message": f"{wanted['role']!r} is none of {', '.join(ROLES)}"}, status_code=400)
        project = self.server.store.project(wanted["project"])
        project.role, project.archived = wanted["role"], wanted["archived"]
        return done()

    async def expire_tokens(self, _: Request) -> Response:
        self.server.authority.expire_all()
        return done()

    async def begin_outage(self, request: Request) -> Response:
        wanted = orjson.loads(await request.body())
        self.server.faults.begin_outage(wanted["seconds"], wanted.get("kind", "status"))
        return done()

    async def catch_up(self, _: Request) -> Response:
        self.server.store.index.catch_up()
        return done()


def _tell_index(container: Container, path: str) -> None:
    """A system field that a test has set stays as it is."""
    if path.startswith("sys/"):
        if path == "sys/modification_time":
            moment = container.attributes[path]
            assert isinstance(moment, Datetime)
            container.modified = moment.value
        container.project.store.index.changed(container)
    else:
        container.touch()


# -- the state as plain data --


async def hash_files(containers: Iterable[Container]) -> None:
    """Reads the files from the disk, in a thread: `as_data` then knows of each what it has to tell."""
    files = [
        stored
        for container in containers
        for attribute in container.attributes.values()
        for stored in attribute.stored_files()
    ]
    await asyncio.to_thread(_hash_all, files)


def _hash_all(files: list[StoredFile]) -> None:
    for stored in files:
        stored.sha256  # noqa: B018


def state_of(project: Project) -> Json:
    return {
        "project": project.qualified_name,
        "artifacts": {
            version.hash: [_artifact_file(file) for file in version.files or []]
            for version in project.artifacts.values()
        },
        "containers": {container.sys_id: _container(container) for container in project.containers.values()},
    }


def _artifact_file(file: Json) -> Json:
    return {
        "path": file["filePath"],
        "hash": file["fileHash"],
        "size": file.get("size"),
        "type": file["type"],
        "metadata": {entry["key"]: entry["value"] for entry in file.get("metadata") or []},
    }


def _container(container: Container) -> Json:
    return {
        "id": container.id,
        "kind": container.kind,
        "trashed": container.trashed,
        "attributes": fields_of(container),
    }


def fields_of(container: Container) -> dict[str, Json]:
    return {path: attribute.as_data() for path, attribute in container.listed().items() if attribute.is_set}


# -- fields from plain data --


def attribute_from(described: Json, store: Store) -> Attribute:
    """The inverse of `as_data`, with the bytes of files given as base64 under `content`."""
    type_name = described["type"]
    if type_name in _MAKERS:
        return _MAKERS[type_name](described, store)
    return Reference(type_name, {key: value for key, value in described.items() if key != "type"})


def _stored(content: str, store: Store) -> StoredFile:
    return store_bytes(store.folder, base64.b64decode(content), store.now())


def _file(described: Json, store: Store) -> File:
    return File(described.get("name", ""), described.get("ext", ""), _stored(described["content"], store))


def _file_set(described: Json, store: Store) -> FileSet:
    file_set = FileSet()
    for path, content in described["files"].items():
        file_set.put(path, _stored(content, store))
    return file_set


def _float_series(described: Json, _: Store) -> FloatSeries:
    config = described.get("config") or {}
    series = FloatSeries(config_min=config.get("min"), config_max=config.get("max"), config_unit=config.get("unit"))
    for step, timestamp, value in described["points"]:
        series.append(step, timestamp, float(value))
    return series


def _string_series(described: Json, _: Store) -> StringSeries:
    series = StringSeries()
    for step, timestamp, value in described["points"]:
        series.append(step, timestamp, value)
    return series


def _image_series(described: Json, store: Store) -> ImageSeries:
    series = ImageSeries()
    for step, timestamp, value in described["points"]:
        content = base64.b64decode(value["content"])
        stored = store_bytes(store.folder, content, store.now())
        content_type = value.get("content_type") or content_type_of(content)
        series.append(step, timestamp, Image(stored, content_type, value.get("name"), value.get("description")))
    return series


_MAKERS: dict[str, Callable[[Json, Store], Any]] = {
    "int": lambda described, _: Int(described["value"]),
    "float": lambda described, _: Float(float(described["value"])),
    "bool": lambda described, _: Bool(described["value"]),
    "string": lambda described, _: String(described["value"]),
    "datetime": lambda described, _: Datetime(described["value"]),
    "experimentState": lambda described, _: ExperimentState(described["value"]),
    "stringSet": lambda described, _: StringSet(frozenset(described["value"])),
    "artifact": lambda described, _: Artifact(described["hash"]),
    "file": _file,
    "fileSet": _file_set,
    "floatSeries": _float_series,
    "stringSeries": _string_series,
    "imageSeries": _image_series,
}

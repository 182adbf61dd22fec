"""The one state of the server: workspaces, their projects, and the containers (runs, models, ...) in them.

Everything runs on one event loop, so nothing here needs a lock. The server's clock is `Store.now`, in milliseconds.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .attributes import (
    Attribute,
    Bool,
    Datetime,
    ExperimentState,
    Float,
    ImageSeries,
    Int,
    String,
    StringSet,
)

RUN, MODEL, MODEL_VERSION, PROJECT = "run", "model", "modelVersion", "project"
STAGES = ("none", "staging", "production", "archived")
VIEWER, MEMBER, MANAGER = ROLES = ("viewer", "member", "manager")

ALIVE_AFTER_PING_MILLIS = 30_000

WRITABLE_SYSTEM_FIELDS = {
    "sys/name": "string",
    "sys/description": "string",
    "sys/tags": "stringSet",
    "sys/group_tags": "stringSet",
    "sys/failed": "bool",
    "sys/hostname": "string",
    "sys/stage": "string",
}


class NotFoundError(Exception):
    """What was asked for does not exist."""


class ConflictError(Exception):
    """Something of that name exists already."""


class ForbiddenError(Exception):
    """The token's user may not write there."""


class InvalidError(Exception):
    """A value that the server cannot accept; `code` is the short form that programs look at."""

    def __init__(self, message: str, code: str = "ERR_INVALID") -> None:
        super().__init__(message)
        self.code = code


class PathConflictError(Exception):
    """A field cannot stand where a namespace is, nor below another field."""


def ancestors(path: str) -> Iterator[str]:
    position = path.find("/")
    while position >= 0:
        yield path[:position]
        position = path.find("/", position + 1)


@dataclass(eq=False)
class Container:
    """A run, a model, a model version, or the fields of a project itself."""

    id: str
    sys_id: str
    kind: str
    project: Project
    parent_id: str
    custom_id: str | None = None
    trashed: bool = False
    attributes: dict[str, Attribute] = field(default_factory=dict)
    namespaces: Counter[str] = field(default_factory=Counter)
    size: int = 0
    created: int = 0
    modified: int = 0
    last_ping: int | None = None

    @property
    def qualified_name(self) -> str:
        return f"{self.project.qualified_name}/{self.sys_id}"

    def attribute(self, path: str) -> Attribute | None:
        """Use this (or `listed`) to read: the state depends on the time of asking."""
        if path == "sys/state" and path in self.attributes:
            return self.state()
        return self.attributes.get(path)

    def listed(self) -> dict[str, Attribute]:
        """All fields by path, as a reader sees them now."""
        if "sys/state" not in self.attributes:
            return self.attributes
        return {**self.attributes, "sys/state": self.state()}

    def state(self) -> ExperimentState:
        alive = self.last_ping is not None and self.project.store.now() - self.last_ping < ALIVE_AFTER_PING_MILLIS
        return ExperimentState("running" if alive else "idle")

    def put(self, path: str, attribute: Attribute) -> None:
        """Places a field. The one that stood there before gives up its bytes, unless the new one holds them as well."""
        before = self.attributes.get(path)
        if before is None:
            self.check_place(path)
            self.namespaces.update(ancestors(path))
        else:
            self._forget(before, kept=attribute)
        self.attributes[path] = attribute
        self.size += attribute.stored_bytes()
        if isinstance(attribute, ImageSeries):
            self.project.store.channels[attribute.channel_id] = (self, path)

    def remove(self, path: str) -> None:
        removed = self.attributes.pop(path)
        for namespace in ancestors(path):
            self.namespaces[namespace] -= 1
            if not self.namespaces[namespace]:
                del self.namespaces[namespace]
        self._forget(removed, kept=None)

    def grown(self, byte_count: int) -> None:
        """To be called when a field that grows in place has taken (or given up) bytes."""
        self.size += byte_count

    def check_place(self, path: str) -> None:
        if "" in path.split("/"):
            raise PathConflictError(f"'{path}' has an empty part")
        if path in self.namespaces:
            raise PathConflictError(f"'{path}' is a namespace that holds other fields")
        for namespace in ancestors(path):
            if namespace in self.attributes:
                raise PathConflictError(f"'{namespace}' is a field, so that '{path}' cannot stand below it")

    def _forget(self, attribute: Attribute, kept: Attribute | None) -> None:
        self.size -= attribute.stored_bytes()
        if isinstance(attribute, ImageSeries):
            self.project.store.channels.pop(attribute.channel_id, None)
        held = set(kept.stored_files()) if kept else set()
        for stored in attribute.stored_files():
            if stored not in held:
                stored.discard()

    def touch(self) -> None:
        """To be called once after every write: moves the times and the size, and tells the search index."""
        self.modified = max(self.project.store.now(), self.modified + 1)
        self.attributes["sys/modification_time"] = Datetime(self.modified)
        self.attributes["sys/size"] = Float(float(self.size))
        self.project.store.index.changed(self)

    def ping(self) -> None:
        now = self.project.store.now()
        if self.last_ping is not None and now - self.last_ping < ALIVE_AFTER_PING_MILLIS:
            monitored = self.attributes["sys/monitoring_time"]
            assert isinstance(monitored, Int)
            seconds = math.floor(now / 1000) - math.floor(self.last_ping / 1000)
            self.attributes["sys/monitoring_time"] = Int(monitored.value + seconds)
        self.last_ping = now
        self.attributes["sys/ping_time"] = Datetime(now)
        self.attributes["sys/running_time"] = Float((now - self.created) / 1000)
        self.project.store.index.changed(self)

    def snapshot(self) -> Container:
        """What a search index keeps of the container."""
        attributes = {path: attribute.frozen() for path, attribute in self.attributes.items()}
        return Container(
            id=self.id,
            sys_id=self.sys_id,
            kind=self.kind,
            project=self.project,
            parent_id=self.parent_id,
            custom_id=self.custom_id,
            trashed=self.trashed,
            attributes=attributes,
            size=self.size,
            created=self.created,
            modified=self.modified,
            last_ping=self.last_ping,
        )


@dataclass
class ArtifactVersion:
    """A list of tracked files, registered in a project under its hash. `files` are the wire's own objects."""

    hash: str
    size: int | None
    files: list[dict[str, Any]] | None = None


@dataclass(eq=False)
class Workspace:
    id: str
    name: str
    created: int


@dataclass(eq=False)
class Project:
    id: str
    name: str
    key: str
    workspace: Workspace
    store: Store
    created: int
    visibility: str = "priv"
    description: str | None = None
    last_viewed: int = 0
    role: str = MANAGER
    """Of the token's user."""
    archived: bool = False
    containers: dict[str, Container] = field(default_factory=dict)
    by_sys_id: dict[str, Container] = field(default_factory=dict)
    by_custom_id: dict[str, Container] = field(default_factory=dict)
    artifacts: dict[str, ArtifactVersion] = field(default_factory=dict)
    run_count: int = 0
    version_counts: Counter[str] = field(default_factory=Counter)

    @property
    def qualified_name(self) -> str:
        return f"{self.workspace.name}/{self.name}"

    def check_writable(self) -> None:
        if self.archived:
            raise ForbiddenError(f"The project '{self.qualified_name}' is archived")
        if self.role == VIEWER:
            raise ForbiddenError(f"A viewer may not write to the project '{self.qualified_name}'")

    def add(self, container: Container) -> None:
        self.containers[container.id] = container
        self.by_sys_id[container.sys_id] = container
        if container.custom_id is not None:
            self.by_custom_id[container.custom_id] = container
        self.store.containers[container.id] = container
        container.touch()

    def drop(self, container: Container) -> None:
        for path in list(container.attributes):
            container.remove(path)
        del self.containers[container.id]
        del self.by_sys_id[container.sys_id]
        if container.custom_id is not None:
            del self.by_custom_id[container.custom_id]
        del self.store.containers[container.id]
        self.store.index.dropped(container)

    def versions_of(self, model: Container) -> list[Container]:
        return [other for other in self.containers.values() if other.parent_id == model.id and other is not model]


class SearchIndex:
    """What searches see: with a lag, each container as it stood that many seconds ago."""

    def __init__(self, store: Store, lag_seconds: float) -> None:
        self._store = store
        self._lag_millis = lag_seconds * 1000
        self._pending: deque[tuple[int, str, Container | None]] = deque()
        self._shown: dict[str, Container] = {}

    def changed(self, container: Container) -> None:
        if self._lag_millis and container.id in self._store.containers:
            self._pending.append((self._store.now(), container.id, container.snapshot()))

    def dropped(self, container: Container) -> None:
        if self._lag_millis:
            self._pending.append((self._store.now(), container.id, None))

    def containers(self, project: Project) -> Iterable[Container]:
        """The project's containers as a search sees them, those in the trash included."""
        if not self._lag_millis:
            return project.containers.values()
        self._show_until(self._store.now() - self._lag_millis)
        return [container for container in self._shown.values() if container.project is project]

    def catch_up(self) -> None:
        """Have searches see all as it is now; what is changed later they see with the lag again."""
        self._show_until(math.inf)

    def _show_until(self, latest: float) -> None:
        while self._pending and self._pending[0][0] <= latest:
            _, identifier, snapshot = self._pending.popleft()
            if snapshot is None:
                self._shown.pop(identifier, None)
            else:
                self._shown[identifier] = snapshot


class Store:
    def __init__(self, folder: Path, owner: str = "tester", index_lag: float = 0.0) -> None:
        self.folder = folder
        self.owner = owner
        self.workspaces: dict[str, Workspace] = {}
        self.projects: dict[str, Project] = {}
        self.containers: dict[str, Container] = {}
        self.channels: dict[str, tuple[Container, str]] = {}
        self.index = SearchIndex(self, index_lag)

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    # -- workspaces and projects --

    def workspace(self, identifier: str) -> Workspace:
        """By name or id."""
        for workspace in self.workspaces.values():
            if identifier in (workspace.name, workspace.id):
                return workspace
        raise NotFoundError(f"There is no workspace '{identifier}'")

    def ensure_workspace(self, name: str) -> Workspace:
        if name not in self.workspaces:
            self.workspaces[name] = Workspace(str(uuid.uuid4()), name, self.now())
        return self.workspaces[name]

    def project(self, identifier: str) -> Project:
        """By id or WORKSPACE/NAME."""
        found = self.projects.get(identifier)
        if found is None:
            found = next((each for each in self.projects.values() if each.qualified_name == identifier), None)
        if found is None:
            raise NotFoundError(f"There is no project '{identifier}'")
        return found

    def create_project(
        self,
        workspace: Workspace,
        name: str,
        key: str | None = None,
        visibility: str = "priv",
        description: str | None = None,
    ) -> Project:
        siblings = [each for each in self.projects.values() if each.workspace is workspace]
        if any(each.name.lower() == name.lower() for each in siblings):
            raise InvalidError(f"{workspace.name} has a project '{name}' already", "ERR_NOT_UNIQUE")
        taken = {each.key for each in siblings}
        if key is None:
            key = free_project_key(name, taken)
        elif not re.fullmatch(r"(?=.*[A-Z])[A-Z0-9]{1,10}", key):
            raise InvalidError(f"'{key}' cannot be the key of a project", "PROJECT_KEY_INVALID")
        elif key in taken:
            raise InvalidError(f"The key '{key}' is taken", "PROJECT_KEY_COLLISION")
        now = self.now()
        project = Project(
            id=str(uuid.uuid4()),
            name=name,
            key=key,
            workspace=workspace,
            store=self,
            created=now,
            visibility=visibility,
            description=description,
            last_viewed=now,
        )
        self.projects[project.id] = project
        container = Container(id=project.id, sys_id=key, kind=PROJECT, project=project, parent_id=project.id)
        container.created = now
        self._add_system_fields(container, {"sys/name": String(name), "sys/visibility": String(visibility)})
        project.add(container)
        return project

    def delete_project(self, project: Project) -> None:
        for container in list(project.containers.values()):
            project.drop(container)
        del self.projects[project.id]

    # -- containers --

    def container(self, identifier: str) -> Container:
        """By id or WORKSPACE/PROJECT/SYS-ID."""
        found = self.containers.get(identifier)
        if found is None and identifier.count("/") == 2:
            project_name, _, sys_id = identifier.rpartition("/")
            try:
                found = self.project(project_name).by_sys_id.get(sys_id)
            except NotFoundError:
                found = None
        if found is None:
            raise NotFoundError(f"There is no object '{identifier}'")
        return found

    def create_run(self, project: Project, custom_id: str | None) -> Container:
        """A custom id that is known gives back the run that carries it."""
        if custom_id is not None and custom_id in project.by_custom_id:
            return project.by_custom_id[custom_id]
        project.run_count += 1
        container = self._new(project, RUN, f"{project.key}-{project.run_count}", project.id, custom_id)
        fields: dict[str, Attribute] = {
            "sys/name": String(container.sys_id),
            "sys/failed": Bool(False),
        }
        if custom_id is not None:
            fields["sys/custom_run_id"] = String(custom_id)
        self._add_system_fields(container, fields)
        project.add(container)
        return container

    def create_model(self, project: Project, key: str) -> Container:
        if not re.fullmatch(r"(?=.*[A-Z])[A-Z0-9]{1,20}", key):
            raise InvalidError(f"'{key}' cannot be the key of a model")
        sys_id = f"{project.key}-{key}"
        if sys_id in project.by_sys_id:
            raise ConflictError(f"The project has a model '{sys_id}' already")
        container = self._new(project, MODEL, sys_id, project.id)
        self._add_system_fields(container, {"sys/name": String("")})
        project.add(container)
        return container

    def create_model_version(self, project: Project, model: Container) -> Container:
        project.version_counts[model.sys_id] += 1
        sys_id = f"{model.sys_id}-{project.version_counts[model.sys_id]}"
        container = self._new(project, MODEL_VERSION, sys_id, model.id)
        fields: dict[str, Attribute] = {
            "sys/name": String(""),
            "sys/model_id": String(model.sys_id),
            "sys/stage": String("none"),
        }
        self._add_system_fields(container, fields)
        project.add(container)
        return container

    def _new(self, project: Project, kind: str, sys_id: str, parent_id: str, custom_id: str | None = None) -> Container:
        return Container(
            id=str(uuid.uuid4()),
            sys_id=sys_id,
            kind=kind,
            project=project,
            parent_id=parent_id,
            custom_id=custom_id,
            created=self.now(),
        )

    def _add_system_fields(self, container: Container, own: dict[str, Attribute]) -> None:
        now = Datetime(container.created)
        fields: dict[str, Attribute] = {
            "sys/id": String(container.sys_id),
            "sys/creation_time": now,
            "sys/modification_time": now,
            "sys/ping_time": now,
            "sys/monitoring_time": Int(0),
            "sys/running_time": Float(0.0),
            "sys/size": Float(0.0),
            "sys/state": container.state(),
            "sys/tags": StringSet(),
            "sys/group_tags": StringSet(is_set=False),
        }
        if container.kind != PROJECT:
            fields["sys/description"] = String("")
            fields["sys/owner"] = String(self.owner)
            fields["sys/trashed"] = Bool(False)
        for path, attribute in {**fields, **own}.items():
            container.put(path, attribute)

    # -- trash --

    def trash(self, container: Container, trashed: bool) -> None:
        """The versions of a model share its fate."""
        group = [container]
        if container.kind == MODEL:
            group += container.project.versions_of(container)
        for each in group:
            each.trashed = trashed
            each.attributes["sys/trashed"] = Bool(trashed)
            each.touch()

    def delete(self, container: Container) -> None:
        if container.kind == MODEL:
            for version in container.project.versions_of(container):
                container.project.drop(version)
        container.project.drop(container)


def free_project_key(name: str, taken: set[str]) -> str:
    letters = re.sub(r"[^A-Z0-9]", "", name.upper())
    stem = (letters if re.search(r"[A-Z]", letters) else "P" + letters)[:3]
    if stem not in taken:
        return stem
    number = 2
    while f"{stem}{number}" in taken:
        number += 1
    return f"{stem}{number}"

"""Small registries for one question each, planted on the server and copied within the tests' own process."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import model_to_run as script
from tests.conftest import renew_token
from tests.neptune_server.process import ServerProcess
from tests.support.comparison import differences
from tests.support.wire import Wire

Attribute = dict[str, Any]


class Planted:
    """The registry of one project."""

    def __init__(self, server: ServerProcess, project: str) -> None:
        self.server = server
        self.project = project
        self.wire = Wire(server)

    def model(self, fields: Mapping[str, Attribute] | None = None, key: str = "FOREST") -> str:
        return self._object(fields, type="model", key=key, parentId="")

    def version(self, model: str, fields: Mapping[str, Attribute] | None = None) -> str:
        return self._object(fields, type="modelVersion", parentId=f"{self.project}/{model}")

    def run(self, fields: Mapping[str, Attribute] | None = None, custom_id: str = "") -> str:
        return self._object(fields, type="run", customId=custom_id)

    def _object(self, fields: Mapping[str, Attribute] | None, **wanted: str) -> str:
        answer = self.wire.post("/api/leaderboard/v1/experiments", {"projectIdentifier": self.project, **wanted})
        answer.raise_for_status()
        sys_id: str = answer.json()["shortId"]
        self.put(sys_id, fields or {})
        return sys_id

    def put(self, sys_id: str, fields: Mapping[str, Attribute]) -> None:
        for path, attribute in fields.items():
            self.server.instruments.set_attribute(self.project, sys_id, path, attribute)

    def state(self) -> dict[str, Any]:
        return self.server.instruments.state(self.project)

    def differences(self) -> list[str]:
        return differences(self.state())

    def runs(self) -> dict[str, dict[str, Any]]:
        """The fields of each run that has a custom run ID, by that."""
        runs = [each["attributes"] for each in self.state()["containers"].values() if each["kind"] == "run"]
        return {fields["sys/custom_run_id"]["value"]: fields for fields in runs if "sys/custom_run_id" in fields}


@contextmanager
def connected(project: str, stopping: threading.Event | None = None) -> Iterator[script.Server]:
    """The script's view of a project's server."""
    shared = script.Shared(stopping=stopping or threading.Event())
    (server,) = script.open_projects(script.sign_in(shared), [project], script.Options())
    yield server


def unasked() -> script.Server:
    """One for tests that ask no server for anything."""
    return script.Server(cast(Any, None), script.Shared(), "acme", "first")


def listed(server: script.Server) -> list[script.Source]:
    return script.read_registry(server, script.Options())


def copy(project: str, workers: int = 2) -> dict[str, script.Outcome]:
    """Copies a registry as a session of the script does; what became of each object, by its ID."""
    options = script.Options(workers=workers)
    with connected(project) as server:
        jobs = [script.Job(server, listed(server))]
        script.prepare_threads(server, workers)
        outcomes = script.migrate(jobs, options, new_folder())
    return {outcome.source.id: outcome for outcome in outcomes}


def to_copy(server: script.Server) -> script.Source:
    """The one object that there is to copy."""
    (source,) = (source for source in listed(server) if source.state != script.UP_TO_DATE)
    return source


def copy_one(server: script.Server, source: script.Source) -> script.Outcome:
    return script.work_on(server, script.Options(), source, new_folder())


def new_folder() -> Path:
    return Path(tempfile.mkdtemp(dir="."))


def copy_whole(planted: Planted, before: dict[str, Any] | None = None) -> None:
    """Copies a registry, of which every field has to arrive as it is. What was in complete copies `before` stays."""
    outcomes = copy(planted.project)
    assert {sys_id: (each.failures, each.skipped) for sys_id, each in outcomes.items()} == dict.fromkeys(
        outcomes, ([], [])
    )
    assert differences(planted.state(), before=before) == []


# -- fields, as the server's instruments take them --


def value(type_name: str, content: Any) -> Attribute:
    return {"type": type_name, "value": content}


def points(type_name: str, entries: list[list[Any]]) -> Attribute:
    return {"type": type_name, "points": entries}


def expire_tokens(server: ServerProcess) -> None:
    """Has the server refuse what a killed script may have under way. The client in this process renews its token."""
    server.instruments.expire_tokens()
    renew_token()

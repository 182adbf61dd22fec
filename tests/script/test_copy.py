"""Registries with every type of field and hard values, copied by the script and compared whole."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from neptune import management

from tests.neptune_server.process import ServerProcess
from tests.support import strategies
from tests.support.comparison import differences
from tests.support.planted import Planted, value
from tests.support.registry import (
    UNREADABLE,
    Attribute,
    fill_hard,
    fill_too_large,
    fill_unreadable,
    filling,
)
from tests.support.script import run_script
from tests.tools.torture import Play

WITHIN_A_MINUTE = 60_000


def new_project(server: ServerProcess) -> str:
    name = f"acme/copy-{uuid.uuid4().hex[:12]}"
    server.instruments.create_project(name)
    return name


def runs_of(state: dict[str, Any]) -> list[str]:
    return [sys_id for sys_id, container in state["containers"].items() if container["kind"] == "run"]


@pytest.fixture(scope="module")
def hard_registry(server: ServerProcess) -> str:
    """A project that is filled once, and emptied of runs after each test."""
    name = new_project(server)
    fill_hard(server, name)
    return name


@pytest.fixture
def hard_project(server: ServerProcess, hard_registry: str) -> Iterator[str]:
    yield hard_registry
    made = runs_of(server.instruments.state(hard_registry))
    if made:
        management.trash_objects(hard_registry, made)
        management.delete_objects_from_trash(hard_registry, made)


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Warsaw", "Asia/Kathmandu"])
@pytest.mark.parametrize("workers", [1, 16])
def test_a_hard_registry_arrives_exactly(
    server: ServerProcess, hard_project: str, tmp_path: Path, timezone: str, workers: int
) -> None:
    before = server.instruments.state(hard_project)
    ended = run_script(server, "--project", hard_project, "--workers", str(workers), cwd=tmp_path, timezone=timezone)
    after = server.instruments.state(hard_project)
    assert ended.status == 0, ended.output
    assert differences(after) == []
    assert fields_of_sources(after) == fields_of_sources(before)


def fields_of_sources(state: dict[str, Any]) -> dict[tuple[str, str], Attribute]:
    """All fields of all models and versions but their state, which time changes."""
    return {
        (sys_id, path): attribute
        for sys_id, container in state["containers"].items()
        if container["kind"] in ("model", "modelVersion")
        for path, attribute in container["attributes"].items()
        if path != "sys/state"
    }


def test_what_cannot_be_read_is_named(server: ServerProcess, tmp_path: Path) -> None:
    project = new_project(server)
    fill_unreadable(server, project)
    ended = run_script(server, "--project", project, cwd=tmp_path)
    assert ended.status == 0, ended.output
    assert differences(server.instruments.state(project)) == []
    (row,) = (row for row in ended.report if row["kind"] == "model_version")
    for path in UNREADABLE:
        assert path in row["error"]
        assert path in ended.log
        assert path in ended.output


def test_a_field_that_the_server_refuses_is_named_and_stops_no_other(server: ServerProcess, tmp_path: Path) -> None:
    project = new_project(server)
    refused = fill_too_large(server, project)
    ended = run_script(server, "--project", project, cwd=tmp_path)
    assert ended.status == 1, ended.output
    assert {row["source ID"] for row in ended.report if row["status"] == "failed"} == refused.keys()
    for source_id, path in refused.items():
        assert path in ended.row(source_id)["error"]
        assert f"{source_id}: failed: {path}: " in ended.log
        assert f"{source_id}  {path}: " in ended.output
    missing = {words.rsplit(": ", 1)[0] for words in differences(server.instruments.state(project))}
    marks = {f"{source_id}: {path}" for source_id in refused for path in ("old_sys/verified", "sys/tags")}
    assert missing == {f"{source_id}: {path}" for source_id, path in refused.items()} | marks


def test_more_fields_than_a_request_takes_arrive_and_leave(server: ServerProcess, tmp_path: Path) -> None:
    project = new_project(server)
    registry = Planted(server, project)
    model = registry.model({f"field/{number}": value("int", number) for number in range(2_500)})
    assert Play(registry, tmp_path).end().status == 0
    assert differences(server.instruments.state(project)) == []
    container = registry.state()["containers"][model]["id"]
    for first in (0, 1_000):
        gone = [{"path": f"field/{number}", "deleteAttribute": {}} for number in range(first, first + 1_000)]
        assert registry.wire.execute(container, *gone) == []
    assert Play(registry, tmp_path, "--recopy").end().status == 0
    assert differences(server.instruments.state(project)) == []


@given(st.lists(strategies.objects(), min_size=10, max_size=20))
@settings(
    max_examples=4,
    deadline=WITHIN_A_MINUTE,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_generated_objects_arrive_exactly(
    server: ServerProcess, tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, Attribute]]
) -> None:
    project = new_project(server)
    with filling(server, project) as registry, registry.model("GENERATED") as model:
        registry.plant(model, objects[0])
        for fields in objects[1:]:
            with registry.version(model) as version:
                registry.plant(version, fields)
    ended = Play(Planted(server, project), tmp_path_factory.mktemp("generated")).end()
    assert ended.status == 0, ended.output
    assert differences(server.instruments.state(project)) == []

"""Servers that speak the protocol and differ in something: what they ignore, and what their answers lack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.neptune_server.process import Instruments, ServerProcess
from tests.support.wire import ATTRIBUTES, Wire

EXPERIMENTS = "/api/leaderboard/v1/experiments"
PROJECTS = "/api/backend/v1/projects"
SEARCH = "/api/leaderboard/v1/leaderboard/entries/search"


class Registry:
    """Models A, B and C, of which B is in the trash, and a run."""

    def __init__(self, server: ServerProcess, project: str) -> None:
        self.wire, self.project = Wire(server), project
        made = [self._create(type="model", key=key, parentId="") for key in "ABC"]
        self.run = self._create(type="run")
        self.wire.post(f"{EXPERIMENTS}/trash", [made[1]["id"]], projectIdentifier=project).raise_for_status()

    def _create(self, **wanted: str) -> dict[str, Any]:
        created: dict[str, Any] = self.wire.post(EXPERIMENTS, {"projectIdentifier": self.project, **wanted}).json()
        return created

    def table(self, query: str = "", **body: Any) -> dict[str, Any]:
        wanted = {"query": {"query": query}, "attributeFilters": [{"path": "sys/id"}, {"path": "sys/trashed"}], **body}
        answer = self.wire.post(SEARCH, wanted, projectIdentifier=self.project, type="model")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def keys(self, query: str = "", **body: Any) -> str:
        rows = [entry["attributes"][0]["stringProperties"]["value"] for entry in self.table(query, **body)["entries"]]
        return "".join(row.rpartition("-")[2] for row in rows)


@pytest.fixture
def instruments(server: ServerProcess, project: str) -> Iterator[Instruments]:
    yield server.instruments
    server.instruments.clear_faults()


@pytest.fixture
def registry(server: ServerProcess, project: str) -> Registry:
    return Registry(server, project)


# -- tables --

QUERIES = {"(sys/trashed:bool = false)": "AC", "(sys/trashed:bool = true)": "B", "(sys/name:string = none)": ""}


def test_tables_answer_queries_by_themselves(registry: Registry) -> None:
    assert {query: registry.keys(query) for query in QUERIES} == QUERIES


def test_tables_that_ignore_queries_list_all_of_a_type() -> None:
    with ServerProcess("--ignore-queries", "--project", "acme/deaf") as server:
        registry = Registry(server, "acme/deaf")
        assert {query: registry.keys(query) for query in [*QUERIES, "(no query"]} == dict.fromkeys(
            [*QUERIES, "(no query"], "ABC"
        )
        assert registry.table("(sys/trashed:bool = false)")["matchingItemCount"] == 3
        by_id = {"dir": "descending", "sortBy": {"name": "sys/id", "type": "string"}}
        assert registry.keys(sorting=by_id, pagination={"offset": 1, "limit": 1}) == "B"


def test_rows_may_have_their_fields_by_path(registry: Registry) -> None:
    rows = registry.table()["entries"]
    with ServerProcess("--attributes-by-path", "--project", "acme/other") as server:
        others = Registry(server, "acme/other").table()["entries"]
    assert all(list(row["attributes"]) == ["sys/id", "sys/trashed"] for row in others)
    assert [row["attributes"]["sys/trashed"] for row in others] == [row["attributes"][1] for row in rows]


# -- answers that lack a part --


def test_a_part_is_missing_at_the_top(instruments: Instruments, registry: Registry) -> None:
    whole = registry.table()
    instruments.leave_out("searchLeaderboardEntries", "matchingItemCount")
    lacking = registry.table()
    assert "matchingItemCount" in whole
    assert lacking == {key: value for key, value in whole.items() if key != "matchingItemCount"}


def test_a_part_is_missing_in_each_field_of_an_object(instruments: Instruments, registry: Registry) -> None:
    whole = registry.wire.attributes(registry.run["id"])
    instruments.leave_out("getExperimentAttributes", "attributes.type")
    lacking = registry.wire.attributes(registry.run["id"])
    assert all("type" in field for field in whole.values())
    assert lacking == {
        path: {key: value for key, value in field.items() if key != "type"} for path, field in whole.items()
    }


def test_a_part_is_missing_in_each_field_of_a_table(instruments: Instruments, registry: Registry) -> None:
    instruments.leave_out("searchLeaderboardEntries", "entries.attributes.stringProperties")
    for row in registry.table()["entries"]:
        assert [sorted(field) for field in row["attributes"]] == [["name", "type"], ["boolProperties", "name", "type"]]


def test_a_part_is_missing_below_any_key(instruments: Instruments, registry: Registry) -> None:
    instruments.leave_out("getExperimentAttributes", "attributes.*.attributeType")
    fields = registry.wire.attributes(registry.run["id"])
    assert fields["sys/id"]["stringProperties"].keys() == {"attributeName", "value"}


def test_a_part_is_missing_in_each_item_of_a_list(instruments: Instruments, registry: Registry) -> None:
    operation = {"path": "sys/id", "assignString": {"value": "x"}}
    instruments.leave_out("executeOperations", "errorType")
    answer = registry.wire.post(f"{ATTRIBUTES}/operations", [operation], experimentId=registry.run["id"])
    assert [sorted(error) for error in answer.json()] == [["errorDescription"]]


def test_several_parts_are_missing(instruments: Instruments, registry: Registry) -> None:
    instruments.leave_out("listProjects", "entries.userRoleInProject")
    instruments.leave_out("listProjects", "entries.archived")
    entries = registry.wire.get(PROJECTS).json()["entries"]
    assert entries
    assert not any({"userRoleInProject", "archived"} & set(entry) for entry in entries)


def test_other_operations_are_whole_and_all_are_when_faults_are_cleared(
    instruments: Instruments, registry: Registry
) -> None:
    instruments.leave_out("searchLeaderboardEntries", "entries")
    assert "entries" not in registry.table()
    assert "entries" in registry.wire.get(PROJECTS).json()
    instruments.clear_faults()
    assert "entries" in registry.table()


def test_what_the_server_holds_stays_whole(instruments: Instruments, registry: Registry) -> None:
    git = {"type": "gitRef", "commit": {"commitId": "f00"}, "repositoryDirty": False}
    instruments.set_attribute(registry.project, registry.run["shortId"], "git", git)
    before = instruments.state(registry.project)
    instruments.leave_out("getExperimentAttributes", "attributes.gitRefProperties.commit.commitId")
    field = registry.wire.attributes(registry.run["id"])["git"]
    assert field["gitRefProperties"]["commit"] == {}
    assert instruments.state(registry.project) == before


def test_there_is_no_part_of_an_operation_that_does_not_exist(instruments: Instruments) -> None:
    with pytest.raises(RuntimeError):
        instruments.leave_out("makeCoffee", "sugar")

"""Tables: asked directly, and through the client's own table functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import neptune
import pytest
from neptune import management
from neptune.api.searching_entries import iter_over_pages
from neptune.exceptions import NeptuneInvalidQueryException

from tests.neptune_server.attributes import Attribute, Bool, Datetime, Float, FloatSeries, Int, String, StringSeries
from tests.neptune_server.nql import NqlSyntaxError
from tests.neptune_server.search import search_attributes, search_entries
from tests.neptune_server.store import Container, InvalidError, Project, Store

Rows = list[str]


class Desk:
    """A store with one project, whose clock stands still until it is told to move."""

    def __init__(self, folder: Path, index_lag: float = 0.0) -> None:
        self.clock = 1_700_000_000_000
        self.store = Store(folder, index_lag=index_lag)
        self.store.now = lambda: self.clock  # type: ignore[method-assign]
        workspace = self.store.ensure_workspace("acme")
        self.project: Project = self.store.create_project(workspace, "credit-risk", key="CR")

    def run(self, name: str, **fields: Attribute) -> Container:
        run = self.store.create_run(self.project, name)
        for path, attribute in fields.items():
            run.put(path, attribute)
        run.touch()
        return run

    def search(self, types: list[str] | None = None, **body: Any) -> dict[str, Any]:
        return search_entries(self.store, self.project, body, types)

    def found(self, query: str = "", **body: Any) -> Rows:
        return names(self.search(query={"query": query}, **body))

    def columns(self, *arguments: Any, **more: Any) -> list[tuple[str, str]]:
        found = search_attributes(self.store, self.project, *arguments, **more)
        return [(entry["name"], entry["type"]) for entry in found["entries"]]


def names(result: dict[str, Any]) -> Rows:
    return [properties(entry, "sys/custom_run_id")["value"] for entry in result["entries"]]


def properties(entry: dict[str, Any], path: str) -> dict[str, Any]:
    attribute = next(each for each in entry["attributes"] if each["name"] == path)
    return attribute[f"{attribute['type']}Properties"]


def by(name: str, type_name: str, direction: str = "ascending", **more: str) -> dict[str, Any]:
    field = {"name": name, "type": type_name, **more}
    return {"sorting": {"dir": direction, "aggregationMode": "none", "sortBy": field}}


def page(offset: int, limit: int) -> dict[str, Any]:
    return {"pagination": {"offset": offset, "limit": limit}}


def a_series(*values: float) -> FloatSeries:
    series = FloatSeries()
    for step, value in enumerate(values):
        series.append(step, 0, value)
    return series


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_pages_follow_each_other_and_say_how_many_match(desk: Desk) -> None:
    for number in range(7):
        desk.run(f"r{number}", x=Int(number))
    order = by("x", "int")
    assert desk.found(**order, **page(0, 3)) == ["r0", "r1", "r2"]
    assert desk.found(**order, **page(3, 3)) == ["r3", "r4", "r5"]
    assert desk.found(**order, **page(6, 3)) == ["r6"]
    assert desk.found(**order, **page(9, 3)) == []
    assert desk.search(**page(6, 3))["matchingItemCount"] == 7


def test_a_limit_of_zero_asks_for_the_number_alone(desk: Desk) -> None:
    desk.run("r")
    assert desk.search(**page(0, 0)) == {"matchingItemCount": 1, "entries": []}


@pytest.mark.parametrize(("offset", "limit"), [(10_000, 1), (9_950, 51), (0, 10_001), (-1, 5), (0, -1)])
def test_pages_that_are_refused(desk: Desk, offset: int, limit: int) -> None:
    with pytest.raises(InvalidError):
        desk.search(**page(offset, limit))


def test_the_last_page_of_the_window(desk: Desk) -> None:
    assert desk.found(**page(9_950, 50)) == []


def test_both_directions_leave_those_without_a_value_to_the_end(desk: Desk) -> None:
    desk.run("none")
    desk.run("nan", x=Float(math.nan))
    desk.run("high", x=Float(2.5))
    desk.run("low", x=Float(-1))
    assert desk.found(**by("x", "float")) == ["low", "high", "none", "nan"]
    assert desk.found(**by("x", "float", "descending")) == ["high", "low", "none", "nan"]


def test_equal_values_keep_the_order_of_creation(desk: Desk) -> None:
    for name in ("a", "b", "c"):
        desk.run(name, x=Int(1))
    assert desk.found(**by("x", "int")) == ["a", "b", "c"]
    assert desk.found(**by("x", "int", "descending")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("type_name", "values"),
    [
        ("string", [String("B"), String("a"), String("a2"), String("é")]),
        ("datetime", [Datetime(5), Datetime(70), Datetime(1_000)]),
        ("bool", [Bool(False), Bool(True)]),
        ("int", [Int(-3), Int(4), Int(30)]),
        ("float", [Float(-0.5), Int(0), Float(0.5), Int(1)]),
    ],
)
def test_the_order_of_values(desk: Desk, type_name: str, values: list[Attribute]) -> None:
    for number, value in reversed(list(enumerate(values))):
        desk.run(f"r{number}", x=value)
    assert desk.found(**by("x", type_name)) == [f"r{number}" for number in range(len(values))]


def test_a_column_sorted_as_another_type_has_no_values(desk: Desk) -> None:
    desk.run("first", x=Int(9))
    desk.run("second", x=Int(1))
    desk.run("third", x=String("0"))
    assert desk.found(**by("x", "string")) == ["third", "first", "second"]


def test_series_are_sorted_by_their_last_value_or_another_that_is_named(desk: Desk) -> None:
    desk.run("a", x=a_series(0, 5))
    desk.run("b", x=a_series(9, 1))
    desk.run("empty", x=FloatSeries())
    assert desk.found(**by("x", "floatSeries")) == ["b", "a", "empty"]
    assert desk.found(**by("x", "floatSeries", aggregationMode="min")) == ["a", "b", "empty"]
    text = StringSeries()
    text.append(0, 0, "only")
    desk.run("text", y=text)
    assert desk.found(**by("y", "stringSeries"))[0] == "text"


@pytest.mark.parametrize("type_name", ["stringSet", "file", "fileSet", "imageSeries", "gitRef"])
def test_types_without_an_order(desk: Desk, type_name: str) -> None:
    with pytest.raises(InvalidError):
        desk.search(**by("x", type_name))


def test_only_the_columns_that_are_asked_for(desk: Desk) -> None:
    desk.run("r", x=Int(1), y=Int(2))
    wanted = [{"path": "y"}, {"path": "sys/id"}, {"path": "y"}, {"path": "missing"}]
    (entry,) = desk.search(attributeFilters=wanted)["entries"]
    assert [attribute["name"] for attribute in entry["attributes"]] == ["y", "sys/id"]
    assert properties(entry, "y") == {"attributeName": "y", "attributeType": "int", "value": 2}


def test_without_a_filter_there_are_all_columns(desk: Desk) -> None:
    run = desk.run("r", x=Int(1))
    (entry,) = desk.search()["entries"]
    assert {attribute["name"] for attribute in entry["attributes"]} == set(run.attributes)
    assert entry["experimentId"] == run.id
    assert entry["type"] == "run"
    assert (entry["organizationName"], entry["projectName"]) == ("acme", "credit-risk")


def test_objects_of_the_types_that_are_asked_for(desk: Desk) -> None:
    desk.run("r")
    model = desk.store.create_model(desk.project, "TREE")
    desk.store.create_model_version(desk.project, model)

    def ids(types: list[str] | None) -> Rows:
        return [properties(entry, "sys/id")["value"] for entry in desk.search(types)["entries"]]

    assert ids(None) == ["CR-1"]
    assert ids(["run"]) == ["CR-1"]
    assert ids(["model"]) == ["CR-TREE"]
    assert ids(["modelVersion", "model"]) == ["CR-TREE", "CR-TREE-1"]
    with pytest.raises(InvalidError):
        ids(["runs"])


def test_what_is_in_the_trash_is_found_like_the_rest(desk: Desk) -> None:
    desk.run("kept")
    desk.store.trash(desk.run("thrown"), trashed=True)
    assert desk.found() == ["kept", "thrown"]
    assert desk.found("(`sys/trashed`:bool = true)") == ["thrown"]
    assert desk.found("sys/custom_run_id = kept OR (sys/custom_run_id = thrown AND sys/trashed:bool = false)") == [
        "kept"
    ]


def test_a_query_that_cannot_be_read(desk: Desk) -> None:
    with pytest.raises(NqlSyntaxError):
        desk.found("key: float = (-_-)")


def test_a_search_sees_what_stood_a_while_ago(tmp_path: Path) -> None:
    desk = Desk(tmp_path, index_lag=2.0)
    run = desk.run("r", x=Int(1))
    assert desk.found() == []
    desk.clock += 2_000
    run.put("x", Int(5))
    run.touch()
    assert desk.found("x:integer = 1") == ["r"]
    assert desk.columns("^x$", ["run"]) == [("x", "int")]
    desk.clock += 2_000
    assert desk.found("x:integer = 5") == ["r"]


def test_columns_by_regular_expression(desk: Desk) -> None:
    desk.run("a", loss=Float(1))
    desk.run("b", loss=Int(1), train_loss=a_series(1))
    desk.store.create_model(desk.project, "TREE").put("loss/model", Bool(True))
    assert desk.columns("loss", ["run"]) == [("loss", "float"), ("loss", "int"), ("train_loss", "floatSeries")]
    assert desk.columns("^loss$", ["run"]) == [("loss", "float"), ("loss", "int")]
    assert desk.columns("loss", ["model"]) == [("loss/model", "bool")]
    assert desk.columns("loss", ["run"], attribute_types=["int"]) == [("loss", "int")]
    assert desk.columns("loss", ["run"], limit=1) == [("loss", "float")]
    assert desk.columns("nothing", ["run"]) == []
    assert ("sys/id", "string") in desk.columns(None, None)


@pytest.mark.parametrize("wrong", [{"search": "("}, {"search": "x", "limit": -1}])
def test_columns_that_cannot_be_looked_for(desk: Desk, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        desk.columns(types=["run"], **wrong)


# -- through the client --


@pytest.fixture
def opened(project: str) -> Iterator[neptune.Project]:
    with neptune.init_project(project, mode="read-only") as container:
        yield container


def log_run(name: str, tags: Sequence[str] = (), **fields: Any) -> str:
    """Gives back the run's ID; double underscores in names of fields stand for slashes."""
    with neptune.init_run(
        custom_run_id=name,
        tags=list(tags),
        mode="sync",
        capture_stdout=False,
        capture_stderr=False,
        capture_hardware_metrics=False,
        capture_traceback=False,
        git_ref=False,
        source_files=[],
    ) as run:
        for path, value in fields.items():
            run[path.replace("__", "/")] = value
        identifier: str = run["sys/id"].fetch()
        return identifier


@contextmanager
def small_windows(monkeypatch: pytest.MonkeyPatch, size: int) -> Iterator[None]:
    """The client asks for pages up to an offset, then goes on by a query for what comes behind the last row."""
    with monkeypatch.context() as patch:
        patch.setitem(iter_over_pages.__kwdefaults__, "max_offset", size)
        yield


def column(table: Any, path: str = "sys/custom_run_id") -> list[Any]:
    return [row.get_attribute_value(path) for row in table]


def test_the_client_reads_rows_of_every_simple_type(opened: neptune.Project) -> None:
    when = datetime(2024, 10, 27, 0, 30, 0, 250_000, tzinfo=timezone.utc)
    log_run("a", i=7, f=0.1, s="text", b=True, d=when, deep__er=1)
    (row,) = opened.fetch_runs_table(progress_bar=False)
    assert [row.get_attribute_value(path) for path in ("i", "f", "s", "b", "deep/er")] == [7, 0.1, "text", True, 1]
    assert row.get_attribute_value("d") == when.replace(tzinfo=None)
    assert row.get_attribute_value("sys/tags") == set()
    assert row.get_attribute_value("sys/state") in ("Active", "Inactive")


def test_the_client_reads_series_by_their_last_value(opened: neptune.Project) -> None:
    with neptune.init_run(mode="sync", git_ref=False, source_files=[], capture_hardware_metrics=False) as run:
        run["loss"].extend([3.0, 2.0])
        run["log"].extend(["begin", "end"])
    (row,) = opened.fetch_runs_table(columns=["loss", "log"], progress_bar=False)
    assert (row.get_attribute_value("loss"), row.get_attribute_value("log")) == (2.0, "end")


def test_the_newest_run_comes_first_unless_told_otherwise(opened: neptune.Project) -> None:
    for name in ("a", "b", "c"):
        log_run(name)
    assert column(opened.fetch_runs_table(progress_bar=False)) == ["c", "b", "a"]
    assert column(opened.fetch_runs_table(ascending=True, progress_bar=False)) == ["a", "b", "c"]
    assert column(opened.fetch_runs_table(limit=2, progress_bar=False)) == ["c", "b"]


@pytest.mark.parametrize(
    ("sort_by", "values"),
    [("x/f", [0.5, -2.0, 1.5]), ("x/i", [3, -1, 20]), ("x/s", ["b", "a", "c"]), ("x/mixed", [1, 0.5, 2])],
)
def test_the_client_sorts_by_a_column(opened: neptune.Project, sort_by: str, values: list[Any]) -> None:
    for name, value in zip(("mid", "low", "high"), values):
        log_run(name, **{sort_by: value})
    log_run("without")
    table = opened.fetch_runs_table(sort_by=sort_by, ascending=True, columns=["sys/custom_run_id"], progress_bar=False)
    assert column(table) == ["low", "mid", "high", "without"]
    table = opened.fetch_runs_table(sort_by=sort_by, columns=["sys/custom_run_id"], progress_bar=False)
    assert column(table) == ["high", "mid", "low", "without"]


def test_the_client_cannot_sort_by_a_column_that_is_nowhere(opened: neptune.Project) -> None:
    log_run("a")
    with pytest.raises(ValueError, match="not present"):
        opened.fetch_runs_table(sort_by="nowhere", progress_bar=False)


def test_the_clients_own_filters(opened: neptune.Project) -> None:
    first = log_run("first", tags=["x", "y z"])
    log_run("second", tags=["x"])
    third = log_run("third")

    def found(**filters: Any) -> set[str]:
        return set(column(opened.fetch_runs_table(**filters, progress_bar=False)))

    assert found(id=[first, third]) == {"first", "third"}
    assert found(tag="x") == {"first", "second"}
    assert found(tag=["x", "y z"]) == {"first"}
    owner = next(iter(opened.fetch_runs_table())).get_attribute_value("sys/owner")
    assert len(found(owner=owner)) == 3
    assert found(owner="nobody") == set()
    assert len(found(state="active") | found(state="inactive")) == 3
    assert not found(state="active") & found(state="inactive")


def test_the_client_tells_what_is_in_the_trash(project: str, opened: neptune.Project) -> None:
    log_run("kept")
    management.trash_objects(project, log_run("thrown"))
    assert column(opened.fetch_runs_table()) == ["kept"]
    assert column(opened.fetch_runs_table(trashed=True)) == ["thrown"]
    assert set(column(opened.fetch_runs_table(trashed=None))) == {"kept", "thrown"}
    assert column(opened.fetch_runs_table(query="sys/custom_run_id = thrown")) == []
    assert column(opened.fetch_runs_table(query="sys/custom_run_id = thrown", trashed=None)) == ["thrown"]


def test_queries_that_people_type(opened: neptune.Project) -> None:
    log_run("a", accuracy=0.9, loss=0.1, backbone="VGG")
    log_run("b", accuracy=0.8, loss=0.3, backbone="ResNet 50")

    def found(query: str) -> set[str]:
        return set(column(opened.fetch_runs_table(query=query, progress_bar=False)))

    assert found("(accuracy: float > 0.88) AND (loss: float < 0.2)") == {"a"}
    assert found("(backbone: string = VGG)") == {"a"}
    assert found('`backbone`:string CONTAINS "Net" or accuracy:float >= 0.9') == {"a", "b"}
    assert found('NOT (backbone:string MATCHES "^V")') == {"b"}
    assert found('sys/creation_time:datetime > "-1h"') == {"a", "b"}


def test_the_client_knows_a_syntax_error(opened: neptune.Project) -> None:
    log_run("a")
    with pytest.raises(NeptuneInvalidQueryException, match="-_-"):
        next(opened.fetch_runs_table(query="key: float = (-_-)", progress_bar=False))


def test_tables_of_models_and_of_their_versions(project: str, opened: neptune.Project) -> None:
    for key in ("TREE", "NET"):
        with neptune.init_model(key=key, mode="sync") as model:
            model_id = model["sys/id"].fetch()
            model["backbone"] = key
        for stage in ("staging", "none"):
            with neptune.init_model_version(model=model_id, mode="sync") as version:
                version.change_stage(stage)
    models = opened.fetch_models_table(query="(backbone: string = NET)", progress_bar=False)
    assert column(models, "sys/id") == [model_id]
    with neptune.init_model(with_id=model_id, mode="read-only") as model:
        versions = list(model.fetch_model_versions_table(ascending=True, progress_bar=False))
        staging = model.fetch_model_versions_table(query='`sys/stage`:string = "staging"', progress_bar=False)
        assert column(versions, "sys/id") == [f"{model_id}-1", f"{model_id}-2"]
        assert column(versions, "sys/stage") == ["staging", "none"]
        assert column(staging, "sys/id") == [f"{model_id}-1"]


def test_windows_follow_each_other_in_ascending_order(opened: neptune.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [log_run(f"r{number}") for number in range(5)]
    monkeypatch.setenv("NEPTUNE_FETCH_TABLE_STEP_SIZE", "2")
    with small_windows(monkeypatch, 3):
        for sort_by in ("sys/id", "sys/creation_time"):
            table = opened.fetch_runs_table(sort_by=sort_by, ascending=True, columns=[], progress_bar=False)
            assert column(table, "sys/id") == ids


def test_a_column_whose_name_holds_another_makes_the_client_sort_that_one_as_text(
    opened: neptune.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a sort by time is none, and what lies behind the first window is lost; a sort by ID is not concerned."""
    now = datetime.now(timezone.utc)
    ids = [log_run(f"r{number}", old_sys__creation_time=now) for number in range(5)]
    with small_windows(monkeypatch, 3):
        table = opened.fetch_runs_table(ascending=True, progress_bar=False)
        assert column(table, "sys/id") == ids[:3]
        table = opened.fetch_runs_table(sort_by="sys/id", ascending=True, progress_bar=False)
        assert column(table, "sys/id") == ids

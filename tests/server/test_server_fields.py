"""Fields that hold values: every type, its limits, and what happens where two writes do not go together."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import neptune
import pytest
from neptune.exceptions import FetchAttributeNotFoundException, MetadataInconsistency

from tests.neptune_server.process import ServerProcess
from tests.server.test_server_objects import open_run
from tests.support.wire import ATTRIBUTES, Wire

POINTS = [[-2.5, 1_000, 0.5], [0.0, 2_000, 1.5], [0.25, 2_001, -3.0], [10.0, 999, 2.0]]


def attribute(server: ServerProcess, project: str, run: neptune.Run, path: str) -> dict[str, Any]:
    containers = server.instruments.state(project)["containers"]
    found: dict[str, Any] = containers[run["sys/id"].fetch()]["attributes"][path]
    return found


def log_floats(path: str, points: list[list[Any]]) -> dict[str, Any]:
    entries = [{"step": step, "timestampMilliseconds": time, "value": value} for step, time, value in points]
    return {"path": path, "logFloats": {"entries": entries}}


SIMPLE_VALUES = {
    "zero": 0,
    "least integer": -(2**31),
    "greatest integer": 2**31 - 1,
    "no binary fraction": 0.1,
    "denormal": -5e-324,
    "greatest float": 1.7976931348623157e308,
    "true": True,
    "false": False,
    "empty": "",
    "odd letters": "zażółć \U0001f600\n\t\x00",
    "longest": "x" * 16_384,
}


@pytest.mark.parametrize("value", SIMPLE_VALUES.values(), ids=SIMPLE_VALUES.keys())
def test_a_simple_value_comes_back_as_it_was(project: str, value: Any) -> None:
    with open_run() as run:
        run["deep/down/here"] = value
        fetched = run["deep/down/here"].fetch()
        assert type(fetched) is type(value)
        assert fetched == value
        assert run.fetch()["deep"]["down"]["here"] == value


@pytest.mark.parametrize("year", [1, 1969, 1970, 2024, 9998])
def test_an_instant_comes_back_to_the_millisecond(server: ServerProcess, project: str, year: int) -> None:
    moment = datetime(year, 10, 27, 2, 30, 0, 123_000, tzinfo=timezone.utc)
    millis = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(milliseconds=1)
    with open_run() as run:
        operation = {"path": "when", "assignDatetime": {"valueMilliseconds": millis}}
        wire = Wire(server)
        assert wire.execute(run._id, operation) == []
        answer = wire.get(f"{ATTRIBUTES}/datetimes", experimentId=run._id, attribute="when").json()
        assert answer["value"] == moment.strftime("%m-%dT%H:%M:%S.123Z").join((f"{year:04}-", ""))
        assert attribute(server, project, run, "when")["value"] == millis


def test_what_is_too_long_or_too_large_is_refused(server: ServerProcess, project: str) -> None:
    wire = Wire(server)
    with open_run() as run:
        assert wire.execute(run._id, {"path": "text", "assignString": {"value": "x" * 16_385}})
        entry = {"value": "x" * 1_001, "timestampMilliseconds": 0}
        assert wire.execute(run._id, {"path": "line", "logStrings": {"entries": [entry]}})
        contents: list[dict[str, Any]] = [{"value": 2**31}, {"value": 1.5}, {"value": True}, {}]
        for content in contents:
            body = [{"path": "number", "assignInt": content}]
            assert wire.post(f"{ATTRIBUTES}/operations", body, experimentId=run._id).status_code == 400
        run.sync()
        assert not run.exists("number")


def test_a_request_with_one_malformed_operation_does_nothing(server: ServerProcess, project: str) -> None:
    wire = Wire(server)
    good = {"path": "a", "assignInt": {"value": 1}}
    with open_run() as run:
        for bad in ({"path": "b"}, {"path": "b", "unheardOf": {}}, {"assignInt": {"value": 1}}, "text"):
            assert wire.post(f"{ATTRIBUTES}/operations", [good, bad], experimentId=run._id).status_code == 400
        assert "a" not in wire.attributes(run._id)


def test_a_field_keeps_its_type(project: str) -> None:
    with open_run() as first, open_run(with_id=first["sys/id"].fetch()) as second:
        first["field"] = 1
        with pytest.raises(MetadataInconsistency):
            second["field"] = "text"
        assert first["field"].fetch() == 1


def test_each_operation_fails_on_its_own(server: ServerProcess, project: str) -> None:
    operations = [
        {"path": "a", "assignInt": {"value": 1}},
        {"path": "a", "assignString": {"value": "text"}},
        {"path": "sys/id", "assignString": {"value": "X"}},
        {"path": "b", "assignInt": {"value": 2}},
    ]
    with open_run() as run:
        assert len(Wire(server).execute(run._id, *operations)) == 2
        run.sync()
        assert (run["a"].fetch(), run["b"].fetch()) == (1, 2)


def test_a_field_is_no_namespace_and_a_namespace_no_field(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["a/b/c"] = 1
        wire = Wire(server)
        for path in ("a", "a/b", "a/b/c/d"):
            assert wire.execute(run._id, {"path": path, "assignInt": {"value": 1}})
        assert wire.execute(run._id, {"path": "a/b/c", "deleteAttribute": {}}) == []
        assert wire.execute(run._id, {"path": "a/b", "assignInt": {"value": 1}}) == []


def test_deleted_fields_are_gone_and_may_have_another_type(project: str) -> None:
    with open_run() as run:
        run["field"] = 1
        del run["field"]
        run.sync()
        assert not run.exists("field")
        run["field"] = "text"
        assert run["field"].fetch() == "text"


def test_deleting_what_is_not_there_is_no_error(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        assert Wire(server).execute(run._id, {"path": "nowhere", "deleteAttribute": {}}) == []


def test_reading_what_is_not_there_is_not_found(server: ServerProcess, project: str) -> None:
    wire = Wire(server)
    with open_run() as run:
        run["number"] = 1
        for kind, path in (("integers", "other"), ("floats", "number"), ("series/float", "number")):
            answer = wire.get(f"{ATTRIBUTES}/{kind}", experimentId=run._id, attribute=path)
            assert answer.status_code == 404
            assert "errorType" not in answer.json()


@pytest.mark.parametrize("value", [5, 2.5, True, "text", datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone.utc)], ids=str)
def test_values_are_copied_from_one_object_to_another(project: str, value: Any) -> None:
    with open_run() as source, open_run() as target:
        source["from/here"] = value
        target["to/there"] = source["from/here"]
        assert target["to/there"].fetch() == value


# -- series --


def test_points_keep_value_step_and_time(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["s"].extend(
            [value for _, _, value in POINTS],
            steps=[step for step, _, _ in POINTS],
            timestamps=[time / 1000 for _, time, _ in POINTS],
        )
        assert attribute(server, project, run, "s")["points"] == POINTS


def test_points_without_steps_go_on_from_the_last_one(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["s"].extend([1.0, 2.0])
        run["s"].append(3.0, step=7.5)
        run["s"].append(4.0)
        assert [step for step, _, _ in attribute(server, project, run, "s")["points"]] == [0.0, 1.0, 7.5, 8.5]


def test_steps_must_increase_and_the_good_points_stay(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        errors = Wire(server).execute(run._id, log_floats("s", [[1, 0, 1.0], [1, 0, 2.0], [0.5, 0, 3.0], [2, 0, 4.0]]))
        assert len(errors) == 2
        assert all("X-coordinates (step) must be strictly increasing" in error for error in errors)
        assert [value for _, _, value in attribute(server, project, run, "s")["points"]] == [1.0, 4.0]
        with pytest.raises(MetadataInconsistency, match="strictly increasing"):
            run["s"].append(1.0, step=2)


def test_a_batch_that_is_sent_twice_is_complained_of_but_stored_once(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        wire, operation = Wire(server), log_floats("s", POINTS)
        assert wire.execute(run._id, operation) == []
        assert len(wire.execute(run._id, operation)) == len(POINTS)
        assert attribute(server, project, run, "s")["points"] == POINTS


def test_a_long_series_is_read_page_by_page(server: ServerProcess, project: str) -> None:
    wire = Wire(server)
    with open_run() as run:
        wire.execute(run._id, log_floats("s", [[step, step, step / 7] for step in range(2_500)]))
        run.sync()
        values = run["s"].fetch_values(progress_bar=False)
        assert list(values["value"]) == [step / 7 for step in range(2_500)]
        page = wire.get(f"{ATTRIBUTES}/series/float", experimentId=run._id, attribute="s", offset=2_490, limit=100)
        assert page.json()["totalItemCount"] == 2_500
        assert [point["step"] for point in page.json()["values"]] == list(range(2_490, 2_500))


def test_a_float_series_tells_its_statistics(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["s"].extend([1.0, 4.0, -2.0])
        found = Wire(server).attributes(run._id)["s"]["floatSeriesProperties"]
    assert (found["last"], found["lastStep"], found["min"], found["max"]) == (-2.0, 2.0, -2.0, 4.0)
    assert found["average"] == pytest.approx(1.0)
    assert found["variance"] == pytest.approx(6.0)


def test_a_float_series_keeps_its_configuration(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["s"] = neptune.types.FloatSeries([1.0, 2.0], min=0, max=10, unit="kg")
        assert attribute(server, project, run, "s")["config"] == {"min": 0.0, "max": 10.0, "unit": "kg"}
        run["s"] = neptune.types.FloatSeries([3.0])
        assert attribute(server, project, run, "s")["config"] == {"min": None, "max": None, "unit": None}
        assert [value for _, _, value in attribute(server, project, run, "s")["points"]] == [3.0]


def test_a_string_series_keeps_its_points(server: ServerProcess, project: str) -> None:
    lines = ["first", "", "zażółć \U0001f600", "x" * 1_000]
    with open_run() as run:
        run["log"].extend(lines, steps=[0.5, 1, 2, 30], timestamps=[1, 2.5, 3.25, 4.125])
        points = attribute(server, project, run, "log")["points"]
        assert points == [[0.5, 1000, lines[0]], [1.0, 2500, lines[1]], [2.0, 3250, lines[2]], [30.0, 4125, lines[3]]]
        assert list(run["log"].fetch_values(progress_bar=False)["value"]) == lines
        assert run["log"].fetch_last() == lines[-1]


def test_an_assigned_series_replaces_what_was_there(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["log"].extend(["a", "b"])
        run["log"] = neptune.types.StringSeries(["c"])
        assert [value for _, _, value in attribute(server, project, run, "log")["points"]] == ["c"]


def test_an_empty_series_can_be_read(project: str) -> None:
    with open_run() as run:
        run["log"].assign(neptune.types.StringSeries([]))
        run.sync()
        assert len(run["log"].fetch_values(progress_bar=False)) == 0
        assert "log" in run.get_structure()


# -- what only the server itself can write --


def test_a_field_that_no_client_could_write_can_be_read(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        sys_id = run["sys/id"].fetch()
        place = server.instruments.set_attribute
        place(project, sys_id, "labels", {"type": "stringSet", "value": ["b", "a"]})
        place(project, sys_id, "future", {"type": "hologram", "depth": 3})
        place(project, sys_id, "ratio", {"type": "float", "value": "NaN"})
        place(project, sys_id, "sys/owner", {"type": "string", "value": "somebody"})
        run.sync()
        assert run["labels"].fetch() == {"a", "b"}
        assert run["ratio"].fetch() != run["ratio"].fetch()
        assert run["sys/owner"].fetch() == "somebody"
        assert not run.exists("future")
        assert Wire(server).attributes(run._id)["future"]["hologramProperties"]["depth"] == 3
        place(project, sys_id, "labels", None)
        with pytest.raises(FetchAttributeNotFoundException):
            run["labels"].fetch()

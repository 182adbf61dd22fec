"""What tests may order: faults, outages, a lagging index, a server that lacks an operation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import neptune
import pytest
import requests
from neptune.types import File

from tests.neptune_server.process import Instruments, ServerProcess
from tests.server.test_server_objects import open_run
from tests.support.wire import ATTRIBUTES, Wire

EXPERIMENTS = "/api/leaderboard/v1/experiments"
LEADERBOARD = "/api/leaderboard/v1/leaderboard"
ORGANIZATIONS = "/api/backend/v1/myOrganizations"


@pytest.fixture
def instruments(server: ServerProcess, project: str) -> Iterator[Instruments]:
    server.instruments.reset_counts()
    yield server.instruments
    server.instruments.clear_faults()


def test_requests_are_counted_by_operation(server: ServerProcess, instruments: Instruments, project: str) -> None:
    wire = Wire(server)
    wire.get(ORGANIZATIONS)
    wire.get(ORGANIZATIONS)
    counts = instruments.counts()
    assert counts["requests"] == {"exchangeApiToken": 1, "listOrganizations": 2}
    assert counts["bytes_out"]["listOrganizations"] > 0
    assert counts["max_concurrent"] == 1
    assert counts["connections"] == 1


def test_bytes_that_come_in_are_counted(server: ServerProcess, instruments: Instruments, project: str) -> None:
    with open_run() as run:
        run["file"].upload(File.from_content("x" * 1000))
    assert instruments.counts()["bytes_in"]["fileAtomUpload"] == 1000


def test_the_log_tells_operation_status_and_object(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    with open_run() as run:
        Wire(server).get(f"{ATTRIBUTES}/integers", experimentId=run._id, attribute="missing")
        entries = [entry[1:] for entry in instruments.log()]
    assert ["getIntAttribute", 404, run._id] in [list(entry) for entry in entries]


def test_a_status_is_answered_as_often_as_ordered(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    wire = Wire(server)
    instruments.fault("listOrganizations", "status", status=429, headers={"Retry-After": "2"}, after=1, times=2)
    answers = [wire.get(ORGANIZATIONS) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 429, 429, 200]
    assert answers[1].headers["Retry-After"] == "2"


def test_a_fault_for_ever_ends_when_it_is_cleared(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    wire = Wire(server)
    instruments.fault("*", "status", times=None)
    assert [wire.get(ORGANIZATIONS).status_code for _ in range(3)] == [503] * 3
    instruments.clear_faults()
    assert wire.get(ORGANIZATIONS).status_code == 200


def test_a_fault_may_be_for_one_field(server: ServerProcess, instruments: Instruments, project: str) -> None:
    with open_run() as run:
        instruments.fault("executeOperations", "status", status=403, path="the/field", times=None)
        run["other"] = 1
        with pytest.raises(neptune.common.exceptions.Forbidden):
            run["the/field"] = 1
        instruments.clear_faults()


def test_the_client_outlives_a_short_fault(instruments: Instruments, project: str) -> None:
    with open_run() as run:
        instruments.fault("executeOperations", "status", status=503)
        run["a"] = 1
        instruments.fault("executeOperations", "reset")
        run["b"] = 2
        assert (run["a"].fetch(), run["b"].fetch()) == (1, 2)
    assert instruments.counts()["requests"]["executeOperations"] >= 4


def test_a_reset_breaks_the_connection(server: ServerProcess, instruments: Instruments, project: str) -> None:
    wire = Wire(server)
    instruments.fault("listOrganizations", "reset")
    with pytest.raises(requests.ConnectionError):
        wire.get(ORGANIZATIONS)
    assert wire.get(ORGANIZATIONS).status_code == 200


def test_a_reset_may_come_while_the_body_is_sent(server: ServerProcess, instruments: Instruments, project: str) -> None:
    with open_run() as run:
        instruments.fault("fileAtomUpload", "reset_body", bytes=100_000)
        place = {"experimentIdentifier": run._id, "attribute": "file", "ext": "bin"}
        wire = Wire(server)
        with pytest.raises(requests.ConnectionError):
            wire.post(f"{ATTRIBUTES}/storage/file/upload", b"x" * 4_000_000, **place)
        assert "file" not in wire.attributes(run._id)


def test_a_lost_answer_leaves_the_work_done(server: ServerProcess, instruments: Instruments, project: str) -> None:
    with open_run() as run:
        instruments.fault("executeOperations", "lost_answer")
        wire = Wire(server)
        with pytest.raises(requests.ConnectionError):
            wire.execute(run._id, {"path": "a", "assignInt": {"value": 1}})
        assert "a" in wire.attributes(run._id)


def assign(run: neptune.Run, number: int) -> tuple[str, dict[str, Any]]:
    return run._id, {"path": "a", "assignInt": {"value": number}}


def number_in(wire: Wire, run: neptune.Run) -> int | None:
    """What is in the field that `assign` writes; one request about the run."""
    field = wire.attributes(run._id).get("a")
    return field["intProperties"]["value"] if field else None


def test_a_late_request_lets_as_many_pass_as_ordered(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    wire = Wire(server)
    with open_run() as run, open_run() as other:
        instruments.fault("executeOperations", "late", requests=2)
        with pytest.raises(requests.ConnectionError):
            wire.execute(*assign(run, 1))
        assert instruments.late() == [{"operation": "executeOperations", "requests": 2, "status": None}]
        wire.execute(*assign(run, 2))
        assert [number_in(wire, other), number_in(wire, run)] == [None, 2]
        assert instruments.late() == [{"operation": "executeOperations", "requests": 0, "status": None}]
        assert number_in(wire, run) == 1
        assert instruments.late() == [{"operation": "executeOperations", "requests": 0, "status": 200}]
        wire.execute(*assign(run, 3))
        assert [number_in(wire, run) for _ in range(2)] == [3, 3]


def test_a_request_may_be_carried_out_at_once_and_late(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    wire = Wire(server)
    with open_run() as run:
        instruments.fault("executeOperations", "repeated_late", requests=3)
        with pytest.raises(requests.ConnectionError):
            wire.execute(*assign(run, 1))
        assert number_in(wire, run) == 1
        wire.execute(*assign(run, 2))
        assert [number_in(wire, run) for _ in range(2)] == [2, 1]


def test_late_requests_arrive_when_a_test_wants_it(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    wire = Wire(server)
    with open_run() as run:
        instruments.fault("executeOperations", "late", requests=1000)
        with pytest.raises(requests.ConnectionError):
            wire.execute(*assign(run, 1))
        assert number_in(wire, run) is None
        assert [instruments.arrive(), instruments.arrive()] == [1, 0]
        assert number_in(wire, run) == 1
        assert [late["status"] for late in instruments.late()] == [200]
        instruments.clear_faults()
        assert instruments.late() == []


def test_a_late_request_that_is_given_up_never_arrives(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    wire = Wire(server)
    with open_run() as run:
        instruments.fault("executeOperations", "late")
        with pytest.raises(requests.ConnectionError):
            wire.execute(*assign(run, 1))
        instruments.clear_faults()
        assert [number_in(wire, run), instruments.arrive()] == [None, 0]


def test_a_late_request_is_refused_when_its_token_has_expired(project: str) -> None:
    with ServerProcess("--project", "acme/signed") as server:
        wire = Wire(server)
        wanted = {"projectIdentifier": "acme/signed", "parentId": "", "type": "run"}
        run_id = wire.post(EXPERIMENTS, wanted).json()["id"]
        server.instruments.fault("executeOperations", "late")
        with pytest.raises(requests.ConnectionError):
            wire.execute(run_id, {"path": "a", "assignInt": {"value": 1}})
        server.instruments.expire_tokens()
        assert "a" not in Wire(server).attributes(run_id)
        assert [late["status"] for late in server.instruments.late()] == [401]


def test_a_late_upload_brings_its_bytes(server: ServerProcess, instruments: Instruments, project: str) -> None:
    wire = Wire(server)
    with open_run() as run:
        place = {"experimentIdentifier": run._id, "attribute": "file", "ext": "bin"}
        instruments.fault("fileAtomUpload", "late")
        with pytest.raises(requests.ConnectionError):
            wire.post(f"{ATTRIBUTES}/storage/file/upload", b"x" * 100_000, **place)
        assert wire.attributes(run._id)["file"]["fileProperties"]["size"] == 100_000
        assert instruments.counts()["bytes_in"]["fileAtomUpload"] == 100_000


def test_a_run_that_is_created_late_is_known_by_its_custom_id(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    wire = Wire(server)
    wanted = {"projectIdentifier": project, "parentId": "", "type": "run", "customId": "mine"}
    instruments.fault("createExperiment", "late", requests=1)
    with pytest.raises(requests.ConnectionError):
        wire.post(EXPERIMENTS, wanted)
    run_id = wire.post(EXPERIMENTS, wanted).json()["id"]
    assert instruments.late() == [{"operation": "createExperiment", "requests": 0, "status": None}]
    wire.attributes(run_id)
    assert instruments.late() == [{"operation": "createExperiment", "requests": 0, "status": 200}]
    assert wire.post(EXPERIMENTS, wanted).json()["id"] == run_id


def test_a_run_that_is_restored_late_comes_back(server: ServerProcess, instruments: Instruments, project: str) -> None:
    wire = Wire(server)
    with open_run() as run:
        sys_id, run_id = run["sys/id"].fetch(), run._id
    trash, restore = (partial(wire.post, f"{EXPERIMENTS}/{move}") for move in ("trash", "trash/restore"))
    assert trash([sys_id], projectIdentifier=project).ok
    instruments.fault("restoreExperiments", "late", requests=2)
    with pytest.raises(requests.ConnectionError):
        restore([f"{project}/{sys_id}"], projectIdentifier=project)
    assert restore([sys_id], projectIdentifier=project).ok
    assert trash([sys_id], projectIdentifier=project).ok
    assert not wire.get(EXPERIMENTS, experimentId=run_id).json()["trashed"]


def test_a_body_is_cut_short(server: ServerProcess, instruments: Instruments, project: str) -> None:
    with open_run() as run:
        run["file"].upload(File.from_content("x" * 100_000))
        instruments.fault("downloadAttribute", "truncate", bytes=50_000)
        # Before its second version urllib3 takes a body cut short for a whole one.
        with suppress(requests.exceptions.RequestException):
            run["file"].download("file.txt")
        assert Path("file.txt").stat().st_size <= 50_000
        run["file"].download("file.txt")
        assert Path("file.txt").stat().st_size == 100_000


def test_an_answer_is_delayed(server: ServerProcess, instruments: Instruments, project: str) -> None:
    wire = Wire(server)
    instruments.fault("listOrganizations", "delay", seconds=0.3)
    began = time.monotonic()
    assert wire.get(ORGANIZATIONS).status_code == 200
    assert time.monotonic() - began >= 0.3


def test_a_delay_ends_when_it_is_released(server: ServerProcess, instruments: Instruments, project: str) -> None:
    wire = Wire(server)
    kept, released = (instruments.fault("listOrganizations", "delay", seconds=60, after=after) for after in (2, 1))
    assert wire.get(ORGANIZATIONS).status_code == 200
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(Wire(server).get, ORGANIZATIONS) for _ in range(2))
        instruments.release(released)
        done, waiting = wait([first, second], timeout=30, return_when=FIRST_COMPLETED)
        assert [answer.result().status_code for answer in done] == [200]
        assert len(waiting) == 1
        instruments.release(kept)
        assert [answer.result(30).status_code for answer in waiting] == [200]


def test_one_operation_is_refused_and_the_others_are_not(
    server: ServerProcess, instruments: Instruments, project: str
) -> None:
    operations = [{"path": path, "assignInt": {"value": 1}} for path in ("a", "b", "c")]
    with open_run() as run:
        instruments.fault("executeOperations", "operation_error", path="b", body="not today")
        wire = Wire(server)
        assert wire.execute(run._id, *operations) == ["not today"]
        assert {"a", "c"} <= wire.attributes(run._id).keys()
        assert "b" not in wire.attributes(run._id)


def test_an_upload_is_refused(instruments: Instruments, project: str) -> None:
    with open_run() as run:
        instruments.fault("fileAtomUpload", "operation_error", path="model/weights", body="disk full")
        with pytest.raises(neptune.exceptions.MetadataInconsistency, match="disk full"):
            run["model/weights"].upload(File.from_content("x"))


def test_an_unknown_kind_of_fault_is_refused(instruments: Instruments) -> None:
    with pytest.raises(RuntimeError):
        instruments.fault("*", "earthquake")


@pytest.mark.parametrize("kind", ["status", "reset"])
def test_an_outage_hits_every_request_and_ends(
    server: ServerProcess, instruments: Instruments, project: str, kind: str
) -> None:
    wire = Wire(server)

    def answers() -> bool:
        try:
            return wire.get(ORGANIZATIONS).status_code == 200
        except requests.ConnectionError:
            return False

    instruments.outage(0.4, kind)
    began = time.monotonic()
    assert not answers()
    while not answers():
        time.sleep(0.02)
    assert 0.3 <= time.monotonic() - began < 2


def test_an_operation_can_be_missing(project: str) -> None:
    with ServerProcess("--without", "getChannelValues", "--project", "acme/old") as server:
        wire = Wire(server)
        missing = "/api/leaderboard/v1/channels/00000000-0000-0000-0000-000000000000/values"
        assert wire.get(missing).status_code == 404
        assert "getChannelValues" not in wire.get("/api/leaderboard/swagger.json").text


def test_a_server_does_not_start_without_an_operation_that_never_was() -> None:
    with pytest.raises(RuntimeError):
        ServerProcess("--without", "makeCoffee").start()


def test_searches_lag_behind_writes(project: str) -> None:
    with ServerProcess("--index-lag", "1", "--project", "acme/slow") as server:
        token = server.environment["NEPTUNE_API_TOKEN"]
        table = neptune.init_project("acme/slow", mode="read-only", api_token=token)

        def runs() -> list[str]:
            return [row.get_attribute_value("sys/id") for row in table.fetch_runs_table(progress_bar=False)]

        with open_run(project="acme/slow", api_token=token) as run:
            began = time.monotonic()
            run["a"] = 1
            assert run["a"].fetch() == 1
            sys_id = run["sys/id"].fetch()
            seen: list[str] = []
            while not seen and time.monotonic() - began < 5:
                try:
                    seen = runs()
                except ValueError:
                    # Before anything is indexed there is no column to sort by.
                    seen = []
            assert seen == [sys_id]
            assert time.monotonic() - began > 0.5


def test_searches_catch_up_when_a_test_wants_it(project: str) -> None:
    with ServerProcess("--index-lag", "3600", "--project", "acme/slow") as server:
        wire = Wire(server)
        wanted = {"projectIdentifier": "acme/slow", "parentId": "", "type": "run"}
        created = wire.post(EXPERIMENTS, wanted).json()["id"]

        def found() -> list[str]:
            answer = wire.post(f"{LEADERBOARD}/entries/search", {}, projectIdentifier="acme/slow", type="run")
            return [entry["experimentId"] for entry in answer.json()["entries"]]

        assert found() == []
        server.instruments.catch_up()
        assert found() == [created]
        wire.post(EXPERIMENTS, wanted).raise_for_status()
        assert found() == [created]


def test_the_client_names_runs_where_the_server_does_not(project: str) -> None:
    with ServerProcess("--client-names", "--project", "acme/old") as server:
        token = server.environment["NEPTUNE_API_TOKEN"]
        with open_run(project="acme/old", api_token=token) as run:
            assert run["sys/name"].fetch() == "Untitled"
    with open_run() as run:
        assert run["sys/name"].fetch() == run["sys/id"].fetch()


def test_a_data_folder_is_used_and_left(tmp_path: Path, project: str) -> None:
    folder = tmp_path / "data"
    with ServerProcess("--data", str(folder), "--project", "acme/kept") as server:
        token = server.environment["NEPTUNE_API_TOKEN"]
        with open_run(project="acme/kept", api_token=token) as run:
            run["file"].upload(File.from_content("keep me"))
    assert b"keep me" in [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def test_the_server_ends_with_its_process(project: str) -> None:
    server = ServerProcess()
    server.start()
    url = server.url
    server.kill()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/api/backend/swagger.json", timeout=5)

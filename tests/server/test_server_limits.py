"""A workspace whose storage is full, and one that executes no more operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from neptune.exceptions import NeptuneLimitExceedException
from neptune.types import File

from tests.neptune_server.process import Instruments, ServerProcess
from tests.server.test_server_objects import open_run
from tests.support.wire import ATTRIBUTES, Wire

EXPERIMENTS = "/api/leaderboard/v1/experiments"
STORAGE = f"{ATTRIBUTES}/storage"
MEGABYTE = 1024 * 1024


@pytest.fixture
def instruments(server: ServerProcess, project: str) -> Iterator[Instruments]:
    yield server.instruments
    server.instruments.clear_faults()


class Run:
    def __init__(self, server: ServerProcess, project: str) -> None:
        self.wire = Wire(server)
        self.id = self.wire.post(EXPERIMENTS, {"projectIdentifier": project, "type": "run"}).json()["id"]

    def upload(self, attribute: str, content: bytes) -> requests.Response:
        place = {"experimentIdentifier": self.id, "attribute": attribute, "ext": "bin"}
        return self.wire.post(f"{STORAGE}/file/upload", content, **place)

    def upload_to_set(self, attribute: str, content: bytes) -> requests.Response:
        place = {"experimentIdentifier": self.id, "attribute": attribute, "subPath": "a"}
        return self.wire.post(f"{STORAGE}/fileset/upload", content, **place)

    def upload_in_parts(self, size: int, *parts: bytes) -> list[int]:
        """The statuses of its requests."""
        wire, place = self.wire, {"experimentIdentifier": self.id, "attribute": "large"}
        started = wire.post(f"{STORAGE}/file/upload/start", b"", **place, ext="bin", totalLength=size)
        statuses = [started.status_code]
        if not started.ok:
            return statuses
        upload, begin = {**place, "uploadId": started.json()["uploadId"]}, 0
        for index, part in enumerate(parts):
            wire.session.headers["X-Range"] = f"bytes={begin}-{begin + len(part) - 1}/{size}"
            answer = wire.post(f"{STORAGE}/file/upload/part", part, **upload, uploadPartIdx=index)
            statuses.append(answer.status_code)
            begin += len(part)
        return [*statuses, wire.post(f"{STORAGE}/file/upload/finish", b"", **upload).status_code]

    def execute(self, count: int) -> requests.Response:
        operations = [{"path": f"a{number}", "assignInt": {"value": number}} for number in range(count)]
        return self.wire.post(f"{ATTRIBUTES}/operations", operations, experimentId=self.id)


@pytest.fixture
def run(server: ServerProcess, project: str) -> Run:
    return Run(server, project)


@pytest.mark.parametrize("status", [402, 422])
def test_a_full_workspace_takes_no_file(instruments: Instruments, run: Run, status: int) -> None:
    instruments.limit(bytes=0, status=status)
    for answer in (run.upload("file", b"abc"), run.upload("empty", b""), run.upload_to_set("set", b"abc")):
        assert answer.status_code == status
        error: dict[str, Any] = answer.json()
        assert error["code"] == status
        assert isinstance(error["message"], str)
    assert run.upload_in_parts(3) == [status]
    assert not {"file", "empty", "set", "large"} & set(run.wire.attributes(run.id))


def test_uploads_pass_until_the_limit(instruments: Instruments, run: Run) -> None:
    instruments.limit(bytes=10)
    statuses = [run.upload(f"file{index}", content).status_code for index, content in enumerate([b"x" * 4] * 3)]
    assert statuses == [200, 200, 402]
    assert run.upload("smaller", b"xx").status_code == 200
    assert run.upload("empty", b"").status_code == 402


def test_parts_count_as_they_come(instruments: Instruments, run: Run) -> None:
    instruments.limit(bytes=5)
    assert run.upload_in_parts(6, b"abcd", b"ef") == [200, 200, 402, 400]
    instruments.limit(bytes=6)
    assert run.upload_in_parts(6, b"abcd", b"ef") == [200, 200, 200, 200]


def test_a_large_upload_is_refused_by_an_answer(instruments: Instruments, run: Run) -> None:
    """Not by a broken connection, from which nobody would learn why."""
    instruments.limit(bytes=1)
    assert run.upload("file", b"x" * 4 * MEGABYTE).status_code == 402


def test_a_full_workspace_takes_operations(instruments: Instruments, run: Run) -> None:
    instruments.limit(bytes=0)
    assert run.execute(3).status_code == 200


@pytest.mark.parametrize("status", [402, 422])
def test_operations_pass_until_the_limit(instruments: Instruments, run: Run, status: int) -> None:
    instruments.limit(operations=5, status=status)
    assert [run.execute(count).status_code for count in (3, 3, 2, 1)] == [200, status, 200, status]
    assert run.execute(1).json()["code"] == status
    assert run.upload("file", b"abc").status_code == 200


def test_reading_goes_on(instruments: Instruments, run: Run) -> None:
    run.upload("file", b"abc")
    instruments.limit(bytes=0, operations=0)
    assert "file" in run.wire.attributes(run.id)
    assert run.wire.get(f"{ATTRIBUTES}/download", experimentId=run.id, attribute="file").content == b"abc"


def test_a_limit_ends_when_it_is_lifted_or_all_faults_are_cleared(instruments: Instruments, run: Run) -> None:
    for lift in (instruments.limit, instruments.clear_faults):
        instruments.limit(bytes=0, operations=0)
        assert (run.execute(1).status_code, run.upload("file", b"abc").status_code) == (402, 402)
        lift()
        assert (run.execute(1).status_code, run.upload("file", b"abc").status_code) == (200, 200)


def test_the_client_tells_that_a_limit_is_reached(instruments: Instruments, project: str) -> None:
    with open_run() as run:
        instruments.limit(bytes=0, operations=0)
        with pytest.raises(NeptuneLimitExceedException):
            run["a"] = 1
        with pytest.raises(NeptuneLimitExceedException):
            run["file"].upload(File.from_content("abc"))
        instruments.clear_faults()


def test_there_is_no_other_status(instruments: Instruments) -> None:
    with pytest.raises(RuntimeError):
        instruments.limit(bytes=0, status=500)

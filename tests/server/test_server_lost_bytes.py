"""Files whose bytes the server has lost: they are listed as ever, and cannot be downloaded any more."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import requests

from tests.neptune_server.process import ServerProcess
from tests.support.wire import ATTRIBUTES, Wire

EXPERIMENTS = "/api/leaderboard/v1/experiments"


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


FIELDS: dict[str, dict[str, Any]] = {
    "file": {"type": "file", "name": "file.tar.gz", "ext": "gz", "content": encoded(b"abc")},
    "other": {"type": "file", "name": "other.txt", "ext": "txt", "content": encoded(b"kept")},
    "set": {"type": "fileSet", "files": {"a": encoded(b"1"), "b/c": encoded(b"23")}},
    "images": {"type": "imageSeries", "points": [[0.0, 0, {"content": encoded(b"\x89PNG\r\n\x1a\n")}]]},
    "number": {"type": "int", "value": 1},
}


class Run:
    def __init__(self, server: ServerProcess, project: str) -> None:
        self.wire, self.instruments, self.project = Wire(server), server.instruments, project
        created = self.wire.post(EXPERIMENTS, {"projectIdentifier": project, "type": "run"}).json()
        self.id, self.sys_id = created["id"], created["shortId"]
        for path, attribute in FIELDS.items():
            self.instruments.set_attribute(project, self.sys_id, path, attribute)

    def lose(self, path: str) -> None:
        self.instruments.lose_bytes(self.project, self.sys_id, path)

    def download(self, attribute: str, **inside: str) -> requests.Response:
        return self.wire.get(f"{ATTRIBUTES}/download", experimentId=self.id, attribute=attribute, **inside)

    def prepare(self) -> requests.Response:
        return self.wire.post(f"{ATTRIBUTES}/downloadFileSetZipRequest", experimentId=self.id, attribute="set")

    def image(self) -> requests.Response:
        place: dict[str, Any] = {"experimentId": self.id, "attribute": "images", "index": 0}
        return self.wire.get(f"{ATTRIBUTES}/series/image/single", **place)

    def listed(self) -> dict[str, Any]:
        attributes = self.wire.attributes(self.id)
        return {path: attributes[path] for path in FIELDS}

    def state(self) -> dict[str, Any]:
        fields: dict[str, Any] = self.instruments.state(self.project)["containers"][self.sys_id]["attributes"]
        return fields


@pytest.fixture
def run(server: ServerProcess, project: str) -> Run:
    return Run(server, project)


def test_a_lost_file_is_not_found_though_it_is_listed(run: Run) -> None:
    listed, state = run.listed(), run.state()
    assert run.download("file").content == b"abc"
    run.lose("file")
    assert [run.download("file").status_code for _ in range(3)] == [404] * 3
    assert run.download("other").content == b"kept"
    assert (run.listed(), run.state()) == (listed, state)
    assert listed["file"]["fileProperties"]["size"] == 3
    assert listed["file"]["fileProperties"]["ext"] == "gz"


def test_no_zip_is_prepared_of_a_lost_set(run: Run) -> None:
    listed, state = run.listed(), run.state()
    assert run.prepare().status_code == 200
    run.lose("set")
    assert [run.prepare().status_code for _ in range(3)] == [404] * 3
    assert run.download("set", path="b/c").status_code == 404
    assert (run.listed(), run.state()) == (listed, state)
    assert listed["set"]["fileSetProperties"]["size"] == 3
    entries = run.wire.get(f"{ATTRIBUTES}/ls", experimentId=run.id, attribute="set", path="/").json()
    assert {entry["name"] for entry in entries} == {"a", "b"}


def test_lost_images_are_not_found(run: Run) -> None:
    assert run.image().status_code == 200
    run.lose("images")
    assert run.image().status_code == 404


def test_what_is_uploaded_again_is_there(run: Run) -> None:
    run.lose("file")
    place = {"experimentIdentifier": run.id, "attribute": "file", "ext": "txt"}
    run.wire.post(f"{ATTRIBUTES}/storage/file/upload", b"new", **place).raise_for_status()
    assert run.download("file").content == b"new"


def test_losing_twice_is_losing(run: Run) -> None:
    run.lose("file")
    run.lose("file")
    assert run.download("file").status_code == 404


def test_a_number_has_no_bytes_to_lose(run: Run) -> None:
    with pytest.raises(RuntimeError):
        run.lose("number")

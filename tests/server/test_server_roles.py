"""Projects where the token's user only views, and archived ones: everything can be read, nothing written."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import neptune
import pytest
import requests

from tests.neptune_server.process import ServerProcess
from tests.support.wire import ATTRIBUTES, Wire

EXPERIMENTS = "/api/leaderboard/v1/experiments"
PROJECTS = "/api/backend/v1/projects"
ARTIFACT = "/api/artifacts/v1/artifact"
STORAGE = f"{ATTRIBUTES}/storage"
FROZEN = [{"role": "viewer"}, {"role": "manager", "archived": True}, {"role": "viewer", "archived": True}]


class Registry:
    """A model with a version, another one in the trash, and a file that is being uploaded."""

    def __init__(self, server: ServerProcess, project: str) -> None:
        self.wire = Wire(server)
        self.project = project
        self.model = self.create(type="model", key="KEPT").json()
        self.trashed = self.create(type="model", key="GONE").json()
        self.trash("trash", self.trashed).raise_for_status()
        self.artifact = {"hash": "f00d", "parentIdentifier": self.model["id"]}
        self.wire.session.put(
            f"{self.wire.url}{ARTIFACT}", params={**self.artifact, "projectIdentifier": project}
        ).raise_for_status()
        self.upload = self.start().json()["uploadId"]

    def create(self, **wanted: str) -> requests.Response:
        return self.wire.post(EXPERIMENTS, {"projectIdentifier": self.project, "parentId": "", **wanted})

    def trash(self, way: str, *objects: dict[str, Any]) -> requests.Response:
        path = {"trash": "trash", "restore": "trash/restore", "delete": "trash/delete"}[way]
        return self.wire.post(f"{EXPERIMENTS}/{path}", [each["id"] for each in objects], projectIdentifier=self.project)

    def start(self) -> requests.Response:
        return self.store("file/upload/start", b"", "large", ext="bin", totalLength=3)

    def store(self, path: str, content: bytes, attribute: str, **parameters: Any) -> requests.Response:
        return self.wire.post(
            f"{STORAGE}/{path}", content, experimentIdentifier=self.model["id"], attribute=attribute, **parameters
        )

    def place(self, attribute: str) -> dict[str, str]:
        return {"experimentId": self.model["id"], "attribute": attribute}

    def writes(self) -> dict[str, requests.Response]:
        """The answer to each kind of write."""
        wire, model, project = self.wire, self.model, self.project
        operations = [{"path": "a", "assignInt": {"value": 1}}]
        return {
            "run": self.create(type="run"),
            "model": self.create(type="model", key="NEW"),
            "version": self.create(type="modelVersion", parentId=model["id"]),
            "operations": wire.post(f"{ATTRIBUTES}/operations", operations, experimentId=model["id"]),
            "ping": wire.post(f"{ATTRIBUTES}/ping", experimentId=model["id"]),
            "file": self.store("file/upload", b"abc", "file", ext="bin"),
            "first part": self.start(),
            "part": self.part(),
            "last part": self.store("file/upload/finish", b"", "large", uploadId=self.upload),
            "file of a set": self.store("fileset/upload", b"abc", "set", subPath="b"),
            "tar": wire.post(f"{ATTRIBUTES}/uploadFileSetTar", packed(), **self.place("tar"), reset="true"),
            "trash": self.trash("trash", model),
            "restore": self.trash("restore", self.trashed),
            "delete": self.trash("delete", self.trashed),
            "artifact": wire.session.put(
                f"{wire.url}{ARTIFACT}", params={**self.artifact, "projectIdentifier": project}
            ),
        }

    def part(self) -> requests.Response:
        place = {"experimentIdentifier": self.model["id"], "attribute": "large"}
        return self.wire.session.post(
            f"{self.wire.url}{STORAGE}/file/upload/part",
            data=b"abc",
            params={**place, "uploadId": self.upload, "uploadPartIdx": 0},
            headers={"X-Range": "bytes=0-2/3"},
        )

    def listed(self) -> dict[str, Any]:
        entries = self.wire.get(PROJECTS).json()["entries"]
        (found,) = [each for each in entries if f"{each['organizationName']}/{each['name']}" == self.project]
        return found


def packed() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    return target.getvalue()


@pytest.fixture
def registry(server: ServerProcess, project: str) -> Registry:
    return Registry(server, project)


def test_a_manager_writes_everything(registry: Registry) -> None:
    listed = registry.listed()
    assert (listed["userRoleInProject"], listed["archived"]) == ("manager", False)
    assert {kind: answer.status_code for kind, answer in registry.writes().items() if answer.status_code != 200} == {}


def test_a_member_writes_everything(server: ServerProcess, registry: Registry) -> None:
    server.instruments.set_project(registry.project, role="member")
    assert registry.listed()["userRoleInProject"] == "member"
    assert {kind: answer.status_code for kind, answer in registry.writes().items() if answer.status_code != 200} == {}


@pytest.mark.parametrize("status", FROZEN)
def test_every_write_is_forbidden(server: ServerProcess, registry: Registry, status: dict[str, Any]) -> None:
    before = server.instruments.state(registry.project)
    server.instruments.set_project(registry.project, **status)
    listed = registry.listed()
    assert (listed["userRoleInProject"], listed["archived"]) == (status["role"], status.get("archived", False))
    answers = registry.writes()
    assert {kind: answer.status_code for kind, answer in answers.items()} == dict.fromkeys(answers, 403)
    assert {answer.json()["code"] for answer in answers.values()} == {403}
    assert server.instruments.state(registry.project) == before


@pytest.mark.parametrize("status", FROZEN)
def test_everything_can_be_read(server: ServerProcess, registry: Registry, status: dict[str, Any]) -> None:
    server.instruments.set_project(registry.project, **status)
    assert registry.wire.attributes(registry.model["id"])["sys/id"]["stringProperties"]["value"].endswith("-KEPT")
    with neptune.init_project(registry.project, mode="read-only") as opened:
        assert opened.fetch_models_table(progress_bar=False).to_pandas()["sys/id"].tolist() == [
            registry.model["shortId"]
        ]


def test_what_was_forbidden_may_be_allowed_again(server: ServerProcess, registry: Registry) -> None:
    server.instruments.set_project(registry.project, archived=True)
    assert registry.create(type="run").status_code == 403
    server.instruments.set_project(registry.project)
    assert registry.create(type="run").status_code == 200


def test_other_projects_stay_as_they_are(server: ServerProcess, registry: Registry) -> None:
    other = f"{registry.project}-other"
    server.instruments.create_project(other)
    server.instruments.set_project(other, role="viewer", archived=True)
    assert registry.create(type="run").status_code == 200


def test_there_is_no_other_role(server: ServerProcess, project: str) -> None:
    with pytest.raises(RuntimeError):
        server.instruments.set_project(project, role="owner")

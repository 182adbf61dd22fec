"""Workspaces and projects."""

from __future__ import annotations

import neptune
import pytest
from neptune import management
from neptune.exceptions import ProjectNotFoundWithSuggestions
from neptune.management.exceptions import (
    ProjectAlreadyExists,
    ProjectKeyCollision,
    ProjectKeyInvalid,
    ProjectNotFound,
    WorkspaceNotFound,
)

from tests.neptune_server.process import ServerProcess


def test_all_projects_are_listed(project: str) -> None:
    projects = management.get_project_list()
    assert project in projects
    assert "acme/first" in projects


def test_a_project_is_created_and_deleted(project: str) -> None:
    made = management.create_project(f"{project}-more", visibility="workspace", description="For a while")
    assert made == f"{project}-more"
    assert made in management.get_project_list()
    management.delete_project(made)
    assert made not in management.get_project_list()


def test_a_project_of_that_name_exists_already(project: str) -> None:
    with pytest.raises(ProjectAlreadyExists):
        management.create_project(project)


def test_a_key_that_is_taken_is_refused(project: str) -> None:
    management.create_project(f"{project}-a", key="TAKEN1")
    with pytest.raises(ProjectKeyCollision):
        management.create_project(f"{project}-b", key="TAKEN1")


def test_a_key_of_small_letters_is_refused(project: str) -> None:
    with pytest.raises(ProjectKeyInvalid):
        management.create_project(f"{project}-a", key="small")


def test_a_key_is_made_of_the_name_when_none_is_given(project: str) -> None:
    management.create_project("acme/zebra")
    management.create_project("acme/zebra-two")
    keys = [neptune.init_project(name, mode="read-only")["sys/id"].fetch() for name in ("acme/zebra", "acme/zebra-two")]
    assert keys[0] == "ZEB"
    assert len(set(keys)) == 2


def test_a_workspace_that_does_not_exist_takes_no_project(project: str) -> None:
    with pytest.raises(WorkspaceNotFound):
        management.create_project("nobody/anything")


def test_deleting_what_does_not_exist_is_not_found(project: str) -> None:
    with pytest.raises(ProjectNotFound):
        management.delete_project("acme/never-there")


def test_a_wrong_name_brings_names_of_the_same_workspace(project: str) -> None:
    with pytest.raises(ProjectNotFoundWithSuggestions) as raised:
        neptune.init_project("acme/misspelt", mode="read-only")
    assert project in str(raised.value)


def test_a_wrong_workspace_brings_the_workspaces_there_are(project: str) -> None:
    with pytest.raises(ProjectNotFoundWithSuggestions) as raised:
        neptune.init_project("nobody/anything", mode="read-only")
    assert "acme" in str(raised.value)


def test_a_name_without_its_workspace_is_enough_when_there_is_one_such_project(project: str) -> None:
    with neptune.init_project(project.partition("/")[2], mode="read-only") as opened:
        assert opened.get_url().endswith(f"{project}/")


def test_a_workspace_tells_what_it_holds(server: ServerProcess, project: str) -> None:
    with neptune.init_project(mode="sync") as opened:
        opened["notes"].upload(neptune.types.File.from_content("twelve bytes"))
    status = management.get_workspace_status("acme")
    assert status["activeProjectsUsage"] >= 2
    assert status["storageBytesUsed"] >= 12
    with pytest.raises(WorkspaceNotFound):
        management.get_workspace_status("nobody")


def test_a_project_has_system_fields_of_its_own(project: str) -> None:
    with neptune.init_project(mode="read-only") as opened:
        fields = opened.get_structure()["sys"]
    assert sorted(fields) == [
        "creation_time",
        "group_tags",
        "id",
        "modification_time",
        "monitoring_time",
        "name",
        "ping_time",
        "running_time",
        "size",
        "state",
        "tags",
        "visibility",
    ]

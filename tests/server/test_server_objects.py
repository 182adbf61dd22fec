"""Runs, models and model versions: how they are made, found, named, trashed; and their system fields."""

from __future__ import annotations

from typing import Any

import neptune
import pytest
from neptune import management
from neptune.exceptions import (
    FetchAttributeNotFoundException,
    MetadataContainerNotFound,
    MetadataInconsistency,
    NeptuneModelKeyAlreadyExistsError,
    RunNotFound,
)

from tests.neptune_server.process import ServerProcess
from tests.support.wire import Wire

SHARED = {
    "creation_time",
    "description",
    "group_tags",
    "id",
    "modification_time",
    "monitoring_time",
    "name",
    "owner",
    "ping_time",
    "running_time",
    "size",
    "state",
    "tags",
    "trashed",
}
QUIET: dict[str, Any] = {
    "capture_stdout": False,
    "capture_stderr": False,
    "capture_traceback": False,
    "capture_hardware_metrics": False,
    "git_ref": False,
    "source_files": [],
}


def open_run(**arguments: Any) -> neptune.Run:
    return neptune.init_run(**{"mode": "sync", **QUIET, **arguments})


def container(server: ServerProcess, project: str, sys_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.instruments.state(project)["containers"][sys_id]
    return found


def moment_of_change(server: ServerProcess, project: str, sys_id: str) -> int:
    value: int = container(server, project, sys_id)["attributes"]["sys/modification_time"]["value"]
    return value


def make_model(key: str = "FOREST", versions: int = 0) -> str:
    with neptune.init_model(key=key, mode="sync") as model:
        sys_id: str = model["sys/id"].fetch()
    for _ in range(versions):
        neptune.init_model_version(model=sys_id, mode="sync").stop()
    return sys_id


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_objects_are_written_and_read_again_in_every_writing_mode(project: str, mode: str) -> None:
    with neptune.init_model(key=f"M{mode.upper()}", mode=mode) as model:
        model["params/lr"] = 0.5
        model_id = model["sys/id"].fetch()
    with neptune.init_model_version(model=model_id, mode=mode) as version:
        version["params/lr"] = 1.5
        version_id = version["sys/id"].fetch()
    with open_run(mode=mode) as run:
        run["params/lr"] = 2.5
        run_id = run["sys/id"].fetch()
    with neptune.init_model(with_id=model_id, mode="read-only") as model:
        assert model["params/lr"].fetch() == 0.5
    with neptune.init_model_version(with_id=version_id, mode="read-only") as version:
        assert version["params/lr"].fetch() == 1.5
    with open_run(with_id=run_id, mode="read-only") as run:
        assert run["params/lr"].fetch() == 2.5


def test_an_offline_run_is_brought_in_by_the_sync_command(server: ServerProcess, project: str) -> None:
    import subprocess
    import sys

    with open_run(mode="offline") as run:
        run["params/depth"] = 7
        run["metrics/loss"].extend([3.0, 2.0, 1.0])
        run["notes"].upload(neptune.types.File.from_content("written offline"))
    command = [sys.executable, "-c", "from neptune.cli.__main__ import main; main()", "sync", "--project", project]
    subprocess.run([*command, "--offline-only"], check=True, capture_output=True, timeout=60)
    runs = [each for each in server.instruments.state(project)["containers"].values() if each["kind"] == "run"]
    assert len(runs) == 1
    fields = runs[0]["attributes"]
    assert fields["params/depth"]["value"] == 7
    assert [value for _, _, value in fields["metrics/loss"]["points"]] == [3.0, 2.0, 1.0]
    assert fields["notes"]["size"] == len("written offline")


def test_a_debug_run_leaves_no_trace(server: ServerProcess, project: str) -> None:
    server.instruments.reset_counts()
    with open_run(mode="debug") as run:
        run["a"] = 1
    assert server.instruments.counts()["requests"] == {}


def test_ids_are_made_of_keys_and_counted_numbers(server: ServerProcess, project: str) -> None:
    with neptune.init_project(mode="read-only") as opened:
        key = opened["sys/id"].fetch()
    assert make_model("TREE", versions=2) == f"{key}-TREE"
    for _ in range(2):
        open_run().stop()
    kinds = {sys_id: each["kind"] for sys_id, each in server.instruments.state(project)["containers"].items()}
    assert kinds == {
        key: "project",
        f"{key}-TREE": "model",
        f"{key}-TREE-1": "modelVersion",
        f"{key}-TREE-2": "modelVersion",
        f"{key}-1": "run",
        f"{key}-2": "run",
    }


def test_a_model_key_is_used_once(project: str) -> None:
    make_model("ONCE")
    with pytest.raises(NeptuneModelKeyAlreadyExistsError):
        neptune.init_model(key="ONCE")


def test_a_custom_id_that_is_known_gives_back_its_run(server: ServerProcess, project: str) -> None:
    with open_run(custom_run_id="same") as first, open_run(custom_run_id="same") as second:
        first["a"] = 1
        second["b"] = 2
        assert first["sys/id"].fetch() == second["sys/id"].fetch()
        assert second["sys/custom_run_id"].fetch() == "same"
        second.sync()
        assert second["a"].fetch() == 1


def test_a_custom_id_of_more_than_36_characters_is_refused(server: ServerProcess, project: str) -> None:
    wanted = {"projectIdentifier": project, "type": "run", "customId": "x" * 37}
    assert Wire(server).post("/api/leaderboard/v1/experiments", wanted).status_code == 400


def test_what_does_not_exist_is_not_found(project: str) -> None:
    with pytest.raises(RunNotFound):
        open_run(with_id="NO-1")
    with pytest.raises(MetadataContainerNotFound):
        neptune.init_model(with_id="NO-MODEL")
    with pytest.raises(MetadataContainerNotFound):
        neptune.init_model_version(model="NO-MODEL")


def test_an_object_is_not_opened_as_another_kind(project: str) -> None:
    with pytest.raises(RunNotFound):
        open_run(with_id=make_model())


def test_only_a_missing_object_is_told_by_the_type_of_the_error(server: ServerProcess, project: str) -> None:
    wire, missing = Wire(server), "00000000-0000-0000-0000-000000000000"
    told = wire.get("/api/leaderboard/v1/experiments", experimentId=missing)
    untold = wire.get("/api/leaderboard/v1/attributes", experimentId=missing)
    assert (told.status_code, told.json()["errorType"]) == (404, "EXPERIMENT_NOT_FOUND")
    assert untold.status_code == 404
    assert "errorType" not in untold.json()


def test_each_kind_has_its_system_fields(project: str) -> None:
    model_id = make_model(versions=1)
    with neptune.init_model(with_id=model_id, mode="read-only") as model:
        assert set(model.get_structure()["sys"]) == SHARED
    with neptune.init_model_version(with_id=f"{model_id}-1", mode="read-only") as version:
        assert set(version.get_structure()["sys"]) == SHARED | {"model_id", "stage"}
        assert version["sys/model_id"].fetch() == model_id
        assert version["sys/stage"].fetch() == "none"
    with open_run(custom_run_id="mine") as run:
        assert set(run.get_structure()["sys"]) == SHARED | {"failed", "custom_run_id"}


def test_system_fields_are_mostly_read_only(project: str) -> None:
    with open_run() as run:
        for path, value in (("sys/id", "X-1"), ("sys/owner", "me"), ("sys/size", 1.0), ("sys/trashed", True)):
            with pytest.raises(MetadataInconsistency):
                run[path] = value
        run["sys/name"] = "new name"
        run["sys/description"] = "what it is"
        run["sys/failed"] = True
        run["sys/tags"].add(["a", "b"])
        assert run.fetch()["sys"]["name"] == "new name"


def test_no_system_field_can_be_invented_or_deleted(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        wire, identifier = Wire(server), run._id
        assert wire.execute(identifier, {"path": "sys/mine", "assignInt": {"value": 1}})
        assert wire.execute(identifier, {"path": "sys/name", "deleteAttribute": {}})
        assert wire.execute(identifier, {"path": "sys/stage", "assignString": {"value": "staging"}})


def test_group_tags_are_listed_though_unset(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        assert "group_tags" in run.get_structure()["sys"]
        with pytest.raises(FetchAttributeNotFoundException):
            run["sys/group_tags"].fetch()
        assert run["sys/tags"].fetch() == set()
        run["sys/group_tags"].add("group")
        assert run["sys/group_tags"].fetch() == {"group"}


def test_string_sets_stand_nowhere_else(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        assert Wire(server).execute(run._id, {"path": "my/tags", "insertStrings": {"values": ["a"]}})
        run.sync()
        assert not run.exists("my/tags")


def test_tags_are_added_removed_and_cleared(project: str) -> None:
    with open_run(tags=["a", "b", "c"]) as run:
        run["sys/tags"].remove("b")
        assert run["sys/tags"].fetch() == {"a", "c"}
        run["sys/tags"].clear()
        assert run["sys/tags"].fetch() == set()


def test_size_counts_the_bytes_that_are_stored(project: str) -> None:
    with open_run() as run:
        run["number"] = 1
        assert run["sys/size"].fetch() == 0.0
        run["file"].upload(neptune.types.File.from_content("12345"))
        assert run["sys/size"].fetch() == 5.0
        run["file"].upload(neptune.types.File.from_content("123"))
        assert run["sys/size"].fetch() == 3.0
        del run["file"]
        assert run["sys/size"].fetch() == 0.0


def test_the_time_of_modification_grows_with_writes_only(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        sys_id = run["sys/id"].fetch()
        moments = [moment_of_change(server, project, sys_id)]
        for number in range(5):
            run["number"] = number
            run["number"].fetch()
            run.sync()
            moments.append(moment_of_change(server, project, sys_id))
        run.fetch()
        run.ping()
        assert moments[-1] == moment_of_change(server, project, sys_id)
    assert moments == sorted(set(moments))


def test_stages_are_changed_and_checked(server: ServerProcess, project: str) -> None:
    model_id = make_model(versions=1)
    with neptune.init_model_version(with_id=f"{model_id}-1") as version:
        for stage in ("staging", "production", "archived", "none"):
            version.change_stage(stage)
            assert version["sys/stage"].fetch() == stage
        assert Wire(server).execute(version._id, {"path": "sys/stage", "assignString": {"value": "elsewhere"}})


def test_a_ping_makes_an_object_active(project: str) -> None:
    with open_run() as run:
        run.ping()
        assert run.fetch()["sys"]["state"] == "running"
        opened = neptune.init_project(mode="read-only")
        (row,) = opened.fetch_runs_table(columns=["sys/state"], progress_bar=False)
        assert row.get_attribute_value("sys/state") == "Active"


def test_trashed_objects_leave_the_tables_and_come_back(server: ServerProcess, project: str) -> None:
    model_id = make_model(versions=2)
    opened = neptune.init_project(mode="read-only")
    management.trash_objects(project, model_id)
    assert len(list(opened.fetch_models_table(progress_bar=False))) == 0
    assert len(list(opened.fetch_models_table(trashed=True, progress_bar=False))) == 1
    states = server.instruments.state(project)["containers"]
    assert all(states[sys_id]["trashed"] for sys_id in (model_id, f"{model_id}-1", f"{model_id}-2"))
    restored = Wire(server).post(
        "/api/leaderboard/v1/experiments/trash/restore", [f"{project}/{model_id}"], projectIdentifier=project
    )
    assert restored.json() == {"errors": [], "updatedExperimentIdentifiers": [f"{project}/{model_id}"]}
    assert len(list(opened.fetch_models_table(progress_bar=False))) == 1


def test_what_cannot_be_trashed_is_told_with_its_reason(server: ServerProcess, project: str) -> None:
    model_id = make_model()
    management.trash_objects(project, model_id)
    names = [f"{project}/{model_id}", f"{project}/NO-1", f"{project}/{model_id.partition('-')[0]}"]
    answer = Wire(server).post("/api/leaderboard/v1/experiments/trash", names, projectIdentifier=project).json()
    assert [error["reason"] for error in answer["errors"]] == ["ALREADY_TRASHED", "NOT_EXISTS", "IS_PROJECT"]
    assert answer["updatedExperimentIdentifiers"] == []


def test_only_what_lies_in_the_trash_is_deleted(server: ServerProcess, project: str) -> None:
    model_id = make_model(versions=1)
    other_id = make_model("OTHER")
    management.delete_objects_from_trash(project, other_id)
    management.trash_objects(project, model_id)
    management.clear_trash(project)
    left = {each["kind"] for each in server.instruments.state(project)["containers"].values()}
    assert left == {"project", "model"}
    assert other_id in server.instruments.state(project)["containers"]


def test_git_information_becomes_a_reference(server: ServerProcess, project: str) -> None:
    commit = {
        "commitId": "abc",
        "message": "first",
        "authorName": "Jo",
        "authorEmail": "jo@example.org",
        "commitDate": "2024-05-01T10:00:00.000Z",
    }
    git_info = {"commit": commit, "repositoryDirty": False, "currentBranch": "main", "remotes": []}
    wanted = {"projectIdentifier": project, "type": "run", "gitInfo": git_info}
    wire = Wire(server)
    made = wire.post("/api/leaderboard/v1/experiments", wanted).json()
    found = wire.attributes(made["id"])["source_code/git"]
    assert found["type"] == "gitRef"
    assert found["gitRefProperties"]["commit"] == commit


def test_several_writers_share_one_run(project: str) -> None:
    with open_run(custom_run_id="shared", mode="async") as first, open_run(custom_run_id="shared") as second:
        for number in range(20):
            first[f"first/{number}"] = number
            second[f"second/{number}"] = number
        first.wait()
        second.sync()
        fetched = second.fetch()
    assert len(fetched["first"]) == len(fetched["second"]) == 20

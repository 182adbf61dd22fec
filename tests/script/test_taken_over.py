"""Runs that another, inexact script made in the same layout: they are not complete, whatever they look like."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import neptune
import pytest
from neptune.attributes import (
    Artifact,
    File,
    FileSeries,
    FileSet,
    FloatSeries,
    StringSeries,
    StringSet,
)

from tests.neptune_server.process import ServerProcess
from tests.support.planted import Planted
from tests.tools.torture import EXPERIMENTS, Play, complete, problems, small_registry, sources

ALL = 10_000


@pytest.fixture
def planted(server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planted]:
    monkeypatch.chdir(tmp_path)
    with small_registry(server) as registry:
        monkeypatch.setenv("NEPTUNE_PROJECT", registry.project)
        delete_half_a_copy(registry)
        yield registry
        server.instruments.clear_faults()


def delete_half_a_copy(planted: Planted) -> None:
    """Deletes the run in the trash for good, which no client can open."""
    runs = [sys_id for sys_id, each in planted.state()["containers"].items() if each["kind"] == "run"]
    url_path = f"{EXPERIMENTS}/trash/delete"
    planted.wire.post(url_path, runs, projectIdentifier=planted.project).raise_for_status()


def copy_inexactly(planted: Planted, fields: int = ALL) -> None:
    """Copies as a script by the public client alone does, which may be killed after so many fields of each object."""
    state = planted.state()["containers"]
    for object_id in sources(planted):
        is_model = state[object_id]["kind"] == "model"
        opening: Any = neptune.init_model if is_model else neptune.init_model_version
        source = opening(with_id=object_id, mode="read-only")
        model_id = object_id if is_model else source["sys/model_id"].fetch()
        run = neptune.init_run(
            custom_run_id=object_id,
            tags=["model" if is_model else "model_version"],
            capture_stdout=False,
            capture_stderr=False,
            capture_hardware_metrics=False,
            git_ref=False,
            source_files=[],
        )
        run["sys/group_tags"].add([model_id])
        run["source_code/entrypoint"] = "migrate.py"  # as init_run does by itself in a script
        paths = leaves(source.get_structure())
        for path, field in islice(sorted(paths, key=lambda each: not each[0].startswith("sys/")), fields):
            copy_field(source, run, path, field)
        run.stop()
        source.stop()


def leaves(structure: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in structure.items():
        if isinstance(part, dict):
            yield from leaves(part, f"{prefix}{name}/")
        else:
            yield prefix + name, part


def copy_field(source: Any, run: Any, path: str, field: Any) -> None:
    """Loses milliseconds, extensions, artifacts, and what images have beside them."""
    target = path.replace("sys/", "old_sys/", 1) if path.startswith("sys/") and "tags" not in path else path
    if path == "sys/state" or isinstance(field, (Artifact, StringSet)):
        return
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(field, (FloatSeries, StringSeries)):
            for _, point in source[path].fetch_values(progress_bar=False).iterrows():
                run[target].append(point["value"], step=point["step"], timestamp=point["timestamp"].timestamp() // 1)
        elif isinstance(field, (File, FileSeries, FileSet)):
            source[path].download(folder, progress_bar=False)
            run[target].upload_files(folder)
        else:
            run[target] = source[path].fetch()
        run.wait()


def test_they_are_copied_anew(planted: Planted, tmp_path: Path) -> None:
    copy_inexactly(planted)
    assert problems(planted) != []
    before = planted.state()
    assert "source_code/entrypoint" in attributes(before, planted)
    preview = Play(planted, tmp_path, "--dry-run").end()
    assert preview.output.count("copy: incomplete") == 2
    assert planted.state() == before
    ended = Play(planted, tmp_path).end()
    assert "0 up to date, 2 to copy" in ended.output
    assert "Taken out of 2 runs, " in ended.output
    assert (ended.status, problems(planted)) == (0, [])
    assert "2 up to date, 0 to copy" in Play(planted, tmp_path).end().output


@pytest.mark.parametrize("fields", [1, 12, 20])
def test_they_are_copied_anew_where_they_were_broken_off(planted: Planted, tmp_path: Path, fields: int) -> None:
    copy_inexactly(planted, fields)
    ended = Play(planted, tmp_path).end()
    assert "0 up to date, 2 to copy" in ended.output
    assert (ended.status, problems(planted)) == (0, [])


def test_they_are_taken_over_although_the_client_has_turned_their_creation_back(
    planted: Planted, tmp_path: Path
) -> None:
    copy_inexactly(planted)
    for each in planted.state()["containers"].values():
        if each["kind"] == "run":
            created = each["attributes"]["old_sys/creation_time"]["value"]
            earlier = {"path": "old_sys/creation_time", "assignDatetime": {"valueMilliseconds": created - 1}}
            assert planted.wire.execute(each["id"], earlier) == []
    assert complete(planted, tmp_path) == []


def test_they_are_no_copies_to_verify_or_to_undo_or_to_trash_models_for(planted: Planted, tmp_path: Path) -> None:
    copy_inexactly(planted)
    before = planted.state()
    ended = Play(planted, tmp_path, "--verify", "--dry-run", "--trash-models").end()
    assert {row["status"] for row in ended.report} == {"incomplete"}
    ended = Play(planted, tmp_path, "--undo", "--yes").end()
    assert "0 runs made by this script" in ended.output
    assert planted.state() == before
    planted.server.instruments.fault("fileAtomUpload", "status", status=403, times=None)
    ended = Play(planted, tmp_path, "--trash-models", "--yes").end()
    planted.server.instruments.clear_faults()
    model, version = sources(planted)
    state = planted.state()["containers"]
    assert (ended.status, state[model]["trashed"], state[version]["trashed"]) == (1, False, True)
    ended = Play(planted, tmp_path, "--undo", "--yes").end()
    assert "1 run made by this script" in ended.output


def attributes(state: dict[str, Any], planted: Planted) -> dict[str, Any]:
    """Those of the model's run."""
    model, _ = sources(planted)
    runs = [each["attributes"] for each in state["containers"].values() if each["kind"] == "run"]
    (found,) = [run for run in runs if run["sys/custom_run_id"]["value"] == model]
    return dict(found)

"""Runs that another, inexact script made in the same layout: they are not complete, whatever they look like."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import neptune
import pytest
from neptune.attributes import Artifact, FileSeries, FileSet, FloatSeries, StringSeries, StringSet
from neptune.attributes import File as FileField
from neptune.types import File

from tests.neptune_server.process import ServerProcess
from tests.support.planted import Planted
from tests.tools.torture import EXPERIMENTS, Play, complete, problems, small_registry, sources

IN_THE_MIDDLE_OF_A_SERIES = 20
"""The number of writes after which the model's run has all of `old_sys/`, some points and no file."""


@pytest.fixture
def planted(server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planted]:
    monkeypatch.chdir(tmp_path)
    with small_registry(server) as registry:
        monkeypatch.setenv("NEPTUNE_PROJECT", registry.project)
        delete_half_a_copy(registry)
        yield registry
        server.instruments.clear_faults()


def delete_half_a_copy(planted: Planted) -> None:
    """Delete the run in the trash for good, because no client can open it."""
    runs = [sys_id for sys_id, each in planted.state()["containers"].items() if each["kind"] == "run"]
    url_path = f"{EXPERIMENTS}/trash/delete"
    planted.wire.post(url_path, runs, projectIdentifier=planted.project).raise_for_status()


# -- the other script --


def copy_inexactly(planted: Planted, stop_after: int | None = None) -> None:
    """Copy as a script by the public client alone does. It breaks off after `stop_after` writes to each run."""
    state = planted.state()["containers"]
    for object_id in sources(planted):
        is_model = state[object_id]["kind"] == "model"
        opening: Any = neptune.init_model if is_model else neptune.init_model_version
        source = opening(with_id=object_id, mode="read-only")
        run = neptune.init_run(
            custom_run_id=object_id,
            mode="sync",
            tags=["model" if is_model else "model_version"],
            capture_stdout=False,
            capture_stderr=False,
            capture_hardware_metrics=False,
            git_ref=False,
            source_files=[],
        )
        run["sys/group_tags"].add([object_id if is_model else source["sys/model_id"].fetch()])
        run["source_code/entrypoint"] = "migrate.py"  # as init_run does by itself in a script
        list(islice(writes(source, run), stop_after))
        run.stop()
        source.stop()


def writes(source: Any, run: Any) -> Iterator[None]:
    """Copy field by field, those under `sys/` first; come back after each value, point and file."""
    for path, field in sorted(leaves(source.get_structure()), key=lambda leaf: not is_system(leaf[0])):
        kind = next((kind for kind in COPYING if isinstance(field, kind)), None)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            if kind is not None:
                yield from COPYING[kind](field, run[path], folder)
            elif path != "sys/state" and not isinstance(field, (Artifact, StringSet)):
                run[f"old_{path}" if is_system(path) else path] = field.fetch()
                yield


def leaves(structure: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in structure.items():
        if isinstance(part, dict):
            yield from leaves(part, f"{prefix}{name}/")
        else:
            yield prefix + name, part


def is_system(path: str) -> bool:
    return path.startswith("sys/")


def copy_points(series: Any, target: Any, folder: str) -> Iterator[None]:
    """Lose the milliseconds and the configuration."""
    for _, point in series.fetch_values(progress_bar=False).iterrows():
        local: datetime = point["timestamp"]
        target.append(point["value"], step=point["step"], timestamp=local.timestamp() // 1)
        yield


def copy_images(series: Any, target: Any, folder: str) -> Iterator[None]:
    """Lose the steps, the times, the names and the descriptions."""
    series.download(folder, progress_bar=False)
    for image in sorted(Path(folder).iterdir()):
        target.append(File(str(image)))
        yield


def copy_file(file: Any, target: Any, folder: str) -> Iterator[None]:
    """Lose the extension."""
    file.download(f"{folder}/file", progress_bar=False)
    target.upload(f"{folder}/file")
    yield


def copy_file_set(files: Any, target: Any, folder: str) -> Iterator[None]:
    """Put the folder of the download before each name."""
    files.download(f"{folder}/files.zip", progress_bar=False)
    with zipfile.ZipFile(f"{folder}/files.zip") as archive:
        archive.extractall(f"{folder}/unpacked")
    target.upload_files(f"{folder}/unpacked")
    yield


COPYING: dict[type, Callable[[Any, Any, str], Iterator[None]]] = {
    FloatSeries: copy_points,
    StringSeries: copy_points,
    FileSeries: copy_images,
    FileField: copy_file,
    FileSet: copy_file_set,
}


# -- taken over --


def wrong_paths(planted: Planted, source_id: str) -> set[str]:
    """Tell which paths of a source's run are wrong."""
    told = [words.split(": ") for words in problems(planted)]
    return {path for owner, path, *_ in told if owner == source_id}


def test_they_are_copied_anew(planted: Planted, tmp_path: Path) -> None:
    copy_inexactly(planted)
    model, version = sources(planted)
    inexact = {"data", "log", "metrics/loss", "one file", "weights", "source_code/entrypoint", "old_sys/name"}
    assert inexact <= wrong_paths(planted, model)
    assert {"files", "images", "large", "source_code/entrypoint"} <= wrong_paths(planted, version)
    before = planted.state()
    preview = Play(planted, tmp_path, "--dry-run").end()
    assert preview.planned == dict.fromkeys((model, version), "incomplete")
    assert planted.state() == before
    ended = Play(planted, tmp_path).end()
    assert "0 up to date, 2 to copy" in ended.output
    assert all("removed: " in ended.row(source)["error"] for source in (model, version))
    assert (ended.status, problems(planted)) == (0, [])
    assert "2 up to date, 0 to copy" in Play(planted, tmp_path).end().output


@pytest.mark.parametrize("writes", [1, 12, IN_THE_MIDDLE_OF_A_SERIES])
def test_they_are_copied_anew_where_they_were_broken_off(planted: Planted, tmp_path: Path, writes: int) -> None:
    copy_inexactly(planted, writes)
    if writes == IN_THE_MIDDLE_OF_A_SERIES:
        run = planted.runs()[sources(planted)[0]]
        assert 0 < len(run["metrics/loss"]["points"]) < 30
        assert "old_sys/modification_time" in run and "weights" not in run
    before = planted.state()
    preview = Play(planted, tmp_path, "--dry-run").end()
    assert "0 up to date, 2 to copy" in preview.output
    assert planted.state() == before
    ended = Play(planted, tmp_path).end()
    assert "0 up to date, 2 to copy" in ended.output
    assert (ended.status, problems(planted)) == (0, [])
    assert "2 up to date, 0 to copy" in Play(planted, tmp_path).end().output


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


def test_they_are_no_copies_to_verify_or_to_trash_models_for(planted: Planted, tmp_path: Path) -> None:
    copy_inexactly(planted)
    before = planted.state()
    for flags in (("--verify",), ("--verify", "--trash-models", "--yes"), ("--trash-models", "--yes")):
        ended = Play(planted, tmp_path, "--dry-run", *flags).end()
        assert set(ended.planned.values()) == {"incomplete"}
        assert planted.state() == before


def test_a_model_stays_where_its_run_could_not_be_taken_over(planted: Planted, tmp_path: Path) -> None:
    copy_inexactly(planted)
    planted.server.instruments.fault("fileAtomUpload", "status", status=403, times=None)
    ended = Play(planted, tmp_path, "--trash-models", "--yes").end()
    model, version = sources(planted)
    state = planted.state()["containers"]
    assert (ended.status, state[model]["trashed"], state[version]["trashed"]) == (1, False, True)
    planted.server.instruments.clear_faults()
    ended = Play(planted, tmp_path, "--trash-models", "--yes").end()
    assert (ended.status, planted.state()["containers"][model]["trashed"]) == (0, True)


def test_they_are_to_undo_only_once_they_were_taken_over(planted: Planted, tmp_path: Path) -> None:
    copy_inexactly(planted)
    before = planted.state()
    ended = Play(planted, tmp_path, "--undo", "--yes").end()
    assert "0 runs made by this script" in ended.output
    assert planted.state() == before
    assert Play(planted, tmp_path).end().status == 0
    ended = Play(planted, tmp_path, "--undo", "--yes").end()
    assert "2 runs made by this script" in ended.output
    runs = [each["trashed"] for each in planted.state()["containers"].values() if each["kind"] == "run"]
    assert runs == [True, True]

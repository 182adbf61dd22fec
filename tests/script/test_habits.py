"""Shells, locales and directories as people have them: each start ends with a known status and no traceback."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.support.planted import Planted, points, value
from tests.support.script import SCRIPT, environment, run_script
from tests.tools.torture import Play, bare_registry, complete, new_project, planted_file, problems, sources

if sys.platform == "win32":
    pytest.skip("There are no shells of this kind here", allow_module_level=True)

STREAMS = {
    "as they are": "{}",
    "no input": "{} <&-",
    "no errors": "{} 2>&-",
    "no output": "{} >&-",
    "a pipe that closes": "{} | head -n 1",
}
LOCALES = ("C", "C.UTF-8", "en_US.ISO-8859-1")


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    with bare_registry(server) as registry:
        registry.model({"zażółć": value("string", "gęślą"), "weights": planted_file(b"weights", "bin")})
        yield registry


def in_a_shell(planted: Planted, command: str, folder: Path, **env: str | None) -> subprocess.CompletedProcess[bytes]:
    call = f"{sys.executable} {SCRIPT} --project {planted.project} --workers 2"
    env = {"PYTHONUTF8": None, **env}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command.format(call)}"],
        cwd=folder,
        env=environment(planted.server, env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("locale", LOCALES)
def test_streams_and_locales(planted: Planted, tmp_path: Path, streams: str, locale: str) -> None:
    ended = in_a_shell(planted, STREAMS[streams], tmp_path, LC_ALL=locale)
    assert (ended.returncode, b"Traceback" in ended.stdout) == (0, False), ended.stdout
    assert problems(planted) == []


@pytest.mark.parametrize("streams", ["as they are", "no input", "no errors"])
def test_a_directory_in_which_nothing_can_be_made(planted: Planted, streams: str) -> None:
    ended = in_a_shell(planted, STREAMS[streams], Path("/proc"))
    assert (ended.returncode, b"Traceback" in ended.stdout) == (2, False), ended.stdout
    assert streams == "no errors" or b"Cannot write to this directory" in ended.stdout
    assert planted.runs() == {}


def test_where_processes_are_spawned_nothing_is_said_at_the_end(planted: Planted, tmp_path: Path) -> None:
    """As on macOS, and on Linux since Python 3.14: there Python warns about locks that processes could share."""
    (tmp_path / "sitecustomize.py").write_text('import multiprocessing\nmultiprocessing.set_start_method("spawn")\n')
    ended = in_a_shell(planted, "{} 2>&1 >&-", tmp_path, PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (0, b"")


def test_a_disk_that_is_full_from_the_beginning(planted: Planted, tmp_path: Path) -> None:
    """No file can grow: as where there is no room left."""
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--project", planted.project],
        cwd=tmp_path,
        env=environment(planted.server),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert (ended.returncode, len(ended.stderr.splitlines()), list(tmp_path.iterdir())) == (2, 1, []), ended.stderr
    assert "Cannot write to this directory" in ended.stderr
    assert complete(planted, tmp_path) == []


@pytest.mark.parametrize("module", [b" argparse", b" tarfile", b" urllib3"])
def test_ctrl_c_while_the_imports_run(planted: Planted, tmp_path: Path, module: bytes) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--project", planted.project],
        cwd=tmp_path,
        env=environment(planted.server),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    next(line for line in process.stderr if module in line)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert (process.wait(60), b"Interrupted." in said, b"Traceback" in said) == (130, True, False), said[-500:]


@pytest.mark.parametrize("name", [b"acme/\xff", b"\xff", b"acme/\xc5"])
def test_bytes_that_are_no_text_in_the_name_of_a_project(planted: Planted, tmp_path: Path, name: bytes) -> None:
    ended = subprocess.run(
        [sys.executable.encode(), os.fsencode(SCRIPT), b"--project", name],
        cwd=tmp_path,
        env=environment(planted.server),
        capture_output=True,
        timeout=60,
    )
    assert (ended.returncode, b"Traceback" in ended.stderr) == (2, False), ended.stderr
    assert b"There is no project " in ended.stderr


def test_more_workers_than_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--workers", "50000000"]) == 2
    assert "'50000000' is not a positive whole number of at most 200" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["n" * 230, "名" * 80, "a, b", "with a blank", "a%2Fb"])
def test_names_of_projects_that_are_unusual(server: ServerProcess, tmp_path: Path, name: str) -> None:
    project = f"{new_project(server).replace('/', '-')}/{name}"
    server.instruments.create_project(project)
    registry = Planted(server, project)
    registry.model({"depth": value("int", 1)})
    ended = Play(registry, tmp_path).end()
    assert (ended.status, problems(registry)) == (0, []), ended.output
    assert max(len(file.name.encode()) for file in tmp_path.iterdir()) < 200
    star = run_script(server, "--project", f"{project.partition('/')[0]}/*", cwd=tmp_path)
    assert (star.status, "1 up to date" in star.output) == (0, True), star.output


def test_a_series_without_points_and_an_artifact_without_a_hash(planted: Planted, tmp_path: Path) -> None:
    emptied = {"type": "artifact", "hash": ""}
    model = planted.model({"empty": points("floatSeries", []), "data": emptied}, key="EMPTY")
    ended = Play(planted, tmp_path).end()
    assert (ended.status, ended.row(model)["error"]) == (0, "skipped: data (artifact: it is empty)"), ended.output
    assert ("empty" in planted.runs()[model], "data" in planted.runs()[model]) == (True, False)


@pytest.mark.parametrize("path", ["sys/ping_time", "sys/running_time", "sys/monitoring_time"])
def test_what_changes_by_itself_is_named_and_no_difference(planted: Planted, tmp_path: Path, path: str) -> None:
    model = planted.model(key="OPEN")
    assert complete(planted, tmp_path) == []
    run = planted.runs()[model]
    kind = {"type": "datetime", "value": 1_700_000_000_000} if path == "sys/ping_time" else value("int", 12345)
    before = planted.state()["containers"][model]["attributes"]["sys/modification_time"]
    planted.put(model, {path: {**before, **kind} if path == "sys/ping_time" else kind})
    planted.put(model, {"sys/modification_time": before})
    assert f"old_{path}" in run or path != "sys/ping_time"
    ended = Play(planted, tmp_path, "--verify").end()
    assert ended.status == 0, ended.output
    assert f"kept: old_{path}: " in ended.row(model)["error"]
    assert "addition" not in ended.output


def test_the_version_and_the_short_flags(planted: Planted, tmp_path: Path) -> None:
    before = planted.state()
    ended = run_script(planted.server, "--project", planted.project, "-n", cwd=tmp_path)
    assert (ended.status, planted.state()) == (0, before)
    assert "neptune 1." in run_script(planted.server, "--version", cwd=tmp_path).output
    assert script.parse(["-y", "--only", "A,B-?, D", "--only", "C"]).only == ["A", "B-?", "D", "C"]


@pytest.mark.parametrize("own", ["sys/name", "sys/tags", "sys/description", "note"])
def test_a_run_of_somebodys_own_under_the_custom_run_id_is_left_alone(
    planted: Planted, tmp_path: Path, own: str
) -> None:
    model = planted.model({"depth": value("int", 1)}, key="TAKEN")
    field = {"type": "stringSet", "value": ["mine"]} if own == "sys/tags" else value("string", "mine")
    planted.run({own: field}, custom_id=model)
    before = planted.runs()[model]
    ended = run_script(planted.server, "--project", planted.project, cwd=tmp_path)
    assert (ended.status, planted.runs()[model]) == (1, before)
    assert f"is not its copy (it has {own})" in ended.row(model)["error"]
    assert "Failed:" in ended.output.splitlines(), "no retry mends this"


def test_an_empty_run_under_the_custom_run_id_becomes_the_copy(planted: Planted, tmp_path: Path) -> None:
    """A start that was killed early may have left it."""
    planted.run(custom_id=planted.model({"depth": value("int", 1)}, key="EMPTY"))
    assert complete(planted, tmp_path) == []


ODD = {
    "series": points("floatSeries", [[0.0, 1, 1.0]]),
    "string": value("string", "yesterday"),
    "float": value("float", 1.5),
    "set": value("stringSet", ["a"]),
}
"""Fields that people may log under a path that is the script's own: of a type that it never writes there."""


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("path", ["old_sys/id", "old_sys/verified", "old_sys/creation_time"])
def test_a_run_of_somebodys_own_with_fields_of_odd_types_stops_nothing(
    server: ServerProcess, tmp_path: Path, path: str, odd: str
) -> None:
    with bare_registry(server) as registry:
        model = registry.model({"depth": value("int", 1)})
        tags = {"sys/tags": value("stringSet", ["model"]), "sys/group_tags": value("stringSet", [model])}
        registry.run({path: ODD[odd], **tags}, custom_id="of somebody")
        before = registry.runs()["of somebody"]
        assert run_script(server, "--project", registry.project, cwd=tmp_path).status == 0
        ended = run_script(server, "--project", registry.project, "--undo", "--yes", cwd=tmp_path)
        assert (ended.status, registry.runs()["of somebody"]) == (0, before), ended.output
        assert "1 run made by this script" in ended.output


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("path", ["old_sys/verified", "old_sys/creation_time"])
def test_a_field_of_an_odd_type_in_a_copy_is_written_anew(
    planted: Planted, tmp_path: Path, path: str, odd: str
) -> None:
    assert complete(planted, tmp_path) == []
    (run,) = (sys_id for sys_id, each in planted.state()["containers"].items() if each["kind"] == "run")
    planted.put(run, {path: ODD[odd]})
    ended = run_script(planted.server, "--project", planted.project, "--recopy", cwd=tmp_path)
    assert (ended.status, problems(planted)) == (0, []), ended.output


def test_a_begun_run_with_an_owner_of_an_odd_type_is_copied_anew(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    run = planted.run({"old_sys/id": value("float", 1.0)}, custom_id=model)
    planted.put(run, {"sys/tags": value("stringSet", ["model", "incomplete copy 0123abcd"])})
    assert complete(planted, tmp_path) == []


def test_what_a_retry_may_mend_is_said_to_be_worth_one(planted: Planted, tmp_path: Path) -> None:
    planted.server.instruments.fault("lsFileSetAttribute", "status", status=403, times=None)
    planted.server.instruments.fault("executeOperations", "operation_error", body="no", path="zażółć", times=None)
    ended = run_script(planted.server, "--project", planted.project, cwd=tmp_path)
    planted.server.instruments.clear_faults()
    assert (ended.status, "Failed (run again to retry):" in ended.output) == (1, True), ended.output
    assert complete(planted, tmp_path) == []


def test_a_dry_run_sees_a_custom_run_id_that_is_taken(planted: Planted, tmp_path: Path) -> None:
    model = planted.model({"depth": value("int", 1)}, key="TAKEN")
    planted.run({"note": value("string", "mine")}, custom_id=model)
    ended = run_script(planted.server, "--project", planted.project, "--dry-run", cwd=tmp_path)
    assert (ended.status, ended.planned[model]) == (1, "failed")
    assert "is not its copy (it has note)" in ended.output


def test_patterns_that_match_nothing_are_named_with_what_was_meant(planted: Planted, tmp_path: Path) -> None:
    model = planted.model({"depth": value("int", 1)}, key="FAR")

    def dry_run(*flags: str) -> str:
        return run_script(planted.server, planted.project, "--dry-run", *flags, cwd=tmp_path).output

    assert f"Did you mean {model}?" in dry_run("--only", "FAR")
    assert f"matches --only {model.lower()!r}. Did you mean {model} or " in dry_run("--only", f"*,{model.lower()}")
    assert "--only has an empty value" in dry_run("--only", ",")


def test_a_terminal_with_few_open_files_is_no_obstacle(planted: Planted, tmp_path: Path) -> None:
    for number in range(40):
        planted.model({"weights": planted_file(b"weights", "bin")}, key=f"KEY{number}")
    arguments = f"{shlex.quote(sys.executable)} {SCRIPT} --project {planted.project} --workers 80"
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -S -n 40; {arguments}"],
        cwd=tmp_path,
        env=environment(planted.server),
        capture_output=True,
        encoding="utf-8",
    )
    assert (ended.returncode, problems(planted)) == (0, []), ended.stdout

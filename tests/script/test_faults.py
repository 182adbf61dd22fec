"""What goes wrong on the network, on the disk and at the keyboard: the script survives it, or says what has failed."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.support.planted import Planted, connected, points, value
from tests.support.registry import PART, noise, planted_file, planted_file_set, planted_image
from tests.support.script import command, environment
from tests.tools.benchmark import token_over
from tests.tools.line import Line, Speed
from tests.tools.torture import (
    COPIED,
    EXPIRY,
    FAILED,
    NO_START,
    TROUBLES,
    Cell,
    Play,
    asked,
    bare_registry,
    complete,
    is_named,
    meet,
    problems,
    small_registry,
    sources,
    undisturbed,
    until,
)

MARK = "old_sys/verified"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One of this module's own: its tokens expire at once now and then, which other tests' clients need not bear."""
    with ServerProcess() as process:
        yield process


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    with small_registry(server) as registry:
        yield registry
        server.instruments.clear_faults()


@pytest.fixture
def bare(server: ServerProcess) -> Iterator[Planted]:
    """A registry to be filled."""
    with bare_registry(server) as registry:
        yield registry


def run_of(planted: Planted, source_id: str) -> dict[str, Any]:
    return planted.runs()[source_id]


# -- each request, each fault --

SAMPLE = (
    ("exchangeApiToken", "503", "first", COPIED),
    ("listProjects", "403", "repeatedly", NO_START),
    ("searchLeaderboardEntries", "500", "repeatedly", COPIED),
    ("getExperimentAttributes", "502", "repeatedly", COPIED),
    ("createExperiment", "answer lost", "first", COPIED),
    ("executeOperations", "answer lost", "last", COPIED),
    ("executeOperations", "error in the answer", "repeatedly", FAILED),
    ("executeOperations", "403", "repeatedly", FAILED),
    ("getFloatSeriesValues", "429, come back in 1 s", "first", COPIED),
    ("getFloatSeriesValues", "answer cut short", "repeatedly", COPIED),
    ("getImageSeriesValue", "reset", "first", COPIED),
    ("getImageSeriesValue", "a proxy's page", "first", COPIED),
    ("downloadAttribute", "answer cut short", "repeatedly", COPIED),
    ("download", "answer cut short", "first", COPIED),
    ("lsFileSetAttribute", EXPIRY, "first", COPIED),
    ("downloadAttribute", EXPIRY, "last", COPIED),
    ("fileAtomMultipartUploadPart", "reset while it is sent", "first", COPIED),
    ("fileAtomMultipartUploadPart", EXPIRY, "first", COPIED),
    ("uploadFileSetAttributeTar", "404", "repeatedly", FAILED),
)


@pytest.fixture(scope="module")
def requests(server: ServerProcess) -> dict[str, int]:
    """How often an undisturbed run asks for each operation."""
    return undisturbed(server, "first")


@pytest.mark.parametrize(("operation", "name", "occasion", "expected"), SAMPLE)
def test_nothing_is_lost(
    server: ServerProcess, requests: dict[str, int], operation: str, name: str, occasion: str, expected: str
) -> None:
    (trouble,) = (each for each in TROUBLES if each.name == name)
    verdict = meet(server, Cell(operation, trouble, occasion, requests[operation]))
    assert verdict.word == expected, verdict.details


# -- one field --


@pytest.mark.parametrize(
    ("operation", "path", "fault"),
    [
        ("downloadAttribute", "weights", {"kind": "status", "status": 403}),
        ("downloadAttribute", "weights", {"kind": "status", "status": 404}),
        ("fileAtomUpload", "weights", {"kind": "status", "status": 403}),
        ("fileAtomUpload", "weights", {"kind": "operation_error", "body": "the disk is full"}),
        ("executeOperations", "params/depth", {"kind": "operation_error", "body": "not today"}),
        ("getFloatSeriesValues", "metrics/loss", {"kind": "status", "status": 403}),
    ],
)
def test_a_field_that_cannot_be_copied_fails_alone_and_at_once(
    planted: Planted, tmp_path: Path, operation: str, path: str, fault: dict[str, Any]
) -> None:
    instruments = planted.server.instruments
    instruments.fault(operation, path=path, times=None, **fault)
    ended = Play(planted, tmp_path).end()
    instruments.clear_faults()
    model, _ = sources(planted)
    assert ended.status == 1
    assert "Waiting" not in ended.log
    assert "Traceback" not in ended.log
    reason = fault.get("body") or str(fault["status"])
    for told in (ended.output, ended.log, ended.row(model)["error"]):
        assert f"{path}: " in told and reason in told
    missing = {words.split(": ")[1] for words in planted.differences() if words.startswith(f"{model}:")}
    assert missing == {path, MARK, "sys/tags"}
    assert complete(planted, tmp_path) == []


def test_what_was_stored_twice_is_seen_to_be_there_once(bare: Planted, tmp_path: Path) -> None:
    """Images and points that need several requests, of which the second is repeated because its answer is lost."""
    pictures = [planted_image(noise(5 << 20, seed)) for seed in (1, 2)]
    model = bare.model(
        {
            "images": points("imageSeries", [[step, 7, image] for step, image in enumerate(pictures)]),
            "loss": points("floatSeries", [[step, step, step / 7] for step in range(40_001)]),
        }
    )
    instruments = bare.server.instruments
    for path in ("images", "loss"):
        instruments.fault("executeOperations", "lost_answer", path=path, after=1)
    ended = Play(bare, tmp_path).end()
    assert (ended.status, ended.row(model)["error"]) == (0, "")
    assert problems(bare) == []
    assert ended.log.count(" s: no answer to writing fields") == 2


# -- a large file, which goes up while it comes down --

LARGE = 2 * PART + 1


def test_a_large_file_goes_up_while_it_comes_down(bare: Planted, tmp_path: Path) -> None:
    """Over a line on which all of it takes seconds."""
    size = 6 * PART
    bare.model({"large": planted_file(noise(size, seed=1), "bin")})
    server, address = bare.server, urlsplit(bare.server.url)
    with Line(address.hostname or "", address.port or 0, Speed(down=160, up=160, round_trip=1)) as line:
        token = token_over(line, server.environment["NEPTUNE_API_TOKEN"])
        server.instruments.reset_counts()
        play = Play(bare, tmp_path, env={"NEPTUNE_API_TOKEN": token})
        until(lambda: asked(server.instruments, "fileAtomMultipartUploadPart") > 0)
        assert server.instruments.counts()["bytes_out"]["downloadAttribute"] < size
        assert (play.end().status, problems(bare)) == (0, [])
    assert asked(server.instruments, "downloadAttribute") == 1


def test_a_large_file_that_is_cut_short_begins_anew_in_both_directions(bare: Planted, tmp_path: Path) -> None:
    bare.model({"large": planted_file(noise(LARGE, seed=1), "bin")})
    instruments = bare.server.instruments
    instruments.reset_counts()
    instruments.fault("downloadAttribute", "truncate", bytes=PART + 1000)
    ended = Play(bare, tmp_path).end()
    assert (ended.status, problems(bare)) == (0, [])
    assert asked(instruments, "fileAtomMultipartUploadStart") == 2


def test_a_large_file_is_never_put_together_from_two(bare: Planted, tmp_path: Path) -> None:
    """Its download is cut short, and another file of that size is in its place when it begins anew."""
    other = noise(LARGE, seed=2)
    model = bare.model({"large": planted_file(noise(LARGE, seed=1), "bin")})
    instruments = bare.server.instruments
    instruments.reset_counts()
    instruments.fault("downloadAttribute", "truncate", bytes=PART + 1000)
    instruments.fault("downloadAttribute", "delay", seconds=1)
    play = Play(bare, tmp_path)
    until(lambda: asked(instruments, "downloadAttribute") == 2)
    bare.put(model, {"large": planted_file(other, "bin")})
    play.end()
    assert run_of(bare, model)["large"]["sha256"] == hashlib.sha256(other).hexdigest()
    assert complete(bare, tmp_path) == []


def test_a_large_file_that_is_refused_is_not_downloaded_to_its_end(bare: Planted, tmp_path: Path) -> None:
    size = 6 * PART
    bare.model({"large": planted_file(noise(size, seed=1), "bin")})
    server, address = bare.server, urlsplit(bare.server.url)
    server.instruments.fault("fileAtomMultipartUploadPart", "status", status=403, times=None)
    with Line(address.hostname or "", address.port or 0, Speed(down=160, up=160, round_trip=1)) as line:
        token = token_over(line, server.environment["NEPTUNE_API_TOKEN"])
        ended = Play(bare, tmp_path, env={"NEPTUNE_API_TOKEN": token}).end()
        assert line.carried().down < size
    server.instruments.clear_faults()
    assert ended.status == 1
    assert "large: uploading: the server refused it (403" in ended.output
    assert complete(bare, tmp_path) == []


def test_a_page_instead_of_a_file_is_asked_for_again(bare: Planted, tmp_path: Path) -> None:
    bare.model({"weights": planted_file(b"weights" * 100, "bin")})
    headers = {"Content-Type": "text/html"}
    bare.server.instruments.fault("downloadAttribute", "status", status=200, body="<html>", headers=headers, times=2)
    ended = Play(bare, tmp_path).end()
    assert (ended.status, problems(bare)) == (0, [])
    assert "6 bytes (text/html) came instead of 700" in ended.log


@pytest.mark.parametrize("size", [100, PART + 1])
def test_an_upload_that_was_not_stored_is_not_taken_for_the_earlier_file_of_that_size(
    bare: Planted, tmp_path: Path, size: int
) -> None:
    model = bare.model({"weights": planted_file(b"A" * size, "bin")})
    assert complete(bare, tmp_path) == []
    bare.put(model, {"weights": planted_file(b"B" * size, "bin")})
    instruments = bare.server.instruments
    said: dict[str, Any] = {"errors": []}
    instruments.fault("fileAtomUpload", "status", status=200, body=said)
    instruments.fault("fileAtomMultipartUploadPart", "status", status=200, body=said, times=None)
    instruments.fault("fileAtomMultipartUploadFinish", "status", status=200, body=said)
    ended = Play(bare, tmp_path).end()
    instruments.clear_faults()
    assert (ended.status, "weights: the content differs" in ended.output) == (1, True), ended.output
    assert complete(bare, tmp_path) == []


def test_a_folder_without_a_name_in_a_file_set_ends_somewhere(bare: Planted, tmp_path: Path) -> None:
    model = bare.model({"files": planted_file_set({"a//b": b"1", "c": b"2"}), "depth": value("int", 1)})
    ended = Play(bare, tmp_path).end()
    assert (ended.status, list(ended.row(model)["error"].partition(":")[:1])) == (1, ["files"]), ended.output


# -- tokens and outages --


def test_tokens_that_live_for_seconds_are_renewed_in_the_middle_of_a_copy(tmp_path: Path) -> None:
    with ServerProcess("--token-ttl", "4") as server, small_registry(server) as planted:
        server.instruments.fault("downloadAttribute", "delay", seconds=4.5)
        server.instruments.reset_counts()
        ended = Play(planted, tmp_path).end()
        assert (ended.status, problems(planted)) == (0, [])
        assert asked(server.instruments, "token") > 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_an_outage_is_outlasted_and_shown(planted: Planted, tmp_path: Path) -> None:
    import pexpect

    server = planted.server
    server.instruments.reset_counts()
    server.instruments.fault("createExperiment", "delay", seconds=1)
    child = pexpect.spawn(
        sys.executable,
        command("--project", planted.project, "--workers", "2")[1:],
        cwd=str(tmp_path),
        env={**environment(server), "TERM": "xterm"},
        encoding="utf-8",
        dimensions=(30, 120),
        timeout=60,
    )
    until(lambda: asked(server.instruments, "createExperiment") > 0)
    server.instruments.outage(3, "reset")
    child.expect("waiting: no answer to ")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert problems(planted) == []


def test_an_outage_may_end_with_a_server_that_is_yet_to_find_its_feet() -> None:
    """Patience with one kind of failure is not used up by another one."""
    troubles = iter([script.Away("502", retry_after=0.4), script.Away("500", patience=0.2)])

    def attempt() -> str:
        for trouble in troubles:
            raise trouble
        return "done"

    assert script.Shared().patiently("anything", attempt) == "done"


def test_a_table_is_read_with_a_token_that_has_been_expired_by_the_server(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client knows of it where it calls a function of its own, but not for the pages of a table."""
    for name, setting in planted.server.environment.items():
        monkeypatch.setenv(name, setting)
    with connected(planted.project) as server:
        planted.server.instruments.expire_tokens()
        assert len(script.read_registry(server, script.Options())) == 2


# -- Ctrl-C --

UNANSWERED = 60.0
"""Seconds, for which requests hang when Ctrl-C comes: who waits for them takes longer than that."""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_the_script_and_the_next_run_goes_on(planted: Planted, tmp_path: Path, times: int) -> None:
    screen, status, seconds = interrupted(planted, tmp_path, times)
    assert status == 130
    assert seconds < UNANSWERED / 2
    assert "Traceback" not in screen
    assert "Interrupted: waiting up to 5 seconds" in screen
    assert ("\ntotal " in screen) == (times == 1)
    before = planted.state()
    ended = Play(planted, tmp_path).end()
    assert "did not finish, so this one reads every run" in ended.output
    assert (ended.status, problems(planted, before)) == (0, [])
    assert "did not finish" not in Play(planted, tmp_path).end().output


def interrupted(planted: Planted, place: Path, times: int) -> tuple[str, int, float]:
    """Interrupts the script while its requests hang; its screen, its status, and how long it took to end."""
    instruments = planted.server.instruments
    instruments.reset_counts()
    instruments.fault("executeOperations", "delay", seconds=UNANSWERED, times=None)
    shown = place / "screen.txt"
    with shown.open("w") as screen:
        process = subprocess.Popen(
            command("--project", planted.project, "--workers", "2"),
            cwd=place,
            env=environment(planted.server),
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until(lambda: asked(instruments, "executeOperations") > 0)
        began = time.monotonic()
        for number in range(times):
            until(lambda: time.monotonic() > began + number)  # noqa: B023
            os.killpg(process.pid, signal.SIGINT)
        status = process.wait(2 * UNANSWERED)
    seconds = time.monotonic() - began
    instruments.clear_faults()
    instruments.expire_tokens()
    return shown.read_text("utf-8"), status, seconds


# -- the disk --


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_fails_the_objects_concerned(planted: Planted, tmp_path: Path) -> None:
    limit = 1 << 20
    ended = Play(planted, tmp_path, largest_file=limit).end()
    model, version = sources(planted)
    assert ended.status == 1
    assert all(path.stat().st_size < limit for path in tmp_path.rglob("*")), "what is of no use takes the others' room"
    assert "Traceback" not in ended.output
    assert {row["source ID"]: row["status"] for row in ended.report} == {model: "copied", version: "failed"}
    assert is_named(version, ended)
    for path in ("large: ", "files: "):
        assert path in ended.output
    assert MARK not in run_of(planted, version)
    assert complete(planted, tmp_path) == []


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_what_cannot_be_logged_or_reported_is_still_on_the_screen(planted: Planted, tmp_path: Path) -> None:
    """A disk that is so full that neither log nor report fits any more."""
    python, *script = command("--project", planted.project, "--workers", "2")
    ended = subprocess.run(
        [python, "-c", LIMITED, *script],
        cwd=tmp_path,
        env=environment(planted.server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stdout and "Logging error" not in ended.stdout, ended.stdout
    assert ended.returncode == 1
    assert re.search(r"^total ", ended.stdout, re.MULTILINE)
    assert f"{sources(planted)[1]}  large: " in ended.stdout
    assert ("could not write the report" in ended.stdout) != ("\nReport: " in ended.stdout)
    assert complete(planted, tmp_path) == []


def test_too_little_disk_is_said_before_anything_is_copied(planted: Planted, tmp_path: Path) -> None:
    _, version = sources(planted)
    planted.put(version, {"sys/size": value("float", 1e18)})
    planted.server.instruments.reset_counts()
    ended = Play(planted, tmp_path).end()
    assert ended.status == 2
    assert "this disk has" in ended.output
    assert "Traceback" not in ended.output
    assert asked(planted.server.instruments, "createExperiment") == 0


ESCAPING = {"../escaped": b"1", "/tmp/model-to-run-escaped": b"2", "a/../../../escaped": b"3"}
STRANGE = {"..\\escaped": b"4", "CON": b"5", "C:\\escaped": b"6", "a\\..\\..\\b": b"7"}


def test_nothing_that_a_server_names_is_written_outside_of_the_downloads(bare: Planted, tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "c"
    place.mkdir(parents=True)
    model = bare.model(
        {
            "../../../field": planted_file(b"1", "txt"),
            "/abs/field".strip("/"): {"type": "file", "content": "", "ext": "../../../x", "name": "../../../header"},
            "C:/CON": planted_file(b"2", "../../up"),
            "images/..": points(
                "imageSeries", [[1, 1, {"content": "", "name": "../../../image", "description": None}]]
            ),
            "strange": planted_file_set(STRANGE),
        }
    )
    bare.version(model, {"set": planted_file_set({**ESCAPING, "kept": b""}), "depth": value("int", 1)})
    ended = Play(bare, place).end(60)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    allowed = [path for path in written if path.parent == place or path.relative_to(place).parts[0].startswith("tmp_")]
    assert written == allowed
    assert not Path("/tmp/model-to-run-escaped").exists()
    harmless = r"tmp_\d+(/\w[\w.-]*)*"
    assert all(re.fullmatch(harmless, path.relative_to(place).as_posix()) for path in written if path.parent != place)
    assert ended.row(model)["status"] == "copied"
    assert not [words for words in bare.differences() if words.startswith(f"{model}:")]


@pytest.mark.parametrize("names", [ESCAPING, {"": b"nothing"}, {"a/": b"folder"}])
def test_a_set_that_the_server_will_not_take_back_fails_alone(
    bare: Planted, tmp_path: Path, names: dict[str, bytes]
) -> None:
    model = bare.model({"set": planted_file_set(names), "depth": value("int", 1)})
    ended = Play(bare, tmp_path).end(60)
    assert ended.status == 1
    assert is_named(model, ended)
    assert "set: " in ended.row(model)["error"]
    assert run_of(bare, model)["depth"]["value"] == 1

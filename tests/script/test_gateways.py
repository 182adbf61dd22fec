"""What gateways answer for a server, what other servers put into an answer, and what shells pass on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.script.test_reruns import run_of
from tests.support.planted import Planted, value
from tests.support.script import environment, impatient_script, latest_report, run_script
from tests.tools.torture import (
    Play,
    asked,
    bare_registry,
    complete,
    new_project,
    planted_file,
    problems,
    sources,
    until,
)


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    with bare_registry(server) as registry:
        registry.model({"depth": value("int", 1)})
        yield registry


PASSING = (408, 425, 429, 502, 503, 504, 509, 520, 523, 527, 529, 530)


def test_a_status_that_passes_is_waited_for(planted: Planted, tmp_path: Path) -> None:
    """Each of some objects meets some of them, one after the other."""
    for number in range(5):
        planted.model({"depth": value("int", number)}, key=f"M{number}")
    for status in PASSING:
        planted.server.instruments.fault("createExperiment", "status", status=status)
    ended = Play(planted, tmp_path, "--workers", "6").end()
    assert ended.status == 0, ended.output
    assert [status for status in PASSING if f"the server answers {status}" not in ended.log] == []
    assert problems(planted) == []


def test_a_403_is_waited_for_where_it_says_how_long(planted: Planted, tmp_path: Path) -> None:
    instruments = planted.server.instruments
    instruments.fault("createExperiment", "status", status=403, headers={"Retry-After": "1"})
    assert complete(planted, tmp_path) == []
    planted.put(sources(planted)[0], {"depth": value("int", 2)})
    instruments.fault("createExperiment", "status", status=403)
    ended = Play(planted, tmp_path).end()
    assert (ended.status, "403" in ended.output) == (1, True)
    assert complete(planted, tmp_path) == []


def test_a_line_tells_without_a_terminal_when_the_waiting_begins_and_ends(planted: Planted, tmp_path: Path) -> None:
    planted.server.instruments.fault("createExperiment", "status", status=503, times=3)
    ended = Play(planted, tmp_path).end()
    lines = ended.output.splitlines()
    waits = [line for line in lines if line.startswith(("Waiting for ", "The wait for "))]
    assert [line.split()[0] for line in waits] == ["Waiting", "The"]
    assert "503" in waits[0]


@pytest.mark.parametrize("told", ["1732000000", "99999999999999", "Wed, 01 Jan 2126 00:00:00 GMT"])
def test_a_retry_after_that_nobody_could_wait_for_is_ignored(planted: Planted, tmp_path: Path, told: str) -> None:
    planted.server.instruments.fault("createExperiment", "status", status=429, headers={"Retry-After": told})
    ended = Play(planted, tmp_path).end(60)
    assert (ended.status, problems(planted)) == (0, []), ended.output


def test_a_wait_after_a_short_trouble_is_told_too(planted: Planted, tmp_path: Path) -> None:
    planted.server.instruments.fault("createExperiment", "status", status=503, times=4, after=1)
    planted.server.instruments.fault("createExperiment", "status", status=401)
    ended = Play(planted, tmp_path).end()
    assert ended.status == 0, ended.output
    assert "Waiting for 127.0.0.1: the server answers 503" in ended.output


def test_a_run_that_cannot_be_written_to_goes_to_the_trash_again(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    planted.server.instruments.fault("executeOperations", "status", status=403, times=None)
    assert Play(planted, tmp_path).end().status == 1
    planted.server.instruments.clear_faults()
    assert run_of(planted, model)["trashed"]
    assert complete(planted, tmp_path) == []


def test_an_empty_run_of_somebodys_own_stays_where_it_cannot_be_written_to(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    own = planted.run({}, custom_id=model)
    planted.put(own, {"sys/creation_time": value("datetime", 1_600_000_000_000)})
    planted.server.instruments.fault("executeOperations", "status", status=402, times=None)
    assert Play(planted, tmp_path).end().status == 1
    planted.server.instruments.clear_faults()
    assert not run_of(planted, model)["trashed"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03-31T01:30:15.678Z", 1711848615678),
        ("2024-03-31T01:30:15.678", 1711848615678),
        ("2024-03-31T01:30:15.678-05:00", 1711866615678),
        ("2024-03-31T01:30:15.678+0530", 1711828815678),
        ("2024-03-31T01:30:15.6Z", 1711848615600),
        ("2024-03-31T01:30:15.67+00:00", 1711848615670),
        ("2024-03-31T01:30:15.678912Z", 1711848615678),
        ("2024-03-31T01:30:15Z", 1711848615000),
        ("2024-03-31T01:30Z", 1711848600000),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_dates_are_read_with_their_offset_to_the_millisecond(text: str, expected: int) -> None:
    assert script.milliseconds(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2024-03-31", "2024-03-31T01:30:15.678 CET", "2024-13-01T00:00:00Z"])
def test_what_is_no_date_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError):
        script.milliseconds(text)


@pytest.mark.parametrize("flag", ["--project", "--only", "--exclude", "--query", "--version-query"])
def test_an_empty_value_of_a_flag_does_not_start(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([flag, ""]) == 2
    assert f"{flag} has an empty value" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--un", "--yes"], ["--dry", "--un"], ["--del"]])
def test_flags_have_to_be_written_out(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(flags) == 2
    assert "unrecognized arguments: --" in capsys.readouterr().err


def test_a_server_that_stays_away_ends_the_migration_once(tmp_path: Path) -> None:
    """With two seconds of patience instead of fifteen minutes."""
    impatient = impatient_script(tmp_path, OUTAGE=2)
    with ServerProcess() as server:
        registry = Planted(server, new_project(server))
        models = [registry.model({"depth": value("int", 1)}, key=f"M{number}") for number in range(12)]
        server.instruments.fault("executeOperations", "delay", seconds=1, times=None)
        server.instruments.reset_counts()
        arguments = [sys.executable, str(impatient), "--project", registry.project, "--workers", "2"]
        with (tmp_path / "screen").open("w+") as screen:
            process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(server), stdout=screen, stderr=screen)
            until(lambda: asked(server.instruments, "executeOperations") > 0)
            server.instruments.outage(300, "reset")
            assert process.wait(60) == 1
            screen.seek(0)
            shown = screen.read()
    statuses = Counter(row["status"] for row in latest_report(tmp_path))
    assert statuses.keys() == {"failed", "not done"}
    assert (statuses["failed"], sum(statuses.values())) == (2, len(models))
    assert shown.count("The script stopped, because the server was out of reach for too long") == 1


def test_an_answer_during_another_threads_error_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the script looks at the clock because of an error, another request succeeds at that very moment."""
    shared, errors, answering = script.Shared(), [script.Away("no answer")], threading.Event()
    monotonic = time.monotonic

    def clock() -> float:
        if not answering.is_set():
            answering.set()
            shared.patiently("another", lambda: None)
            answering.clear()
        return monotonic() + 100_000  # of a machine that has been up for a day

    def attempt() -> str:
        if errors:
            raise errors.pop()
        return "answered"

    monkeypatch.setattr(script.time, "monotonic", clock)
    assert shared.patiently("one", attempt) == "answered"


def test_one_request_that_is_never_let_through_fails_its_field_alone(planted: Planted, tmp_path: Path) -> None:
    """With five seconds of patience instead of fifteen minutes, and one instead of a minute for the others."""
    stuck = planted.model({"heavy": planted_file(b"heavy", "bin")}, key="HEAVY")
    for number in range(6):
        planted.model({"depth": value("int", number)}, key=f"M{number}")
    impatient = impatient_script(tmp_path, OUTAGE=5, SERVER_ERROR=1)
    planted.server.instruments.fault("downloadAttribute", "status", status=504, path="heavy", times=None)
    planted.server.instruments.fault("executeOperations", "delay", seconds=0.5, times=None)
    flags = ("--project", planted.project, "--workers", "2")
    ended = run_script(planted.server, *flags, cwd=tmp_path, script=impatient)
    report = {row["source ID"]: row["status"] for row in ended.report}
    assert (ended.status, report.pop(stuck), set(report.values())) == (1, "failed", {"copied"}), ended.output
    assert "out of reach" not in ended.output


def test_a_download_that_breaks_off_has_its_own_time_left_out_of_patience(planted: Planted, tmp_path: Path) -> None:
    """With two seconds of patience instead of a minute. Each download takes longer than that."""
    planted.model({"heavy": planted_file(b"heavy" * 100, "bin")}, key="HEAVY")
    planted.server.instruments.fault("downloadAttribute", "truncate", bytes=10, seconds=2.5, path="heavy", times=2)
    impatient = impatient_script(tmp_path, SERVER_ERROR=2)
    ended = run_script(planted.server, "--project", planted.project, cwd=tmp_path, script=impatient)
    assert (ended.status, planted.differences()) == (0, []), ended.output


def test_a_server_that_asks_for_time_has_it_from_all_threads(planted: Planted, tmp_path: Path) -> None:
    """After a 429, nobody asks for anything until the pause is over, although there is more to do."""
    for number in range(40):
        planted.model({"depth": value("int", number)}, key=f"M{number}")
    instruments = planted.server.instruments
    instruments.fault("createExperiment", "status", status=429, headers={"Retry-After": "3"}, after=5)
    instruments.reset_counts()
    play = Play(planted, tmp_path, "--workers", "4")
    quiet, opened, since = 0.0, 0, time.monotonic()
    total = 0
    while play.is_running:
        requests = instruments.counts()["requests"]
        if sum(requests.values()) > total:
            total, since = sum(requests.values()), time.monotonic()
        elif requests.get("createExperiment", 0) and time.monotonic() - since > quiet:
            quiet, opened = time.monotonic() - since, requests["createExperiment"]
        time.sleep(0.02)
    assert (play.end().status, problems(planted)) == (0, [])
    assert quiet > 2
    assert opened < 20


def test_a_download_that_breaks_off_between_short_outages_ends_nothing(planted: Planted, tmp_path: Path) -> None:
    """With two seconds of patience instead of fifteen minutes: the download that breaks off takes longer."""
    planted.model({"heavy": planted_file(b"heavy" * 100, "bin")}, key="HEAVY")
    instruments = planted.server.instruments
    instruments.fault("downloadAttribute", "status", status=502, path="heavy")
    instruments.fault("downloadAttribute", "truncate", bytes=10, seconds=2.5, path="heavy")
    instruments.fault("downloadAttribute", "status", status=502, path="heavy")
    impatient = impatient_script(tmp_path, OUTAGE=2)
    ended = run_script(planted.server, "--project", planted.project, cwd=tmp_path, script=impatient)
    assert (ended.status, planted.differences()) == (0, []), ended.output


def test_tokens_that_are_not_renewed_for_a_moment_are_waited_for(planted: Planted, tmp_path: Path) -> None:
    planted.server.instruments.fault("token", "status", status=503, body={"busy": True}, times=2)
    ended = Play(planted, tmp_path).end()
    assert (ended.status, problems(planted)) == (0, []), ended.output
    assert "the server does not renew the access token" in ended.log


def test_a_token_service_that_is_away_is_waited_for_and_that_is_said_at_once(tmp_path: Path) -> None:
    """The client by itself would try again for a minute, in silence, and in each thread."""
    script = impatient_script(tmp_path, SERVER_ERROR=1)
    with ServerProcess("--token-ttl", "4") as server, bare_registry(server) as planted:  # renewed at each request
        planted.model({"depth": value("int", 1)})
        for operation in ("token", "exchangeApiToken"):
            server.instruments.fault(operation, "status", status=503, times=4, after=3)
        arguments = ("--project", planted.project, "--workers", "2")
        ended = run_script(server, *arguments, cwd=tmp_path, script=script, timeout=60)
        server.instruments.clear_faults()
        assert (ended.status, problems(planted)) == (0, []), ended.output
    assert "Waiting for 127.0.0.1: the server does not renew the access token" in ended.output


def test_a_refusal_without_a_reason_says_no_more_than_its_status(planted: Planted, tmp_path: Path) -> None:
    body = {"error": "not the server's form"}
    planted.server.instruments.fault("createExperiment", "status", status=403, body=body)
    ended = Play(planted, tmp_path).end()
    assert (ended.status, "refused it (403 Forbidden)" in ended.output) == (1, True), ended.output

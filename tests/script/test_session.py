"""A session as a person at a terminal sees it, from the two questions to what is left when it has ended."""

from __future__ import annotations

import base64
import csv
import io
import logging
import os
import re
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.support.planted import Attribute, Planted, points, unasked, value
from tests.support.script import SCRIPT, command, environment, run_script

if sys.platform == "win32":
    pytest.skip("There are no terminals of this kind here", allow_module_level=True)

from tests.support.terminal import Terminal

PROJECT = "Project"
WORKERS = "Workers: "
BYTES = 300_000
FILE: Attribute = {"type": "file", "content": base64.b64encode(b"x" * BYTES).decode(), "ext": "bin", "name": "any"}
LOSS = points("floatSeries", [[0.0, 1, 1.0], [1.0, 2, 0.5]])

BAR = re.compile(r"(\w+ )? *\d+% ?\|")

Start = Callable[..., Terminal]


@pytest.fixture
def start(server: ServerProcess, tmp_path: Path) -> Iterator[Start]:
    """Starts the script at a terminal, in a folder of its own."""
    opened: list[Terminal] = []

    def begin(*arguments: str, **settings: str | None) -> Terminal:
        wanted: Mapping[str, str | None] = {"NEPTUNE_PROJECT": None, **settings}
        opened.append(Terminal(command(*arguments), tmp_path, environment(server, wanted)))
        return opened[-1]

    yield begin
    for terminal in opened:
        terminal.__exit__(None, None, None)
    server.instruments.clear_faults()


@pytest.fixture
def planted(server: ServerProcess, project: str) -> Planted:
    return Planted(server, project)


def new_project(server: ServerProcess, workspace: str) -> str:
    name = f"{workspace}/p-{uuid.uuid4().hex[:8]}"
    server.instruments.create_project(name)
    return name


# -- one session from its beginning to its end --


@dataclass(frozen=True)
class Session:
    planted: Planted
    folder: Path
    status: int
    during: list[str]
    screen: list[str]
    received: bytes
    models: dict[str, str]

    def path(self, pattern: str) -> Path:
        (found,) = self.folder.glob(pattern)
        return found

    @property
    def log(self) -> str:
        return self.path("models_migration_*.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def session(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Both questions answered by Enter; one object copied, one up to date, one with a field that cannot be read, and
    one that fails."""
    project, folder = new_project(server, "acme"), tmp_path_factory.mktemp("session")
    planted = Planted(server, project)
    done = planted.model({"loss": LOSS}, key="DONE")
    assert run_script(server, "--project", project, "--workers", "1", cwd=tmp_path_factory.mktemp("before")).status == 0
    failing = planted.model({"good": value("int", 1), "model/weights": FILE}, key="FAILING")
    whole = planted.version(done, {"loss": LOSS, "weights": FILE})
    partly = planted.version(done, {"loss": LOSS, "notebook": {"type": "notebookRef", "notebookName": "n"}})
    server.instruments.fault("fileAtomUpload", "status", status=403, path="model/weights", times=None)
    server.instruments.fault("searchLeaderboardEntries", "delay", seconds=1.1)
    server.instruments.fault("getFloatSeriesValues", "delay", seconds=0.5, times=2)
    try:
        with Terminal(command(), folder, environment(server, {"NEPTUNE_PROJECT": project})) as terminal:
            terminal.answer(f"{PROJECT} [{project}]: ")
            terminal.answer(WORKERS)
            terminal.wait_for("0/3 objects, ")
            during = terminal.lines
            status = terminal.end()
    finally:
        server.instruments.clear_faults()
    models = {"done": done, "failing": failing, "whole": whole, "partly": partly}
    return Session(planted, folder, status, during, terminal.lines, terminal.received, models)


def row(lines: list[str], name: str) -> list[str]:
    """The words of a table's row."""
    (found,) = (line for line in lines if line.startswith(f"{name} "))
    return found[len(name) :].split()


def test_it_says_what_it_found(session: Session) -> None:
    found = next(line for line in session.screen if line.startswith(session.planted.project))
    assert found == f"{session.planted.project}: 2 models, 2 versions, 600 kB; 1 up to date, 3 to copy"


def test_there_is_one_bar_while_it_copies(session: Session) -> None:
    bars = [line for line in session.during if BAR.match(line)]
    assert bars == session.during[-1:]
    assert re.search(r"\d+%.*\|.*\|.*\d/3 objects, .*/600 kB", bars[0])


def test_nothing_else_writes_on_the_screen_while_the_bar_is_up(session: Session) -> None:
    end = [match.end() for match in re.finditer(rb"objects, [^\r\n]*", session.received)][-1]
    begin = session.received.rindex(b"\n", 0, session.received.index(b" objects, "))
    updates = re.split(rb"\r|\n", session.received[begin:end])
    assert [update for update in updates if update and not BAR.match(update.decode())] == []
    assert sum(bool(BAR.match(line)) for line in session.screen) == 1
    assert b"neptune]" not in session.received
    assert b"Warning" not in session.received


def test_the_table_counts_objects_by_what_became_of_them(session: Session) -> None:
    (head,) = (line for line in session.screen if re.match(r" +copied +up to date +failed ", line))
    assert re.split(r"  +", head.strip())[3:5] == ["fields", "skipped"]
    assert row(session.screen, "models")[:3] == ["0", "1", "1"]
    assert row(session.screen, "model versions")[:3] == ["2", "0", "0"]
    assert row(session.screen, "total")[:3] == ["2", "1", "1"]
    place = next(number for number, line in enumerate(session.screen) if line.startswith("Copied "))
    sentence = " ".join(line.strip() for line in session.screen[place : place + 2]).strip()
    assert re.fullmatch(r"Copied 2 of 4 objects in \d s: \d+ fields, 300 kB\. 1 up to date, 1 failed\.", sentence)
    assert place < session.screen.index(head)


def test_where_the_runs_are_is_told(session: Session) -> None:
    assert f"Runs: {session.planted.server.url}/{session.planted.project}/" in session.screen


def test_fields_and_bytes_are_counted_by_type_in_the_log(session: Session) -> None:
    said = [line.rpartition(" INFO     ")[2].partition(" ")[2] for line in session.log.splitlines()]
    assert row(said, "file") == ["1", "300", "kB"]
    assert row(said, "floatSeries") == ["2"]


def test_each_failure_is_told_by_id_and_reason(session: Session) -> None:
    place = next(number for number, line in enumerate(session.screen) if line.startswith("Failed"))
    assert "run again" in session.screen[place]
    failure = session.screen[place + 1]
    assert session.models["failing"] in failure
    assert "model/weights" in failure
    assert "403" in failure
    assert session.status == 1


def test_what_cannot_be_copied_is_told_by_id_and_path(session: Session) -> None:
    (told,) = (line for line in session.screen if "notebook " in line)
    assert session.models["partly"] in told
    assert "notebookRef" in told
    assert row(session.screen, "model versions")[4] == "1"


def test_nothing_on_the_screen_is_wider_than_80_columns_but_reasons(session: Session) -> None:
    """Nothing that the script itself composes: names and reasons are as long as they are."""
    composed = [line for line in session.screen if not BAR.match(line) and not line.startswith(("  ", "Project"))]
    assert [line for line in composed if len(line) > 80 and session.planted.project.replace("/", "_") not in line] == []


def test_log_report_and_downloads_are_where_the_screen_says(session: Session) -> None:
    name = session.planted.project.replace("/", "_")
    log, report = session.path("*.log").name, session.path("*.csv").name
    stamp = re.fullmatch(rf"models_migration_{name}_(\d{{14}})\.log", log)
    assert stamp
    assert report == f"models_migration_{name}_{stamp[1]}_report.csv"
    time.strptime(stamp[1], "%Y%m%d%H%M%S")
    folder = f"tmp_{stamp[1]}"
    assert sorted(path.name for path in session.folder.iterdir()) == sorted([log, report, folder])
    assert f"Log: {log}" in session.screen
    assert f"Report: {report}" in session.screen
    assert any(line.startswith(f"Downloads: {folder} (600 kB; delete it") for line in session.screen)


def test_downloads_are_for_the_owner_alone(session: Session) -> None:
    assert stat.S_IMODE(session.path("tmp_*").stat().st_mode) == 0o700


def test_the_report_has_one_row_for_each_object(session: Session) -> None:
    with session.path("*.csv").open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.DictReader(stream)
        rows = {row["source ID"]: row for row in lines}
        columns = ["source ID", "kind", "run ID", "URL", "status", "fields", "files", "bytes", "seconds", "error"]
        assert list(lines.fieldnames or []) == columns
    models, runs = session.models, session.planted.runs()
    assert set(rows) == set(models.values())
    found = {name: (rows[sys_id]["kind"], rows[sys_id]["status"]) for name, sys_id in models.items()}
    assert found == {
        "done": ("model", "up to date"),
        "failing": ("model", "failed"),
        "whole": ("model_version", "copied"),
        "partly": ("model_version", "copied"),
    }
    for name in ("failing", "whole", "partly"):
        told = rows[models[name]]
        assert told["run ID"] == runs[models[name]]["sys/id"]["value"]
        assert told["URL"].endswith(f"/{session.planted.project}/e/{told['run ID']}")
        assert float(told["seconds"]) >= 0
    whole = rows[models["whole"]]
    assert (whole["files"], whole["bytes"], whole["error"]) == ("1", str(BYTES), "")
    assert int(whole["fields"]) == len([path for path in runs[models["whole"]] if not is_of_every_run(path)]) - 1
    assert "model/weights" in rows[models["failing"]]["error"]
    assert "notebook" in rows[models["partly"]]["error"]


def is_of_every_run(path: str) -> bool:
    return path.startswith("sys/") and path not in ("sys/name", "sys/description", "sys/tags", "sys/group_tags")


def test_the_log_tells_of_each_object_and_of_each_refusal(session: Session) -> None:
    assert session.models["whole"] in session.log
    (refusal,) = (line for line in session.log.splitlines() if "403" in line and " ERROR " in line)
    reason = "model/weights: uploading: the server refused it (403 Forbidden: "
    assert f"{session.models['failing']}: failed: {reason}" in refusal
    assert refusal.endswith("(file, fileAtomUpload, tries: 1)")
    assert "Traceback" not in session.log


CLIENT_LOGS = """
import model_to_run as script
from neptune.internal.utils.logger import get_logger
held = script.hold_log()
get_logger().warning("from the client, before")
script.open_log("all.log", held)
get_logger().warning("from the client, afterwards")
"""


def test_the_clients_lines_are_in_the_log_and_nowhere_else(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    ended = subprocess.run([sys.executable, "-c", CLIENT_LOGS], cwd=tmp_path, env=environment, capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"Log: all.log\n", b"")
    log = (tmp_path / "all.log").read_text(encoding="utf-8")
    assert [log.count(f"from the client, {when}") for when in ("before", "afterwards")] == [1, 1]


def test_the_token_is_in_no_file_and_not_on_the_screen(session: Session) -> None:
    token = session.planted.server.environment["NEPTUNE_API_TOKEN"].encode()
    assert token not in session.received
    files = [path for path in session.folder.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert [path for path in files if token in path.read_bytes()] == []


def test_running_it_again_copies_what_failed(session: Session, tmp_path: Path) -> None:
    ended = run_script(session.planted.server, "--project", session.planted.project, cwd=tmp_path)
    assert ended.status == 0, ended.output
    assert row(ended.output.splitlines(), "total")[:3] == ["1", "3", "0"]
    assert session.planted.differences() == []


# -- the questions --


def test_wrong_answers_are_told_and_asked_again(server: ServerProcess, planted: Planted, start: Start) -> None:
    other = Planted(server, new_project(server, f"w{uuid.uuid4().hex[:8]}"))
    models = [each.model({"number": value("int", 1)}) for each in (planted, other)]
    terminal = start()
    terminal.answer(f"{PROJECT}: ", planted.project.replace("/", ""))
    terminal.wait_for("There is no project")
    terminal.answer(f"{PROJECT}: ", other.project[:-1])
    terminal.wait_for(f"There is no project {other.project[:-1]} that the token can see.")
    terminal.wait_for("Did you mean")
    terminal.wait_for(other.project)
    terminal.answer(f"{PROJECT}: ")
    terminal.wait_for("No project is given: enter WORKSPACE/PROJECT")
    terminal.answer(f"{PROJECT}: ", f" {planted.project} ,{other.project},{planted.project}")
    for number in ("0", "-1", "abc", "2.5"):
        terminal.answer(WORKERS, number)
        terminal.wait_for(f"'{number}' is not a positive whole number")
    terminal.answer(WORKERS, " 3 ")
    assert terminal.end() == 0
    assert row(terminal.lines, "total")[:3] == ["2", "0", "0"]
    assert (list(planted.runs()), list(other.runs())) == (models[:1], models[1:])


def test_a_byte_that_is_no_text_is_told_and_asked_again(planted: Planted, start: Start) -> None:
    terminal = start("--workers", "2", PYTHONUTF8="0", LC_ALL="C.UTF-8")
    terminal.answer(f"{PROJECT}: ", "acme/\udcff")
    terminal.wait_for("There is no project acme/\\xff")
    terminal.answer(f"{PROJECT}: ", planted.project)
    assert terminal.end() == 0


def test_a_star_means_all_projects_of_a_workspace(server: ServerProcess, planted: Planted, start: Start) -> None:
    workspace = f"w{uuid.uuid4().hex[:8]}"
    projects = [Planted(server, new_project(server, workspace)) for _ in range(3)]
    models = [each.model() for each in projects]
    planted.model()
    terminal = start("--workers", "2")
    terminal.answer(f"{PROJECT}: ", f"{workspace}/*")
    assert terminal.end() == 0
    assert [list(each.runs()) for each in projects] == [[model] for model in models]
    assert planted.runs() == {}
    assert WORKERS not in terminal.text


def test_flags_that_are_given_are_not_asked_for(planted: Planted, start: Start, tmp_path: Path) -> None:
    terminal = start("--project", planted.project)
    terminal.answer(WORKERS)
    assert terminal.end() == 0
    assert "Which project?" not in terminal.text
    assert "0 models, 0 versions" in terminal.text
    assert list(tmp_path.glob("tmp_*")) == []


def test_the_end_of_the_input_ends_the_session(planted: Planted, start: Start, tmp_path: Path) -> None:
    for question, arguments in ((f"{PROJECT}: ", ()), (WORKERS, ("--project", planted.project))):
        terminal = start(*arguments)
        terminal.answer(question, key="end of input")
        assert terminal.end() == 2
        assert len(terminal.lines) == 3, terminal.text
        assert "The input ended: give the answer as a flag" in terminal.lines[2]
        assert list(tmp_path.iterdir()) == []


def test_an_interrupt_at_a_question_ends_the_session(start: Start, tmp_path: Path) -> None:
    terminal = start()
    terminal.answer(f"{PROJECT}: ", key="interrupt")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.text
    assert list(tmp_path.iterdir()) == []


# -- without a terminal, and with a narrow one --


def test_without_a_terminal_it_writes_lines(planted: Planted, tmp_path: Path) -> None:
    planted.model({"loss": LOSS})
    ended = run_script(planted.server, "--project", planted.project, cwd=tmp_path)
    assert ended.status == 0, ended.output
    assert "\r" not in ended.output
    assert "|" not in ended.output
    assert "\x1b" not in ended.output
    assert row(ended.output.splitlines(), "total")[:3] == ["1", "0", "0"]


def test_rejected_operations_are_told_in_table_and_log_and_not_by_the_client(planted: Planted, tmp_path: Path) -> None:
    """The client's queue tells them by its own log alone, which goes to the screen."""
    log = points("stringSeries", [[0.0, 5, "y" * 1_001], [1.0, 6, "end"]])
    model = planted.model({"good": value("int", 1), "bad": value("float", 0.5), "log": log, "loss": LOSS})
    planted.server.instruments.fault("executeOperations", "operation_error", path="bad", body="not today", times=None)
    try:
        ended = run_script(planted.server, "--project", planted.project, cwd=tmp_path)
    finally:
        planted.server.instruments.clear_faults()
    assert ended.status == 1
    assert "neptune]" not in ended.output
    assert "--exclude and its path in the registry" in ended.output
    error = ended.row(model)["error"]
    for told in (r"bad: .*not today", r"log: the run has 1 of 2 points; .*1000 characters"):
        assert re.search(rf"{model} +.*{told}", ended.output)
        assert re.search(told, error)
        assert re.search(told, ended.log)
    run = planted.runs()[model]
    assert (run["good"]["value"], run["loss"]["points"]) == (1, LOSS["points"])


def test_a_screen_that_cannot_show_a_name_loses_nothing_but_that(planted: Planted, tmp_path: Path) -> None:
    """As where the output of a Windows system goes to a file, in the letters of its language alone."""
    log = points("stringSeries", [[0.0, 5, "y" * 1_001]])
    model = planted.model({"zażółć": log})
    env = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    ended = run_script(planted.server, "--project", planted.project, cwd=tmp_path, env=env)
    assert ended.status == 1
    assert "Traceback" not in ended.output
    assert "zażółć: the run has 0 of 1 points" in ended.row(model)["error"]
    assert "Report: " in ended.output


def test_a_bar_that_tells_much_stays_on_one_line(planted: Planted, start: Start, server: ServerProcess) -> None:
    planted.model({"weights": FILE, "loss": LOSS})
    server.instruments.fault("executeOperations", "status", status=503, path="weights", times=None)
    server.instruments.fault("getFloatSeriesValues", "status", status=503, times=2)
    terminal = start("--project", planted.project, "--workers", "1")
    terminal.wait_for("waiting: the server answers 503")
    bars = [line for line in terminal.lines if "objects, " in line]
    assert len(bars) == 1
    assert terminal.lines[-1] == bars[0]
    assert terminal.end() == 0
    assert sum("objects, " in line for line in terminal.lines) == 1


def test_the_bar_is_full_when_all_is_done_also_where_there_are_no_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "is_terminal", lambda _: True)
    source = script.Source("A-B", script.MODEL, "", "A-B", 0)
    progress = script.Progress([0, 0])
    for _ in range(2):
        with progress.working_on(script.Outcome(unasked(), source, script.COPIED)):
            pass
    progress.bar.close()
    last = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if line.strip()][-1]
    assert "2/2 objects" in last
    assert "100%" in last


# -- the token --


def test_the_token_stays_out_of_the_log_of_whoever_logs_everything(planted: Planted, tmp_path: Path) -> None:
    """As people do who edit the script: its libraries then log their requests with all that is in them."""
    planted.model({"loss": LOSS})
    program = Path(command()[1]).read_text(encoding="utf-8")
    edited = tmp_path / "edited.py"
    edited.write_text(program.replace("level=logging.INFO", "level=logging.DEBUG", 1), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, str(edited), "--project", planted.project],
        cwd=tmp_path,
        env=environment(planted.server),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (log,) = tmp_path.glob("*.log")
    told = log.read_text(encoding="utf-8")
    assert "DEBUG" in told
    assert os.environ["NEPTUNE_API_TOKEN"] not in told + ended.stdout + ended.stderr


def test_the_token_is_taken_out_of_every_part_of_a_log_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests puts a header that it does not like into the text of its error."""
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "secret-token\n")
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    handler.addFilter(script.hide_token)
    logger = logging.Logger("by itself")
    logger.addHandler(handler)
    logger.info("the token %s", "secret-token")
    logger.info(["secret-token"])
    logger.info("100%% %s", "sure")
    try:
        requests.Request("GET", "http://a", headers={"X-Neptune-Api-Token": "secret-token\n-"}).prepare()
    except requests.exceptions.InvalidHeader:
        logger.exception("a header")
    told = heard.getvalue()
    assert "Invalid" in told
    assert "Traceback" in told
    assert "100% sure" in told
    assert "secret" not in told


def test_a_log_line_that_cannot_be_put_together_does_no_harm_to_what_logs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "secret-token")
    record = logging.LogRecord("library", logging.INFO, "here", 1, "%d of %d", ("one",), None)
    assert script.hide_token(record)

"""Each flag, and each pair of flags: what they do together, and which cannot go together."""

from __future__ import annotations

import base64
import csv
import errno
import io
import itertools
import logging
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.support.comparison import differences
from tests.support.planted import Attribute, Planted, connected, points, unasked, value
from tests.support.script import Completed, command, environment, latest_log, latest_report
from tests.tools.torture import until

WRITING = {
    "createExperiment",
    "executeOperations",
    "fileAtomUpload",
    "uploadFileSetAttributeTar",
    "restoreExperiments",
    "trashExperiments",
}
"""What of the server's operations the copies of these tests ask for, and trash them."""

MATRIX = """
         exclude only query version-query recopy workers stage-as-tag verify delete-files dry-run undo trash-models yes
project        +    +     +             +      +       +            +      +            +       +    *            +   +
exclude             +     +             +      *       +            +      *            +       *    x            *   +
only                      *             *      *       +            +      *            +       +    *            *   +
query                                   *      +       +            +      +            +       +    x            +   +
version-query                                  +       +            +      +            +       +    x            +   +
recopy                                                 +            *      *            *       *    x            +   +
workers                                                             +      +            +       +    +            +   +
stage-as-tag                                                               *            +       +    x            +   +
verify                                                                                  *       *    x            *   +
delete-files                                                                                    +    x            +   +
dry-run                                                                                              *            *   *
undo                                                                                                              x   *
trash-models                                                                                                          *
"""
"""x: cannot go together; +: can; *: has an influence on the other, which a test below shows."""

VALUES = {"project": "acme/first", "exclude": "m/*", "only": "A*", "query": "a", "version-query": "b", "workers": "2"}


def pairs() -> Iterator[tuple[str, str, str]]:
    head, *rows = MATRIX.strip("\n").splitlines()
    for line in rows:
        flag, *marks = line.split()
        yield from ((flag, other, mark) for other, mark in zip(head.split()[-len(marks) :], marks))


def given(flag: str) -> list[str]:
    return [f"--{flag}", VALUES[flag]] if flag in VALUES else [f"--{flag}"]


SHOWN: set[frozenset[str]] = set()

Test = Callable[..., None]


def shows(*flags: str) -> Callable[[Test], Test]:
    """Says which flags a test shows together."""
    SHOWN.update(map(frozenset, itertools.combinations(flags, 2)))
    return lambda test: test


def test_the_table_has_every_pair() -> None:
    flags = [name.replace("_", "-") for name in script.Options.__dataclass_fields__]
    told = [frozenset(pair[:2]) for pair in pairs()]
    assert len(told) == len(set(told))
    assert set(told) == set(map(frozenset, itertools.combinations(flags, 2)))


def test_every_pair_with_an_influence_is_shown_by_a_test() -> None:
    assert {frozenset((one, other)) for one, other, mark in pairs() if mark == "*"} <= SHOWN


@pytest.mark.parametrize(("one", "other", "mark"), pairs())
def test_a_pair_goes_together_or_is_refused(
    one: str, other: str, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for first, second in ((one, other), (other, one)):
        if mark != "x":
            options = script.parse([*given(first), *given(second)])
            assert all(getattr(options, flag.replace("-", "_")) for flag in (first, second))
            continue
        assert script.main([*given(first), *given(second)]) == 2
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert f"--{one} " in sentence and f"--{other} " in sentence


def test_help_has_groups_defaults_and_three_examples_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        script.parse(["--help"])
    told = capsys.readouterr().out
    assert all(f"\n{group}" in told for group in ("what to copy:", "how to copy:", "to clean up"))
    assert re.sub(r"\s+", " ", told).count("default: ") == len(VALUES)
    assert told.partition("examples:")[2].count("python model_to_run.py") == 3
    assert max(map(len, told.splitlines())) <= 80


# -- registries --

BYTES = 1_000
CONTENT = bytes(range(250)) * 4
LOSS = points("floatSeries", [[0.0, 1, 1.0], [1.0, 2, 0.5], [2.0, 3, 0.25]])


def file(content: bytes) -> Attribute:
    return {"type": "file", "content": base64.b64encode(content).decode(), "ext": "bin", "name": "any"}


class Registry(Planted):
    """Two models: one with two versions, of which the second is in production, and one without."""

    def __init__(self, server: ServerProcess, project: str) -> None:
        super().__init__(server, project)
        self.forest = self.model({"sys/name": value("string", "forest"), "loss": LOSS})
        self.first = self.version(self.forest, {"weights": file(CONTENT), "loss": LOSS})
        self.second = self.version(self.forest, {"depth": value("int", 7)})
        self.stage(self.second, "production")
        self.boost = self.model({"sys/name": value("string", "boost")}, key="BOOST")

    @property
    def ids(self) -> set[str]:
        return {self.forest, self.first, self.second, self.boost}

    def stage(self, version: str, stage: str) -> None:
        self.put(version, {"sys/stage": {"type": "string", "value": stage}})

    def alter(self, source_id: str, path: str, attribute: Attribute) -> None:
        """Changes a field of a copy behind everybody's back."""
        self.put(self.runs()[source_id]["sys/id"]["value"], {path: attribute})

    def trashed(self) -> set[str]:
        """What is in the trash: a model or version by its ID, a run by its custom run ID."""
        gone = {sys_id: one for sys_id, one in self.state()["containers"].items() if one["trashed"]}
        return {one["attributes"].get("sys/custom_run_id", {"value": sys_id})["value"] for sys_id, one in gone.items()}

    def written(self) -> dict[str, int]:
        """How many of the requests since the counts were reset write something."""
        asked = self.server.instruments.counts()["requests"]
        return {name: number for name, number in asked.items() if name in WRITING and number}


@pytest.fixture
def registry(server: ServerProcess, project: str) -> Iterator[Registry]:
    yield Registry(server, project)
    server.instruments.clear_faults()


@contextmanager
def own_logging() -> Iterator[None]:
    """Gives the script loggers as a new process has them, and puts back what it changes in them."""
    root = logging.getLogger()
    handlers, level, tells = root.handlers[:], root.level, logging.raiseExceptions
    clients = {name: logging.getLogger(name) for name in ("neptune", "neptune_no_prefix")}
    before = {name: (logger.handlers[:], logger.propagate) for name, logger in clients.items()}
    root.handlers.clear()
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        logging.raiseExceptions = tells
        for name, logger in clients.items():
            logger.handlers[:], logger.propagate = before[name]


@pytest.fixture
def run(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Completed]:
    """Runs the script without a terminal, in this process: most of the time of a new one goes into its start."""

    def begin(*flags: str, status: int = 0) -> Completed:
        registry.server.instruments.reset_counts()
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        project = [] if "--project" in flags else ["--project", registry.project]
        with own_logging():
            ended = script.main([*project, "--workers", "2", *flags])
        output = "".join(capsys.readouterr())
        assert ended == status, output
        assert "Traceback" not in output
        assert [
            line for line in output.splitlines() if len(line) > 80 and not line.startswith(FREE) and LONG not in line
        ] == []
        return Completed(ended, output, latest_log(tmp_path), latest_report(tmp_path))

    return begin


LONG = 12 * "long-"
FREE = ("  ", "model_to_run: ", "Log: ", "Report: ", "No model or version matches ")
"""How lines begin that are as long as the names and reasons in them."""

Run = Callable[..., Completed]


def statuses(ended: Completed) -> dict[str, str]:
    """What became of each object, by the report or by the table of a dry run, which leaves no report."""
    return ended.planned or {row["source ID"]: row["status"] for row in ended.report}


def words(ended: Completed, begin: str) -> list[str]:
    """The words after those with which one line begins."""
    (found,) = (line for line in ended.output.splitlines() if line.startswith(f"{begin} "))
    return found[len(begin) :].split()


# -- choosing --


@shows("only", "query", "version-query")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "forest first second boost"),
        ({"only": ["*-BOOST"]}, "boost"),
        ({"only": ["*-FOREST-?", "*-BOOST"]}, "first second boost"),
        ({"query": '`sys/name`:string = "forest"'}, "forest first second"),
        ({"query": '`sys/name`:string = "boost"'}, "boost"),
        ({"query": '`sys/name`:string = "forest" OR `sys/name`:string = "boost"'}, "forest first second boost"),
        ({"version_query": '`sys/stage`:string = "production"'}, "forest second boost"),
        ({"query": '`sys/name`:string = "boost"', "version_query": '`sys/stage`:string = "production"'}, "boost"),
        ({"query": '`sys/name`:string = "forest"', "only": ["*-?"]}, "first second"),
        ({"query": '`sys/name`:string = "boost"', "only": ["*"]}, "boost"),
        ({"query": '`sys/name`:string = "boost"', "only": ["first", "boost"]}, "boost"),
        ({"version_query": '`sys/stage`:string = "production"', "only": ["*-?"]}, "second"),
        (
            {
                "query": '`sys/name`:string = "forest"',
                "version_query": '`sys/stage`:string = "production"',
                "only": ["first", "second"],
            },
            "second",
        ),
    ],
)
def test_what_is_chosen(registry: Registry, options: dict[str, Any], expected: str) -> None:
    """--only has IDs, here by their names above. A version of a model that no query matches is left out."""
    if "only" in options:
        options = {**options, "only": [getattr(registry, one, one) for one in options["only"]]}
    with connected(registry.project) as server:
        wanted = script.Options(**options)
        found = [source for source in script.read_registry(server, wanted) if script.is_wanted(source, wanted)]
    assert {source.id for source in found} == {getattr(registry, name) for name in expected.split()}


@shows("project", "only", "query", "version-query")
def test_only_the_chosen_are_copied(registry: Registry, run: Run) -> None:
    ended = run("--query", '`sys/name`:string = "forest"', "--only", registry.second, "--only", "*FOREST")
    assert statuses(ended) == {registry.second: "copied", registry.forest: "copied"}
    assert set(registry.runs()) == {registry.second, registry.forest}
    assert f"{registry.project}: 1 model, 1 version, " in ended.output
    ended = run("--version-query", '`sys/stage`:string = "none"')
    assert statuses(ended) == {registry.forest: "up to date", registry.first: "copied", registry.boost: "copied"}


@pytest.mark.parametrize("flag", ["--query", "--version-query"])
def test_a_query_that_the_server_does_not_understand_is_told_with_its_reason(
    registry: Registry, run: Run, tmp_path: Path, flag: str
) -> None:
    fine = {"--query": "--version-query", "--version-query": "--query"}[flag]
    said = run(flag, "sys/id ===", fine, '`sys/id`:string != "x"', status=2).output
    assert len(said.splitlines()) == 1
    assert said.startswith(f"model_to_run: The server does not understand {flag} (sys/id ===): ")
    assert "Syntax error" not in said
    assert list(tmp_path.iterdir()) == []


def test_patterns_that_nothing_is_like_are_told(registry: Registry, run: Run, tmp_path: Path) -> None:
    said = run("--only", "NOTHING*", status=2).output
    assert len(said.splitlines()) == 1
    assert "matches --only 'NOTHING*'." in said
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_that_nothing_is_like_is_told_beside_others(registry: Registry, run: Run) -> None:
    ended = run("--only", "NOTHING*", "--only", "*BOOST")
    assert "No model or version matches --only 'NOTHING*'. There are " in ended.output
    assert statuses(ended) == {registry.boost: "copied"}


# -- several projects --


def two_projects(server: ServerProcess) -> tuple[Planted, Planted]:
    """The only ones of a workspace."""
    workspace = f"w{uuid.uuid4().hex[:8]}"
    return filled_projects(server, f"{workspace}/one", f"{workspace}/another-{LONG}name")


def filled_projects(server: ServerProcess, *names: str) -> tuple[Planted, Planted]:
    for name in names:
        server.instruments.create_project(name)
    first, second = (Planted(server, name) for name in names)
    first.version(first.model({"weights": file(CONTENT)}))
    second.model(key="BOOST")
    return first, second


def test_several_projects_have_a_line_each_before_and_a_table_after(
    server: ServerProcess, project: str, run: Run
) -> None:
    first, second = two_projects(server)
    ended = run("--project", first.project, "--project", second.project.rpartition("/")[0] + "/*")
    assert f"\n{first.project}: 1 model, 1 version, 1.0 kB; 0 up to date, 2 to copy\n" in ended.output
    assert f"\n{second.project}: 1 model, 0 versions, 0 B; 0 up to date, 1 to copy\n" in ended.output
    assert words(ended, "models")[:3] == ["2", "0", "0"]
    assert words(ended, "model versions")[:3] == ["1", "0", "0"]
    assert words(ended, "total")[:3] == ["3", "0", "0"]
    assert (len(first.runs()), len(second.runs())) == (2, 1)


def test_projects_with_names_that_are_much_alike_do_not_keep_each_other_out(
    server: ServerProcess, project: str, run: Run
) -> None:
    first, second = filled_projects(server, "acme/same_risk", "acme_same/risk")
    run("--project", first.project, "--project", second.project)
    assert (len(first.runs()), len(second.runs())) == (2, 1)


@pytest.mark.parametrize("flags", [(), ("--undo", "--yes")], ids=["copy", "undo"])
def test_a_project_that_fails_does_not_stop_the_others(
    server: ServerProcess, project: str, run: Run, flags: tuple[str, ...]
) -> None:
    first, second = two_projects(server)
    star = second.project.rpartition("/")[0] + "/*"
    if flags:
        run("--project", star)
    with connected(first.project) as opened:
        named = opened.project_id
    server.instruments.fault("searchLeaderboardEntries", "status", status=422, path=named, times=None)
    ended = run("--project", star, *flags, status=1)
    (failure,) = (line for line in ended.output.splitlines() if first.project in line and "422" in line)
    assert failure in ended.output.partition("\nFailed")[2]
    gone = [one["trashed"] for one in second.state()["containers"].values() if one["kind"] == "run"]
    assert gone == [bool(flags)]
    assert not any(one["trashed"] for one in first.state()["containers"].values())


# -- a dry run --


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(registry: Registry, run: Run) -> None:
    registry.put(registry.second, {"notebook": {"type": "notebookRef", "notebookName": "n"}})
    before = registry.state()
    ended = run("--dry-run")
    assert registry.written() == {}
    assert registry.state() == before
    assert statuses(ended) == dict.fromkeys(registry.ids, "new")
    assert words(ended, registry.first)[0] == "new"
    assert words(ended, registry.first)[-2:] == ["1.0", "kB"]
    assert words(ended, registry.second)[2] == "1"
    assert words(ended, "floatSeries") == ["2"]
    assert words(ended, "file") == ["1", "1.0", "kB"]
    assert f"  {registry.second}  notebook (notebookRef: " in ended.output
    assert re.search(r"^Disk: 1.0 kB to download, .* free here$", ended.output, re.MULTILINE)
    run()
    registry.put(registry.second, {"depth": value("int", 8)})
    before = registry.state()
    ended = run("--dry-run")
    assert (registry.written(), registry.state()) == ({}, before)
    assert words(ended, registry.second)[0] == "changed"
    assert words(ended, registry.first)[:3] == ["up", "to", "date"]
    assert statuses(ended) == {**dict.fromkeys(registry.ids, "up to date"), registry.second: "changed"}
    assert words(ended, "total")[:3] == ["0", "1", "3"]


@shows("dry-run", "recopy")
def test_a_dry_run_tells_what_would_be_copied_again(registry: Registry, run: Run) -> None:
    run()
    before = registry.state()
    ended = run("--dry-run", "--recopy", "--delete-files", "--stage-as-tag")
    assert (registry.written(), registry.state()) == ({}, before)
    assert statuses(ended) == dict.fromkeys(registry.ids, "again")
    assert words(ended, registry.first)[0] == "again"


def test_a_dry_run_after_a_kill_looks_at_each_run(registry: Registry, run: Run, tmp_path: Path) -> None:
    run("--only", registry.first)
    lock = tmp_path / f"models_migration_{registry.project.replace('/', '%2F')}.lock"
    lock.write_text("running")
    ended = run("--dry-run")
    assert statuses(ended) == {**dict.fromkeys(registry.ids, "new"), registry.first: "up to date"}
    assert f"{registry.project}: the last start did not finish" in ended.output
    assert "; 1 to check, 3 to copy" in ended.output
    assert len(list(tmp_path.glob("*_report.csv"))) == 1, "a dry run leaves none"
    assert lock.exists(), "a dry run completes nothing"
    assert "did not finish" in run("--only", registry.second).output
    assert lock.read_text() == "running", "the others have not been looked at"
    assert "did not finish" in run().output
    assert not lock.exists()
    assert "did not finish" not in run("--dry-run").output


def test_after_a_kill_no_room_is_needed_for_what_is_complete(
    registry: Registry, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    (tmp_path / f"models_migration_{registry.project.replace('/', '%2F')}.lock").write_text("running")
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert statuses(run()) == dict.fromkeys(registry.ids, "up to date")


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_nothing(
    registry: Registry, run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(number, os.strerror(number))))
    assert "Files cannot be locked here: do not start a second migration" in run("--dry-run").output


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_is_taken_stops_the_start_and_stays(
    registry: Registry, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    lock = tmp_path / f"models_migration_{registry.project.replace('/', '%2F')}.lock"
    lock.touch()
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(number, os.strerror(number))))
    assert "is running in this directory: wait until it ends" in run(status=2).output
    assert list(tmp_path.iterdir()) == [lock]


def test_a_dry_run_lists_every_field_that_cannot_be_copied(registry: Registry, run: Run) -> None:
    paths = [f"notebooks/{number}" for number in range(30)]
    registry.put(registry.boost, {path: {"type": "notebookRef", "notebookName": "n"} for path in paths})
    told = run("--dry-run").output
    assert [path for path in paths if f"  {registry.boost}  {path} (" not in told] == []
    ended = run()
    assert "  and 10 more: see the log" in ended.output
    assert [path for path in paths if path not in ended.log] == []


# -- comparing --


def altered(registry: Registry) -> None:
    """One byte of one copy, and one point of another."""
    registry.alter(registry.first, "weights", file(CONTENT[:500] + b"?" + CONTENT[501:]))
    registry.alter(registry.forest, "loss", points("floatSeries", [[0.0, 1, 1.0], [1.0, 2, 0.5000001], [2.0, 3, 0.25]]))


@shows("dry-run", "verify", "only", "recopy", "delete-files")
def test_comparing_finds_one_byte_and_one_point_and_copying_again_mends_them(
    registry: Registry, run: Run, tmp_path: Path
) -> None:
    run("--delete-files")
    altered(registry)
    for flags in (["--verify", "--dry-run"], ["--verify", "--delete-files"]):
        ended = run(*flags, status=1)
        assert registry.written() == {}
        assert re.search(rf"^  {registry.first} +weights: the content differs$", ended.output, re.MULTILINE)
        assert re.search(rf"^  {registry.forest} +loss: point 1 differs$", ended.output, re.MULTILINE)
        assert "Failed" not in ended.output
        assert "--recopy --only ID" in ended.output
        found = {"verified": {registry.second, registry.boost}, "differs": {registry.first, registry.forest}}
        assert statuses(ended) == {one: status for status, ids in found.items() for one in ids}
    assert "weights: the content differs" in ended.row(registry.first)["error"]
    assert list(tmp_path.glob("tmp_*")) == []
    ended = run("--verify", "--only", registry.second)
    assert statuses(ended) == {registry.second: "verified"}
    ended = run("--verify", "--recopy", "--only", registry.first, "--only", registry.forest)
    assert statuses(ended) == {registry.first: "copied", registry.forest: "copied"}
    assert statuses(run("--verify")) == dict.fromkeys(registry.ids, "verified")
    assert differences(registry.state()) == []


def test_a_copy_is_compared_at_once(registry: Registry, run: Run) -> None:
    ended = run("--verify")
    assert words(ended, "total")[:2] == ["4", "0"]
    downloads = registry.server.instruments.counts()["requests"]["downloadAttribute"]
    assert downloads == 2
    assert differences(registry.state()) == []


def test_comparing_finds_settings_that_only_the_run_has(registry: Registry, run: Run) -> None:
    run()
    registry.alter(registry.forest, "loss", {**LOSS, "config": {"min": 0.0, "max": 5.0, "unit": "kg"}})
    ended = run("--verify", "--only", registry.forest, status=1)
    assert re.search(rf"^  {registry.forest} +loss: min, max or unit differ$", ended.output, re.MULTILINE)


def test_a_source_that_cannot_be_read_has_not_been_seen_to_differ(registry: Registry, run: Run) -> None:
    run()
    registry.server.instruments.fault("downloadAttribute", "status", status=403, path="weights", times=None)
    ended = run("--verify", status=1)
    assert statuses(ended) == {**dict.fromkeys(registry.ids, "verified"), registry.first: "failed"}
    assert f"\n  {registry.first}  weights: " in ended.output.partition("\nFailed")[2]
    assert "--recopy" not in ended.output


# -- the stage --


def stage_and_tags(registry: Registry, version: str) -> tuple[Any, list[str]]:
    run = registry.runs()[version]
    return run.get("old_sys/stage", {}).get("value"), sorted(run["sys/tags"]["value"])


@shows("exclude", "verify", "recopy")
@shows("exclude", "dry-run", "trash-models")
def test_what_is_excluded_is_listed_and_missing_until_it_is_copied_again(registry: Registry, run: Run) -> None:
    preview = run("--exclude", "w*", "--dry-run", "--trash-models")
    assert f"{registry.first}  weights" in preview.output
    assert "2 objects can go to the trash, 2 cannot" in preview.output
    ended = run("--exclude", "w*", "--exclude", "*/*", "--exclude", "wieghts")
    assert "\nNo field was left out by --exclude 'wieghts'.\n" in ended.output
    assert "--exclude 'w*'" not in ended.output
    assert "weights" not in registry.runs()[registry.first]
    assert ended.row(registry.first)["error"] == "left out: weights"
    assert statuses(run("--exclude", "w*")) == dict.fromkeys(registry.ids, "up to date")
    assert statuses(run("--exclude", "w*", "--verify")) == dict.fromkeys(registry.ids, "verified")
    ended = run("--verify", status=1)
    assert "weights: it is not in the run" in ended.row(registry.first)["error"]
    run("--recopy", "--verify")
    assert registry.differences() == []


@shows("stage-as-tag", "verify", "recopy")
def test_the_stage_as_a_tag(registry: Registry, run: Run) -> None:
    run("--only", registry.second)
    assert stage_and_tags(registry, registry.second) == ("production", ["model_version"])
    run("--stage-as-tag", "--recopy", "--verify")
    assert stage_and_tags(registry, registry.second) == (None, ["model_version", "production"])
    assert stage_and_tags(registry, registry.first) == (None, ["model_version"])
    assert statuses(run("--stage-as-tag", "--verify")) == dict.fromkeys(registry.ids, "verified")
    ended = run("--verify", status=1)
    assert re.search(rf"^  {registry.second} +old_sys/stage: it is not in the run$", ended.output, re.MULTILINE)
    registry.stage(registry.second, "archived")
    registry.put(registry.second, {"depth": value("int", 8)})
    run("--stage-as-tag")
    assert stage_and_tags(registry, registry.second) == (None, ["archived", "model_version"])


def test_a_stage_that_somebody_noted_under_the_same_path_is_copied_beside_the_tag(registry: Registry, run: Run) -> None:
    registry.put(registry.second, {"old_sys/stage": value("string", "mine")})
    assert "old_sys/stage (string: " in run("--dry-run").output
    ended = run("--stage-as-tag")
    assert ended.row(registry.second)["error"] == ""
    assert stage_and_tags(registry, registry.second) == ("mine", ["model_version", "production"])


# -- undoing --


@shows("project", "undo", "only", "dry-run", "yes")
def test_undoing_takes_only_what_the_script_made(registry: Registry, run: Run) -> None:
    wanted = {"projectIdentifier": registry.project, "parentId": "", "type": "run"}
    for custom_id in ("", registry.boost):
        made = registry.wire.post(
            "/api/leaderboard/v1/experiments", {**wanted, "customId": custom_id} if custom_id else wanted
        )
        registry.put(made.json()["shortId"], {"sys/tags": value("stringSet", ["model"]), "mine": value("int", 1)})
    run("--only", "*FOREST*")
    before = registry.state()
    ended = run("--undo", "--dry-run", "--yes")
    assert (registry.written(), registry.state()) == ({}, before)
    assert f"{registry.project}: 3 runs made by this script" in ended.output
    for source_id in (registry.forest, registry.first, registry.second):
        run_id = registry.runs()[source_id]["sys/id"]["value"]
        assert f"  {run_id}  {source_id}\n" in ended.output
    assert run("--undo", "--yes", "--only", registry.first).output.endswith("Moved 1 run to the trash.\n")
    assert registry.trashed() == {registry.first}
    run("--undo", "--yes")
    assert registry.trashed() == {registry.forest, registry.first, registry.second}
    assert "0 runs made by this script" in run("--undo", "--yes").output
    run("--only", "*FOREST*")
    assert registry.trashed() == set()


@shows("undo", "dry-run")
def test_a_dry_run_after_an_undo_says_that_all_would_be_copied(registry: Registry, run: Run) -> None:
    run("--only", "*FOREST*")
    run("--undo", "--yes")
    told = run("--only", "*FOREST*", "--dry-run")
    assert set(told.planned.values()) == {"new"}
    assert "Would copy 3 of 3 objects" in told.output


@shows("stage-as-tag", "dry-run")
def test_a_dry_run_lists_what_a_copy_would_remove_and_not_as_kept(registry: Registry, run: Run) -> None:
    run("--stage-as-tag", "--only", registry.second)
    registry.stage(registry.second, "archived")
    registry.put(registry.second, {"depth": value("int", 8)})
    told = run("--stage-as-tag", "--only", registry.second, "--dry-run").output
    assert f"  {registry.second}  sys/tags: 'production'" in told.partition("Would be removed")[2]
    assert "Would be kept" not in told
    ended = run("--stage-as-tag", "--only", registry.second)
    assert "removed: sys/tags: 'production'" in ended.row(registry.second)["error"]


@shows("undo", "trash-models")
def test_the_last_that_is_left_of_a_model_is_not_undone(registry: Registry, run: Run) -> None:
    run("--trash-models", "--yes", "--only", registry.boost)
    assert registry.trashed() == {registry.boost}
    run("--only", registry.first)
    ended = run("--undo", "--yes")
    assert "1 run made by this script" in ended.output
    assert "(A run stays if its model or version is in the trash or deleted.)" in ended.output
    assert registry.trashed() == {registry.boost, registry.first}
    run_id = registry.runs()[registry.first]["sys/id"]["value"]
    assert f"To the trash: {run_id}\n" in ended.log


@pytest.mark.parametrize("flag", ["--undo", "--trash-models"])
def test_nothing_goes_to_the_trash_unasked(registry: Registry, run: Run, tmp_path: Path, flag: str) -> None:
    said = run(flag, status=2).output
    assert len(said.splitlines()) == 1
    assert "--yes" in said
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_to_be_trashed_is_told(registry: Registry, run: Run) -> None:
    run("--only", registry.boost)
    registry.server.instruments.fault("trashExperiments", "status", status=403)
    assert "403" in run("--undo", "--yes", status=1).output.partition("Failed:")[2]
    assert registry.trashed() == set()


# -- trashing what was copied --


@shows("trash-models", "dry-run", "yes", "verify", "only")
def test_only_what_is_safe_goes_to_the_trash(registry: Registry, run: Run) -> None:
    registry.put(registry.second, {"notebook": {"type": "notebookRef", "notebookName": "n"}})
    before = registry.state()
    ended = run("--trash-models", "--dry-run", "--yes")
    assert (registry.written(), registry.state()) == ({}, before)
    assert f"{registry.project}: 2 objects can go to the trash, 2 cannot" in ended.output
    assert (
        f"  {registry.boost:{len(registry.first)}}  model\n  {registry.first}  model_version\nNothing was moved"
        in ended.output
    )
    ended = run("--trash-models", "--yes", "--only", registry.boost)
    assert registry.trashed() == {registry.boost}
    run("--only", registry.first)
    ended = run("--trash-models", "--yes", "--only", registry.first)
    assert "0 objects can go to the trash, 1 cannot" in ended.output
    run("--trash-models", "--yes", "--verify", "--delete-files")
    assert registry.trashed() == {registry.boost, registry.first}


def test_what_cannot_be_read_any_more_stays_and_no_other_with_it(registry: Registry, run: Run) -> None:
    run()
    registry.server.instruments.fault("getExperimentAttributes", "status", status=404, after=8)
    ended = run("--trash-models", "--verify", "--yes", status=1)
    assert "it has changed meanwhile, and was not moved" in ended.output
    assert 1 <= len(registry.trashed()) < 4


def test_a_batch_that_cannot_be_trashed_hides_no_other(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [registry.model(key=f"KEY{number}") for number in range(101)]
    registry.server.instruments.fault("trashExperiments", "status", status=403, after=1)
    with connected(registry.project) as server:
        failures = server.trash(ids)
    assert len(failures) == 1 and failures[0].startswith(f"{ids[-1]}: ")
    assert registry.trashed() == set(ids[:-1])


def test_what_cannot_be_read_of_a_run_is_no_difference(registry: Registry, run: Run) -> None:
    run()
    registry.server.instruments.fault("downloadAttribute", "status", status=403, times=None)
    ended = run("--verify", "--only", registry.first, status=1)
    assert statuses(ended) == {registry.first: "failed"}
    assert "--recopy --only" not in ended.output


def test_many_equal_failures_of_a_dry_run_are_in_the_log(registry: Registry, run: Run) -> None:
    for number in range(3):
        registry.model(key=f"KEY{number}")
    registry.server.instruments.fault("getExperimentAttributes", "status", status=403, times=None)
    ended = run("--dry-run", status=1)
    assert "all are in the log)" in ended.output
    assert "report" not in ended.output


def test_what_has_failed_stays_with_its_model(registry: Registry, run: Run) -> None:
    registry.server.instruments.fault("fileAtomUpload", "status", status=403, path="weights", times=None)
    run("--trash-models", "--yes", status=1)
    assert registry.trashed() == {registry.second, registry.boost}


# -- the report --


def test_the_report_opens_in_a_spreadsheet(registry: Registry, run: Run, tmp_path: Path) -> None:
    log = points("stringSeries", [[0.0, 5, "y" * 1_001]])
    registry.put(registry.boost, {"=1+zażółć": log})
    run(status=1)
    (report,) = tmp_path.glob("*_report.csv")
    assert report.read_bytes().startswith(b"\xef\xbb\xbfsource ID,")
    with report.open(encoding="utf-8-sig", newline="") as lines:
        rows = {row["source ID"]: row for row in csv.DictReader(lines)}
    assert set(rows) == registry.ids
    assert rows[registry.boost]["error"].startswith("'=1+zażółć: ")


def test_half_a_character_in_a_name_does_not_break_the_report(tmp_path: Path) -> None:
    """JSON may bring one, for which UTF-8 has no bytes."""
    source = script.Source("A-B", script.MODEL, "", "A-B", 0)
    file = tmp_path / "report.csv"
    script.write_report(file, [script.Outcome(unasked(), source, skipped=["git\ud83d (gitRef)"])])
    assert r"skipped: git\ud83d (gitRef)" in file.read_text("utf-8-sig")


# -- the screen --


def test_names_do_not_move_the_cursor(registry: Registry, run: Run) -> None:
    registry.put(registry.boost, {"a\x1b[2J\rb": {"type": "notebookRef", "notebookName": "n"}})
    ended = run()
    assert "\x1b" not in ended.output and "\r" not in ended.output
    assert r"a\x1b[2J\rb (notebookRef" in ended.output


def test_without_a_terminal_a_line_now_and_then_tells_all_that_the_bar_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.Progress, "LINE_EVERY", -1)
    sizes = {"A-B": 500_000, "A-C": 500_000, "A-D": 0}
    sources = [script.Source(name, script.MODEL, "", name, size) for name, size in sizes.items()]
    first, *others = (script.Outcome(unasked(), source, script.FAILED) for source in sources)
    progress = script.Progress([*sizes.values()])

    def lines() -> list[str]:
        told = capsys.readouterr()
        assert told.err == ""
        return told.out.splitlines()

    with progress.working_on(others[0]), progress.working_on(others[1]):
        with progress.working_on(first):
            progress.advance(500_000)
        so_far = r"1/3 objects, 500 kB/1.0 MB, [\d.]+ .?B/s, \d+ s left, 1 failed, A-C"
        assert re.fullmatch(so_far, lines()[-1])
        with progress.waiting("acme.com", "the server answers 503"):
            begin, line = lines()
        assert begin == "Waiting for acme.com: the server answers 503"
        assert re.fullmatch(f"waiting: the server answers 503, {so_far}", line)
        line, end = lines()
        assert re.fullmatch(so_far, line)
        assert end == "The wait for acme.com is over."


if sys.platform != "win32":
    from tests.support.terminal import Terminal

    Start = Callable[..., Terminal]

    @pytest.fixture
    def start(registry: Registry, tmp_path: Path) -> Iterator[Start]:
        """Starts the script at a terminal of 80 columns."""
        opened: list[Terminal] = []

        def begin(*flags: str, **settings: str) -> Terminal:
            arguments = command("--project", registry.project, "--workers", "2", *flags)
            opened.append(Terminal(arguments, tmp_path, environment(registry.server, settings), columns=80))
            return opened[-1]

        yield begin
        for terminal in opened:
            terminal.__exit__(None, None, None)

    def test_undoing_and_trashing_ask_at_a_terminal(registry: Registry, run: Run, start: Start) -> None:
        """And look again after the answer: what has changed meanwhile stays."""
        run()
        terminal = start("--undo")
        terminal.answer("Move 4 runs to the trash? [y/N]: ", "n")
        assert terminal.end() == 0
        assert registry.trashed() == set()
        assert sum(source_id in terminal.text for source_id in registry.ids) == 4
        terminal = start("--trash-models", "--verify")
        terminal.wait_for("Move 4 registry objects to the trash? [y/N]: ")
        registry.put(registry.second, {"depth": value("int", 9)})
        terminal.type("yes")
        assert terminal.end() == 1
        assert registry.trashed() == {registry.first, registry.boost}
        assert f"{registry.second}: it has changed meanwhile" in terminal.text

    def test_ctrl_c_at_the_question_leaves_the_report(registry: Registry, start: Start, tmp_path: Path) -> None:
        instruments = registry.server.instruments
        instruments.fault("fileAtomUpload", "status", status=403, path="weights", times=None)
        terminal = start("--trash-models")
        terminal.wait_for("to the trash? [y/N]: ")
        terminal.type(key="interrupt")
        assert terminal.end() == 130
        instruments.clear_faults()
        assert f"{registry.first}  weights: uploading: the server refused it" in terminal.text
        assert len(list(tmp_path.glob("*_report.csv"))) == 1
        assert ("Interrupted." in terminal.text, "To go on" in terminal.text) == (True, False)
        assert registry.trashed() == set()

    def test_ctrl_c_after_the_answer_does_not_wait_for_a_slow_server(registry: Registry, start: Start) -> None:
        instruments = registry.server.instruments
        terminal = start("--trash-models")
        terminal.wait_for("to the trash? [y/N]: ")
        instruments.fault("getExperimentAttributes", "delay", seconds=250, times=None)
        instruments.reset_counts()
        terminal.type("yes")
        until(lambda: instruments.counts()["requests"].get("getExperimentAttributes", 0) > 1)
        terminal.type(key="interrupt")
        assert terminal.end() == 130
        instruments.clear_faults()
        assert registry.trashed() == set()

    def test_a_clash_is_told_at_a_terminal_too(start: Start, tmp_path: Path) -> None:
        terminal = start("--undo", "--verify")
        assert terminal.end() == 2
        assert terminal.lines[-1] == "model_to_run: --undo and --verify cannot go together: use only one."
        assert list(tmp_path.iterdir()) == []

    def test_the_bar_shows_what_is_in_flight_and_what_failed_on_one_line_of_80_columns(
        registry: Registry, start: Start
    ) -> None:
        instruments = registry.server.instruments
        registry.put(registry.forest, {"slow": LOSS})
        instruments.fault("fileAtomUpload", "status", status=403, path="weights", times=None)
        instruments.fault("getFloatSeriesValues", "delay", seconds=1.5, path="slow", times=None)
        terminal = start(NO_COLOR="1")
        terminal.wait_for("1 failed, ")
        terminal.wait_for(registry.forest)
        bars = [line for line in terminal.lines if "objects, " in line]
        assert bars == terminal.lines[-1:]
        assert len(bars[0]) <= 80
        assert terminal.end() == 1
        assert b"\x1b" not in terminal.received

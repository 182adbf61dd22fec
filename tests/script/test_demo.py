"""The demo, as README has people start it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.markup import open_page

if TYPE_CHECKING:
    from tests.support.terminal import Terminal

DEMO = Path(__file__).parents[1] / "demo.py"
GONE = "The server is down"
PYTHON = shlex.quote(sys.executable)
terminals = pytest.mark.skipif(sys.platform == "win32", reason="There are no terminals of this kind here")


def environment(folder: Path) -> dict[str, str]:
    """Without the settings of a Neptune that others use, and with a folder for whatever is temporary."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("NEPTUNE_")}
    return {**others, "PYTHONUTF8": "1", "TMPDIR": str(folder)}


def processes(folder: Path) -> list[psutil.Process]:
    """Those that the demo has started, and itself."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR", "").startswith(str(folder)):
                found.append(process)
    return found


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    yield
    assert list(folder.iterdir()) == []
    assert processes(folder) == []


def opened(folder: Path) -> Terminal:
    """Open the demo in the smallest terminal that is common."""
    from tests.support.terminal import Terminal

    return Terminal([sys.executable, str(DEMO)], folder, environment(folder), columns=80, rows=24)


def test_help_is_help(tmp_path: Path) -> None:
    helped = subprocess.run(
        [sys.executable, str(DEMO), "--help"], env={**environment(tmp_path), "COLUMNS": "80"}, capture_output=True
    )
    words = helped.stdout.decode()
    assert (helped.returncode, helped.stderr) == (0, b"")
    assert "ten seconds" in words
    assert "leaves nothing behind" in words
    assert max(map(len, words.splitlines())) <= 80


def test_it_speaks_before_it_imports_what_takes_long() -> None:
    ask = "import sys, tests.demo; print({'neptune', 'requests', 'PIL', 'tests.neptune_server'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", ask], cwd=DEMO.parents[1]) == b"set()\n"


def test_without_a_terminal_it_ends_by_itself(tmp_path: Path) -> None:
    with leaving_nothing(tmp_path):
        ended = subprocess.run(
            [sys.executable, str(DEMO)],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            timeout=200,
        )
    assert ended.returncode == 0
    assert "CR-FOREST-2" in ended.stdout
    assert GONE in ended.stdout
    assert "Enter" not in ended.stdout


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """As of `python tests/demo.py | head -2`."""
    with leaving_nothing(tmp_path):
        demo = subprocess.Popen(
            [sys.executable, str(DEMO)],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert demo.stdout and demo.stderr
        for _ in range(2):
            demo.stdout.readline()
        demo.stdout.close()
        assert demo.stderr.read() == b""
        demo.stderr.close()
        demo.wait(60)


@terminals
def test_at_a_terminal_its_runs_can_be_looked_at_until_it_is_ended(tmp_path: Path) -> None:
    with leaving_nothing(tmp_path), opened(tmp_path) as terminal:
        terminal.answer("[acme/credit-risk]:", "acme/creditrisk")
        terminal.wait_for("Did you mean")
        terminal.answer("[acme/credit-risk]:")
        terminal.answer("Workers:", "many")
        terminal.wait_for("'many' is not")
        terminal.answer("Workers:")
        terminal.wait_for("Press Enter to see the runs.")
        assert "failed" in terminal.text  # the head of the table of what was copied
        terminal.type()
        terminal.wait_for("Press Enter when you have seen them.")
        shown = terminal.lines
        assert "The runs of acme/credit-risk by group tag:" in shown
        (address,) = [line for line in shown if re.fullmatch(r"http://\S+/acme/credit-risk/", line)]
        below = " ".join(shown[shown.index(address) :])
        assert all(place in below for place in ("CR-FOREST-2", "val/auc", "Models"))
        groups = [row.words for row in open_page(address).all("tr", "group")]
        assert groups == ["CR-BOOST 3 runs", "CR-FOREST 4 runs", "CR-LOGREG 3 runs"]
        terminal.type()
        terminal.wait_for("Press Enter to end the demo.")
        told = re.search(r"(\. /.+?/demo\.env)(python (model_to_run\.py) --dry-run)", "".join(terminal.lines))
        assert told
        script = told[2].replace("python", PYTHON).replace(told[3], str(DEMO.parents[1] / told[3]))
        ended = in_a_shell(f"{told[1]}; {script} --workers 2", tmp_path / "elsewhere")
        assert len(re.findall(r"(?m)^CR-\S+ +up to date ", ended)) == 10
        terminal.type(key="interrupt")
        terminal.wait_for(GONE)
        assert terminal.end() == 130
    assert "Traceback" not in terminal.received.decode()
    written = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.received.decode()).replace("\r", "\n")
    assert max(len(line) for line in written.split("\n") if not line.startswith(". /")) <= 80


def in_a_shell(line: str, folder: Path) -> str:
    """Run a line in another terminal's shell, which has no settings, and return what it says."""
    folder.mkdir()
    said = subprocess.check_output(line, shell=True, cwd=folder, env=environment(folder), encoding="utf-8")
    shutil.rmtree(folder)
    return said


@terminals
@pytest.mark.parametrize("moment", ["Starting", "Still filling", "[acme/credit-risk]:", " objects, "])
def test_ctrl_c_ends_it_quietly(tmp_path: Path, moment: str) -> None:
    with leaving_nothing(tmp_path), opened(tmp_path) as terminal:
        if moment == "Still filling":
            terminal.wait_for("Filling a model registry")
            hold_up_filling(tmp_path)
        elif moment == " objects, ":
            terminal.answer("[acme/credit-risk]:")
            terminal.answer("Workers:")
        terminal.wait_for(moment)
        terminal.type(key="interrupt")
        assert terminal.end() == 130
    assert not re.search("Traceback|Exception|Error", terminal.received.decode())


def hold_up_filling(folder: Path) -> None:
    while not (found := [each for each in processes(folder) if "fill()" in " ".join(each.cmdline())]):
        time.sleep(0.05)
    for each in found:
        each.send_signal(signal.SIGSTOP)

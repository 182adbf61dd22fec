"""The demo, as README has people start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.markup import open_page

DEMO = Path(__file__).parents[1] / "demo.py"
GONE = "The server is down again"
COLUMNS = 80

at_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason="There are no terminals of this kind here")


def environment() -> dict[str, str]:
    """Without the settings of a Neptune that others use."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NEPTUNE_")}


def test_without_a_terminal_it_ends_by_itself(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(DEMO)],
        cwd=tmp_path,
        env={**environment(), "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=200,
    )
    assert ended.returncode == 0
    assert GONE in ended.stdout
    assert "Enter" not in ended.stdout


@at_a_terminal
def test_at_a_terminal_its_runs_can_be_looked_at_until_enter(tmp_path: Path) -> None:
    from tests.support.terminal import Terminal

    with Terminal([sys.executable, str(DEMO)], tmp_path, environment(), columns=COLUMNS) as terminal:
        terminal.wait_for("This starts a small Neptune server")
        terminal.answer("[acme/credit-risk]:", "acme/credit-rsk")
        terminal.answer("[acme/credit-risk]:")
        terminal.answer("Workers:")
        terminal.answer("Press Enter to see the runs.")
        terminal.wait_for("Press Enter to end the demo.")
        lines = terminal.received.decode().splitlines()
        (address,) = (line for line in lines if re.fullmatch(r"http://\S+", line))
        page = open_page(address)
        assert len(page.all("tr", "group")) == 3
        terminal.type()
        terminal.wait_for(GONE)
        assert terminal.end() == 0
    too_long = [line for line in lines if len(line.rpartition("\r")[2]) > COLUMNS]
    assert too_long == [], "a terminal breaks them in the middle of a word"


@at_a_terminal
@pytest.mark.parametrize("moment", ["This starts", "Workers:"])
def test_ctrl_c_ends_it_quietly(tmp_path: Path, moment: str) -> None:
    from tests.support.terminal import Terminal

    with Terminal([sys.executable, str(DEMO)], tmp_path, environment(), columns=COLUMNS) as terminal:
        terminal.wait_for("This starts")
        if moment == "Workers:":
            terminal.answer("[acme/credit-risk]:")
            terminal.wait_for(moment)
        terminal.type(key="interrupt")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
        assert (GONE in terminal.text) == (moment == "Workers:")


@at_a_terminal
def test_a_reader_who_leaves_ends_it_quietly(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} {DEMO} | head -n 1"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (len(ended.stdout.splitlines()), ended.stderr) == (1, "")


def test_help_is_help(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, str(DEMO), "--help"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "needs no account" in ended.stdout) == (0, True)

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


@pytest.mark.skipif(sys.platform == "win32", reason="There are no terminals of this kind here")
def test_at_a_terminal_its_runs_can_be_looked_at_until_enter(tmp_path: Path) -> None:
    from tests.support.terminal import Terminal

    with Terminal([sys.executable, str(DEMO)], tmp_path, environment()) as terminal:
        terminal.answer("[acme/credit-risk]:")
        terminal.answer("Workers:")
        terminal.wait_for("Enter ends the demo.")
        addresses = re.findall(r"http://\S+/acme/credit-risk/(?=\s)", terminal.received.decode())
        page = open_page(addresses[-1])
        assert len(page.all("tr", "group")) == 3
        terminal.type()
        terminal.wait_for(GONE)
        assert terminal.end() == 0

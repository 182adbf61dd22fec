"""What `python tests/demo.py` shows."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any

import neptune

from tests.neptune_server.process import ServerProcess
from tests.support.registry import fill_demo
from tests.support.script import command, environment

PROJECT = "acme/credit-risk"
COLUMNS = {
    "Group tag": "sys/group_tags",
    "Custom run ID": "sys/custom_run_id",
    "Run ID": "sys/id",
    "Tags": "sys/tags",
    "Stage": "old_sys/stage",
}
INTERRUPTED = 130
PLACES = """
- the runs, grouped by model, with their stages and metrics
- CRE-FOREST-2: each field of the version beside that of its run
- its charts and images, with the steps and times that they had
"""


def show() -> int:
    """Show all of it; return the exit status of the script."""
    logging.getLogger("neptune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with ServerProcess("--project", PROJECT) as server:
        fill_demo(server, PROJECT)
        status = run_script(server)
        if status != INTERRUPTED:
            wait_for_enter("\nPress Enter to see the runs.")
            say(f"\nThe runs of {PROJECT} by group tag, as the app would show them:\n")
            print(*as_table(rows_of(server)), sep="\n", flush=True)
            let_look(server)
    say("\nThe server is down again, and its files and the downloads are gone.")
    return status


def is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(text: str) -> None:
    """Print sentences, broken at words; an address stands on a line of its own."""
    width = shutil.get_terminal_size().columns
    for line in text.split("\n"):
        print(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False), flush=True)


def wait_for_enter(words: str) -> None:
    """Leave a person the time to read."""
    if is_interactive():
        say(words)
        sys.stdin.readline()


def run_script(server: ServerProcess) -> int:
    """Hand the terminal over to the script, which Ctrl-C then ends alone."""
    arguments = [] if is_interactive() else ["--project", PROJECT, "--workers", "4"]
    say(" ".join(["\n$ python model_to_run.py", *arguments]))
    if is_interactive():
        say("(Press Enter at both questions, or try a wrong answer first.)")
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with tempfile.TemporaryDirectory(prefix="model-to-run-demo-") as folder:
            return subprocess.call(command(*arguments), cwd=folder, env=environment(server))
    finally:
        signal.signal(signal.SIGINT, before)


def let_look(server: ServerProcess) -> None:
    """Keep the server up for a person, and say what there is to see."""
    if is_interactive():
        say(f"\nOpen this in a browser, and look at:{PLACES}\n{server.url}/{PROJECT}/")
        wait_for_enter("\nPress Enter to end the demo.")


def rows_of(server: ServerProcess) -> list[list[str]]:
    """Return a line for each run of the project."""
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    token = server.environment["NEPTUNE_API_TOKEN"]
    with neptune.init_project(project=PROJECT, api_token=token, mode="read-only") as project:
        runs = project.fetch_runs_table(columns=list(COLUMNS.values()), sort_by="sys/id", progress_bar=False)
        return sorted([in_words(run, path) for path in COLUMNS.values()] for run in runs)


def in_words(run: Any, path: str) -> str:
    try:
        value = run.get_attribute_value(path)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ", ".join(sorted(value))


def as_table(rows: list[list[str]]) -> Iterator[str]:
    """Make columns as wide as they need to be; write a group tag once, and no line between groups."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
    yield in_columns(list(COLUMNS), widths)
    yield in_columns(["-" * width for width in widths], widths)
    group = ""
    for row in rows:
        yield in_columns(["" if row[0] == group else row[0], *row[1:]], widths)
        group = row[0]


def in_columns(texts: list[str], widths: list[int]) -> str:
    return "   ".join(text.ljust(width) for text, width in zip(texts, widths)).rstrip()

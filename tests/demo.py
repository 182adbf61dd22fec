"""`python tests/demo.py`: a registry on a Neptune of its own, copied by model_to_run.py before your eyes.

It takes a few seconds, asks two questions that Enter answers, and leaves nothing behind. It goes on showing the runs in
a browser until Enter. Without a terminal the questions are answered by flags, and it ends by itself.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# `tests` is imported as a package from the repository's root, wherever the demo is started from.
sys.path[0] = str(Path(__file__).resolve().parents[1])

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


def main() -> int:
    quieten_client()
    with ServerProcess("--project", PROJECT) as server:
        say(f"A local Neptune is up at {server.url}. Filling the model registry of {PROJECT} ...")
        fill_demo(server, PROJECT)
        status = run_script(server)
        say(f"\nThe runs of {PROJECT} by group tag, as the app would show them:\n")
        for line in as_table(rows_of(server)):
            say(line)
        let_look(server)
    say("\nThe server is down again, and its files and the downloads are gone.")
    return status


def quieten_client() -> None:
    logging.getLogger("neptune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def let_look(server: ServerProcess) -> None:
    """Keeps the server up for a person, until Enter."""
    if interactive():
        say(f"\nSee them beside their sources, with charts, images and files: {server.url}/{PROJECT}/")
        say("Enter ends the demo.")
        sys.stdin.readline()


def say(text: str) -> None:
    print(text, flush=True)


def run_script(server: ServerProcess) -> int:
    """Hands the terminal over. Ctrl-C is for the script alone."""
    arguments = [] if interactive() else ["--project", PROJECT, "--workers", "4"]
    say(" ".join(["\n$ python model_to_run.py", *arguments]))
    if interactive():
        say("(Press Enter at both questions.)")
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with tempfile.TemporaryDirectory(prefix="model-to-run-demo-") as folder:
            return subprocess.call(command(*arguments), cwd=folder, env=environment(server))
    finally:
        signal.signal(signal.SIGINT, before)


def rows_of(server: ServerProcess) -> list[list[str]]:
    """The project's runs, one line of the table each."""
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
    """Columns as wide as they need to be; a group tag is written once."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
    yield in_columns(list(COLUMNS), widths)
    group = ""
    for row in rows:
        if row[0] != group:
            yield in_columns(["-" * width for width in widths], widths)
        yield in_columns(["" if row[0] == group else row[0], *row[1:]], widths)
        group = row[0]


def in_columns(texts: list[str], widths: list[int]) -> str:
    return "   ".join(text.ljust(width) for text, width in zip(texts, widths)).rstrip()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

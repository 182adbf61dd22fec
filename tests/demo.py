"""Start a small Neptune server on this machine, fill a model registry, and let you copy it with model_to_run.py.

It takes some ten seconds. Then you can look at the runs in a browser, and try flags, until you press Enter. Without a
terminal it asks nothing and ends by itself. Ctrl-C ends it at any moment. No account is needed. It leaves nothing
behind: when it ends, the server is down, and its files and the downloads are gone.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def stop(number: int, _: FrameType | None = None) -> None:
    """End quietly. No second signal may disturb the clearing up."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def on_ending(handler: Any) -> None:
    """Let a handler end the demo; but a program in the background goes on ignoring Ctrl-C."""
    for each in ENDING:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, handler)


if __name__ == "__main__":
    # While modules are imported, an exception may get lost, and there is nothing to clear up yet.
    on_ending(lambda number, _: os._exit(128 + number))

import argparse
import shlex
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

REPOSITORY = Path(__file__).resolve().parents[1]
# `tests` is imported as a package from the repository's root, wherever the demo is started from.
sys.path[0] = str(REPOSITORY)

if TYPE_CHECKING:
    from tests.neptune_server.process import ServerProcess

PROJECT, KEY = "acme/credit-risk", "CR"
COLUMNS = {
    "Group tag": "sys/group_tags",
    "Custom run ID": "sys/custom_run_id",
    "Run ID": "sys/id",
    "Tags": "sys/tags",
    "Stage": "old_sys/stage",
}
PATIENCE = 5  # seconds between two signs of life
OUTPUT_CLOSED = 141  # as of a program that SIGPIPE ends


def main() -> int:
    argparse.ArgumentParser(prog="python tests/demo.py", description=__doc__).parse_args()
    say("This demo takes some ten seconds and leaves nothing behind. Ctrl-C ends it.")
    say("Starting a small Neptune server on this machine ...")
    # Imported here, because it takes a moment.
    from tests.neptune_server.process import ServerProcess
    from tests.support.script import environment

    on_ending(stop)
    try:
        with tempfile.TemporaryDirectory(prefix="model-to-run-demo-") as folder:
            tempfile.tempdir = folder  # the server's files, too
            with ServerProcess("--project", PROJECT, "--key", KEY) as server:
                return show(server, Path(folder), environment(server))
    finally:
        say("\nThe server is down, and the demo's files are gone. Commands in other terminals left theirs there.")


def show(server: ServerProcess, folder: Path, environment: dict[str, str]) -> int:
    fill_registry(folder, environment)
    status = run_script(folder, environment)
    if status == 0:
        pause("Press Enter to see the runs. ")
        say(f"\nThe runs of {PROJECT} by group tag:\n")
        with held_back():
            rows = rows_of(server)
        for line in as_table(rows):
            say(line)
        if interactive():
            let_look(server)
            let_try(folder, server.environment)
    return status


def interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(text: str, end: str = "\n") -> None:
    """Print text, wrapped at words to the width of the terminal; an address is never broken."""
    width = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    put("\n".join(wrapper.fill(line) if len(line) > width else line for line in text.split("\n")), end)


def put(text: str, end: str = "\n") -> None:
    """Print text as it is, such as a command that is to be copied."""
    try:
        print(text, end=end, flush=True)
    except OSError:  # nobody reads any more: what is left in the buffer goes nowhere, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUTPUT_CLOSED)


def pause(text: str) -> None:
    if interactive():
        say(text, end="")
        sys.stdin.readline()


def let_look(server: ServerProcess) -> None:
    say("\nOpen this address in a browser:")
    say(f"{server.url}/{PROJECT}/")
    say("Look there at")
    say("- CR-FOREST-2: the run beside its source, field by field, and what is equal")
    say("- val/auc and val/roc in it: a chart and images, of the run and of its source")
    say("- Models, at the top: each model and version, and the run that it became")
    pause("\nPress Enter when you have seen them. ")


def let_try(folder: Path, settings: dict[str, str]) -> None:
    """Tell how to start the script with other flags. The settings stand in a file, because a token is a long line."""
    say("\nTo try flags, open another terminal in the directory of model_to_run.py:\n")
    if sys.platform == "win32":
        file, start = folder / "demo.bat", "call"
        lines = [f"@set {name}={value}" for name, value in settings.items()]
        lines += [f'@call "{sys.prefix}\\Scripts\\activate"'] if sys.prefix != sys.base_prefix else []
    else:
        file, start = folder / "demo.env", "."
        lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
        lines += [f". {shlex.quote(sys.prefix)}/bin/activate"] if sys.prefix != sys.base_prefix else []
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    put(f"{start} {file}")
    for flag in ("--dry-run", "--verify", "--undo"):
        put(f"python model_to_run.py {flag}")
    say("\nThey leave logs, reports and downloads (models_migration_*, tmp_*) in that directory.")
    pause("\nPress Enter to end the demo. ")


# -- the registry --


def fill_registry(folder: Path, environment: dict[str, str]) -> None:
    """Fill it in a process of its own: the client takes seconds to be imported, and Ctrl-C makes it print a lot."""
    say("It is up. Filling a model registry with 3 models and 7 versions ...")
    filling = subprocess.Popen(
        [sys.executable, "-c", "from tests.demo import fill; fill()"],
        cwd=REPOSITORY,
        env={**environment, "TMPDIR": str(folder)},
        start_new_session=True,
    )
    seconds = 0
    try:
        while True:
            try:
                status = filling.wait(PATIENCE)
                break
            except subprocess.TimeoutExpired:
                seconds += PATIENCE
                say(f"Still filling the registry, for {seconds} seconds now ...")
    finally:
        filling.kill()
        filling.wait()
    if status:
        sys.exit("The registry could not be filled.")


def fill() -> None:
    """Fill the registry of the server that the environment names."""
    import logging
    import warnings

    from tests.neptune_server.process import ServerProcess
    from tests.support.registry import fill_demo

    logging.getLogger("neptune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    server = ServerProcess()
    server.environment = dict(os.environ)
    fill_demo(server, PROJECT)


# -- the script --

SCRIPT_RUNNER = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, lambda *_: os._exit(130))
if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the script. Until its own handler stands, Ctrl-C would print a traceback."""


def run_script(folder: Path, environment: dict[str, str]) -> int:
    """Hand the terminal over. Ctrl-C reaches the script, which ends by itself, and then so does the demo."""
    arguments = [] if interactive() else ["--project", PROJECT, "--workers", "4"]
    say(" ".join(["\n$ python model_to_run.py", *arguments]))
    if interactive():
        say("(Enter answers both questions. After a wrong answer it asks again: try one.)")
    interrupted = []
    before = signal.getsignal(signal.SIGINT)
    if before is stop:
        signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
    with held_back():
        script = subprocess.Popen(
            [sys.executable, "-c", SCRIPT_RUNNER, str(REPOSITORY / "model_to_run.py"), *arguments],
            cwd=folder,
            env=environment,
        )
    try:
        status = script.wait()
    finally:
        script.kill()
        script.wait()
    signal.signal(signal.SIGINT, before)
    if interrupted:
        stop(signal.SIGINT)
    return status


@contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C back, where an exception might get lost. A process that is started meanwhile has to let it in."""
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


# -- the runs --


def rows_of(server: ServerProcess) -> list[list[str]]:
    """The project's runs, one line of the table each."""
    containers = server.instruments.state(PROJECT)["containers"].values()
    runs = [each["attributes"] for each in containers if each["kind"] == "run" and not each["trashed"]]
    return sorted([in_words(run, path) for path in COLUMNS.values()] for run in runs)


def in_words(run: dict[str, Any], path: str) -> str:
    value = run[path]["value"] if path in run else ""
    return value if isinstance(value, str) else ", ".join(sorted(value))


def as_table(rows: list[list[str]]) -> Iterator[str]:
    """Columns as wide as they need to be; a group tag is written once."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
    yield in_columns(list(COLUMNS), widths)
    yield in_columns(["-" * width for width in widths], widths)
    group = ""
    for row in rows:
        yield in_columns(["" if row[0] == group else row[0], *row[1:]], widths)
        group = row[0]


def in_columns(texts: list[str], widths: list[int]) -> str:
    return "   ".join(text.ljust(width) for text, width in zip(texts, widths)).rstrip()


if __name__ == "__main__":
    sys.exit(main())

"""Runs model_to_run.py as a person would: in a process and a folder of its own."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.neptune_server.process import ServerProcess

SCRIPT = Path(__file__).parents[2] / "model_to_run.py"


@dataclass(frozen=True)
class Completed:
    status: int
    output: str
    """What was on the screen, errors among the rest."""
    log: str
    """The latest log in the folder, empty if there is none."""
    report: list[dict[str, str]]
    """The rows of the latest report by their columns' names."""

    @property
    def planned(self) -> dict[str, str]:
        """What a dry run says of each object."""
        rows = self.output.partition("\nobject ")[2].partition("\n\n")[0]
        return dict(re.findall(r"(?m)^(\S+) +(\S.*?)  ", rows))

    def row(self, source_id: str) -> dict[str, str]:
        (found,) = (row for row in self.report if row["source ID"] == source_id)
        return found


def command(*arguments: str, script: Path = SCRIPT) -> list[str]:
    return [sys.executable, str(script), *arguments]


def impatient_script(folder: Path, **seconds: int) -> Path:
    """A copy of the script in which settings such as OUTAGE have other numbers."""
    text = SCRIPT.read_text("utf-8")
    for name, number in seconds.items():
        text, count = re.subn(rf"(?m)^{name} = [0-9 *]+  #", f"{name} = {number}  #", text)
        assert count == 1, name
    edited = folder / "impatient.py"
    edited.write_text(text, "utf-8")
    return edited


def environment(
    server: ServerProcess, env: Mapping[str, str | None] | None = None, timezone: str | None = None
) -> dict[str, str]:
    """This process' environment with no settings for Neptune but those of the server; then with `env`'s own, where
    None takes a variable away."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("NEPTUNE_")}
    found.update(server.environment, PYTHONUTF8="1")
    if timezone is not None:
        found["TZ"] = timezone
    for name, value in (env or {}).items():
        found.pop(name, None)
        if value is not None:
            found[name] = value
    return found


def run_script(
    server: ServerProcess,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str | None] | None = None,
    timezone: str | None = None,
    stdin: str = "",
    timeout: float = 120,
    script: Path = SCRIPT,
) -> Completed:
    """Runs it, or a copy that is edited, to its end, without a terminal; `stdin` is all that it finds to read."""
    ended = subprocess.run(
        command(*arguments, script=script),
        cwd=cwd,
        env=environment(server, env, timezone),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )
    return Completed(ended.returncode, ended.stdout, latest_log(cwd), latest_report(cwd))


def latest_log(folder: Path) -> str:
    found = _latest(folder, "models_migration_*.log")
    return found.read_text("utf-8") if found else ""


def latest_report(folder: Path) -> list[dict[str, str]]:
    found = _latest(folder, "models_migration_*_report.csv")
    if found is None:
        return []
    with found.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))


def _latest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)

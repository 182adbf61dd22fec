"""What README says, held against what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import neptune
import pytest
from neptune import management

from tests.neptune_server.process import ServerProcess
from tests.support.script import run_script

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    """The code of the block that README marks with this name, without the indentation of a list."""
    found = re.search(rf"<!-- test: {name} -->\s*?\n( *)```python\n(.*?)```", README, re.DOTALL)
    assert found, name
    return re.sub(rf"(?m)^{found[1]}", "", found[2])


def run_example(name: str, folder: Path) -> None:
    program = folder / f"{name}.py"
    program.write_text(example(name), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, program.name], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def fields_of(server: ServerProcess, project: str, sys_id: str) -> dict[str, object]:
    found = server.instruments.state(project)["containers"][sys_id]["attributes"]
    return {path: field.get("value", field) for path, field in found.items()}


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """A server of its own, so that the project's key, and with it the IDs, can be those of README."""
    with ServerProcess("--project", "acme/first") as process, pytest.MonkeyPatch.context() as patch:
        for name, value in process.environment.items():
            patch.setenv(name, value)
        yield process


@pytest.fixture
def credit(server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project in which the IDs are those of README: its key is CR."""
    monkeypatch.chdir(tmp_path)
    management.create_project("acme/credit-risk", key="CR", visibility="priv")
    monkeypatch.setenv("NEPTUNE_PROJECT", "acme/credit-risk")
    return "acme/credit-risk"


def test_code_of_ones_own_logs_a_folder_of_trainings(server: ServerProcess, credit: str, tmp_path: Path) -> None:
    for number in range(1, 4):
        folder = tmp_path / "trainings" / str(number)
        folder.mkdir(parents=True)
        (folder / "loss.txt").write_text("0.5\n0.25\n", encoding="utf-8")
        (folder / "forest.pkl").write_bytes(b"a forest")
    (tmp_path / "trainings" / ".DS_Store").write_bytes(b"no training")
    run_example("log", tmp_path)
    runs = [fields_of(server, credit, f"CR-{number}") for number in range(1, 4)]
    assert {run["sys/custom_run_id"] for run in runs} == {"forest-1", "forest-2", "forest-3"}
    for run in runs:
        assert (run["sys/tags"], run["sys/group_tags"]) == (["model_version"], ["CR-FOREST"])
        assert [point[2] for point in run["training/loss"]["points"]] == [0.5, 0.25]  # type: ignore[index]
        assert "weights" in run


def test_the_run_of_a_model_is_found(server: ServerProcess, credit: str, tmp_path: Path) -> None:
    with neptune.init_model(key="FOREST") as model:
        neptune.init_model_version(model=model["sys/id"].fetch()).stop()
    assert run_script(server, "--project", credit, cwd=tmp_path).status == 0
    runs = server.instruments.state(credit)["containers"]
    (copy,) = [sys_id for sys_id in runs if fields_of(server, credit, sys_id).get("old_sys/id") == "CR-FOREST-1"]
    (query,) = re.findall(r"search the runs: ``(.+?)``", README)
    found = (
        "import neptune\n"
        f"runs = neptune.init_project(mode='read-only').fetch_runs_table(query={query!r})\n"
        "print(*(run['sys/id'].get() for run in runs))"
    )
    ended = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, timeout=60)
    assert copy in ended.stdout.split(), ended.stderr


def test_every_flag_is_told() -> None:
    ended = subprocess.run(
        [sys.executable, "model_to_run.py", "--help"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    flags = set(re.findall(r"--[a-z-]+", ended.stdout)) - {"--help"}
    assert {flag for flag in flags if f"`{flag}" not in README} == set()
    assert len(README.splitlines()) <= 170


def test_the_commands_are_those_that_run_everything() -> None:
    commands = re.findall(r"(?m)^pip install .*$", README)
    assert [command.rpartition("&& ")[2] for command in commands] == [
        "python tests/demo.py",
        "python -m pytest -c tests/pytest.ini tests",
    ]


def test_the_picture_is_there_and_small() -> None:
    (picture,) = re.findall(r"!\[[^]]+\]\((.+?)\)", README)
    assert README.index("![") < README.index("\n## ")
    assert 10_000 < (REPOSITORY / picture).stat().st_size < 150_000

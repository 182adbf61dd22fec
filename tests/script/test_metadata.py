"""What the script and the repository say of themselves."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "model_to_run.py"

TOP_LEVEL = {"model_to_run.py", "README.md", "LICENSE", "requirements.txt", ".gitignore", "tests", ".ci"}


def requirements(name: str) -> list[str]:
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def metadata() -> dict[str, object]:
    """The script's inline metadata, found as tools find it and read as far as it goes: TOML of texts and of lists."""
    pattern = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    (block,) = re.finditer(pattern, SCRIPT.read_text(encoding="utf-8"))
    assert block["type"] == "script"
    content = "".join(line[2:] if line.startswith("# ") else line[1:] for line in block["content"].splitlines(True))
    found = re.findall(r"(?ms)^([a-z-]+) = (\".*?\"|\[.*?\])$", content)
    return {name: ast.literal_eval(text) for name, text in found}


def test_the_scripts_own_requirements_are_those_of_the_repository() -> None:
    assert metadata()["dependencies"] == requirements("requirements.txt")


def test_the_script_requires_the_client_and_tqdm_and_nothing_else() -> None:
    names = [re.split(r"[<>=!~;\[ ]", line)[0] for line in requirements("requirements.txt")]
    assert sorted(names) == ["neptune", "tqdm"]


def test_the_script_imports_nothing_that_is_not_required() -> None:
    """Beyond the two: what the client itself imports, at its own requirement."""
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    if sys.version_info >= (3, 10):
        assert imported - sys.stdlib_module_names == {"neptune", "tqdm", "requests", "bravado", "oauthlib"}


def test_the_script_says_which_python_it_needs() -> None:
    assert metadata()["requires-python"] == ">=3.9"


def test_the_script_has_the_grammar_of_the_oldest_python() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_the_license_is_apache_2() -> None:
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert re.match(r"\s+Apache License\s+Version 2\.0, January 2004\s", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Apache License, Version 2.0" in SCRIPT.read_text(encoding="utf-8").split("import", 1)[0]


def test_the_top_level_is_fixed() -> None:
    assert {name for name in TOP_LEVEL if (REPOSITORY / name).exists()} == TOP_LEVEL
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("Without git there is no telling what belongs to the repository")
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True)
    assert {name.partition("/")[0] for name in tracked.stdout.splitlines()} <= TOP_LEVEL


def test_settings_of_tools_lie_with_the_tests() -> None:
    for name in ("pytest.ini", "ruff.toml", "mypy.ini", "requirements.txt"):
        assert (REPOSITORY / "tests" / name).is_file()


ANALYSIS = """
import json, logging, os, signal, sys, threading, warnings
import neptune, neptune.management, requests, tqdm
from neptune.table import Table

def look():
    names = ("", "neptune", "neptune_no_prefix", "neptune_noop", "py.warnings")
    loggers = {name: logging.getLogger(name) for name in names}
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "logging": {name: [each.level, each.propagate, str(each.handlers)] for name, each in loggers.items()},
        "warnings": (str(warnings.showwarning), str(warnings.formatwarning), str(warnings.filters)),
        "threads": sorted(each.name for each in threading.enumerate()),
        "hooks": (str(threading.excepthook), str(sys.excepthook)),
        "signals": [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)],
        "path": sys.path,
    }

before = look()
import model_to_run
after = look()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""


def test_importing_the_script_does_nothing(tmp_path: Path) -> None:
    """People lift pieces of it into their own scripts."""
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{ANALYSIS}"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("rfc3987_syntax") is None, reason="This jsonschema comes without it")
@pytest.mark.parametrize(("module", "compiled"), [("neptune", True), ("model_to_run", False)])
def test_the_script_does_not_wait_for_a_grammar_that_the_client_has_compiled(module: str, compiled: bool) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\nimport {module}\nprint('rfc3987_syntax' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert ended.stdout.strip() == str(compiled)


def test_help_tells_every_flag_and_needs_no_server(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    flags = "project workers only query version-query stage-as-tag dry-run verify recopy delete-files undo trash-models"
    assert [flag for flag in flags.split() if f"--{flag}" not in ended.stdout] == []
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX"])
def test_nothing_is_left_to_do_in_the_script(word: str) -> None:
    assert word not in SCRIPT.read_text(encoding="utf-8")


MISSING = "raise ModuleNotFoundError(\"No module named 'neptune'\")\n"
OLD = """\
import sys
from importlib.machinery import PathFinder

spec = PathFinder.find_spec("neptune", [path for path in sys.path if path not in __file__])
__path__ = list(spec.submodule_search_locations)
exec(compile(open(spec.origin).read(), spec.origin, "exec"))
__version__ = "1.9.1"
"""


@pytest.mark.parametrize(("package", "reason"), [(MISSING, "No module named 'neptune'"), (OLD, "neptune 1.9.1 is too")])
def test_without_the_client_or_with_an_old_one_it_says_so_and_help_works(
    tmp_path: Path, package: str, reason: str
) -> None:
    (tmp_path / "neptune").mkdir()
    (tmp_path / "neptune" / "__init__.py").write_text(package)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *flags]
        return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment)

    ended = run("--project", "acme/credit")
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1), ended.stderr
    assert reason in ended.stderr
    assert 'pip install "neptune>=1.10,<2" tqdm' in ended.stderr
    assert (run("--help").returncode, [file.name for file in tmp_path.iterdir()]) == (0, ["neptune"])

"""Copies a small registry with model_to_run.py under other versions of Python and of the client, and compares.

python tests/tools/versions.py python3.9 python3.14      each in a virtual environment that this makes for it
python tests/tools/versions.py python3.11 --client 1.10.4
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.neptune_server.process import ServerProcess
from tests.support.script import SCRIPT, environment
from tests.tools.torture import problems, small_registry


def environment_of(python: str, client: str | None, folder: Path) -> Path:
    """Make a virtual environment with what the script needs, and return its interpreter."""
    subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True)
    interpreter = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    wanted = ["-r", str(REPOSITORY / "requirements.txt")] if client is None else [f"neptune=={client}", "tqdm"]
    subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *wanted], check=True)
    return interpreter


def copy_with(python: str, client: str | None) -> bool:
    """Copy with one version of each, and tell whether every copy is exact."""
    name_of_both = f"{python}, neptune {client}" if client else python
    with tempfile.TemporaryDirectory(prefix="versions-") as name, ServerProcess() as server:
        folder = Path(name)
        try:
            interpreter = environment_of(python, client, folder)
        except subprocess.CalledProcessError as error:
            print(f"{name_of_both}: left out, because its packages cannot be installed here ({error})", flush=True)
            return True
        with small_registry(server) as planted:
            command = [str(interpreter), str(SCRIPT), "--project", planted.project, "--workers", "2", "--verify"]
            ended = subprocess.run(
                command, cwd=folder, env=environment(server), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            wrong = problems(planted)
    print(f"{name_of_both}: status {ended.returncode}", *wrong, sep="\n  ", flush=True)
    return not (ended.returncode or wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="interpreters; one that is not there is left out")
    parser.add_argument("--client", action="append", metavar="VERSION", help="of neptune; by itself the newest")
    given = parser.parse_args()
    pythons = [found for found in map(shutil.which, given.pythons) if found]
    exact = [copy_with(python, client) for python in pythons for client in given.client or [None]]
    return int(not all(exact))


if __name__ == "__main__":
    sys.exit(main())

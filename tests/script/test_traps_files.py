"""How the client names and chooses the files it uploads, and that the script's copies keep the names as they are."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import neptune
import pytest
from neptune.internal.backends.hosted_file_operations import get_unique_upload_entries
from neptune.types import File

from tests.neptune_server.process import ServerProcess
from tests.server.test_server_objects import open_run
from tests.support.planted import Attribute, Planted, copy_whole

posix_names = pytest.mark.skipif(sys.platform == "win32", reason="the system has no such file names")


@pytest.fixture
def planted(server: ServerProcess, project: str) -> Planted:
    return Planted(server, project)


def fields_of(planted: Planted, run: neptune.Run) -> dict[str, Any]:
    found: dict[str, Any] = planted.state()["containers"][run["sys/id"].fetch()]["attributes"]
    return found


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def file_set(*names: str) -> Attribute:
    """A set of files, each with other bytes."""
    return {"type": "fileSet", "files": {name: encoded(name.encode() * 3) for name in names}}


def file(content: bytes, extension: str) -> Attribute:
    return {"type": "file", "content": encoded(content), "ext": extension, "name": "any"}


def make(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def uploaded(planted: Planted, *patterns: str) -> list[str]:
    """The names under which the client uploads what patterns choose."""
    with open_run() as run:
        run["set"].upload_files(list(patterns))
        return sorted(fields_of(planted, run)["set"]["files"])


# -- patterns --


def test_the_client_takes_a_name_for_a_pattern(planted: Planted) -> None:
    make("data[1].csv", "data1.csv")
    assert uploaded(planted, "data[1].csv") == ["data1.csv"]


def test_the_clients_patterns_miss_hidden_files(planted: Planted) -> None:
    make("tree/seen", "tree/.hidden", "tree/.also/inside")
    assert uploaded(planted, "tree/*") == ["tree/seen"]


@posix_names
def test_the_script_copies_names_that_are_patterns_and_hidden_ones(planted: Planted) -> None:
    names = ["data[1].csv", "data1.csv", "*", "?", "**/[!a]*", ".hidden", ".also/.inside", "[", "a*b?c", "plain"]
    planted.model({"set": file_set(*names)})
    copy_whole(planted)


# -- names --


def test_the_client_names_files_by_what_they_have_in_common(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make("tree/sub/only.txt", "work/x")
    assert uploaded(planted, "tree/sub/only.txt") == ["tree/sub/only.txt"]
    monkeypatch.chdir(tmp_path / "work")
    assert uploaded(planted, str(tmp_path / "tree/sub/only.txt")) == ["only.txt"]


def test_the_client_names_files_by_the_working_directory_of_the_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The moment being that of the upload, in a thread of its own."""
    monkeypatch.chdir(tmp_path)
    make("a/b/c.txt", "a/b/d.txt")
    both = str(tmp_path / "a/b/*")

    def names() -> list[str]:
        return sorted(entry.target_path for entry in get_unique_upload_entries([both]))

    assert names() == ["a/b/c.txt", "a/b/d.txt"]
    monkeypatch.chdir(tmp_path / "a")
    assert names() == ["b/c.txt", "b/d.txt"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert names() == ["c.txt", "d.txt"]


@pytest.mark.parametrize(
    "names", [["tree/sub/only.txt"], ["deep/a/1", "deep/a/2"], ["only"], ["a/b", "a.b", "ab/c/d/e/f/g"]]
)
def test_the_script_copies_names_with_nothing_cut_off_or_added(planted: Planted, names: list[str]) -> None:
    planted.model({"set": file_set(*names)})
    copy_whole(planted)


@posix_names
def test_the_script_copies_names_that_no_folder_would_take(planted: Planted) -> None:
    names = [
        "with space",
        " ",
        "zażółć",
        "e\u0301",
        "\u00e9",
        "\U0001f600",
        "CON",
        "a:b",
        "a\\b",
        "Case",
        "case",
        "x" * 300,
    ]
    planted.model({"set": file_set(*names), "several": file_set("one"), "none": file_set()})
    copy_whole(planted)


# -- the time of the upload --


def test_the_client_walks_a_folder_only_when_it_uploads(planted: Planted, tmp_path: Path) -> None:
    make("tree/before", "elsewhere/x")
    with open_run(mode="async", flush_period=60) as run:
        run.sync()
        run["set"].upload_files("tree")
        make("tree/after")
        (tmp_path / "tree/before").unlink()
        run.sync()
        assert sorted(fields_of(planted, run)["set"]["files"]) == ["tree/after"]


def test_the_client_keeps_patterns_in_its_queue(planted: Planted, tmp_path: Path) -> None:
    make("one.txt")
    with open_run(mode="async", flush_period=60) as run:
        run.sync()
        run["set"].upload_files("*.txt")
        make("two.txt")
        run.sync()
        assert sorted(fields_of(planted, run)["set"]["files"]) == ["one.txt", "two.txt"]


# -- extensions and local paths --


@pytest.mark.parametrize(
    ("name", "extension"), [("model.tar.gz", "gz"), ("weights", ""), (".hidden", ""), ("a.b/weights", ""), ("x.", "")]
)
def test_the_client_takes_the_extension_from_the_local_name(name: str, extension: str) -> None:
    assert File(name).extension == extension


def test_the_script_copies_extensions_as_they_are(planted: Planted) -> None:
    extensions = ["", "tar.gz", "gz", "with space", "ż", "A", "."]
    planted.model({f"file/{number}": file(b"x" * number, each) for number, each in enumerate(extensions)})
    copy_whole(planted)


@pytest.mark.parametrize("kind", ["file", "set", "images"])
def test_the_script_makes_no_local_path_of_a_fields_path(planted: Planted, tmp_path: Path, kind: str) -> None:
    image = {"content": encoded(b"image"), "name": "../../name", "description": None}
    field = {
        "file": file(b"bytes", "../../../evil"),
        "set": file_set("a", "b/c"),
        "images": {"type": "imageSeries", "points": [[0.0, 1, image]]},
    }[kind]
    paths = [
        "../../up",
        "a/../../../b",
        "C:\\windows",
        "CON",
        "a:b",
        "x" * 200,
        "/".join(["deep"] * 60),
        "~/home",
        "%2e",
    ]
    planted.model(dict.fromkeys(paths, field))
    before = set(tmp_path.parent.iterdir())
    copy_whole(planted)
    assert set(tmp_path.parent.iterdir()) == before
    made = [path for path in tmp_path.rglob("*") if ".neptune" not in path.parts]
    assert {path.relative_to(tmp_path).parts[0] for path in made} == {path.name for path in tmp_path.glob("tmp*")}
    assert all(len(part) <= 64 for path in made for part in path.relative_to(tmp_path).parts)

"""Fields that hold bytes: files, file sets, series of images, and artifacts, which hold the hashes of files."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import neptune
import pytest
from neptune.exceptions import ArtifactNotFoundException, FetchAttributeNotFoundException
from neptune.types import File, FileSet
from PIL import Image

from tests.neptune_server.process import ServerProcess
from tests.server.test_server_objects import open_run
from tests.support.wire import ATTRIBUTES, Wire

STORAGE = f"{ATTRIBUTES}/storage"
MEGABYTE = 1024 * 1024
NAMES = ["plain.txt", ".hidden", "no_extension", "with space.txt", "star*[1]?.txt", "zażółć.txt", "a.b.c", "empty"]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def picture(colour: tuple[int, int, int], form: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(target, form)
    return target.getvalue()


def attribute(server: ServerProcess, project: str, run: neptune.Run, path: str) -> dict[str, Any]:
    containers = server.instruments.state(project)["containers"]
    found: dict[str, Any] = containers[run["sys/id"].fetch()]["attributes"][path]
    return found


def plant(folder: Path) -> dict[str, bytes]:
    """A tree of files with hard names, and what it holds by relative path."""
    content = {name: name.encode() for name in NAMES if name != "empty"}
    content["empty"] = b""
    content["deep/er/file.bin"] = os.urandom(1000)
    content["deep/.also hidden/x"] = b"x"
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return content


# -- files --


@pytest.mark.parametrize("name", ["weights.bin", "archive.tar.gz", "no_extension", "zażółć.txt"])
def test_a_file_keeps_its_bytes_and_its_extension(server: ServerProcess, project: str, name: str) -> None:
    Path(name).write_bytes(b"some bytes")
    with open_run() as run:
        run["a/file"].upload(name)
        extension = name.partition(".")[2].rpartition(".")[2] if "." in name else ""
        found = attribute(server, project, run, "a/file")
        assert (found["sha256"], found["ext"]) == (digest(b"some bytes"), extension)
        assert run["a/file"].fetch_extension() == extension
        run["a/file"].download("again")
        assert Path("again").read_bytes() == b"some bytes"


def test_a_file_is_downloaded_under_the_name_of_its_field(project: str) -> None:
    with open_run() as run:
        run["some/where/data"].upload(File.from_content("text", extension="csv"))
        Path("here").mkdir()
        run["some/where/data"].download("here")
    assert [path.name for path in Path("here").iterdir()] == ["data.csv"]


@pytest.mark.parametrize("size", [0, 5 * MEGABYTE, 5 * MEGABYTE + 1, 12 * MEGABYTE])
def test_a_file_arrives_whole_in_one_piece_and_in_parts(server: ServerProcess, project: str, size: int) -> None:
    content = os.urandom(size)
    Path("file.bin").write_bytes(content)
    server.instruments.reset_counts()
    with open_run() as run:
        run["file"].upload("file.bin")
        found = attribute(server, project, run, "file")
        assert (found["size"], found["sha256"]) == (size, digest(content))
    parts = server.instruments.counts()["requests"].get("fileAtomMultipartUploadPart", 0)
    assert parts == (0 if size <= 5 * MEGABYTE else -(-size // (5 * MEGABYTE)))


def test_parts_are_checked_against_their_ranges(server: ServerProcess, project: str) -> None:
    wire = Wire(server)
    with open_run() as run:
        place = {"experimentIdentifier": run._id, "attribute": "file"}
        upload = wire.post(f"{STORAGE}/file/upload/start", ext="bin", totalLength=10, **place).json()["uploadId"]

        def send(index: int, content: bytes, span: str) -> Any:
            wire.session.headers["X-Range"] = span
            parameters = {"uploadId": upload, "uploadPartIdx": index, **place}
            return wire.post(f"{STORAGE}/file/upload/part", content, **parameters)

        short = send(0, b"1234", "bytes=0-4/10")
        assert short.status_code == 400
        assert "Length of stream does not match given range" in short.text
        assert send(0, b"12345", "bytes=0-4/11").status_code == 400
        assert send(0, b"12345", "nonsense").status_code == 400
        assert send(1, b"67890", "bytes=5-9/10").json() == {"errors": []}
        assert wire.post(f"{STORAGE}/file/upload/finish", uploadId=upload, **place).status_code == 400
        assert send(0, b"12345", "bytes=0-4/10").json() == {"errors": []}
        assert send(0, b"12345", "bytes=0-4/10").json() == {"errors": []}
        assert wire.post(f"{STORAGE}/file/upload/finish", uploadId=upload, **place).json() == {"errors": []}
        assert wire.post(f"{STORAGE}/file/upload/finish", uploadId=upload, **place).status_code == 404
        assert attribute(server, project, run, "file")["sha256"] == digest(b"1234567890")


def test_a_file_does_not_replace_a_value(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["number"] = 1
        place = {"experimentIdentifier": run._id, "attribute": "number", "ext": "txt"}
        wire = Wire(server)
        (error,) = wire.post(f"{STORAGE}/file/upload", b"text", **place).json()["errors"]
        assert error["errorType"] == "metadata_inconsistency"
        assert wire.post(f"{STORAGE}/file/upload/start", totalLength=9, **place).json()["errors"]


def test_a_file_that_is_not_there_is_not_found(project: str) -> None:
    with open_run() as run:
        run["file"].upload(File.from_content("text"))
        with open_run(with_id=run["sys/id"].fetch()) as other:
            del other["file"]
        with pytest.raises(FetchAttributeNotFoundException):
            run["file"].download("file.txt")


# -- file sets --


def test_a_tree_of_files_comes_back_as_it_was(server: ServerProcess, project: str) -> None:
    content = plant(Path("tree"))
    with open_run() as run:
        run["set"].upload_files("tree")
        found = attribute(server, project, run, "set")["files"]
        assert {name: each["sha256"] for name, each in found.items()} == {
            f"tree/{name}": digest(data) for name, data in content.items()
        }
        run["set"].download("set.zip")
    with zipfile.ZipFile("set.zip") as archive:
        names = archive.namelist()
        assert {name: archive.read(name) for name in names if not name.endswith("/")} == {
            f"tree/{name}": data for name, data in content.items()
        }
        assert [name for name in names if name.endswith("/")] == [
            "/",
            "tree/",
            "tree/deep/",
            "tree/deep/.also hidden/",
            "tree/deep/er/",
        ]


def test_a_set_is_added_to_by_uploads_and_replaced_by_an_assignment(server: ServerProcess, project: str) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        Path(name).write_text(name)
    with open_run() as run:
        run["set"].upload_files("a.txt")
        run["set"].upload_files(["b.txt", "c.txt"])
        assert sorted(attribute(server, project, run, "set")["files"]) == ["a.txt", "b.txt", "c.txt"]
        assert run["sys/size"].fetch() == 15.0
        run["set"] = FileSet("c.txt")
        assert sorted(attribute(server, project, run, "set")["files"]) == ["c.txt"]
        assert run["sys/size"].fetch() == 5.0
        Path("c.txt").write_text("longer than before")
        run["set"].upload_files("c.txt")
        assert attribute(server, project, run, "set")["files"]["c.txt"]["size"] == 18


def test_a_large_file_in_a_set_comes_in_parts(server: ServerProcess, project: str) -> None:
    content = os.urandom(6 * MEGABYTE)
    Path("folder").mkdir()
    Path("folder/large.bin").write_bytes(content)
    Path("folder/small.bin").write_bytes(b"small")
    with open_run() as run:
        run["set"].upload_files("folder")
        files = attribute(server, project, run, "set")["files"]
    assert {name: each["sha256"] for name, each in files.items()} == {
        "folder/large.bin": digest(content),
        "folder/small.bin": digest(b"small"),
    }


def test_a_set_is_listed_folder_by_folder(project: str) -> None:
    plant(Path("tree"))
    with open_run() as run:
        run["set"].upload_files("tree")
        run.sync()
        top = run["set"].list_fileset_files()
        assert [(entry.name, entry.file_type) for entry in top] == [("tree", "directory")]
        inside = {entry.name: (entry.file_type, entry.size) for entry in run["set"].list_fileset_files("tree/deep/er")}
        assert inside == {"file.bin": ("file", 1000)}
        with pytest.raises(neptune.exceptions.FileSetNotFound):
            run["set"].list_fileset_files("nowhere")


def test_files_are_deleted_from_a_set(server: ServerProcess, project: str) -> None:
    plant(Path("tree"))
    with open_run() as run:
        run["set"].upload_files("tree")
        before = len(attribute(server, project, run, "set")["files"])
        run["set"].delete_files(["tree/plain.txt", "tree/deep"])
        left = attribute(server, project, run, "set")["files"]
        assert len(left) == before - 3
        assert run["sys/size"].fetch() == sum(each["size"] for each in left.values())


def test_one_file_of_a_set_is_downloaded_by_its_path(server: ServerProcess, project: str) -> None:
    content = plant(Path("tree"))
    with open_run() as run:
        run["set"].upload_files("tree")
        wire = Wire(server)
        place = {"experimentId": run._id, "attribute": "set"}
        answer = wire.get(f"{ATTRIBUTES}/download", path="tree/deep/er/file.bin", **place)
        assert answer.content == content["deep/er/file.bin"]
        assert wire.get(f"{ATTRIBUTES}/download", path="tree/none", **place).status_code == 404
        assert wire.get(f"{ATTRIBUTES}/download", **place).status_code == 404


def test_names_that_lead_out_of_a_set_are_refused(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        place = {"experimentIdentifier": run._id, "attribute": "set", "subPath": "../../x"}
        assert Wire(server).post(f"{STORAGE}/fileset/upload", b"x", **place).status_code == 400


def test_an_archive_takes_its_time(project: str) -> None:
    with ServerProcess("--archive-delay", "0.3", "--project", "acme/slow") as server:
        token = server.environment["NEPTUNE_API_TOKEN"]
        Path("a.txt").write_text("a")
        with open_run(project="acme/slow", api_token=token) as run:
            run["set"].upload_files("a.txt")
            run["set"].download("set.zip")
        assert zipfile.ZipFile("set.zip").read("a.txt") == b"a"
        assert server.instruments.counts()["requests"]["getDownloadPrepareRequest"] == 2


# -- images --


def test_images_keep_their_bytes_steps_times_names_and_descriptions(server: ServerProcess, project: str) -> None:
    images = [picture((255, 0, 0)), picture((0, 255, 0), "JPEG"), picture((0, 0, 255))]
    with open_run() as run:
        run["images"].append(File.from_content(images[0], extension="png"), name="red", description="all red")
        run["images"].append(File.from_content(images[1], extension="jpg"), step=5, timestamp=12.345, name="green")
        run["images"].append(File.from_content(images[2], extension="png"))
        run["images"].download("folder")
        assert {path.name: path.read_bytes() for path in Path("folder").iterdir()} == {
            "0.png": images[0],
            "1.jpeg": images[1],
            "2.png": images[2],
        }
        wire = Wire(server)
        channel = wire.attributes(run._id)["images"]["imageSeriesProperties"]["channelId"]
        answer = wire.get(f"/api/leaderboard/v1/channels/{channel}/values", offset=1, limit=5).json()
    assert (answer["channelId"], answer["totalItemCount"]) == (channel, 3)
    points = answer["values"]
    assert [point["x"] for point in points] == [5.0, 6.0]
    assert points[0]["timestampMillis"] == 12_345
    assert points[0]["y"]["imageValue"]["name"] == "green"


def test_an_assigned_series_of_images_replaces_what_was_there(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["images"].append(File.from_content(picture((1, 1, 1)), extension="png"))
        other = picture((2, 2, 2))
        run["images"] = neptune.types.FileSeries([File.from_content(other, extension="png")])
        (point,) = attribute(server, project, run, "images")["points"]
        assert point[2]["sha256"] == digest(other)
        assert run["sys/size"].fetch() == len(other)


def test_an_image_that_is_not_there_is_not_found(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        run["images"].append(File.from_content(picture((1, 1, 1)), extension="png"))
        wire = Wire(server)
        for index in (-1, 1):
            place = {"experimentId": run._id, "attribute": "images", "index": index}
            assert wire.get(f"{ATTRIBUTES}/series/image/single", **place).status_code == 404
        missing = "/api/leaderboard/v1/channels/00000000-0000-0000-0000-000000000000/values"
        assert wire.get(missing).status_code == 404


def test_an_image_placed_by_a_test_is_like_any_other(server: ServerProcess, project: str) -> None:
    content = picture((9, 9, 9))
    value = {"content": base64.b64encode(content).decode(), "name": None, "description": "d"}
    with open_run() as run:
        series = {"type": "imageSeries", "points": [[0.5, 77, value]]}
        server.instruments.set_attribute(project, run["sys/id"].fetch(), "images", series)
        (point,) = attribute(server, project, run, "images")["points"]
    assert point == [
        0.5,
        77,
        {
            "sha256": digest(content),
            "size": len(content),
            "content_type": "image/png",
            "name": None,
            "description": "d",
        },
    ]


# -- artifacts --


def test_tracked_files_become_an_artifact(server: ServerProcess, project: str) -> None:
    plant(Path("data"))
    # The client does not find a local file again whose name has a question mark.
    Path("data/star*[1]?.txt").rename("data/star*[1].txt")
    with open_run() as run:
        run["dataset"].track_files("data")
        run.sync()
        artifact_hash = run["dataset"].fetch_hash()
        files = {file.file_path: file for file in run["dataset"].fetch_files_list()}
        assert len(files) == len(NAMES) + 2
        assert files["plain.txt"].file_hash == hashlib.sha1(b"plain.txt").hexdigest()
        run["dataset"].download("copy")
    assert Path("copy/plain.txt").read_bytes() == b"plain.txt"
    registered = server.instruments.state(project)["artifacts"][artifact_hash]
    assert {file["path"] for file in registered} == set(files)


def test_an_artifact_is_assigned_by_its_hash_within_its_project(server: ServerProcess, project: str) -> None:
    Path("data.csv").write_text("1,2")
    with open_run() as source, open_run() as target:
        source["dataset"].track_files("data.csv")
        source.sync()
        target["dataset"] = source["dataset"].fetch()
        assert target["dataset"].fetch_hash() == source["dataset"].fetch_hash()
        target["copied"] = source["dataset"].fetch()
        errors = Wire(server).execute(target._id, {"path": "other", "assignArtifact": {"hash": "f" * 64}})
        assert len(errors) == 1


def test_files_that_are_tracked_later_join_the_artifact(project: str) -> None:
    for name in ("a.csv", "b.csv"):
        Path(name).write_text(name)
    with open_run() as run:
        run["dataset"].track_files("a.csv")
        run.wait()
        first = run["dataset"].fetch_hash()
        run["dataset"].track_files("b.csv", destination="more")
        run.wait()
        assert run["dataset"].fetch_hash() != first
        paths = sorted(file.file_path for file in run["dataset"].fetch_files_list())
        assert paths == ["a.csv", "more/b.csv"]


def test_the_hash_of_an_artifact_is_checked(server: ServerProcess, project: str) -> None:
    wire, path = Wire(server), "/api/artifacts/v1/artifact"
    with open_run() as run:
        state = server.instruments.state(project)["containers"]
        project_id = next(each["id"] for each in state.values() if each["kind"] == "project")
        named = {"projectIdentifier": project_id, "hash": "a" * 64}
        made = wire.session.put(f"{wire.url}{path}", params={**named, "parentIdentifier": run._id, "size": 3}, json={})
        assert made.json()["receivedMetadata"] is False
        file = {"filePath": "x", "fileHash": "h", "type": "Local", "size": 3, "metadata": []}
        sent = wire.session.put(f"{wire.url}{path}/files", params=named, json={"files": [file]})
        assert sent.status_code == 400


def test_an_artifact_that_is_not_registered_is_not_found(server: ServerProcess, project: str) -> None:
    with open_run() as run:
        server.instruments.set_attribute(project, run["sys/id"].fetch(), "lost", {"type": "artifact", "hash": "b" * 64})
        run.sync()
        with pytest.raises(ArtifactNotFoundException):
            run["lost"].fetch_files_list()

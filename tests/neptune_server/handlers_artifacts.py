"""Artifacts: lists of tracked files, registered in a project under their hash."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from .attributes import Json
from .store import ArtifactVersion, NotFoundError, Project
from .web import ApiError, Call, handles


def artifact_hash(files: list[Json]) -> str:
    """The hash of a list of files, which leaves their metadata out."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda each: each["filePath"]):
        _add_text(digest, file["filePath"])
        digest.update(b"#" + file["fileHash"].encode())
        digest.update(b"#" + (b"" if file.get("size") is None else struct.pack(">Q", file["size"])))
        _add_text(digest, file["type"])
    return digest.hexdigest()


def _add_text(digest: Any, text: str) -> None:
    digest.update(b"#" + struct.pack(">L", len(text)) + text.encode())


def _files(call: Call) -> list[Json]:
    files = call.body.get("files")
    if not isinstance(files, list) or not all(_is_file(each) for each in files):
        raise ApiError(400, "The files are not described as they should be")
    return files


def _is_file(described: Any) -> bool:
    return isinstance(described, dict) and all(
        isinstance(described.get(name), str) for name in ("filePath", "fileHash", "type")
    )


def _size(files: list[Json]) -> int | None:
    sizes = [file.get("size") for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _find(project: Project, wanted: str) -> ArtifactVersion:
    if wanted not in project.artifacts:
        raise NotFoundError(f"The project has no artifact '{wanted}'")
    return project.artifacts[wanted]


def _artifact(project: Project, version: ArtifactVersion) -> Json:
    described: Json = {
        "artifactHash": version.hash,
        "projectId": project.id,
        "receivedMetadata": version.files is not None,
    }
    if version.size is not None:
        described["size"] = version.size
    return described


@handles("createNewArtifact")
def create_new_artifact(call: Call) -> Json:
    """Registers a hash. Its files follow, unless they are known already."""
    project = call.project_to_write()
    call.store.container(call.params["parentIdentifier"])
    version = project.artifacts.setdefault(
        call.params["hash"], ArtifactVersion(call.params["hash"], call.params["size"])
    )
    return _artifact(project, version)


@handles("uploadArtifactFilesMetadata")
def upload_artifact_files_metadata(call: Call) -> Json:
    project = call.project_to_write()
    version = _find(project, call.params["hash"])
    files = _files(call)
    if artifact_hash(files) != version.hash:
        raise ApiError(400, f"The files do not hash to '{version.hash}'")
    version.files = files
    version.size = _size(files)
    return _artifact(project, version)


@handles("createArtifactVersion")
def create_artifact_version(call: Call) -> Json:
    """A version that has the files of another one and some more; those of the same path are replaced."""
    project = call.project_to_write()
    call.store.container(call.params["parentIdentifier"])
    base = _find(project, call.params["hash"])
    merged = {file["filePath"]: file for file in [*(base.files or []), *_files(call)]}
    files = [merged[path] for path in sorted(merged)]
    version = ArtifactVersion(artifact_hash(files), _size(files), files)
    project.artifacts.setdefault(version.hash, version)
    return _artifact(project, version)


@handles("listArtifactFiles")
def list_artifact_files(call: Call) -> Json:
    return {"files": _find(call.project(), call.params["hash"]).files or []}

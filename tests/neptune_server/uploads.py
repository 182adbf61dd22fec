"""Uploaded files: streamed to the disk, in one piece, in parts or packed as a tar."""

from __future__ import annotations

import re
import tarfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from starlette.requests import Request

from .files import BLOCK, StoredFile, fresh_path
from .store import Container, NotFoundError, Store
from .web import ApiError

RANGE = re.compile(r"bytes=(\d+)-(\d+)/(\d+)")

MIN_CHUNK_SIZE = 5 * 1024 * 1024
MAX_CHUNK_SIZE = 1024 * 1024 * 1024
MAX_CHUNK_COUNT = 1000
MAX_SINGLE_PART_SIZE = 5 * 1024 * 1024


@dataclass
class PartialUpload:
    """A file that comes in parts, each with its place in the whole."""

    container: Container
    attribute: str
    name: str
    total: int
    path: Path
    parts: dict[int, tuple[int, int]] = field(default_factory=dict)

    def is_complete(self) -> bool:
        position = 0
        for start, end in sorted(self.parts.values()):
            if start != position:
                return False
            position = end
        return position == self.total


class Uploads:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._partial: dict[str, PartialUpload] = {}

    async def receive(self, request: Request) -> StoredFile:
        """The request's body as a file."""
        path = fresh_path(self._store.folder)
        try:
            with path.open("wb") as target:
                async for chunk in request.stream():
                    target.write(chunk)
                size = target.tell()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return StoredFile(path, size, self._store.now())

    def start(self, container: Container, attribute: str, name: str, total: int) -> str:
        if total < 0:
            raise ApiError(400, "The length cannot be negative")
        identifier = str(uuid.uuid4())
        path = fresh_path(self._store.folder)
        path.touch()
        self._partial[identifier] = PartialUpload(container, attribute, name, total, path)
        return identifier

    def find(self, identifier: str, container: Container, attribute: str) -> PartialUpload:
        upload = self._partial.get(identifier)
        if upload is None or upload.container is not container or upload.attribute != attribute:
            raise NotFoundError(f"There is no upload '{identifier}' of that field")
        return upload

    async def receive_part(self, upload: PartialUpload, index: int, byte_range: str | None, request: Request) -> None:
        match = RANGE.fullmatch(byte_range or "")
        if match is None:
            raise ApiError(400, f"X-Range cannot be read: {byte_range!r}")
        start, last, total = (int(group) for group in match.groups())
        if total != upload.total or last >= total or last < start:
            raise ApiError(400, f"The range {byte_range} does not lie in a file of {upload.total} bytes")
        with upload.path.open("r+b") as target:
            target.seek(start)
            async for chunk in request.stream():
                target.write(chunk)
            end = target.tell()
        if end != last + 1:
            raise ApiError(400, "Length of stream does not match given range")
        upload.parts[index] = (start, end)

    def finish(self, identifier: str, upload: PartialUpload) -> StoredFile:
        if not upload.is_complete():
            raise ApiError(400, "The parts do not make up the whole file")
        del self._partial[identifier]
        return StoredFile(upload.path, upload.total, self._store.now())


@dataclass
class Unpacked:
    files: dict[str, StoredFile] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)


def unpack(archive: StoredFile, folder: Path) -> Unpacked:
    """The files of a tar.gz. Takes a while: not for the event loop."""
    unpacked = Unpacked()
    try:
        with tarfile.open(archive.path, "r|*") as tar:
            for member in tar:
                if member.isdir():
                    name = member.name.strip("/")
                    if name not in ("", "."):
                        unpacked.directories.add(relative_path(name))
                elif member.isfile():
                    source = tar.extractfile(member)
                    assert source is not None
                    path = fresh_path(folder)
                    with path.open("wb") as target:
                        while block := source.read(BLOCK):
                            target.write(block)
                    unpacked.files[relative_path(member.name)] = StoredFile(path, member.size, archive.modified_millis)
                else:
                    raise ApiError(400, f"'{member.name}' is neither a file nor a directory")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ApiError(400, f"The archive cannot be read: {error}") from None
    return unpacked


def relative_path(name: str) -> str:
    """A file's place in its set, from the root of the set. Names that lead out of it are refused."""
    parts = [part for part in PurePosixPath(name).parts if part != "/"]
    path = "/".join(parts)
    if not parts or ".." in parts or not is_unicode(path):
        raise ApiError(400, f"{name!a} is no path in a file set")
    return path


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Zips of file sets, which take a moment to be prepared."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .attributes import FileSet
from .files import BLOCK, StoredFile
from .store import NotFoundError

KEPT_SECONDS = 600


@dataclass
class Archive:
    id: str
    name: str
    path: Path
    ready: bool = False
    failed: bool = False


class Archives:
    def __init__(self, folder: Path, delay: float) -> None:
        self._folder = folder
        self._delay = delay
        self._archives: dict[str, Archive] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def prepare(self, name: str, file_set: FileSet) -> Archive:
        identifier = str(uuid.uuid4())
        archive = Archive(identifier, name, self._folder / f"{identifier}.zip")
        self._archives[identifier] = archive
        task = asyncio.get_running_loop().create_task(
            self._build(archive, dict(file_set.files), set(file_set.directories))
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return archive

    def find(self, identifier: str) -> Archive:
        archive = self._archives.get(identifier)
        if archive is None or archive.failed:
            raise NotFoundError(f"There is no download '{identifier}'")
        return archive

    async def _build(self, archive: Archive, files: dict[str, StoredFile], directories: set[str]) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        try:
            await asyncio.to_thread(write_zip, archive.path, files, directories)
            archive.ready = True
        except FileNotFoundError:
            archive.failed = True
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._drop, archive)

    def _drop(self, archive: Archive) -> None:
        del self._archives[archive.id]
        archive.path.unlink(missing_ok=True)


def write_zip(target: Path, files: dict[str, StoredFile], directories: set[str]) -> None:
    """The zip has an entry for its root and one for each folder."""
    folders = set(directories)
    for name in [*files, *directories]:
        folders.update(name[:position] for position, letter in enumerate(name) if letter == "/")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("/", b"")
        for folder in sorted(folders):
            archive.writestr(f"{folder}/", b"")
        for name in sorted(files):
            stored = files[name]
            entry = zipfile.ZipInfo(name, time.gmtime(stored.modified_millis / 1000)[:6])
            entry.file_size = stored.size
            with stored.path.open("rb") as source, archive.open(entry, "w") as packed:
                shutil.copyfileobj(source, packed, BLOCK)

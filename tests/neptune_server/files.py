"""Uploaded bytes, which lie on disk from the moment they arrive."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 1 << 20


@dataclass(eq=False)
class StoredFile:
    path: Path
    size: int
    modified_millis: int
    lost: bool = False
    """The bytes are gone, though size and hash are still known."""
    _sha256: str | None = field(default=None, repr=False)

    @property
    def sha256(self) -> str:
        """Read from the disk when somebody first asks: uploads are not slowed down by it."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            with self.path.open("rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def as_data(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "size": self.size}

    def lose(self) -> None:
        """Delete the bytes as a broken disk would: nobody is told."""
        if not self.lost:
            self.sha256  # noqa: B018
            self.lost = True
            self.discard()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def fresh_path(folder: Path) -> Path:
    """A new file's place. The first letters spread many files over folders."""
    name = uuid.uuid4().hex
    place = folder / name[:2]
    place.mkdir(parents=True, exist_ok=True)
    return place / name


def store_bytes(folder: Path, content: bytes, now: int) -> StoredFile:
    path = fresh_path(folder)
    path.write_bytes(content)
    return StoredFile(path, len(content), now)

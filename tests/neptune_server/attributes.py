"""The fields of a container: one class for each attribute type of the wire.

Values that are assigned as a whole are immutable, a write puts a new object in place of the old one. Series and file
sets grow in place. Everything the server says about a field (lists of attributes, tables, single reads) is rendered
by the classes here.
"""

from __future__ import annotations

import math
import uuid
from array import array
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

from .files import StoredFile

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
LATEST_MILLIS = int((datetime.max.replace(tzinfo=timezone.utc) - EPOCH) / timedelta(milliseconds=1))
EARLIEST_MILLIS = int((datetime.min.replace(tzinfo=timezone.utc) - EPOCH) / timedelta(milliseconds=1))

Json = dict[str, Any]


def date_time(millis: int) -> str:
    """The wire's form of an instant: UTC, always with three digits of milliseconds."""
    moment = EPOCH + timedelta(milliseconds=millis)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{millis % 1000:03d}Z".rjust(24, "0")


def double(value: float | None) -> float | str | None:
    """JSON has no word for these three numbers, so they travel as text."""
    if value is None or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def without_none(values: Json) -> Json:
    return {key: value for key, value in values.items() if value is not None}


class Attribute:
    """What all fields have in common. `type` is the wire's name of the type."""

    type: str
    is_set: bool = True

    def own_properties(self) -> Json:
        raise NotImplementedError

    def properties(self, path: str) -> Json:
        return {"attributeName": path, "attributeType": self.type, **self.own_properties()}

    def dto(self, path: str) -> Json:
        return {"name": path, "type": self.type, f"{self.type}Properties": self.properties(path)}

    def as_data(self) -> Json:
        """The whole field as plain data, for tests."""
        raise NotImplementedError

    def stored_bytes(self) -> int:
        return 0

    def stored_files(self) -> list[StoredFile]:
        return []

    def frozen(self) -> Attribute:
        """The field as a search index keeps it: never changed by later writes, without points."""
        return self


class _Atom(Attribute):
    value: Any

    def own_properties(self) -> Json:
        return {"value": self.value}

    def as_data(self) -> Json:
        return {"type": self.type, "value": self.value}


@dataclass(frozen=True)
class Int(_Atom):
    type: ClassVar[str] = "int"  # type: ignore[misc]
    value: int


@dataclass(frozen=True)
class Float(_Atom):
    type: ClassVar[str] = "float"  # type: ignore[misc]
    value: float

    def own_properties(self) -> Json:
        return {"value": double(self.value)}


@dataclass(frozen=True)
class Bool(_Atom):
    type: ClassVar[str] = "bool"  # type: ignore[misc]
    value: bool


@dataclass(frozen=True)
class String(_Atom):
    type: ClassVar[str] = "string"  # type: ignore[misc]
    value: str


@dataclass(frozen=True)
class Datetime(_Atom):
    """`value` is in milliseconds since 1970, UTC."""

    type: ClassVar[str] = "datetime"  # type: ignore[misc]
    value: int

    def own_properties(self) -> Json:
        return {"value": date_time(self.value)}


@dataclass(frozen=True)
class StringSet(Attribute):
    """A set that nobody has written yet is listed, but cannot be read by its path."""

    type: ClassVar[str] = "stringSet"  # type: ignore[misc]
    values: frozenset[str] = frozenset()
    is_set: bool = True

    def own_properties(self) -> Json:
        return {"values": sorted(self.values)}

    def as_data(self) -> Json:
        return {"type": self.type, "value": sorted(self.values)}


@dataclass(frozen=True)
class ExperimentState(Attribute):
    """`value` is `running` or `idle`."""

    type: ClassVar[str] = "experimentState"  # type: ignore[misc]
    value: str

    def own_properties(self) -> Json:
        return {"value": self.value}

    def as_data(self) -> Json:
        return {"type": self.type, "value": self.value}


@dataclass(frozen=True)
class Artifact(Attribute):
    type: ClassVar[str] = "artifact"  # type: ignore[misc]
    hash: str

    def own_properties(self) -> Json:
        return {"hash": self.hash}

    def as_data(self) -> Json:
        return {"type": self.type, "hash": self.hash}


@dataclass(frozen=True)
class File(Attribute):
    type: ClassVar[str] = "file"  # type: ignore[misc]
    name: str
    ext: str
    stored: StoredFile

    def own_properties(self) -> Json:
        return {"ext": self.ext, "name": self.name, "size": self.stored.size}

    def as_data(self) -> Json:
        return {"type": self.type, **self.stored.as_data(), "ext": self.ext, "name": self.name}

    def stored_bytes(self) -> int:
        return self.stored.size

    def stored_files(self) -> list[StoredFile]:
        return [self.stored]


@dataclass(frozen=True)
class Reference(Attribute):
    """A git or notebook reference, or a type of a later server that today's client does not know."""

    type: str
    content: Json

    def own_properties(self) -> Json:
        return self.content

    def as_data(self) -> Json:
        return {"type": self.type, **self.content}


@dataclass
class FileSet(Attribute):
    type: ClassVar[str] = "fileSet"  # type: ignore[misc]
    files: dict[str, StoredFile] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    size: int = 0

    def put(self, path: str, stored: StoredFile) -> StoredFile | None:
        """Gives back the file that stood there before."""
        replaced = self.files.pop(path, None)
        self.files[path] = stored
        self.size += stored.size - (replaced.size if replaced else 0)
        return replaced

    def remove(self, path: str) -> StoredFile | None:
        removed = self.files.pop(path, None)
        if removed:
            self.size -= removed.size
        return removed

    def own_properties(self) -> Json:
        return {"size": self.size}

    def as_data(self) -> Json:
        return {"type": self.type, "files": {path: self.files[path].as_data() for path in sorted(self.files)}}

    def stored_bytes(self) -> int:
        return self.size

    def stored_files(self) -> list[StoredFile]:
        return list(self.files.values())

    def frozen(self) -> FileSet:
        return FileSet(size=self.size)


class _Series(Attribute):
    """Points in order of their steps, which strictly increase."""

    steps: array[float]
    timestamps: array[int]
    values: Any

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last_step(self) -> float | None:
        return self.steps[-1] if self.steps else None

    def next_step(self) -> float:
        return self.steps[-1] + 1 if self.steps else 0.0

    def append(self, step: float, timestamp: int, value: Any) -> None:
        self.steps.append(step)
        self.timestamps.append(timestamp)
        self.values.append(value)

    def page(self, offset: int, limit: int) -> list[tuple[float, int, Any]]:
        window = slice(offset, offset + limit)
        return list(zip(self.steps[window], self.timestamps[window], self.values[window]))

    def last_only(self, into: Any) -> Any:
        if self.steps:
            into.append(self.steps[-1], self.timestamps[-1], self.values[-1])
        return into


def _doubles() -> array[float]:
    return array("d")


def _longs() -> array[int]:
    return array("q")


@dataclass
class FloatSeries(_Series):
    type: ClassVar[str] = "floatSeries"  # type: ignore[misc]
    steps: array[float] = field(default_factory=_doubles)
    timestamps: array[int] = field(default_factory=_longs)
    values: array[float] = field(default_factory=_doubles)
    config_min: float | None = None
    config_max: float | None = None
    config_unit: str | None = None
    min: float | None = None
    max: float | None = None
    mean: float = 0.0
    squares: float = 0.0
    count: int = 0

    def append(self, step: float, timestamp: int, value: float) -> None:
        super().append(step, timestamp, value)
        self.count += 1
        change = value - self.mean
        self.mean += change / self.count
        self.squares += change * (value - self.mean)
        self.min = value if self.min is None else min(self.min, value)
        self.max = value if self.max is None else max(self.max, value)

    def cleared(self) -> FloatSeries:
        return FloatSeries(config_min=self.config_min, config_max=self.config_max, config_unit=self.config_unit)

    def config(self) -> Json:
        return without_none({"min": double(self.config_min), "max": double(self.config_max), "unit": self.config_unit})

    @property
    def last(self) -> float | None:
        return self.values[-1] if self.values else None

    @property
    def average(self) -> float | None:
        return self.mean if self.count else None

    @property
    def variance(self) -> float | None:
        return self.squares / self.count if self.count else None

    def own_properties(self) -> Json:
        statistics = {
            "last": double(self.last),
            "lastStep": self.last_step,
            "min": double(self.min),
            "max": double(self.max),
            "average": double(self.average),
            "variance": double(self.variance),
        }
        return {"config": self.config(), **without_none(statistics)}

    def as_data(self) -> Json:
        points = [[step, time, double(value)] for step, time, value in self.page(0, len(self))]
        config = {"min": double(self.config_min), "max": double(self.config_max), "unit": self.config_unit}
        return {"type": self.type, "points": points, "config": config}

    def frozen(self) -> FloatSeries:
        copy: FloatSeries = self.last_only(self.cleared())
        copy.min, copy.max, copy.mean = self.min, self.max, self.mean
        copy.squares, copy.count = self.squares, self.count
        return copy


@dataclass
class StringSeries(_Series):
    type: ClassVar[str] = "stringSeries"  # type: ignore[misc]
    steps: array[float] = field(default_factory=_doubles)
    timestamps: array[int] = field(default_factory=_longs)
    values: list[str] = field(default_factory=list)

    @property
    def last(self) -> str | None:
        return self.values[-1] if self.values else None

    def own_properties(self) -> Json:
        return without_none({"last": self.last, "lastStep": self.last_step})

    def as_data(self) -> Json:
        return {"type": self.type, "points": [list(point) for point in self.page(0, len(self))]}

    def frozen(self) -> StringSeries:
        copy: StringSeries = self.last_only(StringSeries())
        return copy


@dataclass(frozen=True)
class Image:
    stored: StoredFile
    content_type: str
    name: str | None
    description: str | None

    def as_data(self) -> Json:
        return {
            **self.stored.as_data(),
            "content_type": self.content_type,
            "name": self.name,
            "description": self.description,
        }


@dataclass
class ImageSeries(_Series):
    type: ClassVar[str] = "imageSeries"  # type: ignore[misc]
    steps: array[float] = field(default_factory=_doubles)
    timestamps: array[int] = field(default_factory=_longs)
    values: list[Image] = field(default_factory=list)
    channel_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    size: int = 0

    def append(self, step: float, timestamp: int, value: Image) -> None:
        super().append(step, timestamp, value)
        self.size += value.stored.size

    def own_properties(self) -> Json:
        return without_none({"channelId": self.channel_id, "lastStep": self.last_step})

    def as_data(self) -> Json:
        points = [[step, time, image.as_data()] for step, time, image in self.page(0, len(self))]
        return {"type": self.type, "points": points}

    def stored_bytes(self) -> int:
        return self.size

    def stored_files(self) -> list[StoredFile]:
        return [image.stored for image in self.values]

    def frozen(self) -> ImageSeries:
        copy: ImageSeries = self.last_only(ImageSeries(channel_id=self.channel_id))
        return copy

#!/usr/bin/env python3
# Copyright 2026 The model_to_run authors. Licensed under the Apache License, Version 2.0: see LICENSE.
#
# /// script
# requires-python = ">=3.9"
# dependencies = [
#     "neptune>=1.14,<2",
#     "tqdm",
# ]
# ///
"""Copy the model registry of a Neptune 2.x project into runs of the same project.

Every model and every model version becomes one run: with the same fields, under the same paths, with the same bytes,
steps and milliseconds. The run has the object's ID as its custom run ID, the tag "model" or "model_version", and the
model's ID as a group tag. What the system knew of the object (its ID, owner, times, stage) is kept under "old_sys/".

A copy counts only when it has been read back from the server and held against its source. The last thing written is
the source's modification time, in "old_sys/modification_time": a run that carries the present one is complete, and is
left alone next time; any other is copied again from the beginning. So running the script once more is how to resume,
how to retry and how to catch up.

    python model_to_run.py                                    asks for the project and the number of workers
    python model_to_run.py --project acme/credit --workers 8  asks nothing

The file reads from top to bottom: settings, what there is to copy, how each type of field is copied, the requests
that lie below the client's public API, one object, the whole migration, the screen, the command line.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import difflib
import hashlib
import io
import itertools
import json
import logging
import logging.handlers
import os
import re
import shutil
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, Callable
from urllib.parse import quote, urlsplit

import neptune
import requests
from bravado.exception import (
    BravadoConnectionError,
    BravadoTimeoutError,
    HTTPRequestTimeout,
    HTTPServerError,
    HTTPTooManyRequests,
)
from neptune import management
from neptune.common.backends.api_model import MultipartConfig
from neptune.common.exceptions import (
    Forbidden,
    NeptuneConnectionLostException,
    NeptuneInvalidApiTokenException,
    Unauthorized,
)
from neptune.exceptions import NeptuneMissingApiTokenException, ProjectNotFound
from neptune.internal.backends.utils import build_operation_url, ssl_verify
from neptune.internal.container_type import ContainerType
from neptune.internal.credentials import Credentials
from neptune.metadata_containers.utils import build_raw_query
from neptune.table import Table, TableEntry
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError
from tqdm import tqdm

# ---- Settings ----------------------------------------------------------------------------------------------------


def start_log(filename: str) -> None:
    """Sends the script's log and the client's to a file. Edit this call to log elsewhere, more or less."""
    logging.basicConfig(
        filename=filename,
        encoding="utf-8",
        level=logging.INFO,
        format="%(asctime)s %(levelname)-8s %(threadName)s %(message)s",
    )


OUTAGE = 15 * 60  # seconds that a server may be out of reach before what is being copied fails
SERVER_ERROR = 60  # seconds that a request may meet "500 Internal Server Error" before its field fails
LAST_WORDS = 5  # seconds that objects in flight have after Ctrl-C

log = logging.getLogger("model_to_run")


# ---- What there is to copy ---------------------------------------------------------------------------------------

MODEL, MODEL_VERSION = "model", "model_version"
MARK = "old_sys/modification_time"
LONGEST_CUSTOM_RUN_ID = 36  # the client drops a longer one without an error (neptune.internal.utils.limits)


@dataclass(frozen=True)
class Source:
    """A model or a model version, as the project's table lists it."""

    id: str
    kind: str
    uuid: str
    model_id: str
    size: int
    modification_time: datetime | None


@dataclass(frozen=True)
class Registry:
    """What a project's tables tell: the objects, and which of them have a complete copy already."""

    to_copy: list[Source]
    up_to_date: list[Source]

    @property
    def size(self) -> int:
        """Bytes still to copy, by the server's own account."""
        return sum(source.size for source in self.to_copy)


def read_registry(project: neptune.Project) -> Registry:
    """Finds every model and model version outside the trash, and tells those that have a complete copy from the rest.

    Three table reads, whatever the number of objects. A version of a trashed model is left alone like the model.
    """
    columns = ["sys/id", "sys/modification_time", "sys/size", "sys/trashed", "sys/model_id"]
    rows = list(project.fetch_models_table(columns=columns, trashed=None, progress_bar=False, **IN_FULL))
    models = [source_of(row, MODEL) for row in rows if not cell(row, "sys/trashed")]
    trashed = {cell(row, "sys/id") for row in rows if cell(row, "sys/trashed")}
    versions = [source_of(row, MODEL_VERSION) for row in fetch_model_versions_table(project, columns)]
    listed = models + [version for version in versions if version.model_id not in trashed]
    marks = read_marks(project)
    up_to_date = {source for source in listed if is_up_to_date(source, marks)}
    return Registry([source for source in listed if source not in up_to_date], list(up_to_date))


# Newest first, which is the default, never ends past 10,000 rows. Ascending does, but loses the rows that share the
# sort value of a window's last one (neptune.api.searching_entries.iter_over_pages), and takes sys/creation_time for
# a text as soon as some run has old_sys/creation_time. IDs are unique, and their type is not looked up.
IN_FULL: dict[str, Any] = {"sort_by": "sys/id", "ascending": True}


def source_of(row: TableEntry, kind: str) -> Source:
    """Turns a row of the models or model versions table into a Source."""
    object_id = cell(row, "sys/id")
    model_id = object_id if kind == MODEL else cell(row, "sys/model_id") or object_id.rpartition("-")[0]
    size = int(cell(row, "sys/size") or 0)
    return Source(object_id, kind, uuid_of(row), model_id, size, cell(row, "sys/modification_time"))


def cell(row: TableEntry, path: str) -> Any:
    """Reads one value of a table's row; None for a field that the object does not have."""
    try:
        return row.get_attribute_value(path)
    except ValueError:
        return None


def read_marks(project: neptune.Project) -> dict[str, tuple[str, datetime]]:
    """Reads from the project's runs: custom run ID → the copied object's ID and the mark of its copy."""
    # The client does not put a query in parentheses before it adds "AND not trashed".
    query = f'((`sys/tags`:stringSet CONTAINS "{MODEL}") OR (`sys/tags`:stringSet CONTAINS "{MODEL_VERSION}"))'
    columns = ["sys/custom_run_id", "old_sys/id", MARK]
    rows = project.fetch_runs_table(query=query, columns=columns, progress_bar=False, **IN_FULL)
    return {cell(row, "sys/custom_run_id"): (cell(row, "old_sys/id"), cell(row, MARK)) for row in rows}


def is_up_to_date(source: Source, marks: dict[str, tuple[str, datetime]]) -> bool:
    """Tells whether a run carries the source's ID and its present modification time."""
    present = (source.id, source.modification_time)
    return source.modification_time is not None and marks.get(custom_run_id(source.id)) == present


def custom_run_id(object_id: str) -> str:
    """Gives the custom run ID of an object's copy: its ID, or a stable shortened one where that is too long."""
    if len(object_id) <= LONGEST_CUSTOM_RUN_ID:
        return object_id
    digest = hashlib.sha256(object_id.encode()).hexdigest()[:10]
    return f"{object_id[: LONGEST_CUSTOM_RUN_ID - 11]}-{digest}"


@dataclass(frozen=True)
class Field:
    """A field of an object as the server lists it: its path, its type and the properties which that type has."""

    path: str
    type: str
    properties: dict[str, Any]


SAME_PATH = ("sys/name", "sys/description", "sys/tags", "sys/group_tags")
NOT_COPIED = ("sys/state",)


def target_path(path: str) -> str:
    """Tells where a field goes in the run: the system's own fields move to "old_sys/", all others stay."""
    return f"old_{path}" if path.startswith("sys/") and path not in SAME_PATH else path


@dataclass(frozen=True)
class Plan:
    """What of an object goes where: field → path in the run; and what cannot go, with the reason."""

    fields: dict[str, Field]
    skipped: list[str]


def plan_copy(source: Source, fields: Iterable[Field]) -> Plan:
    """Sorts an object's fields into those that are copied, by their path in the run, and those that cannot be.

    The object's kind joins its tags, and its model's ID the group tags.
    """
    plan = Plan({}, [])
    for one in sorted(fields, key=lambda one: not one.path.startswith("sys/")):
        target = target_path(one.path)
        if one.path in (*NOT_COPIED, "sys/modification_time"):
            continue
        if one.type not in VALUES and one.type not in COPIERS:
            plan.skipped.append(f"{one.path} ({one.type}: the client cannot read it)")
        elif target in plan.fields or target == MARK:
            plan.skipped.append(f"{one.path} ({one.type}: its path is where {target[4:]} is kept)")
        else:
            plan.fields[target] = one
    for path, string in (("sys/tags", source.kind), ("sys/group_tags", source.model_id)):
        plan.fields[path] = with_string(plan.fields.get(path, Field(path, "stringSet", {})), string)
    return plan


def with_string(string_set: Field, string: str) -> Field:
    """Gives the string set with one more string."""
    strings = {*(string_set.properties.get("values") or []), string}
    return Field(string_set.path, string_set.type, {"values": sorted(strings)})


# ---- How each type of field is copied ----------------------------------------------------------------------------
#
# Two tables. Fields of the first are whole in the server's listing of an object: one request reads all of them, one
# writes them. Those of the second have contents, which are read, written and checked with requests of their own.


@dataclass(frozen=True)
class Value:
    """A type of field that is one value: how to find it in the listed properties, and how to assign it."""

    of: Callable[[dict[str, Any]], Any]
    assign: Callable[[str, Any], list[Operation]]


Operation = dict  # one operation on one field, as the server takes it: {"path": "a/b", "assignInt": {"value": 1}}


def assigned(operation: str, key: str = "value") -> Callable[[str, Any], list[Operation]]:
    """Makes the function that assigns a value with the named operation of the server."""
    return lambda path, value: [{"path": path, operation: {key: value}}]


def insert_strings(path: str, strings: list[str]) -> list[Operation]:
    """Adds strings to a string set. A set without any does not exist on the server, so there is nothing to do."""
    return [{"path": path, "insertStrings": {"values": strings}}] if strings else []


def milliseconds(date: str) -> int:
    """Turns the server's date, ISO 8601 in UTC, into whole milliseconds since 1970, without a detour by floats."""
    whole, _, fraction = date.replace("+00:00", "Z").rstrip("Z").partition(".")
    since_1970 = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S") - datetime(1970, 1, 1)
    return since_1970 // timedelta(milliseconds=1) + int(fraction.ljust(3, "0")[:3])


VALUES: dict[str, Value] = {
    "int": Value(lambda properties: properties["value"], assigned("assignInt")),
    "float": Value(lambda properties: float(properties["value"]), assigned("assignFloat")),
    "bool": Value(lambda properties: properties["value"], assigned("assignBool")),
    "string": Value(lambda properties: properties["value"], assigned("assignString")),
    "datetime": Value(
        lambda properties: milliseconds(properties["value"]), assigned("assignDatetime", "valueMilliseconds")
    ),
    "stringSet": Value(lambda properties: sorted(properties.get("values") or []), insert_strings),
    "artifact": Value(lambda properties: properties["hash"], assigned("assignArtifact", "hash")),
}


@dataclass(frozen=True)
class Copier:
    """A type of field that has contents.

    read fetches them from a container into a folder, write puts them into a run and gives what the server complained
    of, check tells in words how a run's field differs from them ("" when it does not).
    """

    read: Callable[[Server, str, Field, Path], Any]
    write: Callable[[Server, str, str, Any], list[str]]
    check: Callable[[Server, str, Field, Any], str]


@dataclass(frozen=True)
class Series:
    """The points of a float or string series, in order: (step, milliseconds since 1970, value); and its settings."""

    points: list[tuple[float, int, Any]]
    config: dict[str, Any]


@dataclass(frozen=True)
class SeriesType:
    """How the server names what it does with a series of one type, and how many points a request may hold.

    The client puts at most 1,000 operations into a request, of 100 numbers or 10 texts each, and merges those of one
    field (neptune.attributes.series, neptune.internal.backends.operations_preprocessor): a server knows that size.
    """

    values: str
    clear: str
    append: str
    points: int


FLOAT_SERIES = SeriesType("getFloatSeriesValues", "clearFloatSeries", "logFloats", 100_000)
STRING_SERIES = SeriesType("getStringSeriesValues", "clearStringSeries", "logStrings", 10_000)
POINTS_PER_PAGE = 1000  # as neptune.attributes.series.fetchable_series asks for


def read_series(server: Server, container: str, series: Field, kind: SeriesType) -> Series:
    """Reads every point of a series. fetch_values() gives local times, which lose milliseconds and an hour a year."""
    points: list[tuple[float, int, Any]] = []
    for page in server.pages(kind.values, POINTS_PER_PAGE, experimentId=container, attribute=series.path):
        points += [(point["step"], point["timestampMillis"], point["value"]) for point in page]
    config = series.properties.get("config") or {}
    return Series(points, without_none(config))


def write_series(server: Server, run: str, path: str, series: Series, kind: SeriesType) -> list[str]:
    """Writes a series anew. A request that has to be repeated may complain of steps that it stored the first time."""
    complaints: list[str] = []
    operations: list[Operation] = [{"path": path, kind.clear: {}}]
    for start in range(0, len(series.points), kind.points):
        entries = [
            {"step": step, "timestampMilliseconds": timestamp, "value": value}
            for step, timestamp, value in series.points[start : start + kind.points]
        ]
        complaints += server.operate(run, [*operations, {"path": path, kind.append: {"entries": entries}}])
        operations = []
    if series.config:
        operations.append({"path": path, "configFloatSeries": series.config})
    return complaints + (server.operate(run, operations) if operations else [])


def check_series(server: Server, run: str, copy: Field, series: Series, kind: SeriesType) -> str:
    """Holds the number of points, the last point and the settings of a run's series against what was read."""
    last = max(len(series.points) - 1, 0)
    page = server.call(kind.values, experimentId=run, attribute=copy.path, offset=last, limit=1)
    found = [(point["step"], point["timestampMillis"], point["value"]) for point in page["values"]]
    config = copy.properties.get("config") or {}
    if page["totalItemCount"] != len(series.points):
        return f"{page['totalItemCount']} of {len(series.points)} points arrived"
    if repr(found) != repr(series.points[last:]):
        return "the last point differs"
    return "" if all(config.get(key) == series.config[key] for key in series.config) else "min, max or unit differ"


def series_copier(kind: SeriesType) -> Copier:
    """Makes the copier of float or of string series."""
    return Copier(
        read=lambda server, container, series, folder: read_series(server, container, series, kind),
        write=lambda server, run, path, series: write_series(server, run, path, series, kind),
        check=lambda server, run, copy, series: check_series(server, run, copy, series, kind),
    )


@dataclass(frozen=True)
class Image:
    """One image of a file series, its bytes in a local file. A step or time of None is not known."""

    file: Path
    step: float | None
    timestamp: int | None
    name: str | None
    description: str | None


IMAGES_PER_REQUEST = 8 * 1024 * 1024  # bytes of images, a little more in base64


def read_images(server: Server, container: str, images: Field, folder: Path) -> list[Image]:
    """Reads every image of a file series: the bytes by their index, all else from the channel behind the series."""
    query: dict[str, Any] = {"experimentId": container, "attribute": images.path}
    count = server.call("getImageSeriesValues", **query, offset=0, limit=1)["totalItemCount"]
    found = []
    for index, (step, timestamp, name, description) in enumerate(image_points(server, images, count)):
        file = folder / str(index)
        server.download("getImageSeriesValue", file, **query, index=index)
        found.append(Image(file, step, timestamp, name, description))
    return found


ImagePoint = tuple  # (step, milliseconds since 1970, name, description), each None where it is not known


def image_points(server: Server, images: Field, count: int) -> list[ImagePoint]:
    """Gives step, time, name and description of every image, or notes the loss where a server does not tell them.

    The client itself reads only the number of images; `getChannelValues` is marked as deprecated, so a server may
    lack it. Raises Refused when the server knows another number of points than of images.
    """
    try:
        channel = images.properties["channelId"]
        points = [
            point for page in server.pages("getChannelValues", POINTS_PER_PAGE, channelId=channel) for point in page
        ]
    except (KeyError, Refused) as missing:
        if isinstance(missing, Refused) and missing.status not in (404, 405, 410, 501):
            raise
        log.warning("%s: the server does not tell its steps, times, names and descriptions: lost", images.path)
        server.losses.append(f"{images.path} (steps, times, names and descriptions of {count} images)")
        return [(None, None, None, None)] * count
    if len(points) != count:
        raise Refused("getChannelValues", f"{len(points)} points for {count} images")
    shown = [(point.get("x"), point["timestampMillis"], point["y"].get("imageValue") or {}) for point in points]
    return [(step, time_, image.get("name"), image.get("description")) for step, time_, image in shown]


def write_images(server: Server, run: str, path: str, images: list[Image]) -> list[str]:
    """Writes a file series anew, some megabytes a request."""
    complaints: list[str] = []
    operations: list[Operation] = [{"path": path, "clearImageSeries": {}}]
    for batch in in_batches(images, IMAGES_PER_REQUEST, lambda image: image.file.stat().st_size):
        entries = [image_entry(image) for image in batch]
        complaints += server.operate(run, [*operations, {"path": path, "logImages": {"entries": entries}}])
        operations = []
    return complaints + (server.operate(run, operations) if operations else [])


def image_entry(image: Image) -> dict[str, Any]:
    """Makes the server's form of an image. Without a known step it takes the next one, without a time the present."""
    data = base64.b64encode(image.file.read_bytes()).decode()
    value = {"data": data, "name": image.name, "description": image.description}
    timestamp = int(time.time() * 1000) if image.timestamp is None else image.timestamp
    entry = {"value": without_none(value), "step": image.step, "timestampMilliseconds": timestamp}
    return without_none(entry)


def without_none(entry: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what is not there, as the client does: the server's description has no null."""
    return {key: value for key, value in entry.items() if value is not None}


def check_images(server: Server, run: str, copy: Field, images: list[Image]) -> str:
    """Holds the number of images in a run's file series against what was read."""
    query = {"experimentId": run, "attribute": copy.path, "offset": 0, "limit": 1}
    count = server.call("getImageSeriesValues", **query)["totalItemCount"]
    return "" if count == len(images) else f"{count} of {len(images)} images arrived"


@dataclass(frozen=True)
class File:
    """The bytes of a file field in a local file, and the extension that the field has."""

    local: Path
    extension: str


def read_file(server: Server, container: str, file: Field, folder: Path) -> File:
    """Downloads a file field. The local name is ours: neither field paths nor headers may choose a place on disk."""
    local = folder / "file"
    size = file.properties.get("size")
    server.download("downloadAttribute", local, size=size, experimentId=container, attribute=file.path)
    return File(local, file.properties.get("ext") or "")


def write_file(server: Server, run: str, path: str, file: File) -> list[str]:
    """Uploads a file field with the extension it had."""
    query = {"experimentIdentifier": run, "attribute": path, "ext": file.extension}
    with file.local.open("rb") as stream:
        server.upload("fileAtom", query, stream, file.local.stat().st_size)
    return []


def check_file(server: Server, run: str, copy: Field, file: File) -> str:
    """Holds size and extension of a run's file against what was read."""
    found, read = copy.properties.get("size"), file.local.stat().st_size
    if found != read:
        return f"{found} of {read} bytes arrived"
    return "" if (copy.properties.get("ext") or "") == file.extension else "the extension differs"


FILES_PER_ARCHIVE = 500
BYTES_PER_ARCHIVE = 5 * 1024 * 1024  # both as the client packs (neptune.common.storage.storage_utils)


def read_file_set(server: Server, container: str, file_set: Field, folder: Path) -> Path:
    """Downloads a file set as one zip, which stays packed: its names never become local paths.

    Raises Refused when the zip does not hold the very files that the server lists.
    """
    archive = folder / "files.zip"
    server.download_archive(archive, experimentId=container, attribute=file_set.path)
    packed = {member.orig_filename: member.file_size for member in members(archive)}
    if packed != server.files(container, file_set.path):
        raise Refused("downloadFileSetZip", "the archive does not hold the files that the server lists")
    return archive


def members(archive: Path) -> list[zipfile.ZipInfo]:
    """Lists the files in a zip of the server's. It also has an entry for each folder and one for the root."""
    with zipfile.ZipFile(archive) as opened:
        return [member for member in opened.infolist() if not member.orig_filename.endswith("/")]


def write_file_set(server: Server, run: str, path: str, archive: Path) -> list[str]:
    """Uploads the files of a zip under the very names they have in it: small ones packed, large ones in parts.

    upload_files() cannot: it expands names as patterns, and shortens them by the working directory of the process.
    """
    query = {"experimentIdentifier": run, "attribute": path}
    with zipfile.ZipFile(archive) as opened:
        batches = list(in_batches(members(archive), BYTES_PER_ARCHIVE, lambda one: one.file_size, FILES_PER_ARCHIVE))
        for batch in batches:
            if len(batch) > 1:
                server.upload_packed(run, path, packed_files(opened, batch))
                continue
            with opened.open(batch[0]) as stream:
                query["subPath"] = batch[0].orig_filename
                server.upload("fileSetFile", query, stream, batch[0].file_size)
    if not batches:
        server.upload_packed(run, path, packed_files(None, []))
    return []


def packed_files(archive: zipfile.ZipFile | None, batch: list[zipfile.ZipInfo]) -> bytes:
    """Packs members of a zip into a tar.gz in memory. The lightest compression: the line is slower than any."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for member in batch:
            entry = tarfile.TarInfo(member.orig_filename)
            entry.size = member.file_size
            tar.addfile(entry, archive.open(member) if archive else None)
    return packed.getvalue()


def check_file_set(server: Server, run: str, copy: Field, archive: Path) -> str:
    """Holds names and sizes of the files in a run's file set against those in the zip."""
    expected = {member.orig_filename: member.file_size for member in members(archive)}
    found = server.files(run, copy.path)
    missing = [name for name in expected if found.get(name) != expected[name]]
    if missing:
        return f"{len(missing)} of {len(expected)} files did not arrive whole, {missing[0]!r} among them"
    return "" if len(found) == len(expected) else f"{len(found) - len(expected)} files too many"


def in_batches(items: Iterable[Any], size: int, size_of: Callable[[Any], int], count: int = 1000) -> Iterator[list]:
    """Splits items, in order, into batches of at most a number of items and of bytes; a larger item stands alone."""
    batch: list = []
    total = 0
    for item in items:
        if batch and (total + size_of(item) > size or len(batch) >= count):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size_of(item)
    if batch:
        yield batch


COPIERS: dict[str, Copier] = {
    "floatSeries": series_copier(FLOAT_SERIES),
    "stringSeries": series_copier(STRING_SERIES),
    "imageSeries": Copier(read_images, write_images, check_images),
    "file": Copier(read_file, write_file, check_file),
    "fileSet": Copier(read_file_set, write_file_set, check_file_set),
}


# ---- Below the client's public API -------------------------------------------------------------------------------
#
# Everything here asks the server itself, with the client's own session, token and description of the server, because
# the public API cannot do it exactly:
#   - fetch_values() loses milliseconds, download() of images loses steps, times, names and descriptions;
#   - what is assigned to a run waits in a queue on disk, which cuts long strings, turns one date in 150 back by a
#     millisecond and drops images that it cannot open; its thread only logs what the server rejects, and the first
#     request that is refused ends it, with all that comes after;
#   - init_run() takes a run that exists for a new one: it overwrites its description, adds source_code/entrypoint,
#     obeys NEPTUNE_MODE, starts four threads and leaves two hooks that keep the object in memory for good.
# A request raises Refused, with the server's reason, unless it did what it says.


class Refused(Exception):
    """The server did not do what was asked, and would not if asked again. Its text is the reason."""

    def __init__(self, operation: str, reason: str, status: int | None = None) -> None:
        super().__init__(f"{operation}: {reason}")
        self.status = status


class Away(Exception):
    """The server did not answer, or asked to come back later: the same request may succeed in a while."""

    def __init__(self, reason: str, patience: float = OUTAGE, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.patience = patience
        self.retry_after = retry_after


class Stopped(BaseException):
    """The person has asked to stop. Not an Exception: it is no failure of the field that is being copied."""


TIMEOUT = (30, 600)  # seconds to connect, seconds between two bytes: as the client's own
HEADERS = {"X-Neptune-LegacyClient": "false"}
CHUNK = 1024 * 1024  # bytes read from a download at a time


@dataclass
class Server:
    """The server of a project, as one object's copy sees it: the requests that the public API has no equal for."""

    project: neptune.Project
    progress: Progress
    stopping: threading.Event
    losses: list[str] = field(default_factory=list)  # what this server does not tell of the object being copied
    counted: float = 0  # bytes of that object which the progress bar has been told of

    @property
    def backend(self) -> Any:
        """The client's own connection (neptune.internal.backends.hosted_neptune_backend)."""
        return self.project._backend

    @property
    def name(self) -> str:
        """The project's name, as WORKSPACE/PROJECT."""
        return qualified_name(self.project)

    def count(self, size: float) -> None:
        """Tells the progress bar of bytes: half of a file's when it has come, half when it has gone."""
        self.counted += size
        self.progress.advance(size)

    def fields(self, container: str) -> list[Field]:
        """Reads all fields of a container with their properties, in one request."""
        listed = self.call("getExperimentAttributes", experimentId=container)["attributes"]
        return [Field(one["name"], one["type"], one.get(f"{one['type']}Properties") or {}) for one in listed]

    def open_run(self, custom_id: str) -> tuple[str, str]:
        """Creates the run with a custom run ID, or finds the one that has it, taking it out of the trash.

        Returns the run's internal ID and its Neptune ID.
        """
        project = self.project._project_id
        request = {"projectIdentifier": project, "parentId": project, "type": "run", "customId": custom_id}
        run = self.call("createExperiment", {**request, "cliVersion": neptune.__version__})
        if run["trashed"]:
            result = self.call("restoreExperiments", [f"{self.name}/{run['shortId']}"], projectIdentifier=self.name)
            if result["errors"]:
                raise Refused("restoreExperiments", result["errors"][0]["message"])
        return run["id"], run["shortId"]

    def run_url(self, run_id: str) -> str:
        """Gives the address of a run in the app."""
        workspace, project = self.name.split("/", 1)
        return self.backend.get_run_url(run_id, workspace, project, run_id)

    def operate(self, run: str, operations: list[Operation]) -> list[str]:
        """Carries out operations on a run's fields, in order; returns what the server complained of."""
        errors = self.call("executeOperations", operations, experimentId=run)
        return [error["errorDescription"] for error in errors]

    def pages(self, operation: str, limit: int, **query: Any) -> Iterator[list[dict[str, Any]]]:
        """Reads a long list of values page by page. Raises Refused when it ends before all were given."""
        for offset in itertools.count(0, limit):
            page = self.call(operation, **query, offset=offset, limit=limit)
            yield page["values"]
            if offset + limit >= page["totalItemCount"]:
                return
            if len(page["values"]) != limit:
                raise Refused(operation, f"{len(page['values'])} of {limit} values in a page that should be full")

    def files(self, container: str, file_set: str) -> dict[str, int]:
        """Lists a file set: path of each file → bytes. One request for each folder."""
        found: dict[str, int] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            for entry in self.call("lsFileSetAttribute", experimentId=container, attribute=file_set, path=folder):
                name = entry["name"].strip("/").rpartition("/")[2]
                path = f"{folder}/{name}" if folder else name
                if entry["fileType"] == "directory":
                    folders.append(path)
                else:
                    found[path] = entry["size"]
        return found

    def call(self, operation: str, body: Any = None, **query: Any) -> Any:
        """Carries out one operation of the server's description, with a JSON body if one is given; returns its JSON."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = self.request(operation, query, data=data, headers=headers)
        return self.patiently(lambda: read_json(operation, self.exchange(operation, request)))

    def request(self, operation: str, query: dict[str, Any], **parts: Any) -> requests.Request:
        """Makes the request of an operation as the server describes it. Raises Refused where it does not."""
        api = self.backend.leaderboard_client
        try:
            described = getattr(api.api, operation).operation
        except AttributeError:
            raise Refused(operation, "this server does not have it", 404) from None
        path = described.path_name
        for name in re.findall(r"{(\w+)}", path):
            path = path.replace(f"{{{name}}}", quote(str(query[name]), safe=""))
        parameters = {name: value for name, value in query.items() if f"{{{name}}}" not in described.path_name}
        url = build_operation_url(api.swagger_spec.api_url, path)
        return requests.Request(described.http_method.upper(), url, params=parameters, **parts)

    def exchange(self, operation: str, request: requests.Request, stream: bool = False) -> requests.Response:
        """Sends a request, signed, through the client's session. Raises Away or Refused for any but a good answer."""
        if self.stopping.is_set():
            raise Stopped
        http = self.backend.leaderboard_client.swagger_spec.http_client
        request.headers = {**HEADERS, **request.headers}
        with network_errors(operation):
            prepared = http.session.prepare_request(http.authenticator.apply(request))
            settings = http.session.merge_environment_settings(prepared.url, {}, stream, None, None)
            response = http.session.send(prepared, timeout=TIMEOUT, **settings)
        if response.status_code == 401:
            # The client renews its token by the clock of this machine, which may be behind the server's.
            http.authenticator.auth.token_expires_at = 0
        raise_for_answer(operation, response)
        return response

    def patiently(self, attempt: Callable[[], Any]) -> Any:
        """Repeats an attempt while the server is away, with growing pauses, as long as an outage may last."""
        began = time.monotonic()
        for tries in itertools.count():
            try:
                return attempt()
            except Away as away:
                pause = min(0.5 * 2**tries, 30) if away.retry_after is None else away.retry_after
                if time.monotonic() - began + pause > away.patience:
                    raise Refused("gave up after waiting", str(away)) from away
                log.warning("Waiting %.1f s: %s", pause, away)
                with self.progress.waiting(str(away)):
                    if self.stopping.wait(pause):
                        raise Stopped from away
        raise AssertionError("an endless loop has ended")

    def download(self, operation: str, local: Path, *, size: int | None = None, **query: Any) -> None:
        """Downloads the answer of an operation into a local file of that many bytes, where the number is known."""
        request = self.request(operation, query, headers={"Accept": "application/octet-stream"})
        self.patiently(lambda: self.save(operation, request, local, size))

    def download_archive(self, local: Path, **query: Any) -> None:
        """Asks for a file set as a zip, waits until the server has packed it, and downloads it."""
        prepared = self.call("prepareForDownloadFileSetAttributeZip", **query)
        for tries in itertools.count():
            if prepared.get("downloadUrl"):
                break
            if self.stopping.wait(min(0.1 * 2**tries, 5)):
                raise Stopped
            prepared = self.call("getDownloadPrepareRequest", id=prepared["id"])
        url = build_operation_url(self.backend.leaderboard_client.swagger_spec.api_url, prepared["downloadUrl"])
        request = requests.Request("GET", url, headers={"Accept": "application/zip"})
        self.patiently(lambda: self.save("the zip", request, local, None, zipfile.is_zipfile))

    def save(
        self,
        operation: str,
        request: requests.Request,
        local: Path,
        size: int | None,
        is_whole: Callable[[Path], bool] = Path.exists,
    ) -> None:
        """Downloads one answer. Raises Away when it was cut short, which an older urllib3 does not tell."""
        response = self.exchange(operation, request, stream=True)
        with network_errors(operation), response, local.open("wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                self.count(len(chunk) / 2)
                if self.stopping.is_set():
                    raise Stopped
        if size is None and "Content-Encoding" not in response.headers:
            size = int(response.headers.get("Content-Length", local.stat().st_size))
        if size not in (None, local.stat().st_size) or not is_whole(local):
            raise Away(f"{operation} ended after {local.stat().st_size} of {size} bytes", SERVER_ERROR)

    def upload(self, kind: str, query: dict[str, Any], stream: IO[bytes], size: int) -> None:
        """Uploads a file, in parts above the server's limit. The kind is how the operations' names begin."""
        limits = self.backend._client_config.multipart_config or MultipartConfig.get_default()
        if size <= limits.max_single_part_size:
            self.post(f"{kind}Upload", query, stream.read())
            return
        started = accept(f"{kind} upload", self.call(f"{kind}MultipartUploadStart", **query, totalLength=size))
        query = {**{key: query[key] for key in query if key != "ext"}, "uploadId": started["uploadId"]}
        part_size = max(limits.min_chunk_size, -(-size // limits.max_chunk_count))
        for index, start in enumerate(range(0, size, part_size)):
            part = stream.read(part_size)
            part_range = {"X-Range": f"bytes={start}-{start + len(part) - 1}/{size}"}
            self.post(f"{kind}MultipartUploadPart", {**query, "uploadPartIdx": index}, part, part_range)
        accept(f"{kind} upload", self.call(f"{kind}MultipartUploadFinish", **query))

    def upload_packed(self, run: str, path: str, packed: bytes, reset: bool = False) -> None:
        """Uploads a tar.gz of files into a file set, into an empty one if reset."""
        query = {"experimentId": run, "attribute": path, "reset": str(reset)}
        self.post("uploadFileSetAttributeTar", query, packed)

    def post(self, operation: str, query: dict[str, Any], data: bytes, headers: dict[str, str] | None = None) -> None:
        """Posts bytes, and raises Refused for an error in the answer."""
        headers = {"Content-Type": "application/octet-stream", **(headers or {})}
        request = self.request(operation, query, data=data, headers=headers)
        self.patiently(lambda: accept(operation, read_json(operation, self.exchange(operation, request))))
        self.count(len(data) / 2)


# What the client's own calls raise. Of tables it repeats only the first request, as the others are made by a generator.
GONE_FOR_THE_CLIENT = (
    NeptuneConnectionLostException,
    BravadoConnectionError,
    BravadoTimeoutError,
    HTTPServerError,
    HTTPTooManyRequests,
    HTTPRequestTimeout,
)


@contextlib.contextmanager
def network_errors(operation: str) -> Iterator[None]:
    """Raises Away for what the network does to a request, and Refused for what the client says of the token."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise Refused(operation, f"no secure connection ({error})") from error
    except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError, *GONE_FOR_THE_CLIENT) as error:
        raise Away(f"no answer to {operation} ({type(error).__name__})") from error
    except (NeptuneInvalidApiTokenException, Unauthorized) as error:
        raise Refused(operation, "the API token is no longer accepted", 401) from error


def raise_for_answer(operation: str, response: requests.Response) -> None:
    """Sorts the server's answers: nothing for a good one, Away where trying again may help, Refused otherwise."""
    status = response.status_code
    if status < 400:
        return
    said = f"{status} {response.reason}"
    if status in (408, 429, 502, 503, 504):
        raise Away(f"the server answers {said}", OUTAGE, retry_after(response.headers.get("Retry-After")))
    # A part of an upload that was cut short on its way is a 400 with this text.
    if status in (401, 500) or "Length of stream does not match given range" in response.text:
        raise Away(f"the server answers {said} to {operation}", SERVER_ERROR)
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(response.content)
        said += f": {answer.get('title') or answer.get('message') or answer.get('errorType')}"
    raise Refused(operation, f"the server refused it ({said})", status)


def retry_after(header: str | None) -> float | None:
    """Reads a Retry-After header, which is a number of seconds or a date. Returns seconds, or None without one."""
    if header is None:
        return None
    if header.isdigit():
        return float(header)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None


def read_json(operation: str, response: requests.Response) -> Any:
    """Reads a JSON answer. One that is none, as of a proxy that is in the way, is as good as no answer."""
    try:
        return json.loads(response.content) if response.content else None
    except ValueError as error:
        raise Away(f"the answer to {operation} is not JSON", SERVER_ERROR) from error


def accept(operation: str, answer: Any) -> Any:
    """Returns the answer to an upload. Raises Refused for an error in it (hosted_file_operations knows both forms)."""
    answer = answer or {}
    errors = answer.get("errors") or ([answer] if "errorDescription" in answer else [])
    if errors:
        raise Refused(operation, "; ".join(error["errorDescription"] for error in errors))
    return answer


def keep_connections(project: neptune.Project, number: int) -> None:
    """Lets the client's session keep a connection for each thread that uses it; by itself it closes all but ten."""
    session = project._backend.leaderboard_client.swagger_spec.http_client.session
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=number))


def fetch_model_versions_table(project: neptune.Project, columns: list[str]) -> Table:
    """Reads the model versions of a whole project; the public call reads those of one model."""
    query = build_raw_query("", trashed=False)
    return project._fetch_entries(ContainerType.MODEL_VERSION, query, columns, None, progress_bar=False, **IN_FULL)


def list_patiently(project: neptune.Project) -> Registry:
    """Reads what a project holds, waiting for a server that is away like everything else here."""

    def attempt() -> Registry:
        with network_errors("the tables"):
            return read_registry(project)

    return Server(project, Progress([]), threading.Event()).patiently(attempt)


def uuid_of(row: TableEntry) -> str:
    """Gives the internal ID of a table's row, by which requests name the object."""
    return row._id


# ---- One object --------------------------------------------------------------------------------------------------

COPIED, UP_TO_DATE, FAILED, LEFT = "copied", "up to date", "failed", "interrupted"


@dataclass
class Outcome:
    """What became of one object: a row of the report."""

    project: str
    source: Source
    status: str = FAILED
    run_id: str = ""
    url: str = ""
    fields: Counter[str] = field(default_factory=Counter)  # type → number of fields
    bytes: Counter[str] = field(default_factory=Counter)  # type → bytes, of files and file sets
    files: int = 0
    skipped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def copy_object(server: Server, source: Source, folder: Path) -> Outcome:
    """Copies one model or model version into its run, and tells what became of it. It never raises an Exception."""
    began = time.monotonic()
    outcome = Outcome(server.name, source)
    log.info("%s: copying", source.id)
    try:
        copy_into_run(server, outcome, folder)
    except Exception as error:  # one object that fails does not stop the others
        log.exception("%s: failed", source.id)
        outcome.failures.append(in_words(error))
    server.count(source.size - server.counted)
    outcome.status = FAILED if outcome.failures else COPIED
    outcome.seconds = time.monotonic() - began
    for failure in outcome.failures:
        log.error("%s: failed: %s", source.id, failure)
    for skipped in outcome.skipped:
        log.warning("%s: not copied: %s", source.id, skipped)
    log.info("%s: %s as %s in %.1f s", source.id, outcome.status, outcome.run_id or "no run", outcome.seconds)
    return outcome


def copy_into_run(server: Server, outcome: Outcome, folder: Path) -> None:
    """Copies an object in four steps: reads what it has, empties the run, copies field by field, checks and marks.

    The source's modification time is the one from before its fields were read: a change in between makes the next
    run of the script copy the object again.
    """
    source = outcome.source
    listed = server.fields(source.uuid)
    plan = plan_copy(source, listed)
    run, outcome.run_id = server.open_run(custom_run_id(source.id))
    outcome.url = server.run_url(outcome.run_id)
    empty_run(server, run, source)
    copied = Copied()
    copy_values(server, run, plan, copied)
    copy_contents(server, source, run, plan, folder, copied)
    check_run(server, run, plan, copied)
    outcome.failures += [f"{path}: {reason}" for path, reason in sorted(copied.failures.items())]
    outcome.skipped += plan.skipped + server.losses
    count_fields(outcome, plan, copied)
    if not outcome.failures:
        mark_complete(server, run, listed)


@dataclass
class Copied:
    """How far the copy of an object has come, by the path in the run."""

    contents: dict[str, Any] = field(default_factory=dict)
    complaints: dict[str, list[str]] = field(default_factory=dict)  # of the server, which may be about a repetition
    failures: dict[str, str] = field(default_factory=dict)


def empty_run(server: Server, run: str, source: Source) -> None:
    """Takes everything out of a run that an earlier copy left there. The mark goes first: no copy is complete now.

    The source's ID stays to the end, as the sign of whose run it is. Raises Refused for a run that has the custom run
    ID but holds something else.
    """
    fields = {one.path: one for one in server.fields(run) if one.path in SAME_PATH or not one.path.startswith("sys/")}
    own = fields.pop(OWNER, None)
    if own is None or own.properties.get("value") != source.id:
        foreign = [path for path in fields if path not in SAME_PATH and not path.startswith(ADDED_BY_THE_CLIENT)]
        if foreign:
            raise Refused(source.id, f"a run that holds {foreign[0]} but is no copy of it has its custom run ID")
    if MARK in fields:
        del fields[MARK]
        complaints = server.operate(run, [{"path": MARK, "deleteAttribute": {}}])
        if complaints:
            raise Refused("deleteAttribute", "; ".join(complaints))
    for batch in in_batches(filter(None, map(delete, fields.values())), OPERATIONS_PER_REQUEST, lambda _: 1):
        server.operate(run, batch)


OWNER = "old_sys/id"
ADDED_BY_THE_CLIENT = ("source_code/", "monitoring/")


def delete(one: Field) -> Operation | None:
    """Makes the operation that removes a field, or empties one that every run has; None where there is nothing."""
    if not one.path.startswith("sys/"):
        return {"path": one.path, "deleteAttribute": {}}
    strings = one.properties.get("values")
    return {"path": one.path, "removeStrings": {"values": strings}} if strings else None


OPERATIONS_PER_REQUEST = 1000  # as the client's queue


def copy_values(server: Server, run: str, plan: Plan, copied: Copied) -> None:
    """Assigns all fields that are one value, in one request; one by one if that fails, to learn which it is."""
    operations: dict[str, list[Operation]] = {}
    for path, one in plan.fields.items():
        if one.type in VALUES:
            with failures_of(path, copied):
                operations[path] = VALUES[one.type].assign(path, VALUES[one.type].of(one.properties))
    for batch in in_batches(operations.items(), OPERATIONS_PER_REQUEST, lambda _: 1):
        try:
            complaints = server.operate(run, [operation for _, of_field in batch for operation in of_field])
        except Refused as refused:
            complaints = [str(refused)]
        for path, of_field in batch if complaints else []:
            with failures_of(path, copied):
                copied.complaints[path] = server.operate(run, of_field) if of_field else []


def copy_contents(server: Server, source: Source, run: str, plan: Plan, folder: Path, copied: Copied) -> None:
    """Copies all fields with contents. While one is uploaded, the next is downloaded."""
    fields = [(path, one) for path, one in plan.fields.items() if one.type in COPIERS]
    with ThreadPoolExecutor(1, f"upload-{source.id}") as uploads:
        writes: dict[str, Future[list[str]]] = {}
        for number, (path, one) in enumerate(fields, 1):
            with failures_of(path, copied):
                copier = COPIERS[one.type]
                content = copier.read(server, source.uuid, one, new_folder(folder, number, path))
                copied.contents[path] = content
                writes[path] = uploads.submit(copier.write, server, run, path, content)
        for path, write in writes.items():
            with failures_of(path, copied):
                copied.complaints[path] = write.result()


@contextlib.contextmanager
def failures_of(path: str, copied: Copied) -> Iterator[None]:
    """Notes an exception as the failure of one field. One field that cannot be copied does not stop the others."""
    try:
        yield
    except Exception as error:
        log.warning("%s", path, exc_info=error)
        copied.failures[path] = in_words(error)


def in_words(error: Exception) -> str:
    """Tells an exception in a line: its text, and its type where that is not one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, Refused) else f"{type(error).__name__}: {text}"


def new_folder(folder: Path, number: int, path: str) -> Path:
    """Makes a folder for one field's downloads, named by its number and what is harmless in its path."""
    made = folder / f"{number:04d}_{re.sub('[^A-Za-z0-9]+', '_', path)[-40:]}"
    made.mkdir(mode=0o700, parents=True)
    return made


def check_run(server: Server, run: str, plan: Plan, copied: Copied) -> None:
    """Reads the run back and notes every field that is not there, is not what was read, or should not be there."""
    found = {one.path: one for one in server.fields(run)}
    for path, one in plan.fields.items():
        with failures_of(path, copied):
            difference = (
                ""
                if path in copied.failures
                else check_field(server, run, one, found.get(path), copied.contents.get(path))
            )
            if difference:
                copied.failures[path] = "; ".join([difference, *copied.complaints.get(path, [])])
    for path in found:
        if not path.startswith("sys/") and path not in plan.fields:
            copied.failures[path] = "it is in the run but not in the registry: does something else write to the run?"


def check_field(server: Server, run: str, one: Field, copy: Field | None, content: Any) -> str:
    """Tells in words how a run's field differs from the registry's; "" when it does not."""
    if copy is None:
        return "" if holds_nothing(one, content) else "it did not arrive"
    if copy.type != one.type:
        return f"it arrived as {copy.type}"
    if one.type in COPIERS:
        return COPIERS[one.type].check(server, run, copy, content)
    sent, arrived = (VALUES[one.type].of(each.properties) for each in (one, copy))
    return "" if repr(sent) == repr(arrived) else f"{arrived!r:.50} arrived"


def holds_nothing(one: Field, content: Any) -> bool:
    """Tells whether a field is a set or a series without anything in it, which a server need not keep."""
    if one.type == "stringSet":
        return not one.properties.get("values")
    return not (content.points if isinstance(content, Series) else content)


def count_fields(outcome: Outcome, plan: Plan, copied: Copied) -> None:
    """Counts what arrived for the report and the closing table."""
    for path, one in plan.fields.items():
        if path in copied.failures:
            continue
        outcome.fields[one.type] += 1
        outcome.bytes[one.type] += one.properties.get("size", 0) if one.type in ("file", "fileSet") else 0
        outcome.files += {"file": 1, "fileSet": 0}.get(one.type, 0)
        if one.type == "fileSet":
            outcome.files += len(members(copied.contents[path]))


def mark_complete(server: Server, run: str, listed: Iterable[Field]) -> None:
    """Writes the mark of a complete copy: the modification time that the source had before it was read."""
    modified = next((one for one in listed if one.path == "sys/modification_time"), None)
    if modified is None:
        raise Refused("sys/modification_time", "the registry does not tell it, so the copy cannot be marked")
    complaints = server.operate(run, VALUES["datetime"].assign(MARK, VALUES["datetime"].of(modified.properties)))
    if complaints:
        raise Refused("assignDatetime", "; ".join(complaints))


# ---- The whole migration -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One project that was asked for, and what its tables told."""

    project: neptune.Project
    registry: Registry


def migrate(
    jobs: Sequence[Job], workers: int | None, folder: Path, progress: Progress, stopping: threading.Event
) -> list[Outcome]:
    """Copies all objects of all projects with one pool of workers, the largest first; returns what became of each.

    After Ctrl-C no object is begun any more; those in flight may finish the requests that they are in.
    """
    outcomes = [untouched(job, source, UP_TO_DATE) for job in jobs for source in job.registry.up_to_date]
    work = [(Server(job.project, progress, stopping), source) for job in jobs for source in job.registry.to_copy]
    work.sort(key=lambda one: one[1].size, reverse=True)
    for job in jobs:
        keep_connections(job.project, 2 * (workers or 32))
    finished: SimpleQueue[Future[Outcome]] = SimpleQueue()
    pool = ThreadPoolExecutor(workers, "copy")
    for number, (server, source) in enumerate(work):
        place = folder / f"{number:05d}_{re.sub('[^A-Za-z0-9-]+', '_', source.id)[:60]}"
        pool.submit(copy_object, server, source, place).add_done_callback(finished.put)
    try:
        for _ in work:
            outcomes.append(progress.finished(next_of(finished)))
    except KeyboardInterrupt:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        outcomes += last_words(finished)
    ended = {one.source for one in outcomes}
    left = [(job, source) for job in jobs for source in job.registry.to_copy if source not in ended]
    return outcomes + [untouched(job, source, LEFT) for job, source in left]


def next_of(finished: SimpleQueue[Future[Outcome]]) -> Outcome:
    """Waits for the next object. It wakes up now and then, because Windows cannot interrupt an endless wait."""
    while True:
        with contextlib.suppress(Empty):
            return finished.get(timeout=0.5).result()


def last_words(finished: SimpleQueue[Future[Outcome]]) -> list[Outcome]:
    """Gathers the objects that finish within the time that is left after Ctrl-C."""
    outcomes = []
    until = time.monotonic() + LAST_WORDS
    while any(thread.name.startswith("copy") for thread in threading.enumerate()):
        with contextlib.suppress(Empty, CancelledError, Stopped):
            outcomes.append(finished.get(timeout=min(0.2, max(0.0, until - time.monotonic()))).result())
        if time.monotonic() > until:
            break
    return outcomes


def untouched(job: Job, source: Source, status: str) -> Outcome:
    """Gives the outcome of an object that nothing was done with."""
    return Outcome(qualified_name(job.project), source, status)


def write_report(file: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes the report: a CSV with one row for each object."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(REPORT_COLUMNS)
        for one in sorted(outcomes, key=lambda one: (one.project, one.source.id)):
            error = "; ".join([*one.failures, *(f"not copied: {skipped}" for skipped in one.skipped)])
            counts = (sum(one.fields.values()), one.files, one.source.size, f"{one.seconds:.1f}")
            rows.writerow((one.source.id, one.source.kind, one.run_id, one.url, one.status, *counts, error))


REPORT_COLUMNS = ("source ID", "kind", "run ID", "URL", "status", "fields", "files", "bytes", "seconds", "error")


# ---- The screen --------------------------------------------------------------------------------------------------


def say(text: str = "") -> None:
    """Prints a line at once."""
    print(text, flush=True)


def in_units(size: float) -> str:
    """Writes bytes for people: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def in_time(seconds: float) -> str:
    """Writes seconds for people: 0:41, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """One bar for the whole migration, in bytes and objects; without a terminal a line every now and then."""

    LINE_EVERY = 10  # seconds, where there is no terminal

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.objects = sum(len(job.registry.to_copy) for job in jobs)
        self.done = self.failed = 0
        self.reasons: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.said = time.monotonic()
        self.bar = tqdm(
            total=max(1, sum(job.registry.size for job in jobs)),
            unit="B",
            unit_scale=True,
            disable=not (self.objects and is_terminal(sys.stderr)),
            ascii=" #",
            dynamic_ncols=True,
            bar_format="Copying {percentage:3.0f}% |{bar}| {desc}{n_fmt}/{total_fmt}B, {rate_fmt}, {remaining} left"
            "{postfix}",
        )
        self.show()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, size: float) -> None:
        """Counts bytes; fewer than none, where an object was smaller than the server's account of it."""
        with self.lock:
            self.bar.update(size)

    def finished(self, outcome: Outcome) -> Outcome:
        """Counts an object, and gives its outcome back."""
        with self.lock:
            self.done += 1
            self.failed += outcome.status == FAILED
            self.show()
        return outcome

    @contextlib.contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """Shows that something waits, and for what, as long as it does."""
        self.change(reason, +1)
        try:
            yield
        finally:
            self.change(reason, -1)

    def change(self, reason: str, by: int) -> None:
        """Counts who waits for a reason."""
        with self.lock:
            self.reasons[reason] += by
            self.reasons += Counter()
            self.show()

    def show(self) -> None:
        """Brings the bar up to date, or prints a line when the last one is some time ago."""
        failed = f", {self.failed} failed" if self.failed else ""
        waiting = f", waiting: {next(iter(self.reasons))}" if self.reasons else ""
        if not self.bar.disable:
            self.bar.set_description_str(f"{self.done}/{self.objects} objects, ", refresh=False)
            self.bar.set_postfix_str((failed + waiting)[2:])
        elif time.monotonic() - self.said > self.LINE_EVERY:
            self.said = time.monotonic()
            say(f"{self.done}/{self.objects} objects{failed}{waiting}")


def is_terminal(stream: Any) -> bool:
    """Tells whether a person looks at a stream, on a terminal that can rewrite a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say_found(job: Job) -> None:
    """Says what there is in a project."""
    registry = job.registry
    every = [*registry.to_copy, *registry.up_to_date]
    models = sum(source.kind == MODEL for source in every)
    size = in_units(sum(source.size for source in every))
    counts = f"{plural(models, 'model')}, {plural(len(every) - models, 'version')}, {size}"
    state = f"{len(registry.up_to_date)} up to date, {len(registry.to_copy)} to copy"
    say(f"{qualified_name(job.project)}: {counts}; {state}")


def plural(number: int, word: str) -> str:
    """Writes a number with its word: 1 model, 2 models."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def say_outcomes(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Prints the closing tables, and every failure by its ID and reason."""
    rows = [
        by_status("models", [one for one in outcomes if one.source.kind == MODEL]),
        by_status("model versions", [one for one in outcomes if one.source.kind == MODEL_VERSION]),
        by_status("total", outcomes),
    ]
    say_table(["", COPIED, UP_TO_DATE, FAILED, "fields", "skipped", "size"], rows)
    say(f"in {in_time(seconds)}")
    fields, sizes = sum((one.fields for one in outcomes), Counter()), sum((one.bytes for one in outcomes), Counter())
    say_table(
        ["", "fields", "size"],
        [[kind, f"{n:,}", in_units(sizes[kind]) if sizes[kind] else ""] for kind, n in fields.most_common()],
    )
    say_each("Not copied, because it cannot be:", [(one.source.id, text) for one in outcomes for text in one.skipped])
    say_each("Failed (run again to retry):", [(one.source.id, text) for one in outcomes for text in one.failures])


def by_status(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Gives a row of the closing table."""
    numbers = Counter(one.status for one in outcomes)
    fields, skipped = sum(sum(one.fields.values()) for one in outcomes), sum(len(one.skipped) for one in outcomes)
    size = in_units(sum(one.source.size for one in outcomes if one.status in (COPIED, UP_TO_DATE)))
    return [name, *(f"{n:,}" for n in (numbers[COPIED], numbers[UP_TO_DATE], numbers[FAILED], fields, skipped)), size]


def say_table(head: list[str], rows: list[list[str]]) -> None:
    """Prints a table: the first column to the left, all others to the right."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    say()
    for row in [head, *rows]:
        say(
            "   ".join(
                text.rjust(width) if place else text.ljust(width)
                for place, (text, width) in enumerate(zip(row, widths))
            )
        )


def say_each(title: str, lines: list[tuple[str, str]]) -> None:
    """Prints a titled list, unless it is empty. Past some lines it refers to the log, where all are."""
    if lines:
        say(f"\n{title}")
    for name, text in lines[:20]:
        say(f"  {name}  {text}")
    if len(lines) > 20:
        say(f"  and {len(lines) - 20} more: see the report")


# ---- The command line --------------------------------------------------------------------------------------------

EXAMPLES = """\
examples:
  python model_to_run.py                                       asks for project and workers
  python model_to_run.py --project acme/credit --workers 8     asks nothing
  python model_to_run.py --project acme/credit --project acme/churn
"""


class CannotStart(Exception):
    """Nothing was copied, and the text tells in a sentence why, and what to do."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line. A wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description="Copy every model and model version of a Neptune project's registry into runs of the project.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--project",
        action="append",
        metavar="P",
        help="WORKSPACE/PROJECT, several separated by commas, or WORKSPACE/* for all (asked for unless given)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="how many objects at once (default: ThreadPoolExecutor decides)",
    )
    return parser.parse_args(arguments)


def whole_number(text: str) -> int:
    """Reads a positive whole number. Raises ValueError with a sentence for people."""
    if not re.fullmatch(r"[0-9]+", text.strip()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def check_server() -> list[str]:
    """Makes sure that there is a server which accepts the token; returns the projects that the token can see.

    Raises CannotStart with a sentence for each thing that can be wrong. The client itself would try for a minute
    before it says anything.
    """
    address = server_address()
    host = urlsplit(address).hostname or address
    try:
        answer = requests.get(
            build_operation_url(address, "/api/backend/swagger.json"), timeout=15, verify=ssl_verify()
        )
        answer.raise_for_status()
        answer.json()
    except requests.exceptions.SSLError as error:
        raise CannotStart(
            f"The certificate of {host} does not verify: set REQUESTS_CA_BUNDLE to the file of the authority that "
            "signed it, or NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE=TRUE to trust any."
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise CannotStart(unreachable(host, address)) from error
    except (requests.RequestException, ValueError) as error:
        raise CannotStart(f"{address} answers, but not as a Neptune server does ({error}).") from error
    try:
        return management.get_project_list()
    except (NeptuneInvalidApiTokenException, Unauthorized, Forbidden) as error:
        raise CannotStart(f"{host} rejects the API token in NEPTUNE_API_TOKEN: copy it anew from the app.") from error


def server_address() -> str:
    """Reads the server's address out of the API token. Raises CannotStart for a token that is missing or malformed."""
    try:
        credentials = Credentials.from_token()
    except NeptuneMissingApiTokenException:
        raise CannotStart("NEPTUNE_API_TOKEN is not set: copy your API token from the app and export it.") from None
    except (NeptuneInvalidApiTokenException, TypeError, AttributeError):
        raise CannotStart("NEPTUNE_API_TOKEN is not a Neptune API token: copy it anew from the app.") from None
    address = build_operation_url(credentials.api_url_opt or credentials.token_origin_address, "")
    if address.startswith("http://") and not os.environ.get("OAUTHLIB_INSECURE_TRANSPORT"):
        raise CannotStart(
            f"{address} is plain http, over which the client cannot refresh its token: "
            "export OAUTHLIB_INSECURE_TRANSPORT=1 if you trust the network, or use https."
        )
    return address


def unreachable(host: str, address: str) -> str:
    """Says that a server cannot be reached; of the hosted service, why."""
    if host == "neptune.ai" or host.endswith(".neptune.ai"):
        return (
            f"The hosted Neptune service ({host}) has been shut down: "
            "set NEPTUNE_API_TOKEN to a token of the server that holds your registry now."
        )
    return f"{address} cannot be reached: check that the server is up, and the network between you."


def choose_projects(given: Sequence[str] | None, visible: list[str]) -> list[neptune.Project]:
    """Opens the projects that the flags name or, without flags, those that the person names."""
    if given:
        return open_projects(",".join(given), visible)
    default = os.environ.get("NEPTUNE_PROJECT", "")
    if not sys.stdin.isatty():
        if default:
            return open_projects(default, visible)
        raise CannotStart("No project is given, and there is no terminal to ask on: use --project WORKSPACE/PROJECT.")
    question = "Project as WORKSPACE/PROJECT (several by commas, WORKSPACE/* for all)"
    while True:
        try:
            return open_projects(ask(f"{question} [{default}]: " if default else f"{question}: ") or default, visible)
        except CannotStart as wrong:
            say(str(wrong))


def open_projects(names: str, visible: list[str]) -> list[neptune.Project]:
    """Opens projects by the names in a list with commas. Raises CannotStart for one that does not exist."""
    opened = {}
    for name in filter(None, (name.strip() for name in names.split(","))):
        workspace = name[:-2]
        found = [one for one in visible if one.startswith(f"{workspace}/")] if name.endswith("/*") else [name]
        if not found:
            raise CannotStart(f"Workspace {workspace} has no project that the token can see.")
        opened.update({one: open_project(one, visible) for one in found if one not in opened})
    if not opened:
        raise CannotStart("A project is needed, as WORKSPACE/PROJECT.")
    return list(opened.values())


def open_project(name: str, visible: list[str]) -> neptune.Project:
    """Opens a project for reading. Raises CannotStart, with near names, for one that is not there."""
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", name):
        raise CannotStart(f"{name!r} is not of the form WORKSPACE/PROJECT{near(name, visible)}.")
    try:
        return neptune.init_project(project=name, mode="read-only")
    except (ProjectNotFound, Forbidden, Unauthorized) as error:
        raise CannotStart(f"There is no project {name} that the token can see{near(name, visible)}.") from error


def near(name: str, visible: list[str]) -> str:
    """Names projects whose names are like a wrong one."""
    by_end = {one.rpartition("/")[2].lower(): one for one in visible}
    close = difflib.get_close_matches(name.lower(), [one.lower() for one in visible], 3)
    close += difflib.get_close_matches(name.rpartition("/")[2].lower(), by_end, 3)
    spelled = {one.lower(): one for one in visible}
    names = list(dict.fromkeys(spelled.get(one) or by_end[one] for one in close))
    return f": did you mean {' or '.join(names[:3])}?" if names else ""


def choose_workers(given: int | None) -> int | None:
    """Gives the number of workers that the flag or the person says; None lets ThreadPoolExecutor decide."""
    while given is None and sys.stdin.isatty():
        answer = ask("Workers, a whole number (empty: ThreadPoolExecutor decides): ")
        if not answer:
            break
        try:
            return whole_number(answer)
        except argparse.ArgumentTypeError as wrong:
            say(f"{wrong}.")
    return given


def ask(question: str) -> str:
    """Asks the person. Raises CannotStart at the end of the input."""
    try:
        return input(question).strip()
    except EOFError:
        say()
        raise CannotStart("The input has ended before all questions were answered: nothing was done.") from None


class HideToken(logging.Filter):
    """Takes the API token out of whatever is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        token = os.environ.get("NEPTUNE_API_TOKEN", "").strip()
        if token and token in record.getMessage():
            record.msg, record.args = record.getMessage().replace(token, "***"), None
        return True


def hold_log() -> logging.handlers.MemoryHandler:
    """Takes all loggers off the screen, and holds what they say until the name of the log file is known."""
    # The client's loggers print to standard output and do not propagate (neptune.internal.utils.logger).
    for name in ("neptune", "neptune_no_prefix"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.captureWarnings(True)
    threading.excepthook = lambda problem: log.error("%s", problem.thread, exc_info=problem.exc_value)
    held = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
    logging.getLogger().addHandler(held)
    return held


def open_log(file: str, held: logging.handlers.MemoryHandler) -> None:
    """Starts the log file, beginning with what was held."""
    logging.getLogger().removeHandler(held)
    start_log(file)
    for handler in logging.getLogger().handlers:
        handler.addFilter(HideToken())
        held.setTarget(handler)
    held.close()


def check_disk(jobs: Sequence[Job]) -> None:
    """Holds the free disk against the bytes to copy. Raises CannotStart when they do not fit."""
    needed, free = sum(job.registry.size for job in jobs), shutil.disk_usage(".").free
    if needed > free:
        raise CannotStart(
            f"The registry has {in_units(needed)} to download, and the disk here has {in_units(free)} left: "
            "run the script where there is more room."
        )


if sys.platform == "win32":
    import msvcrt

    def lock_file(file: IO[str]) -> None:
        """Locks a file for this process. Raises OSError when another one has locked it."""
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def lock_file(file: IO[str]) -> None:
        """Locks a file for this process. Raises OSError when another one has locked it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock(project: neptune.Project) -> IO[str]:
    """Keeps a second migration of a project out of this directory, as long as the returned file is open.

    The system takes the lock from a process that ends, however it ends. Raises CannotStart when another one has it.
    """
    file = open(f"models_migration_{names_of([project])}.lock", "w", encoding="utf-8")  # noqa: SIM115
    try:
        lock_file(file)
    except OSError:
        file.close()
        raise CannotStart(
            f"Another migration of {qualified_name(project)} is running in this directory: wait until it has ended."
        ) from None
    return file


def unlock(file: IO[str]) -> None:
    """Gives up a lock, and removes its file."""
    file.close()
    with contextlib.suppress(OSError):
        os.remove(file.name)


def new_session(projects: Sequence[neptune.Project]) -> tuple[str, Path]:
    """Makes the folder of this session's downloads; returns the beginning of the log's and report's names, and it."""
    name = names_of(projects)
    while True:
        stamp = datetime.now().strftime("%Y%m%d%H%M%S")
        with contextlib.suppress(FileExistsError):
            folder = Path(f"tmp_{stamp}")
            folder.mkdir(mode=0o700)
            return f"models_migration_{name}_{stamp}", folder
        time.sleep(0.1)


def names_of(projects: Sequence[neptune.Project]) -> str:
    """Makes the part of file names that tells the projects: WORKSPACE_PROJECT of the first, and how many more."""
    first = re.sub(r"[^\w.-]", "_", qualified_name(projects[0]).replace("/", "_"))
    return first if len(projects) == 1 else f"{first}_and_{len(projects) - 1}_more"


def qualified_name(project: neptune.Project) -> str:
    """Gives WORKSPACE/PROJECT of an open project, as the server spells it."""
    return f"{project._workspace}/{project._project_name}"


def copy_registries(jobs: Sequence[Job], workers: int | None, folder: Path) -> tuple[list[Outcome], bool]:
    """Copies what the jobs hold, with a bar; returns the outcomes, and whether Ctrl-C ended it early."""
    stopping = threading.Event()
    with Progress(jobs) as progress:
        outcomes = migrate(jobs, workers, folder, progress, stopping)
    return outcomes, stopping.is_set()


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit status: 0, 1 for a failure, 2 for no start, 130 for Ctrl-C."""
    options = parse(arguments)
    held = hold_log()
    visible = check_server()
    projects = choose_projects(options.project, visible)
    workers = choose_workers(options.workers)
    locks = [lock(project) for project in projects]
    name, folder = new_session(projects)
    open_log(f"{name}.log", held)
    jobs = [Job(project, list_patiently(project)) for project in projects]
    say()
    for job in jobs:
        say_found(job)
    check_disk(jobs)
    say(f"Log: {name}.log\n")
    began = time.monotonic()
    outcomes, interrupted = copy_registries(jobs, workers, folder)
    say_outcomes(outcomes, time.monotonic() - began)
    write_report(Path(f"{name}_report.csv"), outcomes)
    if interrupted:
        say("\nInterrupted: run the script again to go on from here.")
    say(f"\nReport: {name}_report.csv")
    say_downloads(folder)
    for held_lock in locks:
        unlock(held_lock)
    return INTERRUPTED if interrupted else any(one.status == FAILED for one in outcomes)


INTERRUPTED = 130


def say_downloads(folder: Path) -> None:
    """Says where the downloads are, or removes their folder when nothing was downloaded."""
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    if sizes:
        say(f"Downloads: {folder} ({in_units(sum(sizes))}; delete it when you have checked the runs)")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def start(arguments: Sequence[str] | None = None) -> None:
    """Runs main() and ends the program, with one sentence for what could not start."""
    try:
        status = int(main(arguments))
    except CannotStart as problem:
        print(f"model_to_run: {problem}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("\nInterrupted: run the script again to go on from here.", file=sys.stderr)
        status = INTERRUPTED
    logging.shutdown()
    sys.stdout.flush()
    if status == INTERRUPTED:
        os._exit(status)  # a request that hangs would keep its thread, and so the program, for minutes
    sys.exit(status)


if __name__ == "__main__":
    start()

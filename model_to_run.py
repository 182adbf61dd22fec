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

The script reads every copy back from the server and compares it with its source. The last thing it writes is the mark
"old_sys/verified": the modification time that the source had. A run with the present one is complete, and is left alone
next time; any other is copied again from the beginning. While a run is copied it has a tag "incomplete copy ...".
So running the script once more is how to resume, how to retry and how to catch up.

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
import fnmatch
import functools
import hashlib
import itertools
import json
import logging
import logging.handlers
import os
import re
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Callable
from urllib.parse import quote, urlsplit

# jsonschema, which the client brings along, takes longer to compile a grammar of IRIs than all else takes to import. No
# description of a Neptune server has an IRI, and jsonschema does without the grammar where it cannot be imported.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import neptune
import requests
from bravado.exception import BravadoConnectionError, BravadoTimeoutError, HTTPError
from neptune import management
from neptune.common.backends.api_model import MultipartConfig
from neptune.common.exceptions import (
    Forbidden,
    NeptuneAuthTokenExpired,
    NeptuneConnectionLostException,
    NeptuneInvalidApiTokenException,
    Unauthorized,
)
from neptune.exceptions import NeptuneInvalidQueryException, NeptuneMissingApiTokenException, ProjectNotFound
from neptune.internal.backends.utils import build_operation_url, ssl_verify
from neptune.internal.container_type import ContainerType
from neptune.internal.credentials import Credentials
from neptune.metadata_containers.utils import build_raw_query
from neptune.table import Table, TableEntry
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError
from tqdm import tqdm

if sys.modules["rfc3987_syntax"] is None:
    del sys.modules["rfc3987_syntax"]

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
GRACE = 5  # seconds that objects in flight have after Ctrl-C

log = logging.getLogger("model_to_run")


@dataclass(frozen=True)
class Options:
    """What the command line asks for. The flags' own help tells what each of them means."""

    project: list[str] | None = None
    only: list[str] | None = None
    query: str | None = None
    version_query: str | None = None
    recopy: bool = False
    workers: int | None = None
    stage_as_tag: bool = False
    verify: bool = False
    delete_files: bool = False
    dry_run: bool = False
    undo: bool = False
    trash_models: bool = False
    yes: bool = False


# ---- What there is to copy ---------------------------------------------------------------------------------------

MODEL, MODEL_VERSION = "model", "model_version"
NEW, INCOMPLETE, CHANGED, UP_TO_DATE = "new", "incomplete", "changed", "up to date"
MARK, OWNER = "old_sys/verified", "old_sys/id"
UNFINISHED = re.compile("incomplete copy [0-9a-f]{8}")  # the tag of a run that is being copied: see Server.write()
LONGEST_CUSTOM_RUN_ID = 36  # the client drops a longer one without an error (neptune.internal.utils.limits)


@dataclass(frozen=True)
class Source:
    """A model or a model version, as the project's tables list it, and what they tell of its copy."""

    id: str
    kind: str
    uuid: str
    model_id: str
    size: int  # bytes
    creation_time: datetime | None
    modification_time: datetime | None
    state: str = NEW
    run_id: str = ""
    run_uuid: str = ""


def read_registry(project: neptune.Project, options: Options) -> list[Source]:
    """Lists the models and model versions that were asked for, outside the trash, and the state of their copies.

    Three table reads, whatever the number of objects. A version of a trashed model is left alone like the model, and
    one of a model that was not asked for is left out, unless it is asked for by its own ID.
    """
    columns = ["sys/id", "sys/creation_time", "sys/modification_time", "sys/size", "sys/trashed", "sys/model_id"]
    models = list(project.fetch_models_table(columns=columns, query=bracketed(options.query), trashed=None, **IN_FULL))
    versions = fetch_model_versions_table(project, columns, bracketed(options.version_query))
    copies = read_copies(project)
    gone = {cell(row, "sys/id") for row in models if cell(row, "sys/trashed")}
    found = [with_state(source_of(row, MODEL), copies) for row in models if cell(row, "sys/id") not in gone]
    chosen = {model.id for model in found} | {*(options.only or ())}
    for version in (with_state(source_of(row, MODEL_VERSION), copies) for row in versions):
        asked_for = options.query is None or version.model_id in chosen or version.id in chosen
        if asked_for and version.model_id not in gone:
            found.append(version)
    return [source for source in found if is_chosen(source.id, options.only or [])]


# Newest first, which is the default, never ends past 10,000 rows. Ascending does, but loses the rows that share the
# sort value of a window's last one (neptune.api.searching_entries.iter_over_pages), and takes sys/creation_time for
# a text as soon as some run has old_sys/creation_time. IDs are unique, and their type is not looked up.
IN_FULL: dict[str, Any] = {"sort_by": "sys/id", "ascending": True, "progress_bar": False}


def bracketed(query: str | None) -> str:
    """Puts a query in parentheses, which the client forgets before it adds "AND not trashed"."""
    return f"({query})" if query else ""


def is_chosen(object_id: str, patterns: Sequence[str]) -> bool:
    """Tells whether an ID is like one of the patterns, or there is none."""
    return not patterns or any(fnmatch.fnmatchcase(object_id, pattern) for pattern in patterns)


def source_of(row: TableEntry, kind: str) -> Source:
    """Turns a row of the models or model versions table into a Source."""
    object_id = cell(row, "sys/id")
    model_id = object_id if kind == MODEL else cell(row, "sys/model_id") or object_id.rpartition("-")[0]
    size, times = int(cell(row, "sys/size") or 0), (cell(row, "sys/creation_time"), cell(row, "sys/modification_time"))
    return Source(object_id, kind, uuid_of(row), model_id, size, *times)


def cell(row: TableEntry, path: str) -> Any:
    """Reads one value of a table's row; None for a field that the object does not have."""
    try:
        return row.get_attribute_value(path)
    except (ValueError, TypeError):  # TypeError: a string set that was never set has no values
        return None


def read_copies(project: neptune.Project) -> dict[str, TableEntry]:
    """Lists the project's runs that are tagged as copies, by their custom run ID."""
    query = f'((`sys/tags`:stringSet CONTAINS "{MODEL}") OR (`sys/tags`:stringSet CONTAINS "{MODEL_VERSION}"))'
    columns = ["sys/custom_run_id", "sys/tags", "sys/group_tags", OWNER, "old_sys/creation_time", MARK]
    rows = project.fetch_runs_table(query=query, columns=columns, **IN_FULL)
    return {cell(row, "sys/custom_run_id") or "": row for row in rows}


def with_state(source: Source, copies: dict[str, TableEntry]) -> Source:
    """Fills in a source's state and run from the table of copies: by the mark, it is complete, outdated or begun.

    A mark counts only without a claim. The copy of an object that had the same ID before counts as none.
    """
    copy = copies.get(custom_run_id(source.id))
    if copy is None or cell(copy, OWNER) != source.id:
        return source
    if cell(copy, "old_sys/creation_time") not in (None, source.creation_time):
        return source
    mark = None if is_unfinished(cell(copy, "sys/tags")) else cell(copy, MARK)
    state = INCOMPLETE if mark is None else UP_TO_DATE if mark == source.modification_time else CHANGED
    return replace(source, state=state, run_id=cell(copy, "sys/id"), run_uuid=uuid_of(copy))


def new_claim() -> str:
    """Return the tag of a copy that is about to begin."""
    return f"incomplete copy {uuid.uuid4().hex[:8]}"


def is_unfinished(tags: Iterable[str] | None) -> bool:
    """Tells whether a run's tags have the claim of a copy that is under way or was cut short."""
    return any(UNFINISHED.fullmatch(tag) for tag in tags or ())


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


Fields = dict[str, Field]  # those of one object, by their paths

SAME_PATH = ("sys/name", "sys/description", "sys/tags", "sys/group_tags")
NOT_COPIED = ("sys/state",)


def target_path(path: str) -> str:
    """Tells where a field goes in the run: the system's own fields move to "old_sys/", all others stay."""
    return f"old_{path}" if path.startswith("sys/") and path not in SAME_PATH else path


@dataclass(frozen=True)
class Plan:
    """What of an object goes where: path in the run → field; and what cannot go, with the reason."""

    fields: Fields
    skipped: list[str]


def plan_copy(source: Source, fields: Fields, stage_as_tag: bool = False, kept: Fields | None = None) -> Plan:
    """Sorts an object's fields into those that are copied, by their path in the run, and those that cannot be.

    The object's kind joins its tags, if so wanted its stage too, and its model's ID the group tags. An empty
    description does not replace one that people gave to a run whose additions are kept.
    """
    plan, tags, left_out = Plan({}, []), [source.kind], {*NOT_COPIED}
    if stage_as_tag and "sys/stage" in fields:
        left_out.add("sys/stage")
        stage = fields["sys/stage"].properties.get("value")
        if stage not in (None, "none"):
            tags.append(stage)
    # The system's own fields come first, so that it is never one of them whose place is taken.
    for path, one in sorted(fields.items(), key=lambda each: not each[0].startswith("sys/")):
        target = target_path(path)
        if path in left_out or (path == DESCRIPTION and not one.properties.get("value") and target in (kept or {})):
            continue
        if one.type not in VALUES and one.type not in COPIERS:
            plan.skipped.append(f"{path} ({one.type}: the client cannot read it)")
        elif target in plan.fields or target == MARK:
            plan.skipped.append(f"{path} ({one.type}: the run needs its path for something else)")
        else:
            plan.fields[target] = one
    for path, strings in (("sys/tags", tags), ("sys/group_tags", [source.model_id])):
        own = strings_of(plan.fields.get(path))
        claims = {one for one in own if path == "sys/tags" and UNFINISHED.fullmatch(one)}
        plan.skipped.extend(f"{path}: {one!r} (the script tags incomplete copies so)" for one in sorted(claims))
        plan.fields[path] = Field(path, "stringSet", {"values": sorted({*own, *strings} - claims)})
    return plan


def strings_of(string_set: Field | None) -> list[str]:
    """Return the strings of a string set; none where the set is not there."""
    return string_set.properties.get("values") or [] if string_set else []


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


def deletion(path: str) -> Operation:
    """Makes the operation that deletes a field. The client sends it too where there may be none."""
    return {"path": path, "deleteAttribute": {}}


def assigned(operation: str, key: str = "value") -> Callable[[str, Any], list[Operation]]:
    """Makes the function that assigns a value with the named operation of the server."""
    return lambda path, value: [{"path": path, operation: {key: value}}]


def insert_strings(path: str, strings: list[str]) -> list[Operation]:
    """Adds strings to a string set. A set without any does not exist on the server, so there is nothing to do."""
    return [{"path": path, "insertStrings": {"values": strings}}] if strings else []


def remove_strings(path: str, strings: list[str]) -> Operation:
    """Takes strings out of a string set."""
    return {"path": path, "removeStrings": {"values": strings}}


def milliseconds(date: str) -> int:
    """Turns the server's date, ISO 8601 in UTC, into whole milliseconds since 1970, without a detour by floats."""
    whole, _, fraction = date.replace("+00:00", "Z").rstrip("Z").partition(".")
    since_1970 = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S") - datetime(1970, 1, 1)
    return since_1970 // timedelta(milliseconds=1) + int(fraction.ljust(3, "0")[:3])


VALUES: dict[str, Value] = {
    "int": Value(lambda properties: properties["value"], assigned("assignInt")),
    "float": Value(lambda properties: properties["value"], assigned("assignFloat")),
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
    of, check tells in words how a run's field differs from them ("" when it does not), and pieces names every piece
    of them with something that is equal only if the piece is. Where it is worth it, relay reads and writes at once;
    it gives None where it does not.
    """

    read: Callable[[Server, str, Field, Path], Any]
    write: Callable[[Server, str, str, Any], list[str]]
    check: Callable[[Server, str, Field, Any], str]
    pieces: Callable[[Any], dict[str, Any]]
    relay: Callable[[Server, str, Field, Path, str, str], Relayed | None] = lambda *_: None


@dataclass(frozen=True)
class Relayed:
    """Contents that are in a run already, and what the server complained of."""

    content: Any
    complaints: list[str]


@dataclass(frozen=True)
class Series:
    """The points of a float or string series, in order: (step, milliseconds since 1970, value); and its settings."""

    points: list[tuple[float, int, Any]]
    config: dict[str, Any]


@dataclass(frozen=True)
class SeriesType:
    """How the server names what it does with a series of one type, and how much of it a request may hold."""

    values: str
    clear: str
    append: str
    per_request: int


# The client puts at most 1,000 operations into a request, of 100 numbers or 10 texts each, and merges those of a field
# (neptune.attributes.series, neptune.internal.backends.operations_preprocessor): servers know far larger requests. With
# these, which are some megabytes, there can be many at once.
FLOAT_SERIES = SeriesType("getFloatSeriesValues", "clearFloatSeries", "logFloats", per_request=20_000)
STRING_SERIES = SeriesType("getStringSeriesValues", "clearStringSeries", "logStrings", per_request=2_000)
IMAGE_SERIES = SeriesType("getImageSeriesValues", "clearImageSeries", "logImages", per_request=1024 * 1024)  # bytes
POINTS_PER_PAGE = 1000  # as neptune.attributes.series.fetchable_series asks for


def read_series(server: Server, container: str, series: Field, kind: SeriesType) -> Series:
    """Reads every point of a series. fetch_values() gives local times, which lose milliseconds and an hour a year."""
    points: list[tuple[float, int, Any]] = []
    for page in server.pages(kind.values, POINTS_PER_PAGE, experimentId=container, attribute=series.path):
        points += [(point["step"], point["timestampMillis"], point["value"]) for point in page]
    check_reach(series, points[-1][0] if points else None)
    return Series(points, without_none(series.properties.get("config") or {}))


def check_reach(series: Field, last_step: float | None) -> None:
    """Raises Refused when what was read of a series ends before the last step that the server lists."""
    listed = series.properties.get("lastStep")
    if listed is not None and (last_step is None or last_step < listed):
        raise Refused(series.path, f"it was read up to step {last_step}, and goes up to {listed}")


def write_series(server: Server, run: str, path: str, series: Series, kind: SeriesType) -> list[str]:
    """Writes a float or string series anew, and its settings."""
    points = series.points
    entries = ({"step": step, "timestampMilliseconds": time_, "value": value} for step, time_, value in points)
    complaints = write_entries(server, run, path, kind, in_batches(entries, kind.per_request))
    config = [{"path": path, "configFloatSeries": series.config}] if series.config else []
    return complaints + (server.write(run, config) if config else [])


def write_entries(server: Server, run: str, path: str, kind: SeriesType, batches: Iterable[list]) -> list[str]:
    """Writes a series anew, in batches. A request that is repeated may complain of what it stored the first time.

    The series is deleted first, because to clear it leaves its settings, and then cleared, because that creates it
    even where there are no points.
    """
    complaints: list[str] = []
    clear: list[Operation] = [deletion(path), {"path": path, kind.clear: {}}]
    for entries in batches:
        complaints += server.write(run, [*clear, {"path": path, kind.append: {"entries": entries}}])
        clear = []
    return complaints + (server.write(run, clear) if clear else [])


def check_series(server: Server, run: str, copy: Field, series: Series, kind: SeriesType) -> str:
    """Holds the number of points, the last point and the settings of a run's series against what was read."""
    last = max(len(series.points) - 1, 0)
    page = server.call(kind.values, experimentId=run, attribute=copy.path, offset=last, limit=1)
    found = [(point["step"], point["timestampMillis"], point["value"]) for point in page["values"]]
    config = without_none(copy.properties.get("config") or {})
    if page["totalItemCount"] != len(series.points):
        return f"{page['totalItemCount']} of {len(series.points)} points arrived"
    if repr(found) != repr(series.points[last:]):
        return "the last point differs"
    return "" if config == series.config else "min, max or unit differ"


def series_copier(kind: SeriesType) -> Copier:
    """Makes the copier of float or of string series."""
    return Copier(
        read=lambda server, container, series, folder: read_series(server, container, series, kind),
        write=lambda server, run, path, series: write_series(server, run, path, series, kind),
        check=lambda server, run, copy, series: check_series(server, run, copy, series, kind),
        pieces=lambda series: {f"point {index}": repr(point) for index, point in enumerate(series.points)},
    )


@dataclass(frozen=True)
class Image:
    """One image of a file series, its bytes in a local file. A step or time of None is not known."""

    file: Path
    step: float | None
    timestamp: int | None
    name: str | None
    description: str | None


def read_images(server: Server, container: str, images: Field, folder: Path) -> list[Image]:
    """Reads every image of a file series: the bytes by their index, all else from the channel behind the series."""
    query: dict[str, Any] = {"experimentId": container, "attribute": images.path}
    count = server.call("getImageSeriesValues", **query, offset=0, limit=1)["totalItemCount"]
    found = []
    for index, point in enumerate(image_points(server, images, count)):
        file = folder / str(index)
        server.download("getImageSeriesValue", file, **query, index=index)
        found.append(Image(file, *point))
    if not found or found[-1].step is not None:
        check_reach(images, found[-1].step if found else None)
    return found


def image_points(server: Server, images: Field, count: int) -> list[tuple]:
    """Gives (step, ms since 1970, name, description) of every image, or notes the loss where a server tells none.

    The client itself reads only the number of images. `getChannelValues` is marked as deprecated, so a server may not
    describe it. Where it is described, any refusal fails the field: it may be a gateway's, and pass. Raises Refused
    also when the server knows another number of points than of images.
    """
    if not server.describes("getChannelValues"):
        log.warning("%s: the server does not tell its steps, times, names and descriptions: lost", images.path)
        server.losses.append(f"{images.path} (steps, times, names and descriptions of {count} images)")
        return [(None, None, None, None)] * count
    channel = images.properties.get("channelId")
    if channel is None:
        raise Refused(images.path, 'the server\'s answer lacks its "channelId"')
    points = [point for page in server.pages("getChannelValues", POINTS_PER_PAGE, channelId=channel) for point in page]
    if len(points) != count:
        raise Refused("getChannelValues", f"{len(points)} points for {count} images")
    if not all("x" in point and "imageValue" in point["y"] for point in points):
        server.losses.append(f"{images.path} (steps, names or descriptions of some of {count} images)")
    shown = [(point.get("x"), point["timestampMillis"], point["y"].get("imageValue") or {}) for point in points]
    return [(step, time_, image.get("name"), image.get("description")) for step, time_, image in shown]


def write_images(server: Server, run: str, path: str, images: list[Image]) -> list[str]:
    """Writes a file series anew, a megabyte a request. A larger image stands alone, and is in memory as a whole."""
    batches = in_batches(images, IMAGE_SERIES.per_request, lambda image: image.file.stat().st_size)
    with server.image_writers:
        return write_entries(server, run, path, IMAGE_SERIES, (list(map(image_entry, batch)) for batch in batches))


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
    if count != len(images):
        return f"{count} of {len(images)} images arrived"
    last = images[-1].step if images else None
    return "" if last is None or copy.properties.get("lastStep") in (None, last) else "the last image has another step"


def image_pieces(images: list[Image]) -> dict[str, Any]:
    """Names the images of a file series."""
    return {
        f"image {index}": (one.step, one.timestamp, one.name, one.description, digest_of(one.file.open("rb")))
        for index, one in enumerate(images)
    }


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
        return server.upload("fileAtom", query, stream, file.local.stat().st_size)


def relay_file(server: Server, container: str, file: Field, folder: Path, run: str, path: str) -> Relayed | None:
    """Uploads a large file in parts while it comes down, as they come, and the last one when it has come whole.

    Gives None for a small file, and when the download is cut short: a second one might bring another version of the
    file than the parts that have gone up.
    """
    local, size = folder / "file", file.properties.get("size") or 0
    if size <= server.limits.max_single_part_size:
        return None
    query = {"experimentIdentifier": run, "attribute": path, "ext": file.properties.get("ext") or ""}
    request = server.request("downloadAttribute", {"experimentId": container, "attribute": file.path})
    local.touch()
    refused = threading.Event()
    with server.relays, ThreadPoolExecutor(1, threading.current_thread().name) as downloads, local.open("rb") as stream:
        download = downloads.submit(server.save, "downloadAttribute", request, local, size, stopping=refused)
        try:
            complaints = server.upload("fileAtom", query, stream, size, partial(wait_for_bytes, stream, download, size))
        except Exception as error:
            if download.done() and error is download.exception():
                return None
            refused.set()
            raise
    return Relayed(File(local, query["ext"]), complaints)


def wait_for_bytes(file: IO[bytes], download: Future[None], size: int, end: int) -> None:
    """Waits until so many bytes of a file have been downloaded; for the last ones, until the download has ended well.

    Raises what ended it before its time.
    """
    while not download.done() and (end == size or os.fstat(file.fileno()).st_size < end):
        wait([download], timeout=0.05)
    if download.done():
        download.result()


def check_file(server: Server, run: str, copy: Field, file: File) -> str:
    """Holds size and extension of a run's file against what was read."""
    found, read = copy.properties.get("size"), file.local.stat().st_size
    if found != read:
        return f"{found} of {read} bytes arrived"
    return "" if (copy.properties.get("ext") or "") == file.extension else "the extension differs"


def file_pieces(file: File) -> dict[str, Any]:
    """Names the pieces of a file."""
    return {"the extension": file.extension, "the content": digest_of(file.local.open("rb"))}


def digest_of(stream: IO[bytes]) -> str:
    """Gives a text that is equal only for equal bytes, of a stream that it reads in portions and closes."""
    digest = hashlib.sha256()
    with stream:
        for portion in iter(lambda: stream.read(CHUNK), b""):
            digest.update(portion)
    return digest.hexdigest()


FILES_PER_ARCHIVE = 500
BYTES_PER_ARCHIVE = 5 * 1024 * 1024  # both as the client packs (neptune.common.storage.storage_utils)


def read_file_set(server: Server, container: str, file_set: Field, folder: Path) -> Path:
    """Downloads a file set as one zip, which stays packed: its names never become local paths.

    Raises Refused when the zip does not hold the very files that the server lists.
    """
    archive = folder / "files.zip"
    server.download_archive(archive, experimentId=container, attribute=file_set.path)
    difference = differing_files(archive, server.files(container, file_set.path))
    if difference:
        raise Refused("the zip", f"{difference} in what the server packed")
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
    complaints = server.write(run, [deletion(path)])
    with zipfile.ZipFile(archive) as opened:
        batches = list(in_batches(members(archive), BYTES_PER_ARCHIVE, lambda one: one.file_size, FILES_PER_ARCHIVE))
        for batch in batches or [[]]:
            if len(batch) != 1:
                of_set = {"experimentId": run, "attribute": path, "reset": str(not batch)}
                headers = {"Content-Type": "application/octet-stream"}
                with tempfile.TemporaryFile(dir=archive.parent) as packed:
                    pack(opened, batch, packed)
                    server.post("uploadFileSetAttributeTar", of_set, Portion(packed, 0, packed.tell()), headers)
                continue
            with opened.open(batch[0]) as stream:
                query["subPath"] = batch[0].orig_filename
                complaints += server.upload("fileSetFile", query, stream, batch[0].file_size)
    return complaints


def pack(archive: zipfile.ZipFile, batch: list[zipfile.ZipInfo], packed: IO[bytes]) -> None:
    """Packs members of a zip into a tar.gz. The lightest compression: the line is slower than any."""
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for member in batch:
            entry = tarfile.TarInfo(member.orig_filename)
            entry.size = member.file_size
            tar.addfile(entry, archive.open(member))


def check_file_set(server: Server, run: str, copy: Field, archive: Path) -> str:
    """Holds names and sizes of the files in a run's file set against those in the zip."""
    return differing_files(archive, server.files(run, copy.path))


def differing_files(archive: Path, listed: dict[str, int | None]) -> str:
    """Tells in words how a zip differs from what a server lists; "" when it does not."""
    packed = {member.orig_filename: member.file_size for member in members(archive)}
    differing = [name for name in {**packed, **listed} if name not in packed or name not in listed]
    differing += [name for name in packed if listed.get(name) not in (None, packed[name])]
    return f"{len(differing)} of {len(packed)} files differ or are missing, {differing[0]!r} first" if differing else ""


def file_set_pieces(archive: Path) -> dict[str, Any]:
    """Names the files of a file set."""
    with zipfile.ZipFile(archive) as opened:
        return {member.orig_filename: digest_of(opened.open(member)) for member in members(archive)}


def in_batches(
    items: Iterable[Any], size: int, size_of: Callable[[Any], int] = lambda _: 1, count: int = sys.maxsize
) -> Iterator[list]:
    """Splits items, in order, into batches of at most so much in size, and so many; a larger item stands alone."""
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


# In the order in which the fields of an object are begun: those first that take the longest.
COPIERS: dict[str, Copier] = {
    "fileSet": Copier(read_file_set, write_file_set, check_file_set, file_set_pieces),
    "imageSeries": Copier(read_images, write_images, check_images, image_pieces),
    "file": Copier(read_file, write_file, check_file, file_pieces, relay_file),
    "floatSeries": series_copier(FLOAT_SERIES),
    "stringSeries": series_copier(STRING_SERIES),
}


# ---- Below the client's public API -------------------------------------------------------------------------------
#
# Everything here asks the server itself, with the client's own session, token and description of the server, because
# the public API cannot do it exactly:
#   - fetch_values() loses milliseconds, download() of images loses steps, times, names and descriptions;
#   - what is assigned to a run waits in a queue on disk, which cuts long strings, turns some dates back by a
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

    patience: float = OUTAGE  # seconds

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Ailing(Away):
    """The server is there, and its answer is of no use; but another time may be better."""

    patience = SERVER_ERROR


class Stopped(BaseException):
    """The person has asked to stop. Not an Exception: it is no failure of the field that is being copied."""


RELAYS = 6  # large files in all that are uploaded while they come down: more at once only come later
IMAGE_WRITERS = 6  # image series of all objects that are written at once: each has copies of an image in memory
TIMEOUT = (30, 600)  # seconds to connect, seconds between two bytes: as the client's own
HEADERS = {"X-Neptune-LegacyClient": "false"}
CHUNK = 64 * 1024  # bytes read from a download or a file at a time


class Portion:
    """A part of a local file as the body of a request: it is read as it is sent, and never in memory as a whole."""

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        self.stream, self.start, self.size, self.left = stream, start, size, size

    def __len__(self) -> int:
        return self.size

    def read(self, size: int = -1) -> bytes:
        """Reads some bytes more. Raises EOFError where the file has become shorter."""
        data = self.stream.read(min(size if size >= 0 else self.left, self.left))
        self.left -= len(data)
        if self.left and not data:
            raise EOFError(f"a downloaded file ends {self.left} bytes too early")
        return data

    def rewind(self) -> None:
        """Begins from the start, for a request that is made again."""
        self.stream.seek(self.start)
        self.left = self.size


@dataclass(frozen=True)
class Run:
    """A run as the server knows it: by an internal ID, which requests name, and by its Neptune ID."""

    uuid: str
    id: str
    trashed: bool


@dataclass
class Server:
    """The server of one project: the requests that the public API has no equal for.

    Losses and counted bytes are those of the object that is being copied, so each object has a Server of its own.
    """

    project: neptune.Project
    options: Options = field(default_factory=Options)
    progress: Progress = field(default_factory=lambda: Progress())
    stopping: threading.Event = field(default_factory=threading.Event)
    relays: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(RELAYS))
    image_writers: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(IMAGE_WRITERS))
    losses: list[str] = field(default_factory=list)  # what this server does not tell of the object being copied
    repeated: bool = False  # a write was sent more than once: an earlier copy of it may still be on its way
    # Bytes of that object which the progress bar has been told of: a list, to which several threads can add.
    counted: list[float] = field(default_factory=list)
    claim: str = field(default_factory=lambda: new_claim())

    @property
    def backend(self) -> Any:
        """The client's own connection (neptune.internal.backends.hosted_neptune_backend)."""
        return self.project._backend

    @property
    def name(self) -> str:
        """The project's name, as WORKSPACE/PROJECT."""
        return qualified_name(self.project)

    @property
    def limits(self) -> MultipartConfig:
        """How large the server wants the parts of an upload, in bytes."""
        return self.backend._client_config.multipart_config or MultipartConfig.get_default()

    def count(self, size: float) -> None:
        """Tells the progress bar of bytes: half of a file's when it has come, half when it has gone."""
        self.counted.append(size)
        self.progress.advance(size)

    def fields(self, container: str) -> Fields:
        """Reads all fields of a container with their properties, in one request."""
        listed = self.call("getExperimentAttributes", experimentId=container)["attributes"]
        fields = [Field(one["name"], one["type"], one.get(f"{one['type']}Properties") or {}) for one in listed]
        return {one.path: one for one in fields}

    def open_run(self, custom_id: str) -> Run:
        """Creates the run with a custom run ID, or finds the one that has it, in the trash too."""
        project = self.project._project_id
        request = {"projectIdentifier": project, "parentId": project, "type": "run", "customId": custom_id}
        run = self.call("createExperiment", {**request, "cliVersion": neptune.__version__})
        return Run(run["id"], run["shortId"], run["trashed"])

    def restore(self, run: Run) -> None:
        """Takes a run out of the trash. Raises Refused when it stays there."""
        errors = self.call("restoreExperiments", [f"{self.name}/{run.id}"], projectIdentifier=self.name)["errors"]
        if errors and errors[0]["reason"] != "NOT_IN_TRASH":  # as when the answer was lost, and it is repeated
            raise Refused("restoreExperiments", errors[0]["message"])

    def operate(self, run: str, operations: list[Operation]) -> list[str]:
        """Carries out operations on a run's fields, in order; returns what the server complained of."""
        return self.patiently(lambda: self.operate_once(run, operations))

    def operate_once(self, run: str, operations: list[Operation]) -> list[str]:
        """Carry out operations as operate() does, with a single request."""
        errors = self.call_once("executeOperations", operations, experimentId=run)
        if not isinstance(errors, list):  # something in between has answered
            raise Refused("executeOperations", "the answer does not tell whether it went well")
        return [error["errorDescription"] for error in errors]

    def write(self, run: str, operations: list[Operation]) -> list[str]:
        """Carry out operations on a run that is being copied into; return what the server complained of.

        Each such request tags the run with this copy's claim, so a run to which anything was written is incomplete
        until its copy ends. Uploads cannot carry a claim, so they come after a write.
        """
        tries = itertools.count()

        def attempt() -> list[str]:
            self.repeated = self.repeated or next(tries) > 0
            return self.operate_once(run, [*insert_strings("sys/tags", [self.claim]), *operations])

        return self.patiently(attempt)

    def renew_claim(self, run: str) -> None:
        """Take another claim if a write had to be repeated.

        An earlier copy of the repeated request may be on its way. It would bring the old claim, and so be noticed.
        """
        while self.repeated:
            self.repeated, old, self.claim = False, self.claim, new_claim()
            self.write(run, [remove_strings("sys/tags", [old])])

    def demand(self, run: str, operations: list[Operation]) -> None:
        """Carries out operations on a run's fields. Raises Refused for any complaint."""
        complaints = self.operate(run, operations)
        if complaints:
            raise Refused("executeOperations", "; ".join(complaints))

    def trash(self, ids: Sequence[str]) -> list[str]:
        """Moves objects to the trash; returns in words which were not. management.trash_objects() only logs that."""
        errors = []
        for batch in in_batches(ids, 100):
            names = [f"{self.name}/{one}" for one in batch]
            errors += self.call("trashExperiments", names, projectIdentifier=self.name)["errors"]
        # A model takes its versions along, which are then there already.
        errors = [error for error in errors if error["reason"] != "ALREADY_TRASHED"]
        return [f"{error['experimentIdentifier']}: {error['message']}" for error in errors]

    def pages(self, operation: str, limit: int, **query: Any) -> Iterator[list[dict[str, Any]]]:
        """Reads a long list of values page by page. Raises Refused when it ends before all were given."""
        total = 0
        for offset in itertools.count(0, limit):
            page = self.call(operation, **query, offset=offset, limit=limit)
            due, total = page["totalItemCount"] - offset, max(total, page["totalItemCount"])
            if len(page["values"]) != min(limit, max(due, 0)) or total > page["totalItemCount"]:
                raise Refused(operation, f"{len(page['values'])} values in a page that should have {min(limit, due)}")
            yield page["values"]
            if due <= limit:
                return

    def files(self, container: str, file_set: str) -> dict[str, int | None]:
        """Lists a file set: path of each file → bytes (None where not told). One request for each folder."""
        found: dict[str, int | None] = {}
        folders, seen = [""], set()
        while folders:
            folder = folders.pop()
            if folder in seen:  # a name that is empty leads back to where it stands
                continue
            seen.add(folder)
            for entry in self.call("lsFileSetAttribute", experimentId=container, attribute=file_set, path=folder):
                name = entry["name"].strip("/").rpartition("/")[2]
                path = f"{folder}/{name}" if folder else name
                if entry["fileType"] == "directory":
                    folders.append(path)
                else:
                    found[path] = entry.get("size")
        return found

    def call(self, operation: str, body: Any = None, **query: Any) -> Any:
        """Carries out one operation of the server's description, with a JSON body if one is given; returns its JSON."""
        return self.patiently(lambda: self.call_once(operation, body, **query))

    def call_once(self, operation: str, body: Any = None, **query: Any) -> Any:
        """Carry out an operation as call() does, with a single request."""
        parts: dict[str, Any] = {}
        if body is not None:
            parts = {"data": json.dumps(body).encode(), "headers": {"Content-Type": "application/json"}}
        return read_json(operation, self.exchange(operation, self.request(operation, query, **parts)))

    def request(self, operation: str, query: dict[str, Any], **parts: Any) -> requests.Request:
        """Makes the request of an operation as the server describes it. Raises Refused where it does not."""
        api = self.backend.leaderboard_client
        if not self.describes(operation):
            raise Refused(operation, "this server does not have it", 404)
        described = getattr(api.api, operation).operation
        path = described.path_name
        for name in re.findall(r"{(\w+)}", path):
            path = path.replace(f"{{{name}}}", quote(str(query[name]), safe=""))
        parameters = {name: value for name, value in query.items() if f"{{{name}}}" not in described.path_name}
        url = build_operation_url(api.swagger_spec.api_url, path)
        return requests.Request(described.http_method.upper(), url, params=parameters, **parts)

    def describes(self, operation: str) -> bool:
        """Tell whether the server's description has an operation. No answer to a request can tell that."""
        return hasattr(self.backend.leaderboard_client.api, operation)

    def exchange(self, operation: str, request: requests.Request, stream: bool = False) -> requests.Response:
        """Sends a request, signed, through the client's session. Raises Away or Refused for any but a good answer."""
        if self.stopping.is_set():
            raise Stopped
        http = self.backend.leaderboard_client.swagger_spec.http_client
        # Of a compressed download that is cut short, an older urllib3 would not tell, nor would its length.
        request.headers = {**HEADERS, **({"Accept-Encoding": "identity"} if stream else {}), **request.headers}
        with network_errors(operation):
            prepared = http.session.prepare_request(http.authenticator.apply(request))
            settings = environment_settings(http.session, *urlsplit(prepared.url or "")[:2])
            response = http.session.send(prepared, timeout=TIMEOUT, **{**settings, "stream": stream})
            if response.status_code == 401:
                renew_token(self.project)
            raise_for_answer(operation, response)
        return response

    def patiently(self, attempt: Callable[[], Any]) -> Any:
        """Repeats an attempt while the server is away, as long as an outage may last."""
        return patiently(attempt, self.progress, self.stopping)

    def download(self, operation: str, local: Path, *, size: int | None = None, **query: Any) -> None:
        """Downloads the answer of an operation into a local file of that many bytes, where the number is known."""
        request = self.request(operation, query)
        self.patiently(lambda: self.save(operation, request, local, size))

    def download_archive(self, local: Path, **query: Any) -> None:
        """Asks for a file set as a zip, waits until the server has packed it, and downloads it."""
        prepared = self.call("prepareForDownloadFileSetAttributeZip", **query)
        for tries in itertools.count():
            if prepared.get("downloadUrl"):
                break
            if self.stopping.wait(0.1 * 2 ** min(tries, 6)):
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
        is_whole: Callable[[Path], bool] = lambda local: True,
        stopping: threading.Event | None = None,
    ) -> None:
        """Downloads one answer. Raises Away when it was cut short, which an older urllib3 does not tell.

        A page instead of a file comes from something in between, as a proxy that wants a password. The server names a
        type for each image, from which the client makes its extension. Raises Stopped in the middle when the
        migration, or this download alone, is to stop.
        """
        response = self.exchange(operation, request, stream=True)
        try:
            with network_errors(operation), response, local.open("wb") as file:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    self.count(len(chunk) / 2)
                    if self.stopping.is_set() or (stopping and stopping.is_set()):
                        raise Stopped
        except OSError:
            local.unlink(missing_ok=True)  # on a disk that is full, others need the room
            raise
        found, told = local.stat().st_size, response.headers.get("Content-Length")
        if told is None or "Content-Encoding" in response.headers:
            told = str(found if size is None else size)
        other = re.match(r"$|text/|application/json", response.headers.get("Content-Type", ""))
        page = response.status_code != 200 or bool(size != int(told) and other)
        if found != int(told) or page or not is_whole(local):
            raise Ailing(f"{operation} ended after {found} of {told} bytes" + " of a page" * page)
        if size not in (None, found):
            raise Refused(operation, f"the file has {found} bytes, and was listed with {size}: does it change?")

    def upload(
        self,
        kind: str,
        query: dict[str, Any],
        stream: IO[bytes],
        size: int,
        wait_for: Callable[[int], None] = lambda end: None,
    ) -> list[str]:
        """Uploads a file, in parts above the server's limit; returns what the server complained of at the end.

        The kind is how the names of the operations begin. A file that is not whole yet is waited for, to the end of
        each part.
        """
        limits = self.limits
        if size <= limits.max_single_part_size:
            return unconfirmed(kind, self.post(f"{kind}Upload", query, Portion(stream, 0, size)))
        started = accept(f"{kind} upload", self.call(f"{kind}MultipartUploadStart", **query, totalLength=size))
        query = {**{key: query[key] for key in query if key != "ext"}, "uploadId": started["uploadId"]}
        part_size = max(limits.min_chunk_size, -(-size // limits.max_chunk_count))
        for index, start in enumerate(range(0, size, part_size)):
            part = Portion(stream, start, min(part_size, size - start))
            wait_for(start + part.size)
            part_range = {"X-Range": f"bytes={start}-{start + part.size - 1}/{size}"}
            self.post(f"{kind}MultipartUploadPart", {**query, "uploadPartIdx": index}, part, part_range)
        try:
            return unconfirmed(kind, accept(f"{kind} upload", self.call(f"{kind}MultipartUploadFinish", **query)))
        except Refused as refused:  # as it is when the request was carried out, its answer lost, and it is repeated
            return [str(refused)]

    def post(self, operation: str, query: dict[str, Any], data: Portion, headers: dict[str, str] | None = None) -> Any:
        """Posts bytes, and returns the answer. Raises Refused for an error in it."""
        request = self.request(operation, query, data=data, headers=headers or {})

        def attempt() -> Any:
            data.rewind()
            return accept(operation, read_json(operation, self.exchange(operation, request)))

        answer = self.patiently(attempt)
        self.count(data.size / 2)
        return answer


def patiently(
    attempt: Callable[[], Any], progress: Progress, stopping: threading.Event, at_most: float = OUTAGE
) -> Any:
    """Repeats an attempt while it raises Away, with growing pauses, as long as patience lasts.

    That is counted from the first failure of the kind: an outage may end with a server that is yet to find its feet.
    Then it raises the last Away, if the server is out of reach, or Refused, if it is there but does not get on.
    """
    since: dict[type[Away], float] = {}
    for tries in itertools.count():
        try:
            return attempt()
        except Away as away:
            now = time.monotonic()
            left = since.setdefault(type(away), now) + min(away.patience, at_most) - now
            if left <= 0 and isinstance(away, Ailing):
                raise Refused("gave up waiting", str(away)) from away
            if left <= 0:
                raise
            pause = min(0.5 * 2**tries, 30) if away.retry_after is None else max(away.retry_after, 0.1)
            log.warning("Waiting %.1f s: %s", min(pause, left), away)
            with progress.waiting(str(away)):
                if stopping.wait(min(pause, left)):
                    raise Stopped from away
    raise AssertionError("an endless loop has ended")


def by_the_client(
    what: str, call: Callable[[], Any], at_most: float = OUTAGE, project: neptune.Project | None = None
) -> Any:
    """Makes a call of the client's public API with the patience that all requests here have.

    Raises Refused where that ends, and what the client raises of its own.
    """
    try:
        return patiently(partial(once_by_the_client, what, call, project), Progress(), threading.Event(), at_most)
    except Away as away:
        raise Refused("gave up waiting", str(away)) from away


def once_by_the_client(what: str, call: Callable[[], Any], project: neptune.Project | None) -> Any:
    """Makes a call of the client's public API. Raises Away or Refused, and what the client raises of its own."""
    try:
        with network_errors(what):
            return call()
    except Away:  # it may be the token, which the client does not renew where it reads a table
        if project:
            renew_token(project)
        raise


# What the client raises for a server that is away, and what the requests of all do.
NO_ANSWER = (
    NeptuneConnectionLostException,
    NeptuneAuthTokenExpired,
    BravadoConnectionError,
    BravadoTimeoutError,
    requests.ConnectionError,
    requests.Timeout,
    ChunkedEncodingError,
)


@contextlib.contextmanager
def network_errors(operation: str) -> Iterator[None]:
    """Raises Away for what the network does to a request, and Refused for what the client says of the token.

    Where the client reads the pages of a table, it passes on the server's answers as they are.
    """
    try:
        yield
    except NO_ANSWER as error:
        raise Away(f"no answer to {operation} ({type(error).__name__})") from error
    except (NeptuneInvalidApiTokenException, Unauthorized) as error:
        raise Refused(operation, "the API token is not accepted", 401) from error
    except Forbidden as error:
        raise Refused(operation, "the API token does not allow it", 403) from error
    except HTTPError as error:
        raise_for_answer(operation, error.response)
        raise


def raise_for_answer(operation: str, response: Any) -> None:
    """Sorts the server's answers: nothing for a good one, Away where trying again may help, Refused otherwise.

    They come as the client's libraries have them, requests or bravado.
    """
    status = response.status_code
    if status < 400:
        return
    said = f"{status} {response.reason}"
    if status in (408, 429, 502, 503, 504):
        raise Away(f"the server answers {said}", retry_after(response.headers.get("Retry-After")))
    # A part of an upload that was cut short on its way is a 400 with this text.
    if status in (401, 500) or "Length of stream does not match given range" in response.text:
        raise Ailing(f"the server answers {said} to {operation}")
    with contextlib.suppress(ValueError, AttributeError):
        answer = response.json()
        said += f": {answer.get('title') or answer.get('message') or answer.get('errorType')}"
    raise Refused(operation, f"the server refused it ({said})", status)


@functools.lru_cache(maxsize=100)
def environment_settings(session: requests.Session, scheme: str, host: str) -> Any:
    """Tells which proxy and certificates the environment wants for a host.

    It does not change, and looking it up is a good part of what a small request costs.
    """
    return session.merge_environment_settings(f"{scheme}://{host}", {}, None, None, None)


def retry_after(header: str | None) -> float | None:
    """Reads a Retry-After header, which is a number of seconds or a date. Returns seconds, or None without one."""
    if header is None:
        return None
    if header.isdecimal():
        return float(header)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None


def read_json(operation: str, response: requests.Response) -> Any:
    """Reads a JSON answer. One that is none, as of a proxy that is in the way, is as good as no answer."""
    try:
        return json.loads(response.content) if response.content else None
    except ValueError as error:
        raise Ailing(f"the answer to {operation} is not JSON") from error


def accept(operation: str, answer: Any) -> Any:
    """Returns the answer to an upload. Raises Refused for an error in it (hosted_file_operations knows both forms)."""
    answer = answer if isinstance(answer, dict) else {}
    errors = answer.get("errors") or ([answer] if "errorDescription" in answer else [])
    if errors:
        raise Refused(operation, "; ".join(error["errorDescription"] for error in errors))
    return answer


def unconfirmed(kind: str, answer: dict[str, Any]) -> list[str]:
    """Gives a complaint about an answer that does not tell how an upload went, so that the bytes are compared."""
    return [] if "errors" in answer else [f"the answer to {kind} upload does not tell whether it went well"]


def renew_token(project: neptune.Project) -> None:
    """Has the client renew its token before the next request. By itself it goes by the clock of this machine only."""
    project._backend.leaderboard_client.swagger_spec.http_client.authenticator.auth.token_expires_at = 0


def keep_connections(project: neptune.Project, number: int) -> None:
    """Lets the client's session keep a connection for each thread that uses it; by itself it closes all but ten."""
    session = project._backend.leaderboard_client.swagger_spec.http_client.session
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=number))


def fetch_model_versions_table(project: neptune.Project, columns: list[str], query: str = "") -> Table:
    """Reads the model versions of a whole project; the public call reads those of one model."""
    raw = build_raw_query(query, trashed=False)
    return project._fetch_entries(ContainerType.MODEL_VERSION, raw, columns, None, **IN_FULL)


def run_url(project: neptune.Project, run_id: str) -> str:
    """Gives the address of a run in the app."""
    return project._backend.get_run_url(run_id, project._workspace, project._project_name, run_id)


def qualified_name(project: neptune.Project) -> str:
    """Gives WORKSPACE/PROJECT of an open project, as the server spells it."""
    return f"{project._workspace}/{project._project_name}"


def uuid_of(row: TableEntry) -> str:
    """Gives the internal ID of a table's row, by which requests name the object."""
    return row._id


# ---- One object --------------------------------------------------------------------------------------------------

COPIED, VERIFIED, DIFFERS, FAILED, NOT_DONE = "copied", "verified", "differs", "failed", "not done"
AGAIN = "again"  # what --recopy would do with an object that is up to date


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
    kept: list[str] = field(default_factory=list)  # what people have added to the run, in words
    taken_out: int = 0  # fields and tags that the run had and the registry does not
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def work_on(task: Callable[[Server, Outcome, Path], None], server: Server, source: Source, folder: Path) -> Outcome:
    """Does one task with one object (copy, compare or preview), and tells what became of it. Raises no Exception."""
    began = time.monotonic()
    threading.current_thread().name = source.id  # which each line of the log shows
    outcome = untouched(server.project, source, FAILED)
    try:
        with server.progress.working(source.id):
            task(server, outcome, folder)
    except Exception as error:  # one object that fails does not stop the others
        log.exception("%s", source.id)
        outcome.failures.append(in_words(error))
    server.count(source.size - sum(server.counted))
    outcome.status = FAILED if outcome.failures and outcome.status != DIFFERS else outcome.status
    outcome.seconds = time.monotonic() - began
    if outcome.status in (COPIED, VERIFIED) and server.options.delete_files:
        shutil.rmtree(folder, ignore_errors=True)
    for failure in outcome.failures:
        log.error("%s: failed: %s", source.id, failure)
    for skipped in outcome.skipped:
        log.warning("%s: not copied: %s", source.id, skipped)
    for kept in outcome.kept:
        log.info("%s: kept: %s", source.id, kept)
    log.info("%s: %s, %s, %.1f s", source.id, outcome.status, outcome.run_id or "no run", outcome.seconds)
    return server.progress.finished(outcome)


def copy_object(server: Server, outcome: Outcome, folder: Path) -> None:
    """Copy an object: read what it has, write its fields into its run, read the run back, mark it complete.

    The mark is the modification time from before the fields were read: after a change in between, the next start
    copies the object again. A run that was complete once keeps what people have added to it, unless --recopy is given.
    """
    source, options = outcome.source, server.options
    run = server.open_run(custom_run_id(source.id))
    outcome.run_id, outcome.url = run.id, run_url(server.project, run.id)
    found = server.fields(run.uuid)
    # The source after the run: a claim that is removed below belongs to a copy of nothing newer.
    listed = server.fields(source.uuid)
    check_owner(source, found, listed.get("sys/creation_time"))
    complete = is_marked(found, listed)
    if complete and not (run.trashed or options.recopy):  # which the tables are yet to show
        outcome.source, outcome.status = replace(source, run_id=run.id, run_uuid=run.uuid), UP_TO_DATE
        if options.verify:
            verify_object(server, outcome, folder)
        return
    keeps = keeps_additions(found, options)
    plan = plan_copy(source, listed, options.stage_as_tag, found if keeps else {})
    begin(server, run, found, complete)
    copied = Copied(doubtful=bool(claims_of(found)))
    outcome.taken_out = write_values(server, run.uuid, source, plan, found, keeps, copied)
    each_content(plan, folder, copied, partial(copy_content, server, source, run.uuid, copied))
    server.renew_claim(run.uuid)
    checked = check_run(server, run.uuid, plan, folder, copied, keeps)
    check_claims(server, run.uuid, found, checked, copied)
    if options.verify:
        compare_contents(server, run.uuid, plan, checked, folder, copied)
    if not copied.failures:
        mark_complete(server, run.uuid, listed, copied)
    account(outcome, server, plan, copied)
    outcome.status = FAILED if copied.failures else COPIED


def verify_object(server: Server, outcome: Outcome, folder: Path) -> None:
    """Holds a copy made earlier against its source, every point and every byte. Writes nothing."""
    source = outcome.source
    found = server.fields(source.run_uuid)
    plan = plan_copy(source, server.fields(source.uuid), server.options.stage_as_tag, found)
    copied = Copied()
    each_content(plan, folder, copied, partial(read_content, server, source, copied))
    unread = set(copied.failures)
    checked = check_run(server, source.run_uuid, plan, folder, copied, keeps=True)
    if claims_of(checked):
        copied.failures["sys/tags"] = BESIDE
    compare_contents(server, source.run_uuid, plan, checked, folder, copied)
    account(outcome, server, plan, copied)
    outcome.status = VERIFIED if not copied.failures else FAILED if unread == set(copied.failures) else DIFFERS


def preview_object(server: Server, outcome: Outcome, folder: Path) -> None:
    """Tells what a copy of an object would hold, and what it could not. Writes nothing, downloads nothing."""
    source, listed = outcome.source, server.fields(outcome.source.uuid)
    outcome.status = source.state
    found = server.fields(source.run_uuid) if source.run_uuid else {}
    if source.state == INCOMPLETE and is_marked(found, listed):
        outcome.status = UP_TO_DATE
    if outcome.status == UP_TO_DATE and server.options.recopy:
        outcome.status = AGAIN
    keeps = keeps_additions(found, server.options)
    plan, copied = plan_copy(source, listed, server.options.stage_as_tag, found if keeps else {}), Copied()
    copied.kept = list(leftovers(plan, found)) if keeps else []
    account(outcome, server, plan, copied)


@dataclass
class Copied:
    """How far the copy of an object has come, by the path in the run."""

    contents: dict[str, Any] = field(default_factory=dict)
    complaints: dict[str, list[str]] = field(default_factory=dict)  # of the server, which may be about a repetition
    failures: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)  # what people have added, in words
    doubtful: bool = False  # another copy of the same object is under way, or has failed: its uploads may come late


def account(outcome: Outcome, server: Server, plan: Plan, copied: Copied) -> None:
    """Enters into the outcome what arrived, what did not, and what cannot be copied."""
    for path, one in plan.fields.items():
        if path not in copied.failures:
            content = copied.contents.get(path)
            outcome.fields[one.type] += 1
            outcome.bytes[one.type] += one.properties.get("size") or 0
            outcome.files += len(members(content)) if isinstance(content, Path) else one.type == "file"
    outcome.failures += [f"{path}: {reason}" for path, reason in sorted(copied.failures.items())]
    outcome.skipped += plan.skipped + list(dict.fromkeys(server.losses))
    outcome.kept += copied.kept


def keeps_additions(found: Fields, options: Options) -> bool:
    """Tell whether what people have added to a run stays: it was complete once, and --recopy is not given.

    A mark of any time tells that: it stays until another one replaces it.
    """
    return MARK in found and not options.recopy


def begin(server: Server, run: Run, found: Fields, complete: bool) -> None:
    """Claim a run with a request of its own where that is needed: when it is in the trash, or looks complete.

    It is tagged as incomplete before it leaves the trash. A server may not allow that; the next write does it then.
    The table of runs may lag behind by seconds. Until it shows the claim, whoever goes on after a kill would take the
    run for up to date, because its source has not changed.
    """
    first = [remove_strings("sys/tags", sorted(claims_of(found)))] if claims_of(found) else []
    if run.trashed:
        with contextlib.suppress(Refused):
            server.write(run.uuid, first)
        server.restore(run)
    if complete:
        server.write(run.uuid, first)
        wait_for_index(server, found["sys/id"])


def leftovers(plan: Plan, found: Fields) -> dict[str, Operation]:
    """List what a run has and its source does not: what it is, in words → the operation that takes it out.

    Fields that every run has cannot be deleted, but some can be emptied.
    """
    listed: dict[str, Operation] = {}
    for path, one in found.items():
        planned = plan.fields.get(path)
        if one.type == "stringSet" and planned:
            extra = sorted({*strings_of(one)} - {*strings_of(planned)} - claims_of(found))
            listed.update({f"{path}: {text!r}": remove_strings(path, [text]) for text in extra})
        elif planned is None and path != MARK and not path.startswith("sys/"):
            listed[path] = deletion(path)
        elif planned is None and path == DESCRIPTION and one.properties.get("value"):
            listed[path] = {"path": path, "assignString": {"value": ""}}
    return listed


def claims_of(run: Fields) -> set[str]:
    """Return the claims among a run's tags: of copies that are under way, were cut short, or have failed."""
    return {tag for tag in strings_of(run.get("sys/tags")) if UNFINISHED.fullmatch(tag)}


DESCRIPTION = "sys/description"
STAGES = ("staging", "production", "archived")
OPERATIONS_PER_REQUEST = 999  # 1,000, as the client's queue, with the claim that each write adds


def wait_for_index(server: Server, sys_id: Field) -> None:
    """Wait until the table of runs shows this copy's claim."""
    query, column = f'(`sys/id`:string = "{sys_id.properties["value"]}")', "sys/tags"
    read = partial(server.project.fetch_runs_table, query=query, columns=[column], **IN_FULL)

    def look() -> None:
        rows = once_by_the_client("the table of runs", lambda: list(read()), server.project)
        if not any(server.claim in (cell(row, column) or ()) for row in rows):
            raise Away("the table of runs lags behind")

    server.patiently(look)


def check_owner(source: Source, fields: Fields, created: Field | None) -> None:
    """Raises Refused for the fields of a run that is not an object's own copy, begun or complete: it is left alone."""
    owner, copied = fields.get(OWNER), fields.get("old_sys/creation_time")
    kept = [one.path for one in fields.values() if is_leftover(one) or one.properties.get("values")]
    if owner is None and kept:
        raise Refused(source.id, f"a run that holds {kept[0]}, and is no copy of it, has its custom run ID")
    if owner is not None and owner.properties.get("value") != source.id:
        raise Refused(source.id, f"a copy of {owner.properties.get('value')} has its custom run ID")
    if owner and copied and created and milliseconds_of(copied) != milliseconds_of(created):
        raise Refused(source.id, "the copy of another object, which had the same ID before, has its custom run ID")


def milliseconds_of(date: Field) -> int:
    """Gives the value of a datetime field, in milliseconds since 1970."""
    return VALUES["datetime"].of(date.properties)


def is_leftover(one: Field) -> bool:
    """Tells whether a field of a run holds something that a run does not have by itself."""
    return not one.path.startswith("sys/") or (one.path == DESCRIPTION and bool(one.properties.get("value")))


def write_values(
    server: Server, run: str, source: Source, plan: Plan, found: Fields, keeps: bool, copied: Copied
) -> int:
    """Make a run the copy of an object: write all fields that are one value, and take out what does not belong there.

    Return how many fields and tags of the run were taken out that the registry does not have.
    """
    begun = VALUES["string"].assign(OWNER, source.id) + insert_strings("sys/group_tags", [source.model_id])
    others = [remove_strings("sys/tags", sorted(claims_of(found)))] if claims_of(found) else []
    operations = [(OWNER, [*others, *insert_strings("sys/tags", [source.kind]), *begun])]
    taken_out = leftovers(plan, found)
    if keeps:
        stages = {f"sys/tags: {stage!r}" for stage in STAGES} | {target_path("sys/stage")}
        replaced = stages if server.options.stage_as_tag else set()
        taken_out = {words: operation for words, operation in taken_out.items() if words in replaced}
    operations += [(words, [operation]) for words, operation in taken_out.items()]
    operations += [
        (path, [deletion(path)])
        for path, one in plan.fields.items()
        if path in found and found[path].type != one.type and not path.startswith("sys/")
    ]
    for path, one in plan.fields.items():
        if one.type in VALUES:
            with failures_of(path, copied):
                operations.append((path, VALUES[one.type].assign(path, VALUES[one.type].of(one.properties))))
    write_each(server, run, operations, copied)
    return len(taken_out)


def write_each(server: Server, run: str, operations: list[tuple[str, list[Operation]]], copied: Copied) -> None:
    """Write fields, many a request; one by one if that fails, to learn which it is.

    Raise Refused where the first cannot be written, which makes the run a copy.
    """
    for batch in in_batches(operations, OPERATIONS_PER_REQUEST, lambda each: len(each[1])):
        try:
            complaints = server.write(run, [operation for _, of_field in batch for operation in of_field])
        except Refused as refused:
            complaints = [str(refused)]
        for path, of_field in batch if complaints else []:
            with failures_of(path, copied) if path != OWNER else contextlib.nullcontext():
                copied.complaints[path] = server.write(run, of_field) if of_field else []


FIELDS_AT_ONCE = 3  # of an object: while one waits for the server, another uses the line


def each_content(plan: Plan, folder: Path, copied: Copied, work: Callable[[str, Field, Path], None]) -> None:
    """Does some work with each field that has contents, a few at once; notes which of them fail.

    The work gets the path in the run, the field, and its folder for downloads, which is named by a number and what is
    harmless in the path.
    """
    order = list(COPIERS)
    fields = [(path, one) for path, one in plan.fields.items() if one.type in COPIERS]
    fields.sort(key=lambda each: (order.index(each[1].type), -(each[1].properties.get("size") or 0)))

    def work_on_one(number: int, path: str, one: Field) -> None:
        place = folder / f"{number:04d}_{re.sub('[^A-Za-z0-9]+', '_', path)[-40:]}"
        with failures_of(path, copied):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            work(path, one, place)

    numbered = [(number, *each) for number, each in enumerate(fields, 1) if each[0] not in copied.failures]
    pool = ThreadPoolExecutor(FIELDS_AT_ONCE, threading.current_thread().name)
    try:
        for future in [pool.submit(work_on_one, *each) for each in numbered]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # there are some where the server is out of reach, or Ctrl-C was pressed


def copy_content(server: Server, source: Source, run: str, copied: Copied, path: str, one: Field, place: Path) -> None:
    """Copies one field with contents into a run."""
    copier = COPIERS[one.type]
    relayed = copier.relay(server, source.uuid, one, place, run, path)
    if relayed is None:
        content = copier.read(server, source.uuid, one, place)
        relayed = Relayed(content, copier.write(server, run, path, content))
    copied.contents[path], copied.complaints[path] = relayed.content, relayed.complaints


def read_content(server: Server, source: Source, copied: Copied, path: str, one: Field, place: Path) -> None:
    """Reads one field with contents of an object."""
    copied.contents[path] = COPIERS[one.type].read(server, source.uuid, one, place)


@contextlib.contextmanager
def failures_of(path: str, copied: Copied) -> Iterator[None]:
    """Notes an exception as the failure of one field. One field that cannot be copied does not stop the others."""
    try:
        yield
    except Away:  # the server is out of reach, as it would be for each of the other fields
        raise
    except Exception as error:
        log.warning("%s", path, exc_info=error)
        copied.failures[path] = in_words(error)


def in_words(error: Exception) -> str:
    """Tells an exception in a line: its text, and its type where that is not one of ours."""
    text = " ".join(re.sub(r"\x1b\[\d+m|-{4,}", "", str(error)).split())
    return text if isinstance(error, (Refused, Away)) else f"{type(error).__name__}: {text:.300}"


def check_run(server: Server, run: str, plan: Plan, folder: Path, copied: Copied, keeps: bool) -> Fields:
    """Read the run back, and note every field that is not there, is not what was read, or should not be there.

    Return the fields that were found.
    """
    found = server.fields(run)
    check_fields(server, run, plan, found, folder, copied)
    extra = list(leftovers(plan, found))
    if keeps:
        copied.kept = extra
    else:
        copied.failures.update(dict.fromkeys(extra, "it is in the run, but not in the registry"))
    if found.get("sys/trashed", Field("", "", {})).properties.get("value"):
        copied.failures["sys/trashed"] = "the run was moved to the trash meanwhile"
    return found


def check_claims(server: Server, run: str, before: Fields, now: Fields, copied: Copied) -> None:
    """Note a failure unless this copy's claim is on the run, no other one, and the mark that was there before.

    Another mark is that of another copy, and an earlier copy of its request may be on its way. A copy that fails keeps
    its claim: where another copy has removed it, it is added again, because what this copy has uploaded may have come
    after the other copy looked.
    """
    claims, same_mark = claims_of(now), now.get(MARK) == before.get(MARK)
    if claims - {server.claim} or not same_mark or (server.claim not in claims and not copied.failures):
        copied.failures["sys/tags"] = BESIDE
    if server.claim not in claims:
        with contextlib.suppress(Refused):  # as it is where the server refuses every write
            server.write(run, [])


BESIDE = "another migration wrote to this run at the same time: run the script again"


def check_fields(server: Server, run: str, plan: Plan, found: Fields, folder: Path, copied: Copied) -> None:
    """Holds the fields of a plan against those found in a run, and notes which are not there or not what was read."""

    def check(path: str, one: Field, place: Path) -> None:
        copy, content, complaints = found.get(path), copied.contents.get(path), copied.complaints.get(path)
        difference = check_field(server, run, one, copy, content)
        for complaint in complaints or []:
            log.warning("%s: the server complained: %s", path, complaint)
        uploaded = one.type in ("file", "fileSet")  # by requests without a claim
        if (complaints or (copied.doubtful and uploaded)) and copy and not difference and one.type in COPIERS:
            # It may be another copy that looks alike, as a file of the same size does.
            difference = compare_content(server, run, copy, content, place / "complained of")
        if difference:
            copied.failures[path] = "; ".join([difference, *(complaints or [])])

    for path, one in plan.fields.items():
        if one.type in VALUES and path not in copied.failures:
            with failures_of(path, copied):
                check(path, one, folder)
    each_content(plan, folder, copied, check)


def check_field(server: Server, run: str, one: Field, copy: Field | None, content: Any) -> str:
    """Tells in words how a run's field differs from the registry's; "" when it does not."""
    if copy is None:
        return "" if holds_nothing(one, content) else "it is not in the run"
    if copy.type != one.type:
        return f"it is of type {copy.type} in the run"
    if one.type in COPIERS:
        return COPIERS[one.type].check(server, run, copy, content)
    sent, arrived = (VALUES[one.type].of(each.properties) for each in (one, copy))
    if one.type == "stringSet":  # leftovers() tells of strings that the run has besides
        arrived = [text for text in arrived if text in sent]
    return "" if repr(sent) == repr(arrived) else f"the run has {arrived!r:.40}"


def holds_nothing(one: Field, content: Any) -> bool:
    """Tells whether a field is a set or a series without anything in it, which a server need not keep."""
    if one.type == "stringSet":
        return not one.properties.get("values")
    return content == [] or content == Series([], {})


def compare_contents(server: Server, run: str, plan: Plan, found: Fields, folder: Path, copied: Copied) -> None:
    """Reads all contents of a run, and notes the fields that differ in a point or a byte from what is at hand."""

    def compare(path: str, one: Field, place: Path) -> None:
        if path in found:  # or nothing was in it: it would have failed before
            difference = compare_content(server, run, found[path], copied.contents[path], place)
            if difference:
                copied.failures[path] = difference

    each_content(plan, folder / "verify", copied, compare)


def compare_content(server: Server, run: str, copy: Field, content: Any, place: Path) -> str:
    """Reads the contents of a run's field, and tells in words how they differ from those at hand; "" if not."""
    copier = COPIERS[copy.type]
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept, arrived = copier.pieces(content), copier.pieces(copier.read(server, run, copy, place))
    differing = [name for name in {**kept, **arrived} if kept.get(name) != arrived.get(name)]
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"{differing[0]} differs{more}" if differing else ""


def mark_complete(server: Server, run: str, listed: Fields, copied: Copied) -> None:
    """Write the mark of a complete copy: the modification time that the source had before it was read.

    It is written last, in one request with what ends the claim. That request may have been repeated, and the server
    then complains of a claim that is not there: only after a complaint the run tells whether it is complete.
    """
    modified = listed.get("sys/modification_time")
    if modified is None:
        raise Refused("sys/modification_time", "the registry does not tell it, so the copy cannot be marked")
    mark = VALUES["datetime"].assign(MARK, milliseconds_of(modified))
    complaints = server.operate(run, [*mark, remove_strings("sys/tags", [server.claim])])
    if complaints and not is_marked(server.fields(run), listed):
        copied.failures[MARK] = "; ".join(complaints)


def is_marked(copy: Fields, source: Fields) -> bool:
    """Tells whether a run carries the mark of a complete copy of its source as that is now, and no claim."""
    mark, modified = copy.get(MARK), source.get("sys/modification_time")
    if mark is None or modified is None or claims_of(copy):
        return False
    return milliseconds_of(mark) == milliseconds_of(modified)


# ---- The whole migration -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One project that was asked for, and the objects in it that were chosen."""

    project: neptune.Project
    sources: list[Source]


def doubted(job: Job) -> Job:
    """Has a look taken at every run, where a session was killed: the table may lag behind what it did last."""
    say(f"{qualified_name(job.project)}: a session was killed, so each run is looked at")
    sources = [replace(one, state=INCOMPLETE) if one.state == UP_TO_DATE else one for one in job.sources]
    return replace(job, sources=sources)


def tasks_of(sources: Iterable[Source], options: Options) -> Iterator[tuple[Task, Source]]:
    """Tells what is to be done with each object; those of which nothing is to be done are left out."""
    for source in sources:
        complete = source.state == UP_TO_DATE and not options.recopy
        if not complete:
            yield preview_object if options.dry_run else copy_object, source
        elif options.verify:
            yield verify_object, source


Task = Callable[["Server", "Outcome", Path], None]


def migrate(
    jobs: Sequence[Job], options: Options, folder: Path, progress: Progress, stopping: threading.Event
) -> list[Outcome]:
    """Works on all objects of all projects with one pool of workers; tells what became of each.

    After Ctrl-C no object is begun any more; those in flight may finish the requests that they are in.
    """
    work = [(job.project, *one) for job in jobs for one in tasks_of(job.sources, options)]
    work = by_turns(sorted(work, key=lambda one: one[2].size, reverse=True))
    pool = ThreadPoolExecutor(options.workers, "copy")
    planned = {source for _, _, source in work}
    futures: dict[Source, Future[Outcome]] = {}
    relays, image_writers = threading.Semaphore(RELAYS), threading.Semaphore(IMAGE_WRITERS)
    try:
        for number, (project, task, source) in enumerate(work):
            server = Server(project, options, progress, stopping, relays=relays, image_writers=image_writers)
            place = folder / f"{number:05d}_{re.sub('[^A-Za-z0-9-]+', '_', source.id)[:60]}"
            futures[source] = pool.submit(work_on, task, server, source, place)
        for future in futures.values():
            while not future.done():
                wait([future], timeout=0.5)  # Windows cannot interrupt an endless wait
    except KeyboardInterrupt:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in futures.values() if not future.cancelled()], timeout=GRACE)
    ended = {source: future for source, future in futures.items() if future.done() and not future.cancelled()}
    done = {source: future.result() for source, future in ended.items() if not future.exception()}
    return [
        done.get(source) or untouched(job.project, source, NOT_DONE if source in planned else UP_TO_DATE)
        for job in jobs
        for source in job.sources
    ]


def by_turns(work: list[Any]) -> list[Any]:
    """Puts the first, the last, the second, the last but one ... in turn.

    Small objects, which mostly wait for answers, are so copied while large ones use the line, and not after them.
    """
    ends = itertools.chain.from_iterable(zip(work, reversed(work)))
    return list(itertools.islice(ends, len(work)))


def untouched(project: neptune.Project, source: Source, status: str) -> Outcome:
    """Gives the outcome of an object with which nothing has been done, by what the tables tell."""
    url = run_url(project, source.run_id) if source.run_id else ""
    return Outcome(qualified_name(project), source, status, source.run_id, url)


def write_report(file: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes the report: a CSV with one row for each object, sorted by project and ID.

    Spreadsheets take a file for UTF-8 by the mark at its beginning.
    """
    with file.open("w", newline="", encoding="utf-8-sig", errors="backslashreplace") as stream:
        rows = csv.writer(stream)
        rows.writerow(REPORT_COLUMNS)
        for one in sorted(outcomes, key=lambda one: (one.project, one.source.id)):
            notes = [*one.failures, *(f"not copied: {skipped}" for skipped in one.skipped)]
            notes += [f"kept: {kept}" for kept in one.kept]
            if custom_run_id(one.source.id) != one.source.id:
                notes.append(f"its custom run ID is shortened to {custom_run_id(one.source.id)}")
            counts = (sum(one.fields.values()), one.files, one.source.size, f"{one.seconds:.1f}")
            texts = map(no_formula, (one.source.id, one.source.kind, one.run_id, one.url, one.status))
            rows.writerow((*texts, *counts, no_formula("; ".join(notes))))


REPORT_COLUMNS = ("source ID", "kind", "run ID", "URL", "status", "fields", "files", "bytes", "seconds", "error")


def no_formula(text: str) -> str:
    """Puts an apostrophe before a text that a spreadsheet would carry out: anybody may name a field "=1+1"."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def copies_made(project: neptune.Project, chosen: Sequence[str]) -> dict[str, str]:
    """Lists the runs that this script made, by tag, group tag and custom run ID, all three: run ID → source ID."""
    made = {}
    for custom_id, row in read_copies(project).items():
        owner, group_tags = cell(row, OWNER) or "", cell(row, "sys/group_tags") or ()
        grouped = any(owner == tag or owner.startswith(f"{tag}-") for tag in group_tags)
        begun = cell(row, MARK) is not None or is_unfinished(cell(row, "sys/tags"))
        if begun and grouped and custom_id == custom_run_id(owner) and is_chosen(owner, chosen):
            made[cell(row, "sys/id")] = owner
    return made


def still_safe_to_trash(job: Job, outcomes: Sequence[Outcome]) -> list[str]:
    """Return the IDs of the objects that are safe to trash, by what the objects and runs themselves tell."""
    server = Server(job.project)
    safe = {source.id: source for source in safe_to_trash(job, outcomes)}
    changed = set()
    for source in safe.values():
        if not is_marked(server.fields(source.run_uuid), server.fields(source.uuid)):
            changed |= {source.id, source.model_id}
    return [one for one in safe if one not in changed]


def safe_to_trash(job: Job, outcomes: Sequence[Outcome]) -> list[Source]:
    """Lists the objects whose copies were verified in this session, lack nothing, and which have not changed since.

    A model takes its versions along, so it has to wait until every one of them may go. After a dry run: what a copy
    would make safe, if all went well.
    """
    good = {one.source.uuid: one.status for one in outcomes if one.status in GOOD and not one.skipped}
    now = {source.uuid: source for source in list_registry(job.project, Options())}
    safe = {uuid for uuid in good if uuid in now and (good[uuid] in DUE or now[uuid].state == UP_TO_DATE)}
    waiting = {source.model_id for source in now.values() if source.uuid not in safe}
    return [source for source in now.values() if source.uuid in safe and source.id not in waiting]


DUE = (NEW, INCOMPLETE, CHANGED, AGAIN)
GOOD = (COPIED, VERIFIED, *DUE)


# ---- The screen --------------------------------------------------------------------------------------------------


def say(text: str = "") -> None:
    """Prints a line at once, and logs it. That nobody reads it any more, as behind `| head`, stops nothing.

    What would move the cursor or ring a bell, in the name of a field as anywhere, is written as its escape.
    """
    plain = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
    if plain.strip():
        log.info("%s", plain.strip("\n"))
    with contextlib.suppress(OSError):
        print(plain, flush=True)


def in_units(size: float) -> str:
    """Writes bytes for people: 1.2 MB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" or size >= 100 else f"{size:.1f} {units[0]}"


def in_time(seconds: float) -> str:
    """Writes seconds for people: 0:41, 1:02:03."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")


def plural(number: int, word: str) -> str:
    """Writes a number with its word: 1 model, 2 models."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


class Progress:
    """One bar for the whole migration, in bytes and objects; without a terminal a line every now and then."""

    LINE_EVERY = 10  # seconds, where there is no terminal
    NUMBERS = "{desc}{rate_fmt}, {remaining} left{postfix}"

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        """Starts a bar for objects of these sizes, in bytes."""
        self.objects = len(sizes)
        self.done = self.failed = 0
        self.moved = 0.0  # bytes
        self.reasons: list[str] = []
        self.in_flight: list[str] = []
        self.lock = threading.Lock()
        self.began = self.said = time.monotonic()
        self.total = sum(sizes)  # bytes
        self.bar = tqdm(
            total=self.total or 1,
            unit="B",
            unit_scale=True,
            disable=not (sizes and is_terminal(sys.stderr)),
            ascii=" #",
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% |{bar}| " + self.NUMBERS,
        )
        self.show()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, size: float) -> None:
        """Counts bytes; fewer than none, where an object was smaller than the server's account of it."""
        with self.lock:
            self.moved += size
            self.bar.update(min(self.moved, self.total) - self.bar.n)  # past its total, it would no longer be a bar
            if self.bar.disable:
                self.show()

    def finished(self, outcome: Outcome) -> Outcome:
        """Counts an object, and gives its outcome back."""
        with self.lock:
            self.done += 1
            self.failed += outcome.status in (FAILED, DIFFERS)
            if self.done == self.objects:  # the server's account of sizes, of which there may be none, is not exact
                self.moved = self.total
                self.bar.update((self.total or 1) - self.bar.n)
            self.show()
        return outcome

    def waiting(self, reason: str) -> contextlib.AbstractContextManager[None]:
        """Shows that something waits, and for what, as long as it does."""
        return self.showing(self.reasons, reason)

    def working(self, object_id: str) -> contextlib.AbstractContextManager[None]:
        """Shows that an object is in flight, as long as it is."""
        return self.showing(self.in_flight, object_id)

    @contextlib.contextmanager
    def showing(self, texts: list[str], text: str) -> Iterator[None]:
        """Has a text among those that are shown for a while."""
        with self.lock:
            texts.append(text)
            self.show()
        try:
            yield
        finally:
            with self.lock:
                texts.remove(text)
                self.show()

    def show(self) -> None:
        """Brings the bar up to date, or prints a line when the last one is some time ago."""
        moved, total = in_units(min(self.moved, self.total)), in_units(self.total)
        moved = moved.removesuffix(total[-3:]) if total[-3] == " " else moved  # once the unit for both, as it can be
        count = f"{self.done}/{self.objects} objects, {moved}/{total}, "
        notes = [f"{self.failed} failed"] if self.failed else []
        notes += [f"waiting: {reason}" for reason in self.reasons[:1]]
        if self.in_flight and not self.reasons:
            more = len(self.in_flight) - 1
            notes.append(self.in_flight[0] + (f" +{more}" if more else ""))
        if not self.bar.disable:
            self.bar.set_description_str(count, refresh=False)
            self.bar.set_postfix_str(", ".join(notes))
        elif time.monotonic() - self.said > self.LINE_EVERY:
            self.said = time.monotonic()
            numbers = (min(self.moved, self.total), self.total or 1, self.said - self.began)
            form: dict[str, Any] = {"unit": "B", "unit_scale": True, "bar_format": self.NUMBERS}
            say(tqdm.format_meter(*numbers, prefix=count, postfix=", ".join(notes), **form))


def is_terminal(stream: Any) -> bool:
    """Tells whether a person looks at a stream, on a terminal that can rewrite a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say_found(jobs: Sequence[Job], options: Options) -> None:
    """Says what there is in the projects, and how much of it there is to do: in a line for one, in a table for more."""
    tasks = [(task, source) for job in jobs for task, source in tasks_of(job.sources, options)]
    again = "copy again" if options.recopy else "verify"
    work = Counter(again if source.state == UP_TO_DATE else "copy" for _, source in tasks)
    due = ", ".join(f"{number:,} to {verb}" for verb, number in sorted(work.items())) or "0 to copy"
    left = sum(len(job.sources) for job in jobs) - len(tasks)
    states = {source.state for job in jobs for source in job.sources}
    shown = [state for state in (UP_TO_DATE, NEW, INCOMPLETE, CHANGED) if state in {UP_TO_DATE, NEW, *states}]
    rows = [found_in(qualified_name(job.project), job.sources, shown) for job in jobs]
    if len(jobs) == 1:
        name, models, versions, size, *_ = rows[0]
        counts = f"{plural(models, 'model')}, {plural(versions, 'version')}, {size}"
        complete = f"{left:,} up to date, " if left or not (options.recopy or options.verify) else ""
        say(f"\n{name} {counts}; {complete}{due}")
    else:
        rows.append(found_in("together", [source for job in jobs for source in job.sources], shown))
        say_table(["", "models", "versions", "size", *shown], rows)
        say(due)


def found_in(name: str, sources: Sequence[Source], shown: Sequence[str]) -> list[Any]:
    """Gives a row of the table of what was found."""
    kinds, states = Counter(source.kind for source in sources), Counter(source.state for source in sources)
    size = in_units(sum(source.size for source in sources))
    return [f"{name}:", kinds[MODEL], kinds[MODEL_VERSION], size, *(states[state] for state in shown)]


STATUSES = (*DUE, COPIED, VERIFIED, UP_TO_DATE, DIFFERS, FAILED, NOT_DONE)


def say_outcomes(outcomes: Sequence[Outcome], seconds: float, options: Options) -> None:
    """Prints the closing tables: the objects by what became of them, the fields by type, what was not copied."""
    if options.dry_run:
        say_table(["object", "what and why", "fields", "skipped", "size"], map(previewed, outcomes), left=2)
    projects = sorted({one.project for one in outcomes})
    groups = {"models": [one for one in outcomes if one.source.kind == MODEL]}
    groups["model versions"] = [one for one in outcomes if one.source.kind == MODEL_VERSION]
    if len(projects) > 1:
        groups = {name: [one for one in outcomes if one.project == name] for name in projects}
    always: tuple[str, ...] = (NEW, CHANGED) if options.dry_run else () if options.verify else (COPIED, FAILED)
    always += (VERIFIED, DIFFERS) if options.verify else (UP_TO_DATE,)
    shown = [status for status in STATUSES if status in always or any(one.status == status for one in outcomes)]
    rows = [by_status(name, group, shown) for name, group in {**groups, "total": outcomes}.items()]
    say_table(["", *shown, "fields", "skipped", "size"], rows)
    say(f"in {in_time(seconds)}")
    fields: Counter[str] = sum((one.fields for one in outcomes), Counter())
    sizes: Counter[str] = sum((one.bytes for one in outcomes), Counter())
    types = [[kind, count, in_units(sizes[kind]) if sizes[kind] else ""] for kind, count in fields.most_common()]
    if types:
        say_table(["", "fields", "size"], types)
    skipped = [(one.source.id, text) for one in outcomes for text in one.skipped]
    say_each("Not copied, because it cannot be:", skipped, most=len(skipped) if options.dry_run else 20)
    say_additions(outcomes, options)
    differing = [one for one in outcomes if one.status == DIFFERS]
    if differing:
        rows = [[one.source.id, *text.split(": ", 1)] for one in differing for text in one.failures]
        say_table(["differs", "field", "how"], rows, left=3)
        say("To mend a copy, copy it again: --recopy --only ID")


def say_additions(outcomes: Sequence[Outcome], options: Options) -> None:
    """Say what of people's additions to the runs was kept, and how much was taken out."""
    kept = [(one.source.id, f"kept: {words}") for one in outcomes for words in one.kept]
    if kept and options.dry_run:
        say_each("Kept, because people added it to the runs (--recopy takes it out):", kept, most=len(kept))
    elif kept:
        runs = plural(sum(bool(one.kept) for one in outcomes), "run")
        say(f"\nKept {plural(len(kept), 'addition')} of people to {runs}: see the report (--recopy takes them out).")
    taken_out = sum(one.taken_out for one in outcomes)
    if taken_out:
        runs = plural(sum(bool(one.taken_out) for one in outcomes), "run")
        say(f"\nTaken out of {runs}, because the registry does not have them: {taken_out:,} fields/tags.")


def previewed(one: Outcome) -> list[Any]:
    """Gives the row of an object in the table of a dry run."""
    to_do = "copy: " if one.status in DUE else "leave: " if one.status == UP_TO_DATE else ""
    return [one.source.id, to_do + one.status, sum(one.fields.values()), len(one.skipped), in_units(one.source.size)]


def by_status(name: str, outcomes: Sequence[Outcome], shown: Sequence[str]) -> list[Any]:
    """Gives a row of the closing table."""
    numbers = Counter(one.status for one in outcomes)
    fields, skipped = sum(sum(one.fields.values()) for one in outcomes), sum(len(one.skipped) for one in outcomes)
    size = sum(one.source.size for one in outcomes if one.status not in (DIFFERS, FAILED, NOT_DONE))
    return [name, *(numbers[status] for status in shown), fields, skipped, in_units(size)]


def say_table(head: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> None:
    """Prints a table: so many columns to the left, the others to the right. The end of a long name fits 80 columns."""
    lines = [[f"{one:,}" if isinstance(one, int) else one for one in row] for row in (head, *rows)]
    room = max(80 - sum(2 + max(map(len, column)) for column in list(zip(*lines))[1:]), 16)
    if left == 1:
        lines = [[name if len(name) <= room else f"..{name[2 - room :]}", *others] for name, *others in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    say()
    for line in lines:
        cells = [f"{text:{'<' if at < left else '>'}{widths[at]}}" for at, text in enumerate(line)]
        say("  ".join(cells).rstrip())


def say_each(title: str, lines: Sequence[tuple[str, str]], most: int = 20) -> None:
    """Prints a titled list, unless it is empty. Past some lines it refers to the log, where the others are then."""
    if lines and title:
        say(f"\n{title}")
    width = min(max((len(name) for name, _ in lines), default=0), 30)
    for name, text in lines[:most]:
        say(f"  {name:{width}}  {text}")
    for name, text in lines[most:]:
        log.info("%s %s  %s", title, name, text)
    if len(lines) > most:
        say(f"  and {len(lines) - most:,} more: see the log")


# ---- The command line --------------------------------------------------------------------------------------------


class CannotStart(Exception):
    """The migration cannot begin; the text tells in a sentence why, and what to do."""


EXAMPLES = """\
examples:
  python model_to_run.py
      asks for the project and the number of workers
  python model_to_run.py --project acme/credit --workers 8 --dry-run
      asks nothing, writes nothing, and says what would be copied
  python model_to_run.py --project 'acme/*' --only '*-FOREST*' --verify
      copies the chosen objects of all projects, and compares every byte
"""


def parse(arguments: Sequence[str] | None) -> Options:
    """Reads the command line. A wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description="Copy a Neptune project's models and model versions into runs of the project.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("what to copy").add_argument
    add("--project", action="append", metavar="P", help="WORKSPACE/PROJECT, or WORKSPACE/* (repeatable; default: asks)")
    add("--only", action="append", metavar="PATTERN", help="IDs like this, as 'CLS-FOREST*' (repeatable; default: all)")
    add("--query", metavar="NQL", help="models for which this holds, and their versions (default: all)")
    add("--version-query", metavar="NQL", help="model versions for which this holds (default: all)")
    add("--recopy", action="store_true", help="copy again what is up to date")
    add = parser.add_argument_group("how to copy").add_argument
    add("--workers", type=whole_number, metavar="N", help="objects at once (default: asks)")
    add("--stage-as-tag", action="store_true", help="make the stage a tag of the run instead of old_sys/stage")
    add("--verify", action="store_true", help="compare every point and byte, of earlier copies too")
    add("--delete-files", action="store_true", help="delete each object's downloads once its copy is verified")
    add("--dry-run", action="store_true", help="write nothing to the server, say what would be done")
    add = parser.add_argument_group("to clear away (both list what would go, and ask)").add_argument
    add("--undo", action="store_true", help="move the runs that this script made to the trash, and copy nothing")
    add("--trash-models", action="store_true", help="move what was copied or verified just now to the trash")
    add("--yes", action="store_true", help="do not ask before moving something to the trash")
    options = Options(**vars(parser.parse_args(arguments)))
    for other in NOT_WITH_UNDO:
        if options.undo and getattr(options, other):
            parser.error(f"--undo and --{other.replace('_', '-')} cannot go together")
    return options


NOT_WITH_UNDO = ("query", "version_query", "recopy", "stage_as_tag", "verify", "delete_files", "trash_models")


def whole_number(text: str) -> int:
    """Reads a positive whole number. Raises ArgumentTypeError with a sentence for people."""
    if not re.fullmatch(r"[0-9]+", text.strip()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def check_server() -> list[str]:
    """Makes sure that there is a server which accepts the token; returns the projects that the token can see.

    Raises CannotStart with a sentence for each thing that can be wrong. The client itself would try for a minute
    before it says anything.
    """
    address = server_address()
    try:
        requests.get(build_operation_url(address, "/api/backend/swagger.json"), timeout=15, verify=ssl_verify())
        return by_the_client("sign-in", management.get_project_list, SERVER_ERROR)
    except Exception as error:
        log.exception("sign-in")
        raise CannotStart(sign_in_problem(address, error)) from error


def sign_in_problem(address: str, error: Exception) -> str:
    """Says in a sentence why nobody could sign in at an address, and what to do."""
    host = urlsplit(address).hostname or address
    if f".{host}".endswith(".neptune.ai"):
        return (
            f"The hosted Neptune service ({host}) has been shut down: "
            "set NEPTUNE_API_TOKEN to a token of the server that holds your registry now."
        )
    if isinstance(error, requests.exceptions.SSLError):
        return (
            f"The certificate of {host} does not verify: set REQUESTS_CA_BUNDLE to the file of the authority that "
            "signed it, or NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE=TRUE to trust any."
        )
    if isinstance(error, (requests.ConnectionError, requests.Timeout)):
        return f"{address} cannot be reached: check that the server is up, and the network between you."
    if isinstance(error, requests.exceptions.InvalidHeader):
        return NO_TOKEN
    if isinstance(error, Refused) and error.status in (401, 403):
        return f"{host} rejects the API token in NEPTUNE_API_TOKEN: copy it anew from the app."
    if isinstance(error, Refused):
        return f"{host} does not let the script sign in: {error}."
    return f"{address} answers, but not as a Neptune server does ({type(error).__name__}): is it the right address?"


NO_TOKEN = "NEPTUNE_API_TOKEN is not a Neptune API token: copy it anew from the app."


def server_address() -> str:
    """Reads the server's address out of the API token. Raises CannotStart for a token that is missing or malformed."""
    try:
        credentials = Credentials.from_token()
        address = build_operation_url(credentials.api_url_opt or credentials.token_origin_address, "")
        parts = urlsplit(address)
        if not parts.hostname or parts.port == 0:
            raise ValueError(address)
    except NeptuneMissingApiTokenException:
        raise CannotStart("NEPTUNE_API_TOKEN is not set: copy your API token from the app and export it.") from None
    except Exception:
        raise CannotStart(NO_TOKEN) from None
    if address.startswith("http://") and not os.environ.get("OAUTHLIB_INSECURE_TRANSPORT"):
        raise CannotStart(
            f"{address} is plain http, over which the client cannot refresh its token: "
            "export OAUTHLIB_INSECURE_TRANSPORT=1 if you trust the network, or use https."
        )
    return address


def choose_projects(given: Sequence[str] | None, visible: list[str], problems: list[str]) -> list[neptune.Project]:
    """Opens the projects that the flags name or, without flags, those that the person names."""
    if given:
        return open_projects(",".join(given), visible, problems)
    default = os.environ.get("NEPTUNE_PROJECT", "")
    if not sys.stdin.isatty():
        if default:
            return open_projects(default, visible, problems)
        raise CannotStart("No project is given, and there is no terminal to ask on: use --project WORKSPACE/PROJECT.")
    question = "Project as WORKSPACE/PROJECT (several by commas, WORKSPACE/* for all)"
    while True:
        answer = ask(f"{question} [{default}]: " if default else f"{question}: ") or default
        try:
            return open_projects(answer, visible, problems)
        except CannotStart as wrong:
            problems.clear()
            say(str(wrong))


def open_projects(names: str, visible: list[str], problems: list[str]) -> list[neptune.Project]:
    """Opens projects by the names in a list with commas. Raises CannotStart for one that does not exist.

    One of several by a star that cannot be opened does not stop the others.
    """
    opened: dict[str, neptune.Project] = {}
    for name in filter(None, map(str.strip, names.split(","))):
        found = sorted(one for one in visible if one.startswith(name[:-1])) if name.endswith("/*") else [name]
        if not found:
            raise CannotStart(f"Workspace {name[:-2]} has no project that the token can see.")
        for one in found:
            if one in opened:
                continue
            try:
                opened[one] = open_project(one, visible)
            except CannotStart as problem:
                if len(found) == 1:
                    raise
                problems.append(str(problem))
    if not opened:
        raise CannotStart(problems[0] if problems else "A project is needed, as WORKSPACE/PROJECT.")
    return list(opened.values())


def open_project(name: str, visible: list[str]) -> neptune.Project:
    """Opens a project for reading. Raises CannotStart, with near names, for one that is not there."""
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", name):
        raise CannotStart(f"{name!r} is not of the form WORKSPACE/PROJECT.{near(name, visible)}")
    try:
        # With these proxies, which are none, it shares the sign-in of the management functions.
        opening = partial(neptune.init_project, project=name, mode="read-only", proxies={})
        return by_the_client(name, opening, SERVER_ERROR)
    except Exception as error:
        if isinstance(error, ProjectNotFound) or getattr(error, "status", None) in (401, 403):
            raise CannotStart(f"There is no project {name} that the token can see.{near(name, visible)}") from error
        raise CannotStart(f"The project {name} cannot be opened: {in_words(error)}.") from error


def near(name: str, visible: list[str]) -> str:
    """Asks whether one of the projects was meant whose names, with or without the workspace, are like a wrong one."""
    wholes = {one.lower(): one for one in visible if one != name}
    ends = {one.rpartition("/")[2]: wholes[one] for one in wholes}
    close = [wholes[one] for one in difflib.get_close_matches(name.lower(), wholes, cutoff=0.8)]
    close += [ends[one] for one in difflib.get_close_matches(name.lower().rpartition("/")[2], ends)]
    return f" Did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""


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


def agrees(question: str, options: Options) -> bool:
    """Asks the person for a yes, unless it was given beforehand."""
    try:
        return options.yes or ask(f"{question} [y/N]: ").lower() in ("y", "yes")
    except CannotStart:  # the end of the input is no yes
        return False


def hide_token(record: logging.LogRecord) -> bool:
    """Takes the API token out of what is logged, tracebacks included: a filter for log handlers."""
    token = os.environ.get("NEPTUNE_API_TOKEN", "").strip()
    with contextlib.suppress(Exception):  # whoever logs a line that cannot be put together need not suffer for it
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_text = (record.exc_text or "").replace(token or "***", "***")
        record.msg, record.args = record.getMessage().replace(token or "***", "***"), None
    return True


def hold_log() -> logging.handlers.MemoryHandler:
    """Takes all loggers off the screen, and holds what they say until the name of the log file is known."""
    # The client's loggers print to standard output and do not propagate (neptune.internal.utils.logger).
    for name in ("neptune", "neptune_no_prefix"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a disk that is full has to be told once, not for each line of the log
    threading.excepthook = lambda problem: log.error("%s", problem.thread, exc_info=problem.exc_value)
    held = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
    logging.getLogger().addHandler(held)
    return held


def open_log(file: str, held: logging.handlers.MemoryHandler) -> None:
    """Starts the log file, beginning with what was held."""
    logging.getLogger().removeHandler(held)
    start_log(file)
    for handler in logging.getLogger().handlers:
        handler.addFilter(hide_token)
        held.setTarget(handler)
    held.close()


def lock_file(file: IO[str]) -> None:
    """Locks a file for this process. Raises OSError when another one has locked it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)  # from where a byte is locked
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked(project: neptune.Project) -> Iterator[bool]:
    """Keeps a second migration of a project out of this directory; tells whether an earlier one was killed in it.

    The system takes the lock from a process that ends, however it ends. Raises CannotStart when another one has it.
    """
    name = re.sub(r"[^\w.-]", lambda other: f"%{ord(other[0]):02X}", qualified_name(project))  # no two are the same
    file = Path(f"models_migration_{name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(file.open("a+"))
        except OSError as error:
            raise CannotStart(f"This directory cannot be written to ({error.strerror}): go to another one.") from None
        try:
            lock_file(opened)
            if not os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                raise OSError("the one that had it has removed it")
        except OSError:
            raise CannotStart(
                f"Another migration of {qualified_name(project)} is running in this directory: let it end first."
            ) from None
        killed = os.fstat(opened.fileno()).st_size > 0  # what follows takes it away again
        with contextlib.suppress(OSError):  # a disk that is full
            os.write(opened.fileno(), b"running")
        try:
            yield killed
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove an open file: there it stays, empty
                os.truncate(opened.fileno(), 0)
                file.unlink()


def names_of(projects: Sequence[neptune.Project]) -> str:
    """Makes the part of file names that tells the projects: WORKSPACE_PROJECT of the first, and how many more."""
    first = re.sub(r"[^\w.-]", "_", qualified_name(projects[0]))
    return first if len(projects) == 1 else f"{first}_and_{len(projects) - 1}_more"


def new_folder() -> Path:
    """Makes the folder for this session's downloads, which only its owner can read."""
    while True:
        with contextlib.suppress(FileExistsError):
            folder = Path(f"tmp_{datetime.now():%Y%m%d%H%M%S}")
            folder.mkdir(mode=0o700)
            return folder
        time.sleep(0.1)


def find_jobs(projects: Sequence[neptune.Project], options: Options, problems: list[str]) -> list[Job]:
    """Lists the objects of all projects, and adds to the problems which projects could not be listed.

    Raises CannotStart for a query that the server does not understand, and when no project can be listed.
    """
    jobs = []
    for project in projects:
        with apart(project, problems):
            jobs.append(Job(project, list_registry(project, options)))
    if not jobs:
        raise CannotStart(problems[0])
    found = [source.id for job in jobs for source in job.sources]
    asked = [("--query", options.query), ("--version-query", options.version_query)]
    asked = [*(("--only", pattern) for pattern in options.only or ()), *asked]
    given = ", ".join(f"{flag} {text!r}" for flag, text in asked if text)
    if given and not found:
        raise CannotStart(f"No model and no version is as was asked for: check {given}.")
    for pattern in options.only or ():
        if not any(is_chosen(one, [pattern]) for one in found):
            say(f"No model and no version is like --only {pattern!r}.")
    return jobs


@contextlib.contextmanager
def apart(project: neptune.Project, problems: list[str]) -> Iterator[None]:
    """Adds to the problems what goes wrong with a project. It does not stop the others."""
    try:
        yield
    except CannotStart:
        raise
    except Exception as error:
        log.exception("%s", qualified_name(project))
        problems.append(f"{qualified_name(project)}: {in_words(error)}")


def list_registry(project: neptune.Project, options: Options) -> list[Source]:
    """Lists a project's objects with patience. Raises CannotStart for a query that the server does not understand."""
    try:
        return by_the_client("the tables", partial(read_registry, project, options), project=project)
    except NeptuneInvalidQueryException as error:
        flag = "--version-query" if options.version_query and options.version_query in str(error) else "--query"
        query = bracketed(options.version_query if flag == "--version-query" else options.query)
        raise CannotStart(f"The server does not understand {flag} {query}: {reason_of(error)}.") from error


def reason_of(error: NeptuneInvalidQueryException) -> str:
    """Finds what the server said of a query. The client's own text only repeats the query, and the title says less."""
    answer: Any = getattr(error.__context__, "response", None)
    with contextlib.suppress(ValueError, AttributeError):
        said = answer.json()
        told = [str(said[key]) for key in ("detail", "message", "title") if said.get(key)]
        return next((text for text in told if text != SYNTAX_ERROR), SYNTAX_ERROR).strip().splitlines()[0].rstrip(".")
    return SYNTAX_ERROR


SYNTAX_ERROR = "Syntax error"  # by this title the client tells a bad query (neptune.api.searching_entries)


def check_disk(jobs: Sequence[Job], options: Options) -> None:
    """Holds the free disk against the bytes to download. Raises CannotStart when they do not fit."""
    sizes = sorted((source.size for job in jobs for _, source in tasks_of(job.sources, options)), reverse=True)
    at_once = sizes[: options.workers or 32] if options.delete_files else sizes
    needed, free = sum(at_once) * (2 if options.verify else 1), shutil.disk_usage(".").free
    if options.dry_run:
        say(f"Disk: {in_units(needed)} to download, {in_units(free)} free here")
    elif needed > free:
        raise CannotStart(
            f"There are {in_units(needed)} to download, and the disk here has {in_units(free)} left: run the script "
            "where there is more room, or with --delete-files."
        )


def undo(projects: Sequence[neptune.Project], options: Options, problems: list[str]) -> int:
    """Moves the runs that this script made to the trash, after asking; returns the exit status.

    Those of models and versions that are not there any more are left alone: they are all that is left of them.
    """
    for project in projects:
        with apart(project, problems):
            find = partial(copies_made, project, options.only or [])
            made = by_the_client("the runs", find, project=project)
            runs = with_source(project, made)
            say(f"\n{qualified_name(project)}: {plural(len(runs), 'run')} made by this script, and what each copies")
            if len(runs) < len(made):
                say(f"({len(made) - len(runs):,} more stay: what they are copies of is in the trash or gone)")
            problems += move_to_trash(project, runs, partial(still_with_source, project, runs), options)
    say_each("Failed (run again to retry):", [("", problem) for problem in problems], most=len(problems))
    return int(bool(problems))


def with_source(project: neptune.Project, made: dict[str, str]) -> dict[str, str]:
    """Gives those of the runs whose sources are there, outside of the trash."""
    there = {source.run_id for source in list_registry(project, Options())}
    return {run: made[run] for run in sorted(made, key=made.__getitem__) if run in there}


def still_with_source(project: neptune.Project, runs: dict[str, str]) -> list[str]:
    """Gives those of the runs whose sources are not in the trash, by what these themselves tell."""
    server, there = Server(project), [one for one in list_registry(project, Options()) if one.run_id in runs]
    return [one.run_id for one in there if not server.fields(one.uuid)["sys/trashed"].properties.get("value")]


def trash_models(jobs: Sequence[Job], outcomes: Sequence[Outcome], options: Options, problems: list[str]) -> None:
    """Moves to the trash, after asking, what was copied and verified just now."""
    for job in jobs:
        with apart(job.project, problems):
            safe = {source.id: source.kind for source in safe_to_trash(job, outcomes)}
            kept = f"{len(job.sources) - len(safe):,} cannot"
            say(f"\n{qualified_name(job.project)}: {plural(len(safe), 'object')} can go to the trash, {kept}")
            say("(what was copied just now, or compared by --verify, in full, and has not changed")
            say("since; a model only with all of its versions)")
            problems += move_to_trash(job.project, safe, partial(still_safe_to_trash, job, outcomes), options)


def move_to_trash(
    project: neptune.Project, found: dict[str, str], still: Callable[[], Iterable[str]], options: Options
) -> list[str]:
    """Lists objects, ID → what it is, and moves them to the trash after asking; returns in words which could not be.

    Much may have happened while the question stood there: those that are not among the still wanted are left alone.
    """
    say_each("", list(found.items()), most=len(found))
    if not found or options.dry_run or not agrees(f"Move {len(found):,} to the trash?", options):
        say("Nothing was moved to the trash.")
        return []
    wanted = set(found) & set(still())
    failures = Server(project).trash(sorted(wanted))
    log.info("To the trash: %s", ", ".join(sorted(wanted)))
    say(f"Moved {len(wanted) - len(failures):,} to the trash.")
    return failures + [f"{one}: it has changed meanwhile" for one in found if one not in wanted]


@dataclass(frozen=True)
class Session:
    """What one start of the script has of its own."""

    name: str  # how the names of its log and its report begin
    folder: Path  # for its downloads
    problems: list[str]  # of whole projects, and others that are no object's
    killed: list[neptune.Project]  # those in which an earlier session here was killed


def copy_all(projects: Sequence[neptune.Project], options: Options, session: Session) -> int:
    """Copies the registries of projects, and says before, meanwhile and afterwards what there is to know."""
    name, folder, problems = session.name, session.folder, session.problems
    listed = find_jobs(projects, options, problems)
    jobs = [doubted(job) if job.project in session.killed else job for job in listed]
    say_found(jobs, options)
    check_disk(listed, options)  # by the tables: of what is doubted, hardly anything will have to be downloaded
    say(f"Log: {name}.log")
    began, stopping = time.monotonic(), threading.Event()
    for job in jobs:
        keep_connections(job.project, FIELDS_AT_ONCE * (options.workers or 32) + RELAYS)
    with Progress([source.size for job in jobs for _, source in tasks_of(job.sources, options)]) as progress:
        outcomes = migrate(jobs, options, folder, progress, stopping)
    try:
        write_report(Path(f"{name}_report.csv"), outcomes)
    except OSError as error:
        problems.append(f"the report could not be written: {in_words(error)}")
    say_outcomes(outcomes, time.monotonic() - began, options)
    if options.dry_run:
        say_estimate(outcomes, options)
    if options.trash_models and not stopping.is_set():
        trash_models(jobs, outcomes, options, problems)
    if not stopping.is_set():
        problems += [f"{one.source.id} was not finished: see the log" for one in outcomes if one.status == NOT_DONE]
    failed = [(one.source.id, text) for one in outcomes if one.status == FAILED for text in one.failures]
    failed += [("", problem) for problem in problems]
    say_each("Failed (run again to retry):", failed, most=len(failed))
    if stopping.is_set():
        say(f"\n{INTERRUPTION}" + (" With --recopy it begins anew." if options.recopy else ""))
    say(f"\nReport: {name}_report.csv")
    say_downloads(folder)
    return INTERRUPTED if stopping.is_set() else int(bool(failed) or any(one.failures for one in outcomes))


ASSUMED_RATE = 10_000_000  # bytes a second
REQUESTS = (8, 4)  # about so many a copied object, and as many more for each of its fields that have contents


def say_estimate(outcomes: Sequence[Outcome], options: Options) -> None:
    """Says how long a copy may take: a dry run has made one request an object, and tells how long one takes."""
    due = [one for one in outcomes if one.status in DUE]
    number = REQUESTS[0] * len(due) + REQUESTS[1] * sum(one.fields[kind] for one in due for kind in COPIERS)
    size = sum(one.source.size for one in due) * (2 if options.verify else 1)  # down; up goes beside it
    at_once = min(options.workers or min(32, (os.cpu_count() or 1) + 4), len(due))
    if due:
        seconds = number * sum(one.seconds for one in due) / len(due) / at_once + size / ASSUMED_RATE
        say(f"\nEstimate: {in_time(seconds)} for a copy, if some {number:,} requests are as quick as just now,")
        say(f"and a line of {in_units(ASSUMED_RATE)}/s carries {in_units(size)}.")


INTERRUPTED, INTERRUPTION = 130, "Interrupted: run the script again to go on from here."


def say_downloads(folder: Path) -> None:
    """Says where the downloads are, if there are any; removes empty folders."""
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    if sizes:
        say(f"Downloads: {folder} ({in_units(sum(sizes))}; delete it when the runs are checked)")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def run_session(options: Options) -> int:
    """Signs in, asks what the flags leave open, and does what was asked; returns the exit status."""
    held = hold_log()
    if (options.undo or options.trash_models) and not (options.yes or options.dry_run or sys.stdin.isatty()):
        raise CannotStart("There is no terminal to ask on: add --yes to move things to the trash without asking.")
    visible = check_server()
    problems: list[str] = []
    projects = choose_projects(options.project, visible, problems)
    if not options.undo:
        options = replace(options, workers=choose_workers(options.workers))
    with contextlib.ExitStack() as locks:
        killed = [project for project in projects if locks.enter_context(locked(project))]
        folder = new_folder()
        name = f"models_migration_{names_of(projects)}_{folder.name.rpartition('_')[2]}"
        session = Session(name, folder, problems, killed)
        open_log(f"{name}.log", held)
        log.info(
            "neptune %s, Python %s, %s: %s", neptune.__version__, sys.version.split()[0], server_address(), options
        )
        try:
            if not options.undo:
                return copy_all(projects, options, session)
            say(f"\nLog: {name}.log")
            return undo(projects, options, problems)
        except CannotStart:
            for handler in (handlers := logging.getLogger().handlers).copy():
                handlers.remove(handler)
                handler.close()
            handlers.append(logging.NullHandler())
            Path(f"{name}.log").unlink(missing_ok=True)
            raise
        finally:
            with contextlib.suppress(OSError):  # raised where there is something in it
                folder.rmdir()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the script; returns the exit status: 0 all is well, 1 something failed, 2 no start, 130 interrupted."""
    options = parse(arguments)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # what stands in for a stream need not have an encoding
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return run_session(options)
    except CannotStart as problem:
        print(f"model_to_run: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{INTERRUPTION}", file=sys.stderr)
        return INTERRUPTED


def leave(status: int) -> None:
    """Ends the program at once.

    After Ctrl-C, a request that hangs would keep its thread, and so us, for minutes. At any other time it takes the
    client's libraries most of a second to be taken down.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a screen that is gone
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())

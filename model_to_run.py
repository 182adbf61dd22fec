#!/usr/bin/env python3
# Copyright 2026 The model_to_run authors. Licensed under the Apache License, Version 2.0: see LICENSE.
#
# /// script
# requires-python = ">=3.9"
# dependencies = [
#     "neptune>=1.10,<2",
#     "tqdm",
# ]
# ///
"""Copy the model registry of a Neptune 2.x project into runs of the same project.

Every model and every model version becomes one run: with the same fields, under the same paths, with the same bytes,
steps and milliseconds. The run has the object's ID as its custom run ID, the tag "model" or "model_version", and the
model's ID as a group tag. The script writes the object's own "sys/" fields (ID, owner, times, stage) under "old_sys/".

The script reads every run back, and compares all values, the number of points and the size of each file; with --verify
it compares every point and byte. Last, it writes the mark "old_sys/verified": the source's modification time. If the
mark equals the source's current time, the next start skips the object. If not, it copies the object again. During a
copy, and after a failed one, the run has a tag "incomplete copy ...". So run the script again to resume, to retry or to
catch up.

Sections, in order: what you may want to edit, the objects to copy, one object, the types of fields, all objects, the
server, the screen, the command line.

examples:
  python model_to_run.py
      asks for the project and the number of workers
  python model_to_run.py --project acme/credit --workers 8 --dry-run
      asks nothing, writes nothing, and says what would be copied
  python model_to_run.py --project "acme/*" --only "*-FOREST*" --verify
      copies the chosen objects of all projects, and compares every byte
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Because the imports take a second, and Ctrl-C would print a traceback.
    def end_at_once(*_: object) -> None:
        os.write(2, b"\nInterrupted.\n")
        os._exit(130)

    signal.signal(signal.SIGINT, end_at_once)

import argparse
import base64
import contextlib
import csv
import ctypes
import dataclasses
import difflib
import fnmatch
import functools
import hashlib
import itertools
import json
import logging
import logging.handlers
import re
import shutil
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Callable, NamedTuple, NoReturn, Protocol
from urllib.parse import quote, urlsplit
from uuid import uuid4

# The client imports jsonschema. Compiling its grammar of IRIs takes longer than all other imports together.
# No description of a Neptune server has an IRI, and jsonschema works without the grammar.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

NO_CLIENT = ""  # why the client cannot be imported; --help needs no client
try:
    import neptune
    import requests
    from bravado.exception import HTTPError
    from neptune.common import exceptions as client_errors
    from neptune.common.backends import utils as client_utils
    from neptune.common.backends.api_model import MultipartConfig
    from neptune.internal.backends.hosted_client import BACKEND_SWAGGER_PATH, get_client_config
    from neptune.internal.backends.hosted_neptune_backend import HostedNeptuneBackend
    from neptune.internal.backends.utils import build_operation_url, ssl_verify
    from neptune.internal.credentials import Credentials
    from oauthlib.oauth2 import OAuth2Error  # type: ignore[import-untyped]
    from requests.adapters import HTTPAdapter
    from tqdm import tqdm

    if tuple(map(int, re.findall(r"\d+", neptune.__version__)[:2])) < (1, 10):
        raise ImportError(f"neptune {neptune.__version__} is too old")
except (ImportError, ValueError) as problem:  # ValueError: the client reads numbers from environment variables
    advice = 'run pip install "neptune>=1.10,<2" tqdm, and check the environment variables NEPTUNE_...'
    NO_CLIENT = f"The Neptune client cannot be used ({problem}): {advice}"

if sys.modules["rfc3987_syntax"] is None:
    del sys.modules["rfc3987_syntax"]

# ---- Make it yours -----------------------------------------------------------------------------------------------
#
# Edit these five functions. All code below calls them, also for the flags --only, --exclude and --stage-as-tag. So an
# edit applies to the copy, to --verify and to every later start. Write above the last `return` of a function: the flags
# still act then. A run that is already complete changes only with --recopy. After an edit of custom_run_id(), or of the
# first tag, the script no longer finds the earlier runs, also for --undo: so start with --undo before such an edit.


def start_log(filename: str) -> None:
    """Send the script's log, and the client's, to a file. Change this call to log elsewhere or in more detail.

    For example `level=logging.DEBUG` logs more, and `filename=f"/var/log/{filename}"` logs elsewhere. Attach handlers
    of your own to the root logger: only there the script hides the API token.
    """
    logging.basicConfig(
        filename=filename,
        encoding="utf-8",
        level=logging.INFO,
        format="%(asctime)s %(levelname)-8s %(threadName)s %(message)s",
    )


def is_wanted(source: Source, options: Options) -> bool:
    """Tell whether to copy a model or model version. Change this to copy fewer of them.

    For example `if source.kind == MODEL: return False` leaves the models out.
    """
    return not options.only or any(fnmatch.fnmatchcase(source.id, pattern) for pattern in options.only)


def path_in_run(path: str, options: Options) -> str | None:
    """Return the path that a field has in the run, or None to leave it out. The report lists what is left out.

    Every "sys/" field but name, description and tags moves to "old_sys/": a run has its own "sys/". For example
    `if path.startswith("monitoring/"): return None` leaves a namespace out, and
    `if path.startswith("training/"): return path.replace("training/", "train/", 1)` renames one.
    """
    if path.startswith("sys/"):
        return path if path in SAME_PATH else f"old_{path}"
    if any(fnmatch.fnmatchcase(path, pattern) for pattern in options.exclude or ()):
        return None
    return path


def custom_run_id(object_id: str) -> str:
    """Return the custom run ID for an object: at most 36 characters, different for each object.

    The client drops a longer ID without an error, so short() shortens it, always in the same way. For example
    `return short(f"registry-{object_id}")` adds a prefix.
    """
    return short(object_id)


def tags_of(source: Source, fields: Fields, options: Options) -> tuple[list[str | None], list[str | None]]:
    """Return the tags and the group tags that a run gets beside the object's own.

    The script finds its runs by the first tag, so all models must share one, and all versions. --undo finds them by the
    group tag of the model's ID, too. A tag None is ignored.

    For example `tags.append(value_of(fields, "dataset"))` adds a field's text.
    """
    stage = value_of(fields, "sys/stage") if options.stage_as_tag else None
    tags = [source.kind, stage if stage in STAGES else None]
    return tags, [source.model_id]


OUTAGE = 15 * 60  # seconds that a server may be out of reach before the migration ends
SERVER_ERROR = 60  # seconds to retry after "500 Internal Server Error" before the operation fails
GRACE = 5  # seconds to wait for open requests after Ctrl-C

log = logging.getLogger("model_to_run")


# ---- The objects to copy ---------------------------------------------------------------------------------------

MODEL, MODEL_VERSION = "model", "model_version"
# The state of an object's copy, as the tables tell it. A dry run reports it.
NEW, INCOMPLETE, CHANGED, UP_TO_DATE = "new", "incomplete", "changed", "up to date"
UNSURE = "to check"  # up to date by the table, which may lag behind
AGAIN = "again"  # in a dry run: --recopy would copy it, although up to date
# The status of an object at the end.
COPIED, VERIFIED, DIFFERS, FAILED, NOT_DONE = "copied", "verified", "differs", "failed", "not done"
DUE = (NEW, INCOMPLETE, CHANGED, AGAIN)  # what a copy would make complete
WHOLE = (*DUE, COPIED, VERIFIED)  # only the fields and bytes of these are counted: what arrived or, dry, would
STATUSES = (*WHOLE, UP_TO_DATE, DIFFERS, FAILED, NOT_DONE)  # in the order of the closing table

DESCRIPTION, TAGS, GROUP_TAGS = "sys/description", "sys/tags", "sys/group_tags"
SAME_PATH = ("sys/name", DESCRIPTION, TAGS, GROUP_TAGS)
CUSTOM_ID, LONGEST_CUSTOM_RUN_ID = "sys/custom_run_id", 36  # characters: neptune.internal.utils.limits
MARK, OWNER, CREATED = "old_sys/verified", "old_sys/id", "old_sys/creation_time"
DATES = (MARK, CREATED, "sys/creation_time", "sys/modification_time")
# Path → the types that value_of() accepts there. People may write other types into a run, and odd servers list others.
EXPECTED_TYPES = {OWNER: ("string",), "sys/size": ("float", "int"), **dict.fromkeys(DATES, ("datetime",))}
CLAIM = re.compile("incomplete copy [0-9a-f]{8}")  # the tag of a run that is being copied: see "The protocol" below
STAGES = ("staging", "production", "archived")
NOT_TRASHED = "`sys/trashed`:bool = false"


@dataclass(frozen=True)
class Source:
    """A model or a model version, and its run, as the project's tables list them."""

    id: str
    kind: str = MODEL
    uuid: str = ""
    model_id: str = ""
    size: int = 0  # bytes
    state: str = NEW
    run_id: str = ""
    run_uuid: str = ""
    arrived: frozenset[tuple[str, str]] = frozenset()  # path and type of what its run had when it was compared


@dataclass(frozen=True)
class Field:
    """A field of an object as the server lists it: its path, its type and the properties which that type has."""

    path: str
    type: str
    properties: dict[str, Any]


Fields = dict[str, Field]  # those of one object, by their paths


def value_of(fields: Fields, path: str) -> Any:
    """Return a field's value (datetimes in ms since 1970), or None if it is missing or of another type."""
    listed = fields.get(path)
    if not listed or listed.type not in EXPECTED_TYPES.get(path, VALUES):
        return None
    return VALUES[listed.type].read(listed.properties)


def short(text: str, most: int = LONGEST_CUSTOM_RUN_ID) -> str:
    """Shorten a text to at most `most` bytes, always in the same way: its beginning, and a part of its hash."""
    encoded = text.encode()
    if len(encoded) <= most:
        return text
    return f"{encoded[: most - 11].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:10]}"


def read_registry(server: Server, options: Options) -> list[Source]:
    """List the models and versions that match the queries, before is_wanted(). Read three tables in all."""
    copies = read_copies(server, options)
    models = read_table(server, "model", "--query", options.query)
    versions = read_table(server, "modelVersion", "--version-query", options.version_query, NOT_TRASHED)
    listed = [source_of(MODEL, uuid, row, copies) for uuid, row in models.items()]
    listed += [source_of(MODEL_VERSION, uuid, row, copies) for uuid, row in versions.items()]
    # Leave a model out if it is in the trash, and a version if its model is. With --query, the table of models lacks
    # those that do not match: leave their versions out, too.
    is_out = {value_of(row, "sys/id"): bool(value_of(row, "sys/trashed")) for row in models.values()}
    sources = [source for source in listed if not is_out.get(source.model_id, bool(options.query))]
    for custom_id, count in Counter(custom_run_id(source.id) for source in sources).items():
        if count > 1 or not isinstance(custom_id, str) or not 0 < len(custom_id) <= LONGEST_CUSTOM_RUN_ID:
            rule = "it must return 1 to 36 characters, unique for each object"
            raise CannotStart(f"custom_run_id() gives {custom_id!r}: {rule}.")
    return sources


def read_table(server: Server, kind: str, flag: str, query: str | None, *conditions: str) -> dict[str, Fields]:
    """Read a table with the query of a flag. Raise CannotStart if the server cannot parse the query, or ignores it."""
    columns = ["sys/id", "sys/creation_time", "sys/modification_time", "sys/size", "sys/trashed", "sys/model_id"]
    try:
        # Ask first for an ID that no object has, because some compatible servers ignore every query.
        if query and server.table(kind, columns, query, '`sys/id`:string = "no object has this ID"'):
            raise CannotStart(f"This server ignores queries, so {flag} would choose everything: use --only instead.")
        return server.table(kind, columns, query, *conditions)
    except Refused as error:
        # The client, too, detects a bad query by this title (neptune.api.searching_entries).
        if not query or error.answer.get("title") != "Syntax error":
            raise
        reason = " ".join(str(error.answer.get("detail") or "it gives no reason").split()).rstrip(".")
        raise CannotStart(f"The server does not understand {flag} ({query:.300}): {reason:.300}.") from error


def source_of(kind: str, uuid: str, row: Fields, copies: dict[str, tuple[str, Fields]]) -> Source:
    """Turn a row of the models or model versions table into a Source. Find its run among the copies."""
    object_id = value_of(row, "sys/id")
    model_id = object_id if kind == MODEL else value_of(row, "sys/model_id") or object_id.rpartition("-")[0]
    source = Source(object_id, kind, uuid, model_id, int(value_of(row, "sys/size") or 0))
    run_uuid, run_fields = copies.get(custom_run_id(object_id), ("", {}))
    try:
        if value_of(run_fields, OWNER) != object_id or not is_same_object(run_fields, row):
            return source
        state = state_of(run_fields, row)
    except ValueError:  # a date that cannot be read: the copy will fail by its name, without the other objects
        state = CHANGED
    return replace(source, state=state, run_id=value_of(run_fields, "sys/id"), run_uuid=run_uuid)


def read_copies(server: Server, options: Options) -> dict[str, tuple[str, Fields]]:
    """List the runs that have the first tag of a copy: custom run ID → internal ID and row."""
    try:
        pairs = [tags_of(Source("", kind), {}, options) for kind in (MODEL, MODEL_VERSION)]
        if not all(isinstance(strings, list) for pair in pairs for strings in pair):
            raise TypeError("not lists")
        first_tags = [next(filter(None, tags)) for tags, _ in pairs]
    except Exception as error:
        rule = "two lists, and a tag even for an object without fields: take these by value_of()"
        raise CannotStart(f"tags_of() must return {rule} ({error!r}).") from error
    query = " OR ".join(f"(`sys/tags`:stringSet CONTAINS {quoted(tag)})" for tag in dict.fromkeys(first_tags))
    columns = ["sys/id", CUSTOM_ID, "sys/trashed", TAGS, GROUP_TAGS, OWNER, CREATED, MARK]
    rows = server.table("run", columns, query, NOT_TRASHED)
    return {value_of(row, CUSTOM_ID) or "": (uuid, row) for uuid, row in rows.items()}


def state_of(run_fields: Fields, source_fields: Fields) -> str:
    """Return the state of a copy from the fields of a run and of its source. A run in the trash does not count."""
    if not run_fields or value_of(run_fields, "sys/trashed"):
        return NEW
    mark = value_of(run_fields, MARK)
    if mark is None or claims_of(run_fields):
        return INCOMPLETE
    return UP_TO_DATE if mark == value_of(source_fields, "sys/modification_time") else CHANGED


def is_same_object(run_fields: Fields, source_fields: Fields) -> bool:
    """Tell whether a run copies this object, not an earlier one with the same ID."""
    copied, created = value_of(run_fields, CREATED), value_of(source_fields, "sys/creation_time")
    mark = value_of(run_fields, MARK)
    if None in (copied, created):  # as after somebody deleted the field: an earlier object was not modified since
        return None in (mark, created) or mark >= created
    # A run without a mark may be another script's, whose creation time may lack its milliseconds.
    return abs(copied - created) < (1000 if mark is None else 1)


def claims_of(run_fields: Fields) -> set[str]:
    """Return the claims among a run's tags: those of running, interrupted or failed copies."""
    return {tag for tag in value_of(run_fields, TAGS) or () if CLAIM.fullmatch(tag)}


# ---- One object --------------------------------------------------------------------------------------------------
#
# The protocol. A run is complete when it has the mark, which is the modification time of its source, and no claim. A
# claim is a tag that is unique to one copy of an object. tests/script/test_protocol.py searches all interleavings of
# killed writers and late requests for a run that is complete by this rule but wrong.
#   1. Every write request also adds the claim. Uploads cannot, so the copy writes before it uploads.
#   2. The copy reads the run before the source. Its first write removes the claims that it found.
#   3. After a repeated write, the copy takes a new claim, because the first request may still arrive.
#   4. The copy reads the run back. It must find its own claim only, the earlier mark, and all content.
#   5. One request sets the mark and removes the claim. The copy reads nothing after that, unless the server complains.
#   6. A failed copy keeps its claim, and adds it again if another copy removed it.
#   7. Before a copy rewrites a complete run, the table of runs must show the claim. The next mark replaces a mark.

MOVING = ("sys/ping_time", "sys/running_time", "sys/monitoring_time")  # the server changes these by itself
Words = str  # what a run has, as people read it: the path of a field, or a string of a set, such as "sys/tags: 'a'"
BYTES_PER_REQUEST = 1_000_000
# A shorter operation counts as this much. So a request has at most 1,000, with the claim, as in the client's queue.
BYTES_PER_OPERATION = BYTES_PER_REQUEST // 999
# List of an Outcome, as the log and the report name it → its title on the screen. A dry run puts "would be" before it.
NOTES = {"skipped": "skipped", "left_out": "left out", "kept": "kept in the runs", "removed": "removed from the runs"}


@dataclass
class Outcome:
    """The result for one object: a row of the report. The lists are for people, in words."""

    server: Server
    source: Source
    status: str = NOT_DONE
    fields: Counter[str] = field(default_factory=Counter)  # type → number of fields
    bytes: Counter[str] = field(default_factory=Counter)  # type → bytes, of files and file sets
    files: int = 0
    skipped: list[str] = field(default_factory=list)  # what cannot be copied
    left_out: list[str] = field(default_factory=list)  # by --exclude, or by an edit of this file
    kept: list[str] = field(default_factory=list)  # what the run has, and the registry does not
    removed: list[str] = field(default_factory=list)  # what the run had, and the registry does not
    failed: dict[str, str] = field(default_factory=dict)  # path in the run, "" for the whole object → why
    retryable: bool = False  # a retry may fix some of these
    differs: bool = False  # some of these are differences, not errors
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        return [f"{path}: {reason}" if path else reason for path, reason in sorted(self.failed.items())]

    def notes(self) -> list[str]:
        """List what is not in the run, and what else a reader of the report should know."""
        notes = [f"{name.replace('_', ' ')}: {text}" for name in NOTES for text in getattr(self, name)]
        custom_id = custom_run_id(self.source.id)
        return notes + ([f"its custom run ID is {custom_id}"] if custom_id != self.source.id else [])

    def fail(self, path: str, reason: str, error: Exception | None = None, field_type: str = "") -> None:
        """Note and log a failure: an error or, without one, a difference."""
        self.failed[path] = reason
        # No |= here, because fields fail in several threads.
        if error is None:
            self.differs = True
        if not (isinstance(error, Refused) and error.status in LASTING):
            self.retryable = True
        log_problem(": ".join(filter(None, (self.source.id, "failed", path, reason))), error, field_type)


def log_problem(text: str, error: BaseException | None, field_type: str = "") -> None:
    """Log a failure in one line. Add the traceback if the error is unexpected, or at level DEBUG."""
    if isinstance(error, Refused):
        text += f" ({', '.join(filter(None, (field_type, error.operation, f'tries: {error.tries}')))})"
    foreseen = isinstance(error, (Refused, Away)) and not log.isEnabledFor(logging.DEBUG)
    log.error("%s", text, exc_info=None if foreseen else error)


def in_words(error: BaseException) -> str:
    """Describe an exception in one line: Refused and Away by their text, KeyError in words, others with their type."""
    text = " ".join(re.sub(r"\x1b\[\d+m|-{4,}", "", str(error)).split())
    if isinstance(error, KeyError):
        return f"the server's answer lacks {text}"
    return text if isinstance(error, (Refused, Away)) else f"{type(error).__name__}: {text:.300}"


def work_on(server: Server, options: Options, source: Source, folder: Path) -> Outcome:
    """Copy or compare one object; return the outcome. Raise nothing but Stopped."""
    outcome, began = Outcome(server, source), time.monotonic()
    if server.shared.gone:
        return outcome
    threading.current_thread().name = source.id  # which each line of the log shows
    with server.shared.progress.working_on(outcome):
        try:
            Work(server, options, source, folder, outcome).copy()
        except Exception as error:  # one object that fails does not stop the others
            outcome.fail("", in_words(error), error)
        if outcome.failed and outcome.status != DIFFERS:
            outcome.status = FAILED
        outcome.seconds = time.monotonic() - began
        if outcome.status == COPIED and options.delete_files:
            shutil.rmtree(folder, ignore_errors=True)
        for note in outcome.notes():
            log.warning("%s: %s", source.id, note)
        log.info("%s: %s, %s, %.1f s", source.id, outcome.status, outcome.source.run_id or "no run", outcome.seconds)
    return outcome


@dataclass
class Work:
    """The copy or comparison of one object, and its state. Fields are by their path in the run."""

    server: Server
    options: Options
    source: Source
    folder: Path
    outcome: Outcome
    run: Run = field(init=False)
    before: Fields = field(init=False)  # of the run, before anything is written
    source_fields: Fields = field(init=False)  # by the path at the source
    began: float = 0.0  # seconds since 1970
    keeps: bool = False  # leave what people added: the run was complete once, and --recopy is not set
    plan: Fields = field(default_factory=dict)  # the fields of the source to copy
    planned_paths: set[str] = field(default_factory=set)  # at the source, when the plan was made
    removals: dict[Words, list[Operation]] = field(default_factory=dict)  # what to take out → how
    contents: dict[str, Any] = field(default_factory=dict)  # what was read from the source
    compared: set[str] = field(default_factory=set)  # paths in the run
    complaints: dict[str, list[str]] = field(default_factory=dict)  # of the server, perhaps about a repeated request

    def copy(self) -> None:
        """Copy the object. If its copy is complete, --verify compares it and --recopy rewrites it. A dry run plans."""
        self.open_and_read()
        self.check_owner()
        state = state_of(self.before, self.source_fields)
        is_complete = state == UP_TO_DATE and not self.options.recopy
        if is_complete and not self.options.verify:
            self.outcome.status = UP_TO_DATE
            return
        self.plan_fields()
        self.plan_removals()
        if is_complete:
            self.outcome.kept += sorted(self.removals.keys() - self.plan.keys())  # an earlier stage: nothing goes now
            try:
                self.compare_run(self.before)
                self.finish(DIFFERS if self.outcome.differs else VERIFIED)
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)  # these downloads were only for the comparison
        elif self.options.dry_run:
            self.outcome.removed = sorted(self.removals)
            self.finish(AGAIN if state == UP_TO_DATE else state)
        else:
            self.write_and_check()
            self.finish(COPIED)

    def write_and_check(self) -> None:
        """Write the run, read it back, compare it, and mark it complete."""
        try:
            self.write_values()
        except Refused:
            # Trash a run that was empty, because --undo would not find it.
            is_new = (value_of(self.before, "sys/creation_time") or 0) / 1000 > self.began - 60
            if is_new and OWNER not in self.before and not claims_of(self.before):
                with contextlib.suppress(Refused, Away):
                    now = self.server.fields(self.run.uuid)  # another start may have copied the object meanwhile
                    if OWNER not in now and claims_of(now) <= {self.run.claim}:
                        self.server.trash([self.run.id])
            raise
        # After reading all fields with contents, write the small ones together.
        self.write_each(self.each_content(self.copy_contents))
        self.renew_claim()
        read_back = self.server.fields(self.run.uuid)
        self.check_and_keep_claim(read_back)
        self.compare_run(read_back)
        if not self.outcome.failed:
            self.mark_complete()

    def open_and_read(self) -> None:
        """Open or create the run, unless this start leaves it as it is. Read the run, then the source (rule 2)."""
        source, options, custom_id = self.source, self.options, custom_run_id(self.source.id)
        self.began = time.time()
        if not (options.dry_run or (source.state == UP_TO_DATE and not options.recopy)):
            self.run = self.server.open_run(custom_id)
        elif source.run_uuid:
            self.run = Run(source.run_uuid, source.run_id)
        else:  # the custom run ID may be another run's, or the run may be in the trash
            self.run = self.server.find_run(custom_id)
        self.outcome.source = replace(source, run_id=self.run.id, run_uuid=self.run.uuid)
        self.before = self.server.fields(self.run.uuid) if self.run.uuid else {}
        self.source_fields = self.server.fields(source.uuid)
        self.keeps = value_of(self.before, MARK) is not None and not options.recopy

    def check_owner(self) -> None:
        """Raise Refused unless the run is empty or the object's own copy, begun or complete."""
        before, owner = self.before, value_of(self.before, OWNER)
        # The default names of servers and the client, and what is empty.
        defaults = [None, "", [], "Untitled", value_of(before, "sys/id"), value_of(before, CUSTOM_ID)]
        present = [path for path in before if not path.startswith("sys/")]
        present += [path for path in SAME_PATH if value_of(before, path) not in defaults]
        is_claimed = owner is None and claims_of(before)  # because a first write may have left only a claim
        if present and owner != self.source.id and not is_claimed:
            reason = f"is not its copy (it has {present[0]})"
        elif not is_same_object(before, self.source_fields):
            reason = "is the copy of an earlier object with the same ID"
        else:
            return
        advice = "edit custom_run_id() in the script, or delete that run in the app, also from the trash"
        named = f"the run {self.run.id} ({self.server.url_of(self.run.id)}) has the object's custom run ID"
        raise Refused("createExperiment", f"{named}, but {reason}: {advice}", 409)

    def plan_fields(self) -> None:
        """Plan which field of the source goes where in the run; list what cannot be copied, and what is left out."""
        plan, options, source_fields = self.plan, self.options, self.source_fields
        tags = tags_of(self.source, source_fields, options)
        # These two always have the same place, because every later start identifies the run by them.
        plan[OWNER] = Field("sys/id", "string", {"value": self.source.id})
        if "sys/creation_time" in source_fields:
            plan[CREATED] = source_fields["sys/creation_time"]
        accounted_for = {"sys/id", "sys/creation_time", "sys/state"}  # only the server writes a run's state
        # A tag replaces the stage field, unless an edit of tags_of() omits that tag.
        stage = value_of(source_fields, "sys/stage")
        if options.stage_as_tag and stage is not None and stage in ("none", *tags[0]):
            accounted_for.add("sys/stage")
        # An empty description writes nothing over what people have written.
        if value_of(self.before, DESCRIPTION) and not value_of(source_fields, DESCRIPTION):
            accounted_for.add(DESCRIPTION)
        # Plan the "sys/" fields first, so that no other field takes their path.
        for path in sorted(source_fields, key=lambda path: (not path.startswith("sys/"), path)):
            source_field, target = source_fields[path], path_in_run(path, options)
            if target is None or path in accounted_for:
                continue
            reason = why_not(source_field, target, plan)
            if reason:
                self.outcome.skipped.append(f"{path} ({source_field.type}: {reason})")
                accounted_for.add(path)
            else:
                plan[target] = source_field
        self.plan_tags(tags)
        self.planned_paths = {planned.path for planned in plan.values()}
        accounted_for |= self.planned_paths
        # List all the rest, because an edit of the loop may omit fields, too, and --trash-models relies on this list.
        self.outcome.left_out = [path for path in source_fields if path not in accounted_for]

    def plan_tags(self, tags: Iterable[Iterable[str | None]]) -> None:
        """Add the tags and group tags of tags_of() to the object's own. Leave out those that look like claims."""
        for path, added in zip((TAGS, GROUP_TAGS), tags):
            planned = self.plan.get(path, Field("", "stringSet", {}))  # without a path: the source has none
            own = VALUES["stringSet"].read(planned.properties)
            claims = [tag for tag in (*own, *filter(None, added)) if path == TAGS and CLAIM.fullmatch(tag)]
            self.outcome.skipped += [f"{path}: {claim!r} (reserved for incomplete copies)" for claim in claims]
            strings = {*own, *filter(None, added)} - {*claims}
            self.plan[path] = replace(planned, properties={"values": sorted(strings)})

    def plan_removals(self) -> None:
        """Plan what to take out of the run; list what stays there although the plan lacks it."""
        # Earlier copies of what is left out stay, because they may be the last ones. Without --exclude, path_in_run()
        # tells where they are.
        left_out, no_exclude = self.outcome.left_out, replace(self.options, exclude=None)
        stay = {*left_out, *(path_in_run(path, no_exclude) for path in left_out)}
        # Fields of another type go, and those at the path of a namespace: a server cannot have both "a" and "a/b".
        go = {*self.plan, *itertools.chain.from_iterable(map(namespaces_of, self.plan))}
        if self.options.stage_as_tag and "sys/stage" in self.source_fields:  # so does an earlier stage, tag or field
            go |= {path_in_run("sys/stage", self.options) or "", *(f"{TAGS}: {stage!r}" for stage in STAGES)}
        for words, operations in self.extras(self.before).items():
            stays = (self.keeps or words in stay) and words not in go
            if stays and not any(namespace in self.plan for namespace in namespaces_of(words)):
                self.outcome.kept.append(words)
            else:
                self.removals[words] = operations

    def extras(self, run_fields: Fields) -> dict[Words, list[Operation]]:
        """List what a run has and the plan lacks, or has with another type → operations to take it out."""
        extras: dict[Words, list[Operation]] = {}
        for path, run_field in run_fields.items():
            is_planned = path in self.plan and self.plan[path].type == run_field.type
            if is_planned and run_field.type == "stringSet":
                strings = {*value_of(run_fields, path)} - {*value_of(self.plan, path)} - claims_of(run_fields)
                extras |= {f"{path}: {text!r}": remove_strings(path, [text]) for text in sorted(strings)}
            elif is_planned or (path == MARK and value_of(run_fields, MARK) is not None):
                continue
            elif not path.startswith("sys/"):
                extras[path] = [deletion(path)]
            elif path == DESCRIPTION and value_of(run_fields, path):
                # Empty it, because a field that every run has cannot be deleted.
                extras[path] = VALUES["string"].write(path, "")
        return extras

    def write_values(self) -> None:
        """Claim the run, take it out of the trash, carry out the removals, and write all single values."""
        server, run, drop_old = self.server, self.run, remove_strings(TAGS, sorted(claims_of(self.before)))
        run.claim = new_claim()
        # Claim a run before restoring it. If the server refuses that, the next write claims it.
        if value_of(self.before, "sys/trashed"):
            with contextlib.suppress(Refused):
                server.write(run, drop_old)
            server.restore(run)
        # Rule 7 holds for each run with a current mark, also if it has an earlier claim, or was in the trash.
        mark = value_of(self.before, MARK)
        if mark is not None and mark == value_of(self.source_fields, "sys/modification_time"):
            server.write(run, drop_old)
            server.wait_for_claim(run)
        # Write owner and tags first, because every later start, and --undo, finds the run by them.
        operations: dict[str, list[Operation]] = defaultdict(list, {OWNER: [*drop_old], TAGS: [], GROUP_TAGS: []})
        for words, removal in self.removals.items():
            operations[words] += removal
        for path, planned in self.plan.items():
            if planned.type in VALUES:
                with self.noting(path):
                    operations[path] += VALUES[planned.type].write(path, VALUES[planned.type].read(planned.properties))
        self.write_each(operations)
        self.outcome.removed = sorted(self.removals.keys() - self.outcome.failed.keys())

    def write_each(self, operations: dict[str, list[Operation]]) -> None:
        """Write many fields, as many per request as it can hold."""

        def size_of(item: tuple[str, list[Operation]]) -> int:
            return max(len(json.dumps(item[1])), len(item[1]) * BYTES_PER_OPERATION)

        for batch in in_batches(filter(itemgetter(1), operations.items()), BYTES_PER_REQUEST, size_of):
            self.write_batch(batch)

    def write_batch(self, batch: list[tuple[str, list[Operation]]]) -> None:
        """Write fields in one request. If the server refuses it or complains, write each half, to find the cause."""
        if len(batch) == 1:
            [(path, writes)] = batch
            # If the owner is refused, fail the object, because no later start would find the run.
            with self.noting(path) if path != OWNER else contextlib.nullcontext():
                self.complaints[path] = self.server.write(self.run, writes)
            return
        try:
            complaints = self.server.write(self.run, [operation for _, writes in batch for operation in writes])
        except Refused as refused:
            complaints, self.run.needs_new_claim = [str(refused)], True
        for half in halves_of(batch) if complaints else []:
            self.write_batch(half)

    def copy_contents(self, path: str, folder: Path) -> list[Operation]:
        """Copy a field with contents. Return the operations that are still to be carried out, if it is small."""
        return CONTENTS[self.plan[path].type].copy(self, path, self.plan[path], folder)

    def each_content(self, task: Callable[[str, Path], Any]) -> dict[str, Any]:
        """Call task(path in the run, folder) for each field with contents, many at once. Return the results by path."""
        results, types = {}, list(CONTENTS)
        slowest_first = sorted(
            (types.index(planned.type), -(planned.properties.get("size") or 0), path)
            for path, planned in self.plan.items()
            if planned.type in types and path not in self.outcome.failed
        )

        def do_task(item: tuple[int, str]) -> None:
            number, path = item  # the folder's name keeps only harmless characters of the path
            folder = self.folder / f"{number:04d}_{re.sub('[^A-Za-z0-9]+', '_', path)[-40:]}"
            with self.noting(path):
                folder.mkdir(parents=True, exist_ok=True)
                results[path] = task(path, folder)

        self.server.shared.at_once(do_task, enumerate((path for *_, path in slowest_first), 1))
        return results

    @contextlib.contextmanager
    def noting(self, path: str) -> Iterator[None]:
        """Note an exception as the failure of one field, which does not stop the others."""
        try:
            yield
        except Away:  # the server is out of reach, also for the other fields
            raise
        except Exception as error:
            self.outcome.fail(path, in_words(error), error, self.plan[path].type if path in self.plan else "")

    def renew_claim(self) -> None:
        """Take a new claim after a repeated write (rule 3), until the write of the claim is not repeated."""
        run = self.run
        while run.needs_new_claim:
            run.needs_new_claim, old, run.claim = False, run.claim, new_claim()
            self.server.write(run, remove_strings(TAGS, [old]))

    def check_and_keep_claim(self, read_back: Fields) -> None:
        """Note a failure if another copy wrote to the run (rule 4), or if it was trashed. Add a lost claim again."""
        claims, claim = claims_of(read_back), self.run.claim
        # After a failed write, a missing claim proves nothing: the server may have refused that claim, too.
        is_lost = claim not in claims and not self.outcome.failed
        if is_lost or claims - {claim} or value_of(read_back, MARK) != value_of(self.before, MARK):
            self.outcome.fail(TAGS, "another migration wrote to this run at the same time: run the script again")
        if value_of(read_back, "sys/trashed"):
            self.outcome.fail("sys/trashed", "the run was moved to the trash meanwhile: run the script again")
        # Add it again (rule 6), because the copy that removed it may have read the run before these uploads arrived.
        if claim not in claims:
            with contextlib.suppress(Refused):  # the server may refuse every write
                self.server.write(self.run, [])

    def mark_complete(self) -> None:
        """Write the mark and remove the claim in one request (rule 5)."""
        # Use the time listed before the contents were read, so that the next start copies any later change.
        modified = VALUES["datetime"].read(self.source_fields["sys/modification_time"].properties)
        ending = [*VALUES["datetime"].write(MARK, modified), *remove_strings(TAGS, [self.run.claim])]
        complaints = self.server.write(replace(self.run, claim=""), ending)
        # The server complains about a repeated request, because the first one removed the claim.
        if complaints and state_of(self.server.fields(self.run.uuid), self.source_fields) != UP_TO_DATE:
            self.outcome.fail(MARK, "; ".join(complaints))

    def compare_run(self, read_back: Fields) -> None:
        """Compare the run with its source: note every field that is missing, differs, or should not be there."""
        compare = partial(self.compare_field, read_back)
        arrived = frozenset((path, read_back[path].type) for path in self.plan.keys() & read_back.keys())
        self.outcome.source = replace(self.outcome.source, arrived=arrived)
        for path, planned in self.plan.items():
            if planned.type in VALUES and path not in self.outcome.failed:
                with self.noting(path):
                    compare(path, self.folder)
        self.each_content(compare)
        unexpected = () if self.keeps else self.extras(read_back)
        for words in {*unexpected}.difference(self.outcome.kept, self.outcome.failed):
            self.outcome.fail(words, "it is in the run, but not in the registry")

    def compare_field(self, read_back: Fields, path: str, folder: Path) -> None:
        """Compare a field with its source, and note a difference."""
        planned, arrived = self.plan[path], read_back.get(path)
        self.compared.add(path)
        if planned.type in CONTENTS and path not in self.contents:  # because it was not copied now
            self.contents[path] = CONTENTS[planned.type].read(self.server, self.source.uuid, planned, folder)
        if arrived is None and self.contents.get(path) == Series([], {}) and not self.complaints.get(path):
            self.outcome.skipped.append(f"{path} (the server does not keep an empty series)")
            return
        difference = self.difference(path, arrived, folder)
        if difference and arrived and planned.path in MOVING and not self.run.claim:  # of a copy made earlier
            self.outcome.kept.append(f"{path}: {difference}, because it changes by itself")
        elif difference:
            self.outcome.fail(path, "; ".join([difference, *self.complaints.get(path, [])]))

    def difference(self, path: str, arrived: Field | None, folder: Path) -> str:
        """Describe how a field differs from its source, "" if it does not."""
        planned = self.plan[path]
        is_set = planned.type == "stringSet"
        if arrived is None:
            is_empty = is_set and not planned.properties.get("values")  # no server lists an empty set
            return "" if is_empty else "it is not in the run"
        if arrived.type != planned.type:
            return f"it is of type {arrived.type} in the run"
        if planned.type in CONTENTS:
            return self.compare_contents(path, arrived, folder)
        sent, copied = (VALUES[planned.type].read(listed.properties) for listed in (planned, arrived))
        # repr() finds NaN equal to NaN, and -0.0 different from 0.0. extras() lists the other strings of a set.
        is_same = {*sent} <= {*copied} if is_set else repr(sent) == repr(copied)
        return "" if is_same else f"the run has {copied!r:.40}"

    def compare_contents(self, path: str, arrived: Field, folder: Path) -> str:
        """Describe how contents differ: by number or size, and each part with --verify or if these prove nothing."""
        server, planned, earlier = self.server, self.plan[path], self.before.get(path)
        kind, size = CONTENTS[planned.type], planned.properties.get("size")
        difference = kind.difference(server, self.run.uuid, arrived, self.contents[path])
        # An earlier file of the same size would pass for an upload that the server did not store. (File sets are
        # deleted first.) After a claim, another copy may have uploaded, too, because uploads carry none.
        same_size = planned.type == "file" and earlier and earlier.properties.get("size") == size
        beside_another = planned.type in ("file", "fileSet") and claims_of(self.before)
        if difference or not (self.options.verify or self.complaints.get(path) or same_size or beside_another):
            return difference
        compared = folder / "compared"
        compared.mkdir(exist_ok=True)
        try:
            content = kind.read(server, self.run.uuid, arrived, compared)
            parts, copied = kind.parts(self.contents[path]), kind.parts(content)
        finally:
            shutil.rmtree(compared, ignore_errors=True)
        differing = [name for name in {**parts, **copied} if parts.get(name) != copied.get(name)]
        return f"{differing[0]} differs" if differing else ""

    def finish(self, status: str) -> None:
        """Set the status, and count what arrived; list what the server did not return."""
        outcome = self.outcome
        outcome.status = status
        # Because an edit of this file may have taken fields out of the plan, or out of what is copied and compared.
        done = self.plan if self.options.dry_run else {*self.compared, *outcome.failed}
        outcome.left_out += sorted(self.planned_paths - {self.plan[path].path for path in done if path in self.plan})
        for path, planned in self.plan.items():
            if path not in outcome.failed:
                content = self.contents.get(path)
                outcome.fields[planned.type] += 1
                outcome.bytes[planned.type] += planned.properties.get("size") or 0
                outcome.files += len(members(content)) if isinstance(content, Path) else int(planned.type == "file")
        all_series = [content for content in self.contents.values() if isinstance(content, Series)]
        outcome.skipped += [series.lost for series in all_series if series.lost]


def new_claim() -> str:
    return f"incomplete copy {uuid4().hex[:8]}"


def namespaces_of(path: str) -> list[str]:
    """List the namespaces in which a field is: "a" and "a/b" for "a/b/c"."""
    return list(itertools.accumulate(path.split("/")[:-1], "{}/{}".format))


def why_not(source_field: Field, target: str, plan: Fields) -> str:
    """Return why a field cannot be copied to a path of the run, or "" if it can."""
    if source_field.type not in VALUES and source_field.type not in CONTENTS:
        return "the client cannot read it"
    if source_field.type == "artifact" and not source_field.properties.get("hash"):
        return "it is empty"
    is_at_mark = MARK in (target, *namespaces_of(target))
    is_taken = target in plan or is_at_mark or (target in (TAGS, GROUP_TAGS) and source_field.type != "stringSet")
    return f"another field goes to {target} in the run" if is_taken else ""


# ---- The types of fields -----------------------------------------------------------------------------------------
#
# VALUES are single values: the server's listing of an object has them in full. One request reads them all, and one
# writes them. CONTENTS need requests of their own. To add a type
#   - of single values, add an entry to VALUES;
#   - with contents, write a class like File, add it to CONTENTS, and its requests to DOING. If it holds files, name it
#     in compare_contents() and finish(), too.

Operation = dict[str, Any]  # on one field, as the server takes it: {"path": "a", "assignInt": {"value": 1}}
DATE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(:\d\d)?(?:[.,](\d+))?(?:Z|([+-]\d\d):?(\d\d))?")
POINT = itemgetter("step", "timestampMillis", "value")  # of a float or string series, as it is listed
BYTES_PER_ARCHIVE = 5 * 1024 * 1024  # as in the client (neptune.common.storage.storage_utils)
BYTES_PER_FILE = BYTES_PER_ARCHIVE // 500  # a smaller file counts as this much, so an archive has at most 500 files


class Value(NamedTuple):
    """A type of single value: how to read it from the properties that are listed, and how to write it."""

    read: Callable[[dict[str, Any]], Any]
    write: Callable[[str, Any], list[Operation]]


def assigned(operation: str, key: str = "value", read: Callable[[Any], Any] = itemgetter("value")) -> Value:
    """Return a Value that the named operation writes, under a key."""
    return Value(read, lambda path, value: [{"path": path, operation: {key: value}}])


def deletion(path: str) -> Operation:
    """Return the operation that deletes a field. The client, too, sends it if the field may not exist."""
    return {"path": path, "deleteAttribute": {}}


def insert_strings(path: str, strings: list[str]) -> list[Operation]:
    """Return the operations that add strings to a string set. The server has no set without strings."""
    return [{"path": path, "insertStrings": {"values": strings}}] if strings else []


def remove_strings(path: str, strings: list[str]) -> list[Operation]:
    return [{"path": path, "removeStrings": {"values": strings}}] if strings else []


def in_halves(operations: list[Operation]) -> list[list[Operation]]:
    """Split operations, or the points of a single one, in two. Return at most one part where nothing can be split."""
    if len(operations) != 1:
        return halves_of(operations)
    [(name, content)] = [part for part in operations[0].items() if part[0] != "path"]
    points = content.get("entries", [])
    return [[{**operations[0], name: {"entries": half}}] for half in halves_of(points)]


def halves_of(items: list) -> list[list]:
    """Split items, in order, in two; a single one stays one part."""
    return list(in_batches(items, -(-len(items) // 2)))


def in_batches(items: Iterable[Any], most: float, weight: Callable[[Any], float] = lambda _: 1) -> Iterator[list]:
    """Split items, in order, into batches of limited weight. A heavier item gets its own batch."""
    batch: list = []
    total = 0.0
    for item in items:
        size = weight(item)
        if batch and total + size > most:
            yield batch
            batch, total = [], 0.0
        batch.append(item)
        total += size
    if batch:
        yield batch


def milliseconds(date: str) -> int:
    """Convert a server's ISO 8601 date (UTC if it has no offset) to whole ms since 1970, without a float."""
    match = DATE.fullmatch(date)
    if not match:
        raise ValueError(f"{date!r} is not a date of ISO 8601")
    minute, second, fraction, hours, minutes = match.groups("")
    moment = datetime.fromisoformat(f"{minute}{second or ':00'}.{fraction[:3]:0<3}{hours or '+00'}:{minutes or '00'}")
    return (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(milliseconds=1)


VALUES: dict[str, Value] = {
    "int": assigned("assignInt"),
    "float": assigned("assignFloat"),
    "bool": assigned("assignBool"),
    "string": assigned("assignString"),
    "datetime": assigned("assignDatetime", "valueMilliseconds", lambda listed: milliseconds(listed["value"])),
    "artifact": assigned("assignArtifact", "hash", itemgetter("hash")),
    "stringSet": Value(lambda listed: sorted(listed.get("values") or []), insert_strings),
}


class Contents(Protocol):
    """A type of field that has contents."""

    def read(self, server: Server, container: str, listed: Field, folder: Path) -> Any:
        """Read a field of an object or a run, with its files in a local folder."""

    def write(self, server: Server, run: Run, path: str, content: Any) -> list[str]:
        """Write what was read into a run, and return what the server complained of."""

    def difference(self, server: Server, container: str, copied: Field, content: Any) -> str:
        """Describe how a run's field differs from what was read, without a full read; "" if it does not."""

    def parts(self, content: Any) -> dict[str, Any]:
        """Return the name of each part → what to compare of it. Two contents are equal if all their parts are."""

    def copy(self, work: Work, path: str, listed: Field, folder: Path) -> list[Operation]:
        """Read and write a field. Return the operations that are still to be carried out, if it is small."""
        content = work.contents[path] = self.read(work.server, work.source.uuid, listed, folder)
        work.complaints[path] = self.write(work.server, work.run, path, content)
        return []


@dataclass(frozen=True)
class Series:
    """A series: its points in order, its settings, and a text on what the server does not return."""

    points: list[tuple]  # (step, ms since 1970, value), or (step, ms, name, description, local file): None if unknown
    config: dict[str, Any]
    lost: str = ""


def without_none(entry: dict[str, Any]) -> dict[str, Any]:
    """Leave out None, as the client does, because the server's description has no null."""
    return {key: value for key, value in entry.items() if value is not None}


@dataclass(frozen=True)
class PointSeries(Contents):
    """Float series and string series, and the base of file series: the server's operations, and two limits."""

    values: str  # the operation that reads points
    clear: str  # the operations that create a series, and that add points to it
    append: str
    per_request: int  # points per write request; for images, bytes
    small: int  # most points of a series that shares a request

    def read(self, server: Server, container: str, listed: Field, folder: Path) -> Series:
        # fetch_values() would lose milliseconds and, when summer time ends, an hour.
        return self.series_of(listed, server.pages(self.values, POINT, experimentId=container, attribute=listed.path))

    def series_of(self, listed: Field, points: list[tuple], lost: str = "") -> Series:
        """Return what was read. Raise Refused if the points end before the last step that the server lists."""
        end, last_step = points[-1][0] if points else float("-inf"), listed.properties.get("lastStep")
        if end is not None and last_step is not None and end < last_step:
            raise Refused(self.values, f"the points end at step {end}, but the server lists step {last_step}")
        return Series(points, without_none(listed.properties.get("config") or {}), lost)

    def entry(self, point: tuple) -> dict[str, Any]:
        return {"step": point[0], "timestampMilliseconds": point[1], "value": point[2]}

    def weight(self, point: tuple) -> int:
        """Return how much of per_request a point uses."""
        return 1

    def each_request(self, path: str, content: Series) -> Iterator[list[Operation]]:
        """Make the operations of each request that writes a series anew, with its points and settings."""
        # Delete it, because clearing keeps its settings. Then clear it, because that creates it even if empty.
        operations: list[Operation] = [deletion(path), {"path": path, self.clear: {}}]
        for batch in in_batches(content.points, self.per_request, self.weight):
            yield [*operations, {"path": path, self.append: {"entries": list(map(self.entry, batch))}}]
            operations = []
        operations += [{"path": path, "configFloatSeries": content.config}] if content.config else []
        if operations:
            yield operations

    def write(self, server: Server, run: Run, path: str, content: Series) -> list[str]:
        """Rewrite a series. The server may complain about points that a repeated request sends twice."""
        return [complaint for request in self.each_request(path, content) for complaint in server.write(run, request)]

    def copy(self, work: Work, path: str, listed: Field, folder: Path) -> list[Operation]:
        """Read a series, and write it unless it is small: then its operations may share a request with others."""
        content = work.contents[path] = self.read(work.server, work.source.uuid, listed, folder)
        if len(content.points) <= self.small:
            return list(itertools.chain.from_iterable(self.each_request(path, content)))
        work.complaints[path] = self.write(work.server, work.run, path, content)
        return []

    def difference(self, server: Server, container: str, copied: Field, content: Series) -> str:
        last = max(len(content.points) - 1, 0)
        page = server.call(self.values, experimentId=container, attribute=copied.path, offset=last, limit=1)
        if page["totalItemCount"] != len(content.points):
            return f"the run has {page['totalItemCount']} of {len(content.points)} points"
        if content.points and not self.is_last(content.points[last], copied, page):
            return "the last point differs"
        config = without_none(copied.properties.get("config") or {})
        return "" if config == content.config else "min, max or unit differ"

    def is_last(self, point: tuple, copied: Field, page: dict[str, Any]) -> bool:
        """Tell whether a run's field ends with a point, by its properties and its last page."""
        return repr([*map(POINT, page["values"])]) == repr([point])

    def parts(self, content: Series) -> dict[str, Any]:
        return {f"point {index}": repr(point) for index, point in enumerate(content.points)}


def image_of(point: dict[str, Any]) -> tuple:
    """Return the step, the time in ms and the image of a point. The server may omit the step and the image."""
    return point.get("x"), point["timestampMillis"], point["y"].get("imageValue")


class FileSeries(PointSeries):
    """File series. The client reads only the number of images and their bytes."""

    def read(self, server: Server, container: str, listed: Field, folder: Path) -> Series:
        """Read every image: the bytes by their index, all else from the channel behind the series."""
        query: dict[str, Any] = {"experimentId": container, "attribute": listed.path}
        count = server.call(self.values, **query, offset=0, limit=1)["totalItemCount"]
        images: list[tuple] = [(None, None, None)] * count
        # getChannelValues is deprecated, so a server may not describe it. If it does, a refusal fails the field,
        # because a gateway's refusal may be temporary.
        if server.described("getChannelValues"):
            images = server.pages("getChannelValues", image_of, channelId=listed.properties["channelId"])
        if len(images) != count:
            raise Refused("getChannelValues", f"{len(images)} points for {count} images")
        files = [folder / str(index) for index in range(count)]
        server.shared.at_once(
            lambda index: server.download("getImageSeriesValue", files[index], **query, index=index), range(count)
        )
        lacking = sum(step is None or image is None for step, _, image in images)
        lost = f"{listed.path} (steps, times, names and descriptions of {lacking} images)" if lacking else ""
        points = []
        for (step, timestamp, image), file in zip(images, files):
            image = image or {}
            points.append((step, timestamp, image.get("name"), image.get("description"), file))
        return self.series_of(listed, points, lost)

    def entry(self, point: tuple) -> dict[str, Any]:
        """Return the server's form of an image. The server sets a missing step; a missing time becomes the present."""
        step, timestamp, name, description, file = point
        value = {"data": base64.b64encode(file.read_bytes()).decode(), "name": name, "description": description}
        timestamp = int(time.time() * 1000) if timestamp is None else timestamp
        return without_none({"value": without_none(value), "step": step, "timestampMilliseconds": timestamp})

    def weight(self, point: tuple) -> int:
        """Return the size of an image in bytes. An image above the limit is still one request, in memory."""
        return point[-1].stat().st_size

    def write(self, server: Server, run: Run, path: str, content: Series) -> list[str]:
        """Rewrite the images: few series at a time, and only one series of large images."""
        largest = max(map(self.weight, content.points), default=0)
        with server.shared.image_writers if largest <= self.per_request else server.shared.large_images:
            return super().write(server, run, path, content)

    def is_last(self, point: tuple, copied: Field, page: dict[str, Any]) -> bool:
        """Compare the step, which the server lists with the field."""
        return point[0] is None or copied.properties.get("lastStep") in (None, point[0])

    def parts(self, content: Series) -> dict[str, Any]:
        points = enumerate(content.points)
        return {f"image {index}": (*known, digest_of(file.open("rb"))) for index, (*known, file) in points}


def digest_of(stream: IO[bytes]) -> str:
    """Return a digest of a stream, equal only for equal bytes. Read in portions; close the stream."""
    digest = hashlib.sha256()
    with stream:
        for portion in iter(lambda: stream.read(CHUNK), b""):
            digest.update(portion)
    return digest.hexdigest()


@dataclass(frozen=True)
class LocalFile:
    """The bytes of a file field in a local file, and the extension that the field has."""

    local: Path
    extension: str
    size: int  # bytes
    download: Future[None] | None = None  # if the upload runs during the download


class File(Contents):
    """Files. Neither field paths nor headers may choose a place on disk."""

    def read(self, server: Server, container: str, listed: Field, folder: Path) -> LocalFile:
        local, query = folder / "file", {"experimentId": container, "attribute": listed.path}
        server.download("downloadAttribute", local, size=listed.properties.get("size"), **query)
        return LocalFile(local, listed.properties.get("ext") or "", local.stat().st_size)

    def write(self, server: Server, run: Run, path: str, content: LocalFile) -> list[str]:
        query = {"experimentIdentifier": run.uuid, "attribute": path, "ext": content.extension}
        with content.local.open("rb") as stream:
            return server.upload("fileAtom", query, stream, content.size, content.download)

    def copy(self, work: Work, path: str, listed: Field, folder: Path) -> list[Operation]:
        """Upload a large file in parts during its download, and the last part after the download."""
        server, local, size = work.server, folder / "file", listed.properties.get("size") or 0
        if size <= server.limits.max_single_part_size:
            return super().copy(work, path, listed, folder)
        query = {"experimentId": work.source.uuid, "attribute": listed.path}
        request = server.build_request("downloadAttribute", query)
        stop = threading.Event()
        local.touch()  # the upload may open it before the download does
        downloads = ThreadPoolExecutor(1, threading.current_thread().name)
        with server.shared.relays:
            download = downloads.submit(server.save, "downloadAttribute", request, local, size, stop)
            content = work.contents[path] = LocalFile(local, listed.properties.get("ext") or "", size, download)
            try:
                work.complaints[path] = self.write(server, work.run, path, content)
                return []
            except Exception as error:
                stop.set()
                if not (download.done() and error is download.exception()):
                    raise
        # The download failed. Upload everything again, because the file may have changed.
        return super().copy(work, path, listed, folder)

    def difference(self, server: Server, container: str, copied: Field, content: LocalFile) -> str:
        arrived = (copied.properties.get("size"), copied.properties.get("ext") or "")
        return "" if arrived == (content.size, content.extension) else "its size or extension differs"

    def parts(self, content: LocalFile) -> dict[str, Any]:
        return {"the content": digest_of(content.local.open("rb"))}


class FileSet(Contents):
    """File sets. They stay packed in the server's zip: names in it never become local paths."""

    def read(self, server: Server, container: str, listed: Field, folder: Path) -> Path:
        """Download a file set as a zip. Raise Refused if it does not hold exactly the listed files."""
        archive = folder / "files.zip"
        server.download_zip(archive, experimentId=container, attribute=listed.path)
        difference = self.difference(server, container, listed, archive)
        if difference:
            raise Refused("the zip", f"it is not what the server lists ({difference}): run the script again")
        return archive

    def write(self, server: Server, run: Run, path: str, content: Path) -> list[str]:
        """Upload the files of a zip under their exact names: small ones packed, large ones in parts."""
        # The client's upload_files() would expand names as patterns, and remove the working directory from them.
        complaints = server.write(run, [deletion(path)])
        with zipfile.ZipFile(content) as archive:
            batches = in_batches(members(content), BYTES_PER_ARCHIVE, lambda file: max(file.file_size, BYTES_PER_FILE))
            for batch in list(batches) or [[]]:  # an empty batch creates an empty file set
                complaints += self.write_batch(server, run, path, archive, batch)
        return complaints

    def write_batch(
        self, server: Server, run: Run, path: str, archive: zipfile.ZipFile, batch: list[zipfile.ZipInfo]
    ) -> list[str]:
        """Upload a file of a zip, or many as a tar: in halves, if a gateway limits the size of a request."""
        if len(batch) == 1:
            query = {"experimentIdentifier": run.uuid, "attribute": path, "subPath": batch[0].orig_filename}
            with archive.open(batch[0]) as stream:
                return server.upload("fileSetFile", query, stream, batch[0].file_size)
        query = {"experimentId": run.uuid, "attribute": path, "reset": str(not batch)}
        headers = {"Content-Type": "application/octet-stream"}
        try:
            with tempfile.TemporaryFile(dir=Path(archive.filename or "").parent) as packed:
                pack(archive, batch, packed)
                server.post("uploadFileSetAttributeTar", Portion(packed, 0, packed.tell()), query, headers)
            return []  # ignore complaints, because this operation answers nothing if all is well
        except Refused as refused:
            if refused.status != requests.codes.request_entity_too_large or not batch:
                raise
        parts = [self.write_batch(server, run, path, archive, half) for half in halves_of(batch)]
        return [complaint for complaints in parts for complaint in complaints]

    def difference(self, server: Server, container: str, copied: Field, content: Path) -> str:
        packed = {member.orig_filename: member.file_size for member in members(content)}
        listed = server.files(container, copied.path)
        same = {name for name in packed.keys() & listed.keys() if listed[name] in (None, packed[name])}
        names = sorted({*packed, *listed} - same)
        return f"{len(names)} of {len(packed)} files differ or are missing, {names[0]!r} first" if names else ""

    def parts(self, content: Path) -> dict[str, Any]:
        with zipfile.ZipFile(content) as archive:
            return {member.orig_filename: digest_of(archive.open(member)) for member in members(content)}


def members(archive: Path) -> list[zipfile.ZipInfo]:
    """List the files in the server's zip, without its entries for folders and the root."""
    with zipfile.ZipFile(archive) as opened:
        return [member for member in opened.infolist() if not member.orig_filename.endswith("/")]


def pack(archive: zipfile.ZipFile, batch: list[zipfile.ZipInfo], packed: IO[bytes]) -> None:
    """Pack members of a zip into a tar.gz. Compress lightly, because more costs time that a fast line does not save."""
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for member in batch:
            entry = tarfile.TarInfo(member.orig_filename)
            entry.size = member.file_size
            tar.addfile(entry, archive.open(member))


# The copy starts these types in this order: the slowest first. A client request has up to 1,000 operations of 100
# numbers or 10 texts, merged by field (neptune.attributes.series, operations_preprocessor). So servers accept requests
# far above 20,000 points.
CONTENTS: dict[str, Contents] = {
    "fileSet": FileSet(),
    "imageSeries": FileSeries("getImageSeriesValues", "clearImageSeries", "logImages", BYTES_PER_REQUEST, small=0),
    "file": File(),
    "floatSeries": PointSeries("getFloatSeriesValues", "clearFloatSeries", "logFloats", 20_000, small=1_000),
    "stringSeries": PointSeries("getStringSeriesValues", "clearStringSeries", "logStrings", 2_000, small=100),
}


# ---- All objects -------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """A project that was asked for, and the objects in it that were chosen."""

    server: Server
    sources: list[Source] = field(default_factory=list)
    unfinished: bool = False  # by the last start, or by this one: then the lock file stays at the end
    stays_unfinished: bool = False  # because this start does not read every run


def to_do(sources: Iterable[Source], options: Options) -> list[Source]:
    """Leave out the objects that are up to date, unless they are to be copied again or compared."""
    return [source for source in sources if source.state != UP_TO_DATE or options.recopy or options.verify]


def migrate(jobs: Sequence[Job], options: Options, folder: Path) -> list[Outcome]:
    """Copy or compare all objects of all projects with one pool of workers; return the outcomes."""
    stopping = jobs[0].server.shared.stopping
    outcomes = {source: Outcome(job.server, source, UP_TO_DATE) for job in jobs for source in job.sources}
    # Alternate the largest and the smallest objects that remain, because small ones mostly wait for answers, while
    # large ones use the line.
    by_size = sorted(to_do(outcomes, options), key=lambda source: source.size, reverse=True)
    alternating = itertools.chain.from_iterable(zip(by_size, reversed(by_size)))
    pool, futures = ThreadPoolExecutor(options.workers, "copy"), {}
    for number, source in enumerate(itertools.islice(alternating, len(by_size))):
        outcomes[source].status = NOT_DONE
        downloads = folder / f"{number:05d}_{re.sub('[^A-Za-z0-9-]+', '_', source.id)[:60]}"
        futures[source] = pool.submit(work_on, outcomes[source].server, options, source, downloads)
    for future in futures.values():
        while not (future.done() or stopping.is_set()):
            wait([future], timeout=0.2)
    if stopping.is_set():
        # Start no more objects. Let the running ones finish their open requests.
        say(f"\nInterrupted: waiting up to {GRACE} seconds for open requests.")
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in futures.values() if not future.cancelled()], timeout=GRACE)
    for source, future in futures.items():
        if future.done() and not future.cancelled():
            error = future.exception()
            if not error:
                outcomes[source] = future.result()
            elif isinstance(error, Exception):  # Stopped is none: the object stays "not done"
                outcomes[source].status = FAILED
                outcomes[source].fail("", in_words(error), error)
    return list(outcomes.values())


@contextlib.contextmanager
def ctrl_c_sets(event: threading.Event) -> Iterator[None]:
    """Make the first Ctrl-C set an event, and the next raise KeyboardInterrupt."""

    # Because an exception could be lost: Python ignores what is raised in a finalizer, such as urllib3's.
    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        event.set()

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # in the background, Ctrl-C is ignored
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def write_report(file: Path, outcomes: Iterable[Outcome]) -> bool:
    """Write the report, a CSV with one row for each object; say where it is, or why there is none."""
    columns = ("source ID", "kind", "run ID", "URL", "status", "fields", "files", "bytes", "seconds", "error")
    try:
        # Write a BOM, because spreadsheets detect UTF-8 by it.
        with file.open("w", newline="", encoding="utf-8-sig", errors="backslashreplace") as stream:
            report = csv.writer(stream)
            report.writerow(columns)
            for outcome in sorted(outcomes, key=lambda outcome: (outcome.server.name, outcome.source.id)):
                source, url = outcome.source, outcome.server.url_of(outcome.source.run_id)
                counts = (sum(outcome.fields.values()), outcome.files, source.size, f"{outcome.seconds:.1f}")
                error = "; ".join([*outcome.failures, *outcome.notes()])
                row = (source.id, source.kind, source.run_id, url, outcome.status, *counts, error)
                # Put an apostrophe before what a spreadsheet would run as a formula: anybody may name a field "=1+1".
                report.writerow(re.sub(r"^([=+@\t\r-])", r"'\1", str(cell)) for cell in row)
    except OSError as error:
        say(f"The script could not write the report: {in_words(error)}. See the log instead.")
        return False
    say(f"Report: {file}")
    return True


# ---- The server --------------------------------------------------------------------------------------------------
#
# All requests to the server, with the client's session, token and API description. The client's public API makes no
# exact copy, because:
#   - fetch_values() loses milliseconds, download() of images loses steps, times, names and descriptions;
#   - assignments to a run wait in a queue on disk. It cuts long strings, sets some dates back by 1 ms and drops images
#     that it cannot open. Its thread only logs what the server rejects, and ends at the first refused request;
#   - init_run() treats an existing run as new: it overwrites the description and adds source_code/entrypoint. It obeys
#     NEPTUNE_MODE, starts four threads and leaves two hooks that keep the object in memory;
#   - a table above 10,000 rows never ends if read newest first, the default.

DOUBT = 2  # seconds to retry errors that rarely pass: a rejected token, a web page as the answer, what failed before
RELAYS = 6  # most large files that are uploaded during their download: more would only share the line
IMAGE_WRITERS = 6  # most image series written at once, because each keeps copies of an image in memory
FIELDS_AT_ONCE = 38  # most requests at once for fields, in addition to RELAYS and one for each object
TIMEOUT = (30, 600)  # seconds to connect, seconds between two bytes: as in the client
PACKING = 60 * 60  # seconds that a server may take to pack a file set
CHUNK = 64 * 1024  # bytes read from a download or a file at a time
POINTS_PER_PAGE = 1000  # as neptune.attributes.series.fetchable_series asks for
ROWS_PER_PAGE, LAST_OFFSET = 1000, 10_000  # of a table; neptune.api.searching_entries knows the server's last offset

# Statuses after which the same request may succeed later → seconds to retry.
PATIENCE: dict[int, float] = {
    **dict.fromkeys((408, 425, 429, 509, 529), OUTAGE),  # too much or too early
    **dict.fromkeys((502, 503, 504), OUTAGE),  # the server restarts or is busy
    **dict.fromkeys((*range(520, 528), 530), OUTAGE),  # a gateway such as Cloudflare's does not reach the server
    500: SERVER_ERROR,
    401: DOUBT,  # with a new access token
}
# A retry alone does not help with these. 403 is not one of them, because a gateway may send it for a while.
LASTING = (400, 402, 404, 409, 413, 422)
NO_CERTIFICATE = (
    "The certificate of {} does not verify: set REQUESTS_CA_BUNDLE to the file of the authority that "
    "signed it, or NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE=TRUE to trust any certificate."
)
# Pattern of operation names → description for messages. The log has the names.
DOING = {
    "listProjects|getProject": "looking for projects",
    "searchLeaderboardEntries": "reading a table",
    "getExperiment(Attributes)?": "reading the fields",
    "createExperiment": "opening the run",
    "restoreExperiments": "taking the run out of the trash",
    "trashExperiments": "moving to the trash",
    "executeOperations": "writing fields",
    "getChannelValues": "reading the steps of images",
    "lsFileSetAttribute": "listing files",
    "prepareForDownloadFileSetAttributeZip|getDownloadPrepareRequest": "packing files",
    "download|downloadAttribute|getImageSeriesValues?": "downloading",
    "get(Float|String)SeriesValues": "reading points",
    "(fileAtom|fileSetFile)(Multipart)?Upload.*|uploadFileSetAttributeTar": "uploading",
}


def doing(operation: str) -> str:
    return next((words for names, words in DOING.items() if re.fullmatch(names, operation)), operation)


@dataclass(eq=False)
class Refused(Exception):
    """The server refused a request, and would refuse a retry."""

    operation: str
    reason: str
    status: int | None = None
    answer: dict[str, Any] = field(default_factory=dict)  # the server's JSON
    tries: int = 1

    def __str__(self) -> str:
        return f"{doing(self.operation)}: {self.reason}"


@dataclass(eq=False)
class Away(Exception):
    """The server did not answer, or not properly: the same request may succeed in a while."""

    reason: str
    status: int | None = None
    retry_after: float = 0.0  # seconds; 0 if the server does not tell
    patience: float = OUTAGE  # seconds to retry; OUTAGE also means that the server is out of reach

    def __str__(self) -> str:
        return self.reason


class Stopped(BaseException):
    """The user asked to stop. A BaseException, because it is not a failure of a field."""


@dataclass
class Shared:
    """The state that all projects and threads of a migration share. Times are in seconds of time.monotonic()."""

    progress: Progress = field(default_factory=lambda: Progress())
    stopping: threading.Event = field(default_factory=threading.Event)
    pool: ThreadPoolExecutor | None = None  # for the requests of fields
    relays: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(RELAYS))
    image_writers: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(IMAGE_WRITERS))
    large_images: threading.Lock = field(default_factory=threading.Lock)
    host: str = "the server"
    problems: list[str] = field(default_factory=list)  # problems other than failed objects, as messages
    renewing: threading.Lock = field(default_factory=threading.Lock)  # the access token
    renewal_failed: float = 0.0  # when renewing it last failed
    wait_until: float = 0.0  # until when all threads wait, because the server is overloaded
    answered: float = 0.0  # when the server last answered
    silent_since: float = 0.0  # when it was first out of reach after an answer: over, if it has answered since
    failing: set[str] = field(default_factory=set)  # operations that get no second long wait
    gone: str = ""  # why the script gave up the server, or ""

    def patiently(self, operation: str, attempt: Callable[[], Any]) -> Any:
        """Retry an attempt while it raises Away, with growing pauses. In the end, raise Refused, or Away if gone."""
        # The seconds waited for each patience, because after an outage the server may still be starting.
        waited: dict[float, float] = defaultdict(float)
        pause, tries, is_shown = 0.0, 0, False
        with contextlib.ExitStack() as notice:
            while True:
                self.pause(max(pause, self.wait_until - time.monotonic()))
                tries, began = tries + 1, time.monotonic()
                try:
                    return self.try_once(operation, attempt)
                except Refused as refused:
                    refused.tries = tries
                    raise
                except Away as away:
                    if self.gone:
                        raise Away(self.gone) from away
                    # An attempt may hang, so it counts, but not the first: it may be a long transfer that broke off.
                    if away.patience == OUTAGE and OUTAGE in waited:
                        waited[OUTAGE] += time.monotonic() - began
                    left = self.longest_wait(operation, away) - waited[away.patience]
                    if left <= 0:
                        self.failing.add(operation)
                        raise Refused(operation, f"gave up waiting: {away}", away.status, tries=tries) from away
                    if left > DOUBT and not is_shown:
                        notice.enter_context(self.progress.waiting(self.host, str(away)))
                        is_shown = True
                    pause = min(self.pause_after(away, tries), left)
                    waited[away.patience] += pause
                    log.warning("%s: waiting %.1f s: %s", operation, pause, away)

    def try_once(self, operation: str, attempt: Callable[[], Any]) -> Any:
        """Make an attempt. Note for all threads whether it reached the server; after OUTAGE, give the server up."""
        if self.gone:
            raise Away(self.gone)
        try:
            answer = attempt()
        except Refused:
            self.answered = time.monotonic()
            raise
        except Away as away:
            now = time.monotonic()
            if away.patience != OUTAGE:
                self.answered = now
            elif self.silent_since <= self.answered:
                self.silent_since = now
            elif now - self.silent_since >= OUTAGE:
                self.gone = str(away)
            raise
        self.answered = time.monotonic()
        self.failing.discard(operation)
        return answer

    def longest_wait(self, operation: str, away: Away) -> float:
        """Return how many seconds to retry an operation after an error."""
        if away.patience == OUTAGE:
            return OUTAGE + SERVER_ERROR  # so an outage ends the migration before it fails operations
        return min(DOUBT, away.patience / 20) if operation in self.failing else away.patience

    def pause_after(self, away: Away, tries: int) -> float:
        """Return the seconds to wait before the next attempt. After "429 Too Many Requests", make all threads wait."""
        if away.status == requests.codes.too_many_requests:
            self.wait_until = max(self.wait_until, time.monotonic() + (away.retry_after or 1))
        return away.retry_after or min(2.0 ** (tries - 2), 30)

    def pause(self, seconds: float) -> None:
        """Wait for so many seconds, if any. Raise Stopped if the user asks to stop, or has asked before."""
        if self.stopping.is_set() or (seconds > 0 and self.stopping.wait(seconds)):
            raise Stopped

    def renew(self, auth: Any) -> None:
        """Renew the access token if it is about to expire. The client itself retries for a minute, in each thread."""
        asked = time.monotonic()
        with self.renewing:
            if auth.token_expires_at - time.time() >= 30:
                return
            if self.renewal_failed > asked:  # another thread has tried while this one waited for it
                raise Away("no answer to renewing the access token")
            try:
                auth._refresh_token()
            except BaseException:
                self.renewal_failed = time.monotonic()
                raise

    def at_once(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Do a task with each item, as many at once as the pool has room for; return the results in order."""
        name, items = threading.current_thread().name, list(items)
        if self.pool is None or len(items) < 2:
            return [task(item) for item in items]

        def named(item: Any) -> Any:
            threading.current_thread().name = name  # which the log shows
            return task(item)

        futures = [self.pool.submit(named, item) for item in items]
        # The caller runs tasks that have not started, because a task that calls this would deadlock otherwise.
        try:
            return [task(item) if future.cancel() else future.result() for item, future in zip(items, futures)]
        except (Exception, Stopped):  # but after KeyboardInterrupt, which only the main thread gets, do not wait
            wait([future for future in futures if not future.cancel()])
            raise


@dataclass(frozen=True)
class Portion:
    """A part of a local file as a request body. It is read during sending, and never wholly in memory."""

    stream: IO[bytes]
    start: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        self.stream.seek(self.start)
        for left in range(self.size, 0, -CHUNK):
            yield self.stream.read(min(CHUNK, left))


@dataclass
class Run:
    """A run: its internal ID, which requests name, and its Neptune ID. It has a claim only during a copy."""

    uuid: str = ""
    id: str = ""
    claim: str = ""
    needs_new_claim: bool = False  # a write got no answer or was refused: a request may still arrive (rule 3)


@dataclass(frozen=True)
class Server:
    """A server and one of its projects, for all threads. A request that fails raises Refused or Away."""

    backend: HostedNeptuneBackend  # the client's own connection
    shared: Shared
    workspace: str = ""
    project: str = ""
    project_id: str = ""

    @property
    def name(self) -> str:
        """Return the name, WORKSPACE/PROJECT, as the server spells it."""
        return f"{self.workspace}/{self.project}"

    @property
    def limits(self) -> MultipartConfig:
        """Return the server's size limits for upload parts, in bytes."""
        return self.backend._client_config.multipart_config or MultipartConfig.get_default()

    def url_of(self, run_id: str) -> str:
        """Return the address of a run in the app; "" for no run."""
        return self.backend.get_run_url(run_id, self.workspace, self.project, run_id) if run_id else ""

    def projects(self) -> list[dict[str, Any]]:
        """List the projects of which the token's user is a member, in pages where the server has a limit."""
        listed: list[dict[str, Any]] = []
        while True:
            try:
                page = self.call("listProjects", userRelation="viewerOrHigher", sortBy="lastViewed", offset=len(listed))
            except Refused as error:
                if error.status != 404:
                    raise
                return []  # an older server can still open projects that are named
            listed += page["entries"]
            if not page["entries"] or len(listed) >= (page.get("matchingItemCount") or 0):
                return listed

    def table(self, kind: str, columns: list[str], *conditions: str | None) -> dict[str, Fields]:
        """Read a table of runs, models or versions for which all conditions hold: internal ID → row."""
        return self.shared.patiently("searchLeaderboardEntries", partial(self.table_once, kind, columns, conditions))

    def table_once(self, kind: str, columns: list[str], conditions: Sequence[str | None]) -> dict[str, Fields]:
        """Read a table. Raise Away if rows were added or removed, because others may move to a page already read."""
        sorting = {"dir": "ascending", "aggregationMode": "none", "sortBy": {"name": "sys/id", "type": "string"}}
        search: dict[str, Any] = {"sorting": sorting, "attributeFilters": [{"path": path} for path in columns]}
        rows: dict[str, dict[str, Any]] = {}
        # A window has up to LAST_OFFSET rows, which is also as far as a search engine may count.
        window: dict[str, Any] = {}
        count, after = LAST_OFFSET, ""
        while len(window) < count:
            offset = max(len(window) - 1, 0)  # repeat the last row, to see if rows moved
            search["query"] = {"query": " AND ".join(f"({part})" for part in (*conditions, after) if part)}
            search["pagination"] = {"limit": min(ROWS_PER_PAGE, LAST_OFFSET - offset), "offset": offset}
            page = self.call("searchLeaderboardEntries", search, projectIdentifier=self.project_id, type=[kind])
            new, count = {row["experimentId"]: row for row in page["entries"]}, page["matchingItemCount"]
            has_moved = window and next(iter(new), "") != next(reversed(window))
            if has_moved or (count and new.keys() <= rows.keys()):
                raise Away("the table changes while it is read", patience=SERVER_ERROR)
            window.update(new)
            rows.update(new)
            if len(window) >= LAST_OFFSET:
                # Continue after the last ID, as the client does (api.searching_entries): IDs are ascending and unique.
                last_id = value_of(fields_of(page["entries"][-1]), "sys/id")
                window, count, after = {}, LAST_OFFSET, f"`sys/id`:string > {quoted(last_id)}"
        # Check each row, because some compatible servers ignore `type` and queries.
        of_kind = {uuid: fields_of(row) for uuid, row in rows.items() if (row.get("type") or kind) == kind}
        with_trash = NOT_TRASHED not in conditions
        return {uuid: row for uuid, row in of_kind.items() if with_trash or not value_of(row, "sys/trashed")}

    def fields(self, container: str) -> Fields:
        """Read all fields of a container with their properties, in one request."""
        return fields_of(self.call("getExperimentAttributes", experimentId=container))

    def is_trashed(self, object_id: str) -> bool | None:
        """Tell whether an object is in the trash; None if there is none. Unlike a table, this does not lag behind."""
        try:
            return bool(self.call("getExperiment", experimentId=f"{self.name}/{object_id}").get("trashed"))
        except Refused as error:
            if error.status != 404:
                raise
            return None

    def open_run(self, custom_id: str) -> Run:
        """Create the run with a custom run ID, or find the one that has it, in the trash too."""
        project = self.project_id
        request = {"projectIdentifier": project, "parentId": project, "type": "run", "customId": custom_id}
        answer = self.call("createExperiment", {**request, "cliVersion": neptune.__version__})
        return Run(answer["id"], answer["shortId"])

    def find_run(self, custom_id: str) -> Run:
        """Find the run with a custom run ID, in the trash too; return an empty Run if there is none."""
        rows = self.table("run", ["sys/id", CUSTOM_ID], f"`{CUSTOM_ID}`:string = {quoted(custom_id)}")
        # Compare the ID again, because some compatible servers ignore queries.
        runs = {value_of(row, CUSTOM_ID): Run(uuid, value_of(row, "sys/id")) for uuid, row in rows.items()}
        return runs.get(custom_id, Run())

    def restore(self, run: Run) -> None:
        """Take a run out of the trash. Raise Refused when it stays there."""
        errors = self.call("restoreExperiments", [f"{self.name}/{run.id}"], projectIdentifier=self.name)["errors"]
        if errors and errors[0]["reason"] != "NOT_IN_TRASH":  # as after a lost answer and a retry
            raise Refused("restoreExperiments", errors[0]["message"])

    def write(self, run: Run, operations: list[Operation]) -> list[str]:
        """Carry out operations on a run, with its claim if it has one (rule 1); return the server's complaints."""
        claimed = [*insert_strings(TAGS, [run.claim] if run.claim else []), *operations]

        def attempt() -> list[str]:
            try:
                errors = self.call_once("executeOperations", claimed, list, experimentId=run.uuid)
            except Away:
                run.needs_new_claim = True
                raise
            return [error["errorDescription"] for error in errors]

        try:
            return self.shared.patiently("executeOperations", attempt) if claimed else []
        except Refused as refused:  # some gateways limit the size of a request: send it in halves
            halves = in_halves(operations)
            if refused.status != requests.codes.request_entity_too_large or len(halves) < 2:
                raise
            return [complaint for half in halves for complaint in self.write(run, half)]

    def wait_for_claim(self, run: Run) -> None:
        """Wait until the table of runs, which may lag behind by seconds, shows a run's claim (rule 7)."""

        def look() -> None:
            rows = self.table("run", ["sys/id", TAGS], f"`sys/id`:string = {quoted(run.id)}")
            if run.claim not in claims_of(rows.get(run.uuid, {})):
                raise Away("the table of runs lags behind")

        # Because until then a start after a kill would skip the run: its source has not changed.
        self.shared.patiently("looking for the claim", look)

    def trash(self, ids: Sequence[str]) -> list[str]:
        """Move objects to the trash; return an error for each that failed. The client only logs them."""
        errors: list[dict[str, str]] = []
        for batch in in_batches(ids, 100):
            names = [f"{self.name}/{object_id}" for object_id in batch]
            try:
                errors += self.call("trashExperiments", names, projectIdentifier=self.name)["errors"]
            except Refused as error:  # the batches before are in the trash
                errors += [{"experimentIdentifier": name, "message": str(error), "reason": ""} for name in batch]
        # Because a model takes its versions to the trash before their turn.
        failures = [error for error in errors if error["reason"] != "ALREADY_TRASHED"]
        return [f"{failure['experimentIdentifier']}: {failure['message']}" for failure in failures]

    def pages(self, operation: str, convert: Callable[[dict[str, Any]], Any], **query: Any) -> list[Any]:
        """Read a long list: the first page, which has its length, then all others. Return convert(value) of each."""

        def read(offset: int, known: int = 0) -> tuple[int, list[Any]]:
            page = self.call(operation, **query, offset=offset, limit=POINTS_PER_PAGE)
            total, values = page["totalItemCount"], list(map(convert, page["values"]))
            # Accept values added during the read, because the next start copies the object again.
            if total < known or len(values) != min(POINTS_PER_PAGE, max(total - offset, 0)):
                told = f"the server returned {len(values)} values from {offset} on, of {total}"
                raise Refused(operation, f"{told}: run the script again")
            return total, values

        total, values = read(0)
        for _, page in self.shared.at_once(partial(read, known=total), range(POINTS_PER_PAGE, total, POINTS_PER_PAGE)):
            values += page
        return values

    def files(self, container: str, file_set: str) -> dict[str, int | None]:
        """List a file set: path of each file → bytes (None if unknown). One request for each folder."""
        sizes: dict[str, int | None] = {}
        folders, seen = {""}, set[str]()

        def read(folder: str) -> Any:
            return self.call("lsFileSetAttribute", None, list, experimentId=container, attribute=file_set, path=folder)

        while folders:
            listed = [*zip(folders, self.shared.at_once(read, folders))]
            seen, folders = seen | folders, set()
            for folder, entry in [(folder, entry) for folder, entries in listed for entry in entries]:
                path = f"{folder}/{entry['name'].strip('/').rpartition('/')[2]}".strip("/")
                if entry["fileType"] == "directory":
                    folders.add(path)
                else:
                    sizes[path] = entry.get("size")
            folders -= seen  # an empty name leads back to its own folder
        return sizes

    def call(self, operation: str, body: Any = None, expected: type = dict, headers: Any = None, **query: Any) -> Any:
        """Carry out an operation of the server's description; return its JSON. The body is a Portion, or JSON."""
        return self.shared.patiently(operation, partial(self.call_once, operation, body, expected, headers, **query))

    def call_once(self, operation: str, body: Any, expected: type, headers: Any = None, **query: Any) -> Any:
        """Carry out an operation with a single request. Raise Away if the answer is not of the expected type."""
        if body is not None and not isinstance(body, Portion):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        # None for an empty file, because requests sends an empty iterable in chunks.
        response = self.send(operation, self.build_request(operation, query, data=body or None, headers=headers))
        with contextlib.suppress(ValueError):  # as with a proxy's page
            answer = json.loads(response.content or b"null")
            if isinstance(answer, expected):
                return answer
        told = f"no JSON {expected.__name__} came for {doing(operation)}, but {response.text[:40]!r}"
        raise Away(told, patience=SERVER_ERROR)

    def described(self, operation: str) -> Any:
        """Return the server's description of an operation, or None. An answer of 404 may have other reasons."""
        apis = (self.backend.leaderboard_client.api, self.backend.backend_client.api)
        return next((getattr(api, operation).operation for api in apis if hasattr(api, operation)), None)

    def build_request(self, operation: str, query: dict[str, Any], **parts: Any) -> requests.Request:
        """Build a request from the server's description of an operation. Raise Refused if it has none."""
        described = self.described(operation)
        if described is None:
            raise Refused(operation, "this server does not offer it", 404)
        path = described.path_name.format(**{name: quote(str(value), safe="") for name, value in query.items()})
        parameters = {name: value for name, value in query.items() if f"{{{name}}}" not in described.path_name}
        url = build_operation_url(self.backend.leaderboard_client.swagger_spec.api_url, path)
        return requests.Request(described.http_method.upper(), url, params=parameters, **parts)

    def send(self, operation: str, request: requests.Request, stream: bool = False) -> requests.Response:
        """Sign and send a request through the client's session. Raise Away or Refused if it fails."""
        client = self.backend._http_client
        # Ask for uncompressed bytes: urllib3 1.x does not notice when a compressed response ends early.
        encoding = {"Accept-Encoding": "identity"} if stream else {}
        request.headers = {"X-Neptune-LegacyClient": "false", **encoding, **request.headers}
        with network_errors(operation):
            request.auth = auth = client.authenticator.auth
            self.shared.renew(auth)
            prepared = client.session.prepare_request(request)
            settings = environment_settings(client.session, *urlsplit(prepared.url or "")[:2])
            response = client.session.send(prepared, timeout=TIMEOUT, **{**settings, "stream": stream})
            if response.status_code == 401:  # because the client renews its token by this machine's clock only
                auth.token_expires_at = 0
            raise_for_answer(operation, response)
        return response

    def download(self, operation: str, local: Path, *, size: int | None = None, **query: Any) -> None:
        """Download the answer of an operation into a local file. Check its size, if `size` is known."""
        request = self.build_request(operation, query)
        self.shared.patiently(operation, partial(self.save, operation, request, local, size, None))

    def download_zip(self, local: Path, **query: Any) -> None:
        """Ask for a file set as a zip, wait until the server has packed it, and download it."""
        operation = "prepareForDownloadFileSetAttributeZip"
        pause, until = 0.1, time.monotonic() + PACKING
        prepared = self.call(operation, **query)
        while not prepared.get("downloadUrl"):
            if time.monotonic() > until:
                raise Refused(operation, "the server did not finish within an hour")
            self.shared.pause(pause)
            prepared, pause = self.call("getDownloadPrepareRequest", id=prepared["id"]), min(2 * pause, 6.4)
        request = requests.Request("GET", prepared["downloadUrl"], headers={"Accept": "application/zip"})
        self.shared.patiently("download", partial(self.save, "download", request, local, None, None))

    def save(
        self, operation: str, request: requests.Request, local: Path, size: int | None, stop: threading.Event | None
    ) -> None:
        """Download one answer. Raise Away if it is cut short, and Stopped after Ctrl-C or once an event is set."""
        response = self.send(operation, request, stream=True)
        try:
            # The server did answer, so a download that breaks off now is no outage.
            with network_errors(operation, SERVER_ERROR), response, local.open("wb") as file:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    self.shared.progress.advance(len(chunk) / 2)
                    if self.shared.stopping.is_set() or (stop and stop.is_set()):
                        raise Stopped
        except OSError:
            with contextlib.suppress(OSError):
                local.unlink()  # if the disk is full, others need the space
            raise
        check_download(operation, response, local, size)

    def upload(
        self, kind: str, query: dict[str, Any], stream: IO[bytes], size: int, download: Future[None] | None = None
    ) -> list[str]:
        """Upload a file with the operations of a kind; in parts if it exceeds the limit. Return the complaints."""
        limits, multipart = self.limits, f"{kind}MultipartUpload"
        if size <= limits.max_single_part_size:
            return self.post(f"{kind}Upload", Portion(stream, 0, size), query)
        started = self.call(f"{multipart}Start", **query, totalLength=size)
        accept(f"{multipart}Start", started)
        query = {**{name: query[name] for name in query if name != "ext"}, "uploadId": started["uploadId"]}
        part_size = max(limits.min_chunk_size, -(-size // limits.max_chunk_count))
        for index, start in enumerate(range(0, size, part_size)):
            end = min(start + part_size, size)
            # Send a part once the download has reached its end, and the last one once the download has succeeded.
            while download and not download.done() and (end == size or os.fstat(stream.fileno()).st_size < end):
                wait([download], timeout=0.05)
            if download and download.done():
                download.result()
            headers = {"X-Range": f"bytes={start}-{end - 1}/{size}"}
            part = Portion(stream, start, end - start)
            self.post(f"{multipart}Part", part, {**query, "uploadPartIdx": index}, headers)
        try:
            return self.post(f"{multipart}Finish", Portion(stream, 0, 0), query)
        except Refused as refused:  # as when the request succeeded, its answer was lost, and the retry failed
            return [str(refused)]

    def post(self, operation: str, portion: Portion, query: dict[str, Any], headers: Any = None) -> list[str]:
        """Post a part of a file; return the complaints."""
        complaints = accept(operation, self.call(operation, portion, object, headers, **query))
        self.shared.progress.advance(len(portion) / 2)
        return complaints


def fields_of(answer: dict[str, Any]) -> Fields:
    """Read the attributes in an answer. Types that the client does not know have properties, too."""
    fields: Fields = {}
    try:
        listed = answer["attributes"] or []
        for attribute in listed.values() if isinstance(listed, dict) else listed:  # some compatible servers list a map
            path, kind = attribute["name"], attribute["type"]
            fields[path] = Field(path, kind, attribute.get(f"{kind}Properties") or {})
        # Every object has an ID. An answer without it is not whole, and a copy would remove what it lacks from a run.
        fields["sys/id"]
    except KeyError as error:
        raise Refused("getExperimentAttributes", f"the server's answer lacks {error}") from error
    return fields


def quoted(text: str) -> str:
    """Quote a text for Neptune's query language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@contextlib.contextmanager
def network_errors(operation: str, patience: float = OUTAGE) -> Iterator[None]:
    """Raise Away or Refused for what requests, the client and its token service raise."""
    try:
        yield
    except (
        client_errors.NeptuneConnectionLostException,
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):  # a later try would meet the same certificate
            raise Refused(operation, NO_CERTIFICATE.format("the server")) from error
        answer = getattr(error.__cause__, "response", None)  # the client takes some statuses for a lost connection
        if answer is not None:
            raise_for_answer(operation, answer)
        raise Away(f"no answer to {doing(operation)} ({type(error).__name__})", patience=patience) from error
    except OAuth2Error as error:  # as while the token service restarts
        raise Away(f"the server does not renew the access token ({type(error).__name__})", patience=patience) from error
    except (
        client_errors.NeptuneInvalidApiTokenException,
        client_errors.Unauthorized,
        client_errors.Forbidden,
    ) as error:
        answer = getattr(error.__context__, "response", None)
        if answer is not None and answer.headers.get("Retry-After"):
            raise_for_answer(operation, answer)
        raise Refused(operation, "the server rejects the API token", 401) from error
    except HTTPError as error:
        raise_for_answer(operation, error.response)
        raise


def raise_for_answer(operation: str, response: Any) -> None:
    """Raise Away if a retry may help with an error of requests or bravado, and Refused for other errors."""
    status = response.status_code
    if status < 400:
        return
    said, patience = f"{status} {response.reason}", PATIENCE.get(status)
    retry_after = response.headers.get("Retry-After", "")
    if status == 403 and retry_after:  # some rate limits
        patience = OUTAGE
    if "Length of stream does not match given range" in response.text:  # an upload that was cut short on its way
        patience = SERVER_ERROR
    if patience:
        seconds = float(retry_after) if retry_after.isdecimal() else 0.0
        # Ignore a longer time, because some gateways send an epoch.
        raise Away(f"the server answers {said}", status, seconds if seconds <= OUTAGE else 0.0, patience)
    try:
        answer = dict(response.json())
    except (ValueError, TypeError):
        answer = {}
    reason = answer.get("title") or answer.get("message") or answer.get("errorType")
    said += f": {reason}" if reason else ""
    raise Refused(operation, f"the server refused it ({said})", status, answer)


@functools.lru_cache(maxsize=100)
def environment_settings(session: requests.Session, scheme: str, host: str) -> Any:
    """Return the environment's proxy and certificates for a host. Cached, because reading them is slow."""
    # Pass on "trust any certificate", because requests would prefer REQUESTS_CA_BUNDLE.
    verify = False if session.verify is False else None
    return session.merge_environment_settings(f"{scheme}://{host}", {}, None, verify, None)


def check_download(operation: str, response: requests.Response, local: Path, size: int | None) -> None:
    """Raise Away if a download is not the whole file, and Refused if nothing shows that it is."""
    arrived, content_type = local.stat().st_size, response.headers.get("Content-Type", "")
    missing = response.raw.length_remaining  # an older urllib3 does not report it itself
    # Images have a type, from which the client makes an extension. A proxy's page has none, or a text type.
    is_page = response.status_code != 200 or re.match(r"$|text/|application/json", content_type)
    is_whole = not missing and (not is_page if size is None else arrived == size)
    if not is_whole and missing == 0 and not is_page:  # a retry would bring the same bytes
        raise Refused(operation, f"the file has {arrived} bytes, but the server lists {size}: run the script again")
    if not is_whole:
        expected = "the whole file" if size is None else size
        told = f"{arrived} bytes ({content_type or 'of no type'}) came instead of {expected}"
        raise Away(f"{told}: check the gateway if this happens again", patience=SERVER_ERROR)
    # `missing` is None without a length, or with chunks: their end shows that the answer is whole (RFC 9112, 6.3).
    if size is None and missing is None and not response.raw.chunked:
        raise Refused(operation, "the answer has no Content-Length, so it may be cut short: check the gateway")


def accept(operation: str, answer: Any) -> list[str]:
    """Raise Refused for errors in the answer to an upload; return a complaint if it has no list of errors."""
    answer = answer if isinstance(answer, dict) else {}  # hosted_file_operations knows both forms of errors
    errors = [answer] if "errorDescription" in answer else answer.get("errors")
    if errors:
        raise Refused(operation, "; ".join(error["errorDescription"] for error in errors))
    return ["the answer does not say whether the upload succeeded"] if errors is None else []


# ---- The screen --------------------------------------------------------------------------------------------------

KINDS = {MODEL: "models", MODEL_VERSION: "model versions"}


def say(text: str = "", stream: Any = None) -> None:
    """Print and flush lines, and log them. Ignore a closed output, as behind `| head`."""
    # Escape control characters, because names of fields, and the server's answers, may contain them.
    plain = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    if plain.strip():
        log.info("%s", plain.strip("\n"))
    if is_terminal(stream or sys.stdout):
        # Break lines at words, because a terminal breaks inside a word. Never break a path or an address.
        width = shutil.get_terminal_size().columns
        wrapper = textwrap.TextWrapper(width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        plain = "\n".join(map(wrapper.fill, plain.split("\n")))
    with contextlib.suppress(OSError):
        print(f"{plain}\n", end="", file=stream, flush=True)  # at once, because the bar may be drawn in between


def is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal. A daemon, or pythonw, has no streams at all."""
    return stream is not None and stream.isatty()


def in_units(size: float) -> str:
    """Write bytes for people: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def in_time(seconds: float) -> str:
    """Write seconds for people: 6 s, 0:41, 1:02:03."""
    if seconds < 9.5:
        return f"{seconds:.0f} s"
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")


def plural(number: int, word: str) -> str:
    """Write a number with its word: 1 model, 2 models."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


class Progress:
    """One bar for the whole migration, in bytes and objects; without a terminal, a line every ten seconds."""

    LINE_EVERY = 10  # seconds, where there is no bar
    OBJECT = 100_000  # bytes added for each object, because even one without files takes requests

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        """Start a bar for objects of these sizes, in bytes."""
        self.objects, self.bytes = len(sizes), sum(sizes)
        self.moved = 0.0  # bytes
        self.in_flight: list[Source] = []
        self.done: Counter[str] = Counter()  # status → objects
        self.done_bytes = 0  # of these objects
        self.reasons: list[str] = []  # why threads wait
        self.lock = threading.Lock()
        self.began = self.shown = time.monotonic()
        # Because Python warns at the end about tqdm's own lock, which processes could share (macOS, Python 3.14).
        tqdm.set_lock(threading.RLock())
        # A log on the screen would break the bar.
        has_bar = sizes and is_terminal(sys.stderr) and not any(map(is_screen, logging.root.handlers))
        total, form = self.bytes + self.OBJECT * self.objects, "{percentage:3.0f}% |{bar}| {desc}"
        self.bar = tqdm(total=total, disable=not has_bar, ascii=" #", dynamic_ncols=True, bar_format=form)

    def advance(self, size: float) -> None:
        """Count bytes: half of a file for its download, half for its upload."""
        with self.lock:
            # Count no more than the objects have, because the server's sizes are not exact, and retries count twice.
            begun = self.done_bytes + sum(source.size for source in self.in_flight)
            self.moved = min(self.moved + size, begun)
            if time.monotonic() - self.shown > 0.1:  # because drawing takes longer than counting
                self.show()

    @contextlib.contextmanager
    def working_on(self, outcome: Outcome) -> Iterator[None]:
        """Show an object during a with block; then count it by its status, unless Ctrl-C has stopped it."""
        source = outcome.source
        with self.lock:
            self.in_flight.append(source)
            self.show()
        yield
        with self.lock:
            self.in_flight.remove(source)
            self.done[outcome.status] += 1
            self.done_bytes += source.size
            self.moved = max(self.moved, self.done_bytes)
            self.show()

    @contextlib.contextmanager
    def waiting(self, host: str, reason: str) -> Iterator[None]:
        """Show the reason of a wait during a with block. Without a bar, say when the first begins and the last ends."""
        with self.lock:
            if self.bar.disable and not self.reasons:
                say(f"Waiting for {host}: {reason}")
            self.reasons.append(reason)
            self.show()
        try:
            yield
        finally:
            with self.lock:
                self.reasons.remove(reason)
                self.show()
                if self.bar.disable and not self.reasons:
                    say(f"The wait for {host} is over.")

    def show(self) -> None:
        """Draw the bar. Without one, print a line if the last one is old."""
        tell, interval = (say, self.LINE_EVERY) if self.bar.disable else (self.bar.set_description_str, 0)
        if self.objects and time.monotonic() - self.shown >= interval:
            self.shown = time.monotonic()
            self.bar.n = self.moved + self.OBJECT * sum(self.done.values())
            tell(self.text())

    def text(self) -> str:
        """Describe how far the copy is, how long it will take, and what it does or waits for."""
        elapsed = max(time.monotonic() - self.began, 0.01)  # because some clocks tick slowly
        # A reason comes first, because what does not fit the terminal is cut at the end.
        parts = [f"waiting: {reason}" for reason in self.reasons[:1]]
        total = in_units(self.bytes)
        moved = in_units(self.moved).removesuffix(total.lstrip("0123456789."))  # write a common unit once
        parts += [f"{sum(self.done.values())}/{self.objects} objects", f"{moved}/{total}"]
        if self.moved:
            parts.append(f"{in_units(self.moved / elapsed)}/s")
        if self.bar.n:
            parts.append(f"{in_time(elapsed * ((self.bar.total or 0) / self.bar.n - 1))} left")
        parts += [f"{self.done[status]} {status}" for status in (FAILED, DIFFERS) if self.done[status]]
        parts += [source.id for source in self.in_flight[:1]]
        return ", ".join(parts)


def say_found(jobs: Sequence[Job], options: Options) -> None:
    """Print a line for each project: what it contains, what is complete, and what is to do."""
    say()
    for job in jobs:
        kinds = Counter(source.kind for source in job.sources)
        states = Counter(source.state for source in job.sources)
        complete = states[UP_TO_DATE] + states[UNSURE]
        plan = "to check" if states[UNSURE] else "up to date"
        if options.recopy or options.verify:
            plan = "to copy again" if options.recopy else "to verify"
        contents = f"{plural(kinds[MODEL], 'model')}, {plural(kinds[MODEL_VERSION], 'version')}"
        size = in_units(sum(source.size for source in job.sources))
        say(f"{job.server.name}: {contents}, {size}; {complete:,} {plan}, {len(job.sources) - complete:,} to copy")


def say_outcomes(outcomes: Sequence[Outcome], seconds: float, options: Options) -> None:
    """Print the results: the objects of a dry run, a sentence, tables, and lists of what was not simply copied."""
    is_dry, amounts = options.dry_run, ("fields", "skipped", "size")
    if is_dry:
        rows = [(outcome.source.id, outcome.status, *tally([outcome])) for outcome in outcomes]
        say_table(("object", "status", *amounts), rows)
    always = (NEW if is_dry else COPIED, VERIFIED if options.verify else UP_TO_DATE, FAILED)
    found = {*always, *(outcome.status for outcome in outcomes)}
    statuses = [status for status in STATUSES if status in found]
    say_summary(outcomes, statuses, None if is_dry else seconds)
    groups = {name: [outcome for outcome in outcomes if outcome.source.kind == kind] for kind, name in KINDS.items()}
    rows = [(name, *tally(group, statuses)) for name, group in [*groups.items(), ("total", outcomes)]]
    say_table(("", *statuses, *amounts), rows)
    say_types(outcomes, tell=say if is_dry else log.info)
    for name, words in NOTES.items():
        texts = [(outcome.source.id, "", text) for outcome in outcomes for text in getattr(outcome, name)]
        title = f"would be {words}" if is_dry else words
        say_each(f"{title.capitalize()} ({len(texts):,}):", texts, most=sys.maxsize if is_dry else 20)
    left_out = {path for outcome in outcomes for path in outcome.left_out}
    for pattern in options.exclude or () if any(outcome.fields for outcome in outcomes) else ():
        if not fnmatch.filter(left_out, pattern):
            say(f"\nNo field was left out by --exclude {pattern!r:.300}.")
    differing = [outcome for outcome in outcomes if outcome.status == DIFFERS]
    title = "Differs (use the flags of the copy; to repair it, add --recopy --only ID):"
    say_each(title, failures_of(differing), file="log" if is_dry else "report")


def say_summary(outcomes: Sequence[Outcome], statuses: Iterable[str], seconds: float | None) -> None:
    """Say in a sentence how many objects were copied, with how much in them, and the status of the others."""
    counts = Counter(outcome.status for outcome in outcomes)
    others = ", ".join(f"{counts[status]:,} {status}" for status in statuses if status not in (COPIED, *DUE))
    copied = [outcome for outcome in outcomes if outcome.status in (COPIED, *DUE)]
    fields, _, size = tally(copied)
    verb, took = ("Would copy", "") if seconds is None else ("Copied", f" in {in_time(seconds)}")
    start = f"{verb} {len(copied):,} of {plural(len(outcomes), 'object')}{took}"
    say(f"\n{start}: {plural(fields, 'field')}, {size}. {others}.")


def tally(outcomes: Sequence[Outcome], statuses: Iterable[str] = ()) -> list[Any]:
    """Count outcomes by status, the fields of whole copies and skipped fields; add up the sizes of whole copies."""
    counts = Counter(outcome.status for outcome in outcomes)
    whole = [outcome for outcome in outcomes if outcome.status in WHOLE]
    fields = sum(sum(outcome.fields.values()) for outcome in whole)
    skipped = sum(len(outcome.skipped) for outcome in outcomes)
    size = in_units(sum(outcome.source.size for outcome in whole))
    return [*(counts[status] for status in statuses), fields, skipped, size]


def say_types(outcomes: Iterable[Outcome], tell: Callable[[str], None]) -> None:
    """Print a table of the fields and bytes in whole copies, by type of field."""
    fields, sizes = Counter[str](), Counter[str]()
    for outcome in outcomes:
        if outcome.status in WHOLE:
            fields += outcome.fields
            sizes += outcome.bytes
    rows = [(name, count, in_units(sizes[name]) if sizes[name] else "") for name, count in fields.most_common()]
    say_table(("", "fields", "size"), rows, tell)


def say_table(head: Sequence[str], rows: Sequence[Sequence[Any]], tell: Callable[[str], None] = say) -> None:
    """Print a blank line and a table, unless it is empty."""
    if not rows:
        return
    lines = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in (head, *rows)]
    width, *widths = (max(map(len, column)) for column in zip(*lines))
    tell("")
    for name, *cells in lines:
        tell("  ".join([name.ljust(width), *map(str.rjust, cells, widths)]).rstrip())


def failures_of(outcomes: Iterable[Outcome]) -> list[tuple[str, str, str]]:
    """List the failures of outcomes: ID, path or "", reason."""
    return [(outcome.source.id, *failure) for outcome in outcomes for failure in sorted(outcome.failed.items())]


def say_each(title: str, lines: Iterable[tuple[str, str, str]], most: int = sys.maxsize, file: str = "log") -> None:
    """Print a titled list of IDs, paths and texts, unless it is empty. A text of over three objects gets one line."""
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)  # text → IDs and paths
    for object_id, path, text in lines:
        places[text].append((object_id, f"{path}: " if path else ""))
    rows = []
    for text, ids_and_paths in places.items():
        ids, paths = list(dict.fromkeys(map(itemgetter(0), ids_and_paths))), {*map(itemgetter(1), ids_and_paths)}
        if len(ids) > 3:
            where = paths.pop() if len(paths) == 1 else ""
            rows.append(f"  {len(ids):,} objects  {where}{text} ({', '.join(ids[:3])}, ...: all are in the {file})")
        else:
            rows += [f"  {object_id}  {path}{text}" for object_id, path in ids_and_paths]
    if len(rows) > most:
        rows[most:] = [f"  and {len(rows) - most:,} more: see the log"]
    if rows:
        say(f"\n{title}")
    for row in rows:
        say(row)


# ---- The command line --------------------------------------------------------------------------------------------


class CannotStart(Exception):
    """The migration cannot begin; the text tells in a sentence why, and what to do."""


WITH_UNDO = ("project", "only", "workers", "dry_run", "undo", "yes")  # --undo would ignore the other flags
MOST_WORKERS = 200
DEFAULT_WORKERS = min(32, (getattr(os, "process_cpu_count", os.cpu_count)() or 1) + 4)  # as ThreadPoolExecutor has
INTERRUPTED = 130  # the exit status
OPEN_FILES = 4096  # as many as 200 workers may need
Sources = dict[str, Source]  # what may go to the trash: the ID of an object, or of its run → the object


def flag(group: str, text: str, *letters: str, default: Any = None, **settings: Any) -> Any:
    """Describe a field of Options as a flag: its group, help text, one-letter names and argparse settings."""
    return field(default=default, metadata={"group": group, "letters": letters, "settings": {"help": text, **settings}})


WHAT, HOW, CLEAR = "what to copy", "how to copy", "to clean up (lists the objects, then asks)"
switch = partial(flag, default=False, action="store_true")
several = partial(flag, WHAT, action="append", metavar="PATTERN")


def whole_number(text: str) -> int:
    """Read the number of workers. Raise CannotStart if the text is not such a number."""
    if not text.strip().isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise CannotStart(f"{text!r} is not a positive whole number of at most {MOST_WORKERS} workers.")
    return int(text)


@dataclass(frozen=True)
class Options:
    """What the command line asks for. Each field is a flag."""

    project: Sequence[str] | None = several("WORKSPACE/PROJECT, WORKSPACE/* (repeatable; default: asks)", metavar="P")
    only: Sequence[str] | None = several('only IDs like "CR-FOREST*" (repeatable; default: all)')
    exclude: Sequence[str] | None = several('no fields like "monitoring/*" (repeatable; default: none)')
    query: str | None = flag(WHAT, "models that match, with their versions (default: all)", metavar="NQL")
    version_query: str | None = flag(WHAT, "model versions that match (default: all)", metavar="NQL")
    recopy: bool = switch(WHAT, "copy all again, without what people added to the runs")
    workers: int | None = flag(HOW, "how many objects in parallel (default: asks)", type=whole_number, metavar="N")
    stage_as_tag: bool = switch(HOW, "make the stage a tag, not the field old_sys/stage")
    verify: bool = switch(HOW, "compare every point and byte, of earlier copies too")
    delete_files: bool = switch(HOW, "delete downloads as soon as a copy is verified")
    dry_run: bool = switch(HOW, "write nothing to the server; list what it would do", "-n")
    undo: bool = switch(CLEAR, "move to the trash the runs that this script made")
    trash_models: bool = switch(CLEAR, "after copying, trash the verified models and versions")
    yes: bool = switch(CLEAR, "do not ask before moving something to the trash", "-y")


class Parser(argparse.ArgumentParser):
    """A parser that tells errors as the rest of the script does."""

    def error(self, message: str) -> NoReturn:
        raise CannotStart(f"{message.rstrip('.')}. See --help.")


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line. Raise CannotStart for an empty value, and for what --undo would ignore."""
    title, _, rest = (__doc__ or "").partition("\n")  # `python -OO` removes docstrings
    parser = Parser(
        description=f"{title}\nNEPTUNE_API_TOKEN must hold your API token.",
        usage="%(prog)s [PROJECT ...] [FLAG ...]",
        epilog=rest[rest.find("examples:") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # "--un" must not move anything to the trash
    )
    version = NO_CLIENT or f"neptune {neptune.__version__}"
    parser.add_argument("--version", action="version", version=version, help="show the client's version")
    groups = {name: parser.add_argument_group(name) for name in (WHAT, HOW, CLEAR)}
    groups[WHAT].add_argument("names", nargs="*", metavar="PROJECT", help="the same as --project PROJECT")
    for option in dataclasses.fields(Options):
        names = (f"--{option.name.replace('_', '-')}", *option.metadata["letters"])
        groups[option.metadata["group"]].add_argument(*names, **option.metadata["settings"])
    given = vars(parser.parse_intermixed_args(arguments))
    given["project"] = [*(given["project"] or ()), *given.pop("names")] or None
    given["only"] = given["only"] and [pattern.strip() for text in given["only"] for pattern in text.split(",")]
    for name, value in given.items():
        long_name = f"--{name.replace('_', '-')}"
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if not all(map(str.strip, texts)):
            raise CannotStart(f"{long_name} has an empty value: check the variable that you passed.")
        if given["undo"] and value and name not in WITH_UNDO:
            raise CannotStart(f"--undo and {long_name} cannot go together: use only one.")
    return Options(**given)


def sign_in(shared: Shared) -> Server:
    """Sign in to the server that the API token names, without a project. Raise CannotStart if that fails."""
    address = server_address()
    shared.host = urlsplit(address).hostname or address
    try:
        return Server(shared.patiently("sign-in", partial(connect, address)), shared)
    except CannotStart:
        raise
    except Exception as error:
        advice = "check the server, or copy your API token anew from the app"
        raise CannotStart(f"Cannot sign in to {address} ({in_words(error)}): {advice}.") from error


def server_address() -> str:
    """Read the server's address from the API token. Raise CannotStart if there is none that can be used."""
    try:
        token = Credentials.from_token()
        address: str = build_operation_url(token.api_url_opt or token.token_origin_address, "")
        parts = urlsplit(address)
        if not parts.hostname or not token.api_token.isprintable():  # a header has no line breaks
            raise ValueError
    except Exception:
        problem = "NEPTUNE_API_TOKEN is not set to a Neptune API token: copy your API token from the app and export it."
        raise CannotStart(problem) from None  # because the error may have the token
    if f".{parts.hostname}".endswith(".neptune.ai"):
        raise CannotStart(f"The hosted Neptune service ({parts.hostname}) has been shut down: use your server's token.")
    if parts.scheme == "http" and not os.environ.get("OAUTHLIB_INSECURE_TRANSPORT"):
        advice = "export OAUTHLIB_INSECURE_TRANSPORT=1 if you trust the network, or use https"
        raise CannotStart(f"{address} is plain http, over which the client cannot renew its token: {advice}.")
    return address


def connect(address: str) -> HostedNeptuneBackend:
    """Make the client's connection. Pass empty proxies, because the client then takes them from the environment."""
    credentials = Credentials.from_token()
    with network_errors("sign-in", SERVER_ERROR), client_tries_once():
        try:
            check_address(address, "the API token")
            api_url = get_client_config(credentials=credentials, ssl_verify=ssl_verify(), proxies={}).api_url
            if urlsplit(api_url)[:2] != urlsplit(address)[:2]:
                check_address(api_url, address)
            return HostedNeptuneBackend(credentials, proxies={})
        except (AttributeError, requests.exceptions.JSONDecodeError) as error:  # a page instead of an answer
            raise Away(f"{type(error).__name__}: {error}", patience=DOUBT) from error


@contextlib.contextmanager
def client_tries_once() -> Iterator[None]:
    """Keep the client from retrying in a with block: it would for a minute, or NEPTUNE_RETRIES_TIMEOUT, silently."""
    before, client_utils.retries_timeout = client_utils.retries_timeout, 0.1  # seconds
    try:
        yield
    finally:
        client_utils.retries_timeout = before


def check_address(address: str, origin: str) -> None:
    """Raise CannotStart if an address cannot be reached. Check first: the client would retry it silently."""
    scheme, host = urlsplit(address).scheme, urlsplit(address).hostname
    try:
        answer = requests.get(build_operation_url(address, BACKEND_SWAGGER_PATH), timeout=15, verify=ssl_verify())
        if answer.status_code == requests.codes.proxy_authentication_required:
            raise requests.exceptions.ProxyError(answer.reason)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.InvalidSchema) as error:
        # InvalidSchema means a SOCKS proxy without PySocks.
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise CannotStart(NO_CERTIFICATE.format(host)) from error
        proxies = [name for name in os.environ if name.lower() in (f"{scheme}_proxy", "all_proxy")]
        proxy = f"the proxy in {' and '.join(proxies)} (if SOCKS, pip install pysocks), " if proxies else ""
        problem = f"{address}, which {origin} names, cannot be reached"
        raise CannotStart(f"{problem}: check {proxy}your network and the server.") from error
    final = urlsplit(answer.url)
    if answer.history and final[:2] != urlsplit(address)[:2]:
        raise Refused("sign-in", f"{address} redirects to {final.scheme}://{final.netloc}")
    raise_for_answer("sign-in", answer)


def choose_projects(server: Server, options: Options) -> list[Server]:
    """Open the projects that the flags name or, without flags, those that the person names. Raise CannotStart."""
    default = os.environ.get("NEPTUNE_PROJECT", "")
    try:
        if options.project or not can_ask():
            return open_projects(server, options.project or [default], options)
        say("Which project? WORKSPACE/PROJECT, several with commas, or WORKSPACE/* for all.")
        question = f"Project [{default}]: " if default else "Project: "
        return ask(question, lambda answer: open_projects(server, [answer or default], options))
    except (Refused, Away, KeyError) as error:
        raise CannotStart(f"The projects cannot be opened: {in_words(error)}.") from error


def open_projects(server: Server, texts: Iterable[str], options: Options) -> list[Server]:
    """Open projects by name. Commas separate names, unless a project's name has one. Report those it cannot copy."""
    listed = {f"{project['organizationName']}/{project['name']}": project for project in server.projects()}
    names = [name.strip() for text in texts for name in ([text] if text in listed else text.split(","))]
    projects: dict[str, Any] = {}
    for name in filter(None, names):
        projects |= find_projects(server, name, listed)
    opened: list[Server] = []
    problems: list[str] = []
    for name, project in projects.items():
        if project.get("archived") and not options.dry_run:
            problems.append(f"{name} is archived: unarchive it in the app, because the script must write to it.")
        elif project.get("userRoleInProject") == "viewer" and not options.dry_run:
            problems.append(f"You may only look at {name}: a copy needs the role of a contributor.")
        else:
            workspace, project_name = project["organizationName"], project["name"]
            opened.append(replace(server, workspace=workspace, project=project_name, project_id=project["id"]))
    if not opened:
        raise CannotStart(" ".join(problems) or "No project is given: enter WORKSPACE/PROJECT, or use --project.")
    for problem in problems:
        say(problem)
    server.shared.problems += problems
    return opened


def find_projects(server: Server, name: str, listed: dict[str, Any]) -> dict[str, Any]:
    """Return the project with a name, or those of WORKSPACE/*. Raise CannotStart if there is none."""
    matching = [project for project in sorted(listed) if name in (project, f"{project.partition('/')[0]}/*")]
    if matching:
        return {project: listed[project] for project in matching}
    identifier = name.encode(errors="replace").decode()  # because a shell may pass bytes that are not UTF-8
    try:
        return {name: server.call("getProject", projectIdentifier=identifier)}
    except Refused as error:
        if error.status not in (400, 401, 403, 404):
            raise
        raise CannotStart(f"There is no project {name} that the token can see.{near(name, listed)}") from error


def near(name: str, known: Iterable[str]) -> str:
    """Suggest projects or IDs that are similar to a wrong one. Ignore case; the workspace or key may be missing."""
    known = sorted(known)
    forms = {form: text for text in known for form in (text.lower(), re.split("[/-]", text.lower(), maxsplit=1)[-1])}
    close = dict.fromkeys(forms[form] for form in difflib.get_close_matches(name.lower(), forms))
    if close:
        return f" Did you mean {' or '.join(close)}?"
    more = f" and {len(known) - 3:,} more" if len(known) > 3 else ""
    return f" There are {', '.join(known[:3])}{more}." if known else ""


def choose_workers(options: Options) -> int:
    """Return the number of workers from the flag or the person; otherwise ThreadPoolExecutor's default."""
    if options.workers or options.undo or not can_ask():
        return options.workers or DEFAULT_WORKERS
    say(f"How many workers? Enter leaves it to ThreadPoolExecutor: {DEFAULT_WORKERS} here.")
    return ask("Workers: ", lambda answer: whole_number(answer) if answer else DEFAULT_WORKERS)


def can_ask() -> bool:
    """Tell whether there is a person to ask. Python's input() needs all three streams."""
    return is_terminal(sys.stdin) and None not in (sys.stdout, sys.stderr)


def ask(question: str, read: Callable[[str], Any]) -> Any:
    """Ask the person until the answer can be read. Raise CannotStart at the end of the input."""
    while True:
        try:
            return read(input(question).strip())
        except CannotStart as problem:
            say(str(problem))
        except EOFError:
            say()
            raise CannotStart("The input ended: give the answer as a flag (see --help).") from None


def agrees(question: str, options: Options) -> bool:
    """Ask the person to confirm, unless --yes is set."""
    try:
        return options.yes or ask(f"{question} [y/N]: ", str.lower) in ("y", "yes")
    except CannotStart:  # the end of the input is no yes
        return False


def hide_token(record: logging.LogRecord) -> bool:
    """Take the API token out of what is logged, tracebacks included: a filter for log handlers."""
    token = os.environ.get("NEPTUNE_API_TOKEN", "").strip() or "***"
    with contextlib.suppress(Exception):  # a formatting error must not stop the script
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info).replace(token, "***")
        record.msg, record.args = record.getMessage().replace(token, "***"), None
    return True


def is_screen(handler: logging.Handler) -> bool:
    """Tell whether a log handler writes to the screen, as after an edit of start_log()."""
    return getattr(handler, "stream", None) in (sys.stdout, sys.stderr)


def hold_log() -> logging.handlers.MemoryHandler:
    """Remove all loggers from the screen, and buffer their messages until open_log()."""
    # The client's loggers print to standard output and do not propagate (neptune.internal.utils.logger).
    for name in ("neptune", "neptune_no_prefix"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("requests_oauthlib").setLevel(logging.INFO)  # its debug lines have access tokens
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # report a full disk once, not for each line of the log
    held = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
    logging.root.addHandler(held)
    logging.root.setLevel(logging.INFO)
    return held


def open_log(file: str, held: logging.handlers.MemoryHandler) -> None:
    """Start the log with the buffered messages, and say where it is. Raise CannotStart if it is not writable."""
    logging.root.removeHandler(held)
    try:
        start_log(file)
    except OSError as error:
        where = f"{error.filename or file} ({error.strerror})"
        raise CannotStart(f"Cannot write the log to {where}: start elsewhere, or edit start_log().") from None
    for handler in logging.root.handlers:
        handler.addFilter(hide_token)
        if is_screen(handler):
            handler.addFilter(lambda record: record.funcName != "say")
    for record in held.buffer:
        logging.root.handle(record)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            say(f"Log: {handler.baseFilename.removeprefix(os.getcwd() + os.sep)}")


@contextlib.contextmanager
def locked(server: Server) -> Iterator[Job]:
    """Lock a project in this directory. Raise CannotStart if it is locked already, OSError without a file."""
    file = Path(f"models_migration_{file_name(server.name)}.lock")
    job = Job(server, unfinished=file.exists())
    with file.open("a") as opened:  # the system releases the lock when the process ends, even by a kill
        try:
            lock_file(opened)
            if not os.path.samestat(os.fstat(opened.fileno()), file.stat()):  # its last holder has removed it
                raise BlockingIOError
        except (BlockingIOError, PermissionError, FileNotFoundError):
            taken = f"Another migration of {server.name} is running in this directory: wait until it ends."
            raise CannotStart(taken) from None
        except OSError:
            say("Files cannot be locked here: do not start a second migration in this directory.")
        try:
            yield job
        finally:
            if sys.platform == "win32":
                opened.close()  # because Windows does not remove an open file
            if not job.unfinished:
                with contextlib.suppress(OSError):  # on Windows, another start may have opened it just now
                    file.unlink()


def lock_file(opened: IO[str]) -> None:
    """Lock a file for this process. Raise OSError if that fails."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(opened.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)


def file_name(project: str) -> str:
    """Make a part of a file name from a project's name: unique, and of at most 100 bytes."""
    letters = re.UNICODE if sys.getfilesystemencoding() == "utf-8" else re.ASCII  # as in an old locale
    return short(re.sub(r"[^\w.-]", lambda other: f"%{ord(other[0]):02X}", project, flags=letters), 100)


def new_session(servers: Sequence[Server]) -> tuple[str, Path]:
    """Name this session's log and report, and make the folder for its downloads, which only its owner can read."""
    projects = file_name("_and_".join(server.name for server in servers)).replace("%2F", "_")
    with tempfile.TemporaryFile(dir=".") as probe:  # a full disk may have room for names, but not for bytes
        probe.write(b"1")
    while True:
        stamp = f"{datetime.now():%Y%m%d%H%M%S}"
        folder = Path(f"tmp_{stamp}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            return f"models_migration_{projects}_{stamp}", folder
        time.sleep(0.1)


def choose_objects(jobs: Sequence[Job], options: Options) -> list[Job]:
    """Set the objects of each project; return the projects that can be read. Raise CannotStart if none is chosen."""
    readable, listed_ids, problems = [], [], jobs[0].server.shared.problems
    for job in jobs:
        with noting_problem(job.server):
            listed = read_registry(job.server, options)
            job.sources = [source for source in listed if is_wanted(source, options)]
            if job.unfinished:
                mark_unsure(job, listed, options)
            listed_ids += [source.id for source in listed]
            readable.append(job)
    if not readable:
        raise CannotStart(problems[-1])
    ids = [source.id for job in readable for source in job.sources]
    unmatched = [
        f"No model or version matches --only {pattern!r:.300}.{near(pattern, listed_ids)}"
        for pattern in options.only or ()
        if not any(fnmatch.fnmatchcase(object_id, pattern) for object_id in ids)
    ]
    if not ids:
        queries = {"--query": options.query, "--version-query": options.version_query}
        unmatched += [f"No model or version matches {name} {query!r:.300}." for name, query in queries.items() if query]
    if unmatched and not ids:
        raise CannotStart(" ".join([*unmatched, *problems]))
    for sentence in unmatched:
        say(sentence)
    return readable


def mark_unsure(job: Job, listed: Sequence[Source], options: Options) -> None:
    """After a start that did not finish, have each run read, because the table of runs may lag behind."""
    say(f"{job.server.name}: the last start did not finish, so this one reads every run")
    is_part = len(job.sources) < len(listed) or options.query or options.version_query
    job.stays_unfinished = bool(is_part or options.dry_run)
    job.sources = [replace(source, state=UNSURE) if source.state == UP_TO_DATE else source for source in job.sources]


@contextlib.contextmanager
def noting_problem(server: Server) -> Iterator[None]:
    """Note an error of one project, so that it does not stop the others."""
    try:
        yield
    except Exception as error:
        problem = str(error) if isinstance(error, CannotStart) else f"{server.name}: {in_words(error)}"
        log_problem(problem, error)
        server.shared.problems.append(problem)


def check_disk(jobs: Sequence[Job], options: Options) -> None:
    """Compare the free disk with the bytes to download. Raise CannotStart when they do not fit."""
    to_keep: list[int] = []  # bytes of each object
    to_delete: list[int] = []  # after the comparison, or by --delete-files
    to_read_back: list[int] = []  # from runs, to compare them: deleted, too
    for source in to_do([source for job in jobs for source in job.sources], options):
        if source.state == UNSURE and not (options.verify or options.recopy):
            continue  # few of these need a download
        is_copied = source.state != UP_TO_DATE or options.recopy
        (to_keep if is_copied and not options.delete_files else to_delete).append(source.size)
        if options.verify or source.run_uuid:  # an earlier copy, which compare_contents() may have to read
            to_read_back.append(source.size)
    # Of what is deleted, the disk holds at most the largest objects, one for each worker.
    in_flight = [sorted(sizes, reverse=True)[: options.workers] for sizes in (to_delete, to_read_back)]
    needed, free = sum(to_keep) + sum(map(sum, in_flight)), shutil.disk_usage(".").free
    if options.dry_run:
        say(f"Disk: {in_units(needed)} to download, {in_units(free)} free here")
    elif needed > free:
        room = f"There are {in_units(needed)} to download, and this disk has {in_units(free)} free"
        raise CannotStart(f"{room}: start the script on a larger disk, or with --delete-files.")


def undo(jobs: Sequence[Job], options: Options) -> int:
    """After asking, move to the trash the runs that this script made; return the exit status."""
    for job in jobs:
        with noting_problem(job.server):
            runs = runs_made(job.server, options)
            say(f"\n{job.server.name}: {plural(len(runs), 'run')} made by this script (run, source)")
            say("(A run stays if its model or version is in the trash or deleted.)")
            choose = partial(runs_made, job.server, options)
            move_to_trash(job.server, "run", runs, choose, (INCOMPLETE, CHANGED, UP_TO_DATE), options)
    shared = jobs[0].server.shared
    say_failures(shared, [], options)
    return int(bool(shared.problems))


def runs_made(server: Server, options: Options) -> Sources:
    """Map the runs that this script made, run ID → source. Leave out a run that is the only copy left."""
    rows = {value_of(row, "sys/id"): row for _, row in read_copies(server, options).values()}
    made = {}
    for source in read_registry(server, Options()):  # which finds a run by its tag, custom run ID and owner
        row = rows.get(source.run_id, {})
        is_begun = value_of(row, MARK) is not None or claims_of(row)
        if is_begun and source.model_id in (value_of(row, GROUP_TAGS) or ()) and is_wanted(source, options):
            made[source.run_id] = source
    return made


def trash_models(jobs: Sequence[Job], outcomes: Sequence[Outcome], options: Options) -> None:
    """After asking, move to the trash what was copied or verified just now."""
    for job in jobs:
        with noting_problem(job.server):
            objects = safe_to_trash(job.server, outcomes)
            others = len(job.sources) - len(objects)
            say(f"\n{job.server.name}: {plural(len(objects), 'object')} can go to the trash, {others:,} cannot")
            say("(An object can go if this start copied or verified it, with nothing skipped or")
            say("left out; a model only with all its versions. --verify compares earlier copies.)")
            choose = partial(safe_to_trash, job.server, outcomes)
            move_to_trash(job.server, "registry object", objects, choose, (UP_TO_DATE,), options)


def safe_to_trash(server: Server, outcomes: Iterable[Outcome]) -> Sources:
    """Map the objects that can go to the trash, ID → source; in a dry run, those that could after a copy."""
    done = [outcome for outcome in outcomes if outcome.status in WHOLE]
    whole = {outcome.source.uuid: outcome.source for outcome in done if not (outcome.skipped or outcome.left_out)}
    listed = read_registry(server, Options())  # without is_wanted(): a model takes unwanted versions along
    # Keep a model until all versions are safe, because the server trashes them with it.
    unsafe = {source.model_id for source in listed if source.uuid not in whole}
    safe = {source.id: whole[source.uuid] for source in listed if source.uuid in whole and source.id not in unsafe}
    models = [source.id for source in safe.values() if source.kind == MODEL]
    last: Counter[str] = Counter()  # the number of each model's last version
    for source in listed:
        if source.kind == MODEL_VERSION:
            last[source.model_id] = max(last[source.model_id], int(source.id.rpartition("-")[2]))
    kept = set(itertools.compress(models, server.shared.at_once(partial(has_later_version, server, last), models)))
    return {name: source for name, source in safe.items() if name not in kept}


def has_later_version(server: Server, last: Counter[str], model_id: str) -> bool:
    """Tell whether a model has a version after the last one listed: the table may not have it yet."""
    number = last[model_id] + 1
    while is_trashed := server.is_trashed(f"{model_id}-{number}"):
        number += 1
    return is_trashed is not None


def move_to_trash(
    server: Server, noun: str, objects: Sources, choose: Callable[[], Sources], states: Sequence[str], options: Options
) -> None:
    """List objects; after asking, choose again, and move to the trash those whose copies are in one of the states."""
    width = max(map(len, objects), default=0)
    for name, source in objects.items():
        say(f"  {name:{width}}  {source.kind if name == source.id else source.id}")
    if not objects or options.dry_run or not agrees(f"Move {plural(len(objects), noun)} to the trash?", options):
        say("Nothing was moved to the trash.")
        return
    # Because the objects may have changed before the answer. Look at each last, because the tables lag behind.
    changed = objects.keys() - choose().keys()
    found = server.shared.at_once(partial(state_now, server), objects.values())
    changed |= {name for name, state in zip(objects, found) if state not in states}
    changed |= objects.keys() & {objects[name].model_id for name in changed}  # a model takes its versions along
    unchanged = sorted(objects.keys() - changed)
    failures = server.trash(unchanged)
    log.info("To the trash: %s", ", ".join(unchanged))
    say(f"Moved {plural(len(unchanged) - len(failures), noun)} to the trash.")
    failures += [f"{name}: it has changed meanwhile, and was not moved" for name in sorted(changed)]
    server.shared.problems += failures


def state_now(server: Server, source: Source) -> str:
    """Read an object and its run, because tables lag behind; return the copy's state, or NEW if something is gone."""
    try:
        source_fields, run_fields = server.fields(source.uuid), server.fields(source.run_uuid)
    except Refused as error:
        if error.status != 404:  # what was deleted
            raise
        return NEW
    is_whole = source.arrived <= {(path, run_field.type) for path, run_field in run_fields.items()}
    return NEW if value_of(source_fields, "sys/trashed") or not is_whole else state_of(run_fields, source_fields)


def copy_all(jobs: Sequence[Job], options: Options, prefix: str, folder: Path) -> int:
    """Copy the registries of projects, say what happened, and write the report; return the exit status."""
    shared, began = jobs[0].server.shared, time.monotonic()
    for job in jobs:
        job.unfinished = True
    with ctrl_c_sets(shared.stopping):
        shared.progress = Progress([source.size for job in jobs for source in to_do(job.sources, options)])
        with contextlib.closing(shared.progress.bar):
            outcomes = migrate(jobs, options, folder)
    for job in jobs:
        job.unfinished = job.stays_unfinished or shared.stopping.is_set()
    say_outcomes(outcomes, time.monotonic() - began, options)
    is_incomplete = shared.stopping.is_set()
    if options.trash_models and not is_incomplete:
        try:
            trash_models(jobs, outcomes, options)
        except KeyboardInterrupt:  # at the question: report what was copied all the same
            shared.stopping.set()
            say("\nInterrupted.")
    say_failures(shared, outcomes, options)
    if is_incomplete:
        say("\nTo go on, run the script again.")
    say()
    if len(jobs) == 1 and not options.dry_run:
        server = jobs[0].server
        say(f"Runs: {server.backend.get_project_url(server.project_id, server.workspace, server.project)}")
    is_reported = options.dry_run or write_report(Path(f"{prefix}_report.csv"), outcomes)
    if shared.stopping.is_set():
        return INTERRUPTED
    lacking = [outcome for outcome in outcomes if outcome.status in (FAILED, DIFFERS, NOT_DONE)]
    return int(bool(lacking or shared.problems or not is_reported))


def say_failures(shared: Shared, outcomes: Iterable[Outcome], options: Options) -> None:
    """Print the objects that failed, and the other problems; say whether to run the script again."""
    failed = [outcome for outcome in outcomes if outcome.status == FAILED]
    reason = f"The script stopped, because the server was out of reach for too long: {shared.gone}"
    problems = [*shared.problems, reason] if shared.gone else shared.problems
    can_retry = shared.gone or any(outcome.retryable for outcome in failed)
    lines = [*failures_of(failed), *(("", "", problem) for problem in problems)]
    title = "Failed (run again to retry):" if can_retry else "Failed:"
    say_each(title, lines, file="log" if options.dry_run else "report")
    paths = [path for outcome in failed for path in outcome.failed]
    if any(path and not path.startswith(("sys/", "old_sys/")) for path in paths):
        say("To leave out a field that always fails: --exclude and its path in the registry.")


def say_downloads(folder: Path) -> None:
    """Say where the downloads are, if there are any; remove empty folders."""
    with contextlib.suppress(OSError):  # after Ctrl-C, threads may still remove some of them
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size:
            say(f"Downloads: {folder} ({in_units(size)}; delete it after you check the runs)")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def prepare_threads(server: Server, workers: int) -> None:
    """Prepare for many threads: open files, a connection for each thread, a pool for fields, and memory."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no limit of open files
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # macOS gives a terminal only 256
        if 0 <= soft < OPEN_FILES:  # "no limit" is -1, or above all numbers
            most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    with contextlib.suppress(Exception):  # only glibc has this setting
        # By default it keeps large blocks for each thread: some hundred megabytes with many large images.
        ctypes.CDLL(None).mallopt(-3, 128 * 1024)  # M_MMAP_THRESHOLD in malloc.h
    size = min(FIELDS_AT_ONCE, 8 * workers)
    for scheme in ("https://", "http://"):  # by default the client's session keeps only ten connections
        adapter = HTTPAdapter(pool_maxsize=workers + size + RELAYS)
        server.backend._http_client.session.mount(scheme, adapter)
    server.shared.pool = ThreadPoolExecutor(size, "fields")


def run_session(options: Options) -> int:
    """Sign in, ask what the flags leave open, and do what was asked; return the exit status."""
    if NO_CLIENT:
        raise CannotStart(NO_CLIENT)
    if (options.undo or options.trash_models) and not (options.yes or options.dry_run or can_ask()):
        raise CannotStart("There is no terminal to ask on: add --yes to move things to the trash without asking.")
    held = hold_log()
    servers = choose_projects(sign_in(Shared()), options)
    workers = choose_workers(options)
    options = replace(options, workers=workers)
    prepare_threads(servers[0], workers)
    with contextlib.ExitStack() as stack:
        try:
            jobs = [stack.enter_context(locked(server)) for server in servers]
            prefix, folder = new_session(servers)
        except OSError as error:
            raise CannotStart(f"Cannot write to this directory ({error.strerror}): start in another one.") from None
        stack.callback(say_downloads, folder)
        if not options.undo:
            jobs = choose_objects(jobs, options)
            say_found(jobs, options)
            check_disk(jobs, options)
        open_log(f"{prefix}.log", held)
        versions = f"neptune {neptune.__version__}, Python {sys.version.split()[0]}"
        log.info("%s, %s: %s", versions, servers[0].shared.host, options)
        return undo(jobs, options) if options.undo else copy_all(jobs, options, prefix, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit status: 0 all is well, 1 something failed, 2 no start, 130 interrupted."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a replaced stream may have no encoding
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return run_session(parse(arguments))
    except CannotStart as problem:
        say(f"model_to_run: {problem}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("\nInterrupted.", sys.stderr)
        return INTERRUPTED
    except Exception as error:  # such as a machine that gives no more threads
        log_problem(f"stopped: {in_words(error)}", error)
        say(f"model_to_run: stopped by {in_words(error)}: run the script again.", sys.stderr)
        return 1


def leave(status: int) -> None:
    """Exit at once, because an open request could delay it for minutes, and the client's libraries for a second."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the screen may be closed
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is for a program in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    leave(main())

"""Writes to a container: operations are carried out one by one, each of them with its own errors."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .attributes import (
    EARLIEST_MILLIS,
    LATEST_MILLIS,
    Artifact,
    Attribute,
    Bool,
    Datetime,
    FileSet,
    Float,
    FloatSeries,
    Image,
    ImageSeries,
    Int,
    Json,
    String,
    StringSeries,
    StringSet,
)
from .files import store_bytes
from .store import STAGES, WRITABLE_SYSTEM_FIELDS, Container, PathConflictError
from .web import ApiError

MAX_STRING_LENGTH = 16_384
MAX_STRING_POINT_LENGTH = 1_000
INT_RANGE = range(-(1 << 31), 1 << 31)
LONG_RANGE = range(-(1 << 63), 1 << 63)

INCONSISTENCY = "metadata_inconsistency"
SERIES_ERROR = "logSeriesValueError"
FLOAT_ERROR = "assignFloatValueError"


class RefusedError(Exception):
    """One operation cannot be carried out."""

    def __init__(self, description: str, error_type: str = INCONSISTENCY) -> None:
        super().__init__(description)
        self.error_type = error_type

    def as_json(self) -> Json:
        return {"errorDescription": str(self), "errorType": self.error_type}


Entry = tuple[str, str, dict[str, Any]]
Carrier = Callable[[Container, str, "dict[str, Any]"], "Iterator[RefusedError] | None"]
CARRIERS: dict[str, Carrier] = {}

Kind = TypeVar("Kind", bound=Attribute)


def carries_out(name: str) -> Callable[[Carrier], Carrier]:
    def register(carrier: Carrier) -> Carrier:
        CARRIERS[name] = carrier
        return carrier

    return register


def read_operations(body: Any) -> list[Entry]:
    """The operations of a request as (path, operation, its content); nothing is done if one is malformed."""
    if not isinstance(body, list):
        raise ApiError(400, "The operations are no list")
    return [_entry(each) for each in body]


def _entry(described: Any) -> Entry:
    if not isinstance(described, dict):
        raise ApiError(400, "An operation is no object")
    path = described.get("path")
    names = [name for name, content in described.items() if name != "path" and content is not None]
    if not isinstance(path, str) or not path:
        raise ApiError(400, "An operation has no path")
    if len(names) != 1 or names[0] not in CARRIERS:
        raise ApiError(400, f"One known operation is expected for '{path}', not {names}")
    content = described[names[0]]
    if not isinstance(content, dict):
        raise ApiError(400, f"{names[0]} of '{path}' is no object")
    _CHECKS.get(names[0], _no_check)(path, content)
    return path, names[0], content


def _no_check(path: str, content: dict[str, Any]) -> None:
    pass


def _expects(key: str, accepts: Callable[[Any], bool]) -> Callable[[str, dict[str, Any]], None]:
    def check(path: str, content: dict[str, Any]) -> None:
        if key not in content or not accepts(content[key]):
            raise ApiError(400, f"'{key}' for '{path}' is missing or of another type")

    return check


def is_integer(value: Any, within: range = LONG_RANGE) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in within


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_points(value: Any, is_value: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(
        isinstance(point, dict)
        and is_value(point.get("value"))
        and (point.get("step") is None or is_number(point["step"]))
        and is_integer(point.get("timestampMilliseconds"))
        for point in value
    )


def _is_image(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("data"), str)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_CHECKS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "assignInt": _expects("value", lambda value: is_integer(value, INT_RANGE)),
    "assignFloat": _expects("value", is_number),
    "assignBool": _expects("value", lambda value: isinstance(value, bool)),
    "assignString": _expects("value", _is_text),
    "assignDatetime": _expects("valueMilliseconds", is_integer),
    "assignArtifact": _expects("hash", _is_text),
    "insertStrings": _expects("values", is_strings),
    "removeStrings": _expects("values", is_strings),
    "deleteFiles": _expects("filePaths", is_strings),
    "logFloats": _expects("entries", lambda value: _is_points(value, is_number)),
    "logStrings": _expects("entries", lambda value: _is_points(value, _is_text)),
    "logImages": _expects("entries", lambda value: _is_points(value, _is_image)),
}


def execute(container: Container, operations: list[Entry]) -> list[RefusedError]:
    errors: list[RefusedError] = []
    for path, name, content in operations:
        try:
            check_writable(container, path)
            errors += CARRIERS[name](container, path, content) or ()
        except RefusedError as error:
            errors.append(error)
        except PathConflictError as error:
            errors.append(RefusedError(str(error)))
    container.touch()
    return errors


def check_writable(container: Container, path: str) -> None:
    if not path.startswith("sys/") and path != "sys":
        return
    if path not in WRITABLE_SYSTEM_FIELDS:
        raise RefusedError(f"'{path}' is read-only")
    if path not in container.attributes and not (path == "sys/hostname" and container.kind == "run"):
        raise RefusedError(f"'{path}' is no field of a {container.kind}")


def existing(container: Container, path: str, kind: type[Kind]) -> Kind | None:
    """The field at a path, which must be of the expected type where there is one."""
    attribute = container.attributes.get(path)
    if attribute is None:
        expected = WRITABLE_SYSTEM_FIELDS.get(path, kind.type)
        if expected != kind.type:
            raise RefusedError(f"Type of '{path}' is {expected}, not {kind.type}")
        return None
    if not isinstance(attribute, kind):
        raise RefusedError(f"Type of '{path}' is {attribute.type}, not {kind.type}")
    return attribute


def _assign(container: Container, path: str, attribute: Attribute) -> None:
    existing(container, path, type(attribute))
    container.put(path, attribute)


@carries_out("assignInt")
def assign_int(container: Container, path: str, content: dict[str, Any]) -> None:
    _assign(container, path, Int(content["value"]))


@carries_out("assignFloat")
def assign_float(container: Container, path: str, content: dict[str, Any]) -> None:
    value = float(content["value"])
    if not math.isfinite(value):
        raise RefusedError(f"'{path}' cannot be {value}", FLOAT_ERROR)
    _assign(container, path, Float(value))


@carries_out("assignBool")
def assign_bool(container: Container, path: str, content: dict[str, Any]) -> None:
    _assign(container, path, Bool(content["value"]))


@carries_out("assignString")
def assign_string(container: Container, path: str, content: dict[str, Any]) -> None:
    value = content["value"]
    if len(value) > MAX_STRING_LENGTH:
        raise RefusedError(f"The string for '{path}' has more than {MAX_STRING_LENGTH} characters")
    if path == "sys/stage" and value not in STAGES:
        raise RefusedError(f"'{value}' is no stage")
    _assign(container, path, String(value))


@carries_out("assignDatetime")
def assign_datetime(container: Container, path: str, content: dict[str, Any]) -> None:
    value = content["valueMilliseconds"]
    if not EARLIEST_MILLIS <= value <= LATEST_MILLIS:
        raise RefusedError(f"The time for '{path}' lies outside of the years 1 to 9999")
    _assign(container, path, Datetime(value))


@carries_out("assignArtifact")
def assign_artifact(container: Container, path: str, content: dict[str, Any]) -> None:
    version = container.project.artifacts.get(content["hash"])
    if version is None or version.files is None:
        raise RefusedError(f"The project has no artifact '{content['hash']}'")
    _assign(container, path, Artifact(content["hash"]))


@carries_out("clearArtifact")
def clear_artifact(container: Container, path: str, _: dict[str, Any]) -> None:
    if existing(container, path, Artifact) is not None:
        container.remove(path)


@carries_out("deleteAttribute")
def delete_attribute(container: Container, path: str, _: dict[str, Any]) -> None:
    """A field that does not exist is as good as deleted: the client tells so of sets that it is about to make."""
    if path.startswith("sys/"):
        raise RefusedError(f"'{path}' cannot be deleted")
    if path in container.attributes:
        container.remove(path)


# -- string sets --


def _string_set(container: Container, path: str) -> StringSet:
    found = existing(container, path, StringSet)
    if found is None:
        raise RefusedError(f"'{path}' cannot be a set of strings: only sys/tags and sys/group_tags are")
    return found


@carries_out("insertStrings")
def insert_strings(container: Container, path: str, content: dict[str, Any]) -> None:
    values = _string_set(container, path).values
    container.put(path, StringSet(values | frozenset(content["values"])))


@carries_out("removeStrings")
def remove_strings(container: Container, path: str, content: dict[str, Any]) -> None:
    values = _string_set(container, path).values
    container.put(path, StringSet(values - frozenset(content["values"])))


@carries_out("clearStringSet")
def clear_string_set(container: Container, path: str, _: dict[str, Any]) -> None:
    _string_set(container, path)
    container.put(path, StringSet())


# -- series --


def _series(container: Container, path: str, kind: type[Kind]) -> Kind:
    series = existing(container, path, kind)
    if series is None:
        series = kind()
        container.put(path, series)
    return series


def _steps(
    path: str, series: FloatSeries | StringSeries | ImageSeries, entries: list[dict[str, Any]]
) -> Iterator[tuple[float, dict[str, Any]] | RefusedError]:
    """Each entry with its step, or why it cannot be stored. To be consumed while the entries are stored."""
    for entry in entries:
        wanted = entry.get("step")
        step = series.next_step() if wanted is None else float(wanted)
        last = series.last_step
        if not math.isfinite(step) or (last is not None and step <= last):
            description = (
                f"X-coordinates (step) must be strictly increasing for series attribute: {path}. Invalid point: {step}"
            )
            yield RefusedError(description, SERIES_ERROR)
        else:
            yield step, entry


@carries_out("logFloats")
def log_floats(container: Container, path: str, content: dict[str, Any]) -> Iterator[RefusedError]:
    series = _series(container, path, FloatSeries)
    for point in _steps(path, series, content["entries"]):
        if isinstance(point, RefusedError):
            yield point
            continue
        step, entry = point
        value = float(entry["value"])
        if math.isfinite(value):
            series.append(step, entry["timestampMilliseconds"], value)
        else:
            yield RefusedError(f"A point of '{path}' cannot be {value}", SERIES_ERROR)


@carries_out("logStrings")
def log_strings(container: Container, path: str, content: dict[str, Any]) -> Iterator[RefusedError]:
    series = _series(container, path, StringSeries)
    for point in _steps(path, series, content["entries"]):
        if isinstance(point, RefusedError):
            yield point
            continue
        step, entry = point
        if len(entry["value"]) > MAX_STRING_POINT_LENGTH:
            yield RefusedError(f"A point of '{path}' has more than {MAX_STRING_POINT_LENGTH} characters", SERIES_ERROR)
        else:
            series.append(step, entry["timestampMilliseconds"], entry["value"])


@carries_out("logImages")
def log_images(container: Container, path: str, content: dict[str, Any]) -> Iterator[RefusedError]:
    series = _series(container, path, ImageSeries)
    store = container.project.store
    for point in _steps(path, series, content["entries"]):
        if isinstance(point, RefusedError):
            yield point
            continue
        step, entry = point
        value = entry["value"]
        try:
            data = base64.b64decode(value["data"], validate=True)
        except binascii.Error:
            yield RefusedError(f"An image of '{path}' is not encoded as base64", SERIES_ERROR)
            continue
        stored = store_bytes(store.folder, data, store.now())
        image = Image(stored, content_type_of(data), value.get("name"), value.get("description"))
        series.append(step, entry["timestampMilliseconds"], image)
        container.grown(len(data))


SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


def content_type_of(data: bytes) -> str:
    for signature, content_type in SIGNATURES:
        if data.startswith(signature):
            return content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"


@carries_out("clearFloatSeries")
def clear_float_series(container: Container, path: str, _: dict[str, Any]) -> None:
    container.put(path, _series(container, path, FloatSeries).cleared())


@carries_out("clearStringSeries")
def clear_string_series(container: Container, path: str, _: dict[str, Any]) -> None:
    _series(container, path, StringSeries)
    container.put(path, StringSeries())


@carries_out("clearImageSeries")
def clear_image_series(container: Container, path: str, _: dict[str, Any]) -> None:
    channel_id = _series(container, path, ImageSeries).channel_id
    container.put(path, ImageSeries(channel_id=channel_id))


@carries_out("configFloatSeries")
def config_float_series(container: Container, path: str, content: dict[str, Any]) -> None:
    lowest, highest, unit = content.get("min"), content.get("max"), content.get("unit")
    if any(value is not None and not is_number(value) for value in (lowest, highest)):
        raise RefusedError(f"The range of '{path}' is not given in numbers")
    if unit is not None and not isinstance(unit, str):
        raise RefusedError(f"The unit of '{path}' is no string")
    series = _series(container, path, FloatSeries)
    series.config_min = None if lowest is None else float(lowest)
    series.config_max = None if highest is None else float(highest)
    series.config_unit = unit


# -- file sets --


@carries_out("deleteFiles")
def delete_files(container: Container, path: str, content: dict[str, Any]) -> Iterator[RefusedError]:
    file_set = existing(container, path, FileSet)
    if file_set is None:
        raise RefusedError(f"There is no file set '{path}'")
    before = file_set.size
    for wanted in content["filePaths"]:
        inside = [name for name in file_set.files if name == wanted or name.startswith(wanted.rstrip("/") + "/")]
        for name in inside:
            removed = file_set.remove(name)
            if removed:
                removed.discard()
        if not inside:
            yield RefusedError(f"There is no file '{wanted}' in '{path}'")
    container.grown(file_set.size - before)

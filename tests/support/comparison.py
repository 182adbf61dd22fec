"""Holds the runs of a project against the models and model versions that they are copies of.

It goes by a project's whole state as the server's instruments tell it, and by what a copy is said to be. It knows
nothing of how the copies were made.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Any

Json = dict[str, Any]
Fields = dict[str, Json]

TAGS = {"model": "model", "modelVersion": "model_version"}
LONGEST_CUSTOM_RUN_ID = 36
SAME_PATH = ("sys/name", "sys/description", "sys/tags", "sys/group_tags")
LONGEST_SHOWN = 60


def differences(
    state: Json, *, stage_as_tag: bool = False, others: Collection[str] = (), before: Json | None = None
) -> list[str]:
    """What differs, in words; nothing if every untrashed model and version has its one exact copy.

    `others` are the IDs of the runs that are no copies of anything. `before` is an earlier state: what a complete copy
    had in it and the registry does not is still to be in the run.
    """
    earlier = before["containers"] if before else {}
    living = {sys_id: each for sys_id, each in state["containers"].items() if not each["trashed"]}
    runs = {sys_id: each["attributes"] for sys_id, each in living.items() if each["kind"] == "run"}
    runs_by_source = _runs_by_source(runs)
    found: list[str] = []
    claimed = set(others)
    for sys_id, source in sorted(living.items()):
        if source["kind"] not in TAGS:
            continue
        own = sorted(runs_by_source[sys_id])
        claimed.update(own)
        if len(own) == 1:
            wanted = expected_fields(source["attributes"], source["kind"], stage_as_tag)
            told = copy_differences(sys_id, with_additions(wanted, earlier.get(own[0])), runs[own[0]])
            found += [f"{sys_id}: {path}: {words}" for path, words in told]
        else:
            found.append(f"{sys_id}: has {len(own)} runs ({', '.join(own)})" if own else f"{sys_id}: has no run")
    found += [f"{sys_id}: is a run that belongs to no model or version" for sys_id in sorted(runs.keys() - claimed)]
    return found


def _runs_by_source(runs: dict[str, Fields]) -> defaultdict[str, set[str]]:
    """The runs that name a source, be it by their custom run ID or by the ID which they keep of it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for sys_id, fields in runs.items():
        for path in ("sys/custom_run_id", "old_sys/id"):
            if path in fields:
                found[fields[path].get("value", "")].add(sys_id)
    return found


# -- what a copy holds --


def expected_fields(source: Fields, kind: str, stage_as_tag: bool = False) -> Fields:
    """The fields that a source's run has to have, but for those under sys/ which runs have of themselves."""
    copied = {path: field for path, field in source.items() if _is_copied(path, field)}
    expected = {path: field for path, field in copied.items() if not path.startswith("sys/") or path in SAME_PATH}
    expected.update(
        {f"old_{path}": field for path, field in copied.items() if path.startswith("sys/") and path not in SAME_PATH}
    )
    tags = {TAGS[kind]}
    if stage_as_tag:
        tags |= {expected.pop("old_sys/stage", {}).get("value", "none")} - {"none"}
    model_id = source["sys/model_id" if kind == "modelVersion" else "sys/id"]["value"]
    expected["sys/tags"] = _with_strings(source.get("sys/tags"), tags)
    expected["sys/group_tags"] = _with_strings(source.get("sys/group_tags"), {model_id})
    expected["old_sys/verified"] = source["sys/modification_time"]
    return expected


def with_additions(expected: Fields, before: Json | None) -> Fields:
    """The fields of a copy, and with them what people had added to it when it was complete before."""
    run = before["attributes"] if before else {}
    if "old_sys/verified" not in run:
        return expected
    added = {path: field for path, field in run.items() if path not in expected and not path.startswith("sys/")}
    for path in ("sys/tags", "sys/group_tags"):
        own = {text for text in run[path]["value"] if not text.startswith("incomplete copy ")}
        added[path] = _with_strings(expected[path], own)
    description = run.get("sys/description")
    if description and not expected.get("sys/description", {}).get("value"):
        added["sys/description"] = description
    return {**expected, **added}


def _is_copied(path: str, field: Json) -> bool:
    return path != "sys/state" and field["type"] in COMPARERS


def _with_strings(field: Json | None, strings: set[str]) -> Json:
    return {"type": "stringSet", "value": sorted(strings.union(field["value"] if field else ()))}


def copy_differences(sys_id: str, expected: Fields, run: Fields) -> Iterator[tuple[str, str]]:
    """The path and the words for whatever in a source's run is not as it is expected."""
    yield from (("sys/custom_run_id", words) for words in _custom_id_differences(sys_id, run))
    actual = {
        path: field
        for path, field in run.items()
        if not path.startswith("sys/") or (path in SAME_PATH and path in expected)
    }
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            yield path, f"is missing in the run ({expected[path]['type']})"
        elif path not in expected:
            yield path, f"should not be in the run ({actual[path]['type']})"
        else:
            yield from ((path, words) for words in _field_differences(expected[path], actual[path]))


def _custom_id_differences(sys_id: str, run: Fields) -> Iterator[str]:
    custom_id = run.get("sys/custom_run_id", {}).get("value")
    if len(sys_id) <= LONGEST_CUSTOM_RUN_ID:
        if custom_id != sys_id:
            yield f"is {shown(custom_id)} instead of {shown(sys_id)}"
    elif not custom_id or len(custom_id) > LONGEST_CUSTOM_RUN_ID:
        yield f"is {shown(custom_id)}, no shortened ID"


# -- what differs between two fields --


def same(expected: Any, actual: Any) -> bool:
    """Equal in type as well, and to the last bit: 1, 1.0 and True differ, and 0.0 from -0.0."""
    return json.dumps(expected, sort_keys=True) == json.dumps(actual, sort_keys=True)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(text)} characters)"


def _field_differences(expected: Json, actual: Json) -> Iterator[str]:
    if actual["type"] != expected["type"]:
        yield f"is of type {actual['type']} instead of {expected['type']}"
    elif not same(expected, actual):
        yield from COMPARERS[expected["type"]](expected, actual)


def _differing(name: str, expected: Any, actual: Any) -> Iterator[str]:
    if not same(expected, actual):
        yield f"{name} is {shown(actual)} instead of {shown(expected)}"


def _compare_keys(*keys: str) -> Callable[[Json, Json], Iterator[str]]:
    def compare(expected: Json, actual: Json) -> Iterator[str]:
        for key in keys:
            yield from _differing(key, expected.get(key), actual.get(key))

    return compare


def _compare_sets(expected: Json, actual: Json) -> Iterator[str]:
    for string in sorted(set(expected["value"]) - set(actual["value"])):
        yield f"lacks {shown(string)}"
    for string in sorted(set(actual["value"]) - set(expected["value"])):
        yield f"has {shown(string)} in addition"


def _compare_file_sets(expected: Json, actual: Json) -> Iterator[str]:
    for name in sorted(expected["files"].keys() | actual["files"].keys()):
        if name not in actual["files"]:
            yield f"lacks the file {shown(name)}"
        elif name not in expected["files"]:
            yield f"has the file {shown(name)} in addition"
        else:
            for words in _compare_bytes(expected["files"][name], actual["files"][name]):
                yield f"in the file {shown(name)}, {words}"


_compare_bytes = _compare_keys("size", "sha256")


def _compare_series(expected: Json, actual: Json) -> Iterator[str]:
    yield from _differing("config", _settings(expected), _settings(actual))
    yield from _compare_points(expected["points"], actual["points"], _differing_values)


def _settings(series: Json) -> Json:
    return {key: value for key, value in (series.get("config") or {}).items() if value is not None}


def _compare_images(expected: Json, actual: Json) -> Iterator[str]:
    yield from _compare_points(expected["points"], actual["points"], _differing_images)


def _compare_points(
    expected: list[Any], actual: list[Any], compare_values: Callable[[Any, Any], Iterator[str]]
) -> Iterator[str]:
    """The first point that differs stands for those that come after it, which then mostly differ as well."""
    if len(actual) != len(expected):
        yield f"has {len(actual)} points instead of {len(expected)}"
    for number, (wanted, found) in enumerate(zip(expected, actual)):
        words = [
            *_differing("step", wanted[0], found[0]),
            *_differing("timestamp", wanted[1], found[1]),
            *compare_values(wanted[2], found[2]),
        ]
        if words:
            yield from (f"in point {number}, {each}" for each in words)
            return


def _differing_values(expected: Any, actual: Any) -> Iterator[str]:
    return _differing("value", expected, actual)


_differing_images = _compare_keys("size", "sha256", "name", "description")

_compare_value = _compare_keys("value")

COMPARERS: dict[str, Callable[[Json, Json], Iterator[str]]] = {
    "int": _compare_value,
    "float": _compare_value,
    "bool": _compare_value,
    "string": _compare_value,
    "datetime": _compare_value,
    "stringSet": _compare_sets,
    "artifact": _compare_keys("hash"),
    "file": _compare_keys("size", "sha256", "ext"),
    "fileSet": _compare_file_sets,
    "floatSeries": _compare_series,
    "stringSeries": _compare_series,
    "imageSeries": _compare_images,
}

"""The comparison that the other tests rely on finds every kind of difference, and none where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.comparison import differences

Json = dict[str, Any]
LONG_ID = "CLS-" + "A" * 40


def atom(type_name: str, value: Any) -> Json:
    return {"type": type_name, "value": value}


def image(sha256: str, name: str | None = "first") -> Json:
    return {"sha256": sha256, "size": 3, "content_type": "image/png", "name": name, "description": "of a cat"}


def own_fields() -> Json:
    """One field of each type that is copied."""
    return {
        "int": atom("int", 1),
        "float": atom("float", -0.0),
        "bool": atom("bool", True),
        "string": atom("string", "text"),
        "datetime": atom("datetime", 1729987200123),
        "set": atom("stringSet", ["a", "b"]),
        "floats": {
            "type": "floatSeries",
            "points": [[0.0, 1000, 0.5], [1.5, 2000, 0.25]],
            "config": {"min": 0.0, "max": None, "unit": "%"},
        },
        "strings": {"type": "stringSeries", "points": [[0.0, 1000, "a"], [1.0, 1000, ""]]},
        "images": {"type": "imageSeries", "points": [[0.0, 1000, image("aa")], [2.0, 1001, image("bb", None)]]},
        "file": {"type": "file", "sha256": "cc", "size": 5, "ext": "tar.gz", "name": "file.tar.gz"},
        "files": {"type": "fileSet", "files": {"a/b": {"sha256": "dd", "size": 1}, "c": {"sha256": "ee", "size": 2}}},
        "artifact": {"type": "artifact", "hash": "ff"},
    }


def source_fields(sys_id: str) -> Json:
    return {
        "sys/id": atom("string", sys_id),
        "sys/name": atom("string", "forest"),
        "sys/description": atom("string", ""),
        "sys/tags": atom("stringSet", ["best"]),
        "sys/state": {"type": "experimentState", "value": "idle"},
        "sys/modification_time": atom("datetime", 1700000000001),
        "sys/size": atom("float", 5.0),
        "source_code/git": {"type": "gitRef", "commit": {"commitId": "abc"}},
        "notebook": {"type": "notebookRef", "notebookId": "abc"},
        "shape": {"type": "complex", "value": 1},
        **own_fields(),
    }


def run_fields(run_id: str, source_id: str, custom_id: str, kind: str) -> Json:
    return {
        "sys/id": atom("string", run_id),
        "sys/custom_run_id": atom("string", custom_id),
        "sys/name": atom("string", "forest"),
        "sys/description": atom("string", ""),
        "sys/tags": atom("stringSet", sorted(["best", kind])),
        "sys/group_tags": atom("stringSet", [source_id.split("-v")[0]]),
        "sys/state": {"type": "experimentState", "value": "running"},
        "sys/modification_time": atom("datetime", 1800000000000),
        "old_sys/id": atom("string", source_id),
        "old_sys/modification_time": atom("datetime", 1700000000001),
        "old_sys/verified": atom("datetime", 1700000000001),
        "old_sys/size": atom("float", 5.0),
        **own_fields(),
    }


def container(kind: str, attributes: Json, trashed: bool = False) -> Json:
    return {"id": "some-uuid", "kind": kind, "trashed": trashed, "attributes": attributes}


@pytest.fixture
def state() -> Json:
    """A model and a version with exact copies; a trashed model without one; and a model with a long ID."""
    version = {
        **source_fields("CLS-A-v1"),
        "sys/model_id": atom("string", "CLS-A"),
        "sys/stage": atom("string", "staging"),
        "sys/group_tags": atom("stringSet", ["mine"]),
    }
    version_run = {
        **run_fields("CLS-2", "CLS-A-v1", "CLS-A-v1", "model_version"),
        "sys/group_tags": atom("stringSet", ["CLS-A", "mine"]),
        "old_sys/model_id": atom("string", "CLS-A"),
        "old_sys/stage": atom("string", "staging"),
    }
    return {
        "project": "acme/cls",
        "artifacts": {},
        "containers": {
            "CLS": container("project", {"sys/id": atom("string", "CLS")}),
            "CLS-A": container("model", source_fields("CLS-A")),
            "CLS-A-v1": container("modelVersion", version),
            "CLS-B": container("model", source_fields("CLS-B"), trashed=True),
            LONG_ID: container("model", source_fields(LONG_ID)),
            "CLS-1": container("run", run_fields("CLS-1", "CLS-A", "CLS-A", "model")),
            "CLS-2": container("run", version_run),
            "CLS-3": container("run", run_fields("CLS-3", LONG_ID, "CLS-AAA-shortened", "model")),
        },
    }


def test_exact_copies_differ_in_nothing(state: Json) -> None:
    assert differences(state) == []


Change = Callable[[Json], Any]


def planted(words: str, change: Change) -> Any:
    """A difference in the run CLS-1, whose source is CLS-A."""
    return pytest.param(change, f"CLS-A: {words}", id=words)


def put(*keys: Any, value: Any) -> Change:
    def change(fields: Json) -> None:
        place = fields
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def drop(*keys: Any) -> Change:
    def change(fields: Json) -> None:
        place = fields
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        planted("int: is missing in the run (int)", drop("int")),
        planted("old_sys/size: is missing in the run (float)", drop("old_sys/size")),
        planted("old_sys/verified: is missing in the run (datetime)", drop("old_sys/verified")),
        planted("old_sys/modification_time: is missing in the run (datetime)", drop("old_sys/modification_time")),
        planted(
            "source_code/entrypoint: should not be in the run (string)",
            put("source_code/entrypoint", value=atom("string", "x.py")),
        ),
        planted(
            "monitoring/cpu: should not be in the run (floatSeries)",
            put("monitoring/cpu", value={"type": "floatSeries", "points": []}),
        ),
        planted("source_code/git: should not be in the run (gitRef)", put("source_code/git", value={"type": "gitRef"})),
        planted("notebook: should not be in the run (notebookRef)", put("notebook", value={"type": "notebookRef"})),
        planted("shape: should not be in the run (complex)", put("shape", value={"type": "complex", "value": 1})),
        planted("old_sys/state: should not be in the run (string)", put("old_sys/state", value=atom("string", "idle"))),
        planted("int: is of type float instead of int", put("int", value=atom("float", 1.0))),
        planted("int: value is 2 instead of 1", put("int", "value", value=2)),
        planted("float: value is 0.0 instead of -0.0", put("float", "value", value=0.0)),
        planted("float: value is 5e-324 instead of -0.0", put("float", "value", value=5e-324)),
        planted("bool: value is 1 instead of True", put("bool", "value", value=1)),
        planted("string: value is 'text ' instead of 'text'", put("string", "value", value="text ")),
        planted(
            "datetime: value is 1729987200122 instead of 1729987200123",
            put("datetime", "value", value=1729987200122),
        ),
        planted("set: lacks 'b'", put("set", "value", value=["a"])),
        planted("set: has 'c' in addition", put("set", "value", value=["a", "b", "c"])),
        planted("floats: has 1 points instead of 2", drop("floats", "points", 1)),
        planted("floats: in point 1, step is 1.0 instead of 1.5", put("floats", "points", 1, 0, value=1.0)),
        planted("floats: in point 1, timestamp is 2001 instead of 2000", put("floats", "points", 1, 1, value=2001)),
        planted("floats: in point 0, value is 0.25 instead of 0.5", put("floats", "points", 0, 2, value=0.25)),
        planted(
            "floats: config is {'min': 0.0} instead of {'min': 0.0, 'unit': '%'}",
            put("floats", "config", value={"min": 0.0, "max": None, "unit": None}),
        ),
        planted("strings: in point 1, value is ' ' instead of ''", put("strings", "points", 1, 2, value=" ")),
        planted("strings: has 3 points instead of 2", lambda run: run["strings"]["points"].append([2.0, 1, "a"])),
        planted("strings: in point 0, step is 1.0 instead of 0.0", lambda run: run["strings"]["points"].reverse()),
        planted("images: in point 0, sha256 is 'ab' instead of 'aa'", put("images", "points", 0, 2, value=image("ab"))),
        planted("images: in point 1, name is '' instead of None", put("images", "points", 1, 2, "name", value="")),
        planted(
            "images: in point 1, description is None instead of 'of a cat'",
            put("images", "points", 1, 2, "description", value=None),
        ),
        planted("images: in point 1, step is 1.0 instead of 2.0", put("images", "points", 1, 0, value=1.0)),
        planted("images: in point 1, timestamp is 5 instead of 1001", put("images", "points", 1, 1, value=5)),
        planted("images: has 1 points instead of 2", drop("images", "points", 1)),
        planted("file: sha256 is 'cd' instead of 'cc'", put("file", "sha256", value="cd")),
        planted("file: ext is 'gz' instead of 'tar.gz'", put("file", "ext", value="gz")),
        planted("files: lacks the file 'a/b'", drop("files", "files", "a/b")),
        planted("files: has the file 'b' in addition", put("files", "files", "b", value={"sha256": "dd", "size": 1})),
        planted("files: in the file 'c', size is 3 instead of 2", put("files", "files", "c", "size", value=3)),
        planted("artifact: hash is 'fe' instead of 'ff'", put("artifact", "hash", value="fe")),
        planted("sys/tags: lacks 'model'", put("sys/tags", "value", value=["best"])),
        planted("sys/tags: lacks 'best'", put("sys/tags", "value", value=["model"])),
        planted(
            "sys/tags: has 'model_version' in addition",
            put("sys/tags", "value", value=["best", "model", "model_version"]),
        ),
        planted("sys/group_tags: lacks 'CLS-A'", put("sys/group_tags", "value", value=[])),
        planted("sys/group_tags: is missing in the run (stringSet)", drop("sys/group_tags")),
        planted("sys/name: value is 'Untitled' instead of 'forest'", put("sys/name", "value", value="Untitled")),
        planted("sys/description: value is 'x' instead of ''", put("sys/description", "value", value="x")),
        planted("sys/custom_run_id: is None instead of 'CLS-A'", drop("sys/custom_run_id")),
        planted("has no run", lambda run: run.update({"sys/custom_run_id": {}, "old_sys/id": {}})),
    ],
)
def test_a_planted_difference_is_found(state: Json, change: Change, words: str) -> None:
    change(state["containers"]["CLS-1"]["attributes"])
    assert words in differences(state)


def test_a_run_in_the_trash_is_no_copy(state: Json) -> None:
    state["containers"]["CLS-1"]["trashed"] = True
    assert differences(state) == ["CLS-A: has no run"]


def test_a_second_run_for_a_source_is_found(state: Json) -> None:
    second = copy.deepcopy(state["containers"]["CLS-1"])
    del second["attributes"]["sys/custom_run_id"]
    state["containers"]["CLS-9"] = second
    assert differences(state) == ["CLS-A: has 2 runs (CLS-1, CLS-9)"]


def test_a_stray_run_is_found_unless_it_is_named(state: Json) -> None:
    state["containers"]["CLS-9"] = container("run", {"sys/id": atom("string", "CLS-9")})
    assert differences(state) == ["CLS-9: is a run that belongs to no model or version"]
    assert differences(state, others=["CLS-9"]) == []


def test_a_copy_of_a_trashed_model_is_a_stray_run(state: Json) -> None:
    state["containers"]["CLS-9"] = container("run", run_fields("CLS-9", "CLS-B", "CLS-B", "model"))
    assert differences(state) == ["CLS-9: is a run that belongs to no model or version"]


def test_a_long_id_has_to_be_shortened(state: Json) -> None:
    run = state["containers"]["CLS-3"]["attributes"]
    run["sys/custom_run_id"]["value"] = LONG_ID
    assert differences(state) == [f"{LONG_ID}: sys/custom_run_id: is {LONG_ID!r}, no shortened ID"]
    del run["sys/custom_run_id"]
    assert differences(state) == [f"{LONG_ID}: sys/custom_run_id: is None, no shortened ID"]


def test_a_source_without_a_name_or_description_does_not_ask_for_one(state: Json) -> None:
    for path in ("sys/name", "sys/description"):
        del state["containers"]["CLS-A"]["attributes"][path]
    assert differences(state) == []


def test_a_field_that_a_later_server_adds_to_the_system_s_is_expected(state: Json) -> None:
    state["containers"]["CLS-A"]["attributes"]["sys/colour"] = atom("string", "red")
    assert differences(state) == ["CLS-A: old_sys/colour: is missing in the run (string)"]


def test_the_stage_is_a_field_or_a_tag(state: Json) -> None:
    run = state["containers"]["CLS-2"]["attributes"]
    del run["old_sys/stage"]
    run["sys/tags"]["value"].append("staging")
    assert differences(state, stage_as_tag=True) == []
    assert differences(state) == [
        "CLS-A-v1: old_sys/stage: is missing in the run (string)",
        "CLS-A-v1: sys/tags: has 'staging' in addition",
    ]


def test_no_stage_is_no_tag(state: Json) -> None:
    state["containers"]["CLS-A-v1"]["attributes"]["sys/stage"]["value"] = "none"
    del state["containers"]["CLS-2"]["attributes"]["old_sys/stage"]
    assert differences(state, stage_as_tag=True) == []

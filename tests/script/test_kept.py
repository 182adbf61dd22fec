"""What people add to a complete copy is theirs, until --recopy takes it out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.neptune_server.process import ServerProcess
from tests.script.test_reruns import claims, run_of
from tests.support.comparison import differences
from tests.support.planted import Planted, value
from tests.support.script import Completed
from tests.tools.torture import (
    Play,
    bare_registry,
    change,
    complete,
    kill_after,
    planted_file,
    problems,
    small_registry,
    sources,
)

ADDED = {
    "notes/why": {"path": "notes/why", "assignString": {"value": "because"}},
    "sys/tags: 'reviewed'": {"path": "sys/tags", "insertStrings": {"values": ["reviewed"]}},
    "sys/group_tags: 'mine'": {"path": "sys/group_tags", "insertStrings": {"values": ["mine"]}},
    "sys/description": {"path": "sys/description", "assignString": {"value": "in my words"}},
}
LEFT = {"path": "left/over", "assignInt": {"value": 1}}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One of this module's own: killed scripts have its tokens expire."""
    with ServerProcess() as process:
        yield process


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    """A model without a description of its own."""
    with bare_registry(server) as registry:
        fields = {"depth": value("int", 1), "note": value("string", "old"), "sys/description": value("string", "")}
        registry.model(fields)
        yield registry


@pytest.fixture
def rich(server: ServerProcess) -> Iterator[Planted]:
    """A model and a version with every type of field, and half a copy of the model in the trash."""
    with small_registry(server) as registry:
        yield registry
        server.instruments.clear_faults()


def add(planted: Planted, *operations: dict[str, Any]) -> None:
    """Write into the run of every source, as somebody would by hand."""
    for source_id in sources(planted):
        assert planted.wire.execute(run_of(planted, source_id)["id"], *operations) == []


def test_a_stage_tag_of_somebodys_own_is_named_by_verify(planted: Planted, tmp_path: Path) -> None:
    assert Play(planted, tmp_path, "--stage-as-tag").end().status == 0
    add(planted, {"path": "sys/tags", "insertStrings": {"values": ["archived"]}})
    ended = Play(planted, tmp_path, "--stage-as-tag", "--verify").end()
    assert ended.status == 0, ended.output
    assert all("kept: sys/tags: 'archived'" in row["error"] for row in ended.report)


def annotated(planted: Planted, tmp_path: Path) -> str:
    """Has a complete copy, to which somebody has added all that one can add."""
    assert complete(planted, tmp_path) == []
    add(planted, *ADDED.values())
    (model,) = sources(planted)
    return model


def lines_with(ended: Completed, *texts: str) -> list[str]:
    return [line for line in ended.output.splitlines() if all(text in line for text in texts)]


def test_it_stays_when_the_source_has_changed_and_is_named(planted: Planted, tmp_path: Path) -> None:
    model = annotated(planted, tmp_path)
    planted.put(model, {"depth": value("int", 2)})
    before = planted.state()
    preview = Play(planted, tmp_path, "--dry-run").end()
    assert planted.state() == before
    assert "Would be kept in the runs (4):" in preview.output.splitlines()
    ended = Play(planted, tmp_path).end()
    assert (ended.status, problems(planted, before)) == (0, [])
    assert "Kept in the runs (4):" in ended.output
    for words in ADDED:
        assert lines_with(preview, model, words)
        assert f"{model}: kept: {words}" in ended.log
        assert f"kept: {words}" in ended.row(model)["error"]


def test_it_is_named_and_no_difference_when_the_copy_is_verified(planted: Planted, tmp_path: Path) -> None:
    model = annotated(planted, tmp_path)
    ended = Play(planted, tmp_path, "--verify").end()
    assert (ended.status, ended.row(model)["status"]) == (0, "verified")
    assert "Kept in the runs (4):" in ended.output
    assert all(f"kept: {words}" in ended.row(model)["error"] for words in ADDED)


def test_it_is_named_and_no_difference_when_a_changed_source_is_copied_and_verified(
    planted: Planted, tmp_path: Path
) -> None:
    model = annotated(planted, tmp_path)
    planted.put(model, {"depth": value("int", 2)})
    before = planted.state()
    ended = Play(planted, tmp_path, "--verify").end()
    assert (ended.status, ended.row(model)["status"], problems(planted, before)) == (0, "copied", [])
    assert "Kept in the runs (4):" in ended.output
    assert all(f"kept: {words}" in ended.row(model)["error"] for words in ADDED)


def test_a_dry_run_of_recopy_keeps_nothing(planted: Planted, tmp_path: Path) -> None:
    annotated(planted, tmp_path)
    before = planted.state()
    ended = Play(planted, tmp_path, "--dry-run", "--recopy").end()
    assert (ended.status, planted.state()) == (0, before)
    assert "kept" not in ended.output.lower()


def test_only_recopy_takes_it_out_and_says_how_much(planted: Planted, tmp_path: Path) -> None:
    annotated(planted, tmp_path)
    add(planted, LEFT)
    ended = Play(planted, tmp_path, "--recopy").end()
    assert (ended.status, problems(planted)) == (0, [])
    assert "Removed from the runs (5):" in ended.output
    assert "Kept" not in ended.output


def test_what_is_not_removed_is_not_said_to_be(planted: Planted, tmp_path: Path) -> None:
    model = annotated(planted, tmp_path)
    before = planted.state()
    planted.server.instruments.fault("executeOperations", "status", status=403, times=None)
    ended = Play(planted, tmp_path, "--recopy").end()
    planted.server.instruments.clear_faults()
    assert (ended.status, planted.state()) == (1, before)
    assert "Removed" not in ended.output
    assert "removed: " not in ended.row(model)["error"]


@pytest.mark.parametrize("requests", [0, 1])
def test_it_stays_through_a_kill_while_the_copy_catches_up(planted: Planted, tmp_path: Path, requests: int) -> None:
    model = annotated(planted, tmp_path)
    planted.put(model, {"depth": value("int", 2)})
    before = planted.state()
    kill_after(planted, tmp_path, requests, operation="executeOperations")
    assert complete(planted, tmp_path, before) == []


@pytest.mark.parametrize("requests", [1, 3, 5, 7])
def test_it_stays_beside_contents_through_a_kill_while_the_copies_catch_up(
    rich: Planted, tmp_path: Path, requests: int
) -> None:
    assert complete(rich, tmp_path) == []
    add(rich, *ADDED.values())
    change(rich)
    before = rich.state()
    # Of two workers, the second may ask before the first one's first request has been carried out.
    workers = "1" if requests == 1 else "2"
    kill_after(rich, tmp_path, requests, "--workers", workers, operation="executeOperations")
    assert any(claims(rich, source_id) for source_id in sources(rich))
    assert complete(rich, tmp_path, before) == []


def test_the_leftovers_of_a_copy_that_was_only_begun_are_taken_out(rich: Planted, tmp_path: Path) -> None:
    ended = Play(rich, tmp_path).end()
    assert (ended.status, problems(rich)) == (0, [])
    assert "Removed from the runs (1):" in ended.output
    assert "Kept" not in ended.output


def test_a_run_that_was_never_complete_ends_without_leftovers(planted: Planted, tmp_path: Path) -> None:
    kill_after(planted, tmp_path, 1, operation="executeOperations")
    add(Planted(planted.server, planted.project), LEFT)  # with a token of its own: the others have expired
    ended = Play(planted, tmp_path).end()
    assert (ended.status, problems(planted)) == (0, [])
    assert "Removed from the runs (1):" in ended.output


def test_what_the_registry_has_lost_stays_as_an_addition_would(planted: Planted, tmp_path: Path) -> None:
    assert complete(planted, tmp_path) == []
    (model,) = sources(planted)
    planted.server.instruments.set_attribute(planted.project, model, "note", None)
    planted.put(model, {"depth": value("string", "deep")})
    before = planted.state()
    ended = Play(planted, tmp_path).end()
    assert (ended.status, problems(planted, before)) == (0, [])
    assert f"{model}: kept: note" in ended.log


def test_a_tag_that_the_registry_has_lost_stays_as_an_addition_would(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    planted.put(model, {"sys/tags": value("stringSet", ["lost", "there"])})
    assert complete(planted, tmp_path) == []
    planted.put(model, {"sys/tags": value("stringSet", ["there"]), "depth": value("int", 2)})
    before = planted.state()
    ended = Play(planted, tmp_path).end()
    assert (ended.status, problems(planted, before)) == (0, [])
    assert run_of(planted, model)["attributes"]["sys/tags"]["value"] == ["lost", "model", "there"]
    assert ended.row(model)["error"] == "kept: sys/tags: 'lost'"


def test_a_value_of_the_registry_is_put_right(planted: Planted, tmp_path: Path) -> None:
    model = annotated(planted, tmp_path)
    add(planted, {"path": "depth", "assignInt": {"value": 99}}, {"path": "note", "deleteAttribute": {}})
    planted.put(model, {"sys/description": value("string", "the registry's"), "depth": value("float", 0.5)})
    before = planted.state()
    assert complete(planted, tmp_path, before) == []
    assert run_of(planted, model)["attributes"]["sys/description"]["value"] == "the registry's"


def test_a_stage_that_has_changed_replaces_its_tag(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    planted.put(model, {"sys/stage": value("string", "staging")})
    assert Play(planted, tmp_path, "--stage-as-tag").end().status == 0
    add(planted, *ADDED.values())
    planted.put(model, {"sys/stage": value("string", "production"), "depth": value("int", 2)})
    assert Play(planted, tmp_path, "--stage-as-tag").end().status == 0
    run = run_of(planted, model)["attributes"]
    assert run["sys/tags"]["value"] == ["model", "production", "reviewed"]
    assert run["notes/why"]["value"] == "because"


def test_a_tag_with_the_name_of_a_stage_stays_on_the_run_of_an_object_without_one(
    planted: Planted, tmp_path: Path
) -> None:
    (model,) = sources(planted)
    assert Play(planted, tmp_path, "--stage-as-tag").end().status == 0
    add(planted, {"path": "sys/tags", "insertStrings": {"values": ["production"]}})
    planted.put(model, {"depth": value("int", 2)})
    assert Play(planted, tmp_path, "--stage-as-tag").end().status == 0
    assert run_of(planted, model)["attributes"]["sys/tags"]["value"] == ["model", "production"]


def test_a_stage_that_has_changed_leaves_a_tag_of_the_source_with_its_name(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    planted.put(model, {"sys/stage": value("string", "staging"), "sys/tags": value("stringSet", ["staging"])})
    assert Play(planted, tmp_path, "--stage-as-tag").end().status == 0
    planted.put(model, {"sys/stage": value("string", "production"), "depth": value("int", 2)})
    ended = Play(planted, tmp_path, "--stage-as-tag").end()
    assert (ended.status, differences(planted.state(), stage_as_tag=True)) == (0, [])
    assert run_of(planted, model)["attributes"]["sys/tags"]["value"] == ["model", "production", "staging"]
    assert "Kept" not in ended.output


def test_a_description_beside_an_empty_one_of_the_source_is_kept_and_nothing_counts_as_left_out(
    planted: Planted, tmp_path: Path
) -> None:
    model = planted.model({"sys/description": value("string", ""), "depth": value("int", 1)}, key="EMPTY")
    assert complete(planted, tmp_path) == []
    described = {"path": "sys/description", "assignString": {"value": "somebody's"}}
    assert planted.wire.execute(run_of(planted, model)["id"], described) == []
    planted.put(model, {"depth": value("int", 2)})
    ended = Play(planted, tmp_path).end()
    row = ended.row(model)
    assert (ended.status, row["status"], row["error"]) == (0, "copied", "kept: sys/description")
    assert planted.runs()[model]["sys/description"]["value"] == "somebody's"


@pytest.mark.parametrize(("old", "new"), [("metrics", "metrics/loss"), ("metrics/loss", "metrics")])
def test_a_field_that_the_registry_has_made_a_namespace_of_gives_way(
    planted: Planted, tmp_path: Path, old: str, new: str
) -> None:
    """It would stand for ever where the other one must go. So it is taken out, and counted, without --recopy."""
    (model,) = sources(planted)
    planted.put(model, {old: value("int", 1)})
    assert complete(planted, tmp_path) == []
    planted.server.instruments.set_attribute(planted.project, model, old, None)
    planted.put(model, {new: value("int", 2)})
    ended = Play(planted, tmp_path).end()
    assert (ended.status, problems(planted)) == (0, []), ended.output
    assert "Removed from the runs (1):" in ended.output
    assert f"removed: {old}" in ended.row(model)["error"]


def test_what_is_left_out_of_a_changed_source_stays_with_its_earlier_value_and_is_named(
    planted: Planted, tmp_path: Path
) -> None:
    """The run may have the last bytes of a file that the server has lost, which is why it is left out."""
    (model,) = sources(planted)
    planted.put(model, {"weights": planted_file(b"weights", "bin")})
    assert complete(planted, tmp_path) == []
    planted.server.instruments.lose_bytes(planted.project, model, "weights")
    planted.put(model, {"note": value("string", "new")})
    told = Play(planted, tmp_path).end().output
    assert "--exclude and its path in the registry" in told
    preview = Play(planted, tmp_path, "--exclude", "weights", "--dry-run").end().output
    assert f"{model}  weights" in preview.partition("Would be kept")[2]
    ended = Play(planted, tmp_path, "--exclude", "weights").end()
    fields = planted.runs()[model]
    assert (ended.status, "weights" in fields, fields["note"]["value"]) == (0, True, "new"), ended.output
    assert "Kept in the runs (1):" in ended.output
    assert "left out: weights; kept: weights" in ended.row(model)["error"]
    assert Play(planted, tmp_path, "--verify", "--exclude", "weights").end().status == 0
    assert Play(planted, tmp_path, "--recopy", "--exclude", "weights").end().status == 0
    assert "weights" in planted.runs()[model], "it may be the last copy"
    assert Play(planted, tmp_path, "--recopy", "--exclude", "note").end().status == 1


def test_what_people_write_where_a_field_could_not_be_copied_stays(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    planted.put(model, {"notebook": {"type": "notebookRef", "notebookName": "n"}})
    assert "notebook" in Play(planted, tmp_path).end().output.partition("Skipped (1):")[2]
    add(planted, {"path": "notebook", "assignString": {"value": "https://notebooks/training"}})
    planted.put(model, {"depth": value("int", 2)})
    ended = Play(planted, tmp_path).end()
    assert (ended.status, planted.runs()[model]["notebook"]["value"]) == (0, "https://notebooks/training")
    assert "kept: notebook" in ended.row(model)["error"]


def test_all_that_recopy_removes_is_named_in_a_dry_run_and_in_the_report(planted: Planted, tmp_path: Path) -> None:
    model = annotated(planted, tmp_path)
    told = Play(planted, tmp_path, "--recopy", "--dry-run").end().output.partition("Would be removed")[2]
    ended = Play(planted, tmp_path, "--recopy").end()
    for words in ADDED:
        assert f"{model}  {words}" in told
        assert f"removed: {words}" in ended.row(model)["error"]
        assert f"{model}: removed: {words}" in ended.log


def test_what_is_left_out_of_a_run_that_was_never_complete_stays_too(planted: Planted, tmp_path: Path) -> None:
    """As the screen advises, start by start, where the server loses bytes in between."""
    (model,) = sources(planted)
    planted.put(model, {"weights": planted_file(b"weights", "bin"), "long": value("string", "x" * 20_000)})
    told = Play(planted, tmp_path).end().output
    assert "To leave out a field that always fails: --exclude" in told
    planted.server.instruments.lose_bytes(planted.project, model, "weights")
    ended = Play(planted, tmp_path, "--exclude", "long", "--exclude", "weights").end()
    assert (ended.status, "weights" in planted.runs()[model]) == (0, True), ended.output
    assert "kept: weights" in ended.row(model)["error"]


def test_what_could_not_be_removed_is_not_said_to_be(planted: Planted, tmp_path: Path) -> None:
    (model,) = sources(planted)
    annotated(planted, tmp_path)
    instruments = planted.server.instruments
    instruments.fault("executeOperations", "status", status=403, path="notes/why", times=None)
    ended = Play(planted, tmp_path, "--recopy").end()
    instruments.clear_faults()
    assert (ended.status, "notes/why" in planted.runs()[model]) == (1, True)
    assert "removed: notes/why" not in ended.row(model)["error"]
    assert "removed: sys/tags: 'reviewed'" in ended.row(model)["error"]

"""Running the script again: to resume, to catch up, beside another one; nothing is lost, and nothing is there twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.support.planted import Planted, connected, copy, points, value
from tests.support.registry import PART, noise, planted_file, planted_image
from tests.support.script import impatient_script, run_script
from tests.tools.torture import (
    EXPERIMENTS,
    Lateness,
    Play,
    asked,
    bare_registry,
    change,
    complete,
    growth,
    is_beyond,
    kill_after,
    load,
    marked_and_wrong,
    play_late,
    play_round,
    play_two,
    problems,
    random_rounds,
    small_registry,
    sources,
    until,
)

MARK = "old_sys/verified"
STARTING = {
    "swagger",
    "getClientConfig",
    "exchangeApiToken",
    "token",
    "listProjects",
    "searchLeaderboardEntries",
    "searchLeaderboardAttributes",
}
"""What the script asks of a server before it copies anything."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One of this module's own: its tokens expire at once now and then, which other tests' clients need not bear."""
    with ServerProcess() as process:
        yield process


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    with small_registry(server) as registry:
        yield registry
        server.instruments.clear_faults()


@pytest.fixture
def small(server: ServerProcess) -> Iterator[Planted]:
    """A model with a value and a file, and nothing else."""
    with bare_registry(server) as registry:
        registry.model({"depth": value("int", 1), "weights": planted_file(b"weights", "bin")})
        yield registry


def run_of(planted: Planted, source_id: str) -> dict[str, Any]:
    """The run with a source's ID as its custom run ID, in the trash or not."""
    runs = [each for each in planted.state()["containers"].values() if each["kind"] == "run"]
    (found,) = (run for run in runs if run["attributes"]["sys/custom_run_id"]["value"] == source_id)
    return found


def claims(planted: Planted, source_id: str) -> list[str]:
    """The tags of a source's run that say it is incomplete."""
    tags = run_of(planted, source_id)["attributes"]["sys/tags"]["value"]
    return [tag for tag in tags if tag.startswith("incomplete copy ")]


def trash(planted: Planted, source_id: str) -> None:
    run_id = run_of(planted, source_id)["attributes"]["sys/id"]["value"]
    Planted(planted.server, planted.project).wire.post(
        f"{EXPERIMENTS}/trash", [run_id], projectIdentifier=planted.project
    ).raise_for_status()


# -- again --


def test_a_second_run_opens_no_object_and_uploads_nothing(planted: Planted, tmp_path: Path) -> None:
    assert complete(planted, tmp_path) == []
    planted.server.instruments.reset_counts()
    ended = Play(planted, tmp_path).end()
    assert ended.status == 0
    assert "2 up to date, 0 to copy" in ended.output
    assert [row["status"] for row in ended.report] == ["up to date", "up to date"]
    opened = [container for _, operation, _, container in planted.server.instruments.log() if operation not in STARTING]
    state = planted.state()["containers"]
    assert set(opened) <= {each["id"] for each in state.values() if each["kind"] == "project"}
    assert sum(planted.server.instruments.counts()["requests"].values()) < 40


def test_a_changed_source_is_copied_as_if_for_the_first_time(planted: Planted, tmp_path: Path) -> None:
    assert complete(planted, tmp_path) == []
    change(planted)
    before = planted.state()
    ended = Play(planted, tmp_path).end()
    assert (ended.status, problems(planted, before)) == (0, [])
    assert [row["status"] for row in ended.report] == ["copied", "copied"]
    run = run_of(planted, sources(planted)[0])["attributes"]
    assert run["note"]["value"] == "to be removed"
    assert len(run["metrics/loss"]["points"]) == 20
    assert run["sys/tags"]["value"] == ["a,b", "mine", "model", "other"]
    ended = Play(planted, tmp_path, "--recopy").end()
    assert (ended.status, problems(planted)) == (0, [])


def test_only_what_has_changed_is_copied_again(planted: Planted, tmp_path: Path) -> None:
    assert complete(planted, tmp_path) == []
    model, version = sources(planted)
    planted.put(version, {"params/depth": value("int", 9)})
    ended = Play(planted, tmp_path).end()
    assert {row["source ID"]: row["status"] for row in ended.report} == {model: "up to date", version: "copied"}
    assert problems(planted) == []


def test_what_people_change_in_a_run_is_put_right_when_its_source_changes(small: Planted, tmp_path: Path) -> None:
    assert complete(small, tmp_path) == []
    (model,) = sources(small)
    run_id = run_of(small, model)["attributes"]["sys/id"]["value"]
    small.put(run_id, {"depth": value("string", "deep"), "mine": value("int", 1)})
    small.put(model, {"added": value("int", 2)})
    assert complete(small, tmp_path) == []


def test_a_description_that_is_gone_at_the_source_stays_in_the_run_until_it_is_copied_again(
    small: Planted, tmp_path: Path
) -> None:
    (model,) = sources(small)
    small.put(model, {"sys/description": value("string", "old words")})
    assert complete(small, tmp_path) == []
    small.server.instruments.set_attribute(small.project, model, "sys/description", None)
    small.put(model, {"depth": value("int", 2)})
    assert complete(small, tmp_path) == []
    assert run_of(small, model)["attributes"]["sys/description"]["value"] == "old words"
    assert Play(small, tmp_path, "--recopy").end().status == 0
    assert run_of(small, model)["attributes"]["sys/description"]["value"] == ""


def test_the_run_of_an_earlier_copy_comes_back_from_the_trash(small: Planted, tmp_path: Path) -> None:
    assert complete(small, tmp_path) == []
    (model,) = sources(small)
    trash(small, model)
    small.put(model, {"depth": value("int", 2)})
    assert complete(small, tmp_path) == []
    assert not run_of(small, model)["trashed"]


@pytest.mark.parametrize("in_trash", [False, True])
@pytest.mark.parametrize(
    "kept",
    [
        {"path": "score", "assignFloat": {"value": 0.5}},
        {"path": "sys/description", "assignString": {"value": "mine"}},
        {"path": "sys/tags", "insertStrings": {"values": ["mine"]}},
    ],
    ids=["field", "description", "tag"],
)
def test_a_run_that_is_no_copy_is_left_as_it_is(
    small: Planted, tmp_path: Path, in_trash: bool, kept: dict[str, Any]
) -> None:
    (model,) = sources(small)
    wanted = {"projectIdentifier": small.project, "parentId": "", "type": "run", "customId": model}
    run = small.wire.post(EXPERIMENTS, wanted).json()
    small.wire.execute(run["id"], kept)
    if in_trash:
        trash(small, model)
    before = run_of(small, model)
    ended = Play(small, tmp_path).end()
    assert ended.status == 1
    assert run_of(small, model) == before
    for told in (ended.output, ended.log, ended.row(model)["error"]):
        assert "custom run ID" in told


def test_a_lagging_index_makes_no_second_run(tmp_path: Path) -> None:
    with ServerProcess("--index-lag", "2") as server, small_registry(server) as planted:
        kill_after(planted, tmp_path, 60)
        assert complete(planted, tmp_path) == []
        assert complete(planted, tmp_path) == []
        change(planted)
        before = planted.state()
        server.instruments.catch_up()
        until(partial(says_up_to_date, planted, tmp_path))
        assert problems(planted, before) == []


def test_a_copy_made_again_is_not_taken_for_complete_by_a_lagging_index(tmp_path: Path) -> None:
    """It is killed when it has begun to write over what was there: the next run, at once, has to see that."""
    with ServerProcess("--index-lag", "2") as server, small_registry(server) as planted:
        assert complete(planted, tmp_path) == []
        server.instruments.catch_up()
        kill_after(planted, tmp_path, 8, "--recopy", operation="executeOperations")
        assert problems(planted) != []
        assert complete(planted, tmp_path) == []


def test_a_copy_made_again_waits_for_its_own_claim_also_after_one_that_was_killed(
    small: Planted, tmp_path: Path
) -> None:
    """Else, when it is killed too, a third run could find neither claim in a lagging index."""
    assert complete(small, tmp_path) == []
    (model,) = sources(small)
    kill_after(small, tmp_path, 1, "--recopy", operation="executeOperations")
    assert claims(small, model) != []
    earlier = len(small.server.instruments.log())
    assert complete(small, tmp_path) == []
    log = [(operation, container) for _, operation, _, container in small.server.instruments.log()[earlier:]]
    first, second, *_ = (at for at, one in enumerate(log) if one == ("executeOperations", run_of(small, model)["id"]))
    assert "searchLeaderboardEntries" in [operation for operation, _ in log[first:second]]


def test_a_change_that_the_index_is_yet_to_show_is_copied_before_a_model_goes_to_the_trash(tmp_path: Path) -> None:
    """And what is in the trash already, as the index is yet to show, keeps its run out of it."""
    with ServerProcess("--index-lag", "5") as server, small_registry(server) as planted:
        assert complete(planted, tmp_path) == []
        server.instruments.catch_up()
        model, version = sources(planted)
        planted.put(model, {"added": value("bool", True)})
        ended = Play(planted, tmp_path, "--verify", "--trash-models", "--yes").end()
        assert (ended.status, ended.row(model)["status"], ended.row(version)["status"]) == (0, "copied", "verified")
        assert run_of(planted, model)["attributes"]["added"] == value("bool", True)
        gone = {sys_id for sys_id, one in planted.state()["containers"].items() if one["trashed"]}
        assert gone == {model, version}
        ended = Play(planted, tmp_path, "--undo", "--yes", "--only", version).end()
        assert not run_of(planted, version)["trashed"]
        assert ended.status == 1


def test_what_was_copied_just_now_may_go_to_the_trash_though_the_index_lags(tmp_path: Path) -> None:
    with ServerProcess("--index-lag", "5") as server, bare_registry(server) as planted:
        planted.version(planted.model({"depth": value("int", 1)}))
        server.instruments.catch_up()
        ended = Play(planted, tmp_path, "--trash-models", "--yes").end()
        assert (ended.status, "Moved 2 registry objects to the trash." in ended.output) == (0, True), ended.output


def test_a_version_that_the_index_is_yet_to_show_keeps_its_model_from_the_trash(tmp_path: Path) -> None:
    trash = "/api/leaderboard/v1/experiments/trash"
    with ServerProcess("--index-lag", "8") as server, bare_registry(server) as planted:
        model = planted.model({"depth": value("int", 1)})
        version, trashed = planted.version(model), planted.version(model)
        planted.wire.post(trash, [f"{planted.project}/{trashed}"], projectIdentifier=planted.project).raise_for_status()
        server.instruments.catch_up()
        planted.version(model, {"only": value("string", "here")})
        ended = Play(planted, tmp_path, "--trash-models", "--yes").end()
        assert (ended.status, "1 object can go to the trash, 1 cannot" in ended.output) == (0, True), ended.output
        gone = {sys_id for sys_id, one in planted.state()["containers"].items() if one["trashed"]}
        assert gone == {version, trashed}


def test_what_changes_while_the_tables_are_read_again_does_not_go_to_the_trash(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in server.environment.items():
        monkeypatch.setenv(name, text)
    with bare_registry(server) as bare, connected(bare.project) as opened:
        model = bare.model({"depth": value("int", 1)})
        done = copy(bare.project)
        options = script.Options(trash_models=True, yes=True)

        def choose() -> dict[str, script.Source]:
            bare.put(model, {"late": value("string", "only here")})
            return script.safe_to_trash(opened, done.values())

        script.move_to_trash(opened, "object", {model: done[model].source}, choose, (script.UP_TO_DATE,), options)
        assert opened.shared.problems == [f"{model}: it has changed meanwhile, and was not moved"]
        assert not any(one["trashed"] for one in bare.state()["containers"].values())


def test_a_run_that_another_start_has_completed_stays_when_the_first_write_is_refused(
    small: Planted, tmp_path: Path
) -> None:
    instruments = small.server.instruments
    (model,) = sources(small)
    instruments.fault("executeOperations", "status", status=503, headers={"Retry-After": "12"})
    instruments.reset_counts()
    places = [tmp_path / name for name in ("slow", "fast", "again")]
    for place in places:
        place.mkdir()
    play = Play(small, places[0], "--only", model)
    until(lambda: asked(instruments, "executeOperations") > 0)
    assert complete(small, places[1]) == []
    instruments.fault("executeOperations", "status", status=402, times=None)
    assert play.end().status == 1
    instruments.clear_faults()
    assert not run_of(small, model)["trashed"]
    assert complete(small, places[2]) == []


def test_where_a_session_was_killed_the_index_is_not_trusted(tmp_path: Path) -> None:
    """It had taken the mark away, and the table still shows it."""
    with ServerProcess("--index-lag", "2") as server, small_registry(server) as planted:
        assert complete(planted, tmp_path) == []
        server.instruments.catch_up()
        kill_after(planted, tmp_path, 2, "--recopy", operation="executeOperations")
        assert any(claims(planted, source_id) for source_id in sources(planted))
        ended = Play(planted, tmp_path).end()
        assert (ended.status, problems(planted)) == (0, [])
        assert "did not finish" in ended.output
        assert "did not finish" not in Play(planted, tmp_path).end().output


def test_what_the_index_is_yet_to_show_is_seen_in_the_run_itself(tmp_path: Path) -> None:
    with ServerProcess("--index-lag", "5") as server, small_registry(server) as planted:
        assert complete(planted, tmp_path) == []
        before = planted.state()
        ended = Play(planted, tmp_path).end()
        assert "0 up to date, 2 to copy" in ended.output
        assert [row["status"] for row in ended.report] == ["up to date", "up to date"]
        assert (ended.status, planted.state()) == (0, before)


@pytest.mark.parametrize(("size", "operation"), [(9, "fileAtomUpload"), (PART + 1, "fileAtomMultipartUploadFinish")])
@pytest.mark.parametrize("answer", [None, {}, []])
def test_an_upload_that_something_in_between_says_yes_to_leaves_no_earlier_file_as_the_new_one(
    small: Planted, tmp_path: Path, size: int, operation: str, answer: Any
) -> None:
    (model,) = sources(small)
    small.put(model, {"weights": planted_file(noise(size, seed=1), "bin")})
    assert complete(small, tmp_path) == []
    small.put(model, {"weights": planted_file(noise(size, seed=2), "bin")})
    small.server.instruments.fault(operation, "status", status=200, body=answer, times=None)
    ended = Play(small, tmp_path).end()
    small.server.instruments.clear_faults()
    assert ended.status == 1
    assert "weights: the content differs; the answer does not say whether the upload succeeded" in ended.output
    assert complete(small, tmp_path) == []


@pytest.mark.parametrize("answer", [None, {}])
def test_points_that_something_in_between_says_yes_to_are_not_taken_for_written(
    small: Planted, tmp_path: Path, answer: Any
) -> None:
    """As many points were there before, and the last one was the same."""
    (model,) = sources(small)
    small.put(model, {"loss": points("floatSeries", [[0, 5, 1.0], [1, 6, 2.0]])})
    assert complete(small, tmp_path) == []
    small.put(model, {"loss": points("floatSeries", [[0, 5, 1.5], [1, 6, 2.0]])})
    small.server.instruments.fault("executeOperations", "status", status=200, body=answer, path="loss", times=None)
    impatient = impatient_script(tmp_path, SERVER_ERROR=1)
    ended = run_script(small.server, "--project", small.project, cwd=tmp_path, script=impatient)
    small.server.instruments.clear_faults()
    assert ended.status == 1
    assert "loss: writing fields: gave up waiting: no JSON list came for writing fields, but" in ended.output
    assert complete(small, tmp_path) == []


def test_an_upload_whose_end_is_refused_leaves_no_earlier_file_as_the_new_one(small: Planted, tmp_path: Path) -> None:
    (model,) = sources(small)
    small.put(model, {"weights": planted_file(noise(PART + 1, seed=1), "bin")})
    assert complete(small, tmp_path) == []
    small.put(model, {"weights": planted_file(noise(PART + 1, seed=2), "bin")})
    small.server.instruments.fault("fileAtomMultipartUploadFinish", "status", status=404, times=None)
    ended = Play(small, tmp_path).end()
    small.server.instruments.clear_faults()
    assert ended.status == 1
    assert "weights: the content differs; uploading: " in ended.output
    assert claims(small, model)
    assert complete(small, tmp_path) == []


def says_up_to_date(planted: Planted, place: Path) -> bool:
    ended = Play(planted, place).end()
    assert ended.status == 0
    return "2 up to date, 0 to copy" in ended.output


# -- killed --


ABOUT = {"first": 90, "again": 85, "recopy": 120}
"""Requests of an undisturbed run."""


@pytest.mark.parametrize("number", range(10))
def test_a_killed_run_is_completed(server: ServerProcess, number: int) -> None:
    wanted = random_rounds(10, seed=20_261_122, numbers=ABOUT)[number]
    assert play_round(server, wanted) == []


def test_a_copy_that_was_no_more_than_begun_can_be_undone(small: Planted, tmp_path: Path) -> None:
    kill_after(small, tmp_path, 1, operation="executeOperations")
    (model,) = sources(small)
    assert MARK not in run_of(small, model)["attributes"]
    ended = Play(small, tmp_path, "--undo", "--yes").end()
    assert (ended.status, run_of(small, model)["trashed"]) == (0, True)


# -- two at once --


HELD = 60.0
"""Seconds for which a request is held up, unless it is released earlier."""


def hold(planted: Planted, operation: str, after: int = 0) -> int:
    """Hold up the next request of a kind, after so many others; return the number to release it by."""
    planted.server.instruments.reset_counts()
    return planted.server.instruments.fault(operation, "delay", seconds=HELD, after=after)


def test_a_second_migration_in_the_same_directory_does_not_start(small: Planted, tmp_path: Path) -> None:
    hold(small, "executeOperations")
    first = Play(small, tmp_path)
    until(partial(is_beyond, 0, "executeOperations", small.server.instruments, first))
    second = Play(small, tmp_path).end()
    assert second.status == 2
    assert "is running in this directory" in second.output
    assert len(second.output.strip().splitlines()) == 1
    first.kill()
    small.server.instruments.clear_faults()
    small.server.instruments.expire_tokens()
    assert Play(small, tmp_path).end().status == 0
    assert problems(small) == []


@pytest.mark.parametrize("seed", [3, 5, 7])
def test_two_migrations_on_two_machines_end_in_a_whole_copy(server: ServerProcess, seed: int) -> None:
    assert play_two(server, seed) == []


def test_a_field_that_somebody_else_writes_meanwhile_is_noticed(small: Planted, tmp_path: Path) -> None:
    instruments = small.server.instruments
    writing = hold(small, "executeOperations")
    play = Play(small, tmp_path)
    until(partial(is_beyond, 0, "executeOperations", instruments, play))
    reading = hold(small, "getExperimentAttributes")
    instruments.release(writing)
    until(partial(is_beyond, 0, "getExperimentAttributes", instruments, play))
    (model,) = sources(small)
    run_id = run_of(small, model)["id"]
    small.wire.execute(run_id, {"path": "epoch", "assignInt": {"value": 3}})
    instruments.release(reading)
    ended = play.end()
    assert ended.status == 1
    assert f"{model}  epoch: " in ended.output
    assert MARK not in run_of(small, model)["attributes"]
    assert complete(small, tmp_path) == []


@pytest.mark.parametrize(("refused", "path"), [("fileAtomUpload", "weights"), ("executeOperations", "images")])
def test_the_mark_of_another_machine_does_not_hide_a_failure(
    small: Planted, tmp_path: Path, refused: str, path: str
) -> None:
    """One is held up in the middle, while another one completes the copy. Then the first goes on, to fail at a field
    of which it has taken out what was there."""
    (model,) = sources(small)
    small.put(model, {"images": large_images(2)})
    assert complete(small, tmp_path) == []
    small.put(model, {"depth": value("int", 2)})
    instruments = small.server.instruments
    slow = pause(small, tmp_path, 0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fast = Play(small, elsewhere).end()
    assert fast.status == 0
    after = 1 if path == "images" else 0
    instruments.fault(refused, "status", status=403, times=None, path=path, after=after)
    ended = slow.go_on().end()
    instruments.clear_faults()
    assert ended.status == 1
    assert claims(small, model)
    assert complete(small, tmp_path) == []


# -- two at once: the one is killed, late, or has read an earlier version --


@dataclass
class Paused:
    """A run of the script that waits for the answer to a request, which the server holds up."""

    planted: Planted
    play: Play
    held: int

    def go_on(self) -> Play:
        self.planted.server.instruments.release(self.held)
        return self.play


def pause(planted: Planted, place: Path, requests: int, operation: str = "executeOperations") -> Paused:
    """Runs the script up to a request, after so many others of its kind, which is held up until it is to go on."""
    place.mkdir(exist_ok=True)
    held = hold(planted, operation, after=requests)
    play = Play(planted, place)
    until(partial(is_beyond, requests, operation, planted.server.instruments, play))
    return Paused(planted, play, held)


def kill_at(paused: Paused, operation: str = "executeOperations") -> None:
    """Lets the script go on, and kills it before the next request of a kind is carried out."""
    instruments = paused.planted.server.instruments
    hold(paused.planted, operation)
    play = paused.go_on()
    until(partial(is_beyond, 0, operation, instruments, play))
    play.kill()
    instruments.clear_faults()
    instruments.expire_tokens()


def floats(number: int, first: float) -> dict[str, Any]:
    return points("floatSeries", [[step, step, first + step] for step in range(number)])


def test_a_mark_does_not_cover_what_another_machine_has_just_taken_down(small: Planted, tmp_path: Path) -> None:
    (model,) = sources(small)
    small.put(model, {"images": large_images(2)})
    # The values, two images; then the mark.
    first = pause(small, tmp_path / "first", 3)
    # The values, an image.
    second = pause(small, tmp_path / "second", 2)
    second.play.kill()
    first.go_on().end()
    small.server.instruments.clear_faults()
    run = run_of(small, model)["attributes"]
    assert len(run["images"]["points"]) == 1
    assert MARK in run and claims(small, model)
    assert complete(small, tmp_path) == []


def test_who_fails_beside_another_machine_lets_it_know(small: Planted, tmp_path: Path) -> None:
    """The other one has read its copy back, and is about to set the mark."""
    (model,) = sources(small)
    small.put(model, {"images": large_images(2)})
    first = pause(small, tmp_path / "first", 3)
    small.server.instruments.fault("executeOperations", "status", status=403, path="images", after=1, times=None)
    (tmp_path / "second").mkdir()
    assert Play(small, tmp_path / "second").end().status == 1
    small.server.instruments.clear_faults()
    first.go_on().end()
    assert MARK in run_of(small, model)["attributes"] and claims(small, model)
    assert complete(small, tmp_path) == []


def test_a_request_that_is_carried_out_late_makes_the_run_incomplete(small: Planted, tmp_path: Path) -> None:
    (model,) = sources(small)
    late = pause(small, tmp_path / "late", 0)
    small.put(model, {"depth": value("int", 2)})
    assert complete(small, tmp_path) == []
    kill_at(late, "fileAtomUpload")
    assert run_of(small, model)["attributes"]["depth"]["value"] == 1
    assert claims(small, model)
    assert complete(small, tmp_path) == []


def test_a_series_that_two_machines_wrote_in_turn_is_noticed(small: Planted, tmp_path: Path) -> None:
    """The number of points and the last one are as they should be."""
    (model,) = sources(small)
    small.put(model, {"loss": floats(30_000, first=0)})
    earlier = pause(small, tmp_path / "earlier", 1)
    small.put(model, {"loss": floats(30_000, first=0.5)})
    later = pause(small, tmp_path / "later", 2)
    kill_at(earlier)
    ended = later.go_on().end()
    assert ended.status == 1
    assert "another migration wrote to this run at the same time" in ended.output
    assert complete(small, tmp_path) == []


def test_a_file_that_two_machines_upload_is_noticed(small: Planted, tmp_path: Path) -> None:
    """It has another content, and the same size."""
    (model,) = sources(small)
    earlier = pause(small, tmp_path / "earlier", 0, "fileAtomUpload")
    small.put(model, {"weights": planted_file(b"heights", "bin")})
    later = pause(small, tmp_path / "later", 1)
    assert earlier.go_on().end().status == 1
    later.go_on().end()
    small.server.instruments.clear_faults()
    assert claims(small, model)
    assert complete(small, tmp_path) == []


def test_a_run_that_comes_from_the_trash_is_not_complete_before_it_is_copied(small: Planted, tmp_path: Path) -> None:
    assert complete(small, tmp_path) == []
    (model,) = sources(small)
    run_id = run_of(small, model)["attributes"]["sys/id"]["value"]
    small.put(run_id, {"depth": value("int", 9)})
    trash(small, model)
    kill_at(pause(small, tmp_path, 0, "restoreExperiments"))
    assert not run_of(small, model)["trashed"]
    assert complete(small, tmp_path) == []


def test_a_run_comes_from_the_trash_although_the_answer_is_lost(small: Planted, tmp_path: Path) -> None:
    assert complete(small, tmp_path) == []
    (model,) = sources(small)
    trash(small, model)
    small.server.instruments.fault("restoreExperiments", "lost_answer")
    assert complete(small, tmp_path) == []


def test_a_run_that_is_trashed_while_it_is_copied_is_noticed(small: Planted, tmp_path: Path) -> None:
    paused = pause(small, tmp_path, 0)
    (model,) = sources(small)
    trash(small, model)
    ended = paused.go_on().end()
    assert ended.status == 1
    assert "moved to the trash meanwhile" in ended.row(model)["error"]
    assert complete(small, tmp_path) == []


def test_the_copy_of_an_object_that_had_the_same_id_before_is_not_undone(small: Planted, tmp_path: Path) -> None:
    assert complete(small, tmp_path) == []
    (model,) = sources(small)
    for step in ("trash", "trash/delete"):
        wire = small.wire.post(f"{EXPERIMENTS}/{step}", [model], projectIdentifier=small.project)
        wire.raise_for_status()
    assert Planted(small.server, small.project).model({"depth": value("int", 7)}) == model
    ended = Play(small, tmp_path, "--undo", "--yes").end()
    assert (ended.status, run_of(small, model)["trashed"]) == (0, False)
    assert "0 runs made by this script" in ended.output


def large_images(number: int) -> dict[str, Any]:
    """Images of which only one goes into a request."""
    entries = [[step, step, planted_image(noise(5 << 20, seed=step))] for step in range(number)]
    return points("imageSeries", entries)


def test_a_source_that_changes_while_it_is_copied_is_copied_again(small: Planted, tmp_path: Path) -> None:
    paused = pause(small, tmp_path, 0)
    (model,) = sources(small)
    small.put(model, {"depth": value("int", 2), "weights": planted_file(b"heights", "bin")})
    assert paused.go_on().end().status in (0, 1)
    ended = Play(small, tmp_path).end()
    assert (ended.status, ended.row(model)["status"]) == (0, "copied")
    assert problems(small) == []


# -- many objects --


def test_memory_threads_and_open_files_stay_within_bounds(server: ServerProcess) -> None:
    ended, samples, found = load(server, objects=150, workers=16)
    assert (ended.status, found) == (0, [])
    assert growth(samples) < 50_000
    assert max(sample.threads for sample in samples) <= 4 * 16 + 10
    assert max(sample.files for sample in samples) <= 8 * 16 + 50
    assert asked(server.instruments, "createExperiment") == 150


# -- requests that arrive late --


def test_a_run_that_is_wrong_is_told_as_long_as_it_looks_complete(small: Planted, tmp_path: Path) -> None:
    assert complete(small, tmp_path) == []
    assert marked_and_wrong(small) == []
    (model,) = sources(small)
    run = run_of(small, model)["attributes"]
    run_id, tags = run["sys/id"]["value"], run["sys/tags"]["value"]
    small.put(run_id, {"depth": value("int", 9)})
    assert [words.partition(": ")[:1] for words in marked_and_wrong(small)] == [(model,)]
    small.put(run_id, {"sys/tags": value("stringSet", [*tags, "incomplete copy 0123abcd"])})
    assert marked_and_wrong(small) == []


@pytest.mark.parametrize(
    "wanted",
    [
        Lateness("first", "late", "executeOperations", 2, 13),
        Lateness("first", "late", "executeOperations", 8, 9),
        Lateness("first", "repeated_late", "restoreExperiments", 0, 3),
        Lateness("first", "late", "uploadFileSetAttributeTar", 0, 6),
        Lateness("again", "repeated_late", "executeOperations", 2, 9),
        Lateness("recopy", "late", "executeOperations", 3, 20),
    ],
    ids=str,
)
def test_no_run_looks_complete_and_is_wrong_when_a_request_arrives_late(
    server: ServerProcess, wanted: Lateness
) -> None:
    assert play_late(server, wanted) == []


@pytest.mark.parametrize("lag", [0, 4])
def test_recopy_makes_the_run_anew_that_was_deleted_for_good(tmp_path: Path, lag: int) -> None:
    """The table of runs may still list it."""
    with ServerProcess("--index-lag", str(lag)) as server, bare_registry(server) as planted:
        model = planted.model({"depth": value("int", 1)})
        server.instruments.catch_up()
        assert Play(planted, tmp_path).end().status == 0
        server.instruments.catch_up()
        run_id = run_of(planted, model)["attributes"]["sys/id"]["value"]
        trash(planted, model)
        deletion = f"{EXPERIMENTS}/trash/delete"
        planted.wire.post(deletion, [run_id], projectIdentifier=planted.project).raise_for_status()
        assert Play(planted, tmp_path, "--recopy").end().status == 0
        assert problems(planted) == []

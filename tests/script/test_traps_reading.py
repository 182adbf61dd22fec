"""What gets lost when the client reads from the server, and that the script's copies do not lose it."""

from __future__ import annotations

import base64
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import neptune
import pytest
import requests
import urllib3
from neptune.api import searching_entries
from neptune.common.backends import utils as client_requests
from neptune.common.exceptions import NeptuneConnectionLostException, Unauthorized
from neptune.internal.backends.hosted_neptune_backend import HostedNeptuneBackend, _get_column_type_from_entries
from neptune.metadata_containers.metadata_container import MetadataContainer

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.server.test_server_files import picture
from tests.server.test_server_objects import open_run
from tests.support.planted import Attribute, Planted, connected, copy, copy_one, copy_whole, points, to_copy, value
from tests.tools.torture import asked, until

REPEATED_HOUR = 1_729_987_200_000
"""Milliseconds of 2024-10-27T00:00Z. For two hours from then, clocks in Warsaw show the same hour twice."""

posix_zones = pytest.mark.skipif(not hasattr(time, "tzset"), reason="the system cannot change a process's time zone")


@pytest.fixture
def planted(server: ServerProcess, project: str) -> Iterator[Planted]:
    yield Planted(server, project)
    server.instruments.clear_faults()


@contextmanager
def another_server(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Iterator[Planted]:
    with ServerProcess("--project", "acme/other", *arguments) as server:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", server.environment["NEPTUNE_API_TOKEN"])
        yield Planted(server, "acme/other")


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


# -- times --


@pytest.fixture
def warsaw(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Warsaw")
        time.tzset()
        yield
    time.tzset()


@posix_zones
def test_fetch_values_gives_local_times_that_tell_two_hours_of_autumn_alike(planted: Planted, warsaw: None) -> None:
    model = planted.model(
        {"loss": points("floatSeries", [[0.0, REPEATED_HOUR, 1.0], [1.0, REPEATED_HOUR + 3_600_000, 2.0]])}
    )
    with neptune.init_model(with_id=model, mode="read-only") as opened:
        first, second = opened["loss"].fetch_values(progress_bar=False)["timestamp"]
    assert first.tzinfo is None
    assert first == second
    assert (first.hour, first.minute) == (2, 0)


@posix_zones
def test_the_script_copies_milliseconds_through_the_repeated_hour(planted: Planted, warsaw: None) -> None:
    moments = [REPEATED_HOUR + number * 599_999 for number in range(-2, 16)] + [4_102_444_800_001]
    fields = {
        "loss": points("floatSeries", [[step / 3, moment, 0.1] for step, moment in enumerate(moments)]),
        "log": points("stringSeries", [[step - 2.5, moment, "x"] for step, moment in enumerate(moments)]),
    }
    planted.model({**fields, **{f"date/{moment}": value("datetime", moment) for moment in moments}})
    copy_whole(planted)


# -- images --


def images(*names: str | None) -> Attribute:
    content = [encoded(picture((number, 0, 0))) for number in range(len(names))]
    return points(
        "imageSeries",
        [
            [number * 1.5 - 4, 1_000 + number, {"content": content[number], "name": name, "description": f"{name}!"}]
            for number, name in enumerate(names)
        ],
    )


def test_the_client_reads_no_steps_times_names_and_descriptions_of_images(planted: Planted) -> None:
    model = planted.model({"images": images("one", "two")})
    with neptune.init_model(with_id=model, mode="read-only") as opened:
        opened["images"].download("here")
        assert not hasattr(opened["images"]._get_attribute(), "fetch_values")
    assert sorted(path.name for path in Path("here").iterdir()) == ["0.png", "1.png"]


def test_the_script_copies_steps_times_names_and_descriptions_of_images(planted: Planted) -> None:
    planted.model({"images": images("one", None, "", "zażółć", "one"), "nothing": points("imageSeries", [])})
    copy_whole(planted)


def test_images_of_a_server_without_channel_values_keep_order_and_bytes_and_the_loss_is_named(
    project: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with another_server(monkeypatch, "--without", "getChannelValues") as planted:
        model = planted.model({"a/images": images("one", "two", "three")})
        outcome = copy(planted.project)[model]
        source, run = planted.state()["containers"][model]["attributes"], planted.runs()[model]
    assert outcome.status == script.COPIED
    kept = [[point[2]["sha256"] for point in fields["a/images"]["points"]] for fields in (source, run)]
    assert kept[0] == kept[1]
    (loss,) = outcome.skipped
    assert loss.startswith("a/images (steps, times, names and descriptions")
    assert any(model in line and "a/images" in line for line in caplog.messages)
    script.write_report(Path("report.csv"), [outcome])
    assert loss in Path("report.csv").read_text(encoding="utf-8")
    capsys.readouterr()
    script.say_outcomes([outcome], 1.0, script.Options())
    assert loss in capsys.readouterr().out


# -- downloads --

CONTENT = os.urandom(3_000_000)
FILE: Attribute = {"type": "file", "content": encoded(CONTENT), "ext": "bin", "name": "any"}


def download(project: str, model: str) -> bytes:
    with neptune.init_model(project=project, with_id=model, mode="read-only") as opened:
        opened["file"].download("downloaded")
    return Path("downloaded").read_bytes()


@pytest.mark.skipif(urllib3.__version__ < "2", reason="an older one notices nothing: see below")
def test_the_client_leaves_a_part_of_a_file_whose_download_breaks_off(planted: Planted) -> None:
    model = planted.model({"file": FILE})
    planted.server.instruments.fault("downloadAttribute", "truncate", bytes=1_500_000)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        download(planted.project, model)
    assert 0 < Path("downloaded").stat().st_size < len(CONTENT)


@pytest.fixture
def older_urllib3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before version 2, it did not hold what it read against the length that was announced."""
    make = urllib3.response.HTTPResponse.__init__

    def lenient(self: Any, *arguments: Any, **settings: Any) -> None:
        make(self, *arguments, **{**settings, "enforce_content_length": False})

    monkeypatch.setattr(urllib3.response.HTTPResponse, "__init__", lenient)


def test_with_an_older_urllib3_the_client_takes_a_part_of_a_file_for_the_whole(
    planted: Planted, older_urllib3: None
) -> None:
    model = planted.model({"file": FILE})
    planted.server.instruments.fault("downloadAttribute", "truncate", bytes=1_500_000)
    assert len(download(planted.project, model)) < len(CONTENT)


TRUNCATED = {
    "downloadAttribute": FILE,
    "getImageSeriesValue": points(
        "imageSeries", [[0.0, 1, {"content": encoded(CONTENT), "name": None, "description": None}]]
    ),
    "download": {"type": "fileSet", "files": {"large": encoded(CONTENT), "small": encoded(b"small")}},
}


@pytest.mark.parametrize("operation", TRUNCATED)
def test_the_script_downloads_again_what_broke_off(planted: Planted, operation: str) -> None:
    planted.model({"contents": TRUNCATED[operation]})
    planted.server.instruments.fault(operation, "truncate", bytes=1_500_000)
    copy_whole(planted)


@pytest.mark.parametrize("operation", TRUNCATED)
def test_the_script_takes_no_part_for_the_whole_with_an_older_urllib3(
    planted: Planted, older_urllib3: None, operation: str
) -> None:
    planted.model({"contents": TRUNCATED[operation]})
    planted.server.instruments.fault(operation, "truncate", bytes=1_500_000)
    copy_whole(planted)


@contextmanager
def expired_tokens(planted: Planted, backend: HostedNeptuneBackend) -> Iterator[None]:
    """The client goes by its own clock alone. All that it opens in this process share a token, so it is renewed."""
    planted.server.instruments.expire_tokens()
    try:
        yield
    finally:
        backend._http_client.authenticator.auth.token_expires_at = 0


def test_the_client_gives_up_a_download_when_its_token_has_expired(planted: Planted) -> None:
    model = planted.model({"file": FILE, "number": value("int", 1)})
    with neptune.init_model(with_id=model, mode="read-only") as opened:
        opened["file"].download("downloaded")
        with expired_tokens(planted, opened._backend), pytest.raises(Unauthorized):
            opened["file"].download("downloaded")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("file", FILE),
        ("images", TRUNCATED["getImageSeriesValue"]),
        ("set", TRUNCATED["download"]),
        ("loss", points("floatSeries", [[0.0, 1, 1.0]])),
    ],
)
def test_the_script_goes_on_reading_when_its_token_has_expired(planted: Planted, path: str, field: Attribute) -> None:
    model = planted.model({path: field})
    with connected(planted.project) as server:
        source = to_copy(server)
        with expired_tokens(planted, server.backend):
            outcome = copy_one(server, source)
    assert (outcome.source.id, outcome.failures) == (model, [])
    assert planted.differences() == []


@pytest.mark.parametrize("operation", ["downloadAttribute", "fileAtomUpload", "executeOperations", "createExperiment"])
def test_the_script_renews_its_token_when_a_request_is_refused_for_it(planted: Planted, operation: str) -> None:
    planted.model({"file": FILE | {"content": encoded(b"short")}})
    planted.server.instruments.fault(operation, "status", status=401, body={"errorType": "AUTHORIZATION_TOKEN_EXPIRED"})
    copy_whole(planted)


# -- waiting --


class Waits(threading.Event):
    """In the place of the clock: notes how long it is asked to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        return False


def copy_without_waiting(planted: Planted) -> tuple[script.Outcome, list[float]]:
    waits = Waits()
    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + sum(waits.pauses))
    with pytest.MonkeyPatch.context() as patch, connected(planted.project, waits) as server:
        patch.setattr(script, "time", clock)
        return copy_one(server, to_copy(server)), waits.pauses


def test_the_client_reads_one_character_of_retry_after() -> None:
    assert client_requests.get_retry_from_headers_or_default({"retry-after": "120"}, 0) == 1
    assert client_requests.get_retry_from_headers_or_default({"retry-after": "90"}, 0) == 9


def test_the_script_waits_as_long_as_retry_after_says(planted: Planted) -> None:
    planted.model({"loss": points("floatSeries", [[0.0, 1, 1.0]])})
    for status in (429, 503):
        planted.server.instruments.fault(
            "getFloatSeriesValues", "status", status=status, headers={"Retry-After": "120"}
        )
    outcome, pauses = copy_without_waiting(planted)
    assert (outcome.failures, pauses) == ([], [120.0, 120.0])
    assert planted.differences() == []


def test_the_client_gives_up_after_a_time_that_it_reads_when_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_requests.retries_timeout == 60
    monkeypatch.setenv("NEPTUNE_RETRIES_TIMEOUT", "600")
    clock = [0.0]
    monkeypatch.setattr(client_requests.time, "sleep", lambda seconds: clock.append(clock[-1] + seconds))
    monkeypatch.setattr(client_requests.time, "monotonic", lambda: clock[-1])

    def refused() -> None:
        raise requests.exceptions.ConnectionError

    with pytest.raises(NeptuneConnectionLostException):
        client_requests.with_api_exceptions_handler(refused)()
    assert 60 < clock[-1] < 100


@pytest.mark.parametrize(
    "operation", ["getFloatSeriesValues", "executeOperations", "downloadAttribute", "fileAtomUpload"]
)
def test_the_script_waits_for_longer_than_five_minutes(planted: Planted, operation: str) -> None:
    planted.model({"loss": points("floatSeries", [[0.0, 1, 1.0]]), "file": FILE | {"content": encoded(b"short")}})
    for kind, times in (("status", 8), ("reset", 8)):
        planted.server.instruments.fault(operation, kind, times=times)
    outcome, pauses = copy_without_waiting(planted)
    assert outcome.failures == []
    assert sum(pauses) > 300
    assert planted.differences() == []


def test_the_person_is_told_that_the_script_waits(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    class Listening(Waits):
        def wait(self, timeout: float | None = None) -> bool:
            said.append(capsys.readouterr().out)
            return super().wait(timeout)

    planted.model({"loss": points("floatSeries", [[0.0, 1, 1.0]])})
    planted.server.instruments.fault("getFloatSeriesValues", "status", status=503)
    with connected(planted.project, Listening()) as server:
        assert copy_one(server, to_copy(server)).failures == []
    (told,) = said
    assert "Waiting for 127.0.0.1: the server answers 503" in told


# -- tables --

WINDOW, PAGE = 20, 10


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's window of 10,000 rows is made as small as a test would have it."""
    monkeypatch.setenv("NEPTUNE_FETCH_TABLE_STEP_SIZE", str(PAGE))
    defaults = searching_entries.iter_over_pages.__kwdefaults__
    assert defaults["max_offset"] == 10_000
    monkeypatch.setitem(defaults, "max_offset", WINDOW)


@pytest.fixture
def many_runs(planted: Planted, small_windows: None) -> Planted:
    """45 runs, which have a text that is the same in all, and another that is not."""
    for number in range(45):
        wanted = {"projectIdentifier": planted.project, "type": "run", "customId": f"r{number:03d}"}
        run = planted.wire.post("/api/leaderboard/v1/experiments", wanted).json()
        operations = [
            {"path": "same", "assignString": {"value": "x"}},
            {"path": "number", "assignInt": {"value": number}},
        ]
        planted.wire.execute(run["id"], *operations)
    return planted


def rows(project: str, limit: int, **arguments: Any) -> list[str]:
    with neptune.init_project(project, mode="read-only") as opened:
        backend = opened._backend
        found = backend.search_leaderboard_entries(project_id=opened._project_id, columns=["sys/id"], **arguments)
        return [entry.id for entry in itertools.islice(found, limit)]


def test_the_clients_tables_in_descending_order_give_the_first_window_again_and_again(many_runs: Planted) -> None:
    """One row less each time, which makes no end worth waiting for with windows of 10,000."""
    found = rows(many_runs.project, 500, sort_by="sys/id", ascending=False)
    assert len(found) > 3 * 45
    assert len(set(found)) == WINDOW


def test_the_clients_tables_in_ascending_order_end(many_runs: Planted) -> None:
    found = rows(many_runs.project, 500, sort_by="sys/id", ascending=True)
    assert len(found) == len(set(found)) == 45


def test_the_clients_ascending_tables_lose_rows_that_sort_alike(many_runs: Planted) -> None:
    with neptune.init_project(mode="read-only") as opened:
        found = opened.fetch_runs_table(columns=["same"], sort_by="same", ascending=True, progress_bar=False)
        assert len(list(found)) == WINDOW


def test_the_clients_tables_cannot_be_sorted_by_integers_past_a_window(many_runs: Planted) -> None:
    with neptune.init_project(mode="read-only") as opened, pytest.raises(ValueError, match="int"):
        list(opened.fetch_runs_table(columns=["number"], sort_by="number", ascending=True, progress_bar=False))


def test_the_script_copies_registries_of_more_than_a_window(planted: Planted, small_windows: None) -> None:
    model = planted.model({"number": value("int", -1)})
    versions = [planted.version(model, {"number": value("int", number)}) for number in range(2 * WINDOW + 5)]
    models = [planted.model(key=f"M{number}") for number in range(WINDOW + 1)]
    copy_whole(planted)
    assert set(planted.runs()) == {model, *versions, *models}
    outcomes = copy(planted.project)
    assert {outcome.status for outcome in outcomes.values()} == {script.UP_TO_DATE}
    assert set(outcomes) == set(planted.runs())


def test_a_table_that_counts_no_further_than_its_last_offset_is_read_to_its_end(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As search engines count: the client reads until a page is empty, too."""
    monkeypatch.setattr(script, "ROWS_PER_PAGE", 3)
    monkeypatch.setattr(script, "LAST_OFFSET", 4)
    models = [planted.model(key=f"KEY{letter}") for letter in "ABCDEFGHIJ"]
    call = script.Server.call

    def counting(server: script.Server, operation: str, *body: Any, **query: Any) -> Any:
        answer = call(server, operation, *body, **query)
        if operation == "searchLeaderboardEntries":
            answer["matchingItemCount"] = min(answer["matchingItemCount"], 4)
        return answer

    monkeypatch.setattr(script.Server, "call", counting)
    with connected(planted.project) as server:
        found = {script.value_of(row, "sys/id") for row in server.table("model", ["sys/id"]).values()}
    assert found == set(models)


def test_the_client_mistakes_the_type_of_a_column_when_another_ends_alike(planted: Planted) -> None:
    """It looks for columns by an expression that is not bound to the beginning, and then takes any date for a text."""
    planted.model()
    copy_whole(planted)
    with neptune.init_project(mode="read-only") as opened:
        found = opened._backend._get_column_types(opened._project_id, "sys/creation_time", ["run"])
    assert {entry.name for entry in found} == {"sys/creation_time", "old_sys/creation_time"}
    assert {entry.type for entry in found} == {"datetime"}
    assert _get_column_type_from_entries(found, "sys/creation_time") == "string"


def test_the_script_sorts_by_a_column_whose_type_the_client_knows(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.version(planted.model())
    copy_whole(planted)
    planted.server.instruments.reset_counts()
    assert {outcome.status for outcome in copy(planted.project).values()} == {script.UP_TO_DATE}
    assert "searchLeaderboardAttributes" not in planted.server.instruments.counts()["requests"]


def test_the_client_puts_no_parentheses_around_a_query_and_the_script_does(planted: Planted) -> None:
    """So a condition that follows binds to the last part of the query alone."""
    from neptune.metadata_containers.utils import build_raw_query

    assert str(build_raw_query("a = 1 OR b = 2", trashed=False)).startswith("(a = 1 OR b = 2 AND ")
    model = planted.model()
    other = planted.model(key="OTHER")
    copy_whole(planted)
    run = planted.runs()[other]["sys/id"]["value"]
    neptune.management.trash_objects(planted.project, run)
    outcomes = copy(planted.project)
    assert {sys_id: outcome.status for sys_id, outcome in outcomes.items()} == {
        model: script.UP_TO_DATE,
        other: script.COPIED,
    }
    assert planted.differences() == []


# -- the search index --


def test_objects_and_runs_that_a_search_does_not_show_yet_are_copied_next_time_and_once(
    project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_server(monkeypatch, "--index-lag", "3600") as planted:
        model = planted.model({"number": value("int", 1), "loss": points("floatSeries", [[0.0, 1, 1.0]])})
        assert copy(planted.project) == {}
        shown = script.Source(model, script.MODEL, planted.state()["containers"][model]["id"], model, 0)
        with connected(planted.project) as server:
            for number in (2, 3):
                planted.put(model, {"number": value("int", number)})
                assert copy_one(server, shown).status == script.COPIED
                assert planted.differences() == []
        assert list(planted.runs()) == [model]


# -- requests and memory --


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())


def test_the_client_never_frees_an_object_that_was_opened(planted: Planted) -> None:
    before = alive(MetadataContainer)
    for _ in range(3):
        open_run().stop()
    assert alive(MetadataContainer) == before + 3


def test_the_script_opens_none_of_the_clients_objects(planted: Planted) -> None:
    model = planted.model()
    opened = alive(MetadataContainer)
    copy_whole(planted)
    assert alive(MetadataContainer) == opened
    for number in range(6):
        planted.version(model, {"number": value("int", number)})
    copy_whole(planted)
    assert alive(MetadataContainer) == opened


@pytest.mark.parametrize("change", ["trash", "add", "exchange"])
def test_a_table_that_changes_while_it_is_read_is_read_again(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """What goes to the trash moves others to a page that has been read already."""
    monkeypatch.setattr(script, "ROWS_PER_PAGE", 3)
    models = [planted.model(key=f"KEY{letter}") for letter in "ABCDEFGH"]
    instruments = planted.server.instruments
    with connected(planted.project) as server, ThreadPoolExecutor(1) as reading:
        instruments.reset_counts()
        instruments.fault("searchLeaderboardEntries", "delay", seconds=1, after=1)
        read = reading.submit(server.table, "model", ["sys/id"], script.NOT_TRASHED)
        until(lambda: asked(instruments, "searchLeaderboardEntries") > 1)
        if change == "exchange":
            models.append(planted.model(key="ZZZ"))
        if change != "add":
            gone = [f"{planted.project}/{models.pop(0)}"]
            trash = "/api/leaderboard/v1/experiments/trash"
            planted.wire.post(trash, gone, projectIdentifier=planted.project).raise_for_status()
        else:
            models.insert(0, planted.model(key="AAA"))
        found = {script.value_of(row, "sys/id") for row in read.result().values()}
    instruments.clear_faults()
    assert found == set(models)


def requests_of(planted: Planted, action: Callable[[], object]) -> dict[str, int]:
    planted.server.instruments.reset_counts()
    action()
    counted: dict[str, int] = planted.server.instruments.counts()["requests"]
    return counted


def test_the_client_asks_for_each_value_on_its_own_or_for_all_at_once(planted: Planted) -> None:
    model = planted.model({f"p/{number}": value("int", number) for number in range(20)})
    with neptune.init_model(with_id=model, mode="read-only") as opened:
        one_by_one = requests_of(planted, lambda: [opened[f"p/{number}"].fetch() for number in range(20)])
        at_once = requests_of(planted, opened.fetch)
    assert one_by_one["getIntAttribute"] == 20
    assert sum(at_once.values()) == 1


def test_the_script_makes_no_more_requests_for_more_values(planted: Planted) -> None:
    types = {"int": 7, "float": 0.5, "string": "s", "bool": True, "datetime": 86_400_000}
    made = []
    for count in (1, 60):
        planted.model(
            {f"{name}/{n}": value(name, types[name]) for name in types for n in range(count)}, key=f"M{count}"
        )
        counts = requests_of(planted, lambda: copy_whole(planted))
        made.append([counts[name] for name in ("getExperimentAttributes", "createExperiment", "executeOperations")])
    assert made[0] == made[1]


def test_the_growing_pauses_of_one_thread_are_not_those_of_all() -> None:
    """Where a server that asks for time does not say how much, the others wait for a second, and not for 30."""
    waits: list[float] = []

    class Watching(Waits):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(shared.wait_until - time.monotonic())
            return super().wait(timeout)

    shared = script.Shared(stopping=Watching())

    def attempt() -> str:
        if len(waits) < 8:
            raise script.Away("the server answers 429", status=429)
        return "well"

    assert shared.patiently("searchLeaderboardEntries", attempt) == "well"
    assert 0 < max(waits) <= 1


def test_an_attempt_that_takes_long_takes_no_patience_from_another_kind_of_failure() -> None:
    """After a 500, an upload may take half an hour before its connection breaks off: it is sent again all the same."""
    waits, clock = Waits(), [0.0]
    shared = script.Shared(stopping=waits)
    failures: list[Exception] = [script.Away("the server answers 500", patience=60), script.Away("no answer")]

    def attempt() -> str:
        clock[0] += 1800
        if failures:
            raise failures.pop(0)
        return "well"

    with pytest.MonkeyPatch.context() as patch:
        now = SimpleNamespace(time=time.time, monotonic=lambda: clock[0] + sum(waits.pauses))
        patch.setattr(script, "time", now)
        assert shared.patiently("fileAtomMultipartUploadPart", attempt) == "well"

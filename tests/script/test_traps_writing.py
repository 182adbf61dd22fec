"""What the client does to values on their way to the server, and that the script's copies do not suffer from it."""

from __future__ import annotations

import base64
import logging
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import neptune
import pytest
from neptune.attributes.series.file_series import FileSeries
from neptune.exceptions import (
    FetchAttributeNotFoundException,
    MetadataInconsistency,
    NeedExistingRunForReadOnlyMode,
    OperationNotSupported,
)
from neptune.internal.operation import AssignDatetime
from neptune.internal.utils import limits
from neptune.types import File

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.server.test_server_files import picture
from tests.server.test_server_objects import open_run
from tests.support.planted import Planted, copy, copy_whole, points, value

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
LOSING = 1_086_453_687_669
"""Milliseconds of a day in June 2004. A detour by seconds as a floating-point number ends one millisecond early."""


@pytest.fixture
def planted(server: ServerProcess, project: str) -> Iterator[Planted]:
    yield Planted(server, project)
    server.instruments.clear_faults()


def fields_of(planted: Planted, run: neptune.Run) -> dict[str, Any]:
    found: dict[str, Any] = planted.state()["containers"][run["sys/id"].fetch()]["attributes"]
    return found


# -- dates --


def test_a_date_in_the_clients_queue_loses_a_millisecond() -> None:
    queued = AssignDatetime(["date"], EPOCH + timedelta(milliseconds=LOSING)).to_dict()
    assert queued["value"] == LOSING - 1
    assert AssignDatetime.from_dict(queued).to_dict()["value"] == LOSING - 1


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_date_set_through_the_client_loses_a_millisecond(planted: Planted, mode: str) -> None:
    with open_run(mode=mode) as run:
        run["date"] = EPOCH + timedelta(milliseconds=LOSING)
        run.sync()
        assert fields_of(planted, run)["date"]["value"] == LOSING - 1


def test_the_script_copies_dates_to_the_millisecond(planted: Planted) -> None:
    around = [LOSING + number for number in range(200)] + [-1, 0, -62_135_596_800_000, 253_402_300_799_999]
    planted.model({f"date/{number}": value("datetime", moment) for number, moment in enumerate(around)})
    copy_whole(planted)


# -- texts --


def test_the_client_cuts_long_strings_and_string_points(planted: Planted) -> None:
    with open_run() as run:
        run["text"] = "x" * 16_385
        run["log"].append("y" * 1_001)
        fields = fields_of(planted, run)
    assert len(fields["text"]["value"]) == 16_384
    assert [len(text) for _, _, text in fields["log"]["points"]] == [1_000]


def test_the_script_copies_the_longest_strings_and_string_points_whole(planted: Planted) -> None:
    log = points("stringSeries", [[0.0, 5, "ż" * 1_000], [1.0, 6, "end"]])
    planted.model({"text": value("string", "ż" * 16_384), "log": log})
    copy_whole(planted)


def test_the_script_never_cuts_a_text_in_silence(planted: Planted) -> None:
    """A server that has longer texts than it takes today."""
    log = points("stringSeries", [[0.0, 5, "y" * 1_001], [1.0, 6, "end"]])
    model = planted.model({"text": value("string", "x" * 16_385), "log": log, "number": value("int", 7)})
    outcome = copy(planted.project)[model]
    assert outcome.status == script.FAILED
    assert [failure.partition(":")[0] for failure in outcome.failures] == ["log", "text"]
    run = planted.runs()[model]
    assert run["number"]["value"] == 7
    assert script.MARK not in run


# -- numbers --


@pytest.mark.parametrize("number", [1 << 31, -(1 << 31) - 1, float("nan"), float("inf")])
def test_the_client_skips_numbers_that_the_wire_has_no_room_for(planted: Planted, number: float) -> None:
    with open_run() as run:
        run["number"] = number
        assert "number" not in fields_of(planted, run)


def test_the_client_drops_points_that_are_not_finite_before_it_numbers_the_rest(planted: Planted) -> None:
    with open_run() as run:
        run["loss"].extend([1.0, float("nan"), 2.0])
        assert [point[:1] + point[2:] for point in fields_of(planted, run)["loss"]["points"]] == [
            [0.0, 1.0],
            [1.0, 2.0],
        ]


def test_the_script_copies_the_largest_integers_and_the_hardest_floats(planted: Planted) -> None:
    floats = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3]
    fields = {f"float/{number}": value("float", each) for number, each in enumerate(floats)}
    fields["series"] = points("floatSeries", [[number / 3 - 1, number, each] for number, each in enumerate(floats)])
    planted.model({**fields, "highest": value("int", (1 << 31) - 1), "lowest": value("int", -(1 << 31))})
    copy_whole(planted)


def test_the_script_names_the_numbers_that_cannot_be_copied(planted: Planted) -> None:
    """A server whose registry has numbers that it does not take today."""
    model = planted.model(
        {
            "large": value("int", 1 << 31),
            "nan": value("float", "NaN"),
            "series": points("floatSeries", [[0.0, 1, 0.5], [1.0, 2, "Infinity"], [2.0, 3, 0.25]]),
            "small": value("int", 1),
        }
    )
    outcome = copy(planted.project)[model]
    assert [failure.partition(":")[0] for failure in outcome.failures] == ["large", "nan", "series"]
    assert planted.runs()[model]["small"]["value"] == 1


# -- series and sets that are there already --


def test_the_client_adds_to_a_series_that_has_points(planted: Planted) -> None:
    with open_run() as run:
        run["loss"].extend([1.0, 2.0])
        run["loss"].extend([1.0, 2.0])
        assert [point[2] for point in fields_of(planted, run)["loss"]["points"]] == [1.0, 2.0, 1.0, 2.0]
        run["loss"] = neptune.types.FloatSeries([3.0])
        assert [point[2] for point in fields_of(planted, run)["loss"]["points"]] == [3.0]


def test_the_script_copies_a_changed_object_again_without_a_point_twice(planted: Planted) -> None:
    image = {"content": base64.b64encode(picture((1, 2, 3))).decode(), "name": "n", "description": "d"}
    fields = {
        "loss": points("floatSeries", [[0.0, 1, 1.0], [1.0, 2, 2.0]]),
        "log": points("stringSeries", [[0.0, 1, "a"]]),
        "images": points("imageSeries", [[0.5, 1, image]]),
        "set": {"type": "fileSet", "files": {"a.txt": base64.b64encode(b"a").decode()}},
        "gone": value("string", "later"),
    }
    model = planted.model(fields)
    copy_whole(planted)
    planted.server.instruments.set_attribute(planted.project, model, "gone", None)
    planted.put(model, {"set": {"type": "fileSet", "files": {"b.txt": ""}}, "added": value("bool", True)})
    copy_whole(planted, planted.state())


def test_the_clients_string_sets_are_tags_alone_and_the_script_names_any_other(planted: Planted) -> None:
    with open_run() as run:
        run["sys/tags"].add("seen")
        assert fields_of(planted, run)["sys/tags"]["value"] == ["seen"]
        with pytest.raises(MetadataInconsistency, match="labels"):
            run["labels"].add("x")
    model = planted.model({"labels": value("stringSet", ["a", "b"]), "sys/tags": value("stringSet", ["t"])})
    outcome = copy(planted.project)[model]
    (failure,) = outcome.failures
    assert failure.startswith("labels: ")
    claim, *tags = planted.runs()[model]["sys/tags"]["value"]
    assert (claim.startswith("incomplete copy "), tags) == (True, ["model", "t"])


def test_group_tags_are_listed_though_unset_and_the_script_takes_that_for_none(planted: Planted) -> None:
    model = planted.model({"sys/group_tags": value("stringSet", ["mine"])})
    planted.version(model)
    with neptune.init_model_version(with_id=f"{model}-1", mode="read-only") as opened:
        assert "group_tags" in opened.get_structure()["sys"]
        with pytest.raises(FetchAttributeNotFoundException):
            opened["sys/group_tags"].fetch()
    copy_whole(planted)
    assert planted.runs()[model]["sys/group_tags"]["value"] == sorted(["mine", model])


def test_a_batch_of_the_client_whose_answer_was_lost_is_stored_twice(planted: Planted) -> None:
    with open_run() as run:
        planted.server.instruments.fault("executeOperations", "lost_answer", path="loss")
        run["loss"].append(1.0)
        assert [point[2] for point in fields_of(planted, run)["loss"]["points"]] == [1.0, 1.0]


@pytest.mark.parametrize("path", ["loss", "log", "images", "number", "sys/tags", "old_sys/modification_time", "set"])
def test_the_script_stores_nothing_twice_when_an_answer_was_lost(planted: Planted, path: str) -> None:
    image = {"content": base64.b64encode(picture((1, 2, 3))).decode(), "name": "n", "description": "d"}
    fields = {
        "loss": points("floatSeries", [[0.5, 1, 1.0], [1.5, 2, 2.0]]),
        "log": points("stringSeries", [[-1.0, 1, "a"], [0.0, 2, "a"]]),
        "images": points("imageSeries", [[0.5, 1, image], [0.75, 1, image]]),
        "set": {"type": "fileSet", "files": {"a.txt": "", "b.txt": base64.b64encode(b"b").decode()}},
        "number": value("int", 7),
    }
    planted.model(fields)
    operation = "uploadFileSetAttributeTar" if path == "set" else "executeOperations"
    planted.server.instruments.fault(operation, "lost_answer", path=path)
    copy_whole(planted)


# -- images --


def test_the_client_logs_an_image_that_is_too_large_as_no_bytes_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits._LOGGED_IMAGE_SIZE_LIMIT_MB == 32
    content = picture((1, 2, 3))
    image = File.from_content(content, extension="png")
    assert FileSeries._get_base64_image_content(image) == base64.b64encode(content).decode()
    monkeypatch.setattr(limits, "_LOGGED_IMAGE_SIZE_LIMIT_MB", 1e-6)
    with pytest.warns(UserWarning, match="attempting to log an image"):
        assert FileSeries._get_base64_image_content(image) == ""


def test_the_client_logs_nothing_but_what_it_can_open_as_an_image() -> None:
    with pytest.raises(OperationNotSupported):
        FileSeries._get_base64_image_content(File.from_content(b"no image", extension="png"))


def test_the_script_copies_the_bytes_of_any_image(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_LOGGED_IMAGE_SIZE_LIMIT_MB", 1e-6)
    contents = [picture((1, 2, 3)), b"no image", b"", picture((9, 9, 9), "JPEG")]
    images = [{"content": base64.b64encode(each).decode(), "name": None, "description": None} for each in contents]
    planted.model({"images": points("imageSeries", [[step, 7, image] for step, image in enumerate(images)])})
    copy_whole(planted)


# -- a run that exists already --


def test_the_client_takes_a_run_that_exists_for_a_new_one(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [__file__])
    with open_run(custom_run_id="known", description="mine") as run:
        assert fields_of(planted, run)["sys/description"]["value"] == "mine"
    with open_run(custom_run_id="known") as run:
        fields = fields_of(planted, run)
    assert fields["sys/description"]["value"] == ""
    assert "source_code/entrypoint" in fields


@pytest.mark.parametrize("entrypoint", [None, "train.py"])
def test_the_script_copies_a_description_and_the_source_codes_name_if_there_is_one(
    planted: Planted, entrypoint: str | None
) -> None:
    fields = {"sys/description": value("string", "mine"), "sys/name": value("string", "Forest, the first")}
    if entrypoint:
        fields["source_code/entrypoint"] = value("string", entrypoint)
    model = planted.model(fields)
    copy_whole(planted)
    planted.put(model, {"number": value("int", 1)})
    copy_whole(planted)
    assert ("source_code/entrypoint" in planted.runs()[model]) == bool(entrypoint)


# -- the environment --


def test_the_environment_decides_on_the_mode_of_the_clients_runs(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.server.instruments.reset_counts()
    for mode in ("offline", "debug"):
        monkeypatch.setenv("NEPTUNE_MODE", mode)
        neptune.init_run(**QUIET).stop()
    monkeypatch.setenv("NEPTUNE_MODE", "read-only")
    with pytest.raises(NeedExistingRunForReadOnlyMode):
        neptune.init_run(**QUIET)
    assert "createExperiment" not in planted.server.instruments.counts()["requests"]


QUIET: dict[str, Any] = {
    "capture_stdout": False,
    "capture_stderr": False,
    "capture_traceback": False,
    "capture_hardware_metrics": False,
    "git_ref": False,
    "source_files": [],
}


@pytest.mark.parametrize("mode", ["offline", "debug", "read-only", "sync"])
def test_the_script_copies_whatever_mode_the_environment_asks_for(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("NEPTUNE_MODE", mode)
    planted.version(planted.model({"number": value("int", 1)}))
    copy_whole(planted)


def test_the_environment_gives_the_clients_runs_a_custom_id(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEPTUNE_CUSTOM_RUN_ID", "one for all")
    with open_run() as first, open_run() as second:
        assert first["sys/id"].fetch() == second["sys/id"].fetch()


def test_the_script_copies_each_object_into_a_run_of_its_own(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEPTUNE_CUSTOM_RUN_ID", "one for all")
    model = planted.model({"number": value("int", 1)})
    version = planted.version(model, {"number": value("int", 2)})
    copy_whole(planted)
    assert {custom_id: run["number"]["value"] for custom_id, run in planted.runs().items()} == {model: 1, version: 2}


# -- its log --


def test_the_client_tells_rejected_operations_by_its_own_log_alone_which_prints(
    planted: Planted, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the script's screen and log show of such is tested with its sessions."""
    logger = logging.getLogger("neptune")
    assert not logger.propagate
    assert all(getattr(handler, "stream", None) is sys.stdout for handler in logger.handlers[:1])
    planted.server.instruments.fault("executeOperations", "operation_error", path="bad", body="not today")
    with open_run(mode="async") as run:
        run["bad"] = 1
        run.sync()
        assert "bad" not in fields_of(planted, run)
    assert "Error occurred during asynchronous operation processing: not today" in capsys.readouterr().out


# -- custom run IDs --


def test_the_client_drops_a_custom_run_id_of_37_characters(planted: Planted, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("neptune").addHandler(caplog.handler)
    try:
        with open_run(custom_run_id="x" * 37) as first, open_run(custom_run_id="x" * 37) as second:
            assert first["sys/id"].fetch() != second["sys/id"].fetch()
            assert "sys/custom_run_id" not in fields_of(planted, first)
    finally:
        logging.getLogger("neptune").removeHandler(caplog.handler)
    assert "exceeds 36 characters" in caplog.text


def test_the_scripts_custom_run_ids_are_the_objects_own_where_they_fit() -> None:
    assert script.custom_run_id("CR-FOREST-12") == "CR-FOREST-12"
    assert script.custom_run_id("x" * 36) == "x" * 36


def test_the_scripts_shortened_custom_run_ids_are_stable_and_differ() -> None:
    stem = "CREDITRISK-GRADIENTBOOSTEDTREES-1000"
    ids = [f"{stem}{number}" for number in range(50)]
    shortened = [script.custom_run_id(each) for each in ids]
    assert all(len(each) <= 36 and each.startswith("CREDITRISK-GRADIENT") for each in shortened)
    assert len(set(shortened)) == len(ids)
    assert shortened[0] == "CREDITRISK-GRADIENTBOOSTE-" + shortened[0][-10:]
    assert shortened == [script.custom_run_id(each) for each in ids]


def test_an_object_with_a_long_id_is_copied_once_and_found_again(planted: Planted) -> None:
    model = planted.model()
    long_id = "FOREST-" + "7" * 30
    planted.put(model, {"sys/id": value("string", long_id), "number": value("int", 1)})
    assert copy(planted.project)[long_id].status == script.COPIED
    assert planted.runs()[script.custom_run_id(long_id)]["old_sys/id"]["value"] == long_id
    assert copy(planted.project)[long_id].status == script.UP_TO_DATE
    planted.put(model, {"number": value("int", 2)})
    assert copy(planted.project)[long_id].status == script.COPIED
    assert [run["number"]["value"] for run in planted.runs().values()] == [2]


def test_a_shortened_custom_run_id_is_told_in_the_report(planted: Planted) -> None:
    model = planted.model()
    long_id = "FOREST-" + "7" * 30
    planted.put(model, {"sys/id": value("string", long_id)})
    script.write_report(Path("report.csv"), copy(planted.project).values())
    assert script.custom_run_id(long_id) in Path("report.csv").read_text(encoding="utf-8")

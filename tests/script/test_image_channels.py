"""Steps, times, names and descriptions of images: only the server's description tells that it does not have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.neptune_server.process import ServerProcess
from tests.script.test_reruns import MARK, claims, run_of
from tests.support.comparison import differences
from tests.support.planted import Planted
from tests.support.wire import ATTRIBUTES
from tests.tools.torture import Play, bare_registry, complete, images, new_project, sources


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    with bare_registry(server) as registry:
        registry.model({"images": images(3)})
        yield registry


@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize("status", [404, 405, 410, 501])
def test_a_refusal_fails_the_field_and_the_next_start_copies_it(
    planted: Planted, tmp_path: Path, status: int, times: int | None
) -> None:
    planted.server.instruments.fault("getChannelValues", "status", status=status, times=times)
    ended = Play(planted, tmp_path).end()
    planted.server.instruments.clear_faults()
    (model,) = sources(planted)
    assert (ended.status, ended.row(model)["status"]) == (1, "failed")
    assert "images: " in ended.row(model)["error"] and str(status) in ended.row(model)["error"]
    assert claims(planted, model) and MARK not in run_of(planted, model)["attributes"]
    assert complete(planted, tmp_path) == []


def test_an_answer_without_the_channel_fails_the_field_and_the_next_start_copies_it(
    planted: Planted, tmp_path: Path
) -> None:
    (model,) = sources(planted)
    uuid = planted.state()["containers"][model]["id"]
    answer = planted.wire.get(ATTRIBUTES, experimentId=uuid).json()
    (listed,) = (one for one in answer["attributes"] if one["name"] == "images")
    del listed["imageSeriesProperties"]["channelId"]
    planted.server.instruments.fault(
        "getExperimentAttributes", "status", status=200, body=answer, path=uuid, times=None
    )
    ended = Play(planted, tmp_path).end()
    planted.server.instruments.clear_faults()
    assert (ended.status, ended.row(model)["status"]) == (1, "failed")
    assert "images: " in ended.row(model)["error"] and "channelId" in ended.row(model)["error"]
    assert claims(planted, model) and MARK not in run_of(planted, model)["attributes"]
    assert complete(planted, tmp_path) == []


def test_a_server_that_does_not_describe_the_operation_has_complete_copies_that_name_the_loss(tmp_path: Path) -> None:
    with ServerProcess("--without", "getChannelValues") as server:
        planted = Planted(server, new_project(server))
        model = planted.model({"images": images(3)})
        ended = Play(planted, tmp_path).end()
        state = planted.state()
        assert (ended.status, ended.row(model)["status"], claims(planted, model)) == (0, "copied", [])
        again = Play(planted, tmp_path).end()
        assert (again.status, again.row(model)["status"], planted.state()) == (0, "up to date", state)
    loss = "images (steps, times, names and descriptions of 3 images)"
    assert all(loss in told for told in (ended.output, ended.log, ended.row(model)["error"]))
    prefix = f"{model}: images: in point 0, "
    told = differences(state)
    assert all(words.startswith(prefix) for words in told)
    assert {words[len(prefix) :].split()[0] for words in told} == {"step", "timestamp", "name", "description"}

"""Steps, times, names and descriptions of images: only the server's description tells that it does not have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.neptune_server.process import ServerProcess
from tests.script.test_reruns import MARK, claims, run_of
from tests.support.planted import Planted
from tests.tools.torture import Play, complete, delete_project, images, new_project, sources


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    project = new_project(server)
    registry = Planted(server, project)
    registry.model({"images": images(3)})
    yield registry
    server.instruments.clear_faults()
    delete_project(server, project)


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

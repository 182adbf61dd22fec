"""Random registries, flags, faults and ends, and then a plain start: exact, or said. `tests/tools/fuzz.py` has more."""

from __future__ import annotations

import sys

import pytest

from tests.neptune_server.process import ServerProcess
from tests.tools.fuzz import play_seed


@pytest.mark.skipif(sys.platform == "win32", reason="A process cannot be interrupted in this way there")
@pytest.mark.parametrize("seed", range(20))
def test_what_is_random_ends_exact_or_said(server: ServerProcess, seed: int) -> None:
    assert play_seed(server, seed) == []

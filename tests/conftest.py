"""What the tests share: a local server in a process of its own, and a fresh project on it for each test."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from neptune.internal.backends.hosted_client import create_http_client_with_auth
from neptune.internal.backends.utils import ssl_verify
from neptune.internal.credentials import Credentials

# `tests` is imported as a package from the repository's root, wherever pytest is started from.
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.neptune_server.process import ServerProcess

WORKSPACE = "acme"


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """The server most tests share. The client finds it by the environment."""
    with ServerProcess("--project", f"{WORKSPACE}/first") as process, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NEPTUNE_")]:
            patch.delenv(name)
        for name, value in process.environment.items():
            patch.setenv(name, value)
        yield process


def renew_token() -> None:
    """The client keeps one token for all tests of a process, and an earlier one may have had the server refuse it."""
    ways: tuple[dict[str, str] | None, ...] = (None, {})  # how objects and how the management functions sign in
    for proxies in ways:
        client, _ = create_http_client_with_auth(
            credentials=Credentials.from_token(), ssl_verify=ssl_verify(), proxies=proxies
        )
        client.authenticator.auth.token_expires_at = 0


@pytest.fixture
def project(server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new project's name. The test runs in a folder of its own, where the client keeps its queue."""
    name = f"{WORKSPACE}/p-{uuid.uuid4().hex[:12]}"
    server.instruments.create_project(name)
    renew_token()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEPTUNE_PROJECT", name)
    return name

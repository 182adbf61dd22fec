"""The gateway that tests put before the local server: unseen where nothing is ordered, and a nuisance where it is."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from neptune.types import File

from tests.neptune_server.process import ServerProcess
from tests.server.test_server_objects import open_run
from tests.support.front import Front
from tests.support.wire import ATTRIBUTES, Wire

EXPERIMENTS = "/api/leaderboard/v1/experiments"
ORGANIZATIONS = "/api/backend/v1/myOrganizations"
CONFIG = "/api/backend/v1/clients/config"
MEGABYTE = 1024 * 1024


@pytest.fixture
def front(server: ServerProcess, project: str) -> Iterator[Front]:
    with Front(server) as running:
        yield running


class Through:
    """The same requests to the server and through the front."""

    def __init__(self, server: ServerProcess, front: Front, project: str) -> None:
        self.straight, self.wire, self.front = Wire(server), Wire(server), front
        self.wire.url = front.url
        self.id = self.straight.post(EXPERIMENTS, {"projectIdentifier": project, "type": "run"}).json()["id"]

    def upload(self, content: Any) -> requests.Response:
        place = {"experimentIdentifier": self.id, "attribute": "file", "ext": "bin"}
        url = f"{self.front.url}{ATTRIBUTES}/storage/file/upload"
        return self.wire.session.post(url, data=content, params=place)

    def download(self, wire: Wire) -> requests.Response:
        return wire.get(f"{ATTRIBUTES}/download", experimentId=self.id, attribute="file")

    def status(self, path: str = ORGANIZATIONS) -> int:
        return self.wire.session.get(self.front.url + path, allow_redirects=False).status_code


@pytest.fixture
def through(server: ServerProcess, front: Front, project: str) -> Through:
    return Through(server, front, project)


# -- forwarding --


def test_answers_come_through_unchanged(through: Through) -> None:
    for path, parameters in [
        ("/api/leaderboard/swagger.json", {}),
        (ORGANIZATIONS, {}),
        (EXPERIMENTS, {"experimentId": through.id}),
        (EXPERIMENTS, {"experimentId": "no such / thing?"}),
        (f"{ATTRIBUTES}/integers", {"experimentId": through.id, "attribute": "ünï%2F 😀+&"}),
        ("/no/such/path", {}),
    ]:
        straight, other = through.straight.get(path, **parameters), through.wire.get(path, **parameters)
        assert (other.status_code, other.content) == (straight.status_code, straight.content)
        assert {name: value for name, value in other.headers.items() if name.lower() != "date"} == {
            name: value for name, value in straight.headers.items() if name.lower() != "date"
        }


def test_bytes_go_both_ways(through: Through) -> None:
    content = os.urandom(3 * MEGABYTE + 1)
    assert through.upload(content).status_code == 200
    assert through.download(through.straight).content == content
    assert through.download(through.wire).content == content


def test_a_body_without_a_length_is_forwarded(through: Through) -> None:
    assert through.upload(iter([b"abc", b"def"])).status_code == 200
    assert through.download(through.wire).content == b"abcdef"


def test_bodies_are_not_held_back(server: ServerProcess, through: Through) -> None:
    """The server has the first half of the body while the client has not sent the rest."""
    server.instruments.reset_counts()
    half_is_there = threading.Event()

    def halves() -> Iterator[bytes]:
        yield b"x" * MEGABYTE
        for _ in range(1000):
            if server.instruments.counts()["bytes_in"].get("fileAtomUpload", 0) == MEGABYTE:
                half_is_there.set()
                break
        yield b"y"

    assert through.upload(halves()).status_code == 200
    assert half_is_there.is_set()


def test_the_server_hands_out_urls_of_the_front(through: Through, server: ServerProcess) -> None:
    token = {"X-Neptune-Api-Token": server.environment["NEPTUNE_API_TOKEN"]}
    assert requests.get(through.front.url + CONFIG, headers=token).json()["apiUrl"] == through.front.url


def test_the_client_works_through_the_front(front: Front, project: str) -> None:
    with open_run(api_token=front.environment["NEPTUNE_API_TOKEN"]) as run:
        run["a"] = 1
        run["file"].upload(File.from_content("abc"))
        assert run["a"].fetch() == 1
        run["file"].download("copy.txt")
    assert Path("copy.txt").read_text(encoding="utf-8") == "abc"
    assert ("POST", f"{ATTRIBUTES}/operations", 200) in front.seen
    assert ("GET", f"{ATTRIBUTES}/download", 200) in front.seen


def test_a_download_that_breaks_off_breaks_off(server: ServerProcess, through: Through) -> None:
    through.upload(b"x" * MEGABYTE)
    server.instruments.fault("downloadAttribute", "truncate", bytes=1000)
    received = b""
    with contextlib.suppress(requests.exceptions.ChunkedEncodingError):  # an older urllib3 notices nothing
        received = through.download(through.wire).content
    assert len(received) < MEGABYTE
    assert len(through.download(through.wire).content) == MEGABYTE


def test_a_server_that_breaks_off_is_a_bad_gateway(server: ServerProcess, through: Through) -> None:
    server.instruments.fault("listOrganizations", "reset")
    assert [through.status(), through.status()] == [502, 200]


def test_a_server_on_https_can_stand_behind_it() -> None:
    with ServerProcess("--tls") as server, Front(server) as front:
        assert requests.get(f"{front.url}/api/backend/swagger.json").status_code == 200


# -- what a test orders --


def test_a_page_is_answered_as_often_as_ordered(through: Through) -> None:
    through.front.page("myOrganizations", times=2)
    assert through.status("/api/backend/swagger.json") == 200
    answers = [through.wire.get(ORGANIZATIONS) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    types = [answer.headers["Content-Type"].partition(";")[0] for answer in answers]
    assert types == ["text/html", "text/html", "application/json"]


def test_a_status_is_answered_with_its_headers(through: Through) -> None:
    through.front.answer(429, headers={"Retry-After": "2"}, body="slower", times=None)
    answers = [through.wire.get(path) for path in (ORGANIZATIONS, EXPERIMENTS, CONFIG)]
    assert {(each.status_code, each.headers["Retry-After"], each.text) for each in answers} == {(429, "2", "slower")}
    through.front.clear()
    assert through.status() == 200


def test_what_is_answered_by_the_front_does_not_reach_the_server(server: ServerProcess, through: Through) -> None:
    server.instruments.reset_counts()
    through.front.answer(503)
    assert [through.status(), through.status()] == [503, 200]
    assert server.instruments.counts()["requests"] == {"listOrganizations": 1}


@pytest.mark.parametrize("in_pieces", [False, True])
def test_bodies_that_are_too_large_are_refused(through: Through, in_pieces: bool) -> None:
    def body(size: int) -> Any:
        return iter([b"x" * (size - 1), b"x"]) if in_pieces else b"x" * size

    through.front.limit_bodies(1000, "upload")
    assert [through.upload(body(size)).status_code for size in (1000, 1001, 4 * MEGABYTE, 2)] == [200, 413, 413, 200]
    assert through.download(through.wire).content == b"xx"


def test_a_limit_of_bodies_is_used_up_by_those_that_it_refuses(through: Through) -> None:
    through.front.limit_bodies(10, times=1)
    assert [through.upload(b"x" * size).status_code for size in (10, 11, 11)] == [200, 413, 200]


def test_http_is_redirected_with_its_path_and_query(through: Through) -> None:
    through.front.redirect("https://elsewhere.example:8443", "myOrg")
    answer = through.wire.session.get(f"{through.front.url}{ORGANIZATIONS}?a=%2F&b=c+d", allow_redirects=False)
    assert answer.status_code == 301
    assert answer.headers["Location"] == f"https://elsewhere.example:8443{ORGANIZATIONS}?a=%2F&b=c+d"
    assert through.status(EXPERIMENTS) == 400


def test_a_redirection_may_lead_to_a_server_on_https() -> None:
    with ServerProcess("--tls") as server, Front(server) as front:
        front.redirect(server.url, status=308)
        session = requests.Session()
        session.trust_env = False
        session.verify = str(server.certificate)
        answer = session.get(f"{front.url}/api/backend/swagger.json")
        assert (answer.status_code, answer.url) == (200, f"{server.url}/api/backend/swagger.json")


def test_the_first_of_several_rules_is_followed(through: Through) -> None:
    through.front.answer(500)
    through.front.answer(404, times=2)
    assert [through.status() for _ in range(4)] == [500, 404, 404, 200]


def test_nothing_answers_when_the_front_has_ended(server: ServerProcess) -> None:
    with Front(server) as front:
        address = urlsplit(front.url)
    assert address.hostname is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port or 0), timeout=5)

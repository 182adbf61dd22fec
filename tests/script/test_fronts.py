"""Gateways and proxies between the script and the server: what they answer for it, refuse, or send elsewhere."""

from __future__ import annotations

import base64
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.neptune_server.process import ServerProcess
from tests.support.front import Front
from tests.support.planted import Planted, points, value
from tests.support.registry import planted_file_set, planted_image
from tests.support.script import Completed, impatient_script, run_script
from tests.tools.torture import Play, bare_registry, complete, noise, planted_file, problems, sources

SEARCH, PROJECTS, CONFIG, FIELDS = "entries/search", "/projects", "/clients/config", "/attributes$"
CREATE = "/v1/experiments$"


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    with bare_registry(server) as registry:
        registry.model({"depth": value("int", 1), "weights": planted_file(b"weights", "bin")})
        yield registry


@pytest.fixture
def front(server: ServerProcess) -> Iterator[Front]:
    with Front(server) as opened:
        yield opened


def run_behind(front: Front, planted: Planted, folder: Path, *flags: str, **env: str | None) -> Completed:
    env = {**front.environment, **env}
    return Play(planted, folder, *flags, env=env).end()


@pytest.mark.parametrize("path", [SEARCH, PROJECTS, CONFIG, FIELDS])
def test_a_page_instead_of_an_answer_is_asked_again(planted: Planted, front: Front, tmp_path: Path, path: str) -> None:
    front.page(path)
    ended = run_behind(front, planted, tmp_path)
    assert front.unmet() == []
    assert (ended.status, problems(planted)) == (0, []), ended.output


@pytest.mark.parametrize("path", [SEARCH, PROJECTS, FIELDS, CREATE])
@pytest.mark.parametrize("body", ["", '{"entries": [{"na', "[]", '"maintenance"'], ids=["empty", "cut", "list", "text"])
def test_an_answer_that_is_not_whole_is_asked_again(
    planted: Planted, front: Front, tmp_path: Path, path: str, body: str
) -> None:
    front.answer(200, path, headers={"Content-Type": "application/json"}, body=body)
    ended = run_behind(front, planted, tmp_path)
    assert front.unmet() == []
    assert (ended.status, problems(planted)) == (0, []), ended.output


def test_points_are_written_in_halves_where_a_gateway_limits_requests(
    planted: Planted, front: Front, tmp_path: Path
) -> None:
    loss = points("floatSeries", [[step, 5 + step, step / 7] for step in range(30_000)])
    planted.version(planted.model({"loss": loss}, key="LONG"), {"losses/1": loss, "losses/2": loss})
    front.limit_bodies(100_000, "/operations")
    ended = run_behind(front, planted, tmp_path)
    assert (ended.status, problems(planted)) == (0, []), ended.output
    assert any(status == 413 for *_, status in front.seen)


def test_a_short_series_is_written_in_halves_too(planted: Planted, front: Front, tmp_path: Path) -> None:
    planted.model({"notes": points("stringSeries", [[step, step, "x" * 900] for step in range(90)])}, key="SHORT")
    front.limit_bodies(20_000, "/operations")
    ended = run_behind(front, planted, tmp_path)
    assert (ended.status, problems(planted)) == (0, []), ended.output
    assert any(status == 413 for *_, status in front.seen)


def test_small_files_are_sent_in_halves_too(planted: Planted, front: Front, tmp_path: Path) -> None:
    files = {f"{number}.bin": noise(2_000, seed=number) for number in range(50)}
    planted.model({"set": planted_file_set(files)}, key="SMALL")
    front.limit_bodies(20_000, "/upload")
    ended = run_behind(front, planted, tmp_path)
    assert (ended.status, problems(planted)) == (0, []), ended.output
    assert any(status == 413 for *_, status in front.seen)


def test_a_point_that_a_gateway_finds_too_large_is_told(planted: Planted, front: Front, tmp_path: Path) -> None:
    images = {"type": "imageSeries", "points": [[step, 5, planted_image(noise(30_000 * step))] for step in (0, 1)]}
    model = planted.model({"images": images}, key="LARGE")
    front.limit_bodies(20_000, "/operations")
    ended = run_behind(front, planted, tmp_path)
    assert ended.status == 1
    assert "images: writing fields: the server refused it (413" in ended.row(model)["error"]
    assert complete(planted, tmp_path) == []


def test_a_file_that_a_gateway_finds_too_large_is_told(planted: Planted, front: Front, tmp_path: Path) -> None:
    model = planted.model({"large": planted_file(b"x" * 200_000, "bin")}, key="LARGE")
    front.limit_bodies(100_000, "/upload")
    ended = run_behind(front, planted, tmp_path)
    assert ended.status == 1
    assert "large: uploading: the server refused it (413" in ended.row(model)["error"]
    assert complete(planted, tmp_path) == []


def test_what_fails_for_ever_is_waited_for_once(planted: Planted, tmp_path: Path) -> None:
    """Five objects need not wait a minute each for an operation that has failed for a minute."""
    for key in "ABCD":
        planted.model({"weights": planted_file(key.encode(), "bin")}, key=f"KEY{key}")
    edited = impatient_script(tmp_path, SERVER_ERROR=8)
    planted.server.instruments.fault("downloadAttribute", "status", status=500, times=None)
    flags = ("--project", planted.project, "--workers", "1")
    done = run_script(planted.server, *flags, cwd=tmp_path, script=edited)
    assert done.status == 1
    told = [line for line in done.output.splitlines() if "gave up waiting" in line]
    assert len(told) == 1 and told[0].startswith("  5 objects"), done.output
    assert sum(float(row["seconds"]) for row in done.report) < 8 + 4 * 4
    planted.server.instruments.clear_faults()
    assert complete(planted, tmp_path) == []


class OddGateway(http.server.BaseHTTPRequestHandler):
    """It answers in HTTP/1.0, where a body ends with the connection, and breaks off in the middle of images."""

    server_url = ""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        own = ("connection", "content-length")
        headers = {name: text for name, text in self.headers.items() if name.lower() not in own}
        body = self.passed_on(self.rfile.read(length))
        answer = requests.request(self.command, self.server_url + self.path, headers=headers, data=body, timeout=60)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_body(answer.content, "image/" in answer.headers.get("Content-Type", ""))

    do_POST = do_PUT = do_GET

    def passed_on(self, body: bytes) -> bytes:
        return body

    def send_body(self, body: bytes, is_image: bool) -> None:
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_image else body)

    def log_message(self, *_: Any) -> None:
        pass


class TalkativeGateway(OddGateway):
    """It tells the length twice: as a number, which does not count then, and by chunks."""

    protocol_version = "HTTP/1.1"

    def send_body(self, body: bytes, is_image: bool) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Transfer-Encoding", "Chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n")


class WithoutEmptySeries(TalkativeGateway):
    """Behind it, a series begins with its first point."""

    def passed_on(self, body: bytes) -> bytes:
        if b"clearFloatSeries" not in body:
            return body
        return json.dumps([each for each in json.loads(body) if "clearFloatSeries" not in each]).encode()


class EditingGateway(TalkativeGateway):
    """It changes what the server answers: a table's rows, or the fields of an object."""

    def send_body(self, body: bytes, is_image: bool) -> None:
        if SEARCH in self.path or re.search(FIELDS, self.path.partition("?")[0]):
            answer = json.loads(body)
            for container in answer.get("entries", [answer]):
                self.edit(container)
            body = json.dumps(answer).encode()
        super().send_body(body, is_image)

    def edit(self, container: dict[str, Any]) -> None:
        """Change a row, or all fields of an object, in place."""


class NoTypes(EditingGateway):
    def edit(self, container: dict[str, Any]) -> None:
        if SEARCH in self.path:
            container["type"] = None


class NoFields(EditingGateway):
    def edit(self, container: dict[str, Any]) -> None:
        if SEARCH not in self.path:
            container["attributes"] = None


class NoRows(EditingGateway):
    def edit(self, container: dict[str, Any]) -> None:
        if SEARCH in self.path:
            container["attributes"] = None


class OddDates(EditingGateway):
    """The model SOON has a date that nobody can read."""

    def edit(self, container: dict[str, Any]) -> None:
        fields = {each["name"]: each for each in container["attributes"]}
        if fields["sys/id"]["stringProperties"]["value"].endswith("-SOON"):
            fields["sys/modification_time"]["datetimeProperties"]["value"] = "soon"


class AnyKind(TalkativeGateway):
    """Behind it, a table has the rows of all kinds."""

    def do_GET(self) -> None:
        self.path = self.path.replace("type=modelVersion", "type=model").replace("type=model", "type=model&type=run")
        self.path = self.path.replace("type=run", "type=run&type=modelVersion", 1)
        super().do_GET()

    do_POST = do_GET


def copied_through(gateway: type[OddGateway], planted: Planted, folder: Path, *flags: str) -> Completed:
    handler = type("Handler", (gateway,), {"server_url": planted.server.url})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        token = json.loads(base64.b64decode(planted.server.environment["NEPTUNE_API_TOKEN"]))
        token["api_address"] = token["api_url"] = f"http://127.0.0.1:{opened.server_port}"
        env = {"NEPTUNE_API_TOKEN": base64.b64encode(json.dumps(token).encode()).decode()}
        ended = Play(planted, folder, *flags, env=env).end()
        opened.shutdown()
    return ended


def test_an_image_whose_end_nothing_tells_is_not_taken_for_whole(planted: Planted, tmp_path: Path) -> None:
    images = {"type": "imageSeries", "points": [[0.0, 5, planted_image(b"x" * 4_000)]]}
    model = planted.model({"images": images}, key="SHOWN")
    ended = copied_through(OddGateway, planted, tmp_path)
    assert ended.status == 1
    assert "images: downloading: the answer has no Content-Length" in ended.row(model)["error"]
    assert complete(planted, tmp_path) == []


def test_an_answer_that_tells_its_length_twice_is_whole_when_its_chunks_are(planted: Planted, tmp_path: Path) -> None:
    images = {"type": "imageSeries", "points": [[0.0, 5, planted_image(b"x" * 4_000)]]}
    planted.model({"images": images, "files": planted_file_set({"a/b": b"1", "c": b"2"})}, key="SHOWN")
    ended = copied_through(TalkativeGateway, planted, tmp_path)
    assert (ended.status, problems(planted)) == (0, []), ended.output


def test_an_empty_series_that_the_server_does_not_keep_is_listed(planted: Planted, tmp_path: Path) -> None:
    model = planted.model({"loss": {"type": "floatSeries", "points": [], "config": {}}}, key="EMPTY")
    for flag, status in (("--delete-files", "copied"), ("--verify", "verified")):
        ended = copied_through(WithoutEmptySeries, planted, tmp_path, flag)
        assert (ended.status, ended.row(model)["status"]) == (0, status), ended.output
        assert "skipped: loss (the server does not keep an empty series)" in ended.row(model)["error"]
    assert "loss" not in planted.runs()[model]


def test_an_empty_series_that_the_server_refuses_is_a_failure(planted: Planted, tmp_path: Path) -> None:
    model = planted.model({"loss": {"type": "floatSeries", "points": [], "config": {}}}, key="EMPTY")
    planted.server.instruments.fault("executeOperations", "operation_error", body="not today", path="loss", times=None)
    ended = Play(planted, tmp_path).end()
    assert (ended.status, "loss: it is not in the run; not today" in ended.row(model)["error"]) == (1, True)
    planted.server.instruments.clear_faults()
    assert complete(planted, tmp_path) == []


def test_what_is_null_in_an_answer_counts_as_not_told(planted: Planted, tmp_path: Path) -> None:
    planted.version(planted.model(key="SECOND"), {"depth": value("int", 2)})
    ended = copied_through(NoTypes, planted, tmp_path)
    assert (ended.status, len(ended.report), problems(planted)) == (0, 3, []), ended.output


@pytest.mark.parametrize("flags", [(), ("--recopy",)], ids=["changed", "recopy"])
def test_an_answer_without_fields_takes_nothing_out_of_a_run(
    planted: Planted, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    assert complete(planted, tmp_path) == []
    (model,) = sources(planted)
    planted.put(model, {"depth": value("int", 2)})
    before = planted.runs()
    ended = copied_through(NoFields, planted, tmp_path, *flags)
    assert (ended.status, planted.runs()) == (1, before), ended.output
    assert "reading the fields: the server's answer lacks 'sys/id'" in ended.row(model)["error"]


def test_a_table_without_fields_is_told_in_words(planted: Planted, tmp_path: Path) -> None:
    assert complete(planted, tmp_path) == []
    ended = copied_through(NoRows, planted, tmp_path)
    assert (ended.status, "the server's answer lacks 'sys/id'" in ended.output) == (2, True), ended.output


def test_a_date_that_nobody_can_read_fails_its_object_alone(planted: Planted, tmp_path: Path) -> None:
    odd = planted.model(key="SOON")
    for others in ("copied", "up to date"):
        ended = copied_through(OddDates, planted, tmp_path)
        assert ended.status == 1, ended.output
        assert {row["status"] for row in ended.report if row["source ID"] != odd} == {others}
        assert (ended.row(odd)["status"], "'soon' is not a date" in ended.row(odd)["error"]) == ("failed", True)


def test_rows_of_another_kind_are_not_copied(planted: Planted, tmp_path: Path) -> None:
    planted.version(sources(planted)[0])
    planted.run({"depth": value("int", 2)})
    for status in ("copied", "up to date"):
        ended = copied_through(AnyKind, planted, tmp_path)
        told = {row["source ID"]: (row["kind"], row["status"]) for row in ended.report}
        kinds = {source: "model_version" if source.endswith("-1") else "model" for source in sources(planted)}
        assert told == {source: (kind, status) for source, kind in kinds.items()}, ended.output


# -- addresses and proxies --


def refusal(planted: Planted, folder: Path, **env: str | None) -> str:
    ended = Play(planted, folder, env=env).end()
    assert (ended.status, "Traceback" in ended.output, len(ended.output.splitlines())) == (2, False, 1), ended.output
    return ended.output


def test_an_address_that_redirects_is_told(planted: Planted, front: Front, tmp_path: Path) -> None:
    with Front(planted.server) as other:
        front.redirect(other.url, ".")
        said = refusal(planted, tmp_path, **front.environment)
    assert f"redirects to {other.url}" in said


def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_is_not_there_is_told(planted: Planted, tmp_path: Path, name: str) -> None:
    env = {"HTTP_PROXY": None, "NO_PROXY": None, "no_proxy": None, name: f"http://127.0.0.1:{closed_port()}"}
    assert f"check the proxy in {name} (if SOCKS, pip install pysocks)" in refusal(planted, tmp_path, **env)


def test_a_proxy_that_wants_a_password_is_told(planted: Planted, front: Front, tmp_path: Path) -> None:
    front.answer(407, ".", times=None)
    env = {"NO_PROXY": None, "no_proxy": None, "HTTP_PROXY": front.url}
    assert "check the proxy in HTTP_PROXY (if SOCKS, pip install pysocks)" in refusal(planted, tmp_path, **env)


def test_what_a_socks_proxy_needs_is_told(planted: Planted, tmp_path: Path) -> None:
    env = {"HTTP_PROXY": None, "NO_PROXY": None, "no_proxy": None, "ALL_PROXY": "socks5h://127.0.0.1:9"}
    said = refusal(planted, tmp_path, **env)
    assert "check the proxy in ALL_PROXY (if SOCKS, pip install pysocks)" in said


# -- what the server says of itself --


def configuration(planted: Planted, **changed: object) -> str:
    told = planted.wire.get("/api/backend/v1/clients/config", alpha="true").json()
    return json.dumps({**told, **changed})


def test_another_address_that_cannot_be_reached_is_told_with_both(
    planted: Planted, front: Front, tmp_path: Path
) -> None:
    elsewhere = f"http://localhost:{closed_port()}"
    body = configuration(planted, apiUrl=elsewhere, applicationUrl=elsewhere)
    front.answer(200, CONFIG, headers={"Content-Type": "application/json"}, body=body, times=None)
    said = refusal(planted, tmp_path, **front.environment)
    assert f"{elsewhere}, which {front.url} names, cannot be reached" in said


def test_a_limit_of_versions_that_is_no_version_is_told(planted: Planted, front: Front, tmp_path: Path) -> None:
    body = configuration(planted, pyLibVersions={"minRecommendedVersion": "soon", "minCompatibleVersion": "soon"})
    front.answer(200, CONFIG, headers={"Content-Type": "application/json"}, body=body, times=None)
    assert "Invalid version: 'soon'" in refusal(planted, tmp_path, **front.environment)


def test_the_servers_own_reason_for_not_letting_anybody_in_is_told(
    planted: Planted, front: Front, tmp_path: Path
) -> None:
    body = json.dumps({"code": 400, "message": "token missing or invalid", "title": "token missing or invalid"})
    front.answer(400, CONFIG, headers={"Content-Type": "application/json"}, body=body, times=None)
    assert "token missing or invalid" in refusal(planted, tmp_path, **front.environment)

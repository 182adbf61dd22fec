"""What a person is told who starts the script with something that cannot work."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

import model_to_run as script
from tests.neptune_server.process import ServerProcess
from tests.script.test_edits import played
from tests.support.planted import Planted, value
from tests.support.script import SCRIPT, environment, run_script
from tests.tools.torture import bare_registry


def token(address: object, key: str = "none") -> str:
    content = {"api_address": address, "api_url": address, "api_key": key}
    return base64.b64encode(json.dumps(content).encode()).decode()


def refusal(server: ServerProcess, folder: Path, *arguments: str, env: Mapping[str, str | None] | None = None) -> str:
    """The one sentence that the script ends with, having left nothing behind."""
    settings = environment(server, {"NEPTUNE_PROJECT": None, **(env or {})})
    screen = folder.with_name(f"{folder.name}-screen.txt")
    return sentence(folder, *played(SCRIPT, arguments, folder, settings, screen))


def sentence(folder: Path, status: int, output: str) -> str:
    assert status == 2, output
    assert len(output.splitlines()) == 1, output
    assert list(folder.iterdir()) == []
    return output.strip()


@pytest.mark.parametrize("variable", ["NEPTUNE_RETRIES_TIMEOUT", "NEPTUNE_REQUEST_TIMEOUT"])
@pytest.mark.parametrize("text", ["60s", ""])
def test_a_variable_that_the_client_cannot_read_is_told(
    server: ServerProcess, tmp_path: Path, variable: str, text: str
) -> None:
    command = [sys.executable, str(SCRIPT), "--project", "acme/first"]
    env = environment(server, {variable: text})
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8")
    said = sentence(tmp_path, ended.returncode, ended.stdout + ended.stderr)
    assert "check the environment variables NEPTUNE_" in said
    helped = subprocess.run([*command, "--help"], cwd=tmp_path, env=env, capture_output=True, encoding="utf-8")
    assert (helped.returncode, helped.stderr) == (0, "")


@contextmanager
def answering(
    status: int, content: bytes, content_type: str = "text/html", context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """The address of a server that says the same to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    if context:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# -- the token --


def test_without_a_token(server: ServerProcess, tmp_path: Path) -> None:
    said = refusal(server, tmp_path, "--project", "acme/first", env={"NEPTUNE_API_TOKEN": None})
    assert "NEPTUNE_API_TOKEN is not set" in said


def test_with_a_malformed_token(server: ServerProcess, tmp_path: Path) -> None:
    said = refusal(server, tmp_path, "--project", "acme/first", env={"NEPTUNE_API_TOKEN": "my-secret-token"})
    assert "NEPTUNE_API_TOKEN is not set to a Neptune API token" in said
    assert "my-secret-token" not in said


MALFORMED = {
    "empty": "",
    "blank": "  ",
    "no base64": "%%%",
    "not ASCII": "zażółć",
    "cut off": token("https://neptune.acme.com")[:-5],
    "no JSON": base64.b64encode(b"no JSON").decode(),
    "a number": base64.b64encode(b"1").decode(),
    "a text": base64.b64encode(b'"api_address"').decode(),
    "a list": base64.b64encode(b'["api_address"]').decode(),
    "null": base64.b64encode(b"null").decode(),
    "without an address": base64.b64encode(b'{"api_key": "x"}').decode(),
    "an address that is a number": token(5),
    "an address that is null": token(None),
    "an empty address": token(""),
    "an address without a host": token("https://"),
    "an address with a bracket": token("https://[neptune"),
}


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=list(MALFORMED))
def test_every_malformed_token_is_told(monkeypatch: pytest.MonkeyPatch, malformed: str) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", malformed)
    with pytest.raises(script.CannotStart, match="NEPTUNE_API_TOKEN is not"):
        script.sign_in(script.Shared())


def test_with_a_token_that_is_rejected(server: ServerProcess, tmp_path: Path) -> None:
    rejected = token(server.url, "another key")
    said = refusal(server, tmp_path, "--project", "acme/first", env={"NEPTUNE_API_TOKEN": rejected})
    assert f"Cannot sign in to {server.url} (sign-in: the server rejects the API token): " in said
    assert rejected not in said


def test_a_token_is_not_told_that_no_request_can_carry(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = token(server.url, "key with a line break")
    monkeypatch.setenv("NEPTUNE_API_TOKEN", f"{whole[:30]}\n{whole[30:]}")
    with pytest.raises(script.CannotStart, match="NEPTUNE_API_TOKEN") as told:
        script.sign_in(script.Shared())
    assert whole[30:] not in str(told.value)


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "the server rejects the API token"), (403, "the server refused it .403 Forbidden")]
)
def test_every_way_of_rejecting_a_token_is_told(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, status: int, reason: str
) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token(server.url, f"key {status}"))
    server.instruments.fault("exchangeApiToken", "status", status=status, times=None)
    try:
        with pytest.raises(script.CannotStart, match=f"{reason}.*copy your API token anew"):
            script.sign_in(script.Shared())
    finally:
        server.instruments.clear_faults()


# -- the server --


def test_with_nothing_listening(server: ServerProcess, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    said = refusal(server, tmp_path, "--project", "acme/first", env={"NEPTUNE_API_TOKEN": token(address)})
    assert f"{address}, which the API token names, cannot be reached" in said


def test_nobody_waits_for_a_server_that_is_not_there(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token(f"http://127.0.0.1:{free_port()}"))
    began = time.monotonic()
    with pytest.raises(script.CannotStart):
        script.sign_in(script.Shared())
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("status", [200, 403, 404])
def test_the_discontinued_service_is_told_even_where_something_answers(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(script, "DOUBT", 0.3)
    monkeypatch.setattr(socket, "gethostbyname", lambda _: "127.0.0.1")
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *more, **named: find("127.0.0.1", *more, **named))
    with answering(status, b"<html>Goodbye</html>") as address:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", token(address.replace("127.0.0.1", "app.neptune.ai")))
        monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
        with pytest.raises(script.CannotStart, match=r"The hosted Neptune service .* has been shut down"):
            script.sign_in(script.Shared())


def test_with_a_token_of_the_discontinued_service(server: ServerProcess, tmp_path: Path) -> None:
    """Nothing of the network is asked but a proxy that is not there."""
    env = {"NEPTUNE_API_TOKEN": token("https://app.neptune.ai"), "HTTPS_PROXY": f"http://127.0.0.1:{free_port()}"}
    assert "has been shut down" in refusal(server, tmp_path, "--project", "acme/first", env=env)


def test_with_an_address_that_answers_but_is_not_neptune(server: ServerProcess, tmp_path: Path) -> None:
    with answering(200, b"<html>It works!</html>") as address:
        said = refusal(server, tmp_path, "--project", "acme/first", env={"NEPTUNE_API_TOKEN": token(address)})
    assert f"Cannot sign in to {address} (" in said


@pytest.mark.parametrize(
    ("status", "content"), [(404, b""), (200, b""), (200, b"{}"), (200, b"[]"), (200, b'{"paths": {}}')]
)
def test_every_answer_that_is_not_neptunes_is_told(
    monkeypatch: pytest.MonkeyPatch, status: int, content: bytes
) -> None:
    monkeypatch.setattr(script, "DOUBT", 0.3)
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    with answering(status, content, "application/json") as address:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", token(address))
        with pytest.raises(script.CannotStart, match=r"Cannot sign in to .*: check the server, or copy your API"):
            script.sign_in(script.Shared())


def test_with_a_certificate_that_does_not_verify(server: ServerProcess, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with answering(200, b"{}", context=context) as address:
        said = refusal(server, tmp_path, "--project", "acme/first", env={"NEPTUNE_API_TOKEN": token(address)})
    assert "The certificate of 127.0.0.1 does not verify" in said


def test_with_plain_http_that_has_not_been_allowed(server: ServerProcess, tmp_path: Path) -> None:
    said = refusal(server, tmp_path, "--project", "acme/first", env={"OAUTHLIB_INSECURE_TRANSPORT": None})
    assert "is plain http" in said
    assert "OAUTHLIB_INSECURE_TRANSPORT=1" in said


# -- the project --


def test_with_a_project_that_does_not_exist(server: ServerProcess, tmp_path: Path) -> None:
    said = refusal(server, tmp_path, "--project", "acme/frist")
    assert "There is no project acme/frist" in said
    assert "Did you mean acme/first" in said
    assert said[-1] in ".?" and said[-2] not in ".?"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_with_a_project_that_the_token_cannot_see(server: ServerProcess, tmp_path: Path, status: int) -> None:
    server.instruments.fault("getProject", "status", status=status, times=None)
    try:
        said = refusal(server, tmp_path, "--project", "umbrella/secret")
    finally:
        server.instruments.clear_faults()
    assert "There is no project umbrella/secret that the token can see" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("first", "There is no project first that the token can see. Did you mean acme/first"),
        ("acme/", "There is no project acme/ that the token can see."),
        ("acme/0/0/0/0", "There is no project acme/0/0/0/0 that the token can see. There are "),
        ("acme/fir st", "There is no project acme/fir st that the token can see. Did you mean acme/first"),
        ("nowhere/*", "There is no project nowhere/* that the token can see. There are "),
        (" , ,", "No project is given: enter WORKSPACE/PROJECT"),
    ],
)
def test_names_that_are_none_are_told(server: ServerProcess, tmp_path: Path, name: str, said: str) -> None:
    assert f"model_to_run: {said}" in refusal(server, tmp_path, "--project", name)


def test_without_a_terminal_and_a_project(server: ServerProcess, tmp_path: Path) -> None:
    ended = run_script(server, cwd=tmp_path, env={"NEPTUNE_PROJECT": None}, stdin="acme/first\n")
    said = sentence(tmp_path, ended.status, ended.output)
    assert "No project is given" in said
    assert "--project" in said


# -- the number of workers --


def test_with_a_number_of_workers_that_is_none(server: ServerProcess, tmp_path: Path) -> None:
    ended = run_script(server, "--project", "acme/first", "--workers", "0", cwd=tmp_path)
    assert ended.status == 2
    (said,) = ended.output.splitlines()
    assert said.startswith("model_to_run: ") and "'0' is not a positive whole number" in said
    assert "Traceback" not in ended.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["-1", "abc", "2.5"])
def test_numbers_of_workers_that_are_none_end_the_program(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--project", "acme/first", "--workers", number]) == 2
    assert f"'{number}' is not a positive whole number" in capsys.readouterr().err.splitlines()[-1]


VISIBLE = ["acme/credit-risk", "acme/churn", "umbrella/credit-risk"]


def test_near_names_are_those_that_are_alike() -> None:
    assert script.near("acme/credit_risk", VISIBLE).count("credit-risk") == 2
    assert "acme/churn" in script.near("ACME/CHRUN", VISIBLE)
    assert "umbrella/credit-risk" in script.near("umbrela/credit-risk", VISIBLE)
    assert "CR-FOREST" in script.near("forest", ["CR-FOREST", "CR-TREE"])
    assert script.near("zzz/qqqqqq", []) == ""
    seen = " There are acme/churn, acme/credit-risk, umbrella/credit-risk"
    assert script.near("zzz/qqqqqq", VISIBLE) == f"{seen}."
    assert script.near("zzz/qqqqqq", [*VISIBLE, "z/z"]) == f"{seen} and 1 more."


@pytest.mark.parametrize("number", ["0", "00", "-1", "+1", "abc", "2.5", "", "1e3", "0x10", "1_0", "²", "1 2"])
def test_numbers_of_workers_that_are_none(number: str) -> None:
    with pytest.raises(script.CannotStart, match="is not a positive whole number"):
        script.whole_number(number)


@pytest.mark.parametrize(("text", "number"), [("1", 1), (" 16 ", 16), ("007", 7)])
def test_numbers_of_workers(text: str, number: int) -> None:
    assert script.whole_number(text) == number


# -- the folder and the disk --


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no folder that nobody can write to")
def test_in_a_folder_that_cannot_be_written_to(server: ServerProcess, project: str) -> None:
    ended = run_script(server, "--project", project, "--workers", "1", cwd=Path("/proc"))
    assert ended.status == 2, ended.output
    assert len(ended.output.splitlines()) == 1, ended.output


def test_with_a_disk_that_is_too_small(server: ServerProcess, project: str, tmp_path: Path) -> None:
    planted = Planted(server, project)
    planted.model({"sys/size": value("float", 9e14)})
    said = run_script(server, "--project", project, cwd=tmp_path)
    assert said.status == 2
    assert "900 TB" in said.output
    assert "this disk has" in said.output.splitlines()[-1]
    assert "Traceback" not in said.output
    assert list(tmp_path.iterdir()) == []
    assert planted.runs() == {}


def test_copies_that_are_only_compared_need_the_disk_for_those_in_flight(server: ServerProcess, tmp_path: Path) -> None:
    with bare_registry(server) as planted:
        models = [planted.model({"depth": value("int", 1)}, key=key) for key in "ABCDEF"]
        flags = ("--project", planted.project, "--workers", "2")
        assert run_script(server, *flags, cwd=tmp_path).status == 0
        for model in models:
            server.instruments.set_attribute(planted.project, model, "sys/size", value("float", 9e12))
        ended = run_script(server, *flags, "--verify", "--dry-run", cwd=tmp_path)
        assert "Disk: 36.0 TB to download" in ended.output

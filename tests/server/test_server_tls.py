"""A server on https, with a certificate that a client trusts only when it is told to."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import jwt
import neptune
import pytest
import requests
from neptune.types import File

from tests.neptune_server.process import ServerProcess
from tests.server.test_server_objects import open_run

BACKEND = "/api/backend/v1"
EXPERIMENTS = "/api/leaderboard/v1/experiments"
ATTRIBUTES = "/api/leaderboard/v1/attributes"
DOWNLOADS = "/api/leaderboard/v1/download"


@pytest.fixture(scope="module")
def secure() -> Iterator[ServerProcess]:
    with ServerProcess("--tls", "--project", "acme/secure") as process:
        yield process


@pytest.fixture
def session(secure: ServerProcess) -> requests.Session:
    """A session that trusts the server, and is signed in."""
    session = requests.Session()
    # Otherwise a bundle that the environment names wins.
    session.trust_env = False
    session.verify = str(secure.certificate)
    token = {"X-Neptune-Api-Token": secure.environment["NEPTUNE_API_TOKEN"]}
    signed_in = session.get(f"{secure.url}{BACKEND}/authorization/oauth-token", headers=token)
    session.headers.update({**token, "Authorization": f"Bearer {signed_in.json()['accessToken']}"})
    return session


@pytest.fixture
def trusting(secure: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's environment as the server prints it."""
    monkeypatch.delenv("OAUTHLIB_INSECURE_TRANSPORT", raising=False)
    for name, value in secure.environment.items():
        monkeypatch.setenv(name, value)


def test_the_url_is_one_of_https(secure: ServerProcess) -> None:
    assert secure.url.startswith("https://127.0.0.1:")
    assert "OAUTHLIB_INSECURE_TRANSPORT" not in secure.environment


def test_nobody_trusts_the_server_unasked(secure: ServerProcess) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{secure.url}/api/backend/swagger.json")


def test_who_knows_the_authority_trusts_the_server(secure: ServerProcess) -> None:
    for host in ("127.0.0.1", "localhost"):
        url = secure.url.replace("127.0.0.1", host)
        assert requests.get(f"{url}/api/backend/swagger.json", verify=str(secure.certificate)).status_code == 200


def test_every_server_has_an_authority_of_its_own(secure: ServerProcess) -> None:
    with ServerProcess("--tls") as other, pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{secure.url}/api/backend/swagger.json", verify=str(other.certificate))


def test_no_key_lies_beside_the_certificate(secure: ServerProcess) -> None:
    assert secure.certificate is not None
    written = [path.read_bytes() for path in secure.certificate.parent.rglob("*") if path.is_file()]
    assert any(b"BEGIN CERTIFICATE" in content for content in written)
    assert not any(b"PRIVATE KEY" in content for content in written)


def test_all_urls_are_ones_of_https(secure: ServerProcess, session: requests.Session) -> None:
    config = session.get(f"{secure.url}{BACKEND}/clients/config").json()
    assert (config["apiUrl"], config["applicationUrl"]) == (secure.url, secure.url)
    token = json.loads(base64.b64decode(secure.environment["NEPTUNE_API_TOKEN"]))
    assert (token["api_url"], token["api_address"]) == (secure.url, secure.url)
    access_token = str(session.headers["Authorization"]).partition(" ")[2]
    claims = jwt.decode(access_token, options={"verify_signature": False})
    assert claims["iss"].startswith(f"{secure.url}/")


def test_an_archive_is_downloaded_by_https(secure: ServerProcess, session: requests.Session) -> None:
    run = session.post(f"{secure.url}{EXPERIMENTS}", json={"projectIdentifier": "acme/secure", "type": "run"}).json()
    place = {"experimentIdentifier": run["id"], "attribute": "set", "subPath": "a"}
    session.post(f"{secure.url}{ATTRIBUTES}/storage/fileset/upload", data=b"abc", params=place).raise_for_status()
    wanted = {"experimentId": run["id"], "attribute": "set"}
    archive = session.post(f"{secure.url}{ATTRIBUTES}/downloadFileSetZipRequest", params=wanted).json()
    found: dict[str, Any] = {}
    while "downloadUrl" not in found:
        found = session.get(f"{secure.url}{DOWNLOADS}/downloadRequest", params={"id": archive["id"]}).json()
    assert found["downloadUrl"].startswith(f"{secure.url}/")
    assert session.get(found["downloadUrl"]).content[:2] == b"PK"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.usefixtures("trusting")
def test_the_client_works_by_https(project: str, secure: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its uploads and downloads ignore REQUESTS_CA_BUNDLE, because it sends them without the environment's settings.
    monkeypatch.setenv("NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE", "true")
    place = {"project": "acme/secure", "api_token": secure.environment["NEPTUNE_API_TOKEN"]}
    with open_run(**place) as run:
        run["a"] = 1
        run["file"].upload(File.from_content("abc"))
        run_id = run["sys/id"].fetch()
    with neptune.init_run(with_id=run_id, mode="read-only", **place) as run:
        assert run["a"].fetch() == 1
        run["file"].download("copy.txt")
    with open("copy.txt", encoding="utf-8") as copy:
        assert copy.read() == "abc"


def test_instruments_reach_the_server(secure: ServerProcess) -> None:
    assert secure.instruments.state("acme/secure")["project"] == "acme/secure"


def test_a_connection_is_reset_on_https_as_well(secure: ServerProcess, session: requests.Session) -> None:
    secure.instruments.fault("listOrganizations", "reset")
    with pytest.raises(requests.ConnectionError):
        session.get(f"{secure.url}{BACKEND}/myOrganizations")
    assert session.get(f"{secure.url}{BACKEND}/myOrganizations").status_code == 200

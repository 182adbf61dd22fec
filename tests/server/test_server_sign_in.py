"""Signing in: the exchange of the API token, access tokens that expire, and their refresh."""

from __future__ import annotations

import base64
import json

import jwt
import neptune
import pytest
import requests
from neptune.common.exceptions import NeptuneInvalidApiTokenException, Unauthorized

from tests.neptune_server.process import ServerProcess
from tests.support.wire import ATTRIBUTES, Wire


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def refresh(wire: Wire, refresh_token: str) -> requests.Response:
    realm = claims_of(wire.tokens["accessToken"])["iss"]
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": "neptune-cli"}
    return requests.post(f"{realm}/protocol/openid-connect/token", data=form)


def test_a_token_with_another_key_is_rejected(server: ServerProcess, project: str) -> None:
    content = json.loads(base64.b64decode(server.environment["NEPTUNE_API_TOKEN"]))
    content["api_key"] = "00000000-0000-0000-0000-000000000000"
    token = base64.b64encode(json.dumps(content).encode()).decode()
    with pytest.raises(NeptuneInvalidApiTokenException):
        neptune.init_project(api_token=token)


def test_an_access_token_names_its_realm_its_client_and_its_end(server: ServerProcess) -> None:
    claims = claims_of(Wire(server).tokens["accessToken"])
    assert str(claims["iss"]).startswith(server.url)
    assert claims["azp"] == "neptune-cli"
    assert isinstance(claims["exp"], float)


def test_a_refresh_gives_a_working_access_token(server: ServerProcess) -> None:
    wire = Wire(server)
    answer = refresh(wire, wire.tokens["refreshToken"]).json()
    assert {"access_token", "refresh_token", "expires_in"} <= answer.keys()
    wire.session.headers["Authorization"] = f"Bearer {answer['access_token']}"
    assert wire.get("/api/backend/v1/myOrganizations").status_code == 200


def test_a_bad_refresh_token_is_an_invalid_grant(server: ServerProcess) -> None:
    wire = Wire(server)
    for token in ("nonsense", wire.tokens["accessToken"]):
        answer = refresh(wire, token)
        assert answer.status_code == 400
        assert answer.json()["error"] == "invalid_grant"


def test_nothing_is_answered_without_a_good_access_token(server: ServerProcess) -> None:
    wire = Wire(server)
    for header in ("", "Basic abc", "Bearer abc", f"Bearer {wire.tokens['refreshToken']}"):
        wire.session.headers["Authorization"] = header
        answer = wire.get("/api/backend/v1/myOrganizations")
        assert answer.status_code == 401
        assert "errorType" not in answer.json()


def test_an_expired_token_is_told_apart_from_a_bad_one(project: str) -> None:
    with ServerProcess("--token-ttl", "-1", "--project", "acme/short") as server:
        answer = Wire(server).get("/api/backend/v1/myOrganizations")
        assert answer.status_code == 401
        assert answer.json()["errorType"] == "AUTHORIZATION_TOKEN_EXPIRED"


def test_the_client_refreshes_before_each_request_when_tokens_live_shortly(project: str) -> None:
    with ServerProcess("--token-ttl", "20", "--project", "acme/short") as server:
        opened = neptune.init_project("acme/short", mode="read-only", api_token=server.environment["NEPTUNE_API_TOKEN"])
        before = server.instruments.counts()["requests"]
        opened["sys/name"].fetch()
        opened["sys/name"].fetch()
        after = server.instruments.counts()["requests"]
        opened.stop()
    assert after["token"] - before["token"] == 2


def test_tokens_that_a_test_expires_are_refused_until_they_are_exchanged_afresh() -> None:
    with ServerProcess() as server:
        wire = Wire(server)
        server.instruments.expire_tokens()
        answer = wire.get("/api/backend/v1/myOrganizations")
        assert answer.json()["errorType"] == "AUTHORIZATION_TOKEN_EXPIRED"
        assert Wire(server).get("/api/backend/v1/myOrganizations").status_code == 200


def test_a_download_with_an_expired_token_is_unauthorized_at_once(project: str) -> None:
    """The client holds its token for good for five minutes, and does not look at the reason of a refused download."""
    with ServerProcess("--project", "acme/short") as server:
        opened = neptune.init_project("acme/short", mode="sync", api_token=server.environment["NEPTUNE_API_TOKEN"])
        opened["text"].upload(neptune.types.File.from_content("abc"))
        server.instruments.expire_tokens()
        with pytest.raises(Unauthorized):
            opened["text"].download("text.txt")
        server.instruments.reset_counts()
        server.kill()
        opened.stop()


def test_a_parameter_that_is_required_and_missing_is_a_bad_request(server: ServerProcess) -> None:
    answer = Wire(server).get(f"{ATTRIBUTES}/integers", experimentId="whatever")
    assert answer.status_code == 400
    assert "attribute" in answer.json()["message"]


def test_a_body_that_cannot_be_read_is_a_bad_request(server: ServerProcess) -> None:
    wire = Wire(server)
    for body in (b"", b"{", b"[]", b'{"type": NaN}'):
        assert wire.post("/api/leaderboard/v1/experiments", body).status_code == 400

"""Requests as the client makes them, one by one, for what the client itself does not show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

from tests.neptune_server.process import ServerProcess

ATTRIBUTES = "/api/leaderboard/v1/attributes"


class Wire:
    def __init__(self, server: ServerProcess) -> None:
        self.url = server.url
        self.session = requests.Session()
        signing_in = {"X-Neptune-Api-Token": server.environment["NEPTUNE_API_TOKEN"]}
        answer = self.session.get(f"{self.url}/api/backend/v1/authorization/oauth-token", headers=signing_in)
        self.tokens = answer.json()
        self.session.headers["Authorization"] = f"Bearer {self.tokens['accessToken']}"

    def get(self, url_path: str, **parameters: Any) -> requests.Response:
        return self.session.get(self.url + url_path, params=parameters)

    def post(self, url_path: str, content: Any = None, **parameters: Any) -> requests.Response:
        if isinstance(content, bytes):
            return self.session.post(self.url + url_path, data=content, params=parameters)
        return self.session.post(self.url + url_path, json=content, params=parameters)

    def execute(self, container_id: str, *operations: Mapping[str, Any]) -> list[str]:
        """What is said about the operations that could not be carried out."""
        answer = self.post(f"{ATTRIBUTES}/operations", list(operations), experimentId=container_id)
        answer.raise_for_status()
        return [error["errorDescription"] for error in answer.json()]

    def attributes(self, container_id: str) -> dict[str, Any]:
        answer = self.get(ATTRIBUTES, experimentId=container_id)
        answer.raise_for_status()
        return {attribute["name"]: attribute for attribute in answer.json()["attributes"]}

"""Signing in: the API token is exchanged for a short-lived access token, which is refreshed from then on."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import jwt

from .web import ApiError

CLIENT_ID = "neptune-cli"
REALM = "/auth/realms/neptune"
REFRESH_TOKEN_LIFE = 30 * 24 * 3600


class TokenError(Exception):
    """A refresh token that is not good (any more)."""


@dataclass
class Authority:
    username: str
    access_token_life: float
    api_key: str = field(default_factory=lambda: str(uuid.uuid4()))
    _secret: str = field(default_factory=lambda: secrets.token_hex(32))
    _issued: int = 0
    _expired_up_to: int = 0

    def api_token(self, url: str) -> str:
        content = {"api_address": url, "api_url": url, "api_key": self.api_key}
        return base64.b64encode(json.dumps(content).encode()).decode()

    def check_api_token(self, token: str) -> None:
        try:
            content = json.loads(base64.b64decode(token, validate=True))
            accepted = content["api_key"] == self.api_key
        except (binascii.Error, ValueError, TypeError, KeyError):
            accepted = False
        if not accepted:
            raise ApiError(401, "The API token is not valid")

    def tokens(self, url: str) -> dict[str, Any]:
        """A fresh pair: what the exchange and the refresh give."""
        return {
            "access_token": self._token(url, "Bearer", self.access_token_life),
            "refresh_token": self._token(url, "Refresh", REFRESH_TOKEN_LIFE),
            "expires_in": self.access_token_life,
            "refresh_expires_in": REFRESH_TOKEN_LIFE,
            "token_type": "Bearer",
        }

    def _token(self, url: str, kind: str, life: float) -> str:
        now = time.time()
        self._issued += 1
        claims = {
            "iss": url + REALM,
            "azp": CLIENT_ID,
            "sub": self.username,
            "preferred_username": self.username,
            "typ": kind,
            "jti": str(self._issued),
            "iat": now,
            "exp": now + life,
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def refreshed(self, refresh_token: str, url: str) -> dict[str, Any]:
        try:
            claims = self._decode(refresh_token)
        except jwt.InvalidTokenError as error:
            raise TokenError(str(error)) from None
        if claims.get("typ") != "Refresh":
            raise TokenError("Not a refresh token")
        return self.tokens(url)

    def check_access(self, authorization: str | None) -> None:
        """401 for anything but a good access token; an expired one is told apart."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise ApiError(401, "Sign in first")
        try:
            claims = self._decode(token)
        except jwt.ExpiredSignatureError:
            raise expired() from None
        except jwt.InvalidTokenError:
            raise ApiError(401, "The access token is not valid") from None
        if claims.get("typ") != "Bearer":
            raise ApiError(401, "Not an access token")
        if int(claims["jti"]) <= self._expired_up_to:
            raise expired()

    def _decode(self, token: str) -> dict[str, Any]:
        return jwt.decode(token, self._secret, algorithms=["HS256"], options={"require": ["exp", "jti"]})

    def expire_all(self) -> None:
        """From now on all access tokens issued so far count as expired."""
        self._expired_up_to = self._issued


def expired() -> ApiError:
    return ApiError(401, "The access token has expired", "AUTHORIZATION_TOKEN_EXPIRED")

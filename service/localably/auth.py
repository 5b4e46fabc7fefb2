"""Authentication: an Identity from a key, an opaque token or a JWT."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import tokens
from .capability import ServerCapability
from .config import App, Key
from .errors import RefusedError
from .revocation import Revocations

NO_APP: Final = 40400


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated caller and its permissions.

    Attributes:
        app: the app.
        key: the key, itself or of the token.
        capability: the granted operations by channel.
        client_id: `*` permits any clientId, None permits none, any other value only itself.
        expires_ms: when the token expires, in milliseconds; None for a key.
        issued_ms: when it was issued; None for a key.
        revocation_key: a further key by which it can be revoked.
    """

    app: App
    key: Key
    capability: ServerCapability
    client_id: str | None
    expires_ms: int | None = None
    issued_ms: int | None = None
    revocation_key: str | None = None

    def require(self, channel: str, operation: str) -> None:
        """Refuse what the capability does not grant.

        Raises:
            RefusedError: 40160.
        """
        if not self.capability.allows(channel, operation):
            raise RefusedError(
                40160, f"the capability does not grant {operation} on channel {channel!r}"
            )

    def may_be(self, client_id: str) -> bool:
        """Say whether messages may carry *client_id* (RSL1m, RTL6g)."""
        return self.client_id in ("*", client_id)


class Authenticator:
    """Finds the identity behind credentials.

    Args:
        apps: the apps by id; read at each call, so that apps may come and go.
        now_ms: the clock, in milliseconds.

    Attributes:
        revocations: the tokens that are no longer accepted.
    """

    def __init__(self, apps: Mapping[str, App], now_ms: Callable[[], int]) -> None:
        self._apps = apps
        self._now_ms = now_ms
        self._nonces: dict[tuple[str, str, str], int] = {}
        self.revocations = Revocations(now_ms)

    def by_key(self, value: str, client_id: str | None = None) -> Identity:
        """Return the identity of `appId.keyId:secret`; *client_id* narrows it.

        Raises:
            RefusedError: 40101, or 40400 where there is no such app.
        """
        name, _, secret = value.partition(":")
        app, key = self._find(name)
        if not hmac.compare_digest(key.secret.encode(), secret.encode()):
            raise RefusedError(40101, "the key's secret does not match")
        return Identity(app, key, key.capability, client_id or "*")

    def by_token(self, token: str) -> Identity:
        """Return the identity of an opaque token or a JWT, raw or as base64.

        Raises:
            RefusedError: 40141 revoked, 40142 expired, 40143 from another server, 40144 invalid JWT,
                40101 not a token.
        """
        plain = _unwrapped(token)
        kid = tokens.key_name_of_jwt(plain)
        name = kid or tokens.key_name_of_opaque(plain)
        if name is None:
            raise RefusedError(40101, "the token is not recognised")
        app, key = self._find(name)
        read = tokens.read_jwt if kid else tokens.read_opaque
        grant = read(key, plain, self._now_ms())
        identity = Identity(
            app,
            key,
            grant.capability,
            grant.client_id,
            grant.expires_ms,
            grant.issued_ms,
            grant.revocation_key,
        )
        self.revocations.check(identity)
        return identity

    def of_request(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Identity:
        """Return the identity behind a request's header, or its query (RTN2e).

        Raises:
            RefusedError: 40101 and the others of `by_key` and `by_token`; 40101 also where
                nothing was shown.
        """
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        client_id = query.get("clientId") or _header_client_id(headers)
        if scheme.lower() == "basic":
            return self.by_key(_base64_text(credentials), client_id)
        if scheme.lower() == "bearer":
            return self.by_token(credentials.strip())
        token = query.get("access_token") or query.get("accessToken")
        if token:
            return self.by_token(token)
        key = query.get("key")
        if key:
            return self.by_key(key, client_id)
        raise RefusedError(40101, "no key and no token was given")

    def issue_token(
        self, key_name: str, request: Mapping[str, Any], shown: Identity | None
    ) -> dict[str, Any]:
        """Return TokenDetails for a request that names *key_name*, signed or by a shown key.

        Raises:
            RefusedError: as `tokens.issue`; 40101 also where the key is another's.
        """
        _, key = self._find(key_name)
        named = request.get("keyName")
        if named is not None and named != key_name:
            raise RefusedError(40101, "keyName of the request and of its address differ")
        if shown is not None and (shown.key.name != key_name or shown.expires_ms is not None):
            raise RefusedError(40101, "the key that was shown is not the one that was named")
        signed = shown is None or "mac" in request
        return tokens.issue(key, request, self._now_ms(), self._nonces if signed else None)

    def _find(self, key_name: str) -> tuple[App, Key]:
        if "." not in key_name:
            raise RefusedError(40101, "a key is written appId.keyId:secret")
        app = self._apps.get(key_name.partition(".")[0])
        if app is None:
            raise RefusedError(NO_APP, "there is no app with the id in this key")
        key = app.keys.get(key_name)
        if key is None:
            raise RefusedError(40101, "there is no such key")
        return app, key


def _unwrapped(token: str) -> str:
    """Return a token that may have come as base64, which the SDKs send in the header (RSA3d)."""
    if "." in token:
        return token
    try:
        return base64.b64decode(token, validate=True).decode()
    except (binascii.Error, ValueError):
        return token


def _base64_text(credentials: str) -> str:
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise RefusedError(40101, "the Authorization header is not valid base64") from error


def _header_client_id(headers: Mapping[str, str]) -> str | None:
    """Return the clientId that REST clients with a key send as base64 (RSA7e2)."""
    value = headers.get("X-Ably-ClientId")
    return _base64_text(value) if value else None

"""The API key, and the tokens signed with it.

The key itself is never sent. REST and realtime both present an Ably JWT that is signed here:
ably-python refuses to send a key over http (gap 2), and sends it in clear over ws.
"""

from __future__ import annotations

import base64
import time
import warnings
from typing import TYPE_CHECKING, NamedTuple, Self

import jwt
from ably.types.tokendetails import TokenDetails

from rehydrate.errors import NotConfigured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TOKEN_LIFETIME_S = 3600
_RENEW_AFTER = 0.75
_EVERYTHING = '{"[*]*":["*"]}'
"""Ably grants the intersection of this and the key's own capability: all the key allows."""


class AblyKey(NamedTuple):
    """An API key: ``appId.keyId`` (public) and its secret."""

    name: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``appId.keyId:secret``.

        Raises:
            NotConfigured: the syntax is different. The error omits the text, which may hold a secret.
        """
        name, _, secret = text.strip().partition(":")
        app_id, _, key_id = name.partition(".")
        if not (app_id and key_id and secret) or ":" in secret or "/" in name:
            raise NotConfigured(
                "invalid Ably API key: ABLY_API_KEY must have the form appId.keyId:secret"
            )
        return cls(name, secret)

    def __repr__(self) -> str:
        return f"Key({self.name})"


class Credentials:
    """Signs the service's own tokens with *key*.

    Args:
        key: the API key.
        client_id: the clientId in the tokens; None allows any clientId per message.
        server_ms: fetches Ably's time, ms since 1970.
        now_s: this machine's wall clock, seconds since 1970.
    """

    def __init__(
        self,
        key: AblyKey,
        client_id: str | None,
        server_ms: Callable[[], Awaitable[float]],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._client_id = client_id or "*"
        self._server_ms = server_ms
        self._now_s = now_s
        self._ahead_s = 0.0
        self._clock_unverified = False
        self._renew_at_s = 0.0

    @property
    def due(self) -> bool:
        """True if there is no token yet, or the last one is old enough to be replaced."""
        return self._now_s() >= self._renew_at_s

    async def details(self, _params: object = None) -> TokenDetails:
        """Return a new token, in the form that the SDK expects from an ``auth_callback``.

        Raises:
            ChannelUnavailable: the last token was refused, and Ably's time cannot be fetched.
        """
        if self._clock_unverified:
            self._ahead_s = await self._server_ms() / 1000 - self._now_s()
            self._clock_unverified = False
        issued_s = int(self._now_s() + self._ahead_s)
        claims = {
            "iat": issued_s,
            "exp": issued_s + TOKEN_LIFETIME_S,
            "x-ably-capability": _EVERYTHING,
            "x-ably-clientId": self._client_id,
        }
        with warnings.catch_warnings():
            # older Ably secrets are shorter than PyJWT recommends, and still valid
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            token = jwt.encode(claims, self._key.secret, "HS256", headers={"kid": self._key.name})
        self._renew_at_s = self._now_s() + TOKEN_LIFETIME_S * _RENEW_AFTER
        return TokenDetails(
            token=token,
            issued=issued_s * 1000,
            expires=(issued_s + TOKEN_LIFETIME_S) * 1000,
            client_id=self._client_id,
        )

    def invalidate_token(self) -> None:
        """Sign the next token by Ably's clock: one was refused, so this machine's may be wrong."""
        self._clock_unverified = True


def bearer(token: str) -> dict[str, str]:
    """Return the Authorization header for *token*, in base64 as the SDK sends it (RSA3d).

    Raises:
        UnicodeEncodeError: *token* contains a lone surrogate.
    """
    return {"Authorization": f"Bearer {base64.b64encode(token.encode()).decode()}"}

"""The key, and the tokens that are signed with it.

The key itself never travels: what is shown, to REST and realtime alike, is an Ably JWT made here
(ably-python would refuse the key over http, ably-protocol gap 2, and send it in clear over ws).
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
"""Ably grants what this and the key have in common, so: all that the key may do."""


class AblyKey(NamedTuple):
    """An API key: ``appId.keyId``, which is no secret, and the secret."""

    name: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key written ``appId.keyId:secret``.

        Raises:
            NotConfigured: it is not written so. The text is not repeated: it may hold the secret.
        """
        name, _, secret = text.strip().partition(":")
        app_id, _, key_id = name.partition(".")
        if not (app_id and key_id and secret) or ":" in secret or "/" in name:
            raise NotConfigured("an Ably API key (ABLY_API_KEY) is written appId.keyId:secret")
        return cls(name, secret)

    def __repr__(self) -> str:
        return f"Key({self.name})"


class Credentials:
    """Signs tokens for our own use of *key*.

    Args:
        key: the key.
        client_id: who our tokens say we are; None may be anybody, message by message.
        server_ms: asks Ably for its time, ms since 1970.
        now_s: our clock, seconds since 1970.
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
        self._doubted = False
        self._renew_at_s = 0.0

    @property
    def due(self) -> bool:
        """Whether the last token is old enough to be replaced, or there is none."""
        return self._now_s() >= self._renew_at_s

    async def details(self, _params: object = None) -> TokenDetails:
        """A new token, in the form in which the SDK takes it from an ``auth_callback``.

        Raises:
            ChannelUnavailable: the last one was refused, and Ably does not say what time it is.
        """
        if self._doubted:
            self._ahead_s = await self._server_ms() / 1000 - self._now_s()
            self._doubted = False
        issued_s = int(self._now_s() + self._ahead_s)
        claims = {
            "iat": issued_s,
            "exp": issued_s + TOKEN_LIFETIME_S,
            "x-ably-capability": _EVERYTHING,
            "x-ably-clientId": self._client_id,
        }
        with warnings.catch_warnings():
            # older Ably secrets are shorter than what PyJWT likes; they are still keys
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            token = jwt.encode(claims, self._key.secret, "HS256", headers={"kid": self._key.name})
        self._renew_at_s = self._now_s() + TOKEN_LIFETIME_S * _RENEW_AFTER
        return TokenDetails(
            token=token,
            issued=issued_s * 1000,
            expires=(issued_s + TOKEN_LIFETIME_S) * 1000,
            client_id=self._client_id,
        )

    def doubt(self) -> None:
        """Sign the next token by Ably's clock: ours may be wrong, since one was refused."""
        self._doubted = True


def bearer(token: str) -> dict[str, str]:
    """The header that shows *token*: in base64, as the SDK sends it (RSA3d).

    Raises:
        UnicodeEncodeError: *token* is no text that can be sent.
    """
    return {"Authorization": f"Bearer {base64.b64encode(token.encode()).decode()}"}

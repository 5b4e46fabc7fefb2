"""Authorization: readers show an Ably token, backends a service key, admins an admin key."""

from __future__ import annotations

import hashlib
import hmac
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.api.answers import MissingCredentials
from rehydrate.api.auth.tokens import (
    LONGEST_TOKEN,
    Admits,
    JwtVerifier,
    KeyCapabilities,
    KeyCapability,
    TokenChecks,
    TokenClaims,
    is_jwt,
    key_name,
)
from rehydrate.api.telemetry import query_token
from rehydrate.core.capability import READING
from rehydrate.errors import ChannelUnavailable, Forbidden, NotConfigured, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from starlette.requests import HTTPConnection

_FINGERPRINT = 12
_NO_CREDENTIALS = "missing credentials: send Authorization: Bearer <token or key>"
_NO_CAPABILITY = "the token grants neither history nor subscribe on this conversation's channel"


class Reader(NamedTuple):
    """An authorized reader.

    Attributes:
        client_id: the token's clientId, if it has one.
        expires_s: when the token expires, in seconds since 1970; None if unknown.
    """

    client_id: str | None = None
    expires_s: float | None = None


def bearer(request: HTTPConnection) -> str | None:
    """Return the bearer token or key of a request; None without an Authorization header.

    Raises:
        Unauthorized: the header has another scheme or no token.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("invalid Authorization header: expected Bearer <token or key>")
    return token.strip()


class _Secrets:
    """A set of secret keys. A lookup compares digests with every key, in constant time."""

    def __init__(self, keys: Collection[str], variable: str) -> None:
        if not all(key.strip() for key in keys):
            raise NotConfigured(f"{variable} contains an empty key")
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, key: str) -> bool:
        given = hashlib.sha256(key.encode()).digest()
        found = False
        for each in self._digests:
            found |= hmac.compare_digest(given, each)
        return found


class Access:
    """Authorizes requests. Tokens and keys are never logged, and are stored as digests only.

    Args:
        ably_keys: keys that may sign readers' JWTs, ``appId.keyId:secret``.
        service_keys: secrets of backends.
        admin_keys: secrets of admins, who may also do everything that backends may.
        key_capability: asks Ably for the capability of a key; without it, only the claims of the
            token decide.
        admits: checks an opaque token with Ably; without it, opaque tokens are rejected.
        clock: seconds since 1970.

    Raises:
        NotConfigured: a key has the wrong form.
    """

    def __init__(
        self,
        *,
        ably_keys: Collection[str] = (),
        service_keys: Collection[str] = (),
        admin_keys: Collection[str] = (),
        key_capability: KeyCapability | None = None,
        admits: Admits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jwts = JwtVerifier(ably_keys, clock)
        self._apps = {key_name(key).partition(".")[0] for key in ably_keys}
        self._services = _Secrets(service_keys, "REHYDRATE_SERVICE_KEYS")
        self._admins = _Secrets(admin_keys, "REHYDRATE_ADMIN_KEYS")
        self._keys = KeyCapabilities(ably_keys, key_capability) if key_capability else None
        self._admissions = TokenChecks(admits) if admits else None

    @property
    def configured(self) -> bool:
        """True if at least one key is configured, so that some caller can be authorized."""
        return bool(self._apps or self._services or self._admins)

    def open(self) -> None:
        """Start to fetch the capabilities of the keys from Ably."""
        if self._keys is not None:
            self._keys.open()

    async def close(self) -> None:
        """Cancel pending requests to Ably."""
        if self._keys is not None:
            await self._keys.close()
        if self._admissions is not None:
            await self._admissions.close()

    async def reader(self, token: str | None, channel: Callable[[], Awaitable[str]]) -> Reader:
        """Authorize the bearer of *token* to read the conversation on *channel*.

        Args:
            token: an Ably token, a service key or an admin key.
            channel: resolves the channel; called only after the token has been verified, so an
                unauthenticated request never causes a database read.

        Raises:
            Unauthorized: the token is missing or invalid.
            Forbidden: it grants neither ``history`` nor ``subscribe`` on the channel.
            ChannelUnavailable: only Ably can decide, and it does not answer.
            TooMany: too many opaque tokens are being checked.
        """
        token = _required(token)
        if self._services.has(token) or self._admins.has(token):
            return Reader()
        if is_jwt(token):
            claims = self._jwts.verify(token)
            return await self._by_claims(claims, await channel())
        if self._admissions is None or token.partition(".")[0] not in self._apps:
            raise Unauthorized("unknown token: not signed with a configured key")
        if not await self._admissions.admitted(token, await channel()):
            raise Forbidden(_NO_CAPABILITY)
        return Reader()

    def authorizer(
        self, channel_of: Callable[[str], Awaitable[str]]
    ) -> Callable[[HTTPConnection, str], Awaitable[Reader]]:
        """Return what authorizes requests to read a conversation, whose channel is *channel_of* it.

        A stream's token may be in the query: EventSource cannot send headers.
        """

        async def authorize(request: HTTPConnection, conversation_id: str) -> Reader:
            token = bearer(request)
            path = getattr(request.scope.get("route"), "path", "")
            if token is None and path.endswith("/stream"):
                token = query_token(request)
            return await self.reader(token, partial(channel_of, conversation_id))

        return authorize

    def backend(self, token: str | None) -> None:
        """Check that *token* is a service key or an admin key.

        Raises:
            Unauthorized: it is missing or unknown.
            Forbidden: it is a reader's token.
        """
        token = _required(token)
        if not (self._services.has(token) or self._admins.has(token)):
            self._refuse(token, "a service key is required")

    def admin(self, token: str | None) -> str:
        """Check that *token* is an admin key; return its name for the audit.

        Raises:
            Unauthorized: it is missing or unknown.
            Forbidden: it is a service key or a reader's token.
        """
        token = _required(token)
        if not self._admins.has(token):
            self._refuse(token, "an admin key is required")
        return self.named(token)

    def named(self, token: str) -> str:
        """Return a name for the bearer of *token* that is safe to store in the audit.

        The name of a service or admin key is a fingerprint: it tells keys apart and does not
        reveal them.
        """
        if is_jwt(token):
            claims = self._jwts.verify(token)
            return f"reader:{claims.client_id or claims.key_name}"
        kind = "admin" if self._admins.has(token) else "service"
        return f"{kind}:{hashlib.sha256(token.encode()).hexdigest()[:_FINGERPRINT]}"

    async def _by_claims(self, claims: TokenClaims, channel: str) -> Reader:
        """Authorize by JWT claims: an operation is granted if both the key and the token grant it."""
        needed = claims.capability is None
        of_key = await self._keys.of(claims.key_name, needed=needed) if self._keys else None
        if of_key is None and needed:
            raise ChannelUnavailable("could not fetch the capability of the token's key from Ably")
        granted = READING
        for capability in (of_key, claims.capability):
            if capability is not None:
                granted = capability.granted(channel, granted)
        if not granted:
            raise Forbidden(_NO_CAPABILITY)
        return Reader(claims.client_id, claims.expires_s)

    def _refuse(self, token: str, required: str) -> None:
        """Raise Unauthorized for an unknown token, Forbidden for a valid one of another kind."""
        if is_jwt(token):
            self._jwts.verify(token)
        elif not self._services.has(token):
            raise Unauthorized(f"{required}; the given key is unknown")
        raise Forbidden(required)


def _required(token: str | None) -> str:
    if not token:
        raise MissingCredentials(_NO_CREDENTIALS)
    if len(token) > LONGEST_TOKEN:
        raise Unauthorized(f"the token is longer than {LONGEST_TOKEN} characters")
    return token

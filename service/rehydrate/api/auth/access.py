"""Authorization: readers show an Ably token, backends a service key, admins an admin key.

Ably JWTs are verified with the configured keys. Only Ably knows the capability of a key, which is
cached; of other tokens Ably decides (`opaque_tokens`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
from jwt.algorithms import HMACAlgorithm

from rehydrate.api.answers import MissingCredentials
from rehydrate.api.auth.key_capabilities import KeyCapabilities, KeyCapability, key_name
from rehydrate.api.auth.opaque_tokens import Admits, TokenChecks
from rehydrate.api.telemetry import query_token
from rehydrate.core.capability import READING, Capability
from rehydrate.errors import (
    ChannelUnavailable,
    Forbidden,
    NotConfigured,
    Unauthorized,
)
from rehydrate.limits import TtlCache, digest

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from rehydrate.ports import KeptCapabilities

_log = logging.getLogger(__name__)

LONGEST_TOKEN = 16_384
"""In characters. Ably's own tokens are far shorter, and servers cap headers at 64 KiB."""

CACHE_CAPACITY = 10_000
_DOTS_OF_JWT = 2

_FINGERPRINT = 12
_NO_CREDENTIALS = "missing credentials: send Authorization: Bearer <token or key>"
_NO_CAPABILITY = "the token grants neither history nor subscribe on this conversation's channel"


class Reader(NamedTuple):
    """An authorized reader.

    Attributes:
        client_id: the token's clientId, if it has one.
        expires_s: when the token expires, in seconds since 1970; None if unknown.
        owner: the clientId, or a digest of a token without one: whose share of a limit its requests
            take; None for backends and admins, who act for many.
        verify: verifies an opaque token again; raises `Unauthorized` or `Forbidden` if it has become
            invalid. None: there is nothing to verify.
    """

    client_id: str | None = None
    expires_s: float | None = None
    owner: str | None = None
    verify: Callable[[], Awaitable[None]] | None = None


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


class TokenClaims(NamedTuple):
    """The claims of a verified JWT.

    Attributes:
        key_name: ``appId.keyId`` of the signing key.
        client_id: the token's clientId, if it has one.
        capability: the token's capability; None: that of its key.
        expires_s: in seconds since 1970.
    """

    key_name: str
    client_id: str | None
    capability: Capability | None
    expires_s: float


class _AnyLength(HMACAlgorithm):
    """HMAC without PyJWT's minimum key length: older Ably secrets have only 22 characters."""

    def check_key_length(self, key: bytes) -> str | None:  # noqa: ARG002 - the library's signature
        return None


def is_jwt(token: str) -> bool:
    """Return whether *token* has the form of a JWT; Ably's opaque tokens have one dot."""
    return token.count(".") == _DOTS_OF_JWT


class JwtVerifier:
    """Verifies JWTs (HS256) by their ``kid``, and caches valid ones until they expire.

    Args:
        keys: Ably keys, ``appId.keyId:secret``.
        clock: seconds since 1970.

    Raises:
        NotConfigured: one of *keys* has another form.
    """

    def __init__(self, keys: Collection[str], clock: Callable[[], float] = time.time) -> None:
        self._secrets = {key_name(key): key.partition(":")[2].encode() for key in keys}
        self._clock = clock
        self._verified: TtlCache[TokenClaims] = TtlCache(CACHE_CAPACITY, clock)
        self._jws = jwt.PyJWS(algorithms=["HS256"])
        self._jws.unregister_algorithm("HS256")
        self._jws.register_algorithm("HS256", _AnyLength(HMACAlgorithm.SHA256))

    def verify(self, token: str) -> TokenClaims:
        """Verify *token* and return its claims.

        Raises:
            Unauthorized: the token is malformed, signed with another key, wrongly signed, expired,
                not valid yet, or has claims of the wrong type.
        """
        key = digest(token)
        claims = self._verified.get(key)
        if claims is None:
            claims = self._verify(token)
            self._verified.put(key, claims, claims.expires_s)
        return claims

    def _verify(self, token: str) -> TokenClaims:
        try:
            kid = self._jws.get_unverified_header(token).get("kid")
            secret = self._secrets.get(kid) if isinstance(kid, str) else None
            if not isinstance(kid, str) or secret is None:
                raise Unauthorized("unknown token: not signed with a configured key")
            payload = json.loads(self._jws.decode(token, secret, algorithms=["HS256"]))
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            raise Unauthorized("invalid token: malformed or wrongly signed") from error
        if not isinstance(payload, dict):
            raise Unauthorized("invalid token: its claims are not a JSON object")
        return self._claims(kid, payload)

    def _claims(self, kid: str, payload: dict[str, Any]) -> TokenClaims:
        expires_s, from_s = _time(payload, "exp"), _time(payload, "nbf")
        now_s = self._clock()
        if expires_s is None:
            raise Unauthorized("the token has no expiry time (exp)")
        if expires_s <= now_s:
            raise Unauthorized("the token has expired")
        if from_s is not None and from_s > now_s:
            raise Unauthorized("the token is not valid yet (nbf)")
        client_id = payload.get("x-ably-clientId")
        return TokenClaims(
            kid,
            client_id if isinstance(client_id, str) else None,
            _capability(payload.get("x-ably-capability")),
            expires_s,
        )


def _time(payload: dict[str, Any], claim: str) -> float | None:
    value = payload.get(claim)
    if value is None:
        return None
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return value
    except OverflowError:  # an integer of more than 308 digits
        pass
    raise Unauthorized(f"the token's claim {claim} is not a time")


def _capability(claim: Any) -> Capability | None:
    """Parse the capability claim, JSON in a string; missing or empty, the key's capability applies."""
    if claim is None or claim == "":
        return None
    try:
        return Capability.parse(claim) if isinstance(claim, str) else Capability.of(claim)
    except ValueError as error:
        raise Unauthorized("the token's claim x-ably-capability is not a capability") from error


def _token_owner(token: str) -> str:
    return f"token {hashlib.sha256(token.encode()).hexdigest()}"


class Access:
    """Authorizes requests. Tokens and keys are never logged, and are stored as digests only.

    Args:
        ably_keys: keys that may sign readers' JWTs, ``appId.keyId:secret``.
        service_keys: secrets of backends.
        admin_keys: secrets of admins, who may also do everything that backends may.
        key_capability: asks Ably for the capability of a key; without it, only the claims of the
            token decide.
        kept: where the last known capabilities of keys are kept for restarts.
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
        kept: KeptCapabilities | None = None,
        admits: Admits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jwts = JwtVerifier(ably_keys, clock)
        self._apps = {key_name(key).partition(".")[0] for key in ably_keys}
        self._services = _Secrets(service_keys, "REHYDRATE_SERVICE_KEYS")
        self._admins = _Secrets(admin_keys, "REHYDRATE_ADMIN_KEYS")
        self._keys = KeyCapabilities(ably_keys, key_capability, kept) if key_capability else None
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

    async def reader(
        self,
        token: str | None,
        channel: Callable[[], Awaitable[str]],
        *,
        peer: str | None = None,
    ) -> Reader:
        """Authorize the bearer of *token* to read the conversation on *channel*.

        Args:
            token: an Ably token, a service key or an admin key.
            channel: resolves the channel; called only after the token has been verified, so an
                unauthenticated request never causes a database read.
            peer: the address of the client.

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
            reader = await self._by_claims(claims, await channel())
            owner = f"client {claims.client_id}" if claims.client_id else _token_owner(token)
            return reader._replace(owner=owner)
        if self._admissions is None or token.partition(".")[0] not in self._apps:
            raise Unauthorized("unknown token: not signed with a configured key")
        verify = partial(_check_admitted, self._admissions, token, await channel())
        await verify(peer)
        return Reader(owner=_token_owner(token), verify=verify)

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
            peer = request.client.host if request.client else None
            return await self.reader(token, partial(channel_of, conversation_id), peer=peer)

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
        of_key = await self._keys.of(claims.key_name) if self._keys else None
        if of_key is None and claims.capability is None:
            raise ChannelUnavailable("nothing is known about the capability of the token's key")
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


async def _check_admitted(
    checks: TokenChecks, token: str, channel: str, peer: str | None = None
) -> None:
    if not await checks.admitted(token, channel, peer):
        raise Forbidden(_NO_CAPABILITY)


def _required(token: str | None) -> str:
    if not token:
        raise MissingCredentials(_NO_CREDENTIALS)
    if len(token) > LONGEST_TOKEN:
        raise Unauthorized(f"the token is longer than {LONGEST_TOKEN} characters")
    return token

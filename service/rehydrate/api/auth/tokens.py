"""Tokens: Ably JWTs are verified with the configured keys; of others Ably decides.

Only Ably knows the capability of a key, and whether it accepts an opaque token. Both are cached.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

import jwt
from jwt.algorithms import HMACAlgorithm

from rehydrate.api.answers import TooMany
from rehydrate.background import TtlCache, jittered
from rehydrate.core.capability import Capability
from rehydrate.errors import ChannelUnavailable, NotConfigured, Unauthorized

LONGEST_TOKEN = 16_384
"""In characters. Ably's own tokens are far shorter, and servers cap headers at 64 KiB."""

CACHE_CAPACITY = 10_000
_DOTS_OF_JWT = 2


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


def key_name(key: str) -> str:
    """Return the ``appId.keyId`` of an Ably key.

    Raises:
        NotConfigured: *key* is not ``appId.keyId:secret``.
    """
    name, colon, secret = key.partition(":")
    app_id, dot, key_id = name.partition(".")
    if not (colon and dot and app_id and key_id and secret):
        raise NotConfigured("REHYDRATE_ABLY_KEYS: an Ably key has the form appId.keyId:secret")
    return name


def is_jwt(token: str) -> bool:
    """Return whether *token* has the form of a JWT; Ably's opaque tokens have one dot."""
    return token.count(".") == _DOTS_OF_JWT


def digest(token: str, *more: str) -> bytes:
    """Return the cache key of *token*; caches never store the token itself."""
    return hashlib.sha256("\0".join((token, *more)).encode()).digest()


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
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unauthorized(f"the token's claim {claim} is not a time")
    return value


def _capability(claim: Any) -> Capability | None:
    """Parse the capability claim, JSON in a string; missing or empty, the key's capability applies."""
    if claim is None or claim == "":
        return None
    try:
        return Capability.parse(claim) if isinstance(claim, str) else Capability.of(claim)
    except ValueError as error:
        raise Unauthorized("the token's claim x-ably-capability is not a capability") from error


_log = logging.getLogger(__name__)

KeyCapability = Callable[[str], Awaitable[Mapping[str, list[str]]]]
"""Fetch a key's capability from Ably; may raise `Unauthorized` or `ChannelUnavailable`."""

Admits = Callable[[str, str], Awaitable[bool]]
"""Return whether Ably lets a token read a channel; may raise the same errors."""

FETCH_TIMEOUT_S = 15.0


class KeyCapabilities:
    """The capability of each key, refreshed every few minutes in the background.

    While Ably is unreachable the last known capability stays in effect.

    Args:
        keys: Ably keys, ``appId.keyId:secret``.
        fetch: fetches a key's capability from Ably.
        fresh_s: seconds after which a capability is fetched again.
        retry_s: seconds after which a failed fetch is repeated.
        patience_s: seconds that a request waits for the first fetch.
        clock: any monotonic clock, in seconds.
    """

    def __init__(
        self,
        keys: Collection[str],
        fetch: KeyCapability,
        *,
        fresh_s: float = 300.0,
        retry_s: float = 10.0,
        patience_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._fresh_s, self._retry_s, self._patience_s = fresh_s, retry_s, patience_s
        self._clock = clock
        self._entries = {key_name(key): _KeyEntry(key) for key in keys}

    def open(self) -> None:
        """Start the first fetch of every key, so that the first request need not wait."""
        for entry in self._entries.values():
            self._refresh(entry)

    async def close(self) -> None:
        """Cancel pending fetches."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def of(self, name: str, *, needed: bool) -> Capability | None:
        """Return the capability of the key *name*; None if it was never fetched successfully.

        Args:
            name: ``appId.keyId``.
            needed: True if nothing else can decide; then a pending fetch is waited for.

        Raises:
            Unauthorized: the key does not exist, or is revoked.
        """
        entry = self._entries[name]
        self._refresh(entry)
        if entry.task is not None and entry.capability is None and (needed or not entry.attempted):
            await asyncio.wait({entry.task}, timeout=self._patience_s)
        if entry.revoked:
            raise Unauthorized("the key that signed the token does not exist or is revoked")
        return entry.capability

    def _refresh(self, entry: _KeyEntry) -> None:
        if entry.task is None and self._clock() >= entry.due_s:
            entry.task = asyncio.create_task(self._update(entry), name="key capability")

    async def _update(self, entry: _KeyEntry) -> None:
        wait_s = self._retry_s
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                entry.capability = Capability.of(dict(await self._fetch(entry.key)))
            entry.revoked, wait_s = False, self._fresh_s
        except Unauthorized:
            entry.capability, entry.revoked = None, True
            _log.warning("Ably does not recognise the key %s", key_name(entry.key))
        except Exception as error:  # noqa: BLE001 - logged, and retried after retry_s
            _log.warning("could not fetch the capability of a key: %s", type(error).__name__)
        finally:
            entry.attempted, entry.task = True, None
            entry.due_s = self._clock() + jittered(wait_s)


class _KeyEntry:
    """The cached capability of one key. ``attempted``: a fetch has ended, with any result."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.capability: Capability | None = None
        self.revoked = False
        self.attempted = False
        self.due_s = float("-inf")
        self.task: asyncio.Task[None] | None = None


class TokenChecks:
    """Checks opaque tokens with Ably. Concurrent checks of one token share a request.

    Args:
        admits: performs the check.
        accepted_s: seconds for which an acceptance is cached.
        refused_s: seconds for which a refusal is cached; short, since a capability may be widened.
        at_once: maximum number of concurrent checks; invalid tokens must not flood Ably.
        capacity: maximum number of cached results.
        clock: any monotonic clock, in seconds.
    """

    def __init__(
        self,
        admits: Admits,
        *,
        accepted_s: float = 60.0,
        refused_s: float = 5.0,
        at_once: int = 32,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admits = admits
        self._accepted_s, self._refused_s, self._at_once = accepted_s, refused_s, at_once
        self._clock = clock
        self._verdicts: TtlCache[bool | Unauthorized] = TtlCache(capacity, clock)
        self._pending: dict[bytes, asyncio.Task[bool | Unauthorized]] = {}

    async def close(self) -> None:
        """Cancel pending checks."""
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def admitted(self, token: str, channel: str) -> bool:
        """Return whether *token* may read *channel*.

        Raises:
            Unauthorized: Ably rejects the token.
            ChannelUnavailable: Ably does not answer in time.
            TooMany: too many checks are pending.
        """
        key = digest(token, channel)
        verdict = self._verdicts.get(key)
        if verdict is None:
            task = self._pending.get(key) or self._start(key, token, channel)
            await asyncio.wait({task})  # awaiting the task itself would cancel it for other waiters
            if task.cancelled():
                raise ChannelUnavailable("the service is closing")
            verdict = task.result()
        if isinstance(verdict, Unauthorized):
            raise Unauthorized(str(verdict))
        return verdict

    def _start(self, key: bytes, token: str, channel: str) -> asyncio.Task[bool | Unauthorized]:
        if len(self._pending) >= self._at_once:
            raise TooMany("too many token checks are pending; retry later")
        task = asyncio.create_task(self._check(key, token, channel), name="token check")
        self._pending[key] = task
        return task

    async def _check(self, key: bytes, token: str, channel: str) -> bool | Unauthorized:
        verdict: bool | Unauthorized
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                verdict = await self._admits(token, channel)
        except Unauthorized:
            verdict = Unauthorized("Ably rejected the token: it is expired, revoked or malformed")
        except TimeoutError as error:
            raise ChannelUnavailable("Ably did not check the token in time") from error
        finally:
            del self._pending[key]
        cached_s = self._accepted_s if verdict is True else self._refused_s
        self._verdicts.put(key, verdict, self._clock() + cached_s)
        return verdict

"""Ably JWTs: verify the signature with the configured keys, and parse the claims."""

from __future__ import annotations

import hashlib
import json
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
from jwt.algorithms import HMACAlgorithm

from rehydrate.api.ttl_cache import TtlCache
from rehydrate.core.capability import Capability
from rehydrate.errors import NotConfigured, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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

"""Tokens: making them for token requests, and reading them, opaque ones and JWTs.

An opaque token contains its grants and is sealed with its key's secret, so that nothing has to be
remembered and a token outlives a restart of the server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import orjson

from .capability import ServerCapability
from .config import LONGEST_REVOCABLE_MS, Key
from .errors import RefusedError

_DEFAULT_TTL_MS: Final = 3_600_000
_LONGEST_TTL_MS: Final = 86_400_000
_CLOCK_TOLERANCE_MS: Final = 900_000
_SEAL_BYTES: Final = 16
_SIGNED_FIELDS: Final = ("keyName", "ttl", "capability", "clientId", "timestamp", "nonce")

# when each nonce was used, by key name, timestamp and nonce (RSA9c)
Nonces = dict[tuple[str, str, str], int]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token grants.

    Attributes:
        capability: the granted operations by channel.
        client_id: as in `Identity`.
        expires_ms: when the token expires, in milliseconds.
        issued_ms: when the token was issued, in milliseconds.
        revocation_key: a further key by which it can be revoked; JWTs only.
    """

    capability: ServerCapability
    client_id: str | None
    expires_ms: int
    issued_ms: int
    revocation_key: str | None = None


def issue(
    key: Key, request: Mapping[str, Any], now_ms: int, nonces: Nonces | None
) -> dict[str, Any]:
    """Return the TokenDetails for a token request (TE, TD).

    Args:
        key: the key that the request names.
        request: its fields.
        now_ms: the time, in milliseconds.
        nonces: recently seen nonces and their times, if the request is authenticated by its MAC;
            None if its sender has shown the key.

    Raises:
        RefusedError: 40101 mac, 40104 timestamp, 40105 nonce, 40160 capability, 40003 ttl.
    """
    if nonces is not None:
        _check_signature(key, request)
        _check_freshness(key, request, now_ms, nonces)
    capability = _granted(key, request.get("capability"))
    client_id = request.get("clientId")
    if client_id is not None and (not isinstance(client_id, str) or not client_id):
        raise RefusedError(40012, "clientId has to be text")
    ttl_ms = _ttl_ms(request.get("ttl"))
    _check_ttl(key, ttl_ms, 40003)
    expires_ms = now_ms + ttl_ms
    grant = Grant(capability, client_id, expires_ms, now_ms)
    details = {
        "token": _sealed(key, grant),
        "keyName": key.name,
        "issued": now_ms,
        "expires": expires_ms,
        "capability": str(capability),
    }
    if client_id is not None:
        details["clientId"] = client_id
    return details


def read_opaque(key: Key, token: str, now_ms: int) -> Grant:
    """Return what a token that `issue` made grants.

    Raises:
        RefusedError: 40142, it has expired; 40143, it is not one of this key's.
    """
    try:
        raw = base64.urlsafe_b64decode(_padded(token.partition(".")[2]))
    except ValueError as error:
        raise RefusedError(40143, "the token is not recognised") from error
    body, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
    if not hmac.compare_digest(seal, _seal(key, body)):
        raise RefusedError(40143, "the token is not recognised")
    fields = orjson.loads(body)
    if fields["e"] <= now_ms:
        raise RefusedError(40142, "the token has expired")
    return Grant(ServerCapability(fields["x"]), fields.get("c"), fields["e"], fields.get("i", 0))


def key_name_of_opaque(token: str) -> str | None:
    """Return the key name in an opaque token; None if the text is not a token."""
    app_id, _, rest = token.partition(".")
    try:
        raw = base64.urlsafe_b64decode(_padded(rest))
        fields = orjson.loads(raw[:-_SEAL_BYTES])
    except ValueError:
        return None
    key_id = fields.get("k") if isinstance(fields, dict) else None
    return f"{app_id}.{key_id}" if isinstance(key_id, str) else None


def key_name_of_jwt(token: str) -> str | None:
    """Return the `kid` of a JWT; None if *token* is none."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except jwt.InvalidTokenError:
        return None
    return kid if isinstance(kid, str) else None


def read_jwt(key: Key, token: str, now_ms: int) -> Grant:
    """Return what an Ably JWT grants.

    Raises:
        RefusedError: 40142, it has expired; 40144, its signature or its claims are wrong; 40160, it grants nothing.
    """
    try:
        with warnings.catch_warnings():
            # older Ably secrets are shorter than what the library likes; they are still keys
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            claims = jwt.decode(
                token,
                key.secret,
                algorithms=["HS256"],
                options={"verify_exp": False, "verify_iat": False, "require": ["iat", "exp"]},
            )
    except jwt.InvalidTokenError as error:
        raise RefusedError(40144, f"the JWT is not valid: {type(error).__name__}") from error
    client_id = claims.get("x-ably-clientId")
    expires = claims["exp"]
    issued, revocation_key = claims["iat"], claims.get("x-ably-revocation-key")
    texts = (client_id, revocation_key)
    if not (
        all(type(each) in (int, float) for each in (issued, expires))
        and all(each is None or isinstance(each, str) for each in texts)
    ):
        raise RefusedError(40144, "a claim of the JWT has the wrong type")
    if expires * 1000 <= now_ms:
        raise RefusedError(40142, "the token has expired")
    _check_ttl(key, (expires - issued) * 1000, 40144)
    capability = _granted(key, claims.get("x-ably-capability"))
    return Grant(capability, client_id, int(expires * 1000), int(issued * 1000), revocation_key)


def _granted(key: Key, asked: object) -> ServerCapability:
    if asked is None or asked == "":
        return key.capability
    text = asked if isinstance(asked, str) else orjson.dumps(asked).decode()
    capability = key.capability.meet(ServerCapability.parse(text))
    if not capability:
        raise RefusedError(40160, "the key grants nothing of the capability that was asked for")
    return capability


def _ttl_ms(asked: object) -> int:
    if asked is None or asked == "":
        return _DEFAULT_TTL_MS
    try:
        ttl_ms = int(str(asked))
    except ValueError as error:
        raise RefusedError(40003, "ttl has to be a number of milliseconds") from error
    if not 0 < ttl_ms <= _LONGEST_TTL_MS:
        raise RefusedError(40003, f"ttl has to be 1 to {_LONGEST_TTL_MS} milliseconds")
    return ttl_ms


def _check_ttl(key: Key, ttl_ms: float, code: int) -> None:
    """Refuse a token of a key with revocable tokens that would be valid for longer than an hour."""
    if key.revocable_tokens and ttl_ms > LONGEST_REVOCABLE_MS:
        raise RefusedError(code, "a revocable token must expire within an hour")


def _check_signature(key: Key, request: Mapping[str, Any]) -> None:
    text = "".join(f"{_text(request.get(field))}\n" for field in _SIGNED_FIELDS)
    wanted = base64.b64encode(hmac.digest(key.secret.encode(), text.encode(), hashlib.sha256))
    given = request.get("mac")
    if not isinstance(given, str) or not hmac.compare_digest(wanted, given.encode()):
        raise RefusedError(40101, "the mac of the token request does not match")


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _check_freshness(key: Key, request: Mapping[str, Any], now_ms: int, nonces: Nonces) -> None:
    timestamp, nonce = request.get("timestamp"), request.get("nonce")
    if not str(timestamp).isdigit() or abs(int(str(timestamp)) - now_ms) > _CLOCK_TOLERANCE_MS:
        raise RefusedError(40104, "the timestamp of the token request is not current")
    if not isinstance(nonce, str) or len(nonce) < _SHORTEST_NONCE:
        raise RefusedError(40105, "the nonce of the token request is missing or too short")
    for old in [seen for seen, at in nonces.items() if now_ms - at > 2 * _CLOCK_TOLERANCE_MS]:
        del nonces[old]
    used = (key.name, str(timestamp), nonce)
    if used in nonces:
        raise RefusedError(40105, "the nonce of the token request was used before")
    nonces[used] = now_ms


_SHORTEST_NONCE: Final = 16


def _sealed(key: Key, grant: Grant) -> str:
    resources = grant.capability.resources
    fields = {
        "k": key.key_id,
        "x": {name: sorted(operations) for name, operations in resources.items()},
        "c": grant.client_id,
        "e": grant.expires_ms,
        "i": grant.issued_ms,
        "n": secrets.token_hex(4),
    }
    body = orjson.dumps(fields)
    return f"{key.app_id}.{base64.urlsafe_b64encode(body + _seal(key, body)).decode().rstrip('=')}"


def _seal(key: Key, body: bytes) -> bytes:
    return hmac.digest(key.secret.encode(), body, hashlib.sha256)[:_SEAL_BYTES]


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)

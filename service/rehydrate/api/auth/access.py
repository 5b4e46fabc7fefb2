"""Who may do what: readers by the Ably token they have, backends and admins by a key of ours."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.api.auth.token_checks import Admits, KeyCapabilities, KeyCapability, TokenChecks
from rehydrate.api.auth.tokens import LONGEST_TOKEN, JwtVerifier, TokenClaims, is_jwt, key_name
from rehydrate.core.capability import READING
from rehydrate.errors import ChannelUnavailable, Forbidden, NotConfigured, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from starlette.requests import HTTPConnection

_FINGERPRINT = 12
_NO_PROOF = "show a token or a key: Authorization: Bearer …"
_NOT_THIS = "the token grants neither history nor subscribe on this conversation's channel"


class Reader(NamedTuple):
    """Who reads. ``expires_s``: when the proof ends, in seconds since 1970; None: not known."""

    client_id: str | None = None
    expires_s: float | None = None


def bearer(request: HTTPConnection) -> str | None:
    """The token or key in the Authorization header; None without one.

    Raises:
        Unauthorized: the header says something else.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("the Authorization header has to be: Bearer, a space, and the token")
    return token.strip()


class _Secrets:
    """Keys of our own, compared in constant time with all of them, by digest."""

    def __init__(self, keys: Collection[str], variable: str) -> None:
        if not all(key.strip() for key in keys):
            raise NotConfigured(f"{variable} holds an empty key")
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, shown: str) -> bool:
        given = hashlib.sha256(shown.encode()).digest()
        found = False
        for each in self._digests:
            found |= hmac.compare_digest(given, each)
        return found


class Access:
    """Decides who may do what. Tokens and keys are never logged and kept by digest only.

    Args:
        ably_keys: keys whose JWTs readers may show, ``appId.keyId:secret``.
        service_keys: secrets of backends.
        admin_keys: secrets of admins, who may also do what backends may.
        key_capability: asks Ably what a key may do; without it a token's claims decide alone.
        admits: proves an opaque token by asking Ably with it; without it none is taken.
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
        """Whether anybody at all may do anything."""
        return bool(self._apps or self._services or self._admins)

    def open(self) -> None:
        """Begin to ask Ably what the keys may do."""
        if self._keys is not None:
            self._keys.open()

    async def close(self) -> None:
        """Stop whatever is being asked."""
        if self._keys is not None:
            await self._keys.close()
        if self._admissions is not None:
            await self._admissions.close()

    async def reader(self, token: str | None, channel: Callable[[], Awaitable[str]]) -> Reader:
        """Return if the bearer of *token* may read the conversation on *channel*.

        *channel* is asked only once the token is known to be somebody's.

        Raises:
            Unauthorized: the token is missing or does not hold.
            Forbidden: it holds, but grants neither ``history`` nor ``subscribe`` there.
            ChannelUnavailable: only Ably could tell, and it does not answer.
            TooMany: too many opaque tokens are being proved.
        """
        token = _present(token)
        if self._services.has(token) or self._admins.has(token):
            return Reader()
        if is_jwt(token):
            claims = self._jwts.verify(token)
            return await self._by_claims(claims, await channel())
        if self._admissions is None or token.partition(".")[0] not in self._apps:
            raise Unauthorized("the token is none that is taken here")
        if not await self._admissions.admitted(token, await channel()):
            raise Forbidden(_NOT_THIS)
        return Reader()

    def backend(self, token: str | None) -> None:
        """Return if *token* is a service key (or an admin key).

        Raises:
            Unauthorized: it is missing, or nobody's.
            Forbidden: it is a reader's.
        """
        token = _present(token)
        if not (self._services.has(token) or self._admins.has(token)):
            self._refuse(token, "this takes a service key")

    def admin(self, token: str | None) -> str:
        """Return the name of who shows *token*, if that is an admin key.

        Raises:
            Unauthorized: it is missing, or nobody's.
            Forbidden: it is a backend's or a reader's.
        """
        token = _present(token)
        if not self._admins.has(token):
            self._refuse(token, "this takes an admin key")
        return self.named(token)

    def named(self, token: str) -> str:
        """Who shows *token*, for those who look later: what kind of proof it is, and which.

        Of our own keys that is a fingerprint, which tells keys apart and leads back to none.
        """
        if is_jwt(token):
            claims = self._jwts.verify(token)
            return f"reader:{claims.client_id or claims.key_name}"
        kind = "admin" if self._admins.has(token) else "service"
        return f"{kind}:{hashlib.sha256(token.encode()).hexdigest()[:_FINGERPRINT]}"

    async def _by_claims(self, claims: TokenClaims, channel: str) -> Reader:
        """Key and token together: an operation counts if both grant it."""
        needed = claims.capability is None
        of_key = await self._keys.of(claims.key_name, needed=needed) if self._keys else None
        if of_key is None and needed:
            raise ChannelUnavailable("Ably does not say what the token's key may do")
        granted = READING
        for capability in (of_key, claims.capability):
            if capability is not None:
                granted = capability.granted(channel, granted)
        if not granted:
            raise Forbidden(_NOT_THIS)
        return Reader(claims.client_id, claims.expires_s)

    def _refuse(self, token: str, wanted: str) -> None:
        """Unauthorized for a stranger, Forbidden for somebody who is known."""
        if is_jwt(token):
            self._jwts.verify(token)
        elif not self._services.has(token):
            raise Unauthorized(f"{wanted}; the one that was shown is not known")
        raise Forbidden(wanted)


def _present(token: str | None) -> str:
    if not token:
        raise Unauthorized(_NO_PROOF)
    if len(token) > LONGEST_TOKEN:
        raise Unauthorized("the token is too long to be one")
    return token

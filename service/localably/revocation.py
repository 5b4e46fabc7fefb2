"""Token revocation: tokens of a key that were issued before a time are no longer accepted (RSA17)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .config import LONGEST_REVOCABLE_MS, Key
from .errors import FrameError, RefusedError

if TYPE_CHECKING:
    from .auth import Identity

_REAUTH_MARGIN_MS: Final = 30_000
_MOST_TARGETS: Final = 100
_MOST_REVOCATIONS: Final = 100_000
_TYPES: Final = frozenset({"clientId", "revocationKey", "channel"})


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tokens issued before *issued_before_ms* are refused from *applies_at_ms* on."""

    issued_before_ms: int
    applies_at_ms: int


class Revocations:
    """The revocations of all keys, kept for as long as a token that they affect can be valid.

    Args:
        now_ms: the clock, in milliseconds.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._found: dict[tuple[str, str], list[Revocation]] = {}
        self._count = 0

    def revoke(self, key: Key, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Revoke the tokens of *key* that match a target; return one result for each target.

        Raises:
            RefusedError: 40300, tokens of the key are not revocable; 40000, the request is not valid.
        """
        if not key.revocable_tokens:
            raise RefusedError(40300, "the tokens of this key are not revocable")
        targets = body.get("targets")
        if not isinstance(targets, list) or not 1 <= len(targets) <= _MOST_TARGETS:
            raise FrameError(f"targets must be a list of 1 to {_MOST_TARGETS} strings")
        now_ms = self._now_ms()
        issued_before_ms = body.get("issuedBefore")
        if issued_before_ms is None:
            issued_before_ms = now_ms
        if type(issued_before_ms) is not int or not (
            now_ms - LONGEST_REVOCABLE_MS <= issued_before_ms <= now_ms
        ):
            raise FrameError("issuedBefore must be a time within the last hour, in milliseconds")
        margin_ms = _REAUTH_MARGIN_MS if body.get("allowReauthMargin") is True else 0
        revocation = Revocation(issued_before_ms, now_ms + margin_ms)
        self._expire(now_ms)
        return [self._add(key, target, revocation) for target in targets]

    def of(self, identity: Identity) -> Revocation | None:
        """Return the revocation of a caller's token that applies first; None if it is not revoked."""
        if identity.issued_ms is None or not self._found or not identity.key.revocable_tokens:
            return None
        targets = [f"channel:{name}" for name in identity.capability.resources]
        targets += [f"clientId:{identity.client_id}", f"revocationKey:{identity.revocation_key}"]
        found = [
            one
            for target in targets
            for one in self._found.get((identity.key.name, target), ())
            if identity.issued_ms < one.issued_before_ms
        ]
        return min(found, key=lambda one: one.applies_at_ms, default=None)

    def check(self, identity: Identity) -> None:
        """Refuse a token that is revoked.

        Raises:
            RefusedError: 40141.
        """
        revocation = self.of(identity)
        if revocation is not None and revocation.applies_at_ms <= self._now_ms():
            raise RefusedError(40141, "the token has been revoked")

    def _add(self, key: Key, target: Any, revocation: Revocation) -> dict[str, Any]:
        kind, colon, value = target.partition(":") if isinstance(target, str) else ("", "", "")
        error: RefusedError | None = None
        if not (colon and value and kind in _TYPES):
            error = FrameError("a target must be clientId:…, revocationKey:… or channel:…")
        elif self._count == _MOST_REVOCATIONS:
            error = RefusedError(42910, "too many revocations")
        if error is not None:
            return {"target": target, "error": error.as_wire()}
        self._found.setdefault((key.name, target), []).append(revocation)
        self._count += 1
        return {
            "target": target,
            "issuedBefore": revocation.issued_before_ms,
            "appliesAt": revocation.applies_at_ms,
        }

    def _expire(self, now_ms: int) -> None:
        """Remove revocations whose tokens have all expired."""
        oldest_ms = now_ms - LONGEST_REVOCABLE_MS
        for target, found in list(self._found.items()):
            kept = [one for one in found if one.issued_before_ms > oldest_ms]
            self._count -= len(found) - len(kept)
            if kept:
                self._found[target] = kept
            else:
                del self._found[target]

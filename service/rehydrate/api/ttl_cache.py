"""A bounded cache whose entries expire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from rehydrate.background import BoundedCache

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class TtlCache(Generic[T]):
    """A least-recently-used cache of values by digest, each with its own expiry time.

    Args:
        capacity: maximum number of entries.
        clock: the clock, in seconds, that the expiry times of `put` refer to.
    """

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: BoundedCache[bytes, tuple[T, float]] = BoundedCache(capacity)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> T | None:
        """Return the value of *key*, or None if it is missing or expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, expires_s = entry
        if expires_s <= self._clock():
            self._entries.pop(key)
            return None
        return value

    def put(self, key: bytes, value: T, expires_s: float) -> None:
        """Cache *value* by *key* until the clock shows *expires_s*."""
        self._entries[key] = (value, expires_s)

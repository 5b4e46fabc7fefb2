"""A bounded cache whose entries expire."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

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
        self._capacity = capacity
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[T, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> T | None:
        """Return the value of *key*, or None if it is missing or expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, expires_s = entry
        if expires_s <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: bytes, value: T, expires_s: float) -> None:
        """Cache *value* by *key* until the clock shows *expires_s*."""
        self._entries[key] = (value, expires_s)
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

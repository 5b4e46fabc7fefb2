"""What is known for a while: a bounded memory whose entries run out."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class TtlCache(Generic[T]):
    """At most *capacity* values by digest; the one unused for longest goes first.

    Args:
        capacity: how many are kept.
        clock: the time in seconds that the times of `keep` are by.
    """

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[T, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> T | None:
        """The value of *key*, unless its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until_s = entry
        if until_s <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def keep(self, key: bytes, value: T, until_s: float) -> None:
        """Know *value* by *key* until the clock shows *until_s*."""
        self._entries[key] = (value, until_s)
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

"""Limits of concurrency and memory: requests over a limit are refused, caches drop old entries.

A request over the limit of concurrency, or of the bytes of answers, is refused with 429; it does not
wait. A single owner, such as the bearer of a token, cannot use all of a limit, but a few together can.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from rehydrate.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator

K = TypeVar("K")
V = TypeVar("V")

_OWNERS, _FEWEST_PER_OWNER = 4, 16
"""The part of a limit that one owner may use, and the minimum of that in tasks."""

_SMALL_BYTES = 65_536
"""Shorter answers are not counted: the ASGI server accepts them at once."""


class TooMany(Unavailable):
    """A concurrency limit of the API was reached."""

    status = 429
    code = "too_many"
    title = "Too many requests"
    retry_after_s = 1


class ConcurrencyLimit:
    """A context manager for at most *limit* tasks at a time; beyond that, entering it raises.

    Args:
        limit: maximum number of tasks.
        what: plural name of the operation, for the error message.
        share: how many of them may belong to one owner; None: a quarter, or 16 if that is more.
        owner: a noun for an owner, for the error message.

    Attributes:
        count: how many tasks are in it.
    """

    def __init__(
        self, limit: int, what: str, *, share: int | None = None, owner: str = "token"
    ) -> None:
        self._limit = limit
        self._share = max(_FEWEST_PER_OWNER, limit // _OWNERS) if share is None else share
        self._owner = owner
        self._what = what
        self.count = 0
        self._by_owner: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Enter the block.

        Raises:
            TooMany: the limit is reached.
        """
        if self.count >= self._limit:
            raise TooMany(f"{self._limit} {self._what} are under way; retry later")
        self.count += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.count -= 1

    @contextmanager
    def of(self, owner: str | None) -> Iterator[None]:
        """Enter the block on behalf of *owner*, who may have a share of the limit; None: all of it.

        Raises:
            TooMany: the limit, or the owner's, is reached.
        """
        if owner is None:
            with self:
                yield
            return
        if self._by_owner[owner] >= self._share:
            raise TooMany(
                f"{self._share} {self._what} of this {self._owner} are under way; retry later"
            )
        self._by_owner[owner] += 1
        try:
            with self:
                yield
        finally:
            self._by_owner[owner] -= 1
            if not self._by_owner[owner]:
                del self._by_owner[owner]


class AnswerBytes:
    """Counts the bytes of the answers that are in memory, until their clients have accepted them.

    A slow client keeps an answer in memory for as long as it reads. So the total is limited, and so is
    the share of one owner. A single answer may always be longer than a limit.

    Args:
        limit: maximum number of bytes.

    Attributes:
        total: the number of bytes in memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.total = 0
        self._by_owner: Counter[str] = Counter()

    def claim(self, owner: str | None = None) -> Claim:
        """Return a claim of 0 bytes; *owner* may use a quarter of the limit, None all of it."""
        return Claim(self, owner)

    def change(self, owner: str | None, before: int, after: int) -> None:
        """Count *after* bytes of an answer instead of *before*.

        Raises:
            TooMany: the limit, or the owner's, would be exceeded; nothing has changed.
        """
        others = self.total - before
        if after > before and others and others + after > self._limit:
            raise TooMany("too many long answers are being sent; retry later")
        if owner is not None:
            of_owner = self._by_owner[owner] - before
            if after > before and of_owner and of_owner + after > self._limit // _OWNERS:
                raise TooMany("too many long answers of this token are being sent; retry later")
            self._by_owner[owner] = of_owner + after
            if not self._by_owner[owner]:
                del self._by_owner[owner]
        self.total = others + after


class Claim:
    """The bytes in memory that one answer uses. As a context manager it is released on errors."""

    __slots__ = ("_owner", "_size", "_sizes")

    def __init__(self, sizes: AnswerBytes, owner: str | None) -> None:
        self._sizes = sizes
        self._owner = owner
        self._size = 0

    def hold(self, size: int) -> None:
        """Claim *size* bytes, in place of the previous size.

        Raises:
            TooMany: too many bytes are in memory; the claim is as before.
        """
        size = size if size > _SMALL_BYTES else 0
        if size != self._size:
            self._sizes.change(self._owner, self._size, size)
            self._size = size

    def release(self) -> None:
        """Release all claimed bytes."""
        self.hold(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        if error_type is not None:
            self.release()


class BoundedCache(Generic[K, V]):
    """A dictionary of at most *capacity* entries; the least recently used one is dropped.

    Args:
        capacity: the number of entries, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __setitem__(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value of *key*, and count that as a use; None if it is absent."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def pop(self, key: K) -> V | None:
        """Remove *key* and return its value; None if it is absent."""
        return self._entries.pop(key, None)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()

    def items(self) -> ItemsView[K, V]:
        """Return a view of all entries, the least recently used first."""
        return self._entries.items()


def digest(token: str, *more: str) -> bytes:
    """Return the cache key of *token*; caches never store the token itself."""
    return hashlib.sha256("\0".join((token, *more)).encode()).digest()


class TtlCache(Generic[V]):
    """A least-recently-used cache of values by digest, each with its own expiry time.

    Args:
        capacity: maximum number of entries.
        clock: the clock, in seconds, that the expiry times of `put` refer to.
    """

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: BoundedCache[bytes, tuple[V, float]] = BoundedCache(capacity)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> V | None:
        """Return the value of *key*, or None if it is missing or expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, expires_s = entry
        if expires_s <= self._clock():
            self._entries.pop(key)
            return None
        return value

    def put(self, key: bytes, value: V, expires_s: float) -> None:
        """Cache *value* by *key* until the clock shows *expires_s*."""
        self._entries[key] = (value, expires_s)

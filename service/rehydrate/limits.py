"""Limits of concurrency and of memory. What is beyond a limit is refused with 429, and does not wait.

No one owner, such as the bearer of a token, can take all of a limit, but a few can.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from rehydrate.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWNERS, _FEWEST_PER_OWNER = 4, 16
"""The part of a limit that one owner may take, and how many tasks that are at least."""

_SMALL_BYTES = 65_536
"""Shorter answers are not counted: the server takes them from us at once."""


class TooMany(Unavailable):
    """A concurrency limit of the API was reached."""

    status = 429
    code = "too_many"
    title = "Too many requests"
    retry_after_s = 1


class ConcurrencyLimit:
    """A context manager that at most *limit* tasks may be in; it raises rather than waits.

    Args:
        limit: maximum number of tasks.
        what: plural name of the operation, for the error message.
        share: how many of them may be of one owner; None: a quarter, or 16 if that is more.
        owner: what an owner is, for the error message.

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

    A slow client keeps an answer in memory as long as it likes to read. So the sum is limited, and what one
    owner may take of it. One answer alone may always be longer than a limit.

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
        """Return a claim of nothing yet; *owner* may have a quarter of the limit, None all of it."""
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
    """What one answer takes of the bytes in memory. As a context manager it is released on errors."""

    __slots__ = ("_owner", "_size", "_sizes")

    def __init__(self, sizes: AnswerBytes, owner: str | None) -> None:
        self._sizes = sizes
        self._owner = owner
        self._size = 0

    def hold(self, size: int) -> None:
        """Claim *size* bytes instead of what was claimed before.

        Raises:
            TooMany: too many bytes are in memory; the claim is as before.
        """
        size = size if size > _SMALL_BYTES else 0
        if size != self._size:
            self._sizes.change(self._owner, self._size, size)
            self._size = size

    def release(self) -> None:
        """Claim nothing any more."""
        self.hold(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        if error_type is not None:
            self.release()

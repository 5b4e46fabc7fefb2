"""A limit of concurrent operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rehydrate.api.problems import TooMany

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class ConcurrencyLimit:
    """A context manager that at most *limit* tasks may be in; it raises rather than waits.

    Args:
        limit: maximum number of tasks.
        what: plural name of the operation, for the error message.
        on_change: called with the current number whenever it changes.
    """

    def __init__(
        self, limit: int, what: str, on_change: Callable[[int], None] | None = None
    ) -> None:
        self._limit = limit
        self._what = what
        self._on_change = on_change
        self._count = 0

    def __enter__(self) -> Self:
        """Enter the block.

        Raises:
            TooMany: the limit is reached.
        """
        if self._count >= self._limit:
            raise TooMany(f"{self._limit} {self._what} are under way; retry later")
        self._change(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._change(-1)

    def _change(self, by: int) -> None:
        self._count += by
        if self._on_change is not None:
            self._on_change(self._count)

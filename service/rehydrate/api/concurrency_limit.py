"""How much may be under way at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rehydrate.api.problems import TooMany

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class ConcurrencyLimit:
    """A block that at most *limit* may be in; one more is refused rather than kept waiting.

    Args:
        limit: how many.
        what: what is bounded, in the plural.
        tell: is told how many there are, whenever that changes.
    """

    def __init__(self, limit: int, what: str, tell: Callable[[int], None] | None = None) -> None:
        self._limit = limit
        self._what = what
        self._tell = tell
        self._count = 0

    def __enter__(self) -> Self:
        """Enter.

        Raises:
            TooMany: *limit* are in it.
        """
        if self._count >= self._limit:
            raise TooMany(f"{self._limit} {self._what} are under way; try again")
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
        if self._tell is not None:
            self._tell(self._count)

"""Lifespan: open the parts of a process in order, and close them in reverse."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


class Part(NamedTuple):
    """One part. ``open``: begins it; may return something to await. ``close``: ends it."""

    open: Callable[[], Awaitable[None] | None]
    close: Callable[[], Awaitable[None]]


class Lifespan:
    """Opens *parts* together and closes them together, any number of times, one call at a time.

    Args:
        parts: in the order of opening.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._turn = asyncio.Lock()
        self._opened: AsyncExitStack | None = None

    async def open(self) -> None:
        """Open all parts; opening open ones changes nothing.

        If one fails, or the call is cancelled, the parts that were opened are closed.
        """
        async with self._turn:
            if self._opened is not None:
                return
            async with AsyncExitStack() as opened:
                for part in self._parts:
                    opened.push_async_callback(part.close)
                    opening = part.open()
                    if inspect.isawaitable(opening):
                        await opening
                self._opened = opened.pop_all()

    async def close(self) -> None:
        """Close all parts, each even if another one fails; without effect unless they are open."""
        async with self._turn:
            opened, self._opened = self._opened, None
            if opened is not None:
                await opened.aclose()

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
        self._loop: asyncio.AbstractEventLoop | None = None

    def check_loop(self) -> None:
        """Check that the parts are not open in a different event loop from the running one.

        Connections and tasks belong to a loop. In another loop they would fail later, with errors
        that do not name the cause.

        Raises:
            RuntimeError: they were opened in another loop.
        """
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            ended = "that has ended" if self._loop.is_closed() else "that still runs"
            raise RuntimeError(
                f"this History was opened in another event loop, {ended}: close it in the loop that"
                " opened it, and create a History for each loop"
            )

    async def open(self) -> None:
        """Open all parts; opening open ones changes nothing.

        If one fails, or the call is cancelled, the parts that were opened are closed.

        Raises:
            RuntimeError: they are open in another event loop.
        """
        self.check_loop()
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
                self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Close all parts, each even if another one fails; without effect unless they are open.

        Raises:
            RuntimeError: they are open in another event loop.
        """
        self.check_loop()
        async with self._turn:
            opened, self._opened, self._loop = self._opened, None, None
            if opened is not None:
                await opened.aclose()

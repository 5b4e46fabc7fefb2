"""Any stream of a vendor's events, pulled one event at a time.

It may be a stream of the ``openai`` package (sync or async), any iterable or async iterable of its
events or of dicts, or raw server-sent events: ``bytes``, chunks of them, or an HTTP response. No
task and no thread runs in the background: a thread is lent for the length of one pull, and only
where a sync source that may block is read by ``async for``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rehydrate.providers.idle_limit import IdleLimit
from rehydrate.providers.sse import SseDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSE_TIMEOUT_S = 5.0
"""How long closing a connection may take before it is left to itself."""

DRAIN_TIMEOUT_S = 0.25
_DRAIN_ITEMS = 16
_END = object()
_BYTES = (bytes, bytearray, memoryview)


class Exhausted(Exception):
    """The source has no more events."""


class VendorSource:
    """Reads one source.

    Args:
        origin: what is read, as above.
        wrap: makes an event of the name and the JSON of a server-sent event.
        idle_timeout_s: how long an async pull waits for the next event; sync pulls rely on the
            time limits of the vendor's client.
    """

    def __init__(
        self, origin: Any, *, wrap: Callable[[str, Any], Any], idle_timeout_s: float
    ) -> None:
        self._origin = origin
        self._wrap = wrap
        self._limit = IdleLimit(idle_timeout_s)
        iterator = _iterator_of(origin)
        self._now = iterator if isinstance(iterator, Iterator) else None
        self._later = None if isinstance(iterator, Iterator) else iterator
        self._in_memory = isinstance(origin, Collection)
        self._lent: asyncio.Future[Any] | None = None
        self._decoder = SseDecoder()
        self._ready: deque[Any] = deque()
        self._done = False
        self._closed = False

    @property
    def is_sync(self) -> bool:
        """Whether `pull_now` works."""
        return self._now is not None

    def pull_now(self) -> Any:
        """The next event of a sync source.

        Raises:
            Exhausted: there is none.
            TypeError: the source is async.
        """
        if self._now is None:
            raise TypeError("this stream is async: read it with `async for`")
        while not self._ready and not self._done:
            self._accept(next(self._now, _END))
        return self._next_ready()

    async def pull(self) -> Any:
        """The next event.

        Raises:
            Exhausted: there is none.
            TimeoutError: nothing came for `idle_timeout_s`.
        """
        while not self._ready and not self._done:
            if self._later is not None:
                try:
                    item = await self._limit.wait(self._later.__anext__())
                except StopAsyncIteration:
                    item = _END
                else:
                    if not isinstance(item, _BYTES):
                        return item  # most of all that ever comes
                self._accept(item)
            elif self._now is not None and self._in_memory:
                self._accept(next(self._now, _END))
            elif self._now is not None:
                self._accept(await self._pull_in_thread(self._now))
        return self._next_ready()

    async def drain(self) -> None:
        """Read the little that may follow the last event, so that the connection can be reused."""
        if self.is_sync:
            return
        with suppress(Exception):  # nobody waits for what comes here; closing follows
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                for _ in range(_DRAIN_ITEMS):
                    await self.pull()

    def close(self) -> None:
        """Close a sync source, and its connection."""
        self._limit.close()
        if self._closed:
            return
        self._closed = True
        close = getattr(self._origin, "close", None)
        if close is not None and self._lent is not None and inspect.isgenerator(self._origin):
            self._lent.add_done_callback(lambda _: close())  # a running generator cannot be closed
        elif close is not None:
            close()

    async def aclose(self) -> None:
        """Close the source, and its connection, within `CLOSE_TIMEOUT_S`."""
        if self.is_sync:
            self.close()
            return
        if self._closed:
            return
        self._closed = True
        self._limit.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for close in _closers(self._later, self._origin):
                    closing = close()
                    if inspect.isawaitable(closing):
                        await closing

    def _next_ready(self) -> Any:
        if not self._ready:
            raise Exhausted
        item = self._ready.popleft()
        if isinstance(item, Exception):
            raise item
        return item

    def _accept(self, item: Any) -> None:
        if item is _END:
            self._done = True
        elif isinstance(item, _BYTES):
            self._decode(bytes(item))
        else:
            self._ready.append(item)

    def _decode(self, chunk: bytes) -> None:
        for event in self._decoder.feed(chunk):
            if event.is_done:
                self._done = True
                return
            try:
                self._ready.append(self._wrap(event.event, json.loads(event.data)))
            except (json.JSONDecodeError, RecursionError) as error:
                self._ready.append(error)  # in its place: what came before it is read first

    async def _pull_in_thread(self, iterator: Iterator[Any]) -> Any:
        self._lent = asyncio.get_running_loop().run_in_executor(None, next, iterator, _END)
        self._lent.add_done_callback(_retrieve)
        # not cancelled: a thread ends by itself, or with its socket
        item = await self._limit.wait(asyncio.shield(self._lent))
        self._lent = None
        return item


def _iterator_of(origin: Any) -> Iterator[Any] | AsyncIterator[Any]:
    if isinstance(origin, bytes | bytearray | memoryview):
        return iter([bytes(origin)])
    for name in ("aiter_bytes", "iter_bytes"):  # an HTTP response
        if (chunks := getattr(origin, name, None)) is not None:
            origin = chunks()
            break
    if isinstance(origin, dict | str):
        raise TypeError(f"a {type(origin).__name__} is no stream of events")
    if isinstance(origin, Iterator | AsyncIterator):
        return origin
    found: Iterator[Any] | AsyncIterator[Any]
    found = aiter(origin) if hasattr(origin, "__aiter__") else iter(origin)
    return found


def _closers(*of: Any) -> Iterator[Callable[[], Any]]:
    """How to close each of *of*; what iterates itself is closed once."""
    seen: list[Any] = []
    for thing in of:
        close = getattr(thing, "aclose", None) or getattr(thing, "close", None)
        if close is not None and not any(thing is other for other in seen):
            seen.append(thing)
            yield close


def _retrieve(lent: asyncio.Future[Any]) -> None:
    if not lent.cancelled():
        lent.exception()  # looked at, so that it is not reported as lost

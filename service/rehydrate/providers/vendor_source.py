"""Pull a vendor's events, one at a time, from any kind of source.

A source is a stream of the ``openai`` package (sync or async), any iterable or async iterable of
its events or of dicts, or raw server-sent events: ``bytes``, chunks of them, or an HTTP response.
Nothing runs in the background. A thread is used only while a sync source that may block is pulled
from async code.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from rehydrate.providers.blocking_calls import blocking_calls
from rehydrate.providers.failures import StreamUnreadable
from rehydrate.providers.idle_limit import IdleLimit
from rehydrate.providers.sse import SseDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSE_TIMEOUT_S = 5.0
"""How long closing a connection may take before it is abandoned."""

DRAIN_TIMEOUT_S = 0.25
_DRAIN_ITEMS = 16
_HEAD_BYTES_MAX = 65_536
_END = object()
_BYTES = (bytes, bytearray, memoryview)


class Exhausted(Exception):
    """The source has no more events."""


class VendorSource:
    """Pulls events from one source.

    Args:
        origin: the source, as described above.
        wrap: builds an event from the name and the JSON of a server-sent event.
        idle_timeout_s: how long an async pull waits for the next event, in seconds; sync pulls
            rely on the timeouts of the vendor's client.
    """

    def __init__(
        self, origin: Any, *, wrap: Callable[[str, Any], Any], idle_timeout_s: float
    ) -> None:
        self._origin = origin
        self._wrap = wrap
        self._limit = IdleLimit(idle_timeout_s)
        iterator = _iterator_of(origin)
        self._sync_iterator = iterator if isinstance(iterator, Iterator) else None
        self._async_iterator = None if isinstance(iterator, Iterator) else iterator
        self._in_memory = isinstance(origin, Collection)
        self._pending_pull: asyncio.Future[Any] | None = None
        self._decoder = SseDecoder()
        self._ready: deque[Any] = deque()
        self._head: bytes | None = b""
        self._done = False
        self._closed = False

    @property
    def is_sync(self) -> bool:
        """True if the source is sync, so that `pull_now` can be used."""
        return self._sync_iterator is not None

    def pull_now(self) -> Any:
        """Return the next event of a sync source.

        Raises:
            Exhausted: there are no more events.
            TypeError: the source is async.
        """
        if self._sync_iterator is None:
            raise TypeError("this stream is async: read it with `async for`")
        while not self._ready and not self._done:
            self._accept(next(self._sync_iterator, _END))
        return self._next_ready()

    async def pull(self) -> Any:
        """Return the next event.

        Raises:
            Exhausted: there are no more events.
            TimeoutError: no event arrived for *idle_timeout_s*.
        """
        while not self._ready and not self._done:
            if self._async_iterator is not None:
                try:
                    item = await self._limit.wait(self._async_iterator.__anext__())
                except StopAsyncIteration:
                    item = _END
                else:
                    if not isinstance(item, _BYTES):
                        return item  # the most frequent case
                self._accept(item)
            elif self._sync_iterator is not None and self._in_memory:
                self._accept(next(self._sync_iterator, _END))
            elif self._sync_iterator is not None:
                self._accept(await self._pull_in_thread(self._sync_iterator))
        return self._next_ready()

    async def drain(self) -> list[Any]:
        """Read and return what may follow the last event, so that the connection can be reused."""
        late: list[Any] = []
        with suppress(Exception):  # best effort; the source is closed next
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                for _ in range(
                    _DRAIN_ITEMS if self._sync_iterator is None or self._in_memory else 0
                ):
                    late.append(await self.pull())  # noqa: PERF401 - what was read before a failure counts
        return late

    def close(self) -> None:
        """Close a sync source and its connection."""
        self._limit.close()
        if self._closed:
            return
        self._closed = True
        close = getattr(self._origin, "close", None)
        if (
            close is not None
            and self._pending_pull is not None
            and inspect.isgenerator(self._origin)
        ):
            self._pending_pull.add_done_callback(
                lambda _: close()
            )  # a running generator cannot be closed
        elif close is not None:
            close()

    async def aclose(self) -> None:
        """Close the source and its connection, within `CLOSE_TIMEOUT_S`."""
        if self.is_sync:
            self.close()
            return
        if self._closed:
            return
        self._closed = True
        self._limit.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for close in _close_methods(self._async_iterator, self._origin):
                    closing = close()
                    if inspect.isawaitable(closing):
                        await closing

    def _next_ready(self) -> Any:
        if not self._ready:
            raise Exhausted
        return self._ready.popleft()

    def _accept(self, item: Any) -> None:
        if item is _END:
            self._accept_end()
        elif isinstance(item, _BYTES):
            self._decode(bytes(item))
        else:
            self._ready.append(item)

    def _decode(self, chunk: bytes) -> None:
        for event in self._decoder.feed(chunk):
            self._head = None
            if event.is_done:
                self._done = True
                return
            self._accept_json(event.event, event.data)
        if self._head is not None and len(self._head) < _HEAD_BYTES_MAX:
            self._head += chunk

    def _accept_json(self, name: str, data: str) -> None:
        """Accept the data of a server-sent event; data that is not JSON is passed on as an error."""
        if not data.strip():
            return  # some servers send empty events to keep a connection open
        try:
            self._ready.append(self._wrap(name, json.loads(data)))
        except (ValueError, RecursionError) as error:
            self._ready.append(StreamUnreadable("malformed_event", str(error)[:200]))

    def _accept_end(self) -> None:
        """Accept the end; a body without any event may be an error as plain JSON."""
        self._done = True
        head = (self._head or b"").lstrip(b"\xef\xbb\xbf \r\n")
        if head.startswith(b"{"):
            self._accept_json("error", head.decode("utf-8", "replace"))

    async def _pull_in_thread(self, iterator: Iterator[Any]) -> Any:
        self._pending_pull = blocking_calls().start(partial(next, iterator, _END))
        try:
            item = await self._limit.wait(asyncio.shield(self._pending_pull))
        except (asyncio.CancelledError, TimeoutError):
            # a thread cannot be cancelled: it ends by itself, or with its socket
            blocking_calls().abandon(self._pending_pull)
            raise
        self._pending_pull = None
        return item


def _iterator_of(origin: Any) -> Iterator[Any] | AsyncIterator[Any]:
    if isinstance(origin, bytes | bytearray | memoryview):
        return iter([bytes(origin)])
    origin = _body_of(getattr(origin, "response", None)) or _body_of(origin) or origin
    if isinstance(origin, dict | str):
        raise TypeError(f"a {type(origin).__name__} is not a stream of events")
    if isinstance(origin, Iterator | AsyncIterator):
        return origin
    found: Iterator[Any] | AsyncIterator[Any]
    found = aiter(origin) if hasattr(origin, "__aiter__") else iter(origin)
    return found


def _body_of(response: Any) -> Any:
    """Return the chunks of an HTTP response that is not read yet, or None if it is not one.

    The streams of the vendors' packages contain one. The packages' own decoders would end the answer
    at an event without data, or with data that is not JSON.
    """
    stream = getattr(response, "stream", None)
    blocking = stream is not None and not hasattr(stream, "__aiter__")
    for name in ("iter_bytes",) if blocking else ("aiter_bytes", "iter_bytes"):
        chunks = getattr(response, name, None)
        if chunks is not None and not getattr(response, "is_stream_consumed", False):
            return chunks()
    return None


def _close_methods(*of: Any) -> Iterator[Callable[[], Any]]:
    """Yield the close methods of the given objects; the same object is closed once."""
    seen: list[Any] = []
    for thing in of:
        close = getattr(thing, "aclose", None) or getattr(thing, "close", None)
        if close is not None and not any(thing is other for other in seen):
            seen.append(thing)
            yield close

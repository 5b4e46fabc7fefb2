"""A model's stream, to be read as typed events, as text, as a text file, or into a response.

After the end, `stream.error` is the cause if the answer did not complete; the text-only readers
raise it after the last text. Nothing runs in the background: the stream is read only as fast as
its consumer reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from rehydrate.providers.text_reader import AsyncTextReader, TextReader
from rehydrate.providers.vendor_calls import is_own_cancellation
from rehydrate.providers.vendor_events import Ended, TextDelta, VendorEvent
from rehydrate.providers.vendor_source import Exhausted, VendorSource

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Iterator

    from rehydrate.providers.failures import ProviderError
    from rehydrate.providers.interpreting import Events, Interpreter
    from rehydrate.providers.vendor_events import Sink

IDLE_TIMEOUT_S = 600.0
"""How long a stream may be silent: a reasoning model may send nothing for minutes."""


class VendorStream:
    """The base of the streams of the vendors' APIs. Read it once, in one of the ways.

    It is a context manager (sync and async) that closes the connection. The end of the stream
    closes it too.
    """

    def __init__(self, source: Any, interpreter: Interpreter, *, idle_timeout_s: float) -> None:
        self._interpreter = interpreter
        self._idle_timeout_s = idle_timeout_s
        self._source = VendorSource(source, wrap=self._wrap, idle_timeout_s=idle_timeout_s)
        self._ready: deque[VendorEvent] = deque()

    @staticmethod
    def _wrap(name: str, data: Any) -> Any:
        """Build the vendor's event from the name and the JSON of a server-sent event."""
        raise NotImplementedError

    @property
    def end(self) -> Ended | None:
        """The last event, or None before it."""
        return self._interpreter.end

    @property
    def error(self) -> ProviderError | None:
        """The cause if the answer did not complete; None before the end, and if it completed."""
        return None if self.end is None else self.end.error

    @property
    def sequence_number(self) -> int | None:
        """The vendor's number of the last event that was read; None if it has no usable numbers."""
        return self._interpreter.sequence_number if self._interpreter.numbered else None

    @property
    def unknown(self) -> Counter[str]:
        """How often each unknown type of event occurred."""
        return self._interpreter.unknown

    @property
    def amended(self) -> bool:
        """True if an event was irregular or final text differs; `Ended.parts` is correct."""
        return self._interpreter.amended

    def resume(self, source: Any) -> None:
        """Continue with another stream of the same answer; repeated events are dropped."""
        self._interpreter.resume()
        self._source = VendorSource(source, wrap=self._wrap, idle_timeout_s=self._idle_timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def aclose(self) -> None:
        """Close the stream and its connection."""
        await self._source.aclose()

    def close(self) -> None:
        """Close a stream over a sync source, and its connection."""
        self._source.close()

    def __aiter__(self) -> AsyncIterator[VendorEvent]:
        return self

    async def __anext__(self) -> VendorEvent:
        while not self._ready:
            if self.end is not None:
                raise StopAsyncIteration
            self._ready.extend(await self._more())
        return self._ready.popleft()

    def __iter__(self) -> Iterator[VendorEvent]:
        return self

    def __next__(self) -> VendorEvent:
        while not self._ready:
            if self.end is not None:
                raise StopIteration
            self._ready.extend(self._more_now())
        return self._ready.popleft()

    async def text(self) -> AsyncIterator[str]:
        """Yield only the text deltas of the answer.

        Raises:
            ProviderError: after the last of them, if the answer did not end as ``completed``.
        """
        async for event in self:
            if isinstance(event, TextDelta):
                yield event.text
        if self.error is not None:
            raise self.error

    def text_now(self) -> Iterator[str]:
        """Yield only the text deltas of the answer, from a sync source.

        Raises:
            ProviderError: after the last of them, if the answer did not end as ``completed``.
        """
        for event in self:
            if isinstance(event, TextDelta):
                yield event.text
        if self.error is not None:
            raise self.error

    def reader(self) -> TextReader:
        """Return the text of a sync source as a file; closing it closes the stream."""
        return TextReader(self.text_now(), self.close)

    def async_reader(self) -> AsyncTextReader:
        """Return the text as an async file; closing it closes the stream."""
        return AsyncTextReader(self.text(), self.aclose)

    async def into(self, sink: Sink) -> Ended:
        """Write the whole stream into *sink*, including its end; return the last event.

        A failure of the vendor ends the response and is not raised. An exception of *sink*, or
        cancellation, closes the stream and propagates.
        """
        try:
            while self._ready:
                self._ready.popleft().write_to(sink)
            interpreter = self._interpreter
            while interpreter.end is None:
                for event in await self._more():
                    event.write_to(sink)
            return interpreter.end
        finally:
            await self.aclose()

    async def _more(self) -> Events:
        try:
            raw = await self._source.pull()
        except Exhausted:
            events = self._interpreter.break_off()
        except BaseException as error:
            if is_own_cancellation(error):
                raise asyncio.CancelledError from error
            events = self._interpreter.fail(error)
        else:
            events = self._interpreter.read(raw)
        if self._interpreter.end is not None:
            end = self._interpreter.followed_by(await self._source.drain())
            events = [end if isinstance(event, Ended) and end else event for event in events]
            await self._source.aclose()
        return events

    def _more_now(self) -> Events:
        if not self._source.is_sync:
            raise TypeError("this stream is async: read it with `async for`")
        try:
            raw = self._source.pull_now()
        except Exhausted:
            events = self._interpreter.break_off()
        except Exception as error:  # noqa: BLE001 - any error of a source ends the answer
            events = self._interpreter.fail(error)
        else:
            events = self._interpreter.read(raw)
        if self.end is not None:
            self._source.close()
        return events

"""A model's stream, read like a scanner: typed events, text only, a file of text, or into a response.

`stream.error` says after the end why it was not a good one; where only text is seen, it is raised
after the last of it. Nothing runs in the background: the stream is read as fast as its reader reads.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Self

from rehydrate.providers.text_reader import AsyncTextReader, TextReader
from rehydrate.providers.vendor_events import Ended, TextDelta, VendorEvent
from rehydrate.providers.vendor_source import Exhausted, VendorSource

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from rehydrate.providers.failures import ProviderError
    from rehydrate.providers.interpreting import Events, Interpreter
    from rehydrate.providers.vendor_events import Sink

IDLE_TIMEOUT_S = 600.0
"""How long a stream may say nothing: a reasoning model may be silent for minutes."""


class VendorStream:
    """One stream of one vendor; subclasses know which. Read it once, in one way.

    A context manager (sync and async) that closes the connection; so does the end of the stream.
    """

    def __init__(self, source: Any, interpreter: Interpreter, *, idle_timeout_s: float) -> None:
        self._interpreter = interpreter
        self._idle_timeout_s = idle_timeout_s
        self._source = VendorSource(source, wrap=self._wrap, idle_timeout_s=idle_timeout_s)
        self._ready: deque[VendorEvent] = deque()

    @staticmethod
    def _wrap(name: str, data: Any) -> Any:
        """The vendor's event that a server-sent event is."""
        raise NotImplementedError

    @property
    def end(self) -> Ended | None:
        """The last event, once it is known."""
        return self._interpreter.end

    @property
    def error(self) -> ProviderError | None:
        """Why the answer did not end as ``completed``; None before the end, and after a good one."""
        return None if self.end is None else self.end.error

    @property
    def sequence_number(self) -> int | None:
        """The vendor's number of the last event that was taken."""
        return self._interpreter.sequence_number

    @property
    def unknown(self) -> Counter[str]:
        """How often each type of event came that this version does not know."""
        return self._interpreter.unknown

    @property
    def amended(self) -> bool:
        """Whether the vendor's final text is another than its deltas; `Ended.parts` is right."""
        return self._interpreter.amended

    def resume(self, source: Any) -> None:
        """Go on with another stream of the same answer; what it repeats is dropped."""
        self._interpreter.resume()
        self._source = VendorSource(source, wrap=self._wrap, idle_timeout_s=self._idle_timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Close the stream, and its connection."""
        await self._source.aclose()

    def close(self) -> None:
        """Close a stream that was made from a sync source, and its connection."""
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
        """The text deltas of the answer, and nothing else.

        Raises:
            ProviderError: after the last of them, if the answer did not end as ``completed``.
        """
        async for event in self:
            if isinstance(event, TextDelta):
                yield event.text
        if self.error is not None:
            raise self.error

    def text_now(self) -> Iterator[str]:
        """As `text`, of a sync source.

        Raises:
            ProviderError: as `text`.
        """
        for event in self:
            if isinstance(event, TextDelta):
                yield event.text
        if self.error is not None:
            raise self.error

    def reader(self) -> TextReader:
        """The text as a file (`io.TextIOBase`), of a sync source; closing it closes the stream."""
        return TextReader(self.text_now(), self.close)

    def async_reader(self) -> AsyncTextReader:
        """The text as an async file; closing it closes the stream."""
        return AsyncTextReader(self.text(), self.aclose)

    async def into(self, sink: Sink) -> Ended:
        """Write everything into *sink*, with its end; return the last event.

        A bad end is told, not raised. What *sink* raises, and cancellation, close the stream.
        """
        try:
            while self._ready:
                self._ready.popleft().say(sink)
            interpreter = self._interpreter
            while interpreter.end is None:
                for event in await self._more():
                    event.say(sink)
            return interpreter.end
        finally:
            await self.aclose()

    async def _more(self) -> Events:
        try:
            raw = await self._source.pull()
        except Exhausted:
            events = self._interpreter.break_off()
        except Exception as error:  # noqa: BLE001 - whatever a source raises ends the answer, told
            events = self._interpreter.fail(error)
        else:
            events = self._interpreter.read(raw)
        if self._interpreter.end is not None:
            await self._source.drain()
            await self._source.aclose()
        return events

    def _more_now(self) -> Events:
        if not self._source.is_sync:
            raise TypeError("this stream is async: read it with `async for`")
        try:
            raw = self._source.pull_now()
        except Exhausted:
            events = self._interpreter.break_off()
        except Exception as error:  # noqa: BLE001 - as above
            events = self._interpreter.fail(error)
        else:
            events = self._interpreter.read(raw)
        if self.end is not None:
            self._source.close()
        return events

"""A stream of text as a file: sync (`io.TextIOBase`) and async.

A read gives what there is as soon as there is something, so text shows up at a model's pace; an
empty text is the end. What the stream raises comes after the last of its text.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType


class _Held:
    """Text that came and was not read yet: the rest of a delta, or the beginning of a line."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.has_line = False

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def put(self, text: str) -> None:
        """Take *text* in."""
        if text:
            self._pieces.append(text)
            self.has_line = self.has_line or "\n" in text

    def take(self, size: int) -> str:
        """At most *size* characters; all for a negative *size*."""
        text = "".join(self._pieces)
        taken = text if size < 0 else text[:size]
        self._keep(text[len(taken) :])
        return taken

    def take_line(self, size: int) -> str:
        """Up to the end of the first line, at most *size* characters if that is not negative."""
        text = "".join(self._pieces)
        end = text.find("\n") + 1 or len(text)
        taken = text[: end if size < 0 else min(size, end)]
        self._keep(text[len(taken) :])
        return taken

    def _keep(self, text: str) -> None:
        self._pieces = [text] if text else []
        self.has_line = "\n" in text


class TextReader(io.TextIOBase):
    """Reads *deltas*; *close* is called once.

    Reading raises what *deltas* raises, after the last of its text (`read()` without a size, which
    asks for all or nothing, at once).
    """

    def __init__(self, deltas: Iterator[str], close: Callable[[], None]) -> None:
        super().__init__()
        self._deltas = deltas
        self._close = close
        self._held = _Held()
        self._error: Exception | None = None
        self._ended = False

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int | None = -1, /) -> str:
        """At most *size* characters, and at least one before the end; all for None or -1."""
        self._check_open()
        everything = size is None or size < 0
        while (everything or not self._held) and size != 0 and self._more():
            pass
        if self._error is not None and (everything or (not self._held and size)):
            raise self._error
        return self._held.take(-1 if size is None else size)

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override] # typeshed leaves None out
        """Up to and with the next line feed, at most *size* characters."""
        self._check_open()
        while size != 0 and not self._held.has_line and self._more():
            pass
        if self._error is not None and not self._held and size != 0:
            raise self._error
        return self._held.take_line(-1 if size is None else size)

    def close(self) -> None:
        """Close the stream, and its connection."""
        if not self.closed:
            super().close()
            self._close()

    def _more(self) -> bool:
        if self._ended:
            return False
        try:
            self._held.put(next(self._deltas))
        except StopIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - raised by the read that finds no more text
            self._ended, self._error = True, error
        return not self._ended

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


class AsyncTextReader:
    """As `TextReader`, with awaited reads; iterates over lines."""

    def __init__(self, deltas: AsyncIterator[str], close: Callable[[], Awaitable[None]]) -> None:
        self._deltas = deltas
        self._close = close
        self._held = _Held()
        self._error: Exception | None = None
        self._ended = False
        self.closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def read(self, size: int = -1, /) -> str:
        """At most *size* characters, and at least one before the end; all for -1."""
        self._check_open()
        while (size < 0 or not self._held) and size != 0 and await self._more():
            pass
        if self._error is not None and (size < 0 or (not self._held and size)):
            raise self._error
        return self._held.take(size)

    async def readline(self) -> str:
        """Up to and with the next line feed."""
        self._check_open()
        while not self._held.has_line and await self._more():
            pass
        if self._error is not None and not self._held:
            raise self._error
        return self._held.take_line(-1)

    async def close(self) -> None:
        """Close the stream, and its connection."""
        if not self.closed:
            self.closed = True
            await self._close()

    async def _more(self) -> bool:
        if self._ended:
            return False
        try:
            self._held.put(await anext(self._deltas))
        except StopAsyncIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - raised by the read that finds no more text
            self._ended, self._error = True, error
        return not self._ended

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

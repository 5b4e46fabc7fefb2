"""Read a stream of text deltas as a file: sync (`io.TextIOBase`) or async.

A read returns as soon as there is some text, so text appears at the model's pace. An empty string
is the end. An exception of the stream is raised after the last of its text.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class _Buffer:
    """Text that was received but not read: the rest of a delta, or the beginning of a line.

    What was read is skipped by an index, and text is searched for a line feed once: the cost of
    all reads is proportional to the text, however small the reads are.
    """

    def __init__(self) -> None:
        self._text = ""
        self._read = 0  # characters of `_text` that were read
        self._searched = 0  # there is no line feed from `_read` to here
        self._fragments: list[str] = []  # follow `_text`
        self.has_line = False

    def __bool__(self) -> bool:
        return self._read < len(self._text) or bool(self._fragments)

    def append(self, text: str) -> None:
        """Append *text*."""
        if text:
            self._fragments.append(text)
            self.has_line = self.has_line or "\n" in text

    def read(self, size: int) -> str:
        """Return at most *size* characters; all for a negative *size*."""
        self._join()
        return self._take(len(self._text) if size < 0 else self._read + size)

    def read_line(self, size: int) -> str:
        """Return the first line, at most *size* characters of it if that is not negative."""
        self._join()
        end = self._find_line() or len(self._text)
        return self._take(end if size < 0 else min(self._read + size, end))

    def _join(self) -> None:
        if self._fragments:
            self._text = "".join([self._text[self._read :], *self._fragments])
            self._searched -= self._read
            self._read = 0
            self._fragments = []

    def _take(self, end: int) -> str:
        taken = self._text[self._read : end]
        self._read += len(taken)
        self.has_line = self._find_line() > 0
        return taken

    def _find_line(self) -> int:
        """Return the index after the next line feed, or 0."""
        at = self._text.find("\n", max(self._read, self._searched))
        self._searched = len(self._text) if at < 0 else at
        return at + 1


class TextReader(io.TextIOBase):
    """A text file over a stream of deltas.

    An exception of *deltas* is raised by the read after the last text; `read()` without a size
    raises it at once.

    Args:
        deltas: the texts, in order.
        close: called once, when the file is closed.
    """

    def __init__(self, deltas: Iterator[str], close: Callable[[], None]) -> None:
        super().__init__()
        self._deltas = deltas
        self._close = close
        self._buffer = _Buffer()
        self._error: Exception | None = None
        self._ended = False

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def read(self, size: int | None = -1, /) -> str:
        """Return up to *size* characters, at least one before the end; all for None or -1."""
        self._check_open()
        everything = size is None or size < 0
        while (everything or not self._buffer) and size != 0 and self._more():
            pass
        if self._error is not None and (everything or (not self._buffer and size)):
            raise self._error
        return self._buffer.read(-1 if size is None else size)

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override] # typeshed leaves None out
        """Return text up to and including the next line feed, at most *size* characters."""
        self._check_open()
        while size != 0 and not self._buffer.has_line and self._more():
            pass
        if self._error is not None and not self._buffer and size != 0:
            raise self._error
        return self._buffer.read_line(-1 if size is None else size)

    def close(self) -> None:
        """Close the stream and its connection."""
        if not self.closed:
            super().close()
            self._close()

    def _more(self) -> bool:
        if self._ended:
            return False
        try:
            self._buffer.append(next(self._deltas))
        except StopIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - raised by the read that finds no more text
            self._ended, self._error = True, error
        return not self._ended

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


class AsyncTextReader:
    """The async form of `TextReader`; iterates over lines."""

    def __init__(self, deltas: AsyncIterator[str], close: Callable[[], Awaitable[None]]) -> None:
        self._deltas = deltas
        self._close = close
        self._buffer = _Buffer()
        self._error: Exception | None = None
        self._ended = False
        self.closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def read(self, size: int = -1, /) -> str:
        """Return up to *size* characters, at least one before the end; all for -1."""
        self._check_open()
        while (size < 0 or not self._buffer) and size != 0 and await self._more():
            pass
        if self._error is not None and (size < 0 or (not self._buffer and size)):
            raise self._error
        return self._buffer.read(size)

    async def readline(self) -> str:
        """Return text up to and including the next line feed."""
        self._check_open()
        while not self._buffer.has_line and await self._more():
            pass
        if self._error is not None and not self._buffer:
            raise self._error
        return self._buffer.read_line(-1)

    async def close(self) -> None:
        """Close the stream and its connection."""
        if not self.closed:
            self.closed = True
            await self._close()

    async def _more(self) -> bool:
        if self._ended:
            return False
        try:
            self._buffer.append(await anext(self._deltas))
        except StopAsyncIteration:
            self._ended = True
        except Exception as error:  # noqa: BLE001 - raised by the read that finds no more text
            self._ended, self._error = True, error
        return not self._ended

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

"""Standard output of the commands: control characters are escaped, and a closed reader is an end.

Texts, ids and error details come from other people. A terminal executes control sequences in what
it is sent: they change its title, clear it, or write over what was printed before. So no control
character is written except line feed and tab.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

_ESCAPES = {
    code: f"\\u{code:04x}"  # as in JSON, whose text has such a character only within strings
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}


class NotWritten(Exception):
    """Standard output does not accept more: its reader has closed it, or its disk is full.

    Attributes:
        is_fault: False if the reader closed the pipe, as ``| head`` does.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output ({error.strerror or error})")
        self.is_fault = error.errno != errno.EPIPE


def printable(text: str) -> str:
    r"""Return *text* with each control character except line feed and tab as ``\u001b``."""
    return text.translate(_ESCAPES)


class PrintableOutput(io.TextIOBase):
    """A text stream that escapes control characters.

    Args:
        out: the stream to write to.

    Attributes:
        writing: True while a write or a flush waits for the reader.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.writing = False

    def write(self, text: str) -> int:
        """Write *text*, escaped.

        Raises:
            NotWritten: the stream does not accept more.
        """
        with self._waiting():
            self._out.write(printable(text))
        return len(text)

    def flush(self) -> None:
        """Hand everything written to the system.

        Raises:
            NotWritten: the stream does not accept more.
        """
        with self._waiting():
            self._out.flush()

    def writable(self) -> bool:
        """Return True: the stream can be written."""
        return True

    def isatty(self) -> bool:
        """Return True if the stream is a terminal."""
        return self._out.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._out.fileno()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self.writing = True
        try:
            yield
        except OSError as error:
            self._discard()
            raise NotWritten(error) from None
        except NotWritten:  # by a signal handler
            self._discard()
            raise
        finally:
            self.writing = False

    def _discard(self) -> None:
        """Connect the stream to the null device, or the interpreter's flush at exit would fail."""
        with contextlib.suppress(OSError):  # a stream of a test may have no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())


def open_standard_streams() -> None:
    """Connect closed standard streams to the null device, and make the open ones blocking.

    A closed descriptor would be given to the next file or socket, to which output would be written
    then; uvloop aborts the process if one of its own has such a number. A program that shares the
    terminal or pipe may have made it non-blocking: a write to it fails when it is full. With
    PYTHONUNBUFFERED the streams have no buffer, and lose data that the system did not accept at once,
    for example because of a signal. So they get a buffer, which is flushed at the end of each line.
    """
    for fd in range(3):
        try:
            if fd:
                os.set_blocking(fd, True)
            else:
                os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)
    sys.stdin = sys.stdin or os.fdopen(0, "r", closefd=False)  # None if it was closed
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    sys.stdout, sys.stderr = _with_buffer(sys.stdout), _with_buffer(sys.stderr)


def _with_buffer(out: TextIO) -> TextIO:
    if not isinstance(getattr(out, "buffer", None), io.RawIOBase):
        return out
    return os.fdopen(out.fileno(), "w", 1, encoding=out.encoding, errors=out.errors, closefd=False)


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Escape what the block writes to standard output.

    Raises:
        NotWritten: standard output does not accept more; what follows is discarded.
    """
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # text may hold unencodable characters
    with contextlib.redirect_stdout(PrintableOutput(out)):
        yield
        sys.stdout.flush()

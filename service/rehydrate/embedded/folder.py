"""The files in the folder of an embedded server: hints, and locks that only running processes hold."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


class EmbeddedError(RuntimeError):
    """An embedded server cannot run. The message names the cause and a remedy."""


def read_hint(path: Path, parse: Callable[[str], T]) -> T | None:
    """Return the parsed content of a file; None if it is absent, unreadable or anything odd.

    A crash, a full disk, a copy or an editor can leave any content in a file, so nothing may depend
    on one: it only saves work or keeps a port.

    Args:
        path: the file.
        parse: returns the content's meaning, or raises `ValueError`.
    """
    try:
        return parse(path.read_text())
    except (OSError, ValueError):
        return None


def write_hint(path: Path, text: str) -> None:
    """Write a file that only its owner can read, by rename: no reader finds a part of it."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(name, path)  # noqa: PTH105 - the name is a string
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - the name is a string
        raise


def port_number(text: str) -> int:
    """Return the TCP port in *text*.

    Raises:
        ValueError: it is not one.
    """
    port = int(text)
    if not 0 < port < 1 << 16:
        raise ValueError(text)
    return port


class FolderLock:
    """An exclusive lock on a file, held until the last process that has its descriptor ends.

    A pid in a file proves nothing, since it may have been copied, or be another program's by now.

    Args:
        path: the file, which is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> bool:
        """Return True if this object holds the lock now; do not wait for another holder.

        What the last holder wrote to the file is deleted.

        Raises:
            OSError: the file cannot be opened.
        """
        if self._fd is None:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
            except BlockingIOError:
                os.close(fd)
                return False
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd
        return True

    def write(self, text: str) -> None:
        """Replace the content of the locked file, in place, since the lock is not on its name."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)

    def fileno(self) -> int:
        """Return the descriptor, which a child process may inherit.

        Raises:
            EmbeddedError: the lock is not held.
        """
        if self._fd is None:
            raise EmbeddedError(f"{self.path} is not locked by this process")
        return self._fd

    def release(self) -> None:
        """Close the descriptor; children that inherited it keep the lock."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

"""A small file system for the database, which can be filled: a real ENOSPC."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

SIZE_MB = 320
_NEW_NAMESPACE, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _RECURSIVE = 1 << 18, 1 << 14
_PIECE = 1 << 20


def own_mounts():
    """Give this process and its children mounts of their own, which end with them.

    Must be called before any thread or child is started.

    Returns:
        Why that is not possible; None if it was done.
    """
    if sys.platform != "linux":
        return "private mounts need Linux"
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_NEW_NAMESPACE) != 0:
        if libc.unshare(_NEW_NAMESPACE | _NEW_USER) != 0:
            return f"unshare: {os.strerror(ctypes.get_errno())}"
        try:
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        except OSError as error:
            return f"a user namespace: {error.strerror}"
    if libc.mount(None, b"/", None, _PRIVATE | _RECURSIVE, None) != 0:
        return f"private mounts: {os.strerror(ctypes.get_errno())}"
    return None


class Disk:
    """A tmpfs on *folder*; ``why_not``: why it could not be mounted, or None."""

    def __init__(self, folder, why_not=None):
        self._ballast = folder / "ballast"
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.why_not = why_not or self._mount()

    def _mount(self):
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"size={SIZE_MB}m,mode=0755,uid={os.getuid()},gid={os.getgid()}".encode()
        if libc.mount(b"tmpfs", bytes(self._folder), b"tmpfs", 0, options) != 0:
            return f"mounting a tmpfs: {os.strerror(ctypes.get_errno())}"
        return None

    def fill(self):
        """Use up all space."""
        with self._ballast.open("wb", buffering=0) as file:
            for piece in (_PIECE, 4096):
                with suppress(OSError):
                    while True:
                        file.write(bytes(piece))

    def free(self):
        """Release the space."""
        self._ballast.unlink(missing_ok=True)

    @property
    def is_full(self):
        """True if a write fails with ENOSPC."""
        try:
            (self._folder / "probe").write_bytes(bytes(8192))
        except OSError as error:
            return error.errno == errno.ENOSPC
        finally:
            with suppress(OSError):
                (self._folder / "probe").unlink(missing_ok=True)
        return False

    def close(self):
        """Unmount; processes that still use it keep it until they end."""
        if self.why_not is None:
            ctypes.CDLL(None).umount2(bytes(self._folder), 2)

"""Wall clocks that can be set, one for each process, by a preloaded library."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clocks:
    """The clocks of the processes of one world.

    Args:
        folder: the folder of the library and of the files with the clocks.

    Attributes:
        why_not: why there are none; None if there are.
    """

    def __init__(self, folder):
        self._folder = folder
        self._library = folder / "clock.so"
        self._ahead_s = {}
        self.why_not = self._build()

    def _build(self):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if sys.platform != "linux" or compiler is None:
            return "a library to preload is needed: Linux, and a C compiler"
        options = ("-shared", "-fPIC", "-O2", "-o", str(self._library), str(SOURCE))
        built = subprocess.run([compiler, *options], check=False, capture_output=True, text=True)
        return built.stderr.strip()[:200] or None if built.returncode else None

    def environment(self, name):
        """Return the environment variables that give the process *name* a clock of its own."""
        if self.why_not is not None:
            return {}
        self.set(name, 0)
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._path(name))}

    def set(self, name, ahead_s):
        """Set the clock of *name* ahead of the machine's, or behind if *ahead_s* is negative.

        Returns:
            How far that moved it, in seconds; negative: back.
        """
        path, packed = self._path(name), struct.pack("=q", int(ahead_s * 1e9))
        before_s = self._ahead_s.get(name, 0)
        self._ahead_s[name] = ahead_s
        if path.exists():
            with path.open("r+b") as file:  # the process has mapped this file
                file.write(packed)
        else:
            path.write_bytes(packed)
        return ahead_s - before_s

    def _path(self, name):
        return self._folder / f"{name}.clock"

"""Wall clocks that can be set: one for each process, a library that is preloaded into it."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clocks:
    """The clocks of the processes of one world; ``why_not``: why there are none.

    Args:
        folder: where the library and the clocks lie.
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
        """What lets the process *name* have a clock of its own."""
        if self.why_not is not None:
            return {}
        self.set(name, 0)
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._path(name))}

    def set(self, name, ahead_s):
        """Let the clock of *name* be so far ahead, or, below 0, behind; from now on.

        Returns how far that moved it, in s; below 0: back.
        """
        path, said = self._path(name), struct.pack("=q", int(ahead_s * 1e9))
        before_s = self._ahead_s.get(name, 0)
        self._ahead_s[name] = ahead_s
        if path.exists():
            with path.open("r+b") as file:  # the process looks at this very file
                file.write(said)
        else:
            path.write_bytes(said)
        return ahead_s - before_s

    def _path(self, name):
        return self._folder / f"{name}.clock"

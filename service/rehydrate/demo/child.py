"""A child process that ends when its parent ends: ``python -m rehydrate.demo.child COMMAND …``.

Its standard input is a pipe from the parent. When the pipe closes, however the parent ended, the
child sends itself SIGTERM, and SIGKILL `END_TIMEOUT_S` later: its own shutdown may hang if the
services that it depends on were killed too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

END_TIMEOUT_S = 5.0
"""Seconds between SIGTERM and SIGKILL for a child whose parent has ended."""


def main() -> int:
    """Run a rehydrate command while the parent lives; return its exit code."""
    threading.Thread(target=_watch, name="parent", daemon=True).start()
    from rehydrate.cli.main import main as cli  # noqa: PLC0415 - slow; start the watch first

    return cli(sys.argv[1:])


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_TIMEOUT_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

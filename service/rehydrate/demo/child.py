"""A process that ends with the one that started it: ``python -m rehydrate.demo.child COMMAND …``.

Its standard input is a pipe of the parent's. When that closes, however the parent ended, the child
gets the SIGTERM that it would have got from a parent that ended well; and, if it is then still
there, because what it stands on was killed too, the SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

END_TIMEOUT_S = 5.0
"""How long a child may take to end that has lost its parent."""


def main() -> int:
    """Run the command line's *argv* for as long as the parent lives."""
    threading.Thread(target=_watch, name="parent", daemon=True).start()
    from rehydrate.cli.main import main as cli  # noqa: PLC0415 - slow; the watch comes first

    return cli(sys.argv[1:])


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_TIMEOUT_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

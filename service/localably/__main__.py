"""The command ``localably``, also ``python -m localably``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_REQUIRED = ("aiohttp", "msgpack")


def main(argv: Sequence[str] | None = None, prog: str = "localably") -> int:
    """Run the server and return its exit code; 2 if a package it needs is not installed."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:  # closed; else a socket gets this number, and uvloop aborts the process
            os.open(os.devnull, os.O_RDWR)
    try:
        from .command import main as run  # noqa: PLC0415 - so that a missing package is one line
    except ModuleNotFoundError as error:
        if error.name not in _REQUIRED:
            raise
        print(  # noqa: T201 - the command's own output
            f"{prog} needs the package {error.name}: pip install 'rehydrate[embedded]'",
            file=sys.stderr,
        )
        return 2
    return run(argv, prog)


if __name__ == "__main__":
    sys.exit(main())

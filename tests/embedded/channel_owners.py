"""Helpers for tests that start processes which own an embedded channel server."""

from __future__ import annotations

import textwrap
from pathlib import Path

OWNER = textwrap.dedent(
    """
    import os, signal, sys, time
    from pathlib import Path
    from rehydrate.embedded.channel import EmbeddedChannel
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with EmbeddedChannel(Path(sys.argv[1])) as server:
        if sys.argv[2:] == ["fork"]:
            print(os.fork() or time.sleep(120), flush=True)
        print(server.url, flush=True)
        sys.stdin.read()
    """
)


def channel_servers(folder: Path) -> list[int]:
    """Return the pids of the channel servers that run on *folder*."""
    wanted, found = str(folder).encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--data-dir" in argv and wanted in argv and b"local-ably" in argv:
                found.append(int(entry.name))
    return found

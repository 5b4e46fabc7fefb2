"""A Postgres that hangs: its processes exist, its connections are open, nothing answers."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path


def process_tree(pid):
    """The process *pid* and its descendants, parents first; Linux only."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


@contextmanager
def standing_still(pid):
    """SIGSTOP *pid* and its descendants for the length of the block, then SIGCONT; yield their pids."""
    stopped = process_tree(pid)
    try:
        for each in stopped:
            os.kill(each, signal.SIGSTOP)
        for each in stopped:
            while state_of(each) != "T":
                time.sleep(0.001)
        yield stopped
    finally:
        for each in reversed(stopped):
            os.kill(each, signal.SIGCONT)


def state_of(pid):
    """The state letter of a process: ``T`` when it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

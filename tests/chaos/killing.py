"""SIGUSR1 cancels the background tasks of this process, as no code of ours does."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

_LOOPS = {"PeriodicTask._loop", "Connection._run", "LiveSubscription._reattach_loop"}


def install():
    """Install the handler; each signal appends the number of cancelled tasks to a file."""
    signal.signal(signal.SIGUSR1, _kill)


def _kill(*_):
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return  # it is starting
    loop.call_soon_threadsafe(_cancel_all)


def _cancel_all():
    killed = [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ in _LOOPS]
    for task in killed:
        task.cancel()
    with Path(os.environ["CHAOS_KILLED"]).open("a") as file:
        file.write(f"{len(killed)}\n")

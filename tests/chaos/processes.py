"""Processes that are started, suspended, killed, and started again with the same arguments."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from stalling import state_of

READY_S = 240.0
TESTS = Path(__file__).parent.parent


class Process:
    """A Python program that prints ``ready`` once it is, and then lines of output.

    Args:
        argv: the module and its arguments.
        environment: added to the environment of this process.
        log: the file for its standard error.
    """

    def __init__(self, *argv, environment, log):
        self.name = log.stem
        self._argv = argv
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        self._environment = {**os.environ, "PYTHONPATH": path, **environment}
        self._log = log
        self._process = None
        self._reading = None
        self.lines = asyncio.Queue()
        self.kills = 0
        self.is_ready = False
        self._starting = None

    async def start(self):
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._argv,
                env=self._environment,
                stdin=subprocess.PIPE,  # a program that reads it ends when this process ends
                stdout=subprocess.PIPE,
                stderr=log,
            )
        async with asyncio.timeout(READY_S):
            line = await self._process.stdout.readline()
        assert line.startswith(b"ready"), f"{self._argv} ended: see {self._log}"
        self._reading = asyncio.create_task(self._read(self._process.stdout))
        self.is_ready = True

    async def kill(self):
        """kill -9, if it runs; return how many processes that ended, 0 or 1."""
        return int(await self._ended_by(signal.SIGKILL) == -signal.SIGKILL)

    async def end(self):
        """SIGTERM, if it runs; return how many processes that ended cleanly, 0 or 1."""
        return int(await self._ended_by(signal.SIGTERM) == 0)

    async def _ended_by(self, number):
        """Send it a signal, wait for its end, and return its exit status; None if it did not run."""
        await self.is_back()
        process, self._process = self._process, None
        self.is_ready = False
        if process is None:
            return None
        self.kills += 1
        with suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(60):
            status = await process.wait()
        if self._reading is not None:
            await self._reading
        return status

    def start_again(self):
        """Begin to start it in the background; see `is_back`."""
        self._starting = asyncio.create_task(self.start())

    async def is_back(self):
        """Wait until it runs, if `start_again` was called."""
        starting, self._starting = self._starting, None
        if starting is not None:
            await starting

    def pause(self):
        """SIGSTOP: it does nothing, and its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    @property
    def is_paused(self):
        """True if it is suspended."""
        return state_of(self._process.pid) == "T"

    def send_signal(self, number):
        """Send it a signal, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def send(self, command):
        """Write *command*, as a line of JSON, to its standard input."""
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _read(self, output):
        async for line in output:
            self.lines.put_nowait(line)


async def input_lines():
    """Yield the lines of this process's standard input, parsed as JSON."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield json.loads(line)


def print_line(value):
    """Print a line for the process that started this one: a string, or *value* as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

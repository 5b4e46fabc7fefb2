"""Processes that are started, stopped, killed, and started again as they were."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

READY_S = 240.0
TESTS = Path(__file__).parent.parent


class Process:
    """A Python program that says ``ready`` when it is, and then what it has to say, in lines.

    Args:
        argv: the module and its arguments.
        environment: added to ours.
        log: where its standard error goes.
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
        self._starting = None

    async def start(self):
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._argv,
                env=self._environment,
                stdin=subprocess.PIPE,  # whoever reads it ends with us
                stdout=subprocess.PIPE,
                stderr=log,
            )
        async with asyncio.timeout(READY_S):
            line = await self._process.stdout.readline()
        assert line.startswith(b"ready"), f"{self._argv} ended: see {self._log}"
        self._reading = asyncio.create_task(self._read(self._process.stdout))

    async def kill(self):
        """kill -9, if it runs."""
        await self.is_back()
        process, self._process = self._process, None
        if process is None:
            return
        self.kills += 1
        with suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(60):
            await process.wait()
        if self._reading is not None:
            await self._reading

    def start_again(self):
        """Start it, while other things go on; see `is_back`."""
        self._starting = asyncio.create_task(self.start())

    async def is_back(self):
        """Return when it has started again, if it is about to."""
        starting, self._starting = self._starting, None
        if starting is not None:
            await starting

    def pause(self):
        """SIGSTOP: it does nothing, and its connections stay."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def say(self, said):
        self._process.stdin.write(json.dumps(said).encode() + b"\n")

    async def _read(self, output):
        async for line in output:
            self.lines.put_nowait(line)


async def said_to_us():
    """The lines of our own standard input, parsed; for the programs of the chaos."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield json.loads(line)


def say(said):
    """Say a line to whoever started us."""
    text = said if isinstance(said, str) else json.dumps(said)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

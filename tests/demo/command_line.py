"""The command line as a process, and checks for processes left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

from waiting import PATIENCE_S


class Ran(NamedTuple):
    """The output and exit code of a command."""

    code: int
    out: str
    err: str


def environment(**settings):
    """Return an environment with *settings* and no other setting of rehydrate."""
    ours = ("REHYDRATE_", "ABLY_", "OPENAI_", "CHAT_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return kept | {name: str(value) for name, value in settings.items()}


class Command:
    """``rehydrate …`` as a process, which ends with the block in every case."""

    def __init__(self, *argv, module="rehydrate", **settings):
        self._argv = (sys.executable, "-m", module, *argv)
        self._environment = environment(**settings)
        self.url = ""

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        self._errors = bytearray()
        self._heard = asyncio.Event()
        self._reading = asyncio.create_task(self._read_errors())
        return self

    async def _read_errors(self):
        while block := await self._process.stderr.read(4096):
            self._errors += block
            self._heard.set()

    async def __aexit__(self, *_):
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self.end()

    @property
    def pid(self):
        return self._process.pid

    @property
    def stderr_text(self):
        """Its output on standard error so far."""
        return self._errors.decode(errors="replace")

    def send(self, number):
        self._process.send_signal(number)

    async def ready(self):
        """The URL of its line ``ready <url>``."""
        async with asyncio.timeout(PATIENCE_S):
            line = (await self._process.stdout.readline()).decode()
        word, _, self.url = line.strip().partition(" ")
        assert word == "ready", line + self._errors.decode()
        return self.url

    async def line(self):
        """The next line of its standard output."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._process.stdout.readline()

    def hear_no_more(self):
        """Close the reading end of its standard output, as ``head`` does."""
        self._process._transport.get_pipe_transport(1).close()

    async def prints(self, text):
        """Wait until it prints *text* on standard error."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.stderr_text:
                self._heard.clear()
                await self._heard.wait()

    async def end(self, *, within_s=PATIENCE_S):
        """Wait for its end; return the rest of its output."""
        async with asyncio.timeout(within_s):
            out = await self._process.stdout.read()
            code = await self._process.wait()
            await self._reading
            return Ran(code, out.decode(), self._errors.decode())

    async def terminated(self):
        """Terminate it, as a supervisor does."""
        self.send(signal.SIGTERM)
        return await self.end()


async def ran(*argv, module="rehydrate", **settings):
    """Run a command to its end."""
    async with Command(*argv, module=module, **settings) as command:
        return await command.end(within_s=3 * PATIENCE_S)


def processes_on(folder):
    """Return the processes that use *folder*: by command line, working folder or environment."""
    found, wanted = {}, str(folder).encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            place = os.fsencode((entry / "cwd").readlink())
            line = (entry / "cmdline").read_bytes()
            if any(wanted in each for each in (line, place, (entry / "environ").read_bytes())):
                found[int(entry.name)] = line.replace(b"\0", b" ").decode()
    return found


async def all_gone(folder, within_s=PATIENCE_S):
    """Wait until no process uses *folder*."""
    deadline = time.monotonic() + within_s
    while found := processes_on(folder):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


def listening_ports(pids):
    """Return the TCP ports on which *pids* listen."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(fd.readlink()).removeprefix("socket:[").rstrip("]"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(r[1].split(":")[1], 16) for r in rows if r[3] == "0A" and r[9] in inodes}


def refuses(port):
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) != 0


def settings_on(database, ably):
    """Return the environment of a service with *database* and the channel server *ably*."""
    return {
        "REHYDRATE_DATABASE_URL": database,
        "REHYDRATE_PORT": "0",
        "REHYDRATE_SERVICE_KEYS": "a-service-key-of-the-tests",
        "ABLY_API_KEY": ably.key,
        "ABLY_ENDPOINT": "127.0.0.1",
        "ABLY_PORT": str(ably.port),
        "ABLY_TLS": "false",
    }

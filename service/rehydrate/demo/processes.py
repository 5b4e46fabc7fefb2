"""Child processes of the demo: start one, wait until it is ready, end it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Self

from rehydrate.errors import Unavailable

if TYPE_CHECKING:
    pass

READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0


class NotStarted(Unavailable):
    """A child process ended, or did not become ready in time."""

    code = "not_started"


class Child:
    """One rehydrate command as a child process; an async context manager that starts and ends it.

    Its log goes to the parent's standard error.

    Args:
        *argv: arguments of the command line.
        environment: variables that are added to the parent's environment.

    Attributes:
        name: the command.
        url: the URL of the line ``ready <url>`` that the command prints.
    """

    def __init__(self, *argv: str, environment: dict[str, str] | None = None) -> None:
        self._argv = argv
        self.name = next(word for word in argv if not word.startswith("-"))
        self._environment = os.environ | (environment or {})
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task[None] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running.pid

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise NotStarted(f"rehydrate {self.name} is not running")
        return self._process

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "rehydrate.demo.child", *self._argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C must reach the parent only, which ends its children
        )
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                self.url = await self._ready()
        except BaseException:
            await self.end()
            raise
        self._draining = asyncio.create_task(self._drain(), name=f"output of {self.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def wait(self) -> int:
        """Wait until the process ends; return its exit code."""
        return await self._running.wait()

    async def end(self) -> None:
        """End the process: SIGTERM, then SIGKILL after `END_TIMEOUT_S`."""
        process = self._running
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._draining is not None:
            await self._draining

    async def _ready(self) -> str:
        output = self._running.stdout
        while output is not None and (line := await output.readline()):
            word, _, url = line.decode().strip().partition(" ")
            if word == "ready":
                return url
        code = await self._running.wait()
        raise NotStarted(f"rehydrate {self.name} ended with exit code {code} before it was ready")

    async def _drain(self) -> None:
        output = self._running.stdout
        while output is not None and await output.readline():
            pass

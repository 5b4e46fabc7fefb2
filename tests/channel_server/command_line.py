"""The server as a separate process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from waiting import PATIENCE_S

KEY = "app.key:" + "s" * 32


@contextlib.asynccontextmanager
async def running(*arguments):
    """Start the command; yield the process and its address once it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "localably",
        "--port",
        "0",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode().split()
        assert line[:1] == ["ready"], (await process.stderr.read()).decode()
        yield process, line[1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()

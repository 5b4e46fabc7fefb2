"""gunicorn and uvicorn as programs replace a worker that has an open stream: the stream ends."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from api.minting import bearer
from api.sse import streamed
from demo.command_line import environment, settings_on
from localably import LocalAbly
from waiting import PATIENCE_S, until

SERVICE_KEY = "a-service-key-of-the-tests"
REQUESTS = 30
FOR_EVER_S = "600"


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@asynccontextmanager
async def running(database, port, *argv):
    """Run a server as a process group of its own; yield a client of it once it answers."""
    async with LocalAbly() as ably:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", *argv),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment(**settings_on(database, ably)),
            start_new_session=True,
        )
        url, headers = f"http://127.0.0.1:{port}", bearer(SERVICE_KEY)
        client = httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S)
        try:
            async with client as http:
                await until(lambda: answers(http))
                yield http
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), PATIENCE_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def answers(http):
    """Return True if the server answers a request on a connection of its own."""
    try:
        return (await http.get("/healthz", headers={"Connection": "close"})).status_code == 200
    except httpx.TransportError:
        return False


async def ends(stream):
    """Read a stream to its end, whichever end the server gives it."""
    async with asyncio.timeout(PATIENCE_S):
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):
            while await stream.next() is not None:
                pass


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)
async def test_gunicorn_replaces_a_worker_that_has_served_its_number_of_requests(database):
    port = free_port()
    command = ("gunicorn", "rehydrate.asgi:app", "--worker-class", "uvicorn.workers.UvicornWorker")
    limits = (
        "--max-requests",
        str(REQUESTS),
        "--graceful-timeout",
        FOR_EVER_S,
        "--timeout",
        FOR_EVER_S,
    )
    async with running(database, port, *command, "--bind", f"127.0.0.1:{port}", *limits) as http:
        async with streamed(http, "c") as stream:
            await stream.take(1)
            for _ in range(REQUESTS):
                await answers(http)
            await ends(stream)
        await until(lambda: answers(http))
        async with streamed(http, "c") as stream:
            await stream.take(1)


@pytest.mark.slow
async def test_uvicorn_reloads_with_an_open_stream(database, tmp_path):
    port, changed = free_port(), tmp_path / "module.py"
    changed.write_text("")
    command = ("uvicorn", "rehydrate.asgi:app", "--port", str(port), "--reload")
    async with running(database, port, *command, "--reload-dir", str(tmp_path)) as http:
        async with streamed(http, "c") as stream:
            await stream.take(1)
            changed.write_text("changed = True\n")
            await ends(stream)
        await until(lambda: answers(http))
        async with streamed(http, "c") as stream:
            await stream.take(1)

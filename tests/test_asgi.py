"""``uvicorn rehydrate.asgi:app``, for deployments with another ASGI server."""

from __future__ import annotations

import asyncio
import re
import signal
import sys

import httpx

from demo.command_line import environment, settings_on
from waiting import PATIENCE_S


async def uvicorn(**settings):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "rehydrate.asgi:app", "--port", "0"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**settings),
    )


async def test_the_app_serves_and_shuts_down_under_uvicorn(database, ably):
    server = await uvicorn(**settings_on(database, ably))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (
                found := re.search(rb"running on (http://\S+)", line := await _line(server))
            ):
                assert b"Traceback" not in line
        async with httpx.AsyncClient(base_url=found[1].decode(), timeout=PATIENCE_S) as http:
            assert (await http.get("/readyz")).status_code == 200
            assert (await http.get("/v1/conversations/c")).status_code == 401
        server.send_signal(signal.SIGTERM)
        rest = await asyncio.wait_for(server.stderr.read(), PATIENCE_S)
        assert b"Traceback" not in rest
    finally:
        await _end(server)


async def test_without_a_database_it_names_the_missing_setting():
    server = await uvicorn()
    try:
        output = await asyncio.wait_for(server.stderr.read(), PATIENCE_S)
    finally:
        await _end(server)
    assert server.returncode != 0
    assert (
        output.decode()
        .splitlines()[-1]
        .startswith("rehydrate.errors.NotConfigured: REHYDRATE_DATABASE_URL is not set")
    )


async def _line(server):
    line = await server.stderr.readline()
    assert line, "it ended"
    return line


async def _end(server):
    if server.returncode is None:
        server.kill()
    await server.wait()
    await server.stderr.read()

"""Streams end when their server shuts down without a signal, and so the server does not wait."""

from __future__ import annotations

import asyncio
import secrets

import httpx
import pytest
from fastapi import FastAPI

from api.minting import bearer
from api.serving import served_beside
from localably import LocalAbly
from participants import settings_for
from rehydrate.history import History

SERVICE_KEY = "service-key-of-the-stream"
FOR_EVER = {"timeout_graceful_shutdown": None}


@pytest.fixture(scope="module")
async def server():
    async with LocalAbly() as running:
        yield running


def history_on(database, server):
    return History(settings_for(database, server, service_keys=SERVICE_KEY))


async def opened(url, version="1.1", path="/v1/conversations"):
    """Open a stream; return its connection once the snapshot has arrived."""
    host, port = httpx.URL(url).host, httpx.URL(url).port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        f"GET {path}/s-{secrets.token_hex(4)}/stream HTTP/{version}\r\nHost: {host}\r\n"
        f"Authorization: Bearer {SERVICE_KEY}\r\n\r\n".encode()
    )
    async with asyncio.timeout(30):
        assert b" 200 " in await reader.readline()
        await reader.readuntil(b"event: snapshot")
    return reader, writer


async def ended(connection):
    reader, writer = connection
    try:
        async with asyncio.timeout(15):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_streams_end_when_a_program_wants_its_server_to_exit(
    module_database, server, http, version
):
    app = history_on(module_database, server).app()
    async with served_beside(app, http=http, **FOR_EVER) as url:
        streams = [await opened(url, version) for _ in range(3)]
    for each in streams:  # the server has ended here, or `served_beside` would have failed
        rest = await ended(each)
        assert rest.endswith(b"0\r\n\r\n" if version == "1.1" else b"\n"), "a clean end"


async def test_streams_end_when_the_server_has_served_its_number_of_requests(
    module_database, server
):
    app = history_on(module_database, server).app()
    async with served_beside(app, limit_max_requests=2, **FOR_EVER) as url:
        stream = await opened(url)
        async with httpx.AsyncClient(base_url=url, headers=bearer(SERVICE_KEY)) as http:
            for _ in range(2):
                await http.get("/healthz")
        assert (await ended(stream)).endswith(b"0\r\n\r\n")


async def test_streams_of_a_host_application_end_too(module_database, server):
    history = history_on(module_database, server)
    app = FastAPI()
    app.include_router(history.router(authorize=lambda *_: True), prefix="/history")
    async with served_beside(app, **FOR_EVER) as url:
        stream = await opened(url, path="/history/v1/conversations")
    assert (await ended(stream)).endswith(b"0\r\n\r\n")

"""A server for each test, and stock SDK clients of it that are closed afterwards."""

from __future__ import annotations

import base64

import aiohttp
import pytest

from channel_server.clients import Clients
from channel_server.node import ably_js, run_scenario
from localably import LocalAbly


@pytest.fixture
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(params=[True, False], ids=["msgpack", "json"])
async def clients(server, request):
    made = Clients(server, request.param)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def node_modules():
    return ably_js()


@pytest.fixture(params=[True, False], ids=["js-msgpack", "js-json"])
def js(request, server, node_modules):
    """Return a function that runs a scenario of stock ably-js against the server, in either format."""

    async def run(name, *, on=None, **given):
        return await run_scenario(
            node_modules, on or server, name, binary=request.param, given=given
        )

    return run


@pytest.fixture
async def http(server):
    """Return a plain HTTP client of the server, with its key."""
    headers = {"Authorization": f"Basic {base64.b64encode(server.key.encode()).decode()}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as session:
        yield session

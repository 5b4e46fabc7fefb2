"""A server for each test, and stock SDK clients of it that are closed afterwards."""

from __future__ import annotations

import pytest
from localably.clients import Clients

from rehydrate.localably import LocalAbly


@pytest.fixture
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(params=[True, False], ids=["msgpack", "json"])
async def clients(server, request):
    made = Clients(server, request.param)
    yield made
    await made.close()

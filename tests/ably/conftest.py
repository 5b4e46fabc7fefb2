"""Fixtures: a local channel server and an `AblyChannel` connected to it, for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from ably_channel import Stub, end_stock_clients, opened
from localably import LocalAbly, LocalAblySettings


@pytest.fixture(autouse=True)
async def clients_of_earlier_tests():
    await end_stock_clients()


@pytest.fixture
async def server():
    async with LocalAbly(settings=LocalAblySettings(max_idle_interval_s=2.0)) as running:
        yield running


@pytest.fixture
async def log(server):
    async with opened(server) as made:
        yield made


@pytest.fixture
async def stub():
    made = Stub()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def pytest_collection_modifyitems(items):
    # the SDK uses a deprecated logging method for conditions that these tests cause
    ours = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(ours)

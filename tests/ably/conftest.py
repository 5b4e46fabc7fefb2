"""A local channel server for each test, and our adapter to it."""

from __future__ import annotations

import pytest

from ably_channel import opened
from localably import LocalAbly, Settings


@pytest.fixture
async def server():
    async with LocalAbly(settings=Settings(max_idle_interval_s=2.0)) as running:
        yield running


@pytest.fixture
async def log(server):
    async with opened(server) as made:
        yield made

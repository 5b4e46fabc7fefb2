"""The channel contract for the Ably adapter, over the local channel server."""

from __future__ import annotations

import secrets

import pytest

from contracts.channel_log import ChannelLogContract
from localably import LocalAbly
from rehydrate.ably.channel_log import AblyChannel


@pytest.fixture(scope="module")
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(scope="module")
async def log(server):
    async with AblyChannel(server.key, endpoint="127.0.0.1", port=server.port, tls=False) as opened:
        yield opened


@pytest.fixture
def key(server):
    return server.key


@pytest.fixture(params=["ai:{}", "persisted:ai/{} ?&#%+語"], ids=["plain", "odd name"])
def channel(request):
    return request.param.format(secrets.token_hex(4))


class TestAblyChannelOverLocalably(ChannelLogContract):
    pass

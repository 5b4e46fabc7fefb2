"""Capabilities of readers' tokens and of keys, checked with the channel server."""

from __future__ import annotations

import pytest
from ably import AblyRest

from ably_channel import opened, signed
from localably import Key, LocalAbly
from rehydrate.errors import ChannelRefused, ChannelUnavailable, Unauthorized

C = "ai:conv"


async def opaque(server, capability=None):
    async with AblyRest(
        key=server.key, use_token_auth=True, endpoint="127.0.0.1", port=server.port, tls=False
    ) as rest:
        params = {"capability": capability} if capability else {}
        return (await rest.auth.request_token(params)).token


CAPABILITIES = [
    ({"ai:*": ["history"]}, True),
    ({"ai:*": ["subscribe"]}, True),
    ({"ai:conv": ["subscribe", "publish"]}, True),
    ({"*": ["*"]}, True),
    ({"ai:other": ["history", "subscribe"]}, False),
    ({"ai:conv": ["publish", "presence"]}, False),
]


@pytest.mark.parametrize(("capability", "admitted"), CAPABILITIES)
async def test_an_opaque_token_admits_what_its_capability_grants(server, log, capability, admitted):
    assert await log.admits(await opaque(server, capability), C) is admitted


@pytest.mark.parametrize(("capability", "admitted"), CAPABILITIES)
async def test_a_jwt_admits_what_its_capability_grants(server, log, capability, admitted):
    assert await log.admits(signed(server.key, capability), C) is admitted


async def test_an_expired_token_is_unauthorized(server, log):
    with pytest.raises(Unauthorized):
        await log.admits(signed(server.key, {"*": ["*"]}, seconds=-60), C)


async def test_a_token_signed_with_another_secret_is_unauthorized(server, log):
    with pytest.raises(Unauthorized):
        await log.admits(signed(server.key, {"*": ["*"]}, secret="x" * 32), C)


async def test_a_token_of_another_app_is_unauthorized(server, log):
    with pytest.raises(Unauthorized):
        await log.admits(signed("other.key:" + "s" * 32, {"*": ["*"]}), C)


async def test_a_check_leaves_no_connection_open(server, log):
    await log.admits(signed(server.key, {"ai:*": ["subscribe"]}), C)
    assert all(each.lost_ms is not None for each in server.hub.connections.values())


async def test_a_server_that_stops_answering_is_unavailable(server):
    token = signed(server.key, {"ai:*": ["subscribe"]})
    async with opened(server, request_timeout_s=0.5) as log:
        server.faults.set("freeze")
        with pytest.raises(ChannelUnavailable) as caught:
            await log.admits(token, C)
        assert not isinstance(caught.value, ChannelRefused)


async def test_the_capability_of_a_key_is_returned():
    key = Key.make(capability='{"ai:*":["history","subscribe"],"[meta]*":["subscribe"]}')
    async with LocalAbly(keys=[key]) as server, opened(server) as log:
        capability = await log.key_capability(server.key)
    assert {pattern: sorted(ops) for pattern, ops in capability.items()} == {
        "ai:*": ["history", "subscribe"],
        "[meta]*": ["subscribe"],
    }


@pytest.mark.parametrize("key", ["", "nonsense", "a.b:" + "c" * 32])
async def test_an_unknown_key_is_unauthorized(log, key):
    with pytest.raises(Unauthorized):
        await log.key_capability(key)


async def test_a_key_cannot_be_checked_without_an_answer(server):
    async with opened(server, request_timeout_s=0.5) as log:
        server.faults.set("stall_requests", seconds=30)
        with pytest.raises(ChannelUnavailable):
            await log.key_capability(server.key)

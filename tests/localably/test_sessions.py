"""Resume and recover: RTN15, RTN16."""

from __future__ import annotations

import asyncio
import random

import pytest
from ably.types.message import Message

from channel_server.clients import Clients, arrives, into
from channel_server.worlds import World
from localably.errors import RefusedError
from localably.frames import Action


async def test_rtn15c6_a_lost_connection_is_resumed_with_all_that_was_published_meanwhile(js):
    seen = await js("resume")
    assert seen == {
        "same": True,
        "resumed": True,
        "data": ["before", "meanwhile 1", "meanwhile 2", "after"],
        "reason": None,
    }


@pytest.mark.parametrize(
    ("given", "reason"),
    [({"fake": True}, 80018), ({"fault": "refuse_resume"}, 80008)],
    ids=["no key", "expired"],
)
async def test_rtn15c7_a_refused_resume_gives_a_new_connection_and_the_channel_continues(
    js, given, reason
):
    seen = await js("resume_refused", **given)
    assert seen["same"] is False
    assert seen["reason"] == {"code": reason, "statusCode": 400}
    assert seen["resumed"] is True


@pytest.mark.parametrize("code", [90003, 90004, 90005])
async def test_rtl12_a_channel_without_continuity_reports_it(js, code):
    given = {"fault": "refuse_continuity", "parameters": {"code": code}}
    seen = await js("resume_refused", **given)
    assert seen["same"] is True
    assert seen["resumed"] is False
    assert seen["channel"] == {"code": code, "statusCode": 404}


async def test_rtn16d_a_recovery_takes_over_the_connection_with_a_new_key(js):
    seen = await js("recover")
    assert seen["sameId"] is True
    assert seen["newKey"] is True
    assert seen["got"] == {"one": ["missed 1", "missed 2"], "two": ["missed 1", "missed 2"]}
    assert seen["resumed"] == [True, True]


async def test_python_resumes_after_a_cut_and_misses_nothing(clients):
    client = await clients.realtime(disconnected_retry_timeout=100)
    channel = client.channels.get("room")
    got = []
    await channel.subscribe(into(got))
    before = client.connection.connection_manager.connection_id
    rest = await clients.rest()
    await rest.channels.get("room").publish("n", "1")
    await arrives(got, 1)
    assert clients.server.cut(connection_id=before) == 1
    await rest.channels.get("room").publish("n", "2")
    await arrives(got, 2)
    await rest.channels.get("room").publish("n", "3")
    await arrives(got, 3)
    assert [m.data for m in got] == ["1", "2", "3"]
    assert client.connection.connection_manager.connection_id == before


async def test_python_gets_an_update_when_its_channel_lost_continuity(clients):
    client = await clients.realtime(disconnected_retry_timeout=100)
    channel = client.channels.get("room")
    await channel.attach()
    changes = []
    channel.on(into(changes))
    clients.server.faults.set("refuse_continuity", code=90003)
    clients.server.cut()
    await arrives(changes, 2)
    assert [(c.current.name, c.resumed) for c in changes[:2]] == [
        ("ATTACHING", False),
        ("ATTACHED", False),
    ]


async def test_readers_that_are_cut_again_and_again_get_every_message_once_and_in_order(server):
    chance = random.Random(7)
    made = {binary: Clients(server, binary) for binary in (True, False)}
    try:
        readers = [await made[n % 2 == 0].realtime(disconnected_retry_timeout=50) for n in range(4)]
        got = [[] for _ in readers]
        for reader, items in zip(readers, got, strict=True):
            await reader.channels.get("room").subscribe(into(items))
        writer = await made[True].realtime(disconnected_retry_timeout=50)
        publishes = []
        for number in range(400):
            message = Message(id=f"m-{number}", name="token", data=str(number))
            publish = writer.channels.get("room").publish(message)
            publishes.append(asyncio.create_task(publish))
            if number % 10 == 0:
                await asyncio.sleep(0.01)
            if number % 40 == 20:
                server.cut(connection_id=chance.choice(list(server.hub.connections)))
        await asyncio.gather(*publishes)
        for items in got:
            await arrives(items, 400)
            assert [m.data for m in items] == [str(n) for n in range(400)]
    finally:
        for clients in made.values():
            await clients.close()


def test_a_connection_is_removed_after_its_time_to_live():
    world = World(connection_state_ttl_s=120)
    peer = world.connect()
    key = peer.connection.connection_key
    peer.connection.lose(world.now_ms)
    world.pass_ms(119_000)
    assert "error" not in world.connect(resume=key).connected
    world.hub.connections[peer.connection.connection_id].lose(world.now_ms)
    world.pass_ms(121_000)
    assert world.connect(resume=key).connected["error"]["code"] == 80008


def test_the_key_of_a_recovered_connection_is_invalid():
    world = World()
    peer = world.connect()
    old = peer.connection.connection_key
    recovered = world.connect(recover=old)
    assert recovered.connected["connectionId"] == peer.connected["connectionId"]
    assert world.connect(resume=old).connected["error"]["code"] == 80008


@pytest.mark.parametrize("window", ["501", "x", "-1"])
def test_a_rollup_window_out_of_range_is_refused(window):
    with pytest.raises(RefusedError) as refused:
        World().connect(appendRollupWindow=window)
    assert refused.value.code == 40000


def test_cd2_the_connection_details_are_complete():
    connected = World().connect().connected
    assert connected["action"] == Action.CONNECTED
    assert (
        connected["connectionDetails"].items()
        >= {
            "clientId": "*",
            "connectionStateTtl": 120_000,
            "maxIdleInterval": 15_000,
            "maxMessageSize": 65_536,
            "maxFrameSize": 524_288,
            "maxInboundRate": 50,
        }.items()
    )

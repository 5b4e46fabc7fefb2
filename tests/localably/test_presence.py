"""The presence features that ordinary clients use: RTP6, RTP8 to RTP11, RSP3."""

from __future__ import annotations

import asyncio

from channel_server.clients import arrives, into
from channel_server.worlds import World
from localably.frames import Action, Flag
from waiting import PATIENCE_S


async def test_enter_update_get_and_leave(js):
    seen = await js("presence")
    assert seen["events"][:3] == [
        ["enter", "ann", "hi"],
        ["update", "ann", "there"],
        ["leave", "ann", None],
    ] or seen["events"][:3] == [
        ["enter", "ann", "hi"],
        ["update", "ann", "there"],
        ["leave", "ann", "there"],
    ]
    assert seen["members"] == [["ann", "there"]]
    assert seen["byRest"] == [["ann", "there"]]
    assert seen["left"] == [], "who closes leaves"


async def test_python_enters_gets_and_leaves(clients):
    ann = await clients.realtime(client_id="ann")
    bob = await clients.realtime(client_id="bob")
    events = []
    await bob.channels.get("room").presence.subscribe(into(events))
    await ann.channels.get("room").presence.enter("hi")
    await arrives(events, 1)
    async with asyncio.timeout(PATIENCE_S):
        members = await bob.channels.get("room").presence.get()
    assert [(m.client_id, m.data) for m in members] == [("ann", "hi")]
    await ann.channels.get("room").presence.leave()
    await arrives(events, 2)
    rest = await clients.rest()
    assert (await rest.channels.get("room").presence.get()).items == []


async def test_rsp4_the_history_of_presence(js):
    seen = await js("presence_history")
    events = [["enter", "ann", "hi"], ["update", "ann", {"a": 1}], ["leave", "ann", "bye"]]
    assert seen["all"] == events
    assert seen["pages"] == 1
    assert seen["backwards"] == events[::-1]
    assert seen["untilAttach"] == events[1::-1]
    assert "serial" not in seen["fields"]
    assert "version" not in seen["fields"]


async def test_python_reads_the_history_of_presence(clients):
    ann = await clients.realtime(client_id="ann")
    await ann.channels.get("room").presence.enter("hi")
    await ann.channels.get("room").presence.leave("bye")
    rest = await clients.rest()
    page = await rest.channels.get("room").presence.history(direction="forwards", limit=1)
    assert [m.data for m in page.items] == ["hi"]
    assert [m.data for m in (await page.next()).items] == ["bye"]


async def test_ably_js_sees_the_leave_that_the_server_makes_for_a_lost_member(js):
    seen = await js("presence_of_a_lost_member")
    assert seen == {"events": [["enter", "ann"], ["leave", "ann"]], "members": 0}


async def test_python_sees_the_leave_that_the_server_makes_for_who_closes(clients):
    ann = await clients.realtime(client_id="ann")
    bob = await clients.realtime(client_id="bob")
    events = []
    presence = bob.channels.get("room").presence
    await presence.subscribe(into(events))
    await ann.channels.get("room").presence.enter("hi")
    await arrives(events, 1)
    await ann.close()
    await arrives(events, 2)
    assert [int(each.action) for each in events] == [2, 3]


def test_the_history_of_presence_expires_with_that_of_messages():
    world = World()
    entered(world, "ann")
    log = world.channel().presence_log
    assert len(log) == 1
    world.pass_ms(119_000)
    assert len(log) == 1
    world.pass_ms(2_000)
    assert len(log) == 0


def entered(world, client_id, channel="room"):
    identity = world.hub.authenticator.by_key("app.key:secret-of-the-key")
    connection = world.hub.connect(identity, {"clientId": client_id}, lambda: None)
    peer = type(world.connect())(connection)
    peer.attach(channel)
    peer.send(action=Action.PRESENCE, channel=channel, msgSerial=0, presence=[{"action": 2}])
    return peer


def test_rtp18_many_members_are_synced_in_pages_the_last_with_an_empty_cursor():
    world = World()
    for number in range(250):
        entered(world, f"c{number}")
    [attached, *pages] = world.connect().attach()
    assert Flag.HAS_PRESENCE & attached["flags"]
    assert [len(page["presence"]) for page in pages] == [100, 100, 50]
    cursors = [page["channelSerial"].split(":")[1] for page in pages]
    assert cursors[-1] == ""
    assert all(cursors[:-1])
    assert len({page["channelSerial"].split(":")[0] for page in pages}) == 1


def test_pages_of_large_members_stay_below_the_limit_of_a_frame():
    world = World()
    for number in range(40):
        peer = entered(world, f"c{number}")
        enter = {"action": 2, "data": "x" * 60_000}
        peer.send(action=Action.PRESENCE, channel="room", msgSerial=1, presence=[enter])
    watcher = world.connect()
    watcher.attach(flags=int(Flag.SUBSCRIBE))
    watcher.connection.receive('{"action":10,"channel":"other"}')
    watcher.take()
    watcher.connection.receive('{"action":12,"channel":"room"}')
    watcher.connection.receive('{"action":10,"channel":"room"}')
    frames = watcher.connection.outgoing
    assert max(map(len, frames)) < 262_144
    assert sum(len(f.get("presence", ())) for f in watcher.take()) == 40


def test_a_lost_member_stays_present_for_a_while_and_then_leaves():
    world = World()
    peer = entered(world, "ann")
    watcher = world.connect()
    watcher.attach()
    peer.connection.lose(world.now_ms)
    world.pass_ms(10_000)
    assert watcher.take() == []
    world.pass_ms(10_000)
    [left] = watcher.take()
    assert left["presence"][0]["action"] == 3


def test_a_detached_member_leaves_and_an_anonymous_client_cannot_enter():
    world = World()
    peer = entered(world, "ann")
    peer.send(action=Action.DETACH, channel="room")
    assert len(world.channel().members) == 0
    nobody = world.connect()
    nobody.attach()
    enter = {"action": Action.PRESENCE, "msgSerial": 0, "presence": [{"action": 2}]}
    assert nobody.send(channel="room", **enter)[0]["error"]["code"] == 40012
    assert nobody.send(channel="other", **enter)[0]["error"]["code"] == 90001

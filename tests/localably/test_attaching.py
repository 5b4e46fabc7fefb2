"""RTL4, and the documentation's page on rewind."""

from __future__ import annotations

import pytest

from channel_server.worlds import World, texts
from localably.frames import Action, Flag


async def test_rtl4k_rtl4l_params_and_modes_are_granted_as_requested(js):
    seen = await js("params_and_modes")
    assert seen["seen"]["params"] == {"modes": "subscribe", "delta": "vcdiff"}
    assert seen["seen"]["modes"] == ["subscribe"]
    assert seen["seen"]["publish"]["code"] == 40160
    assert seen["seen"]["presence"]["code"] == 40160
    default = ["presence", "publish", "subscribe", "presence_subscribe", "annotation_publish"]
    assert seen["whole"] == {"params": {}, "modes": default}
    assert seen["flags"] == ["publish", "presence_subscribe"]
    assert seen["received"] == 0


async def test_rtl10b_history_until_attach_continues_below_the_rewound_messages(js):
    seen = await js("rewind_and_until_attach")
    assert seen["history"] == ["m3", "m2", "m1", "m0"]
    assert seen["backlog"] is True
    assert seen["empty"] is False
    assert seen["again"] == ["m5", "live"], "detach and attach rewinds again"


async def test_rewind_takes_a_number_a_time_a_serial_a_limit_and_a_qualifier(js):
    assert await js("rewind_forms") == {
        "number": ["m2"],
        "time": ["m0", "m1", "m2"],
        "limited": ["m1", "m2"],
        "serial": ["m1", "m2"],
        "qualified": ["m2"],
        "bad": {"code": 40000, "statusCode": 400},
    }


async def test_rewind_ends_at_a_hundred_and_reports_it(js):
    seen = await js("rewind_cap")
    assert (seen["count"], seen["first"], seen["last"]) == (100, "m20", "m119")
    assert seen["reason"]["code"] == 90004


def test_rewind_by_time_reaches_back_as_far_as_requested():
    world = World()
    writer = world.connect()
    for text in "abc":
        writer.publish({"data": text})
        world.pass_ms(1000)
    assert texts(world.connect().attach(params={"rewind": "2s"})) == ["b", "c"]
    assert texts(world.connect().attach(params={"rewind": "2m"})) == ["a", "b", "c"]
    world.pass_ms(119_000)
    assert texts(world.connect().attach(params={"rewind": "72h"[:2] + "m"})) == []


def test_a_reattach_with_a_position_continues_and_does_not_rewind():
    world = World()
    writer = world.connect()
    [ack] = writer.publish({"data": "a"})
    position = ack["res"][0]["serials"][0].partition(":")[0]
    writer.publish({"data": "b"})
    reader = world.connect()
    [attached, *rest] = reader.attach(params={"rewind": "2"}, channelSerial=position)
    assert Flag.RESUMED & attached["flags"]
    assert texts(rest) == ["b"]


def test_attach_resume_without_a_position_neither_rewinds_nor_resumes():
    world = World()
    world.connect().publish({"data": "a"})
    [attached] = world.connect().attach(params={"rewind": "1"}, flags=int(Flag.ATTACH_RESUME))
    assert not Flag.RESUMED & attached["flags"]


def test_an_attach_again_on_a_live_channel_is_resumed_and_sends_nothing_twice():
    world = World()
    reader = world.connect()
    reader.attach()
    [_, message] = reader.publish({"data": "a"})[::-1]
    [attached] = reader.attach(channelSerial=message.get("channelSerial"), flags=32)
    assert Flag.RESUMED & attached["flags"]


def test_a_backlog_can_arrive_late_and_live_messages_stay_behind_it():
    world = World()
    writer = world.connect()
    writer.publish({"data": "a"})
    fault = world.hub.faults.set("delay_backlog", ms=500)
    reader, other = world.connect(), world.connect()
    [attached] = reader.attach(params={"rewind": "1"})
    assert Flag.HAS_BACKLOG & attached["flags"]
    other.attach()  # without a backlog
    assert fault.fired == 1
    writer.publish({"data": "b"})
    assert (texts(reader.take()), texts(other.take())) == ([], ["b"])
    world.pass_ms(500)
    assert texts(reader.take()) == ["a", "b"]
    writer.publish({"data": "c"})
    assert texts(reader.take()) == ["c"]


def test_a_late_backlog_of_a_channel_that_was_left_does_not_arrive():
    world = World()
    world.connect().publish({"data": "a"})
    reader = world.connect()
    with world.hub.faults.on("delay_backlog", ms=500):
        reader.attach(params={"rewind": "1"})
    reader.send(action=Action.DETACH, channel="room")
    world.pass_ms(500)
    assert texts(reader.take()) == []
    assert texts(reader.attach(params={"rewind": "1"})) == ["a"]


@pytest.mark.parametrize("rewind", ["", "x", "-1", "10h", "9999999999", "1.5", "٣"])
def test_an_invalid_rewind_fails_the_channel_and_not_the_connection(rewind):
    peer = World().connect()
    [answer] = peer.attach(params={"rewind": rewind})
    assert answer["action"] == Action.ERROR
    assert answer["channel"] == "room"
    assert answer["error"]["code"] == 40000
    assert peer.attach()[0]["action"] == Action.ATTACHED


def test_a_connection_attaches_up_to_its_limit_and_keeps_its_channels():
    world = World(channels_per_connection=3)
    peer = world.connect()
    answers = [peer.attach(f"c{n}")[0] for n in range(4)]
    assert [a["action"] for a in answers] == [Action.ATTACHED] * 3 + [Action.ERROR]
    assert answers[3]["error"]["code"] == 90021
    assert peer.attach("c0")[0]["action"] == Action.ATTACHED

"""Appends that are held back: OLD:token-rate-limits#rollup."""

from __future__ import annotations

from channel_server.worlds import World, change, created, texts
from localably.frames import Flag


async def test_appends_are_rolled_up_and_another_publish_overtakes_them(js):
    seen = await js("rollup")
    assert [(m["action"], m["data"]) for m in seen["live"]] == [
        ("message.create", "a"),
        ("message.append", "b"),
        ("message.create", "overtakes"),
        ("message.append", "cd"),
    ]
    assert [m["data"] for m in seen["history"]] == ["overtakes", "abcd"]


def rolled_up():
    world = World()
    reader, writer = world.connect(), world.connect(appendRollupWindow="40")
    reader.attach("mutable:a")
    serial = created(writer)
    change(writer, 5, serial, data="a")
    assert texts(reader.take()) == ["x", "a"]
    return world, reader, writer, serial


def test_the_first_append_is_delivered_at_once_and_opens_a_window():
    world = World()
    reader, writer = world.connect(), world.connect(appendRollupWindow="40")
    reader.attach("mutable:a")
    serial = created(writer)
    reader.take()
    change(writer, 5, serial, data="a")
    assert texts(reader.take()) == ["a"]
    change(writer, 5, serial, data="b")
    assert reader.take() == []
    world.pass_ms(40)
    assert texts(reader.take()) == ["b"]
    change(writer, 5, serial, data="c")
    assert reader.take() == []  # the delivery of "b" opened the next window
    world.pass_ms(40)
    assert texts(reader.take()) == ["c"]
    world.pass_ms(40)
    change(writer, 5, serial, data="d")
    assert texts(reader.take()) == ["d"]


def test_one_window_is_one_delivery_with_the_last_extras():
    world, reader, writer, serial = rolled_up()
    change(writer, 5, serial, data="b", extras={"n": 1})
    change(writer, 5, serial, data="c", extras={"n": 2})
    assert reader.take() == []
    world.pass_ms(40)
    [delivery] = reader.take()
    [message] = delivery["messages"]
    assert (message["data"], message["extras"]) == ("bc", {"n": 2})


def test_a_reader_that_was_cut_off_gets_the_held_append_that_was_overtaken():
    world, reader, writer, serial = rolled_up()
    change(writer, 5, serial, data="b")
    writer.publish({"data": "other"}, channel="mutable:a")
    [overtaking] = reader.take()
    reader.connection.lose(world.now_ms)
    world.pass_ms(40)
    again = world.connect(resume=reader.connected["connectionDetails"]["connectionKey"])
    position = overtaking["channelSerial"]
    attached, *missed = again.attach("mutable:a", channelSerial=position)
    assert attached["flags"] & Flag.RESUMED
    assert texts(missed) == ["xab"]
    [delivery] = missed
    assert delivery["channelSerial"] > position


def test_an_append_that_joins_a_held_one_does_not_count_towards_the_rates():
    world = World(enforce_limits=True, connection_rate_per_s=50)
    writer = world.connect(appendRollupWindow="40")
    serial = created(writer)
    refused = 0
    for _ in range(200):
        refused += any("error" in answer for answer in change(writer, 5, serial, data="t"))
        world.pass_ms(8)
    assert refused == 0
    assert world.channel("mutable:a").log.find(serial).fields["data"] == "x" + "t" * 200


def test_the_position_never_goes_back_after_an_append_was_overtaken():
    world, reader, writer, serial = rolled_up()
    change(writer, 5, serial, data="b")
    writer.publish({"data": "other"}, channel="mutable:a")
    world.pass_ms(40)
    positions = [frame["channelSerial"] for frame in reader.take()]
    assert len(positions) == 2
    assert positions == sorted(positions)


def test_an_attach_meanwhile_gets_no_text_twice():
    world, reader, writer, serial = rolled_up()
    change(writer, 5, serial, data="b")
    late = world.connect()
    frames = late.attach("mutable:a", params={"rewind": "1"})
    assert texts(frames) == ["xab"]
    world.pass_ms(40)
    assert late.take() == []
    assert texts(reader.take()) == ["b"]


def test_an_update_does_not_overtake_the_appends_before_it():
    world, reader, writer, serial = rolled_up()
    change(writer, 5, serial, data="b")
    change(writer, 1, serial, data="new")
    assert texts(reader.take()) == ["b", "new"]
    world.pass_ms(40)
    assert reader.take() == []

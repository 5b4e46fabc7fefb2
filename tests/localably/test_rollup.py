"""Appends that are held back: OLD:token-rate-limits#rollup."""

from __future__ import annotations

from channel_server.worlds import World, change, created, texts


async def test_appends_are_rolled_up_and_another_publish_overtakes_them(js):
    seen = await js("rollup")
    assert [(m["action"], m["data"]) for m in seen["live"]] == [
        ("message.create", "a"),
        ("message.create", "overtakes"),
        ("message.append", "bcd"),
    ]
    assert [m["data"] for m in seen["history"]] == ["overtakes", "abcd"]


def rolled_up():
    world = World()
    reader, writer = world.connect(), world.connect(appendRollupWindow="40")
    reader.attach("mutable:a")
    serial = created(writer)
    reader.take()
    return world, reader, writer, serial


def test_one_window_is_one_delivery_with_the_last_extras():
    world, reader, writer, serial = rolled_up()
    change(writer, 5, serial, data="b", extras={"n": 1})
    change(writer, 5, serial, data="c", extras={"n": 2})
    assert reader.take() == []
    world.pass_ms(40)
    [delivery] = reader.take()
    [message] = delivery["messages"]
    assert (message["data"], message["extras"]) == ("bc", {"n": 2})


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
    assert texts(frames) == ["xb"]
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

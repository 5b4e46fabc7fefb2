"""Fan-out: which attachments receive a message, encoded once."""

from __future__ import annotations

from channel_server.worlds import World, texts
from localably.frames import Action, Flag, Format


async def test_rtl7f_own_messages_do_not_come_back_without_echo(js):
    assert await js("echo") == ["other"]


def test_every_attachment_of_a_format_gets_the_same_bytes():
    world = World()
    peers = [world.connect() for _ in range(3)] + [world.connect(Format.MSGPACK)]
    for peer in peers:
        peer.attach()
    world.connect().publish({"name": "n", "data": "x"})
    frames = [peer.connection.outgoing[0] for peer in peers]
    assert frames[0] is frames[1] is frames[2]
    assert frames[0] != frames[3]
    assert [texts(peer.take()) for peer in peers] == [["x"]] * 4


def test_an_attachment_without_subscribe_receives_nothing():
    world = World()
    peer = world.connect()
    peer.attach(flags=int(Flag.PUBLISH))
    world.connect().publish({"data": "x"})
    assert peer.take() == []


def test_messages_carry_the_qualified_name_of_the_attachment():
    world = World()
    peer = world.connect()
    [attached] = peer.attach("[?rewind=1]room")
    assert attached["channel"] == "[?rewind=1]room"
    world.connect().publish({"data": "x"})
    [delivered] = peer.take()
    assert (delivered["action"], delivered["channel"]) == (Action.MESSAGE, "[?rewind=1]room")


async def test_ephemeral_messages_are_delivered_and_not_kept(js):
    assert await js("ephemeral") == {"live": ["gone", "kept"], "history": ["kept"]}


def test_a_publish_of_several_messages_is_resumed_whole_or_not_at_all():
    world = World()
    writer = world.connect()
    [ack] = writer.publish({"data": "a"})
    serial = ack["res"][0]["serials"][0]
    writer.publish({"data": "b"}, {"data": "c"})
    frames = world.connect().attach(channelSerial=serial.partition(":")[0])
    assert [len(f.get("messages", ())) for f in frames] == [0, 2]


def test_the_seen_serials_of_an_attachment_are_dropped_with_the_messages():
    world = World(persisted_retention_s=5)
    reader, writer = world.connect(), world.connect()
    reader.attach("mutable:a")
    for _ in range(3000):
        writer.publish({"data": "x"}, channel="mutable:a")
    attachment = reader.connection.attached("mutable:a")
    assert len(attachment.seen) == 3000
    world.pass_ms(10_000)
    assert attachment.seen == set()

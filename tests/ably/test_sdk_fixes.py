"""Frame decoding: one bad message does not lose the rest of its frame."""

from __future__ import annotations

import pytest
from ably import AblyRealtime
from ably.types.message import Message

from rehydrate.ably.sdk_fixes import harden


@pytest.fixture
async def channel():
    client = AblyRealtime(key="a.b:" + "c" * 32, auto_connect=False)
    made = client.channels.get("c")
    made.delivered, made.backlogs = [], []
    harden(made, made.backlogs.append)

    def deliver(message):
        made.delivered.append(message)

    made._RealtimeChannel__message_emitter.on(deliver)
    yield made
    await client.close()


def frame(*messages, **more):
    fields = {"action": 15, "channel": "c", "channelSerial": "s", "id": "f", "timestamp": 1}
    return {**fields, "messages": list(messages), **more}


def delivered(channel):
    return [(message.id, message.data) for message in channel.delivered]


def test_encodings_are_undone_as_for_history(channel):
    channel._on_message(
        frame(
            {"name": "t", "data": '{"a": [1]}', "encoding": "json"},
            {"name": "t", "data": "6Kqe", "encoding": "utf-8/base64"},
            {"name": "t", "data": "/w==", "encoding": "base64"},
            {"name": "t", "data": "plain"},
        )
    )
    assert delivered(channel) == [
        ("f:0", {"a": [1]}),
        ("f:1", "語"),
        ("f:2", b"\xff"),
        ("f:3", "plain"),
    ]


def test_a_message_that_the_sdk_rejects_is_skipped_and_the_others_are_delivered(
    channel, caplog, monkeypatch
):
    decode = Message.from_encoded

    def picky(message, **more):
        if message["data"] == "refused":
            raise RuntimeError("secret")
        return decode(message, **more)

    monkeypatch.setattr(Message, "from_encoded", picky)
    channel._on_message(frame(*({"name": "t", "data": each} for each in ("a", "refused", "b"))))
    assert delivered(channel) == [("f:0", "a"), ("f:2", "b")]
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
    assert channel._RealtimeChannel__channel_serial == "s"


def test_other_frames_are_delivered_unchanged(channel):
    channel._on_message({"action": 11, "channel": "c", "channelSerial": "at", "flags": 0})
    assert channel._RealtimeChannel__attach_serial == "at"
    channel._on_message(frame())
    assert channel.delivered == []


@pytest.mark.parametrize(("flags", "has_backlog"), [({}, False), ({"flags": 2}, True)])
def test_the_flag_has_backlog_of_an_attach_is_reported(channel, flags, has_backlog):
    channel._on_message({"action": 11, "channel": "c", "channelSerial": "s", **flags})
    assert channel.backlogs == [has_backlog]

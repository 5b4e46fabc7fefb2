"""Deltas as VCDIFF, decoded by the decoders of the stock SDKs."""

from __future__ import annotations

import pytest
from ably import AblyVCDiffDecoder
from ably.types.channeloptions import ChannelOptions
from hypothesis import given
from hypothesis import strategies as st

from channel_server.clients import arrives, into
from channel_server.worlds import World, change, created
from localably.deltas import encode

JSON_VALUES = [
    {"foo": "bar", "count": 1, "status": "active"},
    {"foo": "bar", "count": 2, "status": "active"},
    {"foo": "bar", "count": 2, "status": "inactive"},
    {"foo": "bar", "count": 3, "status": "inactive"},
]
TEXTS = ["the quick brown fox " * 3 + end for end in ("jumps", "jümps", "sleeps", "sleeps!")]
BYTES = [[*range(200)], [*range(100), 7, 7, *range(100, 200)], [1, 2]]


@pytest.mark.parametrize(("values", "deltas"), [(JSON_VALUES, 3), (TEXTS, 3)])
async def test_ably_js_decodes_what_was_published_from_deltas(js, values, deltas):
    seen = await js("deltas", channel="room", values=values, bytes=BYTES)
    assert seen["data"] == seen["plain"] == [*values, *BYTES, *values]
    between_kinds = 1  # the second list of bytes; the third is smaller than any delta
    assert seen["decoded"] >= 2 * deltas + between_kinds
    assert seen["extras"].count("vcdiff") == seen["decoded"]


@pytest.mark.parametrize("silent", [False, True])
async def test_after_a_dropped_delivery_the_next_message_is_sent_whole(js, silent):
    seen = await js("deltas_after_a_gap", values=TEXTS, silent=silent)
    assert seen["data"] == [TEXTS[0], *TEXTS[2:]]
    assert seen["updates"] == (0 if silent else 1)
    assert seen["state"] == "attached"


async def test_an_update_is_a_delta_to_the_append_before_it(js):
    text = TEXTS[0]
    seen = await js("deltas_of_appends", text=text)
    assert seen["data"] == [text, text + "!", text + "?"]
    assert seen["deltas"] == [None, "vcdiff", "vcdiff"]


async def test_ably_python_decodes_what_was_published_from_deltas(clients):
    decoded = []

    class Decoder(AblyVCDiffDecoder):
        def decode(self, delta, base):
            decoded.append(len(delta))
            return super().decode(delta, base)

    client = await clients.realtime(vcdiff_decoder=Decoder())
    channel = client.channels.get("room", ChannelOptions(params={"delta": "vcdiff"}))
    got = []
    await channel.subscribe(into(got))
    rest = await clients.rest()
    for value in (*JSON_VALUES, *TEXTS, bytes(BYTES[0]), bytes(BYTES[1])):
        await rest.channels.get("room").publish("n", value)
    await arrives(got, 10)
    values = [bytes(m.data) if isinstance(m.data, bytearray) else m.data for m in got]
    assert values == [*JSON_VALUES, *TEXTS, bytes(BYTES[0]), bytes(BYTES[1])]
    assert len(decoded) == 7


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=300), st.integers(0, 300))
def test_every_payload_is_decoded_from_its_delta(source, other, at):
    decoder = AblyVCDiffDecoder()
    for target in (other, source[:at] + other + source[at:], source, source[:at], source * 2):
        if target:
            assert bytes(decoder.decode(encode(source, target), source)) == target


def test_a_message_without_data_is_followed_by_a_whole_one():
    world = World()
    peer = world.connect()
    peer.attach("mutable:a", params={"delta": "vcdiff"})
    serial = created(peer, data="x" * 100)
    created(peer, data=None)
    frames = change(peer, 1, serial, data="x" * 101)
    [message] = [m for frame in frames for m in frame.get("messages", ())]
    assert message["data"] == "x" * 101
    assert "encoding" not in message

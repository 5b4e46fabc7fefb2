"""The decoder: invalid input is refused, and has no other effect."""

from __future__ import annotations

import contextlib

import msgpack
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from channel_server.worlds import payload_of
from localably.errors import FrameError
from localably.frames import Format, decode, for_json, from_json, pack, unpack, websocket_frame

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.sampled_from(Format))
def test_packed_values_decode_to_the_same(value, form):
    again = unpack(pack(value, form), form)
    assert again == value or form is Format.JSON


# from a coverage-guided run: each of these covered another branch of the decoder
SEEDS = [
    b"",
    b"\x80",
    b"\x81\xa6action\xff",
    b"\x81\xa6action\xc0",
    b"\x81\xa6action\xc3",
    b"\x82\xa6action\x0f\xa8messages\xc0",
    b"\x82\xa6action\x0a\xa5flags\xd3\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x81\xc4\x01a\x01",
    b"\xc1",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 2000 + b"\x00",
    b"\x81\xa1" * 1500,
    b"\x81\xa6action\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x81\xa6action\xa2\xff\xfe",
    b"\x81\x93\x01\x02\x03\x01",
]


@pytest.mark.parametrize("data", SEEDS, ids=range(len(SEEDS)))
def test_every_seed_is_decoded_or_refused(data):
    refused_or_decoded(data)


@given(st.binary(max_size=200))
@example(b"\xc1")
def test_any_bytes_are_decoded_or_refused(data):
    refused_or_decoded(data)


@given(
    st.text(max_size=200)
    | VALUES.map(lambda v: orjson.dumps(v, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode())
)
@example("[" * 5000)
@example('{"action":1e999}')
@example('{"action":"\\ud800"}')
def test_any_text_is_decoded_or_refused(text):
    refused_or_decoded(text)


@given(
    st.dictionaries(
        st.sampled_from(
            ["action", "flags", "messages", "params", "channel", "msgSerial", "auth", "x"]
        ),
        VALUES,
    )
)
def test_fields_of_any_type_are_accepted_or_refused(fields):
    refused_or_decoded(msgpack.packb(fields))


def refused_or_decoded(data):
    with contextlib.suppress(FrameError):
        message = decode(data, Format.JSON if isinstance(data, str) else Format.MSGPACK)
        assert isinstance(message["action"], int)
        assert None not in message.values()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_a_websocket_frame_contains_its_payload(size):
    frame = websocket_frame(b"x" * size, 2)
    assert frame[0] == 0x82
    assert payload_of(frame) == b"x" * size


@given(st.binary(), st.sampled_from([None, "json", "utf-8/cipher+aes-128-cbc"]))
def test_binary_data_goes_through_json_and_back(data, encoding):
    message = {"data": data} | ({"encoding": encoding} if encoding else {})
    shown = for_json(message)
    assert shown["encoding"].endswith("base64")
    assert from_json(shown) == message


def test_invalid_base64_is_refused():
    with pytest.raises(FrameError):
        from_json({"data": "not base64!", "encoding": "base64"})

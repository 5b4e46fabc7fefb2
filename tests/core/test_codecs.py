"""Message-per-token: names and headers, also as other publishers leave them out."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.builders import event, published
from rehydrate.core import codecs
from rehydrate.core.codecs import decode, decode_all
from rehydrate.core.event import UNDECODED, ChannelMessage, Event
from rehydrate.core.text.content import MAX_SEQ

DEEP = json.loads("[" * 100 + "]" * 100)


def read(name, data=None, **headers):
    return decode(published(name, data, **headers))


def test_a_prompt_is_its_id_and_its_text():
    prompt = read("user-input", {"promptId": "p-1", "text": "hi"}, client_id="ann")
    assert prompt[:4] == ("prompt", "p-1", 1, None)
    assert (prompt.text, prompt.client_id) == ("hi", "ann")


def test_a_prompt_without_an_id_has_that_of_its_message():
    assert read("user-input", {"text": "hi"}).message_id == "m0"
    assert read("user-input", {"promptId": "", "text": "hi"}).message_id == "m0"
    assert read("user-input", "hi").message_id == "m0"


@pytest.mark.parametrize("data", [None, {"promptId": 5, "text": "hi"}])
def test_a_prompt_without_data_or_with_an_invalid_id_is_not_an_event(data):
    assert read("user-input", data) is None


@pytest.mark.parametrize(
    ("data", "text", "unreadable"),
    [
        (b"hi", "hi", 0),
        ({"promptId": "p", "parts": [{"type": "text", "text": "a"}, "b"]}, "ab", 0),
        ({"promptId": "p", "text": "a", "parts": [{"type": "file", "url": "u"}]}, "a", 1),
        (5, "", 1),
        ([], "", 1),
        ({"promptId": "p"}, "", 1),
        ({"promptId": "p", "text": 5}, "", 1),
        (UNDECODED, "", 1),
    ],
)
def test_a_prompt_says_what_of_it_could_not_be_read(data, text, unreadable):
    prompt = read("user-input", data)
    assert (prompt.kind, prompt.text, prompt.unreadable) == ("prompt", text, unreadable)


def test_a_prompt_without_any_id_is_not_an_event():
    assert decode(ChannelMessage("user-input", "hi", None, None, 0)) is None


def test_a_start_names_its_response_and_its_prompt():
    begun = read("start", None, responseId="r", seq=0, gen=2, promptId="p-1")
    assert begun[:4] == ("start", "r", 2, 0)
    assert begun.prompt_id == "p-1"


@pytest.mark.parametrize("name", ["token", "refusal", "reasoning"])
def test_text_is_appended_to_its_part(name):
    told = read(name, "語", responseId="r", seq=3, part="x")
    assert told[:4] == (name, "r", 1, 3)
    assert (told.text, told.part) == ("語", "x")


@pytest.mark.parametrize("data", [5, b"\xff", {}, ["a"], True, {"text": 5}, UNDECODED], ids=str)
def test_data_that_is_not_text_is_void_and_keeps_its_place(data):
    told = read("token", data, responseId="r", seq=3)
    assert told[:4] == ("void", "r", 1, 3)
    assert (told.text, told.unreadable) == (None, 1)


@pytest.mark.parametrize(
    ("data", "text"), [(b"\xe8\xaa\x9e", "語"), ({"text": "a", "of": 1}, "a"), (None, "")]
)
@pytest.mark.parametrize("name", ["token", "refusal", "reasoning", "tool_args"])
def test_text_in_another_shape_is_text(name, data, text):
    told = read(name, data, responseId="r", seq=3, toolCallId="c")
    assert (told.kind, told.text, told.unreadable) == (name, text, 0)


def test_a_tool_call_has_a_name_and_arguments():
    told = read("tool_call", {"name": "f", "args": {"q": 1}}, responseId="r", seq=1, toolCallId="c")
    assert (told.kind, told.tool_call_id, told.name, told.value) == (
        "tool_call",
        "c",
        "f",
        {"q": 1},
    )


@pytest.mark.parametrize("data", [None, {}, {"name": None, "args": None}])
def test_a_tool_call_may_leave_its_arguments_to_follow(data):
    told = read("tool_call", data, responseId="r", seq=1, toolCallId="c")
    assert (told.kind, told.name, told.value) == ("tool_call", None, "")


@pytest.mark.parametrize(
    ("data", "unreadable"), [("f(1)", 1), ([1], 1), (UNDECODED, 1), ({"name": "f"}, 0), (None, 0)]
)
def test_a_tool_call_that_is_not_an_object_cannot_be_read(data, unreadable):
    told = read("tool_call", data, responseId="r", seq=1, toolCallId="c")
    assert (told.kind, told.value, told.unreadable) == ("tool_call", "", unreadable)


def test_a_tool_call_without_an_id_has_that_of_its_message_or_a_number():
    assert read("tool_call", {}, responseId="r", seq=1).tool_call_id == "m0"
    nameless = published("tool_call", {}, responseId="r", seq=4)._replace(id=None)
    assert decode(nameless).tool_call_id == "call-4"


def test_arguments_are_text_of_their_call():
    told = read("tool_args", "{", responseId="r", seq=2, toolCallId="c")
    assert (told.kind, told.tool_call_id, told.text) == ("tool_args", "c", "{")


@pytest.mark.parametrize(
    ("data", "result"),
    [({"name": "f", "result": 1}, 1), ("x", "x"), (b"x", "x"), ({"text": "x"}, None), (None, None)],
)
def test_a_result_completes_its_call(data, result):
    told = read("tool_result", data, responseId="r", seq=2, toolCallId="c")
    assert (told.kind, told.tool_call_id, told.value) == ("tool_result", "c", result)


@pytest.mark.parametrize(
    ("name", "data", "headers"),
    [
        ("tool_args", "{", {}),
        ("tool_args", 5, {"toolCallId": "c"}),
        ("tool_args", "{", {"toolCallId": ""}),
        ("tool_result", {"result": 1}, {"toolCallId": ""}),
        ("tool_result", {}, {}),
        ("tool_result", b"\xff", {"toolCallId": "c"}),
        ("tool_result", UNDECODED, {"toolCallId": "c"}),
        ("tool_result", {"result": math.nan}, {"toolCallId": "c"}),
        ("tool_call", {"args": [b""]}, {"toolCallId": "c"}),
        ("tool_call", {"args": DEEP}, {"toolCallId": "c"}),
    ],
)
def test_a_step_of_a_call_that_cannot_be_read_keeps_its_place(name, data, headers):
    told = read(name, data, responseId="r", seq=2, **headers)
    assert told[:4] == ("void", "r", 1, 2)
    assert told.unreadable == 1


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (5, "5"),
        (5.0, "5"),
        (1.5, "1.5"),
        (1e30, "1e+30"),
        (True, None),
        ([], None),
        (math.inf, None),
    ],
)
def test_a_number_in_place_of_a_label_counts_as_javascript_shows_it(value, label):
    assert read("token", "a", responseId="r", part=value).part == label


@pytest.mark.parametrize("given", [{}, [], 0, False])
def test_a_prompt_whose_id_is_not_a_string_is_not_an_event(given):
    assert read("user-input", {"promptId": given, "text": "hi"}) is None


def test_a_stop_has_a_status():
    told = read(
        "stop", {"usage": {"tokens": 3}}, responseId="r", seq=9, status="failed", error={"code": 1}
    )
    assert (told.status, told.value, told.error) == ("failed", {"tokens": 3}, {"code": 1})


@pytest.mark.parametrize(
    ("status", "meant"),
    [
        (None, "completed"),
        ("cancelled", "cancelled"),
        ("interrupted", "interrupted"),
        ("incomplete", "incomplete"),
        ("in_progress", "failed"),
        ("odd", "completed"),
        (5, "completed"),
        ({}, "completed"),
        ([], "completed"),
    ],
)
def test_the_status_of_a_stop_is_always_terminal(status, meant):
    assert read("stop", None, responseId="r", status=status).status == meant


def test_a_stop_may_have_its_error_in_its_data():
    assert read("stop", {"reason": "length"}, responseId="r").error == "length"


@pytest.mark.parametrize(
    "odd", [math.inf, b"x", {1: 2}, DEEP], ids=["inf", "bytes", "keys", "deep"]
)
def test_values_that_are_not_json_are_left_out_of_a_stop(odd):
    told = read("stop", {"usage": odd, "reason": odd}, responseId="r", error=odd)
    assert (told.kind, told.value, told.error) == ("stop", None, None)


@pytest.mark.parametrize(
    ("data", "text", "parts"),
    [
        ("abc", "abc", None),
        ({"text": "abc"}, "abc", None),
        (
            {"text": "a", "parts": [{"type": "text", "text": "a"}]},
            "a",
            [{"type": "text", "text": "a"}],
        ),
        ({"text": "a", "parts": [{"type": "image"}]}, "a", None),
        ({"text": "", "parts": []}, "", None),
        (b"abc", "abc", None),
        (None, None, None),
        (5, None, None),
        ({}, None, None),
        ({"text": 5, "parts": 5}, None, None),
    ],
)
def test_a_repair_is_text_and_parts_or_a_pointer(data, text, parts):
    told = read("response-complete", data, responseId="r", seq=4)
    assert (told.kind, told.text, told.value) == ("repair", text, parts)
    assert told.is_pointer is (text is None and parts is None)


def test_a_cancel_is_understood():
    assert read("cancel", None, responseId="r").kind == "cancel"


@pytest.mark.parametrize("name", ["", "Token", "\x01", "tokens", None, 5, b"token"])
@pytest.mark.parametrize("data", ["x", {"text": "x"}, b"\xff", UNDECODED], ids=str)
def test_text_of_a_response_under_another_name_cannot_be_read(name, data):
    told = read(name, data, responseId="r")
    assert (*told[:4], told.unreadable) == ("void", "r", 1, None, 1)
    assert decode(ChannelMessage(name, data, "m", None, 0)) is None
    assert read(name, data, seq=1) is None


@pytest.mark.parametrize("data", [None, "", {}, {"progress": 1}, [1], 5], ids=str)
def test_without_text_another_name_is_an_event_only_if_it_is_numbered(data):
    assert read("odd", data, responseId="r") is None
    told = read("odd", data, responseId="r", seq=4)
    assert (told.kind, told.seq, told.unreadable) == ("void", 4, 1)


@pytest.mark.parametrize("name", sorted(codecs.IGNORED_NAMES))
def test_some_names_never_carry_content_and_keep_their_place_if_they_have_one(name):
    assert read(name, "x", responseId="r") is None
    told = read(name, "x", responseId="r", seq=4)
    assert (told.kind, told.seq, told.unreadable) == ("void", 4, 0)


def test_a_name_may_be_mapped_to_a_token():
    names = frozenset({"message", "log"})
    for name in names:
        told = decode(published(name, {"text": "x"}, responseId="r", seq=1, part="p"), names)
        assert (told.kind, told.text, told.part) == ("token", "x", "p")
    assert [e.kind for e in decode_all([published("message", "x", responseId="r")], names)] == [
        "token"
    ]


def test_text_under_another_name_is_not_an_event_where_its_place_is_unknown():
    assert read("odd", "x", responseId="r", seq=-1) is None
    assert read("odd", "x", responseId="") is None
    ai = {"headers": {"responseId": "r"}, "ai": {}}
    assert decode(ChannelMessage("odd", "x", "m", None, 0, extras=ai)) is None


def test_a_response_without_a_serial_cannot_grow_and_cannot_be_read():
    told = decode(
        ChannelMessage("response", "x", "m", None, 0, extras={"headers": {"responseId": "r"}})
    )
    assert (told.kind, told.unreadable) == ("void", 1)


@pytest.mark.parametrize("action", [3, 4, 5, -1])
def test_actions_that_do_not_change_the_content_are_not_events(action):
    assert decode(published("token", "x", responseId="r", seq=1, action=action)) is None
    assert read("odd", "x", responseId="r", action=action) is None


@pytest.mark.parametrize(("name", "text"), [("token", "x"), ("odd", None)])
def test_an_update_is_the_same_event_with_other_content(name, text):
    update = published(name, "x", responseId="r", seq=1, action=1)
    told = decode(update._replace(version_serial=f"{update.serial}+"))
    assert (told.seq, told.serial, told.text) == (1, update.serial, text)
    assert told.edit == f"{update.serial}+"
    assert decode(update).edit is None
    assert decode(update._replace(serial=None)) is None


@pytest.mark.parametrize(
    ("name", "data", "content"),
    [
        ("token", "x", ("token", "", None)),
        ("reasoning", {"text": "x"}, ("reasoning", "", None)),
        ("tool_args", b"\xff", ("tool_args", "", None)),
        ("tool_call", "f()", ("tool_call", None, "")),
        ("tool_result", 5, ("tool_result", None, None)),
        ("stop", None, ("stop", None, None)),
        ("odd", "x", ("void", None, None)),
    ],
)
def test_a_delete_is_the_same_event_without_content(name, data, content):
    told = read(name, data, responseId="r", seq=1, toolCallId="c", action=2)
    assert (told.kind, told.text, told.value) == content
    assert (told.seq, told.unreadable) == (1, 0)
    assert read("response-complete", data, responseId="r", seq=1, action=2) is None


@pytest.mark.parametrize(
    ("data", "id_"), [({"promptId": "p", "text": "x"}, "p"), ("x", "m0"), (None, "m0")]
)
def test_a_deleted_prompt_keeps_its_id(data, id_):
    told = read("user-input", data, action=2)
    assert (told.message_id, told.text, told.unreadable) == (id_, "", 0)


@pytest.mark.parametrize(
    "extras", [None, {}, "x", 5, [], {"headers": None}, {"headers": []}, {"headers": 5}]
)
def test_without_headers_a_token_belongs_to_the_open_anonymous_stream(extras):
    told = decode(ChannelMessage("token", "x", "m", None, 0, extras=extras))
    assert told[:4] == ("token", None, 1, None)


@pytest.mark.parametrize(
    ("seq", "read_as"),
    [(0, 0), (7, 7), ("7", 7), ("007", 7), (7.0, 7), (MAX_SEQ, MAX_SEQ), (None, None)],
)
def test_a_number_may_be_written_in_any_sensible_way(seq, read_as):
    assert read("token", "x", responseId="r", seq=seq).seq == read_as


@pytest.mark.parametrize(
    "seq",
    [-1, MAX_SEQ + 1, 10**400, 1.5, math.nan, math.inf, True, False, "", "x", "-1", "1.0", "٣", "9" * 11,
     [], {}, b"7"],
    ids=str,
)  # fmt: skip
def test_a_message_with_an_invalid_seq_is_not_an_event(seq):
    assert read("token", "x", responseId="r", seq=seq) is None


@pytest.mark.parametrize(("gen", "read_as"), [(None, 1), (1, 1), ("2", 2), (3.0, 3)])
def test_without_a_gen_it_is_the_first(gen, read_as):
    assert read("token", "x", responseId="r", gen=gen).gen == read_as


@pytest.mark.parametrize("gen", [0, -1, "x", True])
def test_a_message_with_an_invalid_gen_is_not_an_event(gen):
    assert read("token", "x", responseId="r", gen=gen) is None


@pytest.mark.parametrize("rid", ["", "a\nb", "\x00", "x" * 257, 5, {}, "\ud83d", b"r"], ids=repr)
def test_a_message_with_an_invalid_response_id_is_not_an_event(rid):
    assert read("token", "x", responseId=rid) is None


@pytest.mark.parametrize(
    ("part", "read_as"),
    [("x", "x"), (0, "0"), (1.5, "1.5"), ({}, None), (None, None), (math.nan, None)],
)
def test_a_part_may_be_numbered(part, read_as):
    assert read("token", "x", responseId="r", part=part).part == read_as


def test_a_message_of_a_replay_names_the_response():
    assert read("token", "x", responseId="r", replayOf="q").replay_of == "q"
    assert read("token", "x", responseId="r", replayOf=5).replay_of is None


@pytest.mark.parametrize(
    ("status", "kept"),
    [("failed", "failed"), ("completed", None), ("odd", None), (["failed"], None)],
)
def test_a_result_has_the_status_of_its_call(status, kept):
    told = read("tool_result", {"result": 1}, responseId="r", toolCallId="c", status=status)
    assert (told.value, told.status) == (1, kept)


def test_an_ephemeral_message_is_marked():
    extras = {"headers": {"responseId": "r"}, "ephemeral": True}
    assert decode(ChannelMessage("token", "x", "m", None, 0, extras=extras)).ephemeral
    assert not read("token", "x", responseId="r").ephemeral


def test_what_means_nothing_is_left_out_and_its_neighbours_are_not():
    messages = [
        published("token", "a"),
        published("odd"),
        published("token", "b", seq=-1),
        published("token", "c"),
    ]
    assert [each.text for each in decode_all(messages)] == ["a", "c"]


WRITTEN = [
    event("start", 0, prompt_id="p"),
    event("token", 1, "a", part="x"),
    event("refusal", 2, "b"),
    event("reasoning", 3, "c"),
    event("tool_call", 4, tool_call_id="c", name="f", value={"q": [1]}),
    event("tool_args", 5, "{}", tool_call_id="c"),
    event("tool_result", 6, tool_call_id="c", name="f", value=None),
    event("tool_result", 6, tool_call_id="c", value={"error": "no"}, status="failed"),
    event("stop", 7, status="failed", error={"code": 1}, value={"n": 1}, gen=3),
    event("stop", 7, status="completed"),
    event("token", 1, "a", replay_of="q"),
    event("token", 1, "a", ephemeral=True),
]


@pytest.mark.parametrize("written", WRITTEN, ids=lambda each: each.kind)
def test_what_is_published_is_read_as_it_was_written(written):
    name, data, extras = codecs.encode(written)
    message = ChannelMessage(
        name, data, written.id, written.serial, written.timestamp_ms, written.client_id, extras
    )
    assert decode(message) == written


def repaired(parts):
    name, data, extras = codecs.encode(event("repair", 9, value=parts))
    return decode(ChannelMessage(name, data, "m", None, 0, extras=extras)), data


def test_a_repair_carries_text_and_parts():
    parts = [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "a"}]
    told, data = repaired(parts)
    assert (told.text, told.value, data["text"]) == ("a", parts, "a")


def test_a_repair_of_nothing_replaces_by_nothing():
    told, _ = repaired([])
    assert (told.text, told.value, told.is_pointer) == ("", None, False)


def test_a_repair_that_does_not_fit_is_a_pointer():
    told, data = repaired([{"type": "text", "text": "語" * codecs.REPAIR_BYTES}])
    assert data is None
    assert told.is_pointer


@given(st.text(max_size=50), st.integers(0, 3))
def test_split_text_adds_up_and_each_chunk_fits(text, more):
    long = text + "😀" * (more * codecs.CHUNK_CHARACTERS)
    pieces = codecs.split_text(long)
    assert "".join(pieces) == long
    assert all(len(piece.encode(errors="surrogatepass")) <= 48_000 for piece in pieces)
    assert len(pieces) >= 1


@pytest.mark.parametrize("kind", ["prompt", "cancel"])
def test_messages_of_users_are_decoded_as_they_were_encoded(kind):
    written = Event(kind, "x", id="i", text="Why?" if kind == "prompt" else None)
    name, data, extras = codecs.encode(written)
    assert decode(ChannelMessage(name, data, "i", None, 0, extras=extras)) == written

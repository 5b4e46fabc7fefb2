"""Message-per-response: creates, appends, updates and ends, also incomplete ones."""

from __future__ import annotations

import pytest

from core.builders import published
from core.growing import append, at, create, full
from rehydrate.core import appends
from rehydrate.core.codecs import decode
from rehydrate.core.event import DELETE, Version


def test_a_create_is_the_first_version_of_a_response_and_the_whole_of_it():
    event = decode(create(1, "a"))
    assert (event.kind, event.message_id, event.text) == ("token", "r", "a")
    assert event.version == Version(at(1), is_delta=False)
    assert (event.serial, event.seq, event.status) == (at(1), None, None)


def test_an_append_is_a_delta_and_an_update_the_whole():
    assert decode(append(1, 2, "b")).version == Version(at(2), is_delta=True)
    assert decode(full(1, 3, "abc")).version == Version(at(3), is_delta=False)


def test_without_a_response_id_the_channel_message_names_the_response():
    assert decode(create(1, "a", rid=None)).message_id == at(1)
    assert decode(full(1, 2, "ab", rid=None)).message_id == at(1)


def test_an_append_whose_name_is_not_echoed_is_placed_by_its_serial():
    event = decode(append(1, 2, "b", name=None, rid=None))
    assert (event.message_id, event.serial, event.version.is_delta) == (None, at(1), True)


def test_messages_with_other_names_or_without_serials_are_not_of_this_codec():
    assert appends.decode(create(1, "a", name="answer")) is None
    assert appends.decode(append(1, 2, "a", name="answer")) is None
    assert appends.decode(create(1, "a", name=None)) is None
    assert appends.decode(published("response", "a", serials=False, responseId="r")) is None


@pytest.mark.parametrize(
    ("data", "text", "unreadable"),
    [(None, "", 0), ({"text": "a"}, "a", 0), (b"a", "a", 0), (b"\xff", "", 1), (5, "", 1)],
)
def test_data_that_is_not_text_adds_nothing_and_is_counted(data, text, unreadable):
    event = decode(create(1, data))
    assert (event.kind, event.text, event.unreadable) == ("token", text, unreadable)


def test_a_deleted_message_has_no_text():
    for data in ("secret", {"no": "text"}):
        event = decode(full(1, 2, data)._replace(action=DELETE))
        assert (event.text, event.unreadable) == ("", 0)


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ({"phase": "done"}, "completed"),
        ({"phase": "done", "status": "cancelled"}, "cancelled"),
        ({"phase": "done", "status": "in_progress"}, "failed"),
        ({"phase": "done", "status": "no such"}, "completed"),
        ({"phase": "streaming"}, None),
        ("done", None),
        (None, None),
    ],
)
def test_metadata_of_the_operation_end_the_response(metadata, status):
    assert decode(append(1, 2, "")._replace(version_metadata=metadata)).status == status


def test_a_header_ends_the_response_too():
    message = append(1, 2, "")
    message.extras["headers"]["phase"] = "done"
    assert decode(message).status == "completed"


def test_response_end_ends_the_response_that_it_names():
    event = decode(published("response-end", {"usage": {"n": 1}}, at_s=3, responseId="r"))
    assert (event.kind, event.message_id, event.status) == ("stop", "r", "completed")
    assert event.value == {"n": 1}
    named = decode(published("response-end", {"responseId": "r"}, status="failed", error="why"))
    assert (named.message_id, named.status, named.error) == ("r", "failed", "why")
    assert decode(published("response-end")) is None
    odd = decode(published("response-end", {"responseId": "r", "error": "why"}, responseId={}))
    assert (odd.message_id, odd.error) == ("r", "why")
    assert decode(published("response-end", {"error": "why"}, responseId="r", error={})).error == {}


def test_codecs_may_be_mixed_in_one_conversation():
    events = [
        decode(create(1, "a")),
        decode(published("token", "b", at_s=2, responseId="s", seq=1)),
    ]
    assert [(event.message_id, event.version is None) for event in events] == [
        ("r", False),
        ("s", True),
    ]

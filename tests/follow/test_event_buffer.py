"""The buffer that all followers of one conversation read from."""

from __future__ import annotations

import pytest

from rehydrate.core.event import Event
from rehydrate.follow import event_buffer
from rehydrate.follow.event_buffer import EventBuffer, FollowEvent


def token(text, seq=1):
    return Event("token", "r", seq=seq, text=text)


def answer(limit):
    return b'{"limit":%d}' % limit


@pytest.fixture
def buffer():
    made = EventBuffer()
    made.restart()
    return made


def test_every_follower_reads_the_same_objects_in_order(buffer):
    start = buffer.number
    for text in "abc":
        buffer.append("token", token(text), "r")
    first, second = buffer.since(start), buffer.since(start)
    assert [each.data["text"] for each in first] == ["a", "b", "c"]
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert buffer.since(buffer.number - 1) == first[-1:]
    assert buffer.since(buffer.number) == []


def test_the_oldest_events_are_dropped_beyond_the_maximum_count(buffer, monkeypatch):
    monkeypatch.setattr(event_buffer, "MAX_EVENTS", 3)
    for number in range(5):
        buffer.append("token", token(str(number)), "r")
    assert [each.data["text"] for each in buffer.since(buffer.first)] == ["2", "3", "4"]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "token", "text": "語" * 20_000},
        {"kind": "tool_result", "tool_call_id": "c", "value": ["x" * 50_000]},
        {"kind": "repair", "value": [{"type": "text", "text": "x" * 50_000}]},
    ],
    ids=lambda fields: fields["kind"],
)
def test_the_oldest_events_are_dropped_beyond_the_maximum_size(buffer, fields):
    kind, rest = fields["kind"], {key: fields[key] for key in fields if key != "kind"}
    for seq in range(1, 200):
        buffer.append(kind, Event(kind, "r", seq=seq, **rest), "r")
    kept = buffer.since(buffer.first)
    assert kept[-1].event.seq == 199
    sizes = [len(event_buffer.dump([each.event.text, each.event.value])) for each in kept]
    assert event_buffer.MAX_BYTES / 2 < sum(sizes) <= event_buffer.MAX_BYTES * 1.5


def test_a_reader_can_resume_from_an_id_until_the_buffer_restarts(buffer):
    buffer.append("token", token("a"), "r")
    (appended,) = buffer.since(buffer.number - 1)
    assert buffer.number_of(appended.id) == appended.number
    buffer.restart()
    assert buffer.number_of(appended.id) is None


@pytest.mark.parametrize(
    "id_", ["", "-", "x", "x-1", "-1", "{}-", "{}-9", "{}--1", "{}-1e1", "{}-٣"]
)
def test_an_id_from_elsewhere_names_no_position(buffer, id_):
    assert buffer.number_of(id_.format(buffer._token)) is None


def test_an_overlong_id_names_no_position(buffer):
    assert buffer.number_of(f"{buffer._token}-{'9' * 5_000}") is None


def test_a_snapshot_is_shared_by_new_followers_until_it_is_too_old(buffer, monkeypatch):
    monkeypatch.setattr(event_buffer, "_SNAPSHOT_REUSE", 3)
    first = buffer.snapshot(50, answer)
    for number in range(3):
        buffer.append("token", token(str(number)), "r")
        assert buffer.snapshot(50, answer) is first
    buffer.append("token", token("x"), "r")
    assert buffer.snapshot(50, answer) is not first


def test_snapshots_are_cached_by_size_and_only_a_few(buffer):
    made = [buffer.snapshot(limit, answer) for limit in (1, 2, 3)]
    assert [each.data["limit"] for each in made] == [1, 2, 3]
    assert buffer.snapshot(3, answer) is made[2]
    assert buffer.snapshot(1, answer) is not made[0]
    buffer.drop_snapshots()
    assert buffer.snapshot(3, answer) is not made[2]


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        (Event("start", "r", seq=0, prompt_id="p"), {"prompt_id": "p"}),
        (Event("token", "r", text="a", part="0"), {"text": "a", "part": "0"}),
        (Event("void", "r"), {"text": ""}),
        (Event("void", "r", unreadable=1), {"text": "", "unreadable": 1}),
        (
            Event("tool_call", "r", tool_call_id="t", name="n", value={}),
            {"tool_call_id": "t", "name": "n", "args": {}},
        ),
        (Event("tool_result", "r", tool_call_id="t", value=0), {"tool_call_id": "t", "result": 0}),
        (
            Event("stop", "r", status="failed", error="e", value={"n": 1}),
            {"status": "failed", "error": "e", "usage": {"n": 1}},
        ),
        (
            Event("repair", "r", value=[{"type": "text", "text": "x"}]),
            {"parts": [{"type": "text", "text": "x"}]},
        ),
        (Event("token", "r", text="a", replay_of="o"), {"text": "a", "replay_of": "o"}),
    ],
)
def test_a_payload_has_the_fields_that_the_event_carries_and_no_others(event, payload):
    appended = FollowEvent(event.kind, 1, "x-1", event=event, message_id="r")
    position = {"message_id": "r", "gen": 1, "seq": event.seq, "serial": None}
    assert appended.data == {**position, **payload}
    assert appended.body is appended.body

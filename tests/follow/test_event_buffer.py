from __future__ import annotations

import pytest

from rehydrate.core.event import Event
from rehydrate.follow import event_buffer as told_module
from rehydrate.follow.event_buffer import EventBuffer, FollowEvent


def token(text, seq=1):
    return Event("token", "r", seq=seq, text=text)


def answer(limit):
    return b'{"limit":%d}' % limit


@pytest.fixture
def telling():
    made = EventBuffer()
    made.begin_anew()
    return made


def test_what_is_told_comes_in_order_to_everybody_as_the_same_object(telling):
    place = telling.number
    for text in "abc":
        telling.tell("token", token(text), "r")
    first, again = telling.since(place), telling.since(place)
    assert [each.data["text"] for each in first] == ["a", "b", "c"]
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert telling.since(telling.number - 1) == first[-1:]
    assert telling.since(telling.number) == []


def test_the_oldest_go_when_there_are_too_many(telling, monkeypatch):
    monkeypatch.setattr(told_module, "MOST_TOLD", 3)
    for number in range(5):
        telling.tell("token", token(str(number)), "r")
    assert [each.data["text"] for each in telling.since(telling.first)] == ["2", "3", "4"]


def test_the_oldest_go_when_they_are_too_long(telling, monkeypatch):
    monkeypatch.setattr(told_module, "MOST_TOLD_CHARACTERS", 10)
    for text in ("aaaaaa", "bbb", "cc"):
        telling.tell("token", token(text), "r")
    assert [each.data["text"] for each in telling.since(telling.first)] == ["bbb", "cc"]


def test_an_id_names_a_place_that_can_be_gone_on_from(telling):
    telling.tell("token", token("a"), "r")
    (told,) = telling.since(telling.number - 1)
    assert telling.number_of(told.id) == told.number
    telling.begin_anew()
    assert telling.number_of(told.id) is None


@pytest.mark.parametrize(
    "id_", ["", "-", "x", "x-1", "-1", "{}-", "{}-9", "{}--1", "{}-1e1", "{}-٣"]
)
def test_an_id_of_something_else_names_no_place(telling, id_):
    assert telling.number_of(id_.format(telling._token)) is None


def test_an_absurdly_long_id_names_no_place(telling):
    assert telling.number_of(f"{telling._token}-{'9' * 5_000}") is None


def test_a_snapshot_is_made_once_for_all_who_join_and_anew_when_it_is_old(telling, monkeypatch):
    monkeypatch.setattr(told_module, "_FRESH", 3)
    first = telling.snapshot(50, answer)
    for number in range(3):
        telling.tell("token", token(str(number)), "r")
        assert telling.snapshot(50, answer) is first
    telling.tell("token", token("x"), "r")
    assert telling.snapshot(50, answer) is not first


def test_snapshots_of_other_sizes_are_others_and_few_are_kept(telling):
    made = [telling.snapshot(limit, answer) for limit in (1, 2, 3)]
    assert [each.data["limit"] for each in made] == [1, 2, 3]
    assert telling.snapshot(3, answer) is made[2]
    assert telling.snapshot(1, answer) is not made[0]
    telling.forget_snapshots()
    assert telling.snapshot(3, answer) is not made[2]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Event("start", "r", seq=0, prompt_id="p"), {"prompt_id": "p"}),
        (Event("token", "r", text="a", part="0"), {"text": "a", "part": "0"}),
        (Event("void", "r"), {"text": ""}),
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
def test_an_event_says_what_it_has_to_say_and_no_more(event, said):
    told = FollowEvent(event.kind, 1, "x-1", event=event, message_id="r")
    place = {"message_id": "r", "gen": 1, "seq": event.seq, "serial": None}
    assert told.data == {**place, **said}
    assert told.body is told.body

"""Replays have a wire form; a schedule keeps the times, respects the rate, and is reproducible."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.builders import event, folded, start, stop, token
from core.replay.test_chunks import plain, responses
from rehydrate.core.replay.schedule import (
    EVEN_PER_S,
    REPLAY_STATES,
    Replay,
    ReplayTerms,
    listed,
    scheduled,
)


@pytest.mark.parametrize("state", REPLAY_STATES)
def test_a_replay_has_ended_in_these_states_alone(state):
    replay = Replay("c", "x", "r", "ai:c", ReplayTerms(), state, 1, 0.0, "admin", 0, {})
    assert replay.ended == (state in {"done", "failed", "cancelled"})


def test_the_body_is_the_wire_form_of_a_replay():
    plan = {"even": True, "joined": 2, "gaps": [[1, 2]]}
    terms = ReplayTerms("repair", 2.0, "ai:c", 3, 5.0)
    body = Replay(
        "c", "x", "r", "ai:c", terms, "done", 4, 1.23456, "admin", 0, plan, finished_ms=1
    ).body()
    assert (body["mode"], body["speed"], body["from_seq"], body["max_rate"]) == (
        "repair",
        2.0,
        3,
        5,
    )
    assert (body["pace"], body["joined"], body["gaps"]) == ("even", 2, [[1, 2]])
    assert (body["seconds"], body["started_at"]) == (1.235, None)
    assert body["finished_at"] == "1970-01-01T00:00:00.001Z"
    plain = Replay("c", "x", "r", "ai:c", terms, "queued", 4, 1.0, "admin", 0, {}).body()
    assert (plain["pace"], plain["joined"], plain["gaps"]) == ("recorded", 0, [])


FAST = ReplayTerms(max_rate=1000)


def spoken(count, apart_s, text="a"):
    """Return a response of *count* tokens, *apart_s* seconds apart."""
    tokens = [token(seq, text, at_s=seq * apart_s) for seq in range(1, count + 1)]
    return folded(start(), *tokens, stop(count + 1, at_s=(count + 1) * apart_s))


def times(schedule):
    return [round(step.at_s, 6) for step in schedule.steps]


def test_the_original_times_and_boundaries_are_kept():
    schedule = scheduled(spoken(4, 0.5), FAST)
    assert times(schedule) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert [step.event.text for step in schedule.steps] == [None, "a", "a", "a", "a", None]
    assert [step.event.seq for step in schedule.steps] == list(range(6))
    assert (schedule.joined, schedule.even, schedule.seconds, schedule.chunks) == (0, False, 2.5, 4)


@pytest.mark.parametrize("speed", [0.5, 2.0, 1000.0])
def test_the_speed_divides_the_times(speed):
    schedule = scheduled(spoken(4, 0.5), FAST._replace(speed=speed))
    wanted = [at_s / speed for at_s in (0, 0.5, 1, 1.5, 2, 2.5)]
    assert all(abs(a - b) < 0.01 for a, b in zip(times(schedule), wanted, strict=True))


def test_chunks_over_the_rate_are_joined_and_counted():
    schedule = scheduled(spoken(100, 0.01), ReplayTerms(max_rate=10))
    assert "".join(step.event.text or "" for step in schedule.steps) == "a" * 100
    assert schedule.chunks < 15
    assert schedule.joined == sum(
        step.chunk_count for step in schedule.steps if step.chunk_count > 1
    )
    assert schedule.seconds < 1.3


def test_what_is_apart_is_not_joined():
    events = [start()]
    for seq in range(1, 41):
        kind = "reasoning" if seq % 2 else "token"
        events.append(event(kind, seq, "a", at_s=seq / 100))
    schedule = scheduled(folded(*events, stop(41, at_s=0.41)), ReplayTerms(max_rate=10))
    assert (schedule.chunks, schedule.joined) == (40, 0)
    assert schedule.seconds > 3.5


def test_as_fast_as_allowed_keeps_the_boundaries():
    schedule = scheduled(spoken(200, 5.0), ReplayTerms(speed=0, max_rate=20))
    assert (schedule.chunks, schedule.joined) == (200, 0)
    assert 202 / 20 <= schedule.seconds <= 202 / 18


def test_no_second_has_more_than_the_rate():
    for speed in (0, 1, 50):
        at = times(scheduled(spoken(300, 0.02), ReplayTerms(speed=speed, max_rate=25)))
        for first, _ in enumerate(at[:-26]):
            assert at[first + 26] - at[first] > 1 - 1e-6


def test_from_a_seq_on_it_begins_at_once():
    schedule = scheduled(spoken(10, 1.0), FAST._replace(from_seq=8))
    assert [step.event.seq for step in schedule.steps] == [0, 1, 2, 3, 4]
    assert [round(at_s, 1) for at_s in times(schedule)] == [0, 0, 1, 2, 3]


def test_without_recorded_times_the_pace_is_even_and_marked():
    text = "one two three four five"
    state = folded(start(), event("repair", 1, text, at_s=100), stop(2, at_s=10))
    state.finished_ms = None
    schedule = scheduled(state, FAST)
    assert schedule.even
    apart = [b - a for a, b in pairwise(times(schedule))]
    assert apart == pytest.approx([5 / EVEN_PER_S / 6] * 6, abs=1e-5)


def test_a_known_length_is_kept_also_where_it_is_even():
    state = folded(start(), event("repair", 1, "one two three"), stop(2, at_s=10))
    assert scheduled(state, FAST._replace(speed=2)).seconds == 5


def test_a_length_that_cannot_be_is_not_kept():
    state = folded(start(), event("repair", 1, "one two " * 100), stop(2, at_s=0.01))
    assert scheduled(state, FAST).seconds > 199 / EVEN_PER_S


def test_the_end_is_the_end_that_it_had():
    stopped = stop(2, at_s=2)._replace(status="failed", error={"code": "x"}, value={"n": 1})
    last = scheduled(folded(start(), token(1, "a"), stopped), FAST).steps[-1].event
    assert (last.kind, last.status, last.error, last.value) == (
        "stop",
        "failed",
        {"code": "x"},
        {"n": 1},
    )


def test_a_response_with_gaps_is_replayed_as_incomplete():
    schedule = scheduled(folded(start(), token(1, "a"), token(3, "c"), stop(4)), FAST)
    last = schedule.steps[-1].event
    assert schedule.gaps == [(2, 2)]
    assert (last.status, last.error["code"]) == ("incomplete", "gaps")


def test_what_does_not_fit_one_message_is_split():
    schedule = scheduled(spoken(1, 1.0, "語😀" * 20_000), FAST)
    assert schedule.chunks == 4
    assert schedule.largest_bytes() < 65_536


def test_a_listed_schedule_contains_no_text():
    told = listed(scheduled(spoken(3, 1.0, "secret"), FAST), 4)
    assert [each["seq"] for each in told] == [0, 1, 2, 3]
    assert told[1] == {"seq": 1, "at_s": 1.0, "kind": "token", "characters": 6, "joined": 1}
    assert "secret" not in json.dumps(told)


terms = st.builds(
    ReplayTerms,
    from_seq=st.just(0),
    speed=st.sampled_from([0, 0.1, 1, 7, 1000]),
    max_rate=st.sampled_from([0.5, 5, 25, 1000]),
)


@given(responses(), terms)
def test_every_schedule_is_complete_ordered_and_reproducible(state, asked):
    schedule = scheduled(state, asked)
    assert schedule.digest() == scheduled(state, asked).digest()
    assert all(a <= b for a, b in pairwise(times(schedule)))
    told = schedule.parts_until(len(schedule.steps) - 1)
    assert told == plain(state.parts())


def test_another_text_has_another_digest():
    assert scheduled(spoken(2, 1.0), FAST).digest() != scheduled(spoken(2, 1.0, "b"), FAST).digest()

"""A stored response is split into the chunks that it was published in, each with its source."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.builders import BEGAN_MS, event, folded, start, stop, timeline_of, token
from core.growing import create, full
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.replay.chunks import MAX_CHUNKS, Chunk, chunks_of, joined, spans

TEXTS = ["むかし", "👩‍👩‍👧", " ", "e", "\u0301", "a\ud83d", "\ude00b", "\n\n"]


def contents(state):
    return [(p.kind, p.text, p.seq) for p in chunks_of(state)]


def again(state):
    """Return the parts of a reader that receives the chunks of *state*."""
    told = MessageState("again")
    fold(told, Event("start", "again", seq=0))
    for seq, p in enumerate(chunks_of(state), 1):
        fold(told, Event(p.kind, "again", 1, seq, None, None, None, 0, *p[3:8], p.status))
    fold(told, Event("stop", "again", seq=len(chunks_of(state)) + 1, status=state.status))
    return told.parts()


def plain(parts):
    """Return *parts* without their positions and gaps."""
    said = ("type", "text", "part", "tool_call_id", "name", "args", "result", "status")
    return [{key: part[key] for key in said if key in part} for part in parts]


def test_every_token_is_a_chunk_with_its_seq_and_its_time():
    state = folded(start(), *[token(seq, text) for seq, text in enumerate(TEXTS, 1)], stop(9))
    assert contents(state) == [("token", text, seq) for seq, text in enumerate(TEXTS, 1)]
    assert [p.at_ms for p in chunks_of(state)] == [BEGAN_MS + seq * 1000 for seq in range(1, 9)]


def test_tool_steps_reasoning_and_refusals_are_chunks_in_their_order():
    events = [
        start(),
        event("reasoning", 1, "hm"),
        event("tool_call", 2, tool_call_id="c", name="find", value=""),
        event("tool_args", 3, '{"q":', tool_call_id="c"),
        event("tool_args", 4, "1}", tool_call_id="c"),
        event("tool_result", 5, tool_call_id="c", name="find", value=[1], status="failed"),
        event("void", 6),
        token(7, "a", part="x"),
        event("refusal", 8, "no"),
        stop(9),
    ]
    state = folded(*events)
    assert contents(state) == [(e.kind, e.text, e.seq) for e in events[1:-1] if e.kind != "void"]
    assert again(state) == state.parts()


def test_what_is_missing_leaves_its_seqs_out():
    state = folded(start(), token(1, "a"), token(4, "d"), stop(6))
    assert contents(state) == [("token", "a", 1), ("token", "d", 4)]


def test_text_without_seqs_continues_the_numbers_of_the_text_before_it():
    state = folded(start(), token(1, "a"), token(2, "b"), event("token", None, "c", at_s=3))
    assert contents(state) == [("token", "a", 1), ("token", "b", 2), ("token", "c", 3)]


def test_without_seqs_they_are_counted_from_1():
    events = [event("token", None, text, at_s=at_s) for at_s, text in enumerate("abc", 1)]
    state = folded(event("start", None, at_s=0), *events, event("stop", None, at_s=9))
    assert contents(state) == [("token", letter, seq) for seq, letter in enumerate("abc", 1)]
    assert all(p.at_ms is not None for p in chunks_of(state))


def test_times_never_go_back():
    state = folded(start(), token(1, "a", at_s=5), token(2, "b", at_s=3), stop(3))
    assert [p.at_ms for p in chunks_of(state)] == [BEGAN_MS + 5000] * 2


def test_what_came_as_one_text_is_cut_about_as_tokens_are_and_has_no_times():
    text = "Once upon a  time\n" + "x" * 30 + "むかし👩‍👩‍👧"
    state = folded(start(), token(1, "wrong"), event("repair", 1, text), stop(2))
    pieces = chunks_of(state)
    assert "".join(p.text for p in pieces) == text
    assert len(pieces) > 5
    assert {p.at_ms for p in pieces} == {None}
    assert max(p.length for p in pieces) <= 14


@pytest.mark.parametrize("status", ["completed", "failed", "in_progress"])
def test_a_call_that_was_stored_whole_ends_with_its_status(status):
    part = {"type": "tool_call", "tool_call_id": "c", "name": "f", "args": {"q": 1}}
    state = folded(start(), event("repair", 1, None, value=[{**part, "status": status}]), stop(2))
    assert again(state) == state.parts()


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_the_result_of_a_call_that_was_stored_whole_is_one_chunk(status):
    part = {"type": "tool_call", "tool_call_id": "c", "name": "f", "args": {"q": 1}}
    parts = [{**part, "result": {"error": "no"}, "status": status}]
    state = folded(start(), event("repair", 1, None, value=parts), stop(2))
    assert [chunk.kind for chunk in chunks_of(state)] == ["tool_call", "tool_result"]
    assert again(state) == state.parts()


def test_a_call_that_is_listed_twice_keeps_its_result():
    part = {"type": "tool_call", "tool_call_id": "c", "name": "f", "args": "", "status": "failed"}
    parts = [{**part, "result": "r"}, {**part, "result": None}]
    state = folded(start(), event("repair", 1, None, value=parts), stop(2))
    assert state.parts() == [{**part, "result": "r"}]
    assert again(state) == state.parts()


def test_versioned_messages_that_grew_in_parallel_are_interleaved():
    state = timeline_of(
        create(1, "thinks"),
        create(2, "sa"),
        full(1, 3, "thinks more"),
        full(2, 4, "said", done=True),
    ).messages["r"]
    assert [p.text for p in chunks_of(state)] == ["thinks", "sa", " more", "id"]
    assert plain(again(state)) == plain(state.parts())


kinds = st.sampled_from(["token", "token", "reasoning", "refusal", "tool_args"])


@st.composite
def responses(draw):
    events = [start()]
    for seq in range(1, draw(st.integers(1, 12))):
        kind, text = draw(kinds), draw(st.sampled_from(["", "ab", *TEXTS]))
        call = draw(st.sampled_from(["c", "d"]))
        if kind == "tool_args" and draw(st.booleans()):
            what = draw(st.sampled_from(["tool_call", "tool_result", "void"]))
            said = {"tool_call_id": call, "name": "f", "value": draw(st.integers())}
            events.append(event(what, seq, **({} if what == "void" else said)))
        elif kind == "tool_args":
            events.append(event(kind, seq, text, tool_call_id=call))
        else:
            events.append(event(kind, seq, text, part=draw(st.sampled_from([None, "x"]))))
    kept = [each for each in events if draw(st.integers(0, 9))]
    return folded(*draw(st.permutations(kept)), stop(len(events)))


@given(responses())
def test_chunks_add_up_to_the_response(state):
    assert again(state) == plain(state.parts())


def test_a_chunk_continues_one_of_its_kind_and_part():
    a = Chunk(0, 1, "token", "a")
    assert Chunk(1, 2, "token", "b").continues(a)
    assert not Chunk(1, 2, "token", "b", part="x").continues(a)
    assert not Chunk(1, 2, "reasoning", "b").continues(a)
    call = Chunk(0, 1, "tool_call", tool_call_id="c")
    assert not call.continues(call)


def told(stored, now):
    return [(each.source, each.first, each.last, len(each.timings)) for each in spans(stored, now)]


def further(state, *events):
    """Return *state* as it was, and with *events* folded in."""
    now = copy.deepcopy(state)
    for each in events:
        fold(now, each)
    return state, now


def test_stored_chunks_are_from_the_database_and_the_rest_from_history():
    stored, now = further(folded(start(), token(1, "a"), token(2, "b")), token(3, "c"), stop(4))
    assert told(stored, now) == [("database", 0, 2, 3), ("history", 3, 3, 1)]
    assert [tick.length for tick in spans(stored, now)[0].timings] == [0, 1, 1]


def test_an_unstored_message_is_all_history_and_an_unchanged_one_all_database():
    state = folded(start(), token(1, "a"))
    assert told(None, state) == [("history", 0, 1, 2)]
    assert told(state, state) == [("database", 0, 1, 2)]


def test_a_gap_separates_spans_and_the_event_that_fills_it_has_its_own_source():
    stored, now = further(folded(token(1, "a"), token(3, "c"), token(9, "i")), token(2, "b"))
    assert told(stored, now) == [
        ("database", 1, 1, 1),
        ("history", 2, 2, 1),
        ("database", 3, 3, 1),
        ("database", 9, 9, 1),
    ]


def test_a_repair_since_is_history_and_came_as_one_text():
    stored, now = further(folded(start(), token(1, "a")), event("repair", 2, "xyz"), token(3, "!"))
    whole, rest = spans(stored, now)
    assert (whole.source, whole.is_whole, whole.last, whole.timings[0].length) == (
        "history",
        True,
        2,
        3,
    )
    assert rest.source == "history"
    assert told(now, now)[0][0] == "database"


def test_without_seqs_the_first_chunks_are_the_stored_ones():
    stored, now = further(
        folded(event("token", None, "a", at_s=1)), event("token", None, "b", at_s=2)
    )
    assert told(stored, now) == [("database", None, None, 1), ("history", None, None, 1)]


def test_after_a_takeover_nothing_is_from_the_database():
    stored, now = further(folded(token(1, "a")), token(1, "b", gen=2, at_s=3))
    assert told(stored, now) == [("history", 1, 1, 1)]


def test_very_many_chunks_are_joined_and_no_character_is_lost():
    state = folded(start(), *[token(seq, "ab") for seq in range(1, 2 * MAX_CHUNKS + 10)])
    found, factor = joined(spans(None, state))
    assert factor == 3
    assert sum(len(each.timings) for each in found) <= MAX_CHUNKS
    assert sum(tick.length for each in found for tick in each.timings) == 2 * (2 * MAX_CHUNKS + 9)
    few = spans(None, folded(token(1, "a")))
    assert joined(few) == (few, 1)


def test_versioned_messages_are_compared_by_how_much_of_each_was_stored():
    stored = timeline_of(create(1, "a")).messages["r"]
    now = timeline_of(create(1, "a"), full(1, 2, "ab"), create(3, "x")).messages["r"]
    assert told(stored, now) == [
        ("database", None, None, 1),
        ("history", None, None, 1),
        ("history", None, None, 1),
    ]
    assert told(None, stored) == [("history", None, None, 1)]
    assert told(stored, stored) == [("database", None, None, 1)]

"""The source of each chunk of a text."""

from __future__ import annotations

import copy

from core.growing import create, full
from core.saying import event, folded, shown, start, stop, token
from rehydrate.core.fold import fold
from rehydrate.core.replay.provenance import MAX_CHUNKS, joined, spans


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
    stored = shown(create(1, "a")).messages["r"]
    now = shown(create(1, "a"), full(1, 2, "ab"), create(3, "x")).messages["r"]
    assert told(stored, now) == [
        ("database", None, None, 1),
        ("history", None, None, 1),
        ("history", None, None, 1),
    ]
    assert told(None, stored) == [("history", None, None, 1)]
    assert told(stored, stored) == [("database", None, None, 1)]

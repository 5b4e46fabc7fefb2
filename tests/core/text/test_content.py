"""Runs: joined, cut and measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.saying import BEGAN_MS, PARTS, event, run_with, token
from rehydrate.core.replay.timings import Timing, Timings
from rehydrate.core.text.assembly import assemble
from rehydrate.core.text.content import Run, Segment, collapsed_run, run_of


def test_a_run_takes_the_one_that_begins_behind_it():
    run = run_with(token(1, "a"), token(2, "b"))
    run.join(run_with(token(3, "c"), event("reasoning", 4, "d")))
    assert (run.first, run.last) == (1, 4)
    assert [p["text"] for p in assemble([run])] == ["abc", "d"]
    assert [tick.length for tick in run.timings.entries] == [1, 1, 1, 1]


def test_a_run_behind_the_cut_stays_whole():
    run = run_with(token(5, "e"))
    assert run.after(4) is run


@pytest.mark.parametrize("seq", [6, 7])
def test_of_a_run_before_the_cut_nothing_is_left(seq):
    assert run_with(token(5, "e"), token(6, "f")).after(seq) is None


def test_a_collapsed_run_cannot_be_cut():
    assert collapsed_run(0, 9, PARTS, 0).after(4) is None


STEPS = st.one_of(
    st.tuples(st.sampled_from(["token", "refusal", "reasoning"]), st.sampled_from(["", "a", "bc"])),
    st.tuples(st.sampled_from(["tool_call", "tool_result"]), st.just(None)),
    st.tuples(st.just("tool_args"), st.sampled_from(["", "x", "yz"])),
    st.tuples(st.just("void"), st.just(None)),
)


def step(seq, kind, said, part):
    more = {} if kind == "void" else {"tool_call_id": part or "c"}
    if kind in ("token", "refusal", "reasoning"):
        more = {"part": part}
    if kind in ("tool_call", "tool_result"):
        more |= {"name": "f", "value": f"v{seq}"}
    return event(kind, seq, said, **more)


@given(
    st.lists(st.tuples(STEPS, st.sampled_from([None, "p"])), min_size=1, max_size=12),
    st.integers(0, 12),
)
def test_what_lies_after_a_cut_is_what_came_after_it(steps, cut):
    events = [step(seq, *said, part) for seq, (said, part) in enumerate(steps, start=1)]
    rest = run_with(*events).after(cut)
    behind = [each for each in events if each.seq > cut]
    if not behind:
        assert rest is None
        return
    expected = run_with(*behind)
    assert assemble([rest]) == assemble([expected])
    assert (rest.first, rest.last) == (behind[0].seq, behind[-1].seq)
    assert rest.timings.entries == expected.timings.entries


def test_timings_count_the_characters_of_text_and_one_for_a_step_of_a_call():
    run = run_with(
        token(1, "語😀"), event("tool_call", 2, tool_call_id="c", value=""), event("void", 3)
    )
    at = BEGAN_MS
    assert run.timings.entries == [Timing(2, at + 1000), Timing(1, at + 2000), Timing(0, at + 3000)]
    assert collapsed_run(0, 3, PARTS[:3], 7).timings.entries == [Timing(2 + 1 + 1 + 1, 7)]


def test_a_run_of_events_without_seqs_has_no_seqs():
    run = run_of(event("token", None, "a"))
    run.append(event("token", None, "b"))
    assert (run.first, run.last) == (-1, -1)
    assert isinstance(run, Run)
    assert isinstance(run.timings, Timings)


def test_a_segment_is_appended_with_its_length_and_time():
    run = run_of(event("token", None, "a"))
    run.append_segment(Segment("text", None, ["bc"]), 77)
    run.append_segment(Segment("tool_call", "c", [], {"name": "f", "args": ""}), 78)
    assert [segment.fragments for segment in run.segments] == [["a", "bc"], []]
    assert run.timings.entries[1:] == [Timing(2, 77), Timing(1, 78)]


def test_a_cut_may_lie_within_a_segment():
    rest = run_with(token(1, "ab"), token(2, "cd"), token(3, "ef")).after(1)
    assert "".join(rest.segments[0].fragments) == "cdef"


def test_an_empty_text_of_a_collapsed_run_counts_only_where_a_gap_lies():
    assert collapsed_run(0, 1, [{"type": "text", "text": ""}], 0).segments == []
    kept = collapsed_run(0, 1, [{"type": "text", "text": "", "gaps": [[0, 2, 2]]}], 0)
    assert len(kept.segments) == 1

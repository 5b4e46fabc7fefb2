"""Runs are joined, cut and measured; timings are packed; parts of others are cleaned; sizes have limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import BEGAN_MS, PARTS, event, folded, run_with, start, stop, text_of, token
from core.growing import append, at, create, full
from rehydrate.core.codecs import decode
from rehydrate.core.fold import MessageState, Outcome, fold
from rehydrate.core.text import content
from rehydrate.core.text.assembly import assemble
from rehydrate.core.text.content import (
    TOO_LARGE,
    Run,
    Segment,
    SizeBudget,
    Timing,
    Timings,
    adds,
    check_parts,
    clean_parts,
    collapsed_run,
    measured,
    run_of,
)
from rehydrate.errors import TooLarge


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


ticks = st.lists(st.builds(Timing, st.integers(0, 70_000), st.integers(0, 2**45)), max_size=60)


@given(ticks)
def test_timings_are_unpacked_as_they_were_packed(given_ticks):
    assert Timings(parts=[Timings(list(given_ticks)).packed()]).entries == given_ticks


@pytest.mark.parametrize(
    "tape", [Timings(), Timings([]), Timings(parts=[b""]), Timings(parts=[Timings().packed()])]
)
def test_no_timings_are_packed_as_nothing(tape):
    assert tape.entries == []


def test_timings_that_were_unpacked_are_packed_with_the_appended_ones():
    tape = Timings(parts=[Timings([Timing(1, 10)]).packed()])
    tape.entries.append(Timing(2, 20))
    assert Timings(parts=[tape.packed()]).entries == [Timing(1, 10), Timing(2, 20)]


def test_timings_that_were_not_unpacked_are_the_same_bytes():
    packed = Timings([Timing(1, 10)]).packed()
    assert Timings(parts=[packed]).packed() is packed


def test_a_steady_stream_takes_about_two_bytes_an_event():
    steady = [Timing(4 + index % 3, 1_767_225_600_000 + 20 * index) for index in range(2_000)]
    assert len(Timings(steady).packed()) < 2_000 * 2


@given(ticks)
def test_timings_are_counted_without_being_unpacked(given_ticks):
    packed = Timings(parts=[Timings(list(given_ticks)).packed()])
    assert len(packed) == len(given_ticks)
    assert len(Timings(list(given_ticks))) == len(given_ticks)


def test_a_timing_is_appended_behind_the_stored_ones():
    timings = Timings(parts=[Timings([Timing(1, 10)]).packed()])
    timings.append(Timing(2, 20))
    assert timings.entries == [Timing(1, 10), Timing(2, 20)]


CALL = {
    "type": "tool_call",
    "tool_call_id": "c",
    "name": "find",
    "args": {"q": [1]},
    "result": "3",
    "status": "completed",
}


def test_parts_keep_what_the_wire_form_has_and_lose_the_rest():
    parts = [
        {"type": "text", "text": "a", "part": "p", "colour": "red"},
        {"type": "refusal", "text": "", "part": 3},
        {"type": "reasoning", "text": "hm"},
        CALL | {"colour": "red"},
    ]
    assert clean_parts(parts) == [
        {"type": "text", "text": "a", "part": "p"},
        {"type": "refusal", "text": ""},
        {"type": "reasoning", "text": "hm"},
        CALL,
    ]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("completed", "completed"),
        ("failed", "failed"),
        ("in_progress", "in_progress"),
        ("incomplete", "in_progress"),  # in a message that has ended
        (["failed"], "in_progress"),
    ],
)
def test_a_status_other_than_an_end_is_in_progress(said, kept):
    assert clean_parts([CALL | {"status": said}]) == [CALL | {"status": kept}]


def test_a_call_with_only_an_id_has_empty_fields():
    assert clean_parts(
        [{"type": "tool_call", "tool_call_id": "c", "name": 4, "status": "odd"}]
    ) == [
        {
            "type": "tool_call",
            "tool_call_id": "c",
            "name": None,
            "args": "",
            "result": None,
            "status": "in_progress",
        }
    ]


@pytest.mark.parametrize(
    "parts",
    [
        None,
        [],
        {},
        "text",
        5,
        [None],
        ["a"],
        [{}],
        [{"type": "text"}],
        [{"type": "text", "text": 5}],
        [{"type": ["text"], "text": "a"}],
        [{"type": "image", "text": "a"}],
        [{"type": "tool_call"}],
        [{"type": "tool_call", "tool_call_id": 5}],
        [CALL | {"args": math.nan}],
        [CALL | {"result": b"\x00"}],
        [{"type": "text", "text": "a"}, {"type": "image"}],
    ],
)
def test_one_invalid_part_makes_the_list_invalid(parts):
    assert clean_parts(parts) is None


MORE = [
    event("token", 0, "abc"),
    event("token", 0, "abc", part="p"),
    event("token", 0, "def", part="p"),
    event("reasoning", 0, ""),
    event("void", 0),
    event("tool_call", 0, tool_call_id="c", name="find", value=""),
    event("tool_call", 0, tool_call_id="d", name="find", value={"q": [1]}),
    event("tool_args", 0, '{"q"', tool_call_id="c"),
    event("tool_result", 0, tool_call_id="c", value={"a": "语"}),
]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(content, "FOLDED_CHARACTERS", 6)


@given(st.lists(st.sampled_from(MORE), max_size=20))
def test_what_is_counted_on_the_way_is_never_less_than_what_is_there(events):
    state = folded(*[each._replace(seq=seq, id=f"i{seq}") for seq, each in enumerate(events, 1)])
    there = measured(state.all_runs())
    counted = state.budget or SizeBudget()
    assert counted.characters >= there.characters >= len(text_of(state))
    assert counted.events == there.events == len(events)
    assert counted.steps >= there.steps


def test_an_event_that_does_not_fit_ends_the_response_before_it_with_an_error(small):
    state = folded(start(), token(1, "abc"), token(2, "def"))
    assert fold(state, token(3, "g")) is Outcome.FOLDED
    assert (text_of(state), state.status, state.error) == ("abcdef", "incomplete", TOO_LARGE)
    assert (state.through.seq, state.gaps()) == (3, [])
    assert fold(state, token(4, "h")) is Outcome.OLD
    assert fold(state, stop(5)) is Outcome.OLD
    assert state.status == "incomplete"


def test_a_gap_that_was_declared_is_filled_only_while_there_is_room(small):
    state = folded(start(), token(1, "a"), token(3, "c"), token(5, "efghi"))
    assert (state.status, state.gaps()) == ("incomplete", [(2, 2), (4, 4)])
    assert fold(state, token(2, "b")) is Outcome.FOLDED
    assert fold(state, token(4, "much more")) is Outcome.REFUSED
    assert (text_of(state), state.gaps()) == ("abc", [(4, 4)])


def test_text_without_seq_ends_in_the_same_way(small):
    state = folded(*[event("token", text=letter, at_s=s) for s, letter in enumerate("abcdefgh")])
    assert (text_of(state), state.status, state.error) == ("abcdef", "incomplete", TOO_LARGE)


def test_a_versioned_message_ends_it_in_the_same_way(small, monkeypatch):
    monkeypatch.setattr(content, "FOLDED_CHARACTERS", 6 + len(at(1)))
    shown = [create(1, "abc"), full(1, 2, "abcdef"), full(1, 3, "abcdefg"), create(4, "x")]
    state = folded(*map(decode, shown))
    assert (text_of(state), state.status, state.error) == ("abcdef", "incomplete", TOO_LARGE)
    assert fold(state, decode(full(1, 5, "abc"))) is Outcome.FOLDED  # it may become less
    assert fold(state, decode(full(1, 6, "abcdefgh"))) is Outcome.REFUSED
    assert fold(state, decode(append(1, 7, "i"))) is Outcome.OLD


def test_steps_of_a_grown_response_are_bounded(monkeypatch):
    monkeypatch.setattr("rehydrate.core.text.versioned_messages.MAX_VERSIONED", 2)
    outcomes = [
        fold(state, event("void", at_s=number, version=decode(create(number)).version._replace(
            step=f"s{number}", attempt="a"
        )))
        for state in [MessageState("r")]
        for number in range(1, 5)
    ]  # fmt: skip
    assert outcomes == [Outcome.FOLDED, Outcome.FOLDED, Outcome.REFUSED, Outcome.REFUSED]


@pytest.mark.parametrize(("limit", "most"), [("FOLDED_EVENTS", 3), ("FOLDED_STEPS", 3)])
def test_events_and_changes_between_parts_are_bounded(monkeypatch, limit, most):
    monkeypatch.setattr(content, limit, most)
    kinds = ["token", "reasoning"] * 4
    numbered = [event(kind, seq, "x") for seq, kind in enumerate(kinds, 1)]
    state = folded(*numbered)
    assert (len(state.parts()), state.status, state.gaps()) == (most, "incomplete", [])


def test_a_repair_makes_room_again(small):
    state = folded(start(), token(1, "abcdef"))
    assert fold(state, event("repair", 1, "ab", id_="x")) is Outcome.FOLDED
    assert fold(state, token(2, "cdef")) is Outcome.FOLDED
    assert (text_of(state), state.status) == ("abcdef", "in_progress")


def test_who_takes_over_begins_with_nothing(small):
    state = folded(token(1, "abcdef"), token(1, "ghijkl", id_="x", gen=2))
    assert (text_of(state), state.status) == ("ghijkl", "in_progress")


letters = st.lists(st.tuples(st.integers(1, 12), st.text("ab", max_size=3)), max_size=25)


@settings(derandomize=True, deadline=None)
@given(letters, st.integers(0, 25))
def test_folding_in_two_parts_equals_folding_the_whole_at_the_limit_too(drawn, cut):
    """Law 1 at the limit: content read back is measured as it was counted."""
    events = [token(seq, text, id_=f"{n}") for n, (seq, text) in enumerate(drawn)]
    before, content.FOLDED_CHARACTERS = content.FOLDED_CHARACTERS, 7
    try:
        whole, parts = folded(*events), folded(*events[:cut])
        parts.budget = None  # as after reading it from the store
        folded(*events[max(0, cut - 5) :], state=parts)
    finally:
        content.FOLDED_CHARACTERS = before
    assert (parts.parts(), parts.status, parts.gaps()) == (
        whole.parts(),
        whole.status,
        whole.gaps(),
    )


def test_imported_parts_have_the_same_limits(monkeypatch):
    call = {"type": "tool_call", "tool_call_id": "c", "name": "f", "args": "{}", "result": [1]}
    check_parts([call, {"type": "text", "text": "x" * 100}])
    with pytest.raises(TooLarge):
        check_parts([{"type": "text", "text": "x" * (content.MAX_CHARACTERS + 1)}])
    monkeypatch.setattr(content, "MAX_STEPS", 1)
    with pytest.raises(TooLarge):
        check_parts([call, call])


def test_labels_count():
    assert adds(token(1, "abc", part="p" * 10)) == 13
    assert adds(event("tool_args", 1, "{}", tool_call_id="c" * 10)) == 12


TIMINGS = [Timing(3, 1_000), Timing(0, 1_020), Timing(5, 900)]


def stored(*parts: list[Timing]) -> Timings:
    return Timings(parts=[Timings(part).packed() for part in parts])


def test_parts_are_unpacked_in_order() -> None:
    timings = stored(TIMINGS[:1], [], TIMINGS[1:])
    assert not timings.unpacked
    assert timings.entries == TIMINGS
    assert timings.unpacked
    assert timings.appended == []


def test_appended_timings_follow_the_stored_ones() -> None:
    timings = stored(TIMINGS)
    timings.append(Timing(1, 2_000))
    assert not timings.unpacked
    assert timings.appended == [Timing(1, 2_000)]
    assert timings.entries == [*TIMINGS, Timing(1, 2_000)]
    timings.append(Timing(2, 3_000))
    assert timings.appended == [Timing(1, 2_000), Timing(2, 3_000)]
    assert Timings(parts=[timings.packed()]).entries == [*TIMINGS, *timings.appended]


def test_appended_timings_are_packed_with_a_single_part() -> None:
    timings = stored(TIMINGS)
    timings.append(Timing(1, 2_000))
    assert Timings(parts=[timings.packed()]).entries == [*TIMINGS, Timing(1, 2_000)]


def test_a_single_part_is_returned_as_packed() -> None:
    timings = stored(TIMINGS)
    assert timings.packed() == Timings(TIMINGS).packed()
    assert not timings.unpacked


def test_several_parts_are_packed_as_one() -> None:
    assert stored(TIMINGS[:2], TIMINGS[2:]).packed() == Timings(list(TIMINGS)).packed()


def test_timings_without_parts_are_empty() -> None:
    assert Timings(parts=[]).entries == []
    assert Timings(parts=[Timings(parts=[]).packed()]).entries == []


def test_parts_are_counted_without_unpacking() -> None:
    timings = stored(TIMINGS[:1], [], TIMINGS[1:])
    timings.append(Timing(1, 2_000))
    assert (len(timings), timings.unpacked) == (4, False)
    assert len(timings.entries) == len(timings) == 4


class TestEdited:
    RUN = (token(1, "ab"), token(2, "cd"), event("reasoning", 3, "ef"), token(4, "gh"))

    @pytest.mark.parametrize(
        ("index", "text", "shown"),
        [
            (0, "A", ["Acd", "ef", "gh"]),
            (1, "CCC", ["abCCC", "ef", "gh"]),
            (1, "", ["ab", "ef", "gh"]),
            (3, "G", ["abcd", "ef", "G"]),
        ],
    )
    def test_the_content_of_one_event_is_replaced(self, index, text, shown):
        run = run_with(*self.RUN)
        edited = run.edited(index, self.RUN[index]._replace(text=text, edit="v2"))
        assert [part["text"] for part in assemble([edited])] == shown
        lengths = [2, 2, 2, 2]
        lengths[index] = len(text)
        assert [timing.length for timing in edited.timings.entries] == lengths
        assert [part["text"] for part in assemble([run])] == ["abcd", "ef", "gh"]

    def test_a_call_of_which_a_piece_is_edited_stays_one_call(self):
        events = (
            event("tool_call", 1, tool_call_id="c", name="f", value=""),
            event("tool_args", 2, "{1", tool_call_id="c"),
            event("tool_args", 3, "2}", tool_call_id="c"),
        )
        edited = run_with(*events).edited(1, events[1]._replace(text="{", edit="v2"))
        assert [part["args"] for part in assemble([edited])] == ["{2}"]

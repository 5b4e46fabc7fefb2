"""The fold: one message after its events."""

from __future__ import annotations

from itertools import permutations

import pytest

from core.builders import (
    BEGAN_MS,
    event,
    folded,
    published,
    start,
    stop,
    text_of,
    timeline_of,
    token,
)
from core.growing import append, at, create, full
from rehydrate.core.codecs import decode
from rehydrate.core.event import TERMINAL, Event, Version
from rehydrate.core.fold import (
    MAX_RECENT_IDS,
    MAX_RUNS,
    STEPS,
    MessageState,
    Outcome,
    Position,
    fold,
)
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.text import content, versioned_messages
from rehydrate.core.text.content import MAX_SEQ, TOO_LARGE, collapsed_run

ABC = (start(), token(1, "a"), token(2, "b"), token(3, "c"))


def repair(seq, text, **fields):
    return event("repair", seq, text, **fields)


def nameless(kind, text=None, *, at_s, **fields):
    return event(kind, None, text, at_s=at_s, **fields)


def idle(state):
    """End *state* by the idle limit."""
    state.status, state.provisional, state.finished_ms = "interrupted", True, BEGAN_MS


class TestNumbered:
    def test_a_response_is_its_tokens_in_order_and_ends_with_its_stop(self):
        state = folded(*ABC, stop(4, value={"n": 3}, error=None))
        assert (text_of(state), state.status, state.gaps(), state.usage) == (
            "abc",
            "completed",
            [],
            {"n": 3},
        )
        assert state.through == Position(1, 4, stop(4).serial, stop(4).id)
        assert (state.started_ms, state.finished_ms) == (BEGAN_MS, BEGAN_MS + 4000)
        assert state.position == start().serial
        assert state.exact

    def test_the_same_event_twice_is_one(self):
        state = folded(*ABC)
        assert fold(state, token(2, "b")) is Outcome.OLD
        assert fold(state, token(2, "b", id_="other", at_s=9)) is Outcome.OLD
        assert text_of(state) == "abc"

    def test_the_order_of_arrival_does_not_matter(self):
        assert text_of(folded(*reversed(ABC))) == "abc"
        assert text_of(folded(ABC[2], ABC[0], ABC[3], ABC[1])) == "abc"

    def test_a_missing_seq_is_a_gap_that_a_late_event_fills(self):
        state = folded(start(), token(1, "a"), token(4, "d"))
        assert state.gaps() == [(2, 3)]
        fold(state, token(3, "c"))
        assert state.gaps() == [(2, 2)]
        fold(state, token(2, "b"))
        assert (state.gaps(), text_of(state)) == ([], "abcd")
        assert len(state.runs) == 1

    def test_tokens_numbered_from_one_without_a_start_are_whole(self):
        assert folded(token(1, "a"), token(2, "b")).gaps() == []

    def test_seqs_before_the_first_token_seen_are_a_gap(self):
        state = folded(token(3, "c"))
        assert (state.gaps(), state.contains(2), state.contains(3)) == ([(1, 2)], False, True)

    def test_a_stop_counts_the_events(self):
        assert folded(start(), stop(4)).gaps() == [(1, 3)]
        assert folded(*ABC, stop(6)).gaps() == [(4, 5)]

    def test_after_a_stop_a_gap_may_be_filled_and_nothing_else_comes_in(self):
        state = folded(start(), token(1, "a"), token(3, "c"), stop(4))
        assert fold(state, token(7, "x")) is Outcome.OLD
        assert fold(state, token(1, "y", id_="other")) is Outcome.OLD
        assert fold(state, nameless("token", "z", at_s=9)) is Outcome.OLD
        assert fold(state, token(2, "b")) is Outcome.FOLDED
        assert (text_of(state), state.gaps(), state.status) == ("abc", [], "completed")

    def test_a_second_stop_changes_nothing(self):
        state = folded(*ABC, stop(4))
        assert fold(state, event("stop", 5, status="failed", error="late")) is Outcome.OLD
        assert (state.status, state.error) == ("completed", None)

    def test_a_stop_that_counts_fewer_events_than_were_seen_removes_none(self):
        state = folded(start(), token(1, "a"), token(2, "b"), token(5, "e"), stop(3))
        assert (text_of(state), state.status, state.gaps()) == ("abe", "completed", [(3, 4)])
        assert folded(*ABC, stop(3, at_s=9)).gaps() == []

    def test_a_void_event_is_not_a_gap(self):
        state = folded(start(), token(1, "a"), event("void", 2), token(3, "c"))
        assert (text_of(state), state.gaps()) == ("ac", [])

    @pytest.mark.parametrize("seq", [-1, MAX_SEQ + 1])
    def test_a_seq_beyond_all_bounds_is_refused(self, seq):
        state = folded(*ABC)
        assert fold(state, token(1, "x")._replace(seq=seq)) is Outcome.REFUSED
        assert state.gaps() == []

    def test_the_greatest_seq_takes_no_memory(self):
        state = folded(token(MAX_SEQ, "z", at_s=1), token(1, "a", at_s=2))
        assert (text_of(state), state.gaps()) == ("az", [(2, MAX_SEQ - 1)])

    def test_the_number_of_gaps_is_limited_and_text_is_not_joined_beyond_it(self):
        state = MessageState("r")
        for seq in range(1, 2 * MAX_RUNS, 2):
            assert fold(state, token(seq, "x", at_s=1)) is Outcome.FOLDED
        assert fold(state, token(3 * MAX_RUNS, "y", at_s=1)) is Outcome.REFUSED
        assert fold(state, token(2, "z", at_s=1)) is Outcome.FOLDED
        assert len(state.gaps()) == MAX_RUNS - 2

    def test_late_tokens_join_the_next_run(self):
        state = folded(token(4, "d"), token(3, "c"), token(1, "a"), token(2, "b"))
        assert (text_of(state), len(state.runs)) == ("abcd", 1)

    def test_a_late_start_still_names_the_prompt(self):
        state = folded(token(1, "a"), start(prompt_id="p"))
        assert (state.prompt_id, state.started_ms) == ("p", BEGAN_MS)

    def test_two_starts_of_one_gen_and_other_ids_are_not_exact(self):
        state = folded(start(id_="one"), token(1, "a"))
        assert fold(state, start(id_="one")) is Outcome.OLD
        assert state.exact
        assert fold(state, start(id_="two", at_s=2)) is Outcome.OLD
        assert not state.exact

    def test_a_start_after_the_end_makes_nothing_inexact(self):
        state = folded(start(id_="one"), token(1, "a"), stop(2))
        fold(state, start(id_="two", at_s=5))
        assert state.exact

    def test_a_start_after_the_end_names_the_prompt_and_its_serial_is_not_kept(self):
        state = folded(token(1, "a"), stop(2, at_s=3))
        serial = state.serial
        for at_s in (5, 6):
            assert fold(state, start(prompt_id=f"p{at_s}", at_s=at_s)) is Outcome.OLD
        assert (state.prompt_id, state.serial, state.changed) == ("p5", serial, True)

    def test_content_with_and_without_seqs_is_not_exact(self):
        for events in (
            (start(), nameless("token", "b", at_s=0.5), token(1, "a")),
            (start(), token(1, "a"), nameless("token", "b", at_s=9)),
        ):
            state = folded(*events)
            assert (sorted(text_of(state)), state.exact) == (["a", "b"], False)

    def test_a_posted_message_takes_nothing_and_notes_who_streams_it(self):
        state = MessageState("r")
        state.import_finished([{"type": "text", "text": "x"}], "completed", finished_ms=1)
        for each in (start(), token(1, "a"), repair(1, "b"), event("cancel", None)):
            assert fold(state, each) is Outcome.OLD
        assert (text_of(state), state.seq, state.owner is not None) == ("x", 1, True)
        prompt = MessageState("p", "user")
        prompt.import_finished([{"type": "text", "text": "?"}], "completed", finished_ms=1)
        assert fold(prompt, event("prompt", None, "!")) is Outcome.OLD
        assert prompt.owner is None

    def test_a_cancel_does_not_change_a_message(self):
        assert fold(folded(*ABC), event("cancel", None, at_s=9)) is Outcome.OLD


class TestUnnumbered:
    def test_text_follows_the_serials(self):
        state = folded(
            nameless("start", at_s=1),
            nameless("token", "a", at_s=2),
            nameless("token", "b", at_s=3),
        )
        assert (text_of(state), state.exact, state.through.seq) == ("ab", True, None)
        assert fold(state, nameless("token", "x", at_s=2, id_="other")) is Outcome.OLD
        fold(state, nameless("stop", at_s=4, status="completed"))
        assert (text_of(state), state.status, state.gaps()) == ("ab", "completed", [])

    def test_text_without_its_start_is_not_exact(self):
        state = folded(nameless("token", "b", at_s=3))
        assert (text_of(state), state.exact) == ("b", False)

    def test_the_same_id_within_the_margin_is_the_same_event(self):
        state = folded(nameless("start", at_s=1), nameless("token", "a", at_s=2, id_="i"))
        assert fold(state, nameless("token", "a", at_s=3, id_="i")) is Outcome.OLD

    def test_without_serials_text_is_exact_within_the_margin_only(self):
        begun = (
            nameless("start", at_s=0, serials=False),
            nameless("token", "a", at_s=1, serials=False),
        )
        assert folded(*begun).exact
        late = nameless("token", "b", at_s=2 + MARGIN_MS / 1000, serials=False)
        assert not folded(*begun, late).exact

    def test_text_without_seq_serial_and_id_is_not_exact(self):
        state = folded(
            nameless("start", at_s=0),
            nameless("token", "a", at_s=1, serials=False)._replace(id=None),
        )
        assert (text_of(state), state.exact) == ("a", False)

    def test_the_number_of_ids_of_the_margin_is_limited(self):
        state = MessageState("r")
        for index in range(MAX_RECENT_IDS + 5):
            fold(state, nameless("token", "a", at_s=1 + index / 1_000, id_=f"i{index}"))
        assert len(state.recent) == MAX_RECENT_IDS

    @pytest.mark.parametrize("kind", ["start", "stop"])
    def test_a_start_or_stop_from_before_what_is_folded_is_old(self, kind):
        state = folded(nameless("token", "a", at_s=5))
        assert fold(state, nameless(kind, at_s=4, status=None)) is Outcome.OLD

    def test_a_second_start_without_seq_is_old_too(self):
        state = folded(nameless("start", at_s=1)._replace(id=None), nameless("token", "a", at_s=2))
        assert fold(state, nameless("start", at_s=3)._replace(id=None)) is Outcome.OLD
        assert state.exact


class TestTakeOver:
    def test_a_higher_gen_empties_the_message(self):
        state = folded(*ABC, start(gen=2, at_s=5), token(1, "A", gen=2, at_s=6))
        assert (text_of(state), state.gen, state.started_ms) == ("A", 2, BEGAN_MS + 5000)
        assert state.position == start().serial

    @pytest.mark.parametrize("gens", list(permutations([1, 900, 1_900, 2_000_000])))
    def test_the_greatest_gen_counts_in_whatever_order_gens_are_seen(self, gens):
        state = folded(*(token(1, str(gen), gen=gen) for gen in gens))
        assert (text_of(state), state.gen) == ("2000000", 2_000_000)

    def test_a_zombie_of_a_lower_gen_changes_nothing(self):
        state = folded(*ABC, start(gen=2, at_s=5), token(1, "A", gen=2, at_s=6))
        for zombie in (token(2, "b"), stop(4), repair(4, "abcd"), start()):
            assert fold(state, zombie) is Outcome.OLD
        assert (text_of(state), state.status) == ("A", "in_progress")

    def test_a_response_that_has_ended_is_not_taken_over(self):
        state = folded(*ABC, stop(4))
        assert fold(state, start(gen=2, at_s=9)) is Outcome.OLD
        assert (text_of(state), state.gen) == ("abc", 1)

    def test_repairs_and_gaps_of_an_earlier_gen_are_discarded(self):
        state = folded(*ABC, repair(3, "ABC", at_s=4), token(1, "x", gen=2, at_s=6))
        assert (state.repaired, state.gaps(), text_of(state)) == (None, [], "x")


class TestWhose:
    def test_the_publisher_of_the_first_event_is_the_owner(self):
        state = folded(token(1, "a", client_id="agent"))
        assert fold(state, token(2, "b", client_id="ann")) is Outcome.FOREIGN
        assert fold(state, token(2, "b", client_id=None)) is Outcome.FOREIGN
        assert fold(state, stop(2, client_id="ann")) is Outcome.FOREIGN
        assert fold(state, repair(2, "x", client_id="ann")) is Outcome.FOREIGN
        assert fold(state, token(2, "b", client_id="agent")) is Outcome.FOLDED

    def test_an_absent_client_id_is_an_owner_too(self):
        state = folded(token(1, "a"))
        assert fold(state, token(2, "b", client_id="ann")) is Outcome.FOREIGN

    def test_a_finished_message_without_an_owner_accepts_no_event(self):
        state = MessageState("r")
        state.status = "completed"
        for each in (*ABC, repair(3, "x"), stop(4)):
            assert fold(state, each) is Outcome.OLD

    def test_events_of_the_other_role_change_nothing(self):
        prompt = folded(event("prompt", None, "hi", at_s=0), state=MessageState("p", "user"))
        assert (text_of(prompt), prompt.status, prompt.ended) == ("hi", "completed", True)
        assert fold(prompt, token(1, "a")) is Outcome.OLD
        assert fold(prompt, event("prompt", None, "again", at_s=9)) is Outcome.OLD
        assert fold(folded(*ABC), event("prompt", None, "hi", at_s=9)) is Outcome.OLD


class TestProvisionalEnds:
    def test_a_later_event_reopens_a_provisional_end(self):
        state = folded(*ABC)
        idle(state)
        assert not state.ended
        fold(state, token(4, "d"))
        assert (text_of(state), state.status, state.finished_ms) == ("abcd", "in_progress", None)

    def test_a_stop_makes_it_final(self):
        state = folded(*ABC)
        idle(state)
        fold(state, stop(4))
        assert (state.status, state.ended) == ("completed", True)

    def test_a_repeated_event_does_not_reopen_it(self):
        state = folded(*ABC)
        idle(state)
        assert fold(state, token(3, "c")) is Outcome.OLD
        assert state.status == "interrupted"


def test_a_call_that_is_open_at_the_end_is_incomplete():
    call = event("tool_call", 1, tool_call_id="c", name="f", value="")
    assert folded(call).parts()[0]["status"] == "in_progress"
    assert folded(call, stop(2)).parts()[0]["status"] == "incomplete"
    done = event("tool_result", 2, tool_call_id="c", value="x")
    assert folded(call, done, stop(3)).parts()[0]["status"] == "completed"


def test_an_ended_message_accepts_every_kind_but_a_stop():
    assert {kind for phase, kind in STEPS if phase == "open"} - {
        kind for phase, kind in STEPS if phase == "ended"
    } == {"stop"}
    assert all(status in TERMINAL for status in ("completed", "interrupted"))


def test_all_runs_are_those_with_seqs_and_the_tail():
    state = folded(*ABC, nameless("token", "x", at_s=9))
    assert [run.first for run in state.all_runs()] == [0, -1]
    assert text_of(state) == "abcx"


def test_a_folded_event_marks_the_state_as_changed():
    state = MessageState("r")
    assert not state.changed
    fold(state, token(1, "a"))
    assert state.changed


class TestRepairs:
    """The rules; test_fold_repairs.py shows them combined."""

    def test_a_repair_replaces_all_up_to_its_seq_and_an_older_one_is_old(self):
        state = folded(*ABC, repair(2, "AB", at_s=4))
        assert (text_of(state), state.repaired) == ("ABc", 2)
        assert fold(state, repair(2, "xx", at_s=5)) is Outcome.OLD
        assert fold(state, repair(3, "ABC", at_s=6)) is Outcome.FOLDED
        assert (text_of(state), state.repaired) == ("ABC", 3)

    def test_a_repair_that_changes_nothing_keeps_the_timings(self):
        state = folded(*ABC)
        timings = list(state.runs[0].timings.entries)
        assert fold(state, repair(3, "abc", at_s=9)) is Outcome.FOLDED
        assert (state.runs[0].timings.entries, state.repaired) == (timings, 3)

    def test_a_pointer_is_noted_and_changes_no_text(self):
        state = folded(*ABC)
        assert fold(state, event("repair", 3, at_s=9)) is Outcome.POINTER
        assert (text_of(state), state.pointer, state.exact) == ("abc", 3, False)
        bare = folded(nameless("start", at_s=1))
        assert fold(bare, nameless("repair", at_s=2)) is Outcome.POINTER
        assert (bare.pointer, bare.exact) == (-1, True)

    def test_content_that_came_later_as_a_whole_is_not_replaced(self):
        state = folded(*ABC, repair(3, "ABC", at_s=4))
        state.repaired = None
        assert fold(state, repair(2, "ab", at_s=9)) is Outcome.FOLDED
        assert (text_of(state), state.repaired) == ("ABC", 2)
        other = folded(nameless("start", at_s=1))
        other.runs = [collapsed_run(0, 3, [{"type": "text", "text": "ABC"}], BEGAN_MS)]
        assert fold(other, nameless("repair", "ab", at_s=9)) is Outcome.FOLDED
        assert (text_of(other), other.repaired) == ("ABC", None)

    def test_a_repair_without_seq_from_before_what_is_folded_is_old(self):
        state = folded(nameless("start", at_s=1), nameless("token", "a", at_s=5))
        assert fold(state, nameless("repair", "x", at_s=4)) is Outcome.OLD

    def test_a_repair_of_content_without_seq_replaces_it(self):
        state = folded(nameless("start", at_s=1), nameless("token", "a", at_s=2))
        assert fold(state, nameless("repair", "a", at_s=3)) is Outcome.FOLDED
        assert (text_of(state), state.tail, state.sealed) == ("a", None, True)

    def test_a_repair_of_less_than_the_last_run_changes_the_text(self):
        state = folded(*ABC)
        assert fold(state, repair(2, "abc", at_s=9)) is Outcome.FOLDED
        assert (text_of(state), state.repaired) == ("abcc", 2)


class TestVersions:
    def test_the_greatest_version_counts_whole(self):
        state = timeline_of(create(1, "a"), full(1, 2, "ab")).messages["r"]
        assert (text_of(state), state.start_id, state.last_id) == ("ab", None, "m2")
        assert fold(state, decode(full(1, 2, "ab"))) is Outcome.OLD

    def test_a_delta_is_never_folded(self):
        state = timeline_of(create(1, "a")).messages["r"]
        assert fold(state, decode(append(1, 2, "b"))) is Outcome.OLD

    def test_a_sealed_message_takes_no_version(self):
        state = timeline_of(
            create(1, "a"), published("response-complete", "A", at_s=2, responseId="r")
        )
        assert fold(state.messages["r"], decode(full(1, 3, "ab"))) is Outcome.OLD

    def test_the_last_version_ends_the_response_when_it_was_published(self):
        state = timeline_of(create(1, "a"), full(1, 5, "ab", done=True)).messages["r"]
        assert (state.status, state.finished_ms) == ("completed", BEGAN_MS + 5_000)

    def test_a_version_after_the_end_still_replaces_an_earlier_one(self):
        ended = timeline_of(full(1, 2, "a"), published("response-end", at_s=4, responseId="r"))
        assert fold(ended.messages["r"], decode(full(1, 3, "ab"))) is Outcome.FOLDED
        assert text_of(ended.messages["r"]) == "ab"

    def test_a_step_may_lack_earlier_messages_unless_the_start_was_seen(self):
        step = Version(at(2), is_last=False, step="s", attempt=at(1))
        state = folded(event("token", None, "a", at_s=2)._replace(version=step))
        assert state.headless
        fold(state, nameless("start", at_s=1))
        assert not state.headless
        whole = folded(nameless("start", at_s=1))
        fold(whole, event("token", None, "a", at_s=2)._replace(version=step))
        assert not whole.headless

    def test_the_number_of_versioned_messages_and_of_steps_is_limited(self, monkeypatch):
        monkeypatch.setattr(versioned_messages, "MAX_VERSIONED", 1)
        state = timeline_of(create(1, "a")).messages["r"]
        assert fold(state, decode(create(2, "b"))) is Outcome.REFUSED
        assert fold(state, decode(full(1, 3, "ab"))) is Outcome.FOLDED
        steps = folded(void_of_step("one", 2))
        assert fold(steps, void_of_step("two", 3)) is Outcome.REFUSED
        assert fold(steps, void_of_step("one", 4)) is Outcome.FOLDED

    def test_a_prompt_may_be_several_channel_messages(self):
        version = Version(at(1), is_last=True)
        state = folded(
            event("prompt", None, "hi", at_s=1)._replace(version=version),
            state=MessageState("p", "user"),
        )
        assert (text_of(state), state.status) == ("hi", "completed")
        more = event("prompt", None, " you", at_s=2)._replace(version=Version(at(2)))
        assert fold(state, more) is Outcome.FOLDED
        assert text_of(state) == "hi you"


def void_of_step(step, at_s):
    version = Version(at(at_s), is_last=True, step=step, attempt=at(at_s))
    return event("void", None, at_s=at_s)._replace(version=version)


class TestLimits:
    @pytest.fixture(autouse=True)
    def _six_characters(self, monkeypatch):
        monkeypatch.setattr(content, "FOLDED_CHARACTERS", 6)

    def test_a_response_ends_before_the_event_that_does_not_fit(self):
        state = folded(start(), token(1, "abc"), token(2, "defg"), stop(3))
        assert (text_of(state), state.status, state.error) == ("abc", "incomplete", TOO_LARGE)
        assert (state.end, state.finished_ms) == (2, BEGAN_MS + 2_000)

    def test_content_without_seq_is_limited_too(self):
        state = folded(nameless("start", at_s=0), nameless("token", "abcdefg", at_s=1))
        assert (text_of(state), state.status, state.end) == ("", "incomplete", None)

    def test_versions_are_limited_too(self):
        state = timeline_of(create(1, "abc"), full(1, 2, "abcdefghijkl" * 9)).messages["r"]
        assert state.error == TOO_LARGE

    def test_what_fills_a_gap_of_an_ended_response_is_refused_where_it_does_not_fit(self):
        state = folded(start(), token(2, "abc"), stop(3))
        assert fold(state, token(1, "defg")) is Outcome.REFUSED
        assert state.status == "completed"


def test_an_event_that_fills_no_gap_of_an_ended_response_is_old():
    state = folded(start(), token(1, "a"), token(3, "c"), stop(4))
    assert fold(state, nameless("token", "x", at_s=9)) is Outcome.OLD
    assert fold(state, token(5, "x")) is Outcome.OLD


def test_an_event_without_id_and_seq_is_kept_without_an_id():
    state = folded(nameless("start", at_s=0), nameless("token", "a", at_s=1)._replace(id=None))
    assert (list(state.recent), state.exact) == (["start0"], True)


def test_the_serial_never_goes_back():
    state = folded(start(), token(2, "b"), token(1, "a"))
    assert state.serial == token(2, "b").serial


def test_a_fold_of_an_unnumbered_prompt_keeps_its_first_position():
    state = Event.prompt("p", "hi", serial="s", timestamp_ms=1)
    prompt = folded(state, state=MessageState("p", "user"))
    assert (prompt.position, prompt.through) == ("s", (1, None, "s", None))

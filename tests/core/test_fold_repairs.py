"""Repairs: what they replace, what they keep, and in which order they may arrive."""

from __future__ import annotations

from core.builders import BEGAN_MS, event, folded, start, stop, text_of, token
from rehydrate.core.fold import MessageState, Outcome, fold
from rehydrate.core.text.content import NO_SEQ, collapsed_run

ABC = (start(), token(1, "a"), token(2, "b"), token(3, "c"))


def repair(seq, text, **fields):
    return event("repair", seq, text, **fields)


def nameless(kind, text=None, *, at_s, **fields):
    return event(kind, None, text, at_s=at_s, **fields)


class TestRepairs:
    def test_a_repair_replaces_all_up_to_its_seq_and_closes_the_gaps(self):
        state = folded(start(), token(1, "a"), token(3, "c"), repair(3, "abc"))
        assert (text_of(state), state.gaps(), state.repaired) == ("abc", [], 3)
        assert fold(state, token(2, "b")) is Outcome.OLD

    def test_an_event_behind_a_repair_is_appended(self):
        state = folded(start(), token(1, "a"), repair(2, "ab", at_s=2), token(3, "c"), stop(4))
        assert (text_of(state), state.gaps()) == ("abc", [])

    def test_a_run_is_split_by_a_repair_in_its_middle(self):
        state = folded(*ABC, token(4, "d"), token(5, "e"), repair(3, "ABC", at_s=6))
        assert (text_of(state), state.through.seq, state.gaps()) == ("ABCde", 5, [])

    def test_gaps_behind_the_repair_stay(self):
        state = folded(
            start(), token(1, "a"), token(4, "d"), token(5, "e"), repair(2, "AB", at_s=6)
        )
        assert (text_of(state), state.gaps()) == ("ABde", [(3, 3)])

    def test_empty_tokens_before_the_split_do_not_bring_text_back(self):
        state = folded(
            start(),
            event("reasoning", 1, ""),
            token(2, "abc"),
            token(3, "d"),
            repair(2, "abc", at_s=4),
        )
        assert text_of(state) == "abcd"

    def test_an_older_repair_is_old_and_a_newer_one_replaces_it(self):
        state = folded(*ABC, repair(3, "ABC", at_s=4))
        assert fold(state, repair(3, "xxx", at_s=5)) is Outcome.OLD
        assert fold(state, repair(2, "xx", at_s=6)) is Outcome.OLD
        fold(state, token(4, "d"))
        assert fold(state, repair(4, "wxyz", at_s=7)) is Outcome.FOLDED
        assert text_of(state) == "wxyz"

    def test_a_repair_may_come_after_the_stop(self):
        state = folded(start(), token(1, "a"), token(3, "c"), stop(4), repair(3, "abc", at_s=5))
        assert (text_of(state), state.gaps(), state.status) == ("abc", [], "completed")

    def test_a_repair_brings_its_parts(self):
        parts = [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "x"}]
        state = folded(*ABC, repair(3, "ignored", value=parts, at_s=4))
        assert state.parts() == parts

    def test_a_repair_by_pointer_changes_no_text_and_makes_it_inexact_until_the_store_has_it(self):
        state = folded(*ABC)
        assert fold(state, repair(3, None, at_s=4)) is Outcome.POINTER
        assert (text_of(state), state.exact, state.repaired) == ("abc", False, None)
        fold(state, repair(3, "ABC", at_s=5))
        assert state.exact

    def test_a_pointer_without_seq_points_to_nothing_that_is_missing(self):
        state = folded(nameless("start", at_s=1), nameless("token", "a", at_s=2))
        assert fold(state, nameless("repair", at_s=3)) is Outcome.POINTER
        assert state.exact

    def test_a_repair_without_seq_seals_a_text_without_seq(self):
        state = folded(
            nameless("start", at_s=1),
            nameless("token", "a", at_s=2),
            nameless("repair", "abc", at_s=3),
        )
        assert fold(state, nameless("token", "x", at_s=4)) is Outcome.OLD
        assert (text_of(state), state.sealed, state.repaired) == ("abc", True, None)
        assert fold(state, nameless("repair", "old", at_s=2)) is Outcome.OLD

    def test_the_run_of_a_repair_without_seqs_has_no_seq(self):
        """Other negative numbers are those of versioned messages."""
        state = folded(nameless("token", "a", at_s=2), nameless("repair", "abc", at_s=3))
        assert [(run.first, run.last) for run in state.runs] == [(NO_SEQ, NO_SEQ)]

    def test_a_repair_without_seq_covers_the_seqs_that_were_seen(self):
        state = folded(*ABC, nameless("repair", "ABC", at_s=5), token(4, "d", at_s=6))
        assert (text_of(state), state.repaired) == ("ABCd", 3)

    def test_a_repair_before_everything_else_is_the_text(self):
        state = folded(repair(3, "abc", at_s=4), *ABC, token(4, "d"))
        assert (text_of(state), state.gaps()) == ("abcd", [])

    def test_a_repair_makes_text_without_its_start_exact(self):
        state = folded(nameless("token", "c", at_s=3), nameless("repair", "abc", at_s=4))
        assert (text_of(state), state.exact) == ("abc", True)


class TestRepairsOfWhatWasToldAsAWhole:
    def test_a_repair_that_changes_nothing_keeps_the_runs_and_their_times(self):
        state = folded(*ABC)
        ticks = list(state.runs[0].timings.entries)
        assert fold(state, repair(3, "abc", at_s=9)) is Outcome.FOLDED
        assert (state.runs[0].timings.entries, state.repaired) == (ticks, 3)

    def test_a_later_collapsed_run_is_not_cut(self):
        state = MessageState("r")
        state.seq, state.start_id = 3, ""
        state.runs = [collapsed_run(0, 3, [{"type": "text", "text": "ABC"}], BEGAN_MS)]
        assert fold(state, repair(2, "ab", at_s=9)) is Outcome.FOLDED
        assert (text_of(state), state.repaired) == ("ABC", 2)
        other = MessageState("r")
        other.runs = [collapsed_run(0, 3, [{"type": "text", "text": "ABC"}], BEGAN_MS)]
        assert fold(other, bare_repair("ab")) is Outcome.FOLDED
        assert (text_of(other), other.repaired) == ("ABC", None)


def bare_repair(text):
    return event("repair", None, text, at_s=9)

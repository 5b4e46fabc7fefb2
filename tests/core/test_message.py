"""What is known of a message, before and after it is emptied or sealed."""

from __future__ import annotations

from core.growing import create
from core.saying import shown, start, token
from rehydrate.core.fold import MessageState, fold


def test_a_message_of_which_nothing_was_seen_is_open_and_exact():
    state = MessageState("r")
    assert (state.status, state.ended, state.exact) == ("in_progress", False, True)
    assert (state.parts(), state.gaps(), state.runs_to_keep()) == ([], [], [])
    assert not state.contains(0)


def test_who_takes_it_over_finds_it_empty():
    state = MessageState("r")
    fold(state, start())
    fold(state, token(1, "a"))
    state.restart(2)
    assert (state.gen, state.parts(), state.through.seq) == (2, [], None)
    assert state.started_ms is None


def test_what_is_sealed_holds_only_what_has_a_seq():
    state = shown(create(1, "a")).messages["r"]
    state.seal()
    assert (state.cells, state.tail, state.sealed, state.exact) == ({}, None, True, True)


def test_the_runs_that_are_kept_are_those_of_cells_too():
    state = shown(create(1, "a"), create(2, "b")).messages["r"]
    assert [run.first for run in state.runs_to_keep()] == [-2, -3]

"""The state of a message, and the methods that change it."""

from __future__ import annotations

from itertools import permutations

from core.builders import BEGAN_MS, event, folded, start, stop, text, text_of, timeline_of, token
from core.growing import create
from rehydrate.core import message, wire
from rehydrate.core.client_view import Verdict, verdict
from rehydrate.core.codecs import decode_all
from rehydrate.core.fold import MessageState, Owner, fold
from rehydrate.core.message import NO_TIME_MS
from rehydrate.core.text import content
from rehydrate.core.timeline import Timeline


def test_a_message_without_events_is_open_and_exact():
    state = MessageState("r")
    assert (state.status, state.ended, state.exact) == ("in_progress", False, True)
    assert (state.parts(), state.gaps(), state.all_runs()) == ([], [], [])
    assert not state.contains(0)


def test_a_restarted_message_is_empty():
    state = MessageState("r")
    fold(state, start())
    fold(state, token(1, "a"))
    state.restart(2)
    assert (state.gen, state.parts(), state.through.seq) == (2, [], None)
    assert state.started_ms is None


def test_a_sealed_message_has_only_content_with_seqs():
    state = timeline_of(create(1, "a")).messages["r"]
    state.seal()
    assert (state.versioned, state.tail, state.sealed, state.exact) == ({}, None, True, True)


def test_all_runs_include_those_of_versioned_messages():
    state = timeline_of(create(1, "a"), create(2, "b")).messages["r"]
    assert [run.first for run in state.all_runs()] == [-2, -3]


class TestVerbs:
    def test_a_claim_names_the_owner_and_keeps_what_is_not_given(self):
        state = MessageState("r")
        state.claim("agent", at_ms=5, prompt_id="p", metadata={"a": 1}, ephemeral=True)
        assert (state.owner, state.started_ms, state.ephemeral) == (Owner("agent"), 5, True)
        state.restart(2)
        state.claim("other", at_ms=7)
        assert (state.prompt_id, state.metadata, state.ephemeral) == ("p", {"a": 1}, False)
        assert (state.owner, state.started_ms, state.changed) == (Owner("other"), 7, True)

    def test_metadata_is_replaced_only_by_metadata(self):
        state = MessageState("r")
        state.annotate(None)
        assert not state.changed
        state.annotate([1])
        state.annotate(None)
        assert (state.metadata, state.changed) == ([1], True)

    def test_a_position_is_set_once(self):
        state = MessageState("r")
        state.place(None)
        state.place("b")
        state.place("a")
        assert state.position == "b"

    def test_a_finished_message_is_imported_whole(self):
        state = MessageState("r")
        state.import_finished([text("a")], "completed", finished_ms=9)
        assert (text_of(state), state.status, state.exact) == ("a", "completed", True)
        assert (state.started_ms, state.finished_ms, state.end, state.repaired) == (
            9,
            9,
            None,
            None,
        )

    def test_an_import_replaces_what_was_folded_and_keeps_what_is_not_given(self):
        state = folded(start(prompt_id="p"), token(1, "x"), token(3, "z"))
        state.import_finished([text("a")], "failed", finished_ms=9, usage={"n": 1}, metadata="m")
        assert (text_of(state), state.gaps(), state.repaired, state.end) == ("a", [], 3, 4)
        assert (state.prompt_id, state.usage, state.metadata) == ("p", {"n": 1}, "m")
        assert state.started_ms == BEGAN_MS
        state.import_finished(
            [text("b")], "failed", finished_ms=9, started_ms=1, prompt_id="q", usage={"n": 2}
        )
        assert (state.started_ms, state.prompt_id, state.usage) == (1, "q", {"n": 2})

    def test_an_import_over_versioned_messages_seals_the_message(self):
        state = timeline_of(create(1, "a")).messages["r"]
        state.import_finished([text("b")], "completed", finished_ms=9)
        assert (text_of(state), state.sealed) == ("b", True)

    def test_a_posted_message_keeps_its_content_and_notes_who_streams_it_and_how_far(self):
        state = MessageState("r")
        state.import_finished([text("a")], "completed", finished_ms=9)
        noted = [("agent", 1, None), ("agent", 1, 3), ("agent", 1, 2), ("other", 1, 8)]
        for publisher, gen, seq in noted:
            state.note_stream(event("token", seq, "b", client_id=publisher, gen=gen))
        assert (state.owner, state.seq, state.repaired, state.end) == (Owner("agent"), 3, 3, 4)
        state.mark_stored()
        state.note_stream(event("token", 3, "b", client_id="agent", gen=1))
        assert not state.changed
        state.note_stream(event("token", 1, "b", client_id="agent", gen=2))
        state.note_stream(event("token", 9, "b", client_id="agent", gen=1))
        assert (state.gen, state.seq, state.end, state.changed) == (2, 1, 2, True)
        assert (text_of(state), state.gaps(), state.runs[0].last) == ("a", [], 1)

    def test_a_posted_message_is_sealed_when_a_channel_message_of_it_grows(self):
        posted = MessageState("r")
        posted.import_finished([text("a")], "completed", finished_ms=9)
        timeline = Timeline([posted])
        [version] = decode_all([create(1, "a")])
        timeline.fold([version])
        state = timeline.messages["r"]
        assert (text_of(state), state.sealed, state.exact) == ("a", True, True)
        view = wire.state_of(wire.message(state))
        assert verdict(view, version) is Verdict.DROP

    def test_an_interrupted_message_is_reopened_by_a_later_event(self):
        state = folded(start(), token(1, "a"))
        state.mark_stored()
        state.interrupt(77)
        assert (state.status, state.finished_ms, state.ended) == ("interrupted", 77, False)
        assert state.changed
        fold(state, token(2, "b"))
        assert (state.status, state.finished_ms) == ("in_progress", None)

    def test_marks_are_set_and_cleared(self):
        state = MessageState("r")
        state.mark_changed()
        assert state.changed
        state.mark_stored()
        assert not state.changed
        state.mark_inexact()
        assert (state.exact, state.changed) == (False, True)

    def test_a_store_restores_attributes_and_runs(self):
        source = folded(start(), token(1, "a"))
        state = MessageState("r")
        state.restore({"gen": 2, "seq": 1, "start_id": "s"})
        state.restore_runs(source.runs, None, {})
        assert (state.through, text_of(state)) == ((2, 1, None, None), "a")

    def test_a_store_restores_the_runs_of_versioned_messages_by_their_numbers(self):
        source = timeline_of(create(1, "a"), create(2, "b")).messages["r"]
        state = timeline_of(create(1, ""), create(2, "x")).messages["r"]
        state.restore_runs([], None, {-2: next(iter(source.versioned.values())).run})
        assert text_of(state) == "ax"


def test_the_place_of_a_seq_is_the_first_run_that_ends_at_or_after_it():
    state = folded(start(), token(3, "c"), token(4, "d"), token(7, "g"))
    assert [state.run_index(seq) for seq in (0, 1, 3, 4, 5, 7, 8)] == [0, 1, 1, 1, 2, 2, 3]
    assert MessageState("r").run_index(5) == 0


def test_a_repaired_seq_is_contained_and_closes_the_gaps_before_it():
    state = folded(start(), token(1, "a"), token(5, "e"), event("repair", 3, "abc", at_s=9))
    assert [state.contains(seq) for seq in (2, 3, 4, 5)] == [True, True, False, True]
    assert (state.covered, state.gaps()) == (3, [(4, 4)])


def test_a_stop_counts_the_events_that_are_missing_behind_the_last_one():
    assert folded(start(), token(1, "a"), stop(4)).gaps() == [(2, 3)]
    assert folded(start(), token(1, "a"), stop(2)).gaps() == []


def test_a_tool_call_of_an_ended_message_is_incomplete():
    call = event("tool_call", 1, tool_call_id="c", name="f", value="")
    assert [part["status"] for part in folded(call).parts()] == ["in_progress"]
    ended = folded(call, token(2, "a"), stop(3)).parts()
    assert [part.get("status") for part in ended] == ["incomplete", None]


def test_content_without_seq_comes_behind_the_numbered_runs():
    state = folded(start(), token(1, "a"), event("token", None, "b", at_s=9))
    assert text_of(state) == "ab"


def test_room_is_measured_again_before_an_event_is_refused(monkeypatch):
    state = folded(start(), token(1, "abc"))
    monkeypatch.setattr(content, "FOLDED_CHARACTERS", 6)
    state.budget.characters = 6
    assert state.reserve(3)
    assert not state.reserve(9)
    state.count_part_changes(2)
    assert state.budget.steps == 3
    MessageState("x").count_part_changes(1)


def test_the_id_of_an_event_that_changed_nothing_is_kept_as_long_as_any_other():
    state = MessageState("r")
    assert not state.has_forgotten(BEGAN_MS)
    state.keep_id("a", BEGAN_MS)
    state.keep_id("b", BEGAN_MS + 1)
    state.keep_id("a", BEGAN_MS + 6_000)
    state.keep_id("a", BEGAN_MS + 5_000)
    state.keep_id("old", BEGAN_MS)
    assert state.recent == {"b": BEGAN_MS + 1, "a": BEGAN_MS + 6_000}
    assert (state.has_forgotten(BEGAN_MS), state.has_forgotten(BEGAN_MS + 1_000)) == (True, False)
    state.recent["a"] = NO_TIME_MS
    assert not state.has_forgotten(BEGAN_MS)


def test_a_pointer_is_kept():
    state = folded(start(), token(1, "a"))
    state.mark_stored()
    state.note_pointer(3)
    state.note_pointer(2)
    assert (state.pointer, state.changed, state.exact) == (3, True, False)


def unread(seq):
    return event("void", seq, unreadable=1)


def test_unreadable_events_are_counted_once_in_whatever_order_they_come():
    for order in permutations([unread(1), unread(2), unread(4), unread(2)]):
        state = folded(start(), *order)
        assert state.unreadable_seqs == ((1, 2), (4, 4))
        assert (state.unreadable, state.exact) == (3, False)


def test_unreadable_events_without_a_seq_are_counted_too():
    state = folded(
        event("start", None, at_s=0), *(event("void", None, at_s=n, unreadable=1) for n in (1, 2))
    )
    assert (state.unreadable_seqs, state.unreadable) == (((-2, -1),), 2)
    fold(state, event("repair", None, "ab", at_s=3))
    assert (state.unreadable, state.exact) == (0, True)


def test_a_repair_reads_what_it_replaces_and_no_more():
    state = folded(start(), unread(1), unread(2), unread(3), event("repair", 2, "ab", at_s=4))
    assert (state.unreadable_seqs, state.exact) == (((3, 3),), False)


def test_beyond_a_number_of_ranges_unreadable_events_are_only_counted(monkeypatch):
    monkeypatch.setattr(message, "MAX_UNREADABLE_RANGES", 2)
    state = folded(start(), unread(1), unread(3), unread(5), unread(7))
    assert (state.unreadable, state.unreadable_seqs[0]) == (4, (-2, -1))


def test_an_import_and_a_take_over_have_nothing_unreadable():
    state = folded(start(), unread(1))
    state.import_finished([{"type": "text", "text": "a"}], "completed", finished_ms=1)
    assert state.exact
    assert folded(start(), unread(1), start(gen=2)).exact


def test_content_without_anything_to_show_is_not_unreadable():
    assert folded(start(), event("void", 1), token(2, "a")).exact


def test_content_without_seqs_is_known_also_of_a_message_from_its_wire_form():
    unnumbered = folded(event("start", None), event("token", None, "a", at_s=1))
    begun = folded(start(), event("token", None, "a", at_s=1))
    numbered = folded(token(0, "a"))
    none = folded(start())
    for state, expected in ((unnumbered, True), (begun, True), (numbered, False), (none, False)):
        for each in (state, wire.state_of(wire.message(state))):
            assert each.has_unnumbered_content is expected
    unnumbered.seal()
    assert not unnumbered.has_unnumbered_content


def test_a_response_that_ended_without_seq_and_content_is_not_exact():
    nothing = folded(event("start", None), event("stop", None, at_s=1))
    counted = folded(start(), stop(1))
    for state, expected in ((nothing, False), (counted, True)):
        for each in (state, wire.state_of(wire.message(state))):
            assert each.exact is expected
    assert folded(event("start", None)).exact
    assert folded(event("token", None, "a"), event("start", None), event("stop", None)).parts()


class TestEdits:
    def test_an_edit_is_known_by_its_version_and_a_later_one_is_not(self):
        state = folded(start(), token(1, "a"), token(2, "b"))
        edit = token(1, "A")._replace(edit="v2")
        assert not state.has_edit(edit)
        assert state.reaches(edit)
        state.changed = False
        state.note_edit(edit.serial, edit.edit)
        assert state.changed
        assert state.edits == {edit.serial: "v2"}
        assert state.has_edit(edit)
        assert state.has_edit(edit._replace(edit="v1"))
        assert not state.has_edit(edit._replace(edit="v3"))

    def test_what_a_repair_replaced_and_what_is_no_edit_counts_as_known(self):
        state = folded(start(), token(1, "a"), event("repair", 1, "all", at_s=5))
        assert state.has_edit(token(1, "A")._replace(edit="v2"))
        assert state.has_edit(token(2, "b"))
        assert state.has_edit(token(2, "b")._replace(edit="v2", serial=None))

    def test_content_without_seq_is_reached_up_to_the_newest_serial(self):
        state = folded(event("start", None, at_s=0), event("token", None, "a", at_s=1))
        assert state.reaches(event("token", None, "a", at_s=1))
        assert not state.reaches(event("token", None, "b", at_s=2))
        assert not state.reaches(event("token", None, "a", at_s=1)._replace(serial=None))
        assert not MessageState("r").reaches(event("token", None, "a", at_s=1))

    def test_of_more_edits_than_are_kept_the_text_is_inexact(self, monkeypatch):
        monkeypatch.setattr(message, "MAX_EDITS", 1)
        state = folded(start(), token(1, "a"), token(2, "b"))
        state.note_edit("s1", "v1")
        state.note_edit("s1", "v2")
        assert (state.edits, state.inexact) == ({"s1": "v2"}, False)
        state.note_edit("s2", "v1")
        assert (state.edits, state.inexact) == ({"s1": "v2"}, True)

    def test_unreadable_content_that_is_edited_leaves_the_rest_of_its_range(self):
        state = folded(start(), *(event("void", seq, unreadable=1) for seq in (1, 2, 3)))
        assert state.unreadable_seqs == ((1, 3),)
        state.note_edited_seq(2)
        assert state.unreadable_seqs == ((1, 1), (3, 3))
        state.note_edited_seq(1)
        assert state.unreadable_seqs == ((3, 3),)


def test_what_could_not_be_read_is_counted_once_whatever_comes_again():
    state = MessageState("r")
    for seq in (1, 2, 1, None, None):
        state.note_unreadable(seq)
    assert (state.unreadable, state.unreadable_seqs[-1]) == (4, (1, 2))

"""Channel messages that are edited later: the same event with other content, whenever it is read."""

from __future__ import annotations

from itertools import permutations

import pytest

from core.builders import (
    BEGAN_MS,
    event,
    folded,
    published,
    serial,
    start,
    stop,
    text_of,
    timeline_of,
    token,
)
from rehydrate.core import fold as module
from rehydrate.core import message as messages
from rehydrate.core import wire
from rehydrate.core.fold import MessageState, Outcome, fold


def version(at_s):
    return serial(BEGAN_MS + at_s * 1000)


def edited(of, text, *, at_s=20, **fields):
    """Return *of*, a token, as its update at *at_s* says it."""
    return of._replace(text=text, edit=version(at_s), id=f"edit{at_s}", **fields)


NUMBERED = (start(), token(1, "one "), token(2, "two "), token(3, "three"))
PLAIN = tuple(each._replace(seq=None) for each in NUMBERED)


@pytest.mark.parametrize("log", [NUMBERED, PLAIN], ids=["numbered", "without seq"])
@pytest.mark.parametrize("ends", [True, False])
def test_the_text_is_that_of_the_edit_whenever_it_is_read(log, ends):
    end = [stop(4) if log is NUMBERED else event("stop", None, at_s=4)] if ends else []
    edit = edited(log[2], "2 ")
    late = folded(*log, *end, edit)
    at_once = folded(*log[:2], edit, log[3], *end)
    both = folded(*log[:2], edit, log[3], *end, log[2], edit)
    assert [text_of(each) for each in (late, at_once, both)] == ["one 2 three"] * 3
    assert all(
        each.exact and each.edits == {edit.serial: edit.edit} for each in (late, at_once, both)
    )
    assert [each.timings.entries for each in late.all_runs()] == [
        each.timings.entries for each in at_once.all_runs()
    ]


def test_the_greatest_version_counts_in_whatever_order_they_come():
    edits = [
        edited(NUMBERED[2], text, at_s=at_s) for text, at_s in (("a", 20), ("b", 30), ("c", 25))
    ]
    for order in permutations([NUMBERED[2], *edits]):
        assert text_of(folded(*NUMBERED[:2], *order, NUMBERED[3])) == "one bthree"


def test_a_repair_is_newer_than_the_edits_of_what_it_replaces():
    repair = event("repair", 3, "all", at_s=5)
    for order in permutations([repair, edited(NUMBERED[2], "2 ")]):
        assert text_of(folded(*NUMBERED, *order)) == "all"
    sealed = folded(*PLAIN, event("repair", None, "all", at_s=5))
    assert fold(sealed, edited(PLAIN[2], "2 ")) is Outcome.OLD


def test_an_edit_in_the_middle_of_a_part_and_of_a_call_keeps_the_rest():
    log = (
        start(),
        token(1, "ab"),
        event("tool_call", 2, tool_call_id="c", name="f", value=""),
        event("tool_args", 3, "{1", tool_call_id="c"),
        event("tool_args", 4, "2}", tool_call_id="c"),
        token(5, "cd"),
        token(6, "ef"),
    )
    state = folded(*log, edited(log[3], "{"), edited(log[5], ""), edited(log[1], "ABC"))
    assert [part.get("args", part.get("text")) for part in state.parts()] == ["ABC", "{2}", "ef"]
    assert (state.gaps(), state.through.seq) == ([], 6)


def test_an_edit_whose_place_is_not_known_makes_the_text_inexact():
    twins = folded(*PLAIN, PLAIN[3]._replace(serial=serial(BEGAN_MS + 3000, 1), id="twin"))
    whole = wire.state_of(wire.message(folded(*NUMBERED, stop(4))))
    unknown = folded(event("start", None, at_s=0), event("stop", None, at_s=9))
    for state, of in ((twins, PLAIN[3]), (whole, NUMBERED[2]), (unknown, PLAIN[2])):
        before = text_of(state)
        assert fold(state, edited(of, "?")) is Outcome.FOLDED
        assert (text_of(state), state.exact) == (before, False)
        assert fold(state, edited(of, "?")) is Outcome.OLD


def test_an_edit_that_can_or_cannot_be_read_is_counted_in_the_place_of_what_it_edits():
    unread = event("void", 2, unreadable=1)
    state = folded(start(), token(1, "a"), unread, event("void", 3, unreadable=1), token(4, "d"))
    fold(state, edited(token(2, "b"), "b"))
    assert (text_of(state), state.unreadable_seqs) == ("abd", ((3, 3),))
    fold(state, unread._replace(edit=version(30)))
    assert (text_of(state), state.unreadable) == ("ad", 2)
    fold(state, edited(unread, None, at_s=31))
    assert state.unreadable == 2


def test_an_edited_prompt_is_the_prompt_with_other_text():
    prompt = event("prompt", None, "hi", at_s=1, message_id="p")
    state = folded(prompt, state=MessageState("p", "user"))
    fold(state, edited(prompt, "bye"))
    assert (text_of(state), state.status) == ("bye", "completed")
    other = edited(prompt._replace(serial=serial(BEGAN_MS)), "third", at_s=40)
    assert fold(state, other) is Outcome.OLD
    assert fold(state, prompt) is Outcome.OLD


def test_what_has_no_content_is_not_edited_and_others_may_not_edit():
    state = folded(*NUMBERED, stop(4))
    for each in (stop(4), start(), event("repair", 3, "x", at_s=3)):
        assert fold(state, each._replace(edit=version(20), id="e")) is Outcome.OLD
    assert fold(state, edited(NUMBERED[2], "x", client_id="eve")) is Outcome.FOREIGN
    assert state.exact


def test_an_edit_of_a_message_ended_by_silence_does_not_reopen_it():
    state = folded(*NUMBERED)
    state.interrupt(BEGAN_MS + 9000)
    fold(state, edited(NUMBERED[2], "2 "))
    assert (text_of(state), state.provisional) == ("one 2 three", True)


def test_of_too_many_edits_the_text_is_inexact(monkeypatch):
    monkeypatch.setattr(messages, "MAX_EDITS", 1)
    state = folded(*NUMBERED, edited(NUMBERED[1], "1"), edited(NUMBERED[1], "1.", at_s=21))
    assert (text_of(state), state.exact) == ("1.two three", True)
    assert not folded(edited(NUMBERED[2], "2"), state=state).exact


def test_an_edit_that_is_too_large_is_refused_and_declared(monkeypatch):
    state = folded(*NUMBERED)
    monkeypatch.setattr(module, "adds", lambda _: 10**9)
    fold(state, edited(NUMBERED[2], "long"))
    assert (text_of(state), state.exact) == ("one two three", False)


def test_edits_are_kept_in_the_wire_form():
    state = folded(*NUMBERED, edited(NUMBERED[2], "2 "))
    read = wire.state_of(wire.message(state))
    assert read.edits == state.edits
    assert fold(read, edited(NUMBERED[2], "2 ")) is Outcome.OLD


def test_updates_and_deletes_of_channel_messages_are_edits():
    said = [
        published("start", at_s=0, responseId="r"),
        published("token", "a", at_s=1, responseId="r"),
        published("token", "b", at_s=2, responseId="r"),
        published("user-input", {"promptId": "p", "text": "hi"}, at_s=3),
        published("user-input", "ho", at_s=4),
    ]
    later = [
        said[1]._replace(data="A", action=1, version_serial=version(20)),
        said[2]._replace(action=2, version_serial=version(21)),
        said[3]._replace(action=2, version_serial=version(22)),
        said[4]._replace(data="HO", action=1, version_serial=version(23)),
    ]
    for log in ([*said, *later], [said[0], *later], [*said, *later, *said]):
        timeline = timeline_of(*log)
        texts = {id_: text_of(state) for id_, state in timeline.messages.items()}
        assert texts == {"r": "A", "p": "", "m4": "HO"}
        assert all(state.exact for state in timeline.messages.values())

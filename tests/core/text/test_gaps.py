"""Gaps at their places in the parts."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from core.saying import event, folded, start, stop, token
from rehydrate.core import wire
from rehydrate.core.text.gaps import parted


def parts_of(*events):
    return json.loads(wire.encode(folded(*events)))["parts"]


def text(text_, *gaps, **more):
    part = {"type": "text", "text": text_, **more}
    return part | {"gaps": [list(gap) for gap in gaps]} if gaps else part


def test_a_gap_is_marked_where_it_is():
    parts = parts_of(start(), token(1, "Once "), token(3, "a 🌊"), token(7, "me"))
    assert parts == [text("Once a 🌊me", (5, 2, 2), (8, 4, 6))]


def test_a_text_without_gaps_has_no_marks():
    assert parts_of(start(), token(1, "a"), stop(2)) == [text("a")]


def test_a_gap_before_everything_lies_at_the_beginning():
    assert parts_of(token(3, "c")) == [text("c", (0, 1, 2))]
    assert parts_of(token(3, "c"), token(5, "e")) == [text("ce", (0, 1, 2), (1, 4, 4))]


def test_a_gap_behind_everything_lies_at_the_end():
    assert parts_of(start(), token(1, "a"), stop(4)) == [text("a", (1, 2, 3))]


def test_a_gap_of_a_message_without_content_has_no_place():
    body = json.loads(wire.encode(folded(start(), stop(4))))
    assert (body["parts"], body["gaps"]) == ([], [[1, 3]])


def test_a_gap_lies_in_the_part_that_was_extended_last():
    said = [token(1, "a", part="1"), token(2, "b", part="2"), token(3, "c", part="1")]
    assert parts_of(*said, token(6, "d", part="2")) == [
        text("ac", (2, 4, 5), part="1"),
        text("bd", part="2"),
    ]


def test_a_gap_in_a_tool_call_lies_somewhere_in_it_or_behind_it():
    call = event("tool_call", 1, tool_call_id="t", name="f", value="")
    (part,) = parts_of(call, event("tool_args", 3, '"x"}', tool_call_id="t"))
    assert (part["args"], part["gaps"]) == ('"x"}', [[0, 2, 2]])


def test_a_repair_closes_it():
    assert parts_of(token(1, "a"), token(3, "c"), event("repair", 3, "abc")) == [text("abc")]


def test_the_text_of_a_wire_form_without_places_lies_before_the_first_gap():
    part = text("ac")
    assert parted([part], [(2, 2), (4, 4)]) == [[part], [], []]


def test_text_without_a_key_is_cut_only_where_a_reader_joins_it_again():
    part = text("ab", (1, 2, 2))
    before, behind = parted([part], [(2, 2)])
    assert [p["text"] for p in before + behind] == ["a", "b"]


def _content(seq, kind, key, said):
    if kind == "tool_args":
        return event(kind, seq, said, tool_call_id=f"t{key}")
    if kind in ("tool_call", "tool_result"):
        value = "" if kind == "tool_call" else 7
        return event(kind, seq, tool_call_id=f"t{key}", value=value, name="f")
    return event(kind, seq, said, part=key)


KINDS = st.sampled_from(
    ["token", "token", "token", "reasoning", "refusal", "tool_call", "tool_args", "tool_result"]
)


def _placed(body):
    """Return the gaps of a wire form (a result before its call is read back differently)."""
    known = ("type", "part", "text", "args", "gaps")
    return body["gaps"], [[part.get(key) for key in known] for part in body["parts"]]


SAID = st.tuples(KINDS, st.sampled_from([None, None, "1", "2"]), st.sampled_from(["a", "bc", "🌊"]))


@given(st.lists(SAID, max_size=12), st.sets(st.integers(1, 13)), st.booleans())
def test_a_message_read_back_from_its_wire_form_has_its_gaps_at_their_places(said, lost, ended):
    events = [_content(seq, *each) for seq, each in enumerate(said, 1) if seq not in lost]
    body = json.loads(wire.encode(folded(start(), *events, *[stop(14)] * ended)))
    assert _placed(json.loads(wire.encode(wire.state_of(body)))) == _placed(body)


@given(st.lists(st.sampled_from(["a", "bc", "🌊"]), max_size=12), st.sets(st.integers(1, 12)))
def test_cut_at_its_gaps_a_text_is_the_runs_that_it_came_from(said, lost):
    pieces = ["|" if seq in lost else each for seq, each in enumerate(said, 1)]
    events = [token(seq, each) for seq, each in enumerate(said, 1) if seq not in lost]
    body = json.loads(wire.encode(folded(start(), *events, stop(len(said) + 1))))
    cut = parted(body["parts"], body["gaps"])
    runs = re.sub(r"\|+", "|", "".join(pieces)).split("|")
    assert ["".join(p["text"] for p in each) for each in cut] == runs

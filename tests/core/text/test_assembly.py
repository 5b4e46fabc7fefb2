"""The parts that runs add up to, and the gaps at their places in them."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from core.builders import (
    PARTS,
    call,
    event,
    folded,
    run_with,
    start,
    stop,
    text,
    timeline_of,
    token,
)
from core.growing import at, create
from rehydrate.core import wire
from rehydrate.core.event import Version
from rehydrate.core.text.assembly import assemble, parted, spoken_text
from rehydrate.core.text.content import collapsed_run, run_of


def test_consecutive_tokens_are_one_part():
    assert assemble([run_with(token(1, "a"), token(2, "b"))]) == [text("ab")]


def test_refusals_and_reasoning_are_parts_of_their_own_and_reasoning_is_not_spoken():
    parts = assemble(
        [
            run_with(
                event("reasoning", 1, "hm"),
                token(2, "a"),
                event("refusal", 3, "no"),
                token(4, "b"),
            )
        ]
    )
    assert [(p["type"], p["text"]) for p in parts] == [
        ("reasoning", "hm"),
        ("text", "a"),
        ("refusal", "no"),
        ("text", "b"),
    ]
    assert spoken_text(parts) == "anob"


def test_named_parts_collect_their_text_wherever_it_comes():
    parts = assemble(
        [
            run_with(
                token(1, "a", part="x"),
                token(2, "1", part="y"),
                token(3, "b", part="x"),
                token(4, "-"),
                token(5, "2", part="y"),
            )
        ]
    )
    assert parts == [text("ab", part="x"), text("12", part="y"), text("-")]


def test_a_part_of_one_name_is_another_for_another_type():
    parts = assemble([run_with(token(1, "a", part="x"), event("reasoning", 2, "b", part="x"))])
    assert [p["type"] for p in parts] == ["text", "reasoning"]


def test_a_part_continues_across_runs():
    runs = [run_with(token(1, "a")), run_with(token(3, "c"))]
    assert assemble(runs) == [text("ac")]


def test_a_tool_call_is_begun_argued_and_completed():
    steps = [
        event("tool_call", 1, tool_call_id="c", name="find", value=""),
        event("tool_args", 2, '{"q":', tool_call_id="c"),
        event("tool_args", 3, "1}", tool_call_id="c"),
    ]
    assert assemble([run_with(*steps)]) == [call("c", "find", '{"q":1}')]
    result = event("tool_result", 4, tool_call_id="c", name=None, value=[1])
    assert assemble([run_with(*steps, result)]) == [call("c", "find", '{"q":1}', [1], "completed")]


def test_parallel_calls_keep_apart():
    run = run_with(
        event("tool_call", 1, tool_call_id="a", name="f", value=""),
        event("tool_call", 2, tool_call_id="b", name="g", value={"x": 1}),
        event("tool_args", 3, "1", tool_call_id="a"),
        event("tool_result", 4, tool_call_id="b", name="g", value=None),
        event("tool_args", 5, "2", tool_call_id="a"),
    )
    assert assemble([run]) == [call("a", "f", "12"), call("b", "g", {"x": 1}, None, "completed")]


def test_arguments_without_their_call_are_a_call_without_a_name():
    assert assemble([run_of(event("tool_args", 1, "{}", tool_call_id="c"))]) == [
        call("c", None, "{}")
    ]


def test_text_is_not_appended_to_arguments_that_are_not_text():
    run = run_with(
        event("tool_call", 1, tool_call_id="c", name="f", value={"x": 1}),
        event("tool_args", 2, "y", tool_call_id="c"),
    )
    assert assemble([run]) == [call("c", "f", {"x": 1})]


def test_the_result_of_a_failed_tool_is_its_error():
    begun = event("tool_call", 1, tool_call_id="c", name="find", value="")
    failed = event("tool_result", 2, tool_call_id="c", value={"error": "no"}, status="failed")
    assert assemble([run_with(begun, failed)]) == [call("c", "find", "", {"error": "no"}, "failed")]
    assert assemble([run_of(failed)]) == [call("c", None, "", {"error": "no"}, "failed")]


def test_a_result_without_its_call_is_a_completed_call():
    result = event("tool_result", 1, tool_call_id="c", name="f", value="x")
    assert assemble([run_of(result)]) == [call("c", "f", "", "x", "completed")]


def test_a_void_event_adds_nothing_and_keeps_its_place():
    run = run_with(token(1, "a"), event("void", 2), token(3, "b"))
    assert (run.first, run.last) == (1, 3)
    assert assemble([run]) == [text("ab")]


def test_an_empty_text_makes_no_part():
    run = run_with(
        event("reasoning", 1, ""), event("tool_args", 2, "", tool_call_id="c"), token(3, "a")
    )
    assert assemble([run]) == [text("a")]
    assert assemble([collapsed_run(0, 3, [text("")], 0)]) == []


def test_parts_of_a_collapsed_run_are_the_same_parts():
    assert assemble([collapsed_run(0, 9, PARTS, 0)]) == PARTS


def test_a_call_without_an_id_gets_one():
    (part,) = assemble([collapsed_run(0, 1, [{"type": "tool_call"}], 0)])
    assert part == call("call-0")


def test_text_continues_after_a_collapsed_run():
    assert assemble([collapsed_run(0, 2, [text("ab")], 0), run_of(token(3, "c"))]) == [text("abc")]


def test_versioned_messages_are_parts_that_carry_their_versions():
    (state,) = timeline_of(create(1, "a"), create(2, "b")).messages.values()
    parts = assemble([], state.visible_versioned())
    assert [(part["text"], part["through"]["serial"]) for part in parts] == [
        ("a", at(1)),
        ("b", at(2)),
    ]


def test_a_versioned_tool_call_carries_the_versions_of_its_call_and_of_its_result():
    call_event = event("tool_call", None, tool_call_id="c", name="f", value=1, at_s=1)
    result = event("tool_result", None, tool_call_id="c", value=2, at_s=2)
    state = folded(
        call_event._replace(version=Version(at(1))), result._replace(version=Version(at(3)))
    )
    (part,) = assemble([], state.visible_versioned())
    assert (part["through"]["version"], part["result_through"]["version"]) == (at(1), at(3))


def test_gaps_are_marked_in_the_part_that_they_follow():
    runs = [run_with(token(1, "ab")), run_with(token(4, "c"))]
    assert assemble(runs, gaps=[(2, 3)]) == [text("abc", gaps=[[2, 2, 3]])]


def parts_of(*events):
    return json.loads(wire.encode(folded(*events)))["parts"]


def marked(text_, *gaps, **more):
    part = {"type": "text", "text": text_, **more}
    return part | {"gaps": [list(gap) for gap in gaps]} if gaps else part


def test_a_gap_is_marked_where_it_is():
    parts = parts_of(start(), token(1, "Once "), token(3, "a 🌊"), token(7, "me"))
    assert parts == [marked("Once a 🌊me", (5, 2, 2), (8, 4, 6))]


def test_a_text_without_gaps_has_no_marks():
    assert parts_of(start(), token(1, "a"), stop(2)) == [marked("a")]


def test_a_gap_before_everything_lies_at_the_beginning():
    assert parts_of(token(3, "c")) == [marked("c", (0, 1, 2))]
    assert parts_of(token(3, "c"), token(5, "e")) == [marked("ce", (0, 1, 2), (1, 4, 4))]


def test_a_gap_behind_everything_lies_at_the_end():
    assert parts_of(start(), token(1, "a"), stop(4)) == [marked("a", (1, 2, 3))]


def test_a_gap_of_a_message_without_content_has_no_place():
    body = json.loads(wire.encode(folded(start(), stop(4))))
    assert (body["parts"], body["gaps"]) == ([], [[1, 3]])


def test_a_gap_lies_in_the_part_that_was_extended_last():
    said = [token(1, "a", part="1"), token(2, "b", part="2"), token(3, "c", part="1")]
    assert parts_of(*said, token(6, "d", part="2")) == [
        marked("ac", (2, 4, 5), part="1"),
        marked("bd", part="2"),
    ]


def test_a_gap_in_a_tool_call_lies_somewhere_in_it_or_behind_it():
    call = event("tool_call", 1, tool_call_id="t", name="f", value="")
    (part,) = parts_of(call, event("tool_args", 3, '"x"}', tool_call_id="t"))
    assert (part["args"], part["gaps"]) == ('"x"}', [[0, 2, 2]])


def test_a_repair_closes_it():
    assert parts_of(token(1, "a"), token(3, "c"), event("repair", 3, "abc")) == [marked("abc")]


def test_the_text_of_a_wire_form_without_places_lies_before_the_first_gap():
    part = marked("ac")
    assert parted([part], [(2, 2), (4, 4)]) == [[part], [], []]


def test_every_part_is_in_one_piece_only():
    """Neither a tool call nor a long text with a gap at its end is repeated after its piece."""
    tool, text = call("c", "f"), marked("ab", (1, 2, 2), (2, 4, 4))
    cut = parted([tool, text], [(2, 2), (4, 4)])
    assert [[part.get("text") for part in piece] for piece in cut] == [[None, "a"], ["b"], []]
    long = marked("x" * 300, (300, 2, 2))
    assert parted([long], [(2, 2)]) == [[long], []]


def test_text_without_a_key_is_cut_only_where_a_reader_joins_it_again():
    part = marked("ab", (1, 2, 2))
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

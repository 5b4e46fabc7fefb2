"""The parts that runs add up to."""

from __future__ import annotations

from core.growing import at, create
from core.saying import PARTS, call, event, folded, run_with, shown, text, token
from rehydrate.core.event import Version
from rehydrate.core.text.assembly import assemble, spoken_text
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
    (state,) = shown(create(1, "a"), create(2, "b")).messages.values()
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

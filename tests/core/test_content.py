"""What a response says: runs, and the parts that they add up to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.saying import BEGAN_MS, event, token
from rehydrate.core.content import Run, assemble, collapsed_run, run_of, spoken_text
from rehydrate.core.tape import Tape, Tick


def run_with(*events):
    run = run_of(events[0])
    for each in events[1:]:
        run.append(each)
    return run


def text(text_, **more):
    return {"type": "text", "text": text_, **more}


def call(call_id, name=None, args="", result=None, status="in_progress"):
    return {
        "type": "tool_call",
        "tool_call_id": call_id,
        "name": name,
        "args": args,
        "result": result,
        "status": status,
    }


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


def test_parts_go_on_over_the_edge_of_a_run():
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


def test_text_is_not_appended_to_arguments_that_are_no_text():
    run = run_with(
        event("tool_call", 1, tool_call_id="c", name="f", value={"x": 1}),
        event("tool_args", 2, "y", tool_call_id="c"),
    )
    assert assemble([run]) == [call("c", "f", {"x": 1})]


def test_a_tool_that_failed_is_a_failed_call_and_its_result_says_why():
    begun = event("tool_call", 1, tool_call_id="c", name="find", value="")
    failed = event("tool_result", 2, tool_call_id="c", value={"error": "no"}, status="failed")
    assert assemble([run_with(begun, failed)]) == [call("c", "find", "", {"error": "no"}, "failed")]
    assert assemble([run_of(failed)]) == [call("c", None, "", {"error": "no"}, "failed")]


def test_a_result_without_its_call_is_a_completed_call():
    result = event("tool_result", 1, tool_call_id="c", name="f", value="x")
    assert assemble([run_of(result)]) == [call("c", "f", "", "x", "completed")]


def test_a_void_event_says_nothing_and_keeps_its_place():
    run = run_with(token(1, "a"), event("void", 2), token(3, "b"))
    assert (run.first, run.last) == (1, 3)
    assert assemble([run]) == [text("ab")]


def test_an_empty_text_makes_no_part():
    run = run_with(
        event("reasoning", 1, ""), event("tool_args", 2, "", tool_call_id="c"), token(3, "a")
    )
    assert assemble([run]) == [text("a")]
    assert assemble([collapsed_run(0, 3, [text("")], 0)]) == []


PARTS = [
    {"type": "reasoning", "text": "hm", "part": "x"},
    text("a"),
    call("c", "f", {"x": 1}, "r", "completed"),
    call("d", None, "{}", None, "completed"),
    call("e", "g", "{"),
    call("h", "g", "{}", {"error": "no"}, "failed"),
    call("i", "g", "{}", None, "failed"),
    text("b", part="x"),
    {"type": "refusal", "text": "no"},
]


def test_parts_taken_as_a_whole_are_the_same_parts():
    assert assemble([collapsed_run(0, 9, PARTS, 0)]) == PARTS


def test_a_call_without_an_id_gets_one():
    (part,) = assemble([collapsed_run(0, 1, [{"type": "tool_call"}], 0)])
    assert part == call("call-0")


def test_text_goes_on_after_parts_that_were_taken_as_a_whole():
    assert assemble([collapsed_run(0, 2, [text("ab")], 0), run_of(token(3, "c"))]) == [text("abc")]


def test_a_run_takes_the_one_that_begins_behind_it():
    run = run_with(token(1, "a"), token(2, "b"))
    run.join(run_with(token(3, "c"), event("reasoning", 4, "d")))
    assert (run.first, run.last) == (1, 4)
    assert [p["text"] for p in assemble([run])] == ["abc", "d"]
    assert [tick.length for tick in run.tape.ticks] == [1, 1, 1, 1]


def test_a_run_that_begins_behind_the_cut_is_left_whole():
    run = run_with(token(5, "e"))
    assert run.after(4) is run


@pytest.mark.parametrize("seq", [6, 7])
def test_of_a_run_before_the_cut_nothing_is_left(seq):
    assert run_with(token(5, "e"), token(6, "f")).after(seq) is None


def test_parts_that_were_taken_as_a_whole_cannot_be_cut():
    assert collapsed_run(0, 9, PARTS, 0).after(4) is None


STEPS = st.one_of(
    st.tuples(st.sampled_from(["token", "refusal", "reasoning"]), st.sampled_from(["", "a", "bc"])),
    st.tuples(st.sampled_from(["tool_call", "tool_result"]), st.just(None)),
    st.tuples(st.just("tool_args"), st.sampled_from(["", "x", "yz"])),
    st.tuples(st.just("void"), st.just(None)),
)


def step(seq, kind, said, part):
    more = {"token": {}, "refusal": {}, "reasoning": {}}.get(kind, {"tool_call_id": part or "c"})
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
    assert rest.tape.ticks == expected.tape.ticks


def test_a_tape_counts_the_characters_of_text_and_one_for_a_step_of_a_call():
    run = run_with(
        token(1, "語😀"), event("tool_call", 2, tool_call_id="c", value=""), event("void", 3)
    )
    at = BEGAN_MS
    assert run.tape.ticks == [Tick(2, at + 1000), Tick(1, at + 2000), Tick(0, at + 3000)]
    assert collapsed_run(0, 3, PARTS[:3], 7).tape.ticks == [Tick(2 + 1 + 1 + 1, 7)]


def test_a_run_of_events_without_seq_has_none():
    run = run_of(event("token", None, "a"))
    run.append(event("token", None, "b"))
    assert (run.first, run.last) == (-1, -1)
    assert isinstance(run, Run)
    assert isinstance(run.tape, Tape)

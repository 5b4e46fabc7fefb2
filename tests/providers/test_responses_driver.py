"""The Responses driver with the package's client and a scripted endpoint: every end of the loop."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from providers.conftest import eventually
from providers.sinks import Folded
from rehydrate.errors import BadParameter
from rehydrate.providers.responses_driver import run_responses
from rehydrate.providers.toolbox import Tool
from scripted_openai.endpoint import CUT, Raw, Stall
from scripted_openai.turns import ResponseTurn
from waiting import PATIENCE_S

ASK = {"model": "gpt-5", "input": "What is the weather?"}


def weather(city: str) -> dict:
    """The weather of a city."""
    return {"city": city, "sky": "clear"}


async def slow_time(zone: str = "UTC") -> str:
    return f"noon in {zone}"


def in_order(*turns):
    """A script: one turn after the other."""
    return lambda asked: turns[asked.number]


def two_calls(**more):
    calls = (("call_a", "weather", {"city": "Paris"}), ("call_b", "slow_time", {"zone": "CET"}))
    return ResponseTurn(**more).calls(*calls).completed(tokens=5)


async def test_a_plain_answer_is_published_and_ends(vendor):
    vendor.endpoint.answer = in_order(ResponseTurn().message("It is clear.").completed())
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(sink, client, **ASK)
    assert (outcome.status, outcome.response_ids) == ("completed", ("resp_1",))
    assert sink.text == "It is clear."
    assert sink.ending == ("completed", outcome.usage, None)
    assert outcome.usage["total_tokens"] == 4
    assert not sink.needs_repair
    assert vendor.endpoint.asked[0].body == {**ASK, "stream": True}


async def test_parallel_calls_run_and_the_loop_continues(vendor):
    answer = ResponseTurn("resp_2").message("Clear, and noon.").completed(tokens=7)
    vendor.endpoint.answer = in_order(two_calls(), answer)
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(
            sink, client, tools={"weather": weather, "slow_time": slow_time}, **ASK
        )
    assert outcome.status == "completed"
    assert outcome.response_ids == ("resp_1", "resp_2")
    assert outcome.usage["output_tokens"] == 12
    first, second = (asked.body for asked in vendor.endpoint.asked)
    assert [tool["name"] for tool in first["tools"]] == ["weather", "slow_time"]
    assert second["previous_response_id"] == "resp_1"
    assert second["input"] == [
        {
            "type": "function_call_output",
            "call_id": "call_a",
            "output": '{"city":"Paris","sky":"clear"}',
        },
        {"type": "function_call_output", "call_id": "call_b", "output": "noon in CET"},
    ]
    assert not sink.needs_repair
    assert sink.parts == [
        {
            "type": "tool_call",
            "tool_call_id": "call_a",
            "name": "weather",
            "args": '{"city": "Paris"}',
            "result": {"city": "Paris", "sky": "clear"},
            "status": "completed",
        },
        {
            "type": "tool_call",
            "tool_call_id": "call_b",
            "name": "slow_time",
            "args": '{"zone": "CET"}',
            "result": "noon in CET",
            "status": "completed",
        },
        {"type": "text", "text": "Clear, and noon.", "part": "1:0.0"},
    ]


async def test_parallel_calls_run_at_the_same_time(vendor):
    vendor.endpoint.answer = in_order(two_calls(), ResponseTurn("resp_2").message("ok").completed())
    meeting = asyncio.Barrier(2)

    async def meet(**_: str) -> str:
        await meeting.wait()
        return "met"

    tool = Tool(meet, "", {"type": "object"})
    sink = Folded()
    async with vendor.client() as client:
        tools = {"weather": tool, "slow_time": tool}
        outcome = await run_responses(sink, client, tools=tools, tool_timeout_s=20, **ASK)
    assert outcome.status == "completed"


async def test_results_are_published_before_the_next_request(vendor):
    seen = []
    sink = Folded()

    def answer(asked):
        seen.append(list(sink.seen))
        return two_calls() if asked.number == 0 else ResponseTurn("resp_2").completed()

    vendor.endpoint.answer = answer
    async with vendor.client() as client:
        tools = {"weather": weather, "slow_time": slow_time}
        await run_responses(sink, client, tools=tools, **ASK)
    assert seen[0] == []
    assert seen[1].count("tool_result") == 2


async def test_an_exception_of_a_tool_becomes_its_output_and_marks_its_part(vendor):
    def broken(city: str) -> str:
        raise LookupError(f"no station in {city}")

    call = ResponseTurn().calls(("call_a", "weather", {"city": "Oz"})).completed()
    answer = ResponseTurn("resp_2").message("I could not find out.").completed()
    vendor.endpoint.answer = in_order(call, answer)
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(sink, client, tools={"weather": broken}, **ASK)
    assert outcome.status == "completed"
    told = {"error": "LookupError: no station in Oz"}
    assert json.loads(vendor.endpoint.asked[1].body["input"][0]["output"]) == told
    assert (sink.parts[0]["result"], sink.parts[0]["status"]) == (told, "failed")
    assert not sink.needs_repair


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (("call_a", "nobody", {}), "unknown_tool: nobody"),
        (("call_a", "hang", {}), "tool_timeout: hang"),
    ],
)
async def test_a_call_that_cannot_run_ends_the_answer_and_keeps_its_text(vendor, call, error):
    async def hang() -> None:
        await asyncio.sleep(3600)

    turn = ResponseTurn().message("Let me see.")
    vendor.endpoint.answer = in_order(
        turn.calls(call, ("call_b", "weather", {"city": "X"})).completed()
    )
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(
            sink, client, tools={"weather": weather, "hang": hang}, tool_timeout_s=0.2, **ASK
        )
    assert (outcome.status, sink.status, sink.error) == ("failed", "failed", error)
    assert sink.text == "Let me see."
    for parts in (sink.parts, sink.final):
        results = {p["tool_call_id"]: (p["result"], p["status"]) for p in parts if "result" in p}
        assert results == {
            "call_a": ({"error": error}, "failed"),
            "call_b": ({"city": "X", "sky": "clear"}, "completed"),
        }
    assert len(vendor.endpoint.asked) == 1


@pytest.mark.parametrize("encrypted", [False, True])
async def test_without_the_vendor_s_store_everything_is_sent_again(vendor, encrypted):
    call = ResponseTurn().reasoning("Look it up.").calls(("call_a", "weather", {"city": "X"}))
    call.output[0]["encrypted_content"] = "gAAA" if encrypted else None
    vendor.endpoint.answer = in_order(
        call.completed(), ResponseTurn("resp_2").message("ok").completed()
    )
    async with vendor.client() as client:
        await run_responses(Folded(), client, tools={"weather": weather}, store=False, **ASK)
    body = vendor.endpoint.asked[1].body
    assert "previous_response_id" not in body
    assert [item.get("type", item.get("role")) for item in body["input"]] == [
        "user",
        *(["reasoning"] if encrypted else []),
        "function_call",
        "function_call_output",
    ]
    assert [asked.body["include"] for asked in vendor.endpoint.asked] == [
        ["reasoning.encrypted_content"]
    ] * 2


async def test_with_a_stored_conversation_only_the_outputs_are_sent(vendor):
    vendor.endpoint.answer = in_order(
        ResponseTurn().calls(("call_a", "weather", {"city": "X"})).completed(),
        ResponseTurn("resp_2").message("ok").completed(),
    )
    async with vendor.client() as client:
        tools = {"weather": weather}
        await run_responses(Folded(), client, tools=tools, conversation="conv_1", **ASK)
    body = vendor.endpoint.asked[1].body
    assert [item["type"] for item in body["input"]] == ["function_call_output"]
    assert "previous_response_id" not in body


async def test_an_answer_with_too_many_turns_is_stopped(vendor):
    vendor.endpoint.answer = lambda asked: (
        ResponseTurn(f"resp_{asked.number}")
        .calls((f"call_{asked.number}", "weather", {"city": "X"}))
        .completed()
    )
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(
            sink, client, tools={"weather": weather}, turns_max=3, tool_choice="required", **ASK
        )
    assert outcome.status == "incomplete"
    assert sink.error == "too_many_turns: tools were called 3 times"
    assert "tool_choice" in vendor.endpoint.asked[0].body
    assert "tool_choice" not in vendor.endpoint.asked[1].body


async def test_an_unknown_previous_response_fails_with_the_vendors_error(vendor):
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(sink, client, previous_response_id="resp_404", **ASK)
    assert outcome.status == sink.status == "failed"
    assert sink.error == (
        "previous_response_not_found: Previous response with id 'resp_404' not found."
    )


async def test_a_vendor_that_cannot_be_reached_leaves_the_answer_incomplete(vendor):
    sink = Folded()
    async with vendor.client(base_url="http://127.0.0.1:9/v1") as client:
        outcome = await run_responses(sink, client, **ASK)
    assert outcome.status == "incomplete"
    assert sink.error.startswith("connection_lost")


@pytest.mark.parametrize(
    ("frames", "status", "error"),
    [
        ([CUT], "incomplete", "connection_lost"),
        ([], "incomplete", "stream_broke_off: it ended without a final event"),
        ([Raw(b"data: {nonsense\n\n")], "failed", "malformed_event"),
        ([Stall(60)], "incomplete", "stalled"),
    ],
)
async def test_a_stream_that_breaks_off_keeps_its_text(vendor, frames, status, error):
    said = ResponseTurn().message("It is").events
    vendor.endpoint.answer = in_order([*said, *frames])
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(sink, client, idle_timeout_s=0.5, **ASK)
    assert (outcome.status, sink.text) == (status, "It is")
    assert sink.error.startswith(error)
    eventually(lambda: vendor.endpoint.open_streams == 0)


async def test_a_broken_background_response_is_resumed_without_duplicates(vendor):
    turn = ResponseTurn(queued=True).message("one two three four five").completed()
    vendor.endpoint.answer = in_order([*turn[:8], CUT, *turn[8:]])
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(sink, client, background=True, **ASK)
    assert outcome.status == "completed"
    assert sink.text == "one two three four five"
    assert not sink.needs_repair
    assert len(vendor.endpoint.asked) == 1


async def test_the_sync_client_does_not_block_the_event_loop(vendor):
    turns = [two_calls(), ResponseTurn("resp_2").message("Done.").completed()]
    asked_for, loop_runs = threading.Event(), threading.Event()

    def answer(asked):
        asked_for.set()
        assert loop_runs.wait(PATIENCE_S), "the client keeps the event loop from running"
        return turns[asked.number]

    async def run_on() -> None:
        await asyncio.to_thread(asked_for.wait, 20)
        loop_runs.set()

    vendor.endpoint.answer = answer
    sink = Folded()
    running = asyncio.create_task(run_on())
    with vendor.sync_client() as client:
        tools = {"weather": weather, "slow_time": slow_time}
        outcome = await run_responses(sink, client, tools=tools, **ASK)
    await running
    assert (outcome.status, sink.text) == ("completed", "Done.")


async def test_a_tool_that_cannot_be_described_is_rejected_before_any_request(vendor):
    def anything(*values):
        return values

    async with vendor.client() as client:
        with pytest.raises(BadParameter, match="anything"):
            await run_responses(Folded(), client, tools={"anything": anything}, **ASK)
    assert vendor.endpoint.asked == []


async def test_a_custom_tool_takes_its_free_text(vendor):
    item = {"id": "ct_0", "type": "custom_tool_call", "call_id": "call_a", "name": "shout"}
    turn = ResponseTurn()
    index, item_id = turn.item({**item, "input": "so what"}, input="")
    at = {"item_id": item_id, "output_index": index}
    turn.add("response.custom_tool_call_input.delta", **at, delta="so what")
    turn.add("response.custom_tool_call_input.done", **at, input="so what").item_done(index)
    vendor.endpoint.answer = in_order(
        turn.completed(), ResponseTurn("resp_2").message("!").completed()
    )
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(sink, client, tools={"shout": shout}, **ASK)
    assert outcome.status == "completed"
    assert vendor.endpoint.asked[1].body["input"] == [
        {"type": "custom_tool_call_output", "call_id": "call_a", "output": "SO WHAT"}
    ]


def shout(text: str) -> str:
    return text.upper()

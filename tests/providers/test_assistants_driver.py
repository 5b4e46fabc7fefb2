"""The Assistants driver with the package's client and a scripted endpoint: every end of the loop."""

from __future__ import annotations

import asyncio
import json

import pytest

from providers.conftest import eventually
from providers.sinks import Folded
from rehydrate.providers.assistants_driver import run_assistants
from scripted_openai.endpoint import CUT, Stall
from scripted_openai.turns import RunTurn

PARIS = ("call_a", "weather", {"city": "Paris"})
ROME = ("call_b", "weather", {"city": "Rome"})


def weather(city: str) -> str:
    """The weather of a city."""
    return f"clear in {city}"


def begun(asked) -> RunTurn:
    turn = RunTurn(asked.thread_id, asked.run_id, new_thread=asked.thread_is_new)
    if asked.kind == "run":
        turn.run("created").run("queued").run("in_progress")
    return turn


def with_tools(asked):
    """Parallel calls, then one more, then an answer."""
    turn = begun(asked)
    if asked.kind == "run":
        return turn.calls("step_1", PARIS, ROME)
    outputs = {given["tool_call_id"]: given["output"] for given in asked.body["tool_outputs"]}
    if "call_a" in outputs:
        turn.answered("step_1", (*PARIS, outputs["call_a"]), (*ROME, outputs["call_b"]))
        return turn.run("in_progress").calls("step_2", ("call_c", "weather", {"city": "Oslo"}))
    turn.answered("step_2", ("call_c", "weather", {"city": "Oslo"}, outputs["call_c"]))
    return turn.run("in_progress").message("All clear.").completed()


async def test_a_new_thread_is_created_and_its_answer_published(vendor):
    vendor.endpoint.answer = lambda asked: begun(asked).message("Hello there.").completed()
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_assistants(sink, client, assistant_id="asst_1", input="Hi")
    assert (outcome.status, outcome.thread_id, outcome.run_id) == ("completed", "thread_1", "run_1")
    assert sink.text == "Hello there."
    assert sink.ending == ("completed", outcome.usage, None)
    assert not sink.needs_repair
    assert sink.parts == [{"type": "text", "text": "Hello there.", "part": "0.0"}]
    assert vendor.endpoint.threads == {"thread_1": ["Hi"]}


async def test_a_thread_is_continued(vendor):
    vendor.endpoint.answer = lambda asked: begun(asked).message("Yes.").completed()
    async with vendor.client() as client:
        first = await run_assistants(Folded(), client, assistant_id="asst_1", input="One")
        again = await run_assistants(
            Folded(), client, assistant_id="asst_1", input="Two", thread_id=first.thread_id
        )
    assert (first.thread_id, first.run_id) == ("thread_1", "run_1")
    assert (again.thread_id, again.run_id) == ("thread_1", "run_2")
    assert vendor.endpoint.threads == {"thread_1": ["One", "Two"]}


async def test_parallel_and_sequential_calls_run_until_completion(vendor):
    vendor.endpoint.answer = with_tools
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_assistants(
            sink, client, assistant_id="asst_1", input="Weather?", tools={"weather": weather}
        )
    assert outcome.status == "completed"
    assert [asked.kind for asked in vendor.endpoint.asked] == ["run", "outputs", "outputs"]
    assert [part.get("result") for part in sink.parts] == [
        "clear in Paris",
        "clear in Rome",
        "clear in Oslo",
        None,
    ]
    assert sink.seen.count("tool_result") == 3
    assert [part["type"] for part in sink.parts] == ["tool_call"] * 3 + ["text"]
    assert sink.text == "All clear."
    assert not sink.needs_repair


async def test_the_sync_client_can_be_used(vendor):
    vendor.endpoint.answer = with_tools
    sink = Folded()
    with vendor.sync_client() as client:
        outcome = await run_assistants(
            sink, client, assistant_id="asst_1", input="Weather?", tools={"weather": weather}
        )
    assert (outcome.status, sink.text) == ("completed", "All clear.")


async def test_tools_are_described_only_if_requested(vendor):
    vendor.endpoint.answer = lambda asked: begun(asked).message("Yes.").completed()
    tools = {"weather": weather}
    async with vendor.client() as client:
        for describe in (False, True):
            await run_assistants(
                Folded(), client, assistant_id="a", tools=tools, describe_tools=describe
            )
    first, second = (asked.body for asked in vendor.endpoint.asked)
    assert "tools" not in first
    assert second["tools"][0]["function"]["name"] == "weather"


async def test_an_exception_becomes_the_output_and_marks_the_part(vendor):
    def broken(city: str) -> str:
        raise LookupError(city)

    vendor.endpoint.answer = with_tools
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_assistants(
            sink, client, assistant_id="a", input="?", tools={"weather": broken}
        )
    assert outcome.status == "completed"
    told = {"error": "LookupError: Paris"}
    assert json.loads(vendor.endpoint.asked[1].body["tool_outputs"][0]["output"]) == told
    for parts in (sink.parts, sink.final):
        assert (parts[0]["result"], parts[0]["status"]) == (told, "failed")


@pytest.mark.parametrize(
    ("state", "more", "status", "error"),
    [
        ("failed", {"last_error": {"code": "server_error", "message": "Sorry"}}, "failed", "server_error: Sorry"),
        ("expired", {}, "incomplete", "expired: the run expired"),
        ("cancelled", {}, "cancelled", "cancelled: by the vendor"),
        ("incomplete", {"incomplete_details": {"reason": "max_completion_tokens"}}, "incomplete", "max_completion_tokens"),
    ],
)  # fmt: skip
async def test_other_terminal_states_are_reported_and_keep_the_text(
    vendor, state, more, status, error
):
    vendor.endpoint.answer = lambda asked: begun(asked).message("So far.").run(state, **more).events
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_assistants(sink, client, assistant_id="a", input="?")
    assert (outcome.status, sink.error, sink.text) == (status, error, "So far.")
    assert vendor.endpoint.cancelled == []


async def test_an_unknown_thread_fails_with_its_id(vendor):
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_assistants(
            sink, client, assistant_id="a", input="?", thread_id="thread_404"
        )
    assert (outcome.status, outcome.thread_id) == ("failed", "thread_404")
    assert sink.error == "invalid_request_error: No thread found with id 'thread_404'."


async def test_a_run_of_a_foreign_thread_fails(vendor):
    vendor.endpoint.answer = lambda asked: (
        RunTurn("thread_other", asked.run_id).run("created").message("Psst").completed()
    )
    sink = Folded()
    async with vendor.client() as client:
        vendor.endpoint.threads["thread_9"] = []
        await run_assistants(sink, client, assistant_id="a", input="?", thread_id="thread_9")
    assert sink.error == "foreign_thread: the stream belongs to another thread"
    assert sink.text == ""


async def test_a_tool_that_does_not_exist_fails_and_frees_the_thread(vendor):
    vendor.endpoint.answer = with_tools
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_assistants(sink, client, assistant_id="a", input="?")
    assert (outcome.status, sink.error) == ("failed", "unknown_tool: weather")
    assert vendor.endpoint.cancelled == ["run_1"]


async def test_a_run_with_too_many_turns_is_stopped(vendor):
    vendor.endpoint.answer = lambda asked: begun(asked).calls(
        f"step_{asked.number}", (f"call_{asked.number}", "weather", {"city": "X"})
    )
    sink = Folded()
    async with vendor.client() as client:
        await run_assistants(
            sink, client, assistant_id="a", input="?", tools={"weather": weather}, turns_max=2
        )
    assert sink.error == "too_many_turns: tools were called 2 times"
    assert vendor.endpoint.cancelled == ["run_1"]


@pytest.mark.parametrize("frame", [CUT, Stall(60)])
async def test_a_stream_that_breaks_off_keeps_its_text_and_cancels_the_run(vendor, frame):
    vendor.endpoint.answer = lambda asked: [*begun(asked).message("It is").events, frame]
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_assistants(
            sink, client, assistant_id="a", input="?", idle_timeout_s=0.5
        )
    assert (outcome.status, sink.text) == ("incomplete", "It is")
    assert vendor.endpoint.cancelled == ["run_1"]
    eventually(lambda: vendor.endpoint.open_streams == 0)


async def test_cancelling_the_task_cancels_the_run(vendor):
    vendor.endpoint.answer = lambda asked: [*begun(asked).message("One").events, Stall(60)]
    sink = Folded()
    async with vendor.client() as client:
        task = asyncio.create_task(run_assistants(sink, client, assistant_id="a", input="?"))
        await sink.wait_for_text("One")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sink.status == "cancelled"
    assert vendor.endpoint.cancelled == ["run_1"]
    eventually(lambda: vendor.endpoint.open_streams == 0)


async def test_a_vendor_that_does_not_answer_does_not_delay_cancellation(vendor):
    vendor.endpoint.answer = lambda asked: [*begun(asked).message("One").events, Stall(60)]
    sink = Folded()
    async with vendor.client() as client:
        task = asyncio.create_task(run_assistants(sink, client, assistant_id="a", input="?"))
        await sink.wait_for_text("One")
        client.base_url = "http://127.0.0.1:9/v1"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sink.status == "cancelled"

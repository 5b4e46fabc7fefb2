"""The drivers against a third-party mock server, including every failure that it can simulate."""

from __future__ import annotations

import logging

import openai
import pytest

from providers.sinks import Folded
from rehydrate.providers.openai_responses import ResponsesStream
from rehydrate.providers.responses_driver import run_responses

pytest.importorskip("llmock", reason="the mock server `llmock` is not installed")

ASK = {"model": "gpt-4o", "input": "Tell me a story."}
STORY = "Once upon a time there was a very long story indeed."


@pytest.fixture
async def client(llmock):
    async with openai.AsyncOpenAI(max_retries=0) as made:  # the fixture set the environment
        yield made


async def test_text_is_published_and_ends(llmock, client):
    llmock.reply(STORY)
    sink = Folded()
    outcome = await run_responses(sink, client, **ASK)
    assert (sink.text, outcome.status) == (STORY, "completed")
    assert outcome.usage["output_tokens"] > 0
    assert not sink.needs_repair
    llmock.assert_resilient()


async def test_tools_are_called_and_their_outputs_answered(llmock, client):
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"21 degrees in {city}"

    llmock.call_tool("get_weather", {"city": "Paris"}, text="One moment.")
    llmock.reply("It is warm.")
    sink = Folded()
    outcome = await run_responses(sink, client, tools={"get_weather": get_weather}, **ASK)
    assert outcome.status == "completed"
    assert sink.text == "One moment.It is warm."
    assert sink.parts[1]["result"] == "21 degrees in Paris"
    assert len(outcome.response_ids) == 2
    assert not sink.needs_repair


async def test_parallel_calls_are_all_answered(llmock, client):
    from llmock.scenarios import Reply, ToolCall  # noqa: PLC0415 - only if it is installed

    calls = tuple(ToolCall("square", {"n": n}) for n in (2, 3, 4))
    llmock.add(Reply(tool_calls=calls, times=1)).reply("Done.")
    sink = Folded()

    def square(n: int) -> int:
        return n * n

    outcome = await run_responses(sink, client, tools={"square": square}, **ASK)
    assert outcome.status == "completed"
    assert [part["result"] for part in sink.parts if part["type"] == "tool_call"] == [4, 9, 16]


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("disconnect", ("incomplete", "connection_lost")),
        ("truncate", ("incomplete", "stream_broke_off")),
        ("stall", ("incomplete", "stalled")),
    ],
)
@pytest.mark.parametrize("after_chunks", [1, 6, 9])
async def test_a_broken_stream_keeps_its_text_and_reports_the_cause(
    llmock, client, fault, ending, after_chunks
):
    llmock.reply(STORY)
    getattr(llmock, fault)(after_chunks=after_chunks)
    sink = Folded()
    outcome = await run_responses(sink, client, idle_timeout_s=0.5, **ASK)
    assert (outcome.status, sink.status) == (ending[0], ending[0])
    assert sink.error.startswith(ending[1])
    assert STORY.startswith(sink.text)
    assert bool(sink.text) == (after_chunks > 4)


async def test_an_unknown_tool_fails_with_its_name(llmock, client):
    llmock.call_tool("get_weather", {"city": "Paris"}).break_tool_call("unknown_tool")
    sink = Folded()
    outcome = await run_responses(sink, client, tools={"get_weather": lambda city: city}, **ASK)
    assert outcome.status == "failed"
    assert sink.error.startswith("unknown_tool")


async def test_malformed_arguments_are_returned_to_the_model(llmock, client):
    llmock.call_tool("get_weather", {"city": "Paris"}).break_tool_call("malformed_arguments")
    llmock.reply(STORY)
    sink = Folded()
    outcome = await run_responses(sink, client, tools={"get_weather": lambda city: city}, **ASK)
    assert (outcome.status, sink.text) == ("completed", STORY)
    assert sink.parts[0]["status"] == "failed"
    assert "not valid JSON" in sink.parts[0]["result"]["error"]


@pytest.mark.parametrize(
    ("status", "code"), [(429, "rate_limit_exceeded"), (503, None), (401, None)]
)
async def test_a_rejected_request_fails(llmock, client, status, code):
    llmock.fail(status, code=code, message="Not now")
    sink = Folded()
    outcome = await run_responses(sink, client, **ASK)
    assert (outcome.status, sink.status) == ("failed", "failed")
    assert "Not now" in sink.error
    assert code is None or sink.error.startswith(code)


async def test_retries_are_left_to_the_client(llmock):
    llmock.fail(503).reply(STORY)
    sink = Folded()
    async with openai.AsyncOpenAI(max_retries=2) as client:
        outcome = await run_responses(sink, client, **ASK)
    assert (outcome.status, sink.text) == ("completed", STORY)


def test_the_sync_client_reads_the_same_text(llmock, caplog):
    caplog.set_level(logging.DEBUG, "rehydrate")
    llmock.reply(STORY)
    with openai.OpenAI(max_retries=0) as client:
        source = client.responses.create(**ASK, stream=True)
        assert ResponsesStream(source).reader().read() == STORY
    assert not any(STORY[:9] in record.getMessage() for record in caplog.records)

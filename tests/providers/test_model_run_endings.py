"""Model runs that fail, at the vendor or in a tool: the response ends with the reason."""

from __future__ import annotations

import asyncio
import json

import pytest

from localably import LocalAbly
from participants import history_over, reading
from scripted_openai.endpoint import CUT, Raw, Stall
from scripted_openai.turns import ResponseTurn, RunTurn

TEXT = "So far."
AT = {"item_id": "msg_0", "output_index": 0, "content_index": 0}


@pytest.fixture(scope="module")
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(scope="module")
async def history(module_database, server):
    async with history_over(module_database, server) as opened:
        yield opened


async def hang() -> None:
    """Never return."""
    await asyncio.sleep(3600)


def text_turn():
    return ResponseTurn("resp_1").message(TEXT)


def also(**event):
    """The published events, and one more."""
    events = text_turn().events
    return [*events, {"sequence_number": len(events), **event}]


def called(name, args):
    return text_turn().calls(("call_a", name, args)).completed()


RESPONSES = {
    "malformed JSON": (
        [*text_turn().events, Raw(b"data: {nonsense\n\n")],
        "failed",
        "malformed_event",
    ),
    "an event without what it must have": (
        also(type="response.output_item.added", output_index=1),
        "failed",
        "malformed_event: response.output_item.added has no object 'item'",
    ),
    "an event out of order": (
        also(type="response.in_progress", sequence_number=1, response={"id": "resp_1"}),
        "incomplete",
        "event_out_of_order: response.in_progress 1 after",
    ),
    "another response": (
        also(type="response.created", response={"id": "resp_9"}),
        "failed",
        "foreign_response",
    ),
    "a tool that does not exist": (called("nobody", {}), "failed", "unknown_tool: nobody"),
    "a tool that hangs": (called("hang", {}), "failed", "tool_timeout: hang"),
    "the vendor's failure": (
        text_turn().failed("server_error", "Sorry"),
        "failed",
        "server_error: Sorry",
    ),
    "an error in mid-stream": (
        also(type="error", code="overloaded", message="Later", param=None),
        "failed",
        "overloaded: Later",
    ),
    "an early end": (
        text_turn().incomplete("max_output_tokens"),
        "incomplete",
        "max_output_tokens",
    ),
    "a stream that breaks off": (text_turn().events, "incomplete", "stream_broke_off"),
    "a connection that is cut": ([*text_turn().events, CUT], "incomplete", "connection_lost"),
    "silence": ([*text_turn().events, Stall(60)], "incomplete", "stalled"),
}


async def seen_end(follower, response_id):
    """Return the text and status that a follower has at the end."""
    reader = await follower.until(
        lambda r: r.statuses.get(response_id, "in_progress") != "in_progress"
    )
    return reader.texts[response_id], reader.statuses[response_id]


async def check(history, conversation, driven, *, followers, status, error):
    assert driven.outcome.status == status
    wire = json.loads(await history.message(conversation, driven.response_id))
    assert (wire["status"], wire["text"]) == (status, TEXT)
    assert wire["error"].startswith(error)
    for follower in followers:
        assert await seen_end(follower, driven.response_id) == (TEXT, status)


@pytest.mark.parametrize("case", RESPONSES)
async def test_a_failed_response_ends_with_the_reason(history, conversation, vendor, case):
    frames, status, error = RESPONSES[case]
    vendor.endpoint.answer = lambda asked: frames
    async with (
        reading(history, conversation) as one,
        reading(history, conversation) as other,
        vendor.client() as client,
    ):
        driven = await history.run_openai(
            conversation,
            client,
            model="gpt-5",
            input="?",
            tools={"hang": hang},
            tool_timeout_s=0.2,
            idle_timeout_s=1.0,
        )
        await check(
            history, conversation, driven, followers=(one, other), status=status, error=error
        )


def background():
    """Return a background response whose connection is cut in the middle."""
    turn = ResponseTurn("resp_1", queued=True).message(TEXT + " And more.").completed()
    return [*turn[:7], CUT, *turn[7:]]


def amended():
    """Return a response whose final text differs from its deltas."""
    return ResponseTurn("resp_1").message(TEXT + " And more.", pieces=["So ", "fat."]).completed()


@pytest.mark.parametrize("frames", [background(), amended()], ids=["resumed", "amended"])
async def test_every_follower_ends_with_the_final_text_of_the_vendor(
    history, conversation, vendor, frames
):
    vendor.endpoint.answer = lambda asked: frames
    async with (
        reading(history, conversation) as one,
        reading(history, conversation) as other,
        vendor.client() as client,
    ):
        driven = await history.run_openai(
            conversation, client, model="gpt-5", input="?", background=True
        )
        for follower in (one, other):
            end = await seen_end(follower, driven.response_id)
            assert end == (TEXT + " And more.", "completed")
    assert json.loads(await history.message(conversation, driven.response_id))["text"] == end[0]


def run_that(end):
    """Return a run with the text, and then the events that *end* adds."""

    def answer(asked):
        turn = RunTurn(asked.thread_id, asked.run_id, new_thread=asked.thread_is_new)
        turn.run("created").run("in_progress").message(TEXT)
        return end(turn)

    return answer


def of_another_thread(turn):
    turn.thread_id = "thread_9"
    return turn.run("completed").events


RUNS = {
    "malformed JSON": (
        lambda t: [*t.events, Raw(b"event: x\ndata: {\n\n")],
        "failed",
        "malformed_event",
    ),
    "a run of another thread": (of_another_thread, "failed", "foreign_thread"),
    "a tool that does not exist": (
        lambda t: t.calls("s", ("c", "nobody", {})),
        "failed",
        "unknown_tool: nobody",
    ),
    "a tool that hangs": (
        lambda t: t.calls("s", ("c", "hang", {})),
        "failed",
        "tool_timeout: hang",
    ),
    "the run's failure": (
        lambda t: t.run("failed", last_error={"code": "server_error", "message": "Sorry"}).events,
        "failed",
        "server_error: Sorry",
    ),
    "a run that expired": (lambda t: t.run("expired").events, "incomplete", "expired"),
    "a run that was cancelled": (lambda t: t.run("cancelled").events, "cancelled", "cancelled"),
    "a stream that breaks off": (lambda t: t.events, "incomplete", "stream_broke_off"),
    "a connection that is cut": (lambda t: [*t.events, CUT], "incomplete", "connection_lost"),
}


@pytest.mark.parametrize("case", RUNS)
async def test_a_failed_run_ends_with_the_reason(history, conversation, vendor, case):
    end, status, error = RUNS[case]
    vendor.endpoint.answer = run_that(end)
    async with (
        reading(history, conversation) as one,
        reading(history, conversation) as other,
        vendor.client() as client,
    ):
        driven = await history.run_openai_assistant(
            conversation,
            client,
            assistant_id="a",
            input="?",
            tools={"hang": hang},
            tool_timeout_s=0.2,
        )
        await check(
            history, conversation, driven, followers=(one, other), status=status, error=error
        )


async def test_an_unknown_thread_is_reported_and_not_used_again(history, conversation, vendor):
    vendor.endpoint.answer = run_that(lambda t: t.completed())
    ask = {"assistant_id": "a", "input": "?"}
    async with vendor.client() as client:
        lost = await history.run_openai_assistant(
            conversation, client, thread_id="thread_404", **ask
        )
        after = await history.run_openai_assistant(conversation, client, **ask)
    wire = json.loads(await history.message(conversation, lost.response_id))
    assert wire["status"] == "failed"
    assert "No thread found with id 'thread_404'" in wire["error"]
    assert (after.outcome.status, after.outcome.thread_id) == ("completed", "thread_1")


async def test_an_unknown_previous_response_is_reported(history, conversation, vendor):
    async with vendor.client() as client:
        driven = await history.run_openai(
            conversation, client, model="gpt-5", input="?", previous_response_id="resp_404"
        )
    wire = json.loads(await history.message(conversation, driven.response_id))
    assert wire["status"] == "failed"
    assert "'resp_404' not found" in wire["error"]

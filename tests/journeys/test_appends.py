"""Responses that grow by appends, and those of the AI Transport SDK, with stock publishers and readers."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from journeys.readers import (
    MODULES,
    assert_shown,
    by_javascript,
    by_python,
    plans,
    run_node,
    skip_without_node,
)
from journeys.stack import stacked
from rehydrate.demo.texts import tokens_of
from rehydrate.history import History
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow

PAUSE_MS = 40


@pytest.fixture(scope="module")
async def stack(module_database):
    skip_without_node()
    template = {"REHYDRATE_CHANNEL_TEMPLATE": "mutable:{conversation_id}"}
    async with stacked(module_database, **template) as running:
        yield running


def job(stack, target, tokens, **more):
    return {
        "modules": str(MODULES),
        "options": {"endpoint": "127.0.0.1", "port": stack.settings.ably_port, "tls": False},
        "key": stack.environment["ABLY_API_KEY"],
        "channel": target.channel,
        "tokens": tokens,
        "pause_ms": PAUSE_MS,
        **more,
    }


async def joined(stack, conversation, **how):
    """Join with readers of all kinds at random times while stock ably-js appends a response."""
    tokens = tokens_of(conversation, mean=60)
    texts, target = {"grown": "".join(tokens)}, stack.target(conversation)
    more = {"response_id": "grown", "window_ms": 40, "wait_ms": 0, "within_s": 3, **how}
    within_s, said = more.pop("within_s"), job(stack, target, tokens, **more)
    async with asyncio.TaskGroup() as group:
        group.create_task(run_node("appender.mjs", said))
        ours = group.create_task(by_python(target, texts, plans(within_s, 2)))
        theirs = group.create_task(by_javascript(target, texts, plans(within_s, 2)))
    shown = ours.result() + theirs.result()
    if not how.get("done"):  # the end is published before the tail, which is therefore late
        shown = [each._replace(untrue=[]) for each in shown]
    assert_shown(shown, texts)


async def test_a_response_with_phase_done_is_whole_for_every_reader(stack, conversation):
    await joined(stack, conversation, done=True)


async def test_an_end_that_overtakes_held_back_appends_loses_nothing(stack, conversation):
    await joined(stack, conversation, window_ms=400)


async def test_appends_that_drop_the_headers_are_still_the_responses(stack, conversation):
    """For readers that saw it begin: history no longer contains the response id."""
    bare = {"bare_every": 3, "window_ms": 0, "wait_ms": 3000, "within_s": 0}
    async with stack.fault("drop_append_extras") as fired:
        await joined(stack, conversation, **bare)
        assert await fired()


async def test_history_that_lags_hides_nothing(stack, conversation):
    channel = stack.settings.channel_of(conversation)
    async with stack.fault("delay_history", channel=channel, ms=1500):
        await joined(stack, conversation, done=True)


async def test_a_reader_that_lost_the_create_gets_all_by_attaching_again(stack, conversation):
    channel = stack.settings.channel_of(conversation)
    async with stack.fault("drop_deliveries", channel=channel, every=7) as fired:
        await joined(stack, conversation, done=True)
        assert await fired()


async def test_runs_of_the_published_ai_transport_are_read_whole(stack, conversation):
    if not (MODULES / "node_modules/@ably/ai-transport/package.json").exists():
        pytest.skip("the npm package @ably/ai-transport is not installed: npm ci in tests/js")
    tokens = tokens_of(conversation, mean=40)
    target = stack.target(conversation)
    async with History(stack.settings) as history:
        following = asyncio.create_task(followed(history, conversation))
        runs = await run_node("transport.mjs", job(stack, target, tokens))
        last = await asyncio.wait_for(following, PATIENCE_S)
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        headers = {"authorization": f"Bearer {target.token}"}
        answer = (await http.get(target.hydrate_url, headers=headers)).json()
    found = {message["id"]: message for message in answer["messages"]}
    tool, cancelled, step = (found[each["run"]] for each in runs)
    assert [part["type"] for part in tool["parts"]] == ["reasoning", "tool_call", "text"]
    call = tool["parts"][1]
    assert (call["name"], json.loads(call["args"]), call["result"]) == ("add", {"a": 1}, {"sum": 2})
    assert (tool["text"], tool["status"]) == ("".join(tokens), "completed")
    assert cancelled["status"] == "cancelled"
    assert cancelled["text"]
    assert "".join(tokens).startswith(cancelled["text"])
    assert (step["text"], step["status"]) == ("right", "completed")
    for each in runs:
        assert found[each["run"]]["prompt_id"] == each["prompt"]
        assert found[each["prompt"]]["text"] == f"{each['turn']}?"
    assert last == {id_: (m["text"], m["status"]) for id_, m in found.items()}


async def followed(history, conversation):
    """Follow three runs until they have ended; return what is shown, by id."""
    shown, ended = {}, 0
    async for event in history.follow(conversation):
        data = event.data
        if event.kind == "snapshot":
            shown = {m["id"]: (m["text"], m["status"]) for m in data["messages"]}
            ended = sum(
                m["role"] == "assistant" and m["status"] != "in_progress" for m in data["messages"]
            )
        elif event.kind != "again":
            id_ = data["message_id"]
            text, status = shown.get(id_, ("", "in_progress"))
            if event.kind == "prompt":
                text, status = data["text"], "completed"
            elif event.kind == "repair":
                text = data["text"]
            elif event.kind in ("token", "refusal"):
                text += data["text"]
            elif event.kind == "stop":
                status, ended = data["status"], ended + 1
            shown[id_] = (text, status)
        if ended >= 3:
            return shown
    return shown

"""The demo's agent: several responses at once, each of them ended in every case."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from rehydrate import History
from rehydrate.demo.agent import stream
from rehydrate.demo.processes import Child
from rehydrate.demo.texts import tokens_of
from rehydrate.settings import load_settings


@pytest.fixture
async def history(configured):
    async with History(load_settings(**configured)) as opened:
        yield opened


async def assistant_messages(history, conversation_id):
    hydrated = await history.hydrate(conversation_id, limit=200)
    assert hydrated.complete, hydrated.reasons
    return [m for m in hydrated.messages if m["role"] == "assistant"]


async def appear(count, history, conversation_id):
    """Wait until *count* responses have started."""
    for _ in range(400):
        if len(await assistant_messages(history, conversation_id)) >= count:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the agent does not stream")


async def test_it_streams_several_responses_at_once_and_finishes_them_exactly(history):
    streamed = await stream(history, "a", lanes=3, seconds=0.5, tokens_a_second=200, mean=20)
    assert streamed >= 3
    messages = await assistant_messages(history, "a")
    assert len(messages) == streamed
    for each in messages:
        assert each["status"] == "completed"
        assert each["text"] == "".join(tokens_of(each["id"], mean=20))
        assert each["prompt_id"] == each["id"].replace("r-", "p-")


async def test_it_continues_after_ably_was_unreachable(history, ably):
    with ably.faults.on("refuse_publish", code=50000, count=10):
        await stream(history, "a", lanes=1, seconds=0.2, tokens_a_second=100, mean=10)
    (message, *_) = await assistant_messages(history, "a")
    assert message["text"] == "".join(tokens_of(message["id"], mean=10))


async def test_it_can_be_cancelled_while_ably_is_unreachable(history, monkeypatch):
    monkeypatch.setattr("rehydrate.publish.checkpoints.COMMIT_TIMEOUT_S", 0.2)
    streaming = asyncio.create_task(stream(history, "a", lanes=2))
    await appear(2, history, "a")
    await history._store.close()
    streaming.cancel()
    done, _ = await asyncio.wait({streaming}, timeout=20)
    assert done
    await asyncio.gather(streaming, return_exceptions=True)


async def test_at_sigterm_open_responses_are_cancelled_and_keep_their_text(history, configured):
    async with Child("--quiet", "agent", "a", environment=configured) as agent:
        assert agent.url == "a"
        await appear(3, history, "a")
        os.kill(agent.pid, signal.SIGTERM)
        assert await agent.wait() == 0
    messages = await assistant_messages(history, "a")
    assert [each["status"] for each in messages].count("cancelled") == 3
    for each in messages:
        assert "".join(tokens_of(each["id"])).startswith(each["text"])

"""The reader of the README applies the whole backlog."""

from __future__ import annotations

import asyncio

import pytest
from ably import AblyRealtime
from ably.types.message import Message

from localably import LocalAbly
from rehydrate.demo.reader import join
from waiting import PATIENCE_S

EMPTY = {"messages": [], "reasons": [], "until": None, "rewind_from": None}


@pytest.fixture
async def ably():
    async with LocalAbly() as server:
        client = AblyRealtime(key=server.key, endpoint=f"127.0.0.1:{server.port}", tls=False)
        try:
            yield client
        finally:
            await client.close()


async def shown_by(ably, load, whole, way=1):
    """Run the reader until *whole* is true of its view; return every text that it showed."""
    done, texts = asyncio.Event(), []

    def render(view):
        texts.append("".join(m["text"] for m in view.messages))
        if whole(texts[-1]):
            done.set()

    joining = asyncio.create_task(join(ably, "room", load, render, way))
    waiting = asyncio.create_task(done.wait())
    await asyncio.wait({joining, waiting}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    for task in (joining, waiting):
        task.cancel()
    ended, _ = await asyncio.gather(joining, waiting, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended
    return texts


@pytest.mark.parametrize("way", [1, 2, 3])
async def test_the_whole_backlog_is_applied_to_an_older_answer(ably, way):
    tokens = [f"{number}," for number in range(60)]
    out = ably.channels.get("room")
    for token in tokens:
        await out.publish(
            Message(name="token", data=token, extras={"headers": {"responseId": "r"}})
        )
    await out.detach()
    ably.channels.release("room")

    async def load(until=None):
        return EMPTY

    texts = await shown_by(ably, load, lambda text: text.endswith(tokens[-1]), way)
    assert texts[-1] == "".join(tokens)


async def test_a_message_named_error_does_not_hide_others(ably):
    out = ably.channels.get("room")
    extras = {"headers": {"responseId": "r"}}
    await out.publish(
        [
            Message(name="token", data="a", extras=extras),
            Message(name="error", data="not for us"),
            Message(name="token", data="b", extras=extras),
        ]
    )
    await out.detach()
    ably.channels.release("room")

    async def load(until=None):
        return EMPTY

    assert (await shown_by(ably, load, lambda text: text.endswith("b")))[-1] == "ab"


async def test_an_answer_that_does_not_reach_far_enough_is_requested_again(ably):
    asked = []

    async def load(until=None):
        asked.append(until)
        retry = {"code": "history_unavailable", "retry": True, "detail": ""}
        return EMPTY | {"reasons": [retry] if len(asked) < 3 else []}

    await shown_by(ably, load, lambda text: len(asked) == 3, way=2)
    assert len(asked) == 3
    assert asked[0] is not None, "the second way asks for the attach point"
    assert asked[1:] == [None, None], "again is the first way"


async def test_a_failing_call_raises_from_the_reader(ably):
    async def load(until=None):
        raise ConnectionError("no service")

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(join(ably, "room", load, lambda view: None), PATIENCE_S)

"""The reader of the README, which the check, the soak and the chaos run."""

from __future__ import annotations

import asyncio

from ably import AblyRealtime
from ably.types.message import Message

from rehydrate.demo.reader import show
from waiting import until

EMPTY = {"messages": [], "reasons": [], "until": None, "rewind_from": None}


async def test_it_shows_what_is_published_before_and_after_it_joins(ably):
    client = AblyRealtime(key=ably.key, endpoint=f"127.0.0.1:{ably.port}", tls=False)
    out = AblyRealtime(key=ably.key, endpoint=f"127.0.0.1:{ably.port}", tls=False)
    texts = []

    async def load(until=None):
        return EMPTY

    def render(view):
        texts.append("".join(message["text"] for message in view.messages))

    async def publish(data):
        message = Message(name="token", data=data, extras={"headers": {"responseId": "r"}})
        await out.channels.get("room").publish(message)

    try:
        await publish("a")
        showing = asyncio.create_task(show(client, "room", load, render))
        await until(lambda: texts and texts[-1] == "a")
        await publish("b")
        await until(lambda: texts[-1] == "ab")
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
    finally:
        await client.close()
        await out.close()

"""A moderator edits and deletes tokens with a stock SDK, long after they were recorded."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from ably import AblyRest
from ably.types.message import Message

from journeys.stack import stacked
from rehydrate import View
from rehydrate.core.positions import MARGIN_MS
from rehydrate.history import History
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def stack(module_database):
    template = {"REHYDRATE_CHANNEL_TEMPLATE": "mutable:{conversation_id}"}
    async with stacked(module_database, **template) as running:
        yield running


async def publish(channel, response_id, *, numbered):
    """Publish a response; return the channel messages of its tokens."""
    tokens = []
    for seq, text in enumerate([None, "one ", "two ", "three", None]):
        headers = {"responseId": response_id} | ({"seq": seq} if numbered else {})
        name = "token" if text else ("stop" if seq else "start")
        extras = {"headers": headers}
        result = await channel.publish(Message(name=name, data=text, extras=extras))
        if text:
            tokens.append(Message(name=name, data=text, extras=extras, serial=result.serials[0]))
    return tokens


async def followed(target, http, expected, ready):
    """Follow until the texts of *expected* are shown."""
    shown, kind = {}, None
    url = f"{target.url}/v1/conversations/{target.conversation_id}/stream"
    async with asyncio.timeout(PATIENCE_S), http.stream("GET", url, timeout=None) as lines:
        async for line in lines.aiter_lines():
            if line.startswith("event:"):
                kind = line.removeprefix("event:").strip()
            if not line.startswith("data:"):
                continue
            data = json.loads(line.removeprefix("data:"))
            if kind == "snapshot":
                shown = {m["id"]: m["text"] for m in data["messages"]}
                ready.set()
            if kind == "repair":
                shown[data["message_id"]] = data["text"]
            if shown.items() >= expected.items():
                return


async def test_the_stored_text_is_that_of_the_edit_whenever_it_was_read(stack, conversation):
    target = stack.target(conversation)
    headers = {"authorization": f"Bearer {target.token}"}
    rest = AblyRest(
        key=stack.environment["ABLY_API_KEY"],
        use_token_auth=True,
        endpoint="127.0.0.1",
        port=target.port,
        tls=False,
    )
    async with (
        httpx.AsyncClient(headers=headers, timeout=PATIENCE_S) as http,
        History(stack.settings) as history,
    ):

        async def answer():
            return (await http.get(target.hydrate_url)).json()

        channel = rest.channels.get(target.channel)
        numbered = await publish(channel, "numbered", numbered=True)
        plain = await publish(channel, "plain", numbered=False)
        await history.catch_up(conversation)
        await asyncio.sleep(MARGIN_MS / 1000 + 1)
        await channel.publish(Message(name="start", extras={"headers": {"responseId": "later"}}))
        await history.catch_up(conversation)  # the tokens are below the margin now
        expected = {"numbered": "one 2 three", "plain": "one three"}
        view, ready = View(await answer()), asyncio.Event()
        following = asyncio.create_task(followed(target, http, expected, ready))
        await ready.wait()
        edit = Message(
            name="token", data="2 ", extras=numbered[1].extras, serial=numbered[1].serial
        )
        await channel.update_message(edit)
        await channel.delete_message(Message(serial=plain[1].serial))
        await following
        async with asyncio.timeout(PATIENCE_S):
            while True:
                messages = {m["id"]: m for m in (await answer())["messages"]}
                if all(messages[id_]["text"] == text for id_, text in expected.items()):
                    break
                await asyncio.sleep(0.1)
        assert all(messages[id_]["exact"] for id_ in expected)
        for message in (await channel.history()).items:
            assert view.apply(message)
        declared = {m["id"] for m in view.messages if not m["exact"]}
        assert declared == set(expected), "an answer does not show where the edited tokens are"
        async with httpx.AsyncClient() as control:
            where = f"{stack.ably.url}/localably/expire"
            expired = await control.post(where, json={"channel": target.channel})
        assert expired.json()["expired"]
        stored = {m["id"]: m["text"] for m in (await answer())["messages"]}
        assert {id_: stored[id_] for id_ in expected} == expected
    await rest.close()

"""A replay whose process is killed in its middle: every follower sees each chunk once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import aclosing, asynccontextmanager

import httpx
import pytest

from journeys.readers import Plan, assert_shown, by_javascript, by_python, skip_without_node
from journeys.stack import stacked
from rehydrate import History
from rehydrate.core.codecs import decode_all
from rehydrate.demo.processes import Child
from rehydrate.demo.texts import tokens_of
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow

ADMIN_KEY = "an-admin-key-of-the-journeys"
RATE = 12.0


@pytest.fixture
async def alone(database):
    """A stack for this module alone."""
    async with stacked(database, REHYDRATE_ADMIN_KEYS=ADMIN_KEY) as running:
        yield running


class Admin:
    """A client with an admin key, of the service that runs now."""

    def __init__(self, url, conversation_id):
        self.url = url
        self._start = f"/v1/admin/conversations/{conversation_id}/responses/r/replay"

    async def _request(self, method, path, **how):
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=PATIENCE_S
        ) as http:
            answer = await http.request(method, path, **how)
        assert answer.is_success, answer.text
        return answer.json()

    async def replay(self, **body):
        return (await self._request("POST", self._start, json=body))["replay_id"]

    async def cancel(self, replay_id):
        return await self._request("DELETE", f"/v1/admin/replays/{replay_id}")

    async def reached(self, replay_id, done):
        """Wait until the replay has published *done* chunks, or has ended; return it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self._request("GET", f"/v1/admin/replays/{replay_id}")
                if found["done"] >= done or found["state"] in {"done", "failed", "cancelled"}:
                    return found
                await asyncio.sleep(0.05)


async def published_of(history, channel, replay_id):
    """Return the channel messages of a replay, in order: kind and seq."""
    found = []
    async with aclosing(history._channel.history(channel, forwards=True)) as pages:
        async for page in pages:
            found += [e for e in decode_all(page) if e.message_id == replay_id]
    return found


async def attached(ably, channel, count):
    async with (
        httpx.AsyncClient(base_url=ably.url, timeout=PATIENCE_S) as http,
        asyncio.timeout(PATIENCE_S),
    ):
        while True:
            channels = (await http.get("/localably/channels")).json()["channels"]
            if any(c["name"] == channel and c["attachments"] >= count for c in channels):
                return
            await asyncio.sleep(0.05)


async def published(settings, conversation_id, tokens):
    """Publish a response that can be replayed, a chunk per token, by a process without replays."""
    async with History(settings) as history:
        await history._replay_worker.close()
        async with history.respond(conversation_id, "r") as response:
            for token in tokens:
                response.write(token)
                response.text  # noqa: B018 - settles: a chunk of its own


@asynccontextmanager
async def followed(alone, conversation_id, tokens, admin):
    """Start a replay once stock SDKs follow it; yields it, and what they will show."""
    target = alone.target(conversation_id)
    before = await admin.replay(speed=0, max_rate=1)  # the next one waits for it
    replay_id = await admin.replay(speed=0, max_rate=RATE)
    texts = {replay_id: "".join(tokens)}
    joins = [Plan(0, way) for way in (1, 2, 3)]
    readers = asyncio.gather(by_python(target, texts, joins), by_javascript(target, texts, joins))
    try:
        await attached(alone.ably, target.channel, 2 * len(joins))
        await asyncio.sleep(1)
        await admin.cancel(before)
        yield replay_id, readers
        ours, theirs = await readers
        assert_shown(ours + theirs, texts)
    finally:
        readers.cancel()


async def test_a_replay_outlives_the_process_that_ran_it(alone, conversation):
    skip_without_node()
    tokens = tokens_of("r", mean=60)
    admin = Admin(alone.service.url, conversation)
    await published(alone.settings, conversation, tokens)
    async with followed(alone, conversation, tokens, admin) as (replay_id, readers):
        await admin.reached(replay_id, 15)

        os.kill(alone.service.pid, signal.SIGKILL)
        await alone.service.wait()
        async with Child("--quiet", "serve", environment=alone.environment) as again:
            admin.url = again.url
            ended = await admin.reached(replay_id, len(tokens))
            assert ended["done"] == len(tokens)
            await readers
            assert (await admin.reached(replay_id, 10**6))["state"] == "done"
    async with History(alone.settings) as history:
        messages = await published_of(history, alone.settings.channel_of(conversation), replay_id)
        assert Counter(e.seq for e in messages) == Counter(range(len(tokens) + 2))
        answer = await history.hydrate(conversation)
        assert [m["id"] for m in answer.messages] == ["r"]


async def test_refused_chunks_are_repaired_for_every_follower(alone, conversation):
    skip_without_node()
    tokens = tokens_of("r", mean=60)
    admin = Admin(alone.service.url, conversation)
    await published(alone.settings, conversation, tokens)
    async with followed(alone, conversation, tokens, admin) as (replay_id, readers):
        for done in (10, 30):
            await admin.reached(replay_id, done)
            async with alone.fault("refuse_publish", count=1, code=42911) as fired:
                await admin.reached(replay_id, done + 15)
                assert await fired() == 1
        await readers
    assert (await admin.reached(replay_id, 10**6))["state"] == "done"

"""Two services and two backends with the library on one database; they die one after another."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import AsyncExitStack, aclosing

import httpx
import pytest

from api.sse import streamed
from conftest import connected
from journeys.stack import SERVICE_KEY, stacked
from journeys.streams import Streams
from journeys.test_foreign import by_ably_python
from rehydrate import History
from rehydrate.demo.processes import Child
from rehydrate.demo.texts import tokens_of
from upgrading.versions import ROOT, Worker
from waiting import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LEASE_S = 3
DYING = [f"dying-{number}" for number in range(8)]


@pytest.fixture
async def alone(database):
    """A stack for this module alone."""
    async with stacked(database, REHYDRATE_LEASE_SECONDS=str(LEASE_S)) as running:
        yield running


@pytest.fixture
async def services(alone):
    """Two services, and an HTTP client of each."""
    headers = {"Authorization": f"Bearer {SERVICE_KEY}"}
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(
            Child("--quiet", "serve", environment=alone.environment)
        )
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=each.url, headers=headers, timeout=PATIENCE_S)
            )
            for each in (alone.service, second)
        ]
        yield clients


async def shown(client, conversation_id):
    answer = await client.get(f"/v1/conversations/{conversation_id}")
    assert answer.status_code == 200, answer.text
    return {m["id"]: (m["text"], m["status"], m["gaps"]) for m in answer.json()["messages"]}


async def recorded(client):
    """Return how many events a service has folded into the store."""
    received = (await client.get("/metrics")).text
    return sum(
        map(float, re.findall(r'rehydrate_events_total\{outcome="folded"\} (\S+)', received))
    )


async def both_record(clients):
    async with asyncio.timeout(PATIENCE_S):
        for client in clients:
            while not await recorded(client):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.1)


async def begins(client, id_):
    async with asyncio.timeout(PATIENCE_S):
        while not (await shown(client, id_)).get(id_, ("",))[0]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.1)


async def keep_reading(client, conversation_ids, texts):
    """Hydrate repeatedly, as clients that reload do; every text must be a prefix."""
    while True:
        for conversation_id in conversation_ids:
            for id_, (text, *_) in (await shown(client, conversation_id)).items():
                assert id_ not in texts or texts[id_].startswith(text), id_
        await asyncio.sleep(0.1)


async def all_end(client, conversation_id, texts, *, interrupted=()):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await shown(client, conversation_id)
            responses = {id_: found.get(id_, ("", "in_progress", [])) for id_ in texts}
            if all(status != "in_progress" for _, status, _ in responses.values()):
                break
            await asyncio.sleep(0.2)
    for id_, (text, status, gaps) in responses.items():
        if id_ in interrupted:
            assert (status, gaps) == ("interrupted", []), id_
            assert text, id_
            assert texts[id_].startswith(text), id_
        else:
            assert (text, status, gaps) == (texts[id_], "completed", []), id_


async def test_the_work_is_shared_and_a_dead_process_is_replaced(alone, services, database):
    ours = Streams("ours", rounds=2, mean=30)
    foreign = {id_: tokens_of(f"{id_}!", mean=200) for id_ in ("f1", "f2")}
    by_others = {id_: "".join(tokens) for id_, tokens in foreign.items()}
    dying = {id_: "".join(f"{id_}-{n} " for n in range(500)) for id_ in DYING}
    texts = ours.texts | by_others | dying
    asked = ["ours", "foreign", *DYING]
    async with (
        History(alone.settings) as backend,
        Worker(ROOT, alone.environment) as worker,
        asyncio.TaskGroup() as group,
    ):
        reading = [group.create_task(keep_reading(each, asked, texts)) for each in services]
        publishing = [
            group.create_task(ours.publish(backend)),
            group.create_task(by_ably_python(alone, "ai:foreign", foreign, stop=True)),
        ]
        for id_ in DYING:
            worker.ask("publish", id_, id_, 500)
        await both_record(services)
        for id_ in DYING:
            await begins(services[1], id_)
        worker.kill()
        reading[0].cancel()
        await asyncio.gather(reading[0], return_exceptions=True)
        os.kill(alone.service.pid, signal.SIGKILL)
        assert await alone.service.wait() == -signal.SIGKILL
        await asyncio.gather(*publishing)
        (_, left) = services
        await all_end(left, "ours", ours.texts)
        await all_end(left, "foreign", by_others)
        for id_ in DYING:
            await all_end(left, id_, {id_: dying[id_]}, interrupted=DYING)
        reading[1].cancel()
    await all_is_recorded_once(alone, database, asked)


async def caught_up(history, conversation_id):
    """Wait until the whole channel is recorded; return the row, and the channel's messages."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            row = (await history._store.load(conversation_id, limit=1, before=None)).conversation
            async with aclosing(history._channel.history(row.channel, forwards=True)) as pages:
                said = [message async for page in pages for message in page]
            newest = max(message.serial for message in said)
            if row.watermark is not None and row.watermark.serial == newest:
                return row, said
            await asyncio.sleep(0.2)


async def all_is_recorded_once(alone, database, conversation_ids):
    async with History(alone.settings) as fresh, connected(database) as connection:
        for conversation_id in conversation_ids:
            row, said = await caught_up(fresh, conversation_id)
            assert not (await fresh.catch_up(conversation_id)).counts["folded"], conversation_id
            assert not row.holes
            stops = [m.extras["headers"]["responseId"] for m in said if m.name == "stop"]
            assert sorted(stops) == sorted(set(stops))  # each end was published once
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert await connection.fetchval(deadlocks) == 0


async def test_text_that_one_process_erases_is_gone_for_all(alone, services):
    here, there = services
    async with History(alone.settings) as backend, backend.joined("gone") as follower:
        async with backend.respond("gone", "r1") as response:
            response.write("to be forgotten")
        assert (await anext(follower)).kind == "snapshot"
        async with streamed(here, "gone") as at_here, streamed(there, "gone") as at_there:
            for stream in (at_here, at_there):
                received = await stream.next()
                assert [m["text"] for m in received.data["messages"]] == ["to be forgotten"]
            assert (await there.delete("/v1/conversations/gone")).status_code == 204
            for stream in (at_here, at_there):
                while (received := await stream.next()).kind != "snapshot":
                    pass
                assert received.data["messages"] == []
        async with asyncio.timeout(PATIENCE_S):
            while (received := await anext(follower)).kind != "snapshot" or received.data[
                "messages"
            ]:
                pass
        foreign = {"r1": tokens_of("late", mean=4)}
        await by_ably_python(alone, "ai:gone", foreign, stop=False)
        for client in services:
            assert await shown(client, "gone") == {}
        assert not (await backend.catch_up("gone")).counts["folded"]
        assert (await backend.hydrate("gone")).messages == []

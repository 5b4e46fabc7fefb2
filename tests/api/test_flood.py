"""A flood of webhooks over real connections: the work is bounded, and other requests are served."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from api.conftest import problem
from api.minting import SERVICE_KEY, bearer
from api.serving import served_beside
from api.test_webhooks import PATH, SECRET, batch, signed
from localably import LocalAbly
from participants import settings_for
from rehydrate.api import webhooks as events
from rehydrate.history import History
from waiting import PATIENCE_S, until


@pytest.fixture
async def service(database):
    """A whole service behind a real server; its URL, its Ably key, and its store."""
    async with LocalAbly() as ably:
        settings = settings_for(
            database,
            ably,
            service_keys=SERVICE_KEY,
            webhook_secret=SECRET,
        )
        history = History(settings)
        async with served_beside(history.app()) as url:
            yield url, ably, history


@pytest.fixture
async def client(service):
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=service[0], timeout=30, limits=limits) as made:
        yield made


@asynccontextmanager
async def half_said(url, headers, body):
    """Send a request whose body stops in the middle; return the answer, if there is one."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    fields = {"Host": where.netloc, "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode() + body[: len(body) // 2])
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.close()


async def status_of(reader):
    """Read the status and headers of an answer."""
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers


async def post(client, body, headers):
    return await client.post(PATH, content=body, headers=headers)


async def rows(client):
    answer = await client.get("/v1/conversations", headers=bearer(SERVICE_KEY))
    return [row["conversation_id"] for row in answer.json()["conversations"]]


async def test_a_flood_of_forged_webhooks_is_refused_without_any_work(service, client):
    _, ably, _ = service
    body = batch(*[f"ai:forged-{number}" for number in range(500)])
    for channel in ("forged-1", "forged-2"):
        await store_something(service, channel)
    forged = [
        {},
        {"X-Ably-Signature": "AAAA", "X-Ably-Key": "no.body"},
        signed(body, f"{ably.key.partition(':')[0]}:not-the-secret"),
        signed(b"another body", ably.key),
        {"X-Rehydrate-Secret": "wrong"},
    ]
    answers = await asyncio.gather(
        *(client.post(PATH, content=body, headers=forged[at % len(forged)]) for at in range(150))
    )
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {401, 429}
    assert 401 in statuses
    for answer in answers:
        assert answer.status_code == 401 or int(answer.headers["retry-after"]) > 0
    assert await rows(client) == []


async def store_something(service, conversation_id):
    """A webhook that would lead to recording if it were authentic."""
    _, ably, _ = service
    async with httpx.AsyncClient(auth=tuple(ably.key.split(":"))) as http:
        path = f"http://127.0.0.1:{ably.port}/channels/ai:{conversation_id}/messages"
        fields = {"name": "user-input", "data": json.dumps({"promptId": "p", "text": "?"})}
        answer = await http.post(path, json={**fields, "encoding": "json"})
        assert answer.status_code == 201, answer.text


async def test_webhooks_beyond_the_limit_are_429_with_retry_after(service, client, monkeypatch):
    monkeypatch.setattr(events, "ARRIVAL_S", 3.0)
    url, ably, _ = service
    body = batch("ai:slow")
    headers = signed(body, ably.key)
    async with asyncio.timeout(PATIENCE_S):
        slow = [
            half_said(url, {**headers, "X-Forwarded-For": f"192.0.2.{at % 2}"}, body)
            for at in range(events.AT_ONCE)
        ]
        opened = [await each.__aenter__() for each in slow]
        while (answer := await post(client, body, headers)).status_code != 429:  # noqa: ASYNC110 - a server in a thread
            await asyncio.sleep(0.01)
        problem(answer, 429, "too_many")
        assert int(answer.headers["retry-after"]) > 0
        # meanwhile requests without credentials are refused at once, and all others answered
        problem(await client.post(PATH, content=body), 401, "unauthorized")
        assert (await client.get("/healthz")).status_code == 200
        path = "/v1/conversations/slow"
        assert (await client.get(path, headers=bearer(SERVICE_KEY))).status_code == 200
        first, *others = opened
        first[1].write(body[len(body) // 2 :])
        assert (await status_of(first[0]))[0] == 204
        for reader, _ in others:  # a stalled request must not keep its place forever
            assert (await status_of(reader))[0] == 408
        assert (await client.post(PATH, content=body, headers=headers)).status_code == 204
        for each in slow:
            await each.__aexit__(None, None, None)


async def test_one_address_cannot_occupy_all_places_of_webhooks(service, client, monkeypatch):
    monkeypatch.setattr(events, "ARRIVAL_S", PATIENCE_S)
    url, ably, _ = service
    body = batch("ai:slow")
    named_only = {"X-Ably-Key": ably.key.partition(":")[0], "X-Ably-Signature": "AAAA"}
    async with AsyncExitStack() as stack:
        for _ in range(2 * events.AT_ONCE):
            await stack.enter_async_context(half_said(url, named_only, body))

        async def is_refused():
            return (await post(client, body, signed(body, ably.key))).status_code == 429

        await until(is_refused)
        refused = await post(client, body, signed(body, ably.key))
        assert "of this address" in problem(refused, 429, "too_many")
        other = {**signed(body, ably.key), "X-Forwarded-For": "192.0.2.9"}
        assert (await post(client, body, other)).status_code == 204


async def test_a_flood_of_valid_webhooks_is_coalesced_and_creates_no_rows(
    service, client, monkeypatch
):
    _, ably, history = service
    await store_something(service, "true")
    reads = 0
    plain = history._channel.history

    def counted(name, **more):
        nonlocal reads
        reads += name == "ai:true"
        return plain(name, **more)

    monkeypatch.setattr(history._channel, "history", counted)
    body = batch("ai:true", *[f"ai:nobody-{number}" for number in range(40)])
    for _ in range(20):
        answers = await asyncio.gather(
            *(client.post(PATH, content=body, headers=signed(body, ably.key)) for _ in range(10))
        )
        assert {answer.status_code for answer in answers} <= {204, 429}
    async with asyncio.timeout(PATIENCE_S):
        while await rows(client) != ["true"]:  # noqa: ASYNC110 - the service records it
            await asyncio.sleep(0.05)
    assert 1 <= reads < 30  # of 200


async def test_announcements_of_channels_that_cannot_be_conversations_are_counted(service, client):
    _, ably, _ = service
    body = batch(f"ai:{'x' * 200}")
    assert (await post(client, body, signed(body, ably.key))).status_code == 204

    async def are_counted():
        return (
            'rehydrate_dropped_total{kind="announcement"} 1.0'
            in (await client.get("/metrics")).text
        )

    await until(are_counted)

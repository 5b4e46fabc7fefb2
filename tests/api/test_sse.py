"""Server-sent events over a real Postgres, channel server and uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from api.conftest import ORIGIN, problem
from api.minting import READER, bearer, mint
from api.serving import served_beside
from api.sse import streamed
from localably import LocalAbly
from localably.config import Key
from participants import publisher_to, settings_for
from rehydrate.api import sse as stream_module
from rehydrate.api import ui_messages
from rehydrate.api.auth.access import Reader
from rehydrate.api.auth.opaque_tokens import TokenChecks
from rehydrate.api.conversations import Limits, router
from rehydrate.errors import ChannelUnavailable, Forbidden
from rehydrate.history import History
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")
SERVICE_KEY = "service-key-of-the-stream"
UI = "format=ui-message-stream"


@pytest.fixture(scope="module")
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(scope="module")
async def history(module_database, server):
    return History(
        settings_for(module_database, server, service_keys=SERVICE_KEY, cors_origins=ORIGIN)
    )


@pytest.fixture(scope="module")
async def url(history):
    async with served_beside(history.app()) as url:
        yield url


@pytest.fixture
async def own(module_database, server):
    """A service in the loop of the test."""
    async with History(settings_for(module_database, server, service_keys=SERVICE_KEY)) as opened:
        yield opened


@pytest.fixture
async def client(url):
    async with httpx.AsyncClient(
        base_url=url, headers=bearer(SERVICE_KEY), timeout=PATIENCE_S
    ) as made:
        yield made


def token(server, capability=None, **claims):
    return mint(capability or READER, key=server.key, **claims)


async def test_a_snapshot_comes_first_then_every_kind_of_event_with_an_id_each(
    client, conversation, publisher
):
    await publisher.stream("done", "whole")
    async with streamed(client, conversation) as stream:
        (snapshot,) = await stream.take(1)
        answer = (await client.get(f"/v1/conversations/{conversation}")).json()
        assert snapshot.kind == "snapshot"
        assert snapshot.data["messages"] == answer["messages"]
        assert set(snapshot.data) == set(answer)
        assert 500 <= stream.retry_ms <= 10_000
        await publisher.publish_message("user-input", {"promptId": "p", "text": "?"})
        await publisher.publish_message("start", rid="r", seq=0, promptId="p")
        await publisher.publish_message("reasoning", "hm", rid="r", seq=1)
        await publisher.publish_message("token", "語", rid="r", seq=2, part="0")
        call = {"name": "add", "args": ""}
        await publisher.publish_message("tool_call", call, rid="r", seq=3, toolCallId="t")
        await publisher.publish_message("tool_args", "{}", rid="r", seq=4, toolCallId="t")
        result = {"name": "add", "result": [1]}
        await publisher.publish_message("tool_result", result, rid="r", seq=5, toolCallId="t")
        await publisher.publish_message("refusal", "no", rid="r", seq=6)
        await publisher.publish_message("response-complete", {"text": "語"}, rid="r", seq=6)
        await publisher.publish_message(
            "stop", {"usage": {"n": 1}}, rid="r", seq=7, status="incomplete"
        )
        received = await stream.take(10)
    kinds = "prompt start reasoning token tool_call tool_args tool_result refusal repair stop"
    assert [each.kind for each in received] == kinds.split()
    assert len({each.id for each in (snapshot, *received)}) == 11
    assert [each.data["seq"] for each in received] == [None, 0, 1, 2, 3, 4, 5, 6, 6, 7]
    assert all({"message_id", "gen", "seq", "serial"} <= set(each.data) for each in received)
    by_kind = {each.kind: {**each.data, "serial": None} for each in received}
    place = {"message_id": "r", "gen": 1, "serial": None}
    assert by_kind["token"] == {**place, "seq": 2, "part": "0", "text": "語"}
    assert by_kind["tool_call"]["args"] == ""
    assert by_kind["tool_result"]["result"] == [1]
    assert by_kind["stop"] == {**place, "seq": 7, "status": "incomplete", "usage": {"n": 1}}
    assert by_kind["prompt"]["text"] == "?"


async def test_a_reconnecting_reader_receives_exactly_the_missed_events(
    client, conversation, publisher
):
    await publisher.stream("r", "ab", stop=False)
    async with streamed(client, conversation) as stream:
        await stream.take(1)
        await publisher.publish_message("token", "c", rid="r", seq=3)
        (third,) = await stream.take(1)
    await publisher.publish_message("token", "d", rid="r", seq=4)
    await publisher.publish_message("token", "e", rid="r", seq=5)
    for how in ({"last": third.id}, {"last_event_id": third.id}):
        async with streamed(client, conversation, **how) as stream:
            received = await stream.take(2)
        assert [(each.kind, each.data["text"]) for each in received] == [
            ("token", "d"),
            ("token", "e"),
        ]


@pytest.mark.parametrize("last", ["nonsense", "-", "x-999999999999999999999", "\u2603", "0-0"])
async def test_an_invalid_last_event_id_yields_a_snapshot(client, conversation, last):
    async with streamed(client, conversation, last_event_id=last) as stream:
        (received,) = await stream.take(1)
    assert received.kind == "snapshot"


async def test_a_last_event_id_of_another_conversation_yields_a_snapshot(
    client, conversation, publisher
):
    async with streamed(client, f"{conversation}-other") as stream:
        (other,) = await stream.take(1)
    async with streamed(client, conversation, last=other.id) as stream:
        (received,) = await stream.take(1)
    assert received.kind == "snapshot"


async def test_a_reader_without_the_capability_is_refused_before_the_stream_starts(
    client, server, url
):
    path = "/v1/conversations/secret/stream"
    elsewhere = token(server, {"ai:other": ["subscribe"]})
    problem(await client.get(path, headers=bearer(elsewhere)), 403, "forbidden")
    problem(await client.get(path, headers=bearer("nobody")), 401, "unauthorized")
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as anybody:
        problem(await anybody.get(path), 401, "unauthorized")


async def test_a_bad_conversation_or_limit_is_a_problem(client):
    problem(
        await client.get("/v1/conversations/%5Bx/stream"), 422, "bad_parameter", "conversation_id"
    )
    answer = await client.get("/v1/conversations/x/stream?limit=0")
    problem(answer, 422, "bad_parameter", "limit")


async def test_a_token_in_the_query_is_accepted_for_streams_only_and_never_logged(
    url, server, conversation, caplog
):
    caplog.set_level(logging.DEBUG)
    shown = token(server, {f"ai:{conversation}": ["subscribe"]})
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        async with streamed(client, conversation, access_token=shown) as stream:
            (received,) = await stream.take(1)
            assert received.kind == "snapshot"
        answer = await client.get(f"/v1/conversations/{conversation}?access_token={shown}")
        problem(answer, 401, "unauthorized")
    ours = [r for r in caplog.records if r.name.startswith(("rehydrate", "uvicorn"))]
    assert not [r for r in ours if shown[:40] in f"{r.getMessage()} {vars(r)}"]


async def test_a_stream_ends_cleanly_when_the_readers_token_expires(url, server, conversation):
    shown = token(server, {f"ai:{conversation}": ["history"]}, ttl_s=2)
    async with (
        httpx.AsyncClient(base_url=url, headers=bearer(shown), timeout=PATIENCE_S) as client,
        streamed(client, conversation) as stream,
    ):
        await stream.take(1)
        last = await stream.next()
        assert last == ("end", None, {"code": "unauthorized", "detail": "the token has expired"})
        assert await stream.next() is None


async def test_a_readers_stream_ends_after_its_maximum_age_and_a_backends_does_not(
    client, server, conversation, publisher, monkeypatch
):
    monkeypatch.setattr(stream_module, "MAX_AGE_S", 0.1)
    shown = token(server, {f"ai:{conversation}": ["history"]})
    async with (
        httpx.AsyncClient(
            base_url=client.base_url, headers=bearer(shown), timeout=PATIENCE_S
        ) as reading,
        streamed(reading, conversation) as stream,
        streamed(client, conversation) as backend,
    ):
        await backend.take(1)
        _, last = await stream.take(2)
        assert (last.kind, last.data["code"]) == ("end", "max_age")
        assert await stream.next() is None
        await publisher.publish_message("start", rid="r", seq=0)
        assert (await backend.next()).kind == "start"


async def test_a_stream_ends_when_its_opaque_token_is_revoked(
    module_database, conversation, monkeypatch
):
    monkeypatch.setattr(stream_module, "VERIFY_S", 0.1)
    monkeypatch.setitem(TokenChecks.__init__.__kwdefaults__, "accepted_s", 0.1)
    revocable = replace(Key.parse("app.key:secret-of-the-key"), revocable_tokens=True)
    async with LocalAbly(keys=[revocable]) as server, AsyncExitStack() as stack:
        url = f"http://127.0.0.1:{server.port}/keys/app.key"
        http = httpx.AsyncClient(auth=("app.key", "secret-of-the-key"), timeout=PATIENCE_S)
        ably = await stack.enter_async_context(http)
        wanted = {"keyName": "app.key", "clientId": "ann", "timestamp": time.time_ns() // 10**6}
        shown = (await ably.post(f"{url}/requestToken", json=wanted)).json()["token"]
        app = History(settings_for(module_database, server)).app()
        own = await stack.enter_async_context(served_beside(app))
        reading = httpx.AsyncClient(base_url=own, headers=bearer(shown), timeout=PATIENCE_S)
        client = await stack.enter_async_context(reading)
        async with streamed(client, conversation) as stream:
            await stream.take(1)
            revoked = await ably.post(f"{url}/revokeTokens", json={"targets": ["clientId:ann"]})
            assert revoked.json()["successCount"] == 1
            last = await stream.next()
            assert (last.kind, last.data["code"]) == ("end", "unauthorized")
            assert "expired, revoked" in last.data["detail"]
            assert await stream.next() is None


async def test_credentials_that_cannot_be_verified_are_verified_later(
    module_database, server, conversation, monkeypatch
):
    monkeypatch.setattr(stream_module, "VERIFY_S", 0.1)
    answers = iter([None, ChannelUnavailable("away"), ValueError("a fault"), Forbidden("removed")])

    async def verify():
        if (answer := next(answers)) is not None:
            raise answer

    app = FastAPI()
    history = History(settings_for(module_database, server))
    app.include_router(router(history, authorize=lambda *_: Reader(verify=verify)))
    async with (
        served_beside(app) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client,
        streamed(client, conversation) as stream,
    ):
        _, last = await stream.take(2)
        assert last == ("end", None, {"code": "forbidden", "detail": "removed"})
        assert await stream.next() is None
    assert next(answers, "none") == "none"


async def test_a_stream_that_never_stops_sending_ends_when_the_readers_token_expires(
    client, url, server, conversation, history
):
    path = f"/v1/conversations/{conversation}"
    for id_ in "abcd":
        long = {"id": id_, "role": "assistant", "text": "x" * 4_000_000}
        (await client.post(f"{path}/messages", json={"messages": [long]})).raise_for_status()
    shown = token(server, {f"ai:{conversation}": ["history"]}, ttl_s=3)
    host, port = httpx.URL(url).host, httpx.URL(url).port
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    request = f"GET {path}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shown}\r\n\r\n"
    writer.write(request.encode())
    assert b"200 OK" in await reader.readline()  # and reads nothing more
    async with asyncio.timeout(stream_module.SEND_TIMEOUT_S / 2):
        while history._subscriptions._feeds[conversation].followers:  # noqa: ASYNC110 - another loop's
            await asyncio.sleep(0.01)
    writer.close()


BEGINNINGS = [("", "send"), ("", "events"), (UI, "send"), (UI, "events")]


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=str)
async def test_a_stream_that_fails_at_its_beginning_releases_its_place(
    own, server, conversation, monkeypatch, beginning
):
    (query, fault), failed = beginning, []

    def fail(*_):
        failed.append(fault)
        raise RuntimeError("injected")

    async def send(message):
        if fault == "send":
            fail(message)

    async def receive():
        await asyncio.Event().wait()

    if fault == "events":
        where = (ui_messages.Chunks, "convert") if query else (stream_module, "frame")
        monkeypatch.setattr(*where, fail)
    app = own.app()
    async with (
        httpx.ASGITransport(app) as transport,
        httpx.AsyncClient(transport=transport, base_url="http://test") as direct,
        publisher_to(server, f"ai:{conversation}") as publisher,
    ):
        await publisher.publish_message("start", rid="r", seq=0)
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/v1/conversations/{conversation}/stream",
            "query_string": query.encode(),
            "headers": [(b"authorization", f"Bearer {SERVICE_KEY}".encode())],
        }
        with contextlib.suppress(RuntimeError):
            async with asyncio.timeout(PATIENCE_S):
                await app(scope, receive, send)
        assert failed
        metrics = (await direct.get("/metrics")).text
        assert re.search(r"^rehydrate_streams_open 0", metrics, re.MULTILINE)
        assert own._subscriptions._feeds[conversation].followers == 0


async def test_a_silent_stream_sends_heartbeats(client, conversation, monkeypatch):
    monkeypatch.setattr(stream_module, "HEARTBEAT_S", 0.05)
    async with streamed(client, conversation) as stream:
        await stream.take(1)
        assert [await stream.comment() for _ in range(2)] == [":"] * 2


async def test_an_unreadable_message_is_skipped_and_counted(client, conversation, publisher):
    async with streamed(client, conversation) as stream:
        await stream.take(1)
        before = await ignored(client)
        await publisher.publish_message("token", "x", rid="r", seq="many")
        await publisher.publish_message("unknown", {"a": 1})
        await publisher.publish_message("token", {"no": "text"}, rid="r", seq=1)
        await publisher.publish_message("token", "y", rid="r", seq=2)
        received = await stream.take(2)
        assert await ignored(client) == before + 2
    assert [(each.data["seq"], each.data["text"]) for each in received] == [(1, ""), (2, "y")]


async def ignored(client):
    """Return the number of unreadable live messages from the metrics."""
    name = 'rehydrate_followed_messages_total{outcome="ignored"}'
    lines = (await client.get("/metrics")).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0)


async def test_head_is_answered_and_ends(client, conversation):
    answer = await client.head(f"/v1/conversations/{conversation}/stream")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "no-transform" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_pages_of_a_configured_origin_may_open_a_stream(client, conversation):
    async with client.stream(
        "GET", f"/v1/conversations/{conversation}/stream", headers={"Origin": ORIGIN}
    ) as response:
        assert response.headers["access-control-allow-origin"] == ORIGIN


async def test_a_disconnected_reader_is_noticed(client, conversation, history):
    async with streamed(client, conversation) as stream:
        await stream.take(1)
        assert history._subscriptions._feeds[conversation].followers == 1
    async with asyncio.timeout(PATIENCE_S):
        while history._subscriptions._feeds[conversation].followers:  # noqa: ASYNC110 - another loop's
            await asyncio.sleep(0.01)


async def test_a_stalled_reader_does_not_delay_others_and_gets_a_snapshot(
    client, url, conversation, publisher
):
    host, port = httpx.URL(url).host, httpx.URL(url).port
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    request = f"GET /v1/conversations/{conversation}/stream HTTP/1.1\r\nHost: x\r\n"
    writer.write(f"{request}Authorization: Bearer {SERVICE_KEY}\r\n\r\n".encode())
    await writer.drain()
    piece = "x" * 10_000
    async with streamed(client, conversation) as stream:
        await stream.take(1)
        await publisher.publish_message("start", rid="r", seq=0)
        for seq in range(1, 1_001):
            await publisher.publish_message("token", piece, rid="r", seq=seq)
            received = await stream.next()
            assert received.kind in ("start", "token")
        await publisher.publish_message("stop", rid="r", seq=1_001)
        assert [each.kind for each in await stream.take(2)] == ["token", "stop"]
    snapshots, tail = 0, b""
    async with asyncio.timeout(PATIENCE_S):
        while snapshots < 2:
            chunk = await reader.read(1_000_000)
            assert chunk
            snapshots += (tail + chunk).count(b"event: snapshot") - tail.count(b"event: snapshot")
            tail = chunk[-20:]
    writer.close()


async def test_curl_shows_events_as_they_arrive(url, conversation, publisher):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sN", "-H", f"Authorization: Bearer {SERVICE_KEY}"),
        f"{url}/v1/conversations/{conversation}/stream",
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b"event: snapshot" not in await curl.stdout.readline():
                pass
            await publisher.stream("r", "あ")
            while b"event: stop" not in await curl.stdout.readline():
                pass
    finally:
        curl.kill()
        await curl.wait()


async def test_streams_end_cleanly_at_sigterm_and_no_token_is_logged(
    module_database, server, conversation
):
    environment = {
        **os.environ,
        "REHYDRATE_DATABASE_URL": module_database,
        "ABLY_API_KEY": server.key,
        "ABLY_ENDPOINT": "127.0.0.1",
        "ABLY_PORT": str(server.port),
        "ABLY_TLS": "false",
        "REHYDRATE_SERVICE_KEYS": SERVICE_KEY,
    }
    shown = token(server)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rehydrate", "serve", "--port", "0"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            ready = (await process.stdout.readline()).decode().split()
            async with (
                httpx.AsyncClient(base_url=ready[1], timeout=PATIENCE_S) as client,
                streamed(client, conversation, access_token=shown) as stream,
            ):
                await stream.take(1)
                process.terminate()
                assert await stream.next() is None
            _, log = await process.communicate()
            assert process.returncode == 0
            assert shown.rpartition(".")[2].encode() not in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_one_reader_cannot_take_all_streams(module_database, server, conversation):
    """The limit of 64 leaves 48 to others; in a process with few descriptors, it is lower."""

    async def by_header(request, _conversation_id):
        return Reader(owner=request.headers.get("x-owner"))

    history = History(settings_for(module_database, server))
    app = FastAPI()
    app.include_router(router(history, authorize=by_header, limits=Limits(streams=64)))
    unbounded = httpx.Limits(max_connections=None)
    async with (
        served_beside(app) as url,
        httpx.AsyncClient(base_url=url, timeout=30, limits=unbounded) as http,
        contextlib.AsyncExitStack() as stack,
    ):

        async def status(owner):
            headers = {"x-owner": owner} if owner else {}
            path = f"/v1/conversations/{conversation}/stream"
            stream = http.stream("GET", path, headers=headers)
            return (await stack.enter_async_context(stream)).status_code

        assert [await status("a") for _ in range(17)] == [200] * 16 + [429]
        assert await status("b") == 200
        assert [await status(None) for _ in range(48)] == [200] * 47 + [429]

"""Slow readers of long answers, over real connections: what the process keeps in memory for them."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from api.conftest import make_access, problem
from api.minting import READER, SERVICE_KEY, bearer, mint
from api.serving import served_beside
from api.standin import StandIn
from demo.command_line import Command, settings_on
from localably import LocalAbly
from rehydrate.api import answers
from rehydrate.api.app import create_app
from rehydrate.api.conversations import Limits
from rehydrate.api.telemetry import Metrics
from rehydrate.hydrate.hydrate import PAGE_BYTES
from waiting import PATIENCE_S, until

READERS = 8
MOST_BYTES = 300_000_000
MESSAGES, CHARACTERS, AT_ONCE = 200, 200_000, 10


@asynccontextmanager
async def slow(url, path, token=SERVICE_KEY):
    """Send a GET and yield the stream of the answer, of which the kernel accepts as little as it can."""
    where = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (where.hostname, where.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
    head = f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
    writer.write(head.encode())
    try:
        yield reader
    finally:
        writer.transport.abort()


async def status_of(reader):
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return int(head.split()[1]), head.lower()


def memory_of(pid, line="VmHWM"):
    """Return the resident memory of a process in bytes: VmRSS now, VmHWM at its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{line}:")[2].split()[0]) * 1024


async def fill(http, conversation):
    """Store more text than a page may have, which no compression makes shorter."""
    source = random.Random(1)
    for first in range(0, MESSAGES, AT_ONCE):
        messages = [
            {"id": f"m{n:03}", "role": "assistant", "text": source.randbytes(CHARACTERS // 2).hex()}
            for n in range(first, first + AT_ONCE)
        ]
        path = f"/v1/conversations/{conversation}/messages"
        assert (await http.post(path, json={"messages": messages})).status_code == 201


@asynccontextmanager
async def serving(database):
    async with LocalAbly() as ably, AsyncExitStack() as stack:
        settings = {**settings_on(database, ably), "REHYDRATE_SERVICE_KEYS": SERVICE_KEY}
        command = await stack.enter_async_context(Command("serve", "--port", "0", **settings))
        await command.ready()
        async with httpx.AsyncClient(
            base_url=command.url, headers=bearer(SERVICE_KEY), timeout=PATIENCE_S
        ) as http:
            yield command, http


async def test_slow_readers_of_the_largest_page_take_little_memory(database):
    async with serving(database) as (command, http), AsyncExitStack() as stack:
        await fill(http, "c")
        before = memory_of(command.pid, "VmRSS")
        for path in ("/v1/conversations/c?limit=200", "/v1/conversations/c/stream?limit=200"):
            entered = [stack.enter_async_context(slow(command.url, path)) for _ in range(READERS)]
            readers = await asyncio.gather(*entered)
            heads = await asyncio.gather(*map(status_of, readers))
            assert {status for status, _ in heads} == {200}
        # they are being sent: each has begun, and the rest waits
        metrics = (await http.get("/metrics")).text
        waiting = float(metrics.partition("\nrehydrate_answer_bytes ")[2].split()[0])
        assert waiting > (READERS + 1) * PAGE_BYTES * 0.8
        peak = memory_of(command.pid)
        print(
            f"\n{READERS} slow readers of a page and {READERS} of a stream: {peak / 1e6:.0f} MB at most,"
            f" {before / 1e6:.0f} MB before; {waiting / 1e6:.0f} MB wait to be sent"
        )
        assert peak < MOST_BYTES
        await stack.aclose()

        async def nothing_waits():
            return "\nrehydrate_answer_bytes 0.0" in (await http.get("/metrics")).text

        await until(nothing_waits)


async def test_a_reader_of_an_answer_that_accepts_nothing_is_cut(monkeypatch):
    monkeypatch.setattr(answers, "SEND_TIMEOUT_S", 0.2)
    behind, metrics = StandIn(), Metrics()
    behind.add("c", "m", "x" * PAGE_BYTES)
    app = create_app(behind, make_access(), metrics=metrics)
    async with served_beside(app) as url, slow(url, "/v1/conversations/c") as reader:
        status, _ = await status_of(reader)
        assert status == 200

        async def is_cut():
            return b"\nrehydrate_answer_bytes 0.0" in metrics.text()

        await until(is_cut)
        read, chunk = 0, b"x"
        with suppress(ConnectionResetError):
            while chunk:
                chunk = await reader.read(PAGE_BYTES)
                read += len(chunk)
        assert read < PAGE_BYTES


async def test_answers_beyond_the_bytes_of_a_token_are_refused():
    behind = StandIn()
    behind.add("c", "m", "x" * PAGE_BYTES)
    app = create_app(behind, make_access(), limits=Limits(answer_bytes=100_000_000))
    token = mint(READER)
    async with served_beside(app) as url, AsyncExitStack() as stack:
        path = "/v1/conversations/c"
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
            await stack.enter_async_context(slow(url, path, token))

            async def is_refused():
                answer = await http.get(path, headers=bearer(token))
                if answer.status_code == 429:
                    problem(answer, 429, "too_many")
                    return True
                return False

            await until(is_refused)
            assert (await http.get(path, headers=bearer(SERVICE_KEY))).status_code == 200
            await stack.aclose()
            assert (await http.get(path, headers=bearer(token))).status_code == 200


async def test_pages_that_are_limited_by_bytes_are_whole_together(database):
    async with serving(database) as (_, http):
        await fill(http, "c")
        found, before = [], {}
        while before is not None:
            answer = await http.get("/v1/conversations/c", params={"limit": 200, **before})
            body = answer.json()
            assert len(answer.content) <= PAGE_BYTES + 10_000
            assert body["complete"]
            found = [each["id"] for each in body["messages"]] + found
            before = body["older"] and {"before": body["older"]}
    assert found == [f"m{n:03}" for n in range(MESSAGES)]

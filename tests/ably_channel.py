"""`AblyChannel` connected to a local channel server, with short time limits."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import jwt
from aiohttp import web

from rehydrate.ably.channel_log import AblyChannel
from waiting import PATIENCE_S

FAST = {"request_timeout_s": 20.0, "ack_timeout_s": 30.0, "ping_every_s": 0.2}


@asynccontextmanager
async def opened(server, key=None, **options):
    """Open an `AblyChannel` to *server*; after closing, check that no task of it is left."""
    before = asyncio.all_tasks()
    how = {"endpoint": "127.0.0.1", "port": server.port, "tls": False, **FAST, **options}
    try:
        async with AblyChannel(key or server.key, **how) as log:
            yield log
    finally:
        await ends(before)


async def ends(before, *, within_s=PATIENCE_S):
    """Wait until only tasks of *before* are running (timers of the SDK run for 10 s)."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while left := {task for task in asyncio.all_tasks() - before if _is_ours(task)}:
        assert asyncio.get_running_loop().time() < deadline_s, f"still running: {left}"
        await asyncio.wait(left, timeout=0.05)


async def end_stock_clients():
    """End the tasks of the SDK's clients that earlier tests have left in the session's event loop.

    A client that was not closed, or that a late message revived after it was closed, connects again
    for ever, and `ends` would attribute its attempts to the current test.
    """
    while left := {
        task for task in asyncio.all_tasks() if "/site-packages/ably/" in _file_of(task)
    }:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.05)


def _is_ours(task):
    name = _file_of(task)
    return "/ably/" in name or "/rehydrate/ably/" in name or "/websockets/" in name


def _file_of(task):
    code = getattr(task.get_coro(), "cr_code", None)
    return code.co_filename if code else ""


async def until(condition, *, within_s=PATIENCE_S):
    """Wait until *condition* holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


def signed(key, capability=None, *, seconds=3600, secret=None, **claims):
    """Return an Ably JWT as a reader's backend would sign it."""
    name, _, own = key.partition(":")
    now_s = int(time.time())
    body = {"iat": now_s, "exp": now_s + seconds, **claims}
    if capability is not None:
        body["x-ably-capability"] = json.dumps(capability)
    return jwt.encode(body, secret or own, "HS256", headers={"kid": name})


class Stub:
    """An HTTP server with scripted answers, in place of a broken Ably or proxy."""

    def __init__(self):
        self.requests = []
        self.answers = []
        self.times = 0
        self.key = "stub.key:" + "s" * 32
        self.port = 0

    async def handle(self, request):
        if request.path == "/time":  # requested by every open, at any moment
            self.times += 1  # one minute later each time, so that all tokens differ
            return web.json_response([time.time_ns() // 1_000_000 + 60_000 * self.times])
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        status, kind, body, *headers = answer
        return web.Response(
            status=status, content_type=kind, body=body, headers=headers[0] if headers else None
        )

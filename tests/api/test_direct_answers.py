"""Coroutines stepped by hand, and the servers whose `send` may be stepped."""

from __future__ import annotations

import asyncio
import secrets

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware

from api.serving import served_beside
from api.sse import streamed
from localably import LocalAbly
from rehydrate.api.direct_answers import direct, offer_direct, step
from rehydrate.history import History
from telling import publisher_to, settings_for


class Slow:
    """Wait for *gate* twice, and record what happens."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.seen = []

    async def __call__(self):
        try:
            for name in ("first", "second"):
                self.seen.append(name)
                await self.gate.wait()
                self.gate.clear()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("end")


async def quick():
    pass


async def broken():
    raise OSError("gone")


def test_a_coroutine_that_does_not_suspend_is_finished():
    assert step(quick()) is None


def test_its_exception_is_raised():
    with pytest.raises(OSError, match="gone"):
        step(broken())


async def test_a_suspended_coroutine_can_be_awaited_to_its_end():
    slow = Slow()
    unfinished = step(slow())
    assert slow.seen == ["first"]
    task = asyncio.ensure_future(_awaited(unfinished))
    for _ in range(2):
        slow.gate.set()
        await asyncio.sleep(0.01)
    await task
    assert slow.seen == ["first", "second", "end"]


async def test_its_future_may_be_done_before_it_is_awaited():
    slow = Slow()
    unfinished = step(slow())
    slow.gate.set()
    task = asyncio.ensure_future(_awaited(unfinished))
    await asyncio.sleep(0.01)
    assert slow.seen == ["first", "second"]
    slow.gate.set()
    await task


async def test_a_cancellation_reaches_it():
    slow = Slow()
    task = asyncio.ensure_future(_awaited(step(slow())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.seen == ["first", "cancelled", "end"]


async def test_a_suspended_coroutine_can_be_closed():
    slow = Slow()
    step(slow()).close()
    assert slow.seen == ["first", "end"]


async def _awaited(unfinished):
    await unfinished


def test_only_the_send_of_a_known_server_is_offered():
    scope = {}
    offer_direct(scope, quick)
    assert direct(scope) is None


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")
@pytest.mark.parametrize("own", [True, False], ids=["our own app", "behind a middleware"])
async def test_a_stream_is_the_same_with_and_without_direct_sending(database, own):
    async with LocalAbly() as server:
        history = History(settings_for(database, server, service_keys="k"))
        app = history.app() if own else _foreign(history)
        conversation = f"s-{secrets.token_hex(4)}"
        headers = {"Authorization": "Bearer k"}
        async with (
            served_beside(app) as url,
            httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client,
            publisher_to(server, f"ai:{conversation}") as publisher,
            streamed(client, conversation) as stream,
        ):
            assert (await stream.next()).kind == "snapshot"
            for n in range(1, 20):
                await publisher.say("token", f"{n} ", rid="r", seq=n)
            events = await stream.take(19)
        assert [each.data["text"] for each in events] == [f"{n} " for n in range(1, 20)]


def _foreign(history):
    """A backend whose middleware checks the current task, as anyio does."""

    async def passing(request, call_next):
        return await call_next(request)

    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    app.include_router(history.router(authorize=lambda *_: True))
    return app

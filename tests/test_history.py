"""`History` over a real Postgres and a real channel server."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import rehydrate
from demo.command_line import settings_on
from rehydrate import History, NewMessage, background
from rehydrate.errors import (
    ChannelUnavailable,
    Conflict,
    NotConfigured,
    NotFound,
    StoreUnavailable,
)
from rehydrate.settings import load_settings
from waiting import PATIENCE_S, until

AWAY = "postgres://u:p@127.0.0.1:1/x"


@pytest.fixture
def settings(database, ably):
    return load_settings(**settings_on(database, ably))


@pytest.fixture
async def history(settings):
    async with History(settings) as opened:
        yield opened


async def eventually(ask, error=NotFound):
    """Return the result of *ask* once it no longer raises *error*."""
    for _ in range(200):
        try:
            return await ask()
        except error:
            await asyncio.sleep(0.05)
    return await ask()


def test_the_public_names_are_few_and_exist():
    assert len(rehydrate.__all__) <= 12
    for name in rehydrate.__all__:
        assert getattr(rehydrate, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = rehydrate.nonsense


def test_importing_view_does_not_import_the_server():
    script = (
        "import sys; from rehydrate import View; "
        "print(*({'fastapi', 'sqlalchemy', 'asyncpg', 'ably'} & sys.modules.keys()))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == []


def test_a_missing_or_invalid_setting_is_named(monkeypatch, ably):
    given = settings_on(AWAY, ably)
    for name in ("REHYDRATE_DATABASE_URL", "ABLY_API_KEY"):
        with pytest.raises(NotConfigured, match=name):
            History(load_settings(**(given | {name: ""})))
    with pytest.raises(NotConfigured, match="REHYDRATE_DATABASE_URL"):
        History(load_settings(**(given | {"REHYDRATE_DATABASE_URL": "http://x"})))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert History().settings == load_settings(), "the environment, where nothing is given"


async def test_it_opens_and_closes_while_nothing_answers(ably):
    given = settings_on(AWAY, ably) | {"ABLY_PORT": "1"}
    before = asyncio.all_tasks()
    async with History(load_settings(**given)) as history:
        with pytest.raises(StoreUnavailable):
            await history.hydrate("c")
        with pytest.raises(StoreUnavailable):
            await history.ready()
        with pytest.raises(ChannelUnavailable):
            await history.context.channel.ready()
    assert asyncio.all_tasks() <= before


async def test_published_responses_are_hydrated_streaming_and_finished(history):
    async with history.respond("c", "r-1", prompt_id="p-1", metadata={"model": "m"}) as response:
        response.write("Once ")
        response.write("upon")
    async with history.respond("c", "r-2") as response:
        response.write("a time")
        hydrated = await history.hydrate("c")
        assert [(m["id"], m["status"]) for m in hydrated.messages] == [
            ("r-1", "completed"),
            ("r-2", "in_progress"),
        ]
        assert hydrated.messages[0]["text"] == "Once upon"
        with pytest.raises(Conflict):
            async with history.respond("c", "r-2"):
                pass
    assert b'"a time"' in await history.message("c", "r-2")
    rows, older = await history.conversations()
    assert [(row.id, row.channel) for row in rows] == [("c", "ai:c")]
    assert older is None


async def test_responses_of_other_publishers_are_recorded_after_a_hydrate(history, ably):
    async with History(history.settings) as publisher, publisher.respond("c", "r-1") as response:
        response.write("theirs")
    with pytest.raises(NotFound):
        await history.message("c", "nobody")
    await history.hydrate("c")
    assert b"theirs" in await eventually(lambda: history.message("c", "r-1"))


async def test_a_conversation_keeps_its_channel_when_the_template_changes(history, settings):
    await history.store_messages("c", [NewMessage("p", "user", text="hello")])
    other = settings.model_copy(update={"channel_template": "chat:{conversation_id}:x"})
    async with History(other) as later:
        assert await later.channel_of("c") == "ai:c"
        assert await later.channel_of("new") == "chat:new:x"
        async with later.respond("c", "r") as response:
            response.write("on the old channel")
        assert (await later.hydrate("c")).channel == "ai:c"
    assert b"old channel" in await history.message("c", "r")


async def test_simultaneous_first_writes_to_a_conversation_all_succeed(history):
    async def publish_message(number):
        new = NewMessage(f"m-{number}", "user", text="hello")
        return await history.store_messages("c", [new])

    results = await asyncio.gather(*(publish_message(number) for number in range(10)))
    assert all(len(result.stored) == 1 for result in results)


async def test_ready_names_the_state_of_each_dependency(history, ably):
    assert set((await history.ready()).values()) == {"ok"}
    with ably.faults.on("stall_requests", seconds=30):
        states = await history.ready()
    assert states["store"] == "ok"
    assert states["channel"] != "ok", "which does not stop the service"


async def test_closing_ends_every_task(settings):
    before = asyncio.all_tasks()
    async with History(settings) as history:
        async with history.respond("c", "r") as response:
            response.write("hello")
        await history.hydrate("c")
    assert asyncio.all_tasks() <= before
    with pytest.raises(StoreUnavailable):
        await history.hydrate("c")


async def test_one_that_was_closed_is_opened_again_and_works(settings):
    history = History(settings)
    for number in range(3):
        async with asyncio.timeout(PATIENCE_S), history, history.joined("c") as follower:
            assert len((await anext(follower)).data["messages"]) == number
            async with history.respond("c", f"r{number}") as response:
                response.write("hello")
            while (event := await anext(follower)).kind != "stop":
                pass
            assert event.data["message_id"] == f"r{number}"


def ours(tasks):
    """Return the tasks that run code of the service: clients of earlier tests may start others."""
    source = str(Path(rehydrate.__file__).parent)
    return [task for task in tasks if task.get_coro().cr_code.co_filename.startswith(source)]


async def test_opening_that_is_cancelled_leaves_nothing_open(settings, ably):
    stalled = ably.faults.set("stall_requests", seconds=2)  # Ably's time is awaited
    before = asyncio.all_tasks()
    history = History(settings)
    opening = asyncio.create_task(history.open())
    async with asyncio.timeout(PATIENCE_S):
        while not stalled.fired:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    ably.faults.clear()
    with pytest.raises(StoreUnavailable):
        await history.hydrate("c")
    await until(lambda: not ours(asyncio.all_tasks() - before))


async def test_readiness_and_metrics_report_a_background_task_that_is_late(history, monkeypatch):
    monkeypatch.setattr(background, "LATE_S", 0.2)
    assert (await history.ready())["tasks"] == "ok"

    async def never():
        await asyncio.Event().wait()

    task = history._maintenance._poller.task
    monkeypatch.setattr(task, "_run", never)
    task.wake()
    async with asyncio.timeout(PATIENCE_S):
        while (state := (await history.ready())["tasks"]) == "ok":  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    assert state.startswith("late: poller (")
    shown = history._metrics.text().decode()
    (overdue,) = re.findall(r'task_overdue_seconds{task="poller"} ([0-9.]+)', shown)
    assert float(overdue) > 0.2
    assert 'rehydrate_task_overdue_seconds{task="replays"}' in shown
    assert 'rehydrate_task_restarts_total{task="poller"} 0.0' in shown


async def test_the_service_refuses_webhooks_and_erasures_without_credentials(history):
    app = history.app()
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        unsigned = await client.post("/v1/ably/events", json={"items": []})
        stranger = await client.delete("/v1/conversations/c")
    assert (unsigned.status_code, stranger.status_code) == (401, 401)


async def test_a_history_that_is_used_in_another_event_loop_says_so(history):
    """Its connections belong to the loop that opened it."""

    async def follow():
        async for _ in history.follow("c"):
            return

    calls = (
        lambda: history.hydrate("c"),
        lambda: history.message("c", "m"),
        history.conversations,
        follow,
        lambda: history.prompt("c", "?"),
        lambda: history.cancel("c", "r"),
        lambda: history.catch_up("c"),
        lambda: history.store_messages("c", [NewMessage("m", "user", text="x")]),
        lambda: history.replay("c", "r"),
        lambda: history.erase("c"),
        lambda: history.verify("c"),
        history.ready,
        history.open,
        history.close,
        lambda: history.app().router.lifespan_context(FastAPI()).__aenter__(),
    )

    def elsewhere():
        for call in calls:
            with pytest.raises(RuntimeError, match="opened in another event loop, that still runs"):
                asyncio.run(call())

    await asyncio.to_thread(elsewhere)
    assert (await history.hydrate("c")).messages == []

"""The wall clock of the database is set: publishers that live go on, and dead ones are ended."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from participants import history_over
from rehydrate.publish import respond as responding
from setting_clock import settable
from waiting import until

LEASE_S = 2.0
HOUR_S = 3600


@pytest.fixture
async def set_by(database):
    async with settable(database) as made:
        yield made


async def statuses(history, conversation):
    return {m["id"]: m["status"] for m in (await history.hydrate(conversation)).messages}


async def test_set_forward_it_ends_no_publisher_that_is_thinking(database, server, set_by):
    async with (
        history_over(database, server, lease_s=LEASE_S) as history,
        history_over(database, server, lease_s=LEASE_S),  # sweeps as well
        AsyncExitStack() as thinking,
    ):
        for number in range(6):
            response = await thinking.enter_async_context(history.respond("c", f"r{number}"))
            response.write("hm ")
        await asyncio.sleep(1.5 * LEASE_S)  # the sweepers have seen the clock run evenly
        await set_by(60)
        await asyncio.sleep(3 * LEASE_S)
        assert set((await statuses(history, "c")).values()) == {"in_progress"}
    async with history_over(database, server) as history:
        assert set((await statuses(history, "c")).values()) == {"completed"}


async def test_set_back_it_keeps_no_dead_publisher_open(database, server, set_by, monkeypatch):
    async def no_end(_writer, _checkpoints, saving):
        await saving.close()

    monkeypatch.setattr(responding, "_end", no_end)
    async with history_over(database, server, lease_s=LEASE_S) as history:
        async with history.respond("c", "r") as response:
            response.write("half")
            await set_by(-HOUR_S)

        async def ended():
            return (await statuses(history, "c"))["r"] == "interrupted"

        await until(ended)

"""Postgres hangs for 26 s: afterwards everything under way continues, and nothing has ended."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import pytest

from conftest import database_url
from participants import completed, history_over, publisher_to, reading
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.errors import StoreUnavailable
from rehydrate.postgres.migrations import migrate
from stalling import standing_still
from waiting import until

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
    pytest.mark.timeout(240),
]

STALL_S = 26.0
"""Longer than every time limit of a statement together: 15 s, and 5 s to give a connection back."""

SETTINGS = {"lease_s": 1.0, "idle_limit_ms": 1000, "retention_ms": 2000}


@pytest.fixture
def server_of_its_own():
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, EmbeddedPostgres(Path(folder)) as pg:
        yield pg


def tasks_of(history):
    return [*history._maintenance.tasks, history._replay_worker.task, history._channel.clock.task]


async def errors_while(stalled, work):
    """Repeat *work* until *stalled* is over; return what it raised."""
    found = []
    while not stalled.is_set():
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - what it is, is the point
            found.append(error)
        await asyncio.sleep(0.2)
    return found


async def test_after_a_stall_every_task_works_and_every_reader_goes_on(server_of_its_own, ably):
    url = database_url(server_of_its_own.url, "postgres")
    await migrate(url)
    over = asyncio.Event()
    async with (
        history_over(url, ably, **SETTINGS) as history,
        publisher_to(ably, "ai:c") as publisher,
        reading(history, "c") as before,
    ):
        await publisher.stream("r1", "before ", stop=False)
        await before.until(lambda reader: reader.texts.get("r1") == "before ")
        restarts = [task.restarts for task in tasks_of(history)]
        async with asyncio.TaskGroup() as group, history.respond("c", "r2") as response:
            response.write("one ")

            async def read_it_again():
                history._subscriptions.changed("c")
                await history.hydrate("c")

            async def write():
                async with history._store.locked("c", "ai:c"):
                    pass

            async def swept():
                await history._store.due(limit=1)

            working = [
                group.create_task(errors_while(over, work))
                for work in (read_it_again, write, swept) * 6
            ]
            with standing_still(server_of_its_own.pid):
                await asyncio.sleep(STALL_S)
                response.write("two ")
            stalled_until_s = asyncio.get_running_loop().time()
            over.set()
            errors = [error for task in working for error in await task]
            response.write("three")
        assert errors  # it was noticed
        assert {type(error) for error in errors if not isinstance(error, StoreUnavailable)} == set()
        await publisher.stream("r1", "after", first=8, start=False)
        shown = await before.until(completed("r1", "r2"))
        assert shown.texts == {"r1": "before after", "r2": "one two three"}
        assert shown.wrong == []
        async with reading(history, "c") as late:
            await late.until(completed("r1", "r2"))
        for task in tasks_of(history):
            task.wake()
        await until(lambda: all(task.last_ok_s > stalled_until_s for task in tasks_of(history)))
        assert [task.restarts for task in tasks_of(history)] == restarts

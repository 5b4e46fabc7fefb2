"""The rows of `docs/failures.md`: each test injects one fault and asserts what everyone sees."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from chaos import faults
from chaos.world import KEY, LEASE_S
from failures.watching import watching
from participants import publisher_to
from stalling import standing_still
from waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]

OUTAGE_S = 5.0
STORE_DOWN = "503 `store_unavailable`"
CHANNEL_DOWN = "200, a fault of `channel`"
BOTH = {"before": "completed", "meanwhile": "completed"}
INCOMPLETE = "200 with `history_unavailable`"
CHANNEL_AND_TASKS = "200, a fault of `channel, tasks`"


@pytest.fixture
def watched(world, row):
    """Return a context manager: the conversation of this row, watched until all is right again."""

    @asynccontextmanager
    async def block():
        world.conversation_id = row.number
        try:
            async with watching(world, row.number) as watch:
                yield watch
        finally:
            await faults.end_all(world)

    return block


async def during(watch, world, name):
    """Inject a fault of `make chaos` while a response begins; assert that it fired."""
    injected = asyncio.create_task(faults.inject(world, name, faults.Shortest()))
    await asyncio.sleep(0.3)
    await watch.respond("meanwhile")
    assert await injected


def service_of(watch, world):
    """Return the service from which the stream comes."""
    return world.services[world.urls.index(watch.follower.url)]


async def test_f01_postgres_is_down(world, watched, row):
    """Postgres is down for 5 s."""
    async with watched() as watch:
        await asyncio.to_thread(world.postgres.stop)
        await watch.respond("meanwhile")
        await asyncio.sleep(OUTAGE_S)
        assert STORE_DOWN in watch.ready
        await asyncio.to_thread(world.postgres.start)
    row.shows(
        watch,
        reader=[STORE_DOWN],
        publisher={"before": "completed", "meanwhile": "StoreUnavailable"},
        log="background task sweeper failed, will retry: ConnectionLost",
        metric='rehydrate_task_overdue_seconds{task="sweeper"}',
        ready=[STORE_DOWN],
    )


async def test_f02_postgres_stands_still(world, watched, row):
    """Postgres stands still for 26 s: its connections are open, and nothing answers."""
    async with watched() as watch:
        with standing_still(world.postgres.pid) as stopped:
            await watch.respond("meanwhile")
            await asyncio.sleep(26)
        assert stopped
    row.shows(
        watch,
        reader=[STORE_DOWN],
        publisher={"before": "completed", "meanwhile": "StoreUnavailable"},
        log="background task sweeper failed, will retry: StoreUnavailable",
        metric='rehydrate_task_overdue_seconds{task="sweeper"}',
        ready=[STORE_DOWN],
    )


async def test_f03_postgres_fails_over(world, watched, row):
    """Postgres fails over to a read-only server, which becomes writable after 5 s."""
    async with watched() as watch:
        injected = asyncio.create_task(
            faults.inject(world, "postgres_fails_over", faults.Shortest())
        )
        await until(lambda: STORE_DOWN in watch.ready)
        await watch.respond("meanwhile")
        assert await injected
    row.shows(
        watch,
        publisher={"before": "completed", "meanwhile": "StoreUnavailable"},
        metric='rehydrate_http_requests_total{method="GET",route="/readyz",status="503"}',
        ready=[STORE_DOWN],
        reader_maybe=[STORE_DOWN],
    )


async def test_f04_the_channel_server_is_down(world, watched, row):
    """The channel server is down for 5 s; at Ably this is an outage."""
    async with watched() as watch:
        assert await world.channels.kill()
        await watch.respond("meanwhile")
        await asyncio.sleep(OUTAGE_S)
        await world.channels.start()
    row.shows(
        watch,
        reader=[INCOMPLETE],
        publisher=BOTH,
        log="connection to Ably lost: ConnectionClosedError",
        metric='rehydrate_hydrate_reasons_total{code="history_unavailable"}',
        ready=[CHANNEL_DOWN],
        ready_maybe=[CHANNEL_AND_TASKS],
    )


async def test_f05_the_channel_server_stands_still(world, watched, row):
    """The channel server stands still for 12 s, while 300 readers join and give up."""
    async with watched() as watch:
        await during(watch, world, "channels_stall")
    row.shows(
        watch,
        reader=[INCOMPLETE],
        publisher=BOTH,
        log="connection to Ably is dead: TimeoutError",
        metric='rehydrate_hydrate_reasons_total{code="history_unavailable"}',
        ready=[CHANNEL_DOWN],
        reader_maybe=["429 `too_many`"],
        ready_maybe=[CHANNEL_AND_TASKS],
    )


async def test_f06_every_connection_is_cut(world, watched, row):
    """Every connection to the channel server is cut."""
    async with watched() as watch:
        await during(watch, world, "connections_are_cut")
    row.shows(
        watch,
        publisher=BOTH,
        log="connection to Ably lost: …",
        reader_maybe=[INCOMPLETE],
        ready_maybe=[CHANNEL_DOWN],
    )


async def test_f07_connections_are_half_open(world, watched, row):
    """Connections to the channel server pass nothing on, and neither side learns of it."""
    async with watched() as watch:
        await during(watch, world, "connections_are_half_open")
    row.shows(
        watch,
        publisher=BOTH,
        reader_maybe=[INCOMPLETE],
        ready_maybe=[CHANNEL_DOWN],
    )


async def test_f08_publishes_are_refused(world, watched, row):
    """Ably refuses some publishes, because a rate is exceeded (42911)."""
    async with watched() as watch:
        await during(watch, world, "publishes_are_refused")
    row.shows(watch, publisher=BOTH, reader_maybe=["200 with `not_exact`"])


async def test_f09_acknowledgements_are_lost(world, watched, row):
    """Messages are published, but their acknowledgements are lost."""
    async with watched() as watch:
        await during(watch, world, "acknowledgements_are_lost")
    row.shows(watch, publisher=BOTH)


async def test_f10_deliveries_are_dropped(world, watched, row):
    """Ably drops deliveries and reports it (80020)."""
    async with watched() as watch:
        assert await faults.switched(world, "drop_deliveries", 1, share=0.3)
        await watch.respond("meanwhile")
    row.shows(
        watch,
        publisher=BOTH,
    )


async def test_f11_history_fails(world, watched, row):
    """Ably answers requests for history with 503."""
    async with watched() as watch:
        await watch.respond("meanwhile")
        assert await faults.switched(world, "fail_history", 3, status=503)
    row.shows(
        watch,
        publisher=BOTH,
        log="a conversation could not be recorded, will retry: ChannelUnavailable…",
        reader_maybe=[INCOMPLETE],
    )


async def test_f12_a_publisher_is_killed(world, watched, row):
    """A publisher is killed; its lease expires."""
    async with watched() as watch:
        assert await world.publishers[0].kill()
        watch.forget("before")
        world.publishers[0].start_again()
    row.shows(watch, publisher={})


async def test_f13_a_publisher_is_suspended(world, watched, row):
    """A publisher is suspended until its lease has expired, and then goes on."""
    async with watched() as watch:
        world.publishers[0].pause()
        await asyncio.sleep(2 * LEASE_S)
        assert world.publishers[0].is_paused
        world.publishers[0].resume()
    row.shows(watch, publisher={"before": "Fenced"})


async def test_f14_a_service_is_killed(world, watched, row):
    """One of two services is killed, and started again."""
    async with watched() as watch:
        service = service_of(watch, world)
        assert await service.kill()
        await watch.respond("meanwhile")
        service.start_again()
    row.shows(
        watch,
        reader=["no connection"],
        publisher=BOTH,
        ready=["no connection"],
        reader_maybe=[INCOMPLETE],
        ready_maybe=[CHANNEL_DOWN],
    )


async def test_f15_a_service_is_stopped(world, watched, row):
    """One of two services is stopped by SIGTERM, and started again."""
    async with watched() as watch:
        service = service_of(watch, world)
        assert await service.end()
        await watch.respond("meanwhile")
        service.start_again()
    row.shows(
        watch,
        reader=["no connection"],
        publisher=BOTH,
        ready=["no connection"],
        reader_maybe=[INCOMPLETE],
        ready_maybe=[CHANNEL_DOWN],
    )


async def test_f16_background_tasks_are_cancelled(world, watched, row):
    """Every background task is cancelled, as no code of the service does."""
    async with watched() as watch:
        await during(watch, world, "background_tasks_are_killed")
    row.shows(
        watch,
        publisher=BOTH,
        log="background task sweeper ended and is restarted: cancelled",
        metric='rehydrate_task_restarts_total{task="sweeper"}',
        reader_maybe=[INCOMPLETE],
        ready_maybe=[CHANNEL_DOWN],
    )


async def test_f17_history_expires_before_it_is_read(world, watched, row):
    """A foreign publisher's tokens expire on the channel before any process has read them."""
    channel = world.template.format(conversation_id=row.number)
    async with (
        watched() as watch,
        publisher_to(SimpleNamespace(key=KEY, port=world.channel_port), channel) as foreign,
    ):
        watch.foreign.add("foreign")
        for each in world.own_processes:
            each.pause()
        assert (await world.control("POST", "cut", {}))["cut"]
        await foreign.stream("foreign", "lost ", stop=False)
        assert (await world.control("POST", "expire", {"channel": channel}))["expired"]
        for each in world.own_processes:
            each.resume()
        await foreign.stream("foreign", "kept", first=6, start=False)
    row.shows(
        watch,
        reader=["200 with `not_exact`"],
        publisher={"before": "completed"},
    )

"""The faults of a world. Each returns when it is over and what it broke runs again.

The result is the number of its effects. One that needs traffic lasts until its first effect, at most
`FIRES_WITHIN_S`; a fault without any is a finding of the round.
"""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import suppress

import asyncpg
import httpx

from chaos.world import LEASE_S
from fault_checks import until_fired
from stalling import standing_still

_CLOCK_S = 600.0
_STALL_S = 26.0

_JOINERS = 150
"""Readers that join each service during a stall of the channel server: more than its HTTP connections."""

_JOINERS_WAIT_S = 3.0
_CHANNEL_STALL_S = (12.0, 16.0)
"""Longer than the time limit of a request to the channel server, 10 s."""


async def publisher_dies(world, chance):
    """kill -9 in the middle of responses; the other publisher lives."""
    publisher = chance.choice(world.publishers)
    world.deaths[publisher.name] += 1
    killed = await publisher.kill()
    publisher.start_again()
    return killed


async def publisher_sleeps(world, chance):
    """Suspend a publisher until its lease has expired; it then continues, unaware of that."""
    publisher = chance.choice(world.publishers)
    world.deaths[publisher.name] += 1
    await publisher.is_back()
    publisher.pause()
    await asyncio.sleep(LEASE_S * chance.uniform(1.0, 1.8))
    publisher.resume()
    return 1


async def sweepers_die(world, chance):
    """kill -9 of services that may be ending the responses of a dead publisher."""
    killed = [await publisher_dies(world, chance)]
    await asyncio.sleep(LEASE_S + chance.uniform(0.5, 4))
    victims = chance.sample(world.services, k=chance.randint(1, len(world.services)))
    for service in victims:
        killed.append(await service.kill())
        service.start_again()
    if len(victims) == len(world.services):
        await victims[0].is_back()  # until then, readers of the service receive nothing
    return min(killed)


async def service_dies(world, chance):
    """kill -9 of one of two services."""
    service = chance.choice(world.services)
    killed = await service.kill()
    service.start_again()
    return killed


async def every_service_dies(world, chance):
    """kill -9 of both services; the publishers, which also record and sweep, remain."""
    killed = await asyncio.gather(*(each.kill() for each in world.services))
    await asyncio.sleep(chance.uniform(0, 2))
    await asyncio.gather(
        *(each.start() for each in world.services)
    )  # the fault is over when they answer
    return min(killed)


async def service_ends(world, chance):
    """A clean stop of one of two services, by SIGTERM, as a deployment does."""
    service = chance.choice(world.services)
    ended = await service.end()
    service.start_again()
    return ended


async def postgres_stops(world, chance):
    """An immediate stop, and recovery."""
    return await world.stop_postgres(signal.SIGQUIT)


async def postgres_ends(world, chance):
    """A clean stop, by SIGINT: every session is ended, and nothing has to be recovered."""
    return await world.stop_postgres(signal.SIGINT)


async def postgres_fails_over(world, chance):
    """The primary is lost, a read-only server answers in its place, and becomes writable later.

    Sessions that were opened in between remain read-only, as those of a demoted primary do. The
    effects are these sessions.
    """
    async with world.database() as admin:
        await admin.execute("SET default_transaction_read_only = off")
        name = await admin.fetchval("SELECT current_database()")

        async def sessions():
            return await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = $1 AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
                name,
            )

        await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        try:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = $1 AND pid <> pg_backend_pid()",
                name,
            )
            await asyncio.sleep(chance.uniform(5, 9))
            return await until_fired(sessions)
        finally:
            await admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')


async def postgres_stalls(world, chance):
    """Suspend all of its processes for longer than a statement and its connection may take."""
    with standing_still(world.postgres.pid) as stopped:
        await asyncio.sleep(_STALL_S)
    return len(stopped)


async def background_tasks_are_killed(world, chance):
    """Cancel every background task of every process, from outside; all are started again."""
    for each in (*world.services, *world.publishers):
        await each.is_back()
    before = world.killed_tasks()

    async def killed():
        return world.killed_tasks() - before

    world.kill_tasks()
    return await until_fired(killed)


async def disk_is_full(world, chance):
    """The database's disk is full: it refuses writes, or crashes."""
    refusals = world.refusals.total()
    world.disk.fill()
    try:
        await _use_up(world)
        await asyncio.sleep(chance.uniform(1, 4))
    finally:
        world.disk.free()
        await world.start_postgres()
    return world.refusals.total() - refusals


async def _use_up(world):
    """Write to the database until it reports a full disk (53100), or is gone."""
    assert world.disk.is_full
    try:
        connection = await asyncpg.connect(world.postgres.url, timeout=5)
        try:
            await connection.execute("CREATE TABLE IF NOT EXISTS ballast (body text)")
            for _ in range(100):
                await connection.execute(
                    "INSERT INTO ballast SELECT repeat(md5(n::text), 200) FROM generate_series(1, 500) n"
                )
        finally:
            await connection.close(timeout=2)
    except asyncpg.DiskFullError:
        world.refusals["disk full"] += 1
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        world.refusals["disk full, server gone"] += 1


async def channels_restart(world, chance):
    """kill -9 of the channel server: persisted channels are kept, others are lost."""
    return await world.restart_channels()


async def channels_pause(world, chance):
    """SIGSTOP of the channel server: every connection stays open, and silent."""
    return await _paused(world.channels, chance.uniform(1, 6))


async def channels_stall(world, chance):
    """The same for longer than a request may take, while many readers join and give up."""
    async with asyncio.TaskGroup() as group:
        stalled = group.create_task(_paused(world.channels, chance.uniform(*_CHANNEL_STALL_S)))
        await asyncio.sleep(0.2)
        for url in world.urls:
            group.create_task(_join(world, url, chance))
    return stalled.result()


async def _paused(process, seconds):
    """Suspend *process* for *seconds*; return 1 if it was."""
    process.pause()
    await asyncio.sleep(seconds)
    paused = process.is_paused
    process.resume()
    return int(paused)


async def _join(world, url, chance):
    """Have many readers join the service at *url* at the same time, and give up."""
    address = f"{url}/v1/conversations/{world.conversation_id}"
    limits = httpx.Limits(max_connections=None)
    headers = world.client.headers
    async with httpx.AsyncClient(headers=headers, limits=limits) as client:

        async def join():
            with suppress(httpx.HTTPError):
                await client.get(address, timeout=chance.uniform(0.2, _JOINERS_WAIT_S))

        await asyncio.gather(*(join() for _ in range(_JOINERS)))


async def connections_are_cut(world, chance):
    """Every connection is lost, all at the same time."""

    async def connections():
        return (await world.control("POST", "cut", {}))["cut"]

    return await until_fired(connections)


async def connections_are_half_open(world, chance):
    """Most connections pass nothing on any more; neither side learns of it."""
    world.half_open = True

    async def connections():
        return world.proxy.make_half_open(chance, 0.7)

    return await until_fired(connections)


async def switched(world, name, lasts_s, **parameters):
    """Keep a fault of the channel server on for *lasts_s*, and until it fires; return how often."""

    async def fired():
        return (await world.control("GET", "faults"))[name]["fired"]

    await world.control("PUT", f"faults/{name}", parameters)
    try:
        await asyncio.sleep(lasts_s)
        return await until_fired(fired)
    finally:
        await world.control("DELETE", f"faults/{name}")


async def publishes_are_refused(world, chance):
    """Ably's limits refuse publishes, for a second."""
    return await switched(world, "refuse_publish", 1, share=0.3, count=8)


async def acknowledgements_are_lost(world, chance):
    """Messages are published, but the publisher does not learn of it."""
    return await switched(world, "lose_acks", 1, share=0.3, count=5)


async def history_lags(world, chance):
    """History lacks the newest messages, as REST may, while readers load the conversation."""
    lasts_s = chance.uniform(1, 4)
    async with asyncio.TaskGroup() as group:
        lagging = group.create_task(switched(world, "delay_history", lasts_s, ms=1500))
        while not lagging.done():
            await world.hydrated(world.conversation_id)
            await asyncio.sleep(0.2)
    return lagging.result()


async def clocks_are_set(world, chance):
    """Wall clocks become wrong by minutes, and stay so: all by the same, or each by its own amount."""
    ahead_s = chance.uniform(-_CLOCK_S, _CLOCK_S)
    together = chance.random() < 0.5
    moved = 0
    for each in world.own_processes:
        moved_s = world.clocks.set(
            each.name, ahead_s if together else chance.uniform(-_CLOCK_S, _CLOCK_S)
        )
        world.set_back |= each is world.readers and moved_s < 0
        moved += moved_s != 0
    return moved


FAULTS = {
    each.__name__: each
    for each in (
        publisher_dies,
        publisher_sleeps,
        sweepers_die,
        service_dies,
        every_service_dies,
        service_ends,
        postgres_stops,
        postgres_ends,
        postgres_fails_over,
        postgres_stalls,
        background_tasks_are_killed,
        disk_is_full,
        channels_restart,
        channels_pause,
        channels_stall,
        connections_are_cut,
        connections_are_half_open,
        publishes_are_refused,
        acknowledgements_are_lost,
        history_lags,
        clocks_are_set,
    )
}

_WEIGHTS = {
    "publisher_dies": 4,
    "publisher_sleeps": 0.5,
    "sweepers_die": 0.7,
    "postgres_stalls": 0.3,
}
"""The faults that occur more, or less, often than the others."""


def draw(world, chance):
    """Draw one to three faults that are possible in *world*."""
    names = [name for name in FAULTS if name not in world.skipped]
    weights = [_WEIGHTS.get(name, 1) for name in names]
    return chance.choices(names, weights, k=chance.choice([1, 1, 2, 2, 3]))


class Shortest(random.Random):
    """Chance for faults that last for the shortest time."""

    def uniform(self, a, b):
        """Return the smaller bound."""
        return min(a, b)


async def inject(world, name, chance):
    """Inject a fault, and wait for its end; return the number of its effects, None if not possible."""
    return None if name in world.skipped else await FAULTS[name](world, chance)


async def end_all(world):
    """Switch off every fault, and wait until every process runs."""
    world.disk.free()
    with suppress(Exception):
        await world.control("DELETE", "faults")
    for each in world.own_processes:
        await each.is_back()

"""What is done to a world: each fault returns when it is over, and what it broke runs again."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg

from chaos.world import LEASE_S

_CLOCK_S = 600.0


async def publisher_dies(world, chance):
    """kill -9 in the middle of responses; the other publisher lives."""
    publisher = chance.choice(world.publishers)
    world.dead.add(publisher.name)
    await publisher.kill()
    publisher.start_again()


async def publisher_sleeps(world, chance):
    """It wakes up when its lease has run out, and goes on as if nothing had been."""
    publisher = chance.choice(world.publishers)
    world.dead.add(publisher.name)
    await publisher.is_back()
    publisher.pause()
    await asyncio.sleep(LEASE_S * chance.uniform(1.0, 1.8))
    publisher.resume()


async def sweepers_die(world, chance):
    """kill -9 of those who may be just ending what a publisher left behind."""
    await publisher_dies(world, chance)
    await asyncio.sleep(LEASE_S + chance.uniform(0.5, 4))
    victims = chance.sample(world.services, k=chance.randint(1, len(world.services)))
    for service in victims:
        await service.kill()
        service.start_again()
    if len(victims) == len(world.services):
        await victims[0].is_back()  # readers of the service can see nothing before


async def service_dies(world, chance):
    """kill -9 of one of two services."""
    service = chance.choice(world.services)
    await service.kill()
    service.start_again()


async def every_service_dies(world, chance):
    """kill -9 of all; what is left are the publishers, which record and sweep as well."""
    await asyncio.gather(*(each.kill() for each in world.services))
    await asyncio.sleep(chance.uniform(0, 2))
    await asyncio.gather(*(each.start() for each in world.services))  # over when they answer


async def postgres_stops(world, chance):
    """An immediate stop, and recovery."""
    await world.stop_postgres()


async def disk_is_full(world, chance):
    """No room for the database: it refuses what grows, or falls over."""
    world.disk.fill()
    try:
        await _use_up(world)
        await asyncio.sleep(chance.uniform(1, 4))
    finally:
        world.disk.free()
        await world.start_postgres()


async def _use_up(world):
    """Write to the database until it says that the disk is full (53100), or is gone."""
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
    await world.restart_channels()


async def channels_pause(world, chance):
    """SIGSTOP: every connection to it is there, and silent."""
    world.channels.pause()
    await asyncio.sleep(chance.uniform(1, 6))
    world.channels.resume()


async def connections_are_cut(world, chance):
    """All at once."""
    await world.control("POST", "cut", {})


async def connections_are_half_open(world, chance):
    """Most of them lead nowhere from now on, and nobody is told."""
    world.proxy.swallow(chance, 0.7)
    world.half_open = True


async def publishes_are_refused(world, chance):
    """By Ably's limits, for a while."""
    await world.control("PUT", "faults/refuse_publish", {"share": 0.3, "count": 8})
    await asyncio.sleep(1)
    await world.control("DELETE", "faults/refuse_publish")


async def acknowledgements_are_lost(world, chance):
    """What is published may or may not be there, as far as the publisher knows."""
    await world.control("PUT", "faults/lose_acks", {"share": 0.3, "count": 5})
    await asyncio.sleep(1)
    await world.control("DELETE", "faults/lose_acks")


async def history_lags(world, chance):
    """It shows what is older than a while, as REST may."""
    await world.control("PUT", "faults/delay_history", {"ms": 1500})
    await asyncio.sleep(chance.uniform(1, 4))
    await world.control("DELETE", "faults/delay_history")


async def clocks_are_set(world, chance):
    """Wall clocks go wrong by minutes, and stay wrong: of one machine, or each by its own."""
    ahead_s = chance.uniform(-_CLOCK_S, _CLOCK_S)
    together = chance.random() < 0.5
    for each in world.everybody:
        moved_s = world.clocks.set(
            each.name, ahead_s if together else chance.uniform(-_CLOCK_S, _CLOCK_S)
        )
        world.set_back |= each is world.readers and moved_s < 0


FAULTS = {
    each.__name__: each
    for each in (
        publisher_dies,
        publisher_sleeps,
        sweepers_die,
        service_dies,
        every_service_dies,
        postgres_stops,
        disk_is_full,
        channels_restart,
        channels_pause,
        connections_are_cut,
        connections_are_half_open,
        publishes_are_refused,
        acknowledgements_are_lost,
        history_lags,
        clocks_are_set,
    )
}

_WEIGHTS = {"publisher_dies": 4, "publisher_sleeps": 0.5, "sweepers_die": 0.7}
"""What is to happen more, or less, often than the rest."""


def some(world, chance):
    """One to three faults that can be made in *world*."""
    names = [name for name in FAULTS if name not in world.skipped]
    weights = [_WEIGHTS.get(name, 1) for name in names]
    return chance.choices(names, weights, k=chance.choice([1, 1, 2, 2, 3]))


async def make(world, name, chance):
    """Make one fault; it is over when this returns."""
    if name not in world.skipped:
        await FAULTS[name](world, chance)


async def mend(world):
    """See to it that none is left on."""
    world.disk.free()
    with suppress(Exception):
        await world.control("DELETE", "faults")
    for each in world.everybody:
        await each.is_back()

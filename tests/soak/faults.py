"""Faults of a soak: switches of the channel server, and processes that are killed or restarted.

A fault returns the number of its effects, or None if there was nothing that it could affect. One that
has had no effect when its time is over lasts until its first, at most `FIRES_WITHIN_S` longer; the soak
reports a fault that returns 0.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager

from fault_checks import until_fired


@asynccontextmanager
async def switched(world, *names, **parameters):
    """Keep faults of the channel server on for the block.

    Yields a function that returns the effects so far of the fault with the fewest.
    """

    async def fired():
        listing = await world.control("GET", "faults")
        return min(listing[name]["fired"] for name in names)

    try:
        for name in names:
            await world.control("PUT", f"faults/{name}", parameters)
        yield fired
    finally:
        for name in names:
            await world.control("DELETE", f"faults/{name}")


def switch(*names, **parameters):
    """Return a fault that lasts; a parameter may be a function of the fault's draw."""

    async def act(world, fault):
        drawn = {k: v(fault.draw) if callable(v) else v for k, v in parameters.items()}
        async with switched(world, *names, **drawn) as fired:
            await asyncio.sleep(fault.lasts_s)
            return await until_fired(fired)

    return act


@contextmanager
def reads_up_to_attach_points(history):
    """Collect the channels whose history followers of *history* read up to their attach point."""
    channel, found = history._channel, []
    plain = channel.history

    async def first_noted(name, pages):
        async for page in pages:
            found.append(name)
            yield page

    def history_of(name, **how):
        pages = plain(name, **how)
        return pages if how.get("until") is None else first_noted(name, pages)

    channel.history = history_of
    try:
        yield found
    finally:
        channel.history = plain


async def refuse_attach_points(world, fault):
    """History up to an attach point is refused, until a follower of ours has met that."""
    code = 90008 if fault.draw < 0.5 else 40024
    with reads_up_to_attach_points(world.watcher) as read:
        async with switched(world, "refuse_until_attach", code=code) as fired:
            await asyncio.sleep(fault.lasts_s)

            async def both():
                return min(len(read), await fired())

            return await until_fired(both)


async def cut(world, fault):
    """Every connection is lost, and can be resumed."""

    async def connections():
        return (await world.control("POST", "cut", {}))["cut"]

    return await until_fired(connections)


async def cut_permanently(world, fault):
    """Every connection is lost; neither it nor its channels can be resumed."""
    async with switched(world, "refuse_resume", "refuse_continuity") as fired:

        async def refused():
            await world.control("POST", "cut", {})
            await asyncio.sleep(fault.lasts_s)
            return await fired()

        return await until_fired(refused)


async def expire(world, fault):
    """Channels whose conversations can be read elsewhere as well lose their history."""

    async def expired():
        answers = [
            await world.control("POST", "expire", {"channel": channel})
            for channel in list(world.forgetful)
        ]
        return sum(answer["expired"] for answer in answers)

    if not world.forgetful:
        return None
    return await until_fired(expired)


async def channels_forget(world, fault):
    """The channel server loses what a new process would not have."""
    await world.control("POST", "restart", {})
    return 1


async def channels_die(world, fault):
    """kill -9 of the channel server."""
    return await world.channels.kill_and_start()


async def service_dies(world, fault):
    """kill -9 of one of the two services."""
    return await world.services[fault.draw < 0.5].kill_and_start()


async def service_restarts(world, fault):
    """SIGTERM of one of the two services, as a deployment does it."""
    return await world.services[fault.draw < 0.5].restart()


async def postgres_dies(world, fault):
    """An immediate stop of Postgres."""
    return await world.stop_postgres()


FAULTS = {
    "publishes are refused": switch("refuse_publish", share=0.3, code=42911),
    "acknowledgements are lost": switch("lose_acks", share=0.3),
    "deliveries are dropped": switch("drop_deliveries", share=0.1),
    "history lags": switch("delay_history", ms=lambda draw: round(300 + 1200 * draw)),
    "history fails": switch("fail_history", status=503),
    "requests stall": switch("stall_requests", seconds=1, share=0.3),
    "attach points are refused": refuse_attach_points,
    "attaching is refused": switch("refuse_attach", code=50000, share=0.5),
    "limits are enforced": switch("enforce_limits"),
    "connections are half open": switch("freeze"),
    "connections are cut": cut,
    "connections are cut permanently": cut_permanently,
    "history expires": expire,
    "the channel server forgets": channels_forget,
    "the channel server dies": channels_die,
    "a service dies": service_dies,
    "a service restarts": service_restarts,
    "Postgres dies": postgres_dies,
}

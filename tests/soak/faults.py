"""What befalls a soak: the channel server's switches, and processes that start anew."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager


@asynccontextmanager
async def switched(world, *names, **parameters):
    """Switch faults of the channel server on, for as long as the block runs."""
    try:
        for name in names:
            await world.control("PUT", f"faults/{name}", parameters)
        yield
    finally:
        for name in names:
            await world.control("DELETE", f"faults/{name}")


def switch(*names, **parameters):
    """A fault that lasts; values that are callables are asked with its draw."""

    async def act(world, fault):
        drawn = {k: v(fault.draw) if callable(v) else v for k, v in parameters.items()}
        async with switched(world, *names, **drawn):
            await asyncio.sleep(fault.lasts_s)

    return act


async def cut(world, fault):
    await world.control("POST", "cut", {})


async def cut_for_good(world, fault):
    """Connections are lost, and neither they nor their channels can be resumed."""
    async with switched(world, "refuse_resume", "refuse_continuity"):
        await world.control("POST", "cut", {})
        await asyncio.sleep(fault.lasts_s)


async def expire(world, fault):
    """The channels that may forget, forget: not what is kept elsewhere as well."""
    for channel in world.forgetful:
        await world.control("POST", "expire", {"channel": channel})


async def channels_forget(world, fault):
    """The channel server keeps its process, and nothing else that a new one would not have."""
    await world.control("POST", "restart", {})


async def channels_die(world, fault):
    await world.channels.again()


async def service_dies(world, fault):
    await world.services[fault.draw < 0.5].again()


async def service_restarts(world, fault):
    await world.services[fault.draw < 0.5].restart()


async def postgres_dies(world, fault):
    await world.stop_postgres()


FAULTS = {
    "publishes are refused": switch("refuse_publish", share=0.3, code=42911),
    "acknowledgements are lost": switch("lose_acks", share=0.3),
    "deliveries are dropped": switch("drop_deliveries", share=0.1),
    "history lags": switch("delay_history", ms=lambda draw: round(300 + 1200 * draw)),
    "history fails": switch("fail_history", status=503),
    "requests stall": switch("stall_requests", seconds=1, share=0.3),
    "attach points are refused": switch(
        "refuse_until_attach", code=lambda draw: 90008 if draw < 0.5 else 40024
    ),
    "attaching is refused": switch("refuse_attach", code=50000, share=0.5),
    "limits are enforced": switch("enforce_limits"),
    "connections are half open": switch("freeze"),
    "connections are cut": cut,
    "connections are cut for good": cut_for_good,
    "history expires": expire,
    "the channel server forgets": channels_forget,
    "the channel server dies": channels_die,
    "a service dies": service_dies,
    "a service restarts": service_restarts,
    "Postgres dies": postgres_dies,
}

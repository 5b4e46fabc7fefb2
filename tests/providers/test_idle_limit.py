"""One timer for many waits: it limits each of them, and no two of them together."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate.providers.idle_limit import IdleLimit


async def test_a_wait_that_takes_too_long_is_cancelled():
    limit, cancelled = IdleLimit(0.02), []

    async def hang():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    for _ in range(2):
        with pytest.raises(TimeoutError):
            await limit.wait(hang())
    assert cancelled == [True, True]
    assert asyncio.current_task().cancelling() == 0


async def test_many_waits_may_take_longer_together():
    limit = IdleLimit(0.5)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while loop.time() - began_s < 1.2:
        assert await limit.wait(asyncio.sleep(0.05, "result")) == "result"
    limit.close()


async def test_the_time_between_waits_does_not_count():
    limit = IdleLimit(0.2)
    await limit.wait(asyncio.sleep(0))
    await asyncio.sleep(0.5)
    assert await limit.wait(asyncio.sleep(0, "result")) == "result"
    limit.close()


async def test_the_cancellation_of_somebody_else_stays_one():
    limit = IdleLimit(20)

    async def hang():
        await limit.wait(asyncio.sleep(3600))

    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    limit.close()


async def test_what_is_awaited_raises_as_it_does():
    async def broken():
        raise OSError("gone")

    limit = IdleLimit(20)
    with pytest.raises(OSError, match="gone"):
        await limit.wait(broken())
    limit.close()
    limit.close()


async def test_without_a_wait_nothing_is_scheduled_and_nobody_cancelled():
    limit = IdleLimit(0.01)
    await limit.wait(asyncio.sleep(0))
    await asyncio.sleep(0.05)
    assert limit._timer is None
    assert asyncio.current_task().cancelling() == 0

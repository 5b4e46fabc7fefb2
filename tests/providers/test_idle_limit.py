"""One timer for many waits limits each wait on its own."""

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


async def test_waits_are_limited_individually_not_in_total():
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


async def test_cancellation_from_outside_propagates():
    limit = IdleLimit(20)

    async def hang():
        await limit.wait(asyncio.sleep(3600))

    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    limit.close()


async def test_exceptions_of_the_awaitable_propagate():
    async def broken():
        raise OSError("gone")

    limit = IdleLimit(20)
    with pytest.raises(OSError, match="gone"):
        await limit.wait(broken())
    limit.close()
    limit.close()


async def test_without_a_wait_no_timer_is_scheduled_and_no_task_cancelled():
    limit = IdleLimit(0.01)
    await limit.wait(asyncio.sleep(0))
    await asyncio.sleep(0.05)
    assert limit._timer is None
    assert asyncio.current_task().cancelling() == 0

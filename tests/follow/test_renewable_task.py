"""A task that its owner starts again if anything else cancels it."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate.follow import renewable_task
from rehydrate.follow.renewable_task import RenewableTask
from waiting import until


@pytest.fixture
def cut_offs(monkeypatch):
    """The calls for a task that was cut off, without the pause before them."""
    monkeypatch.setattr(renewable_task, "RESTART_S", 0.0)
    return []


@pytest.fixture
async def task(cut_offs):
    made = RenewableTask("sample", lambda: cut_offs.append("cut off"))
    yield made
    made.cancel()


def running():
    return next(each for each in asyncio.all_tasks() if each.get_name() == "sample")


async def test_a_task_that_is_cancelled_from_outside_is_reported(task, cut_offs):
    task.start(asyncio.sleep(60))
    running().cancel()
    await until(lambda: cut_offs)
    assert task.restarts == 1


async def test_a_task_that_its_owner_cancels_is_not_reported(task, cut_offs):
    task.start(asyncio.sleep(60))
    cancelled = task.cancel()
    assert task.cancel() is None
    await asyncio.wait({cancelled})
    await asyncio.sleep(0)
    assert (cut_offs, task.restarts) == ([], 0)


async def test_a_task_that_was_replaced_is_not_reported(task, cut_offs):
    task.start(asyncio.sleep(60))
    first = running()
    task.start(asyncio.sleep(60))
    first.cancel()
    await asyncio.wait({first})
    await asyncio.sleep(0)
    assert (cut_offs, task.restarts) == ([], 0)


async def test_a_task_does_not_cancel_itself(task, cut_offs):
    results = []

    async def work():
        results.append(task.cancel())
        await asyncio.sleep(0)
        results.append("went on")

    task.start(work())
    await until(lambda: len(results) == 2)
    assert results == [None, "went on"]
    assert not cut_offs

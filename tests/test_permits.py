"""Permits: stored text is published only if the store has just confirmed that it is not erased."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate.core.event import Event
from rehydrate.errors import StoreUnavailable
from rehydrate.permits import PERMIT_S, PermitExpired, PublishPermit, TextErased, permit_of

EVENTS = [Event("token", "r", seq=1, text="a", id="x")]


class Asked:
    """A store that gives *answers*, each *takes_s* seconds after it was asked."""

    def __init__(self, *answers, takes_s=0.0):
        self.answers = list(answers)
        self.takes_s = takes_s
        self.loop = asyncio.get_running_loop()

    async def __call__(self):
        answer = self.answers.pop(0)
        self.loop.now_s += self.takes_s
        if isinstance(answer, Exception):
            raise answer
        return answer


class Queue:
    """A publish queue in which the first *late* publishes wait *waits_s* seconds for their turn."""

    def __init__(self, late=0, waits_s=0.0):
        self.late, self.waits_s = late, waits_s
        self.published = []

    async def post_batch(self, events, *, is_permitted):
        if self.late:
            self.late -= 1
            asyncio.get_running_loop().now_s += self.waits_s
        if not is_permitted():
            raise PermitExpired("too late")
        self.published += events


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time a test sets."""

    now_s = 0.0

    def time(self):
        return self.now_s


def on_clock(test):
    def run():
        with asyncio.Runner(loop_factory=Clock) as runner:
            runner.run(test())

    run.__name__ = test.__name__
    return run


@on_clock
async def test_a_permit_counts_from_when_the_store_was_asked():
    permit = PublishPermit(Asked(True, takes_s=PERMIT_S / 2))
    assert not permit.is_valid()
    await permit.renew()
    loop = asyncio.get_running_loop()
    loop.now_s = PERMIT_S - 0.001
    assert permit.is_valid()
    loop.now_s = PERMIT_S
    assert not permit.is_valid()


@on_clock
async def test_a_store_that_is_away_leaves_the_permit_as_it_was():
    permit = PublishPermit(Asked(True, StoreUnavailable("away"), takes_s=0.1))
    await permit.renew()
    with pytest.raises(StoreUnavailable):
        await permit.renew()
    assert permit.is_valid()
    assert not permit.erased
    asyncio.get_running_loop().now_s = PERMIT_S
    assert not permit.is_valid()


@on_clock
async def test_an_erasure_ends_the_permit_at_once():
    permit = PublishPermit(Asked(True, False))
    await permit.renew()
    with pytest.raises(TextErased):
        await permit.renew()
    assert permit.erased
    assert not permit.is_valid()


@on_clock
async def test_a_publish_that_waited_too_long_for_its_turn_asks_again():
    asked = Asked(True, True)
    queue = Queue(late=1, waits_s=PERMIT_S)
    await PublishPermit(asked).publish(queue, EVENTS)
    assert (queue.published, asked.answers) == (EVENTS, [])


@on_clock
async def test_what_is_erased_while_it_waits_for_its_turn_is_not_published():
    queue = Queue(late=1, waits_s=PERMIT_S)
    with pytest.raises(TextErased):
        await PublishPermit(Asked(True, False)).publish(queue, EVENTS)
    assert queue.published == []


async def test_any_erasure_after_the_text_was_read_ends_its_permit(store):
    async with store.locked("c", "ai:c") as locked:
        permit = permit_of(store, locked.conversation)
    await permit.renew()
    for at_ms in (1_763_720_100_000, 1_763_720_200_000):
        async with store.locked("c", "ai:c") as locked:
            await locked.erase(at_ms, ())
            later = permit_of(store, locked.conversation)
        with pytest.raises(TextErased):
            await permit.renew()
        await later.renew()
        permit = later

"""Expiry of leases is believed only for as long as Postgres's clock was seen to run evenly."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from contracts.messages import finished, put, response
from rehydrate.core.fold import MessageState
from rehydrate.postgres.store import PostgresStore
from rehydrate.postgres.store_clock import SLEW_S, TOLERANCE_S, StoreClock, far_s
from setting_clock import settable

LEASE_S = 15.0
HOUR_S = 3600.0


def prompt(message_id: str) -> MessageState:
    state = finished(message_id, "1")
    state.role = "user"
    return state


class Clocks:
    """A monotonic clock and the store's wall clock, both set by a test."""

    def __init__(self) -> None:
        self.steady_s, self.store_s = 100.0, 1_800_000_000.0
        self.started_s: float | None = None
        self.observed = StoreClock(lambda: self.steady_s)

    def run(self, seconds: float, *, store: float | None = None, answer_s: float = 0.01) -> bool:
        self.steady_s += seconds
        self.store_s += seconds if store is None else store
        sent_s, self.steady_s = self.steady_s, self.steady_s + answer_s
        self.store_s += answer_s
        return self.observed.sample(self.store_s - answer_s / 2, sent_s, self.started_s)

    def expired(self, ahead_s: float) -> bool:
        return self.observed.expired(self.store_s + ahead_s, self.store_s, LEASE_S)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_nothing_is_known_before_it_was_seen_to_run_evenly(clocks: Clocks) -> None:
    assert not clocks.observed.even_for(0)
    clocks.run(0)
    assert clocks.observed.even_for(0)
    assert not clocks.observed.even_for(LEASE_S)
    clocks.run(LEASE_S)
    assert clocks.observed.even_for(LEASE_S)


@pytest.mark.parametrize("step_s", [60.0, -HOUR_S, 1.5 * TOLERANCE_S])
def test_after_a_step_no_expiry_is_believed_for_a_lease(clocks: Clocks, step_s: float) -> None:
    clocks.run(0)
    clocks.run(LEASE_S)
    assert clocks.expired(-1)
    clocks.run(1, store=1 + step_s)
    assert not clocks.expired(-1)
    assert not clocks.expired(2 * HOUR_S)
    assert not clocks.observed.even_for(LEASE_S)
    clocks.run(LEASE_S)
    clocks.run(LEASE_S)
    assert clocks.expired(-1)
    assert clocks.expired(2 * HOUR_S)


def test_what_expires_further_ahead_than_a_lease_can_has_expired(clocks: Clocks) -> None:
    clocks.run(0)
    assert not clocks.expired(HOUR_S)
    clocks.run(LEASE_S)
    assert clocks.expired(HOUR_S)
    assert not clocks.expired(far_s(LEASE_S))


def test_a_restart_is_a_step(clocks: Clocks) -> None:
    clocks.started_s = 1.0
    clocks.run(0)
    clocks.run(LEASE_S)
    assert clocks.expired(-1)
    clocks.started_s = 2.0
    clocks.run(1)
    assert not clocks.expired(-1)
    assert not clocks.observed.even_for(LEASE_S)


def test_a_slow_answer_proves_nothing(clocks: Clocks) -> None:
    clocks.run(0)
    assert not clocks.run(LEASE_S, store=HOUR_S, answer_s=2 * TOLERANCE_S)
    assert not clocks.observed.stepped_within(HOUR_S)
    assert not clocks.observed.even_for(LEASE_S)


def test_clocks_that_drift_apart_slowly_run_evenly(clocks: Clocks) -> None:
    clocks.run(0)
    for _ in range(100):
        assert clocks.run(SLEW_S / 2, store=SLEW_S / 2 + TOLERANCE_S / 10)
    assert clocks.observed.even_for(40 * SLEW_S)


@pytest.fixture
async def set_by(database: str) -> AsyncIterator[object]:
    async with settable(database) as made:
        yield made


@pytest.fixture
async def own(database: str, set_by) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(database, grace_s=LEASE_S)
    await store.open()
    yield store
    await store.close()


async def test_a_step_forward_takes_no_lease_from_its_holder(own: PostgresStore, set_by) -> None:
    await put(own, "c", response("r"))
    async with own.locked("c", "ai:c") as held:
        await held.grant("r", "me", LEASE_S)
    assert await own.due(limit=1) == []
    await set_by(HOUR_S)
    async with own.locked("c", "ai:c") as held:
        lease = await held.lease("r")
    assert lease is not None
    assert not lease.expired
    assert await own.due(limit=1) == []


async def test_a_step_takes_no_prompt_and_the_holder_may_renew(own: PostgresStore, set_by) -> None:
    await put(own, "c", prompt("p"))
    assert await own.claim("c", "me", 1.0, []) is not None
    assert await own.claim("c", "you", 1.0, []) is None
    await set_by(HOUR_S)
    assert await own.claim("c", "you", 60.0, []) is None
    assert await own.renew_claim("c", "p", "me", 1.0)


async def test_a_claim_that_is_repeated_by_its_holder_is_the_same_claim(own: PostgresStore) -> None:
    await put(own, "c", prompt("p"))
    first = await own.claim("c", "me", 60.0, [])
    assert first is not None
    assert await own.claim("c", "me", 60.0, []) == first
    assert await own.claim("c", "me", 60.0, ["p"]) is None

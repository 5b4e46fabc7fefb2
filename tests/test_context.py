"""Context is a value: use cases cannot change it, and a copy may differ in one field.

Its clock is right even if the machine's is wrong, and naming a channel costs few queries.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import FrozenInstanceError, replace

import pytest

from ably_channel import opened, until
from laws.memory import MemoryChannel, MemoryStore, memory_context
from localably import LocalAbly
from rehydrate import context
from rehydrate.background import PeriodicTask
from rehydrate.context import ChannelNames, ServerClock, WakeQueue
from rehydrate.errors import ChannelUnavailable, StoreUnavailable


def test_a_use_case_cannot_change_the_context_it_is_handed():
    ctx = memory_context(MemoryStore(), MemoryChannel([]), lambda: 1)
    with pytest.raises(FrozenInstanceError):
        ctx.retention_ms = 5


def test_a_copy_with_another_clock_leaves_the_original_alone():
    ctx = memory_context(MemoryStore(), MemoryChannel([]), lambda: 1)
    later = replace(ctx, now_ms=lambda: 2)
    assert (ctx.now_ms(), later.now_ms()) == (1, 2)
    assert later.store is ctx.store


@pytest.fixture
def rows():
    return {"a": "ai:own"}


@pytest.fixture
def asked():
    return []


@pytest.fixture
def small_cache(monkeypatch):
    monkeypatch.setattr(context, "MAX_KNOWN", 2)


@pytest.fixture
async def names(rows, asked):
    async def look(conversation_id):
        asked.append(conversation_id)
        await asyncio.sleep(0)
        if rows.get(conversation_id) == "away":
            raise StoreUnavailable("away")
        return rows.get(conversation_id)

    made = ChannelNames(look, "ai:{}".format)
    yield made
    await made.close()


async def test_a_channel_in_a_row_is_queried_once(names, asked):
    assert [await names.of("a") for _ in range(3)] == ["ai:own"] * 3
    assert asked == ["a"]


async def test_simultaneous_lookups_share_a_query(names, asked):
    assert await asyncio.gather(*(names.of("b") for _ in range(100))) == ["ai:b"] * 100
    assert asked == ["b"]


async def test_a_missing_row_is_remembered_for_a_second(names, rows, asked, monkeypatch):
    assert [await names.of("b") for _ in range(3)] == ["ai:b"] * 3
    assert asked == ["b"]
    rows["b"] = "ai:other"
    monkeypatch.setattr(names, "_is_absent", lambda _: False)  # as after the second
    assert await names.of("b") == "ai:other"
    assert asked == ["b", "b"]


async def test_a_missing_row_is_queried_again_after_that(names, rows, monkeypatch):
    monkeypatch.setattr(context, "ABSENT_FOR_S", 0.0)
    assert await names.of("b") == "ai:b"
    rows["b"] = "ai:other"
    assert await names.of("b") == "ai:other"


async def test_a_query_that_fails_fails_for_all_and_is_repeated(names, rows):
    rows["c"] = "away"
    found = await asyncio.gather(*(names.of("c") for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [StoreUnavailable] * 3
    rows["c"] = "ai:back"
    assert await names.of("c") == "ai:back"


async def test_a_caller_that_is_cancelled_leaves_the_query_to_the_others(names):
    one, two = asyncio.create_task(names.of("a")), asyncio.create_task(names.of("a"))
    await asyncio.sleep(0)
    one.cancel()
    assert await two == "ai:own"


async def test_the_cache_is_bounded(small_cache, names, rows, asked):
    rows.update({name: f"ai:{name}" for name in "bc"})
    for name in "abca":
        await names.of(name)
    assert asked == ["a", "b", "c", "a"]
    for name in "xyz":
        await names.of(name)
    assert len(names._absent_until_s) == 2


MINUTES_10 = 600_000


class Machine:
    """A wall clock that tests can set, and a monotonic one."""

    def __init__(self):
        self.wall_ms = self.steady_ms = 1_000
        self.ably_ms = 5_000_000
        self.fetches = 0
        self.answers = True

    def passes(self, ms):
        self.wall_ms += ms
        self.steady_ms += ms
        self.ably_ms += ms

    async def fetch(self):
        self.fetches += 1
        if not self.answers:
            raise ChannelUnavailable("away")
        return float(self.ably_ms)

    def clock(self):
        return ServerClock(
            self.fetch, wall_ms=lambda: self.wall_ms, steady_ms=lambda: self.steady_ms
        )


@pytest.fixture
def machine():
    return Machine()


async def test_the_time_is_ablys_from_the_first_answer_on(machine):
    server_clock = machine.clock()
    assert (server_clock.known, server_clock.now_ms()) == (False, 1_000)
    await server_clock.sync()
    assert (server_clock.known, server_clock.now_ms()) == (True, 5_000_000)
    machine.passes(700)
    assert server_clock.now_ms() == 5_000_700


@pytest.mark.parametrize("step_ms", [MINUTES_10, -MINUTES_10])
async def test_setting_the_machines_clock_has_no_effect(machine, step_ms):
    server_clock = machine.clock()
    await server_clock.sync()
    machine.wall_ms += step_ms
    machine.passes(700)
    assert server_clock.now_ms() == 5_000_700


async def test_a_slow_answer_is_repeated_and_the_closest_one_counts(machine):
    delays_ms = [(100, 4_000), (50, 900), (2_000, 2_000)]  # on the way there, and back

    async def fetch():
        there_ms, back_ms = delays_ms.pop(0)
        machine.passes(there_ms)
        server_ms = await machine.fetch()
        machine.passes(back_ms)
        return server_ms

    server_clock = ServerClock(
        fetch, wall_ms=lambda: machine.wall_ms, steady_ms=lambda: machine.steady_ms
    )
    await server_clock.sync()
    assert machine.fetches == 3
    assert server_clock.now_ms() == machine.ably_ms - 900


async def test_a_slow_answer_counts_if_it_cannot_be_repeated(machine):
    async def fetch():
        server_ms = await machine.fetch()
        machine.passes(900)
        machine.answers = False
        return server_ms

    server_clock = ServerClock(
        fetch, wall_ms=lambda: machine.wall_ms, steady_ms=lambda: machine.steady_ms
    )
    await server_clock.sync()
    assert server_clock.now_ms() == machine.ably_ms - 900


async def test_a_known_time_is_not_fetched_again(machine):
    server_clock = machine.clock()
    await server_clock.sync()
    await server_clock.sync()
    assert machine.fetches == 1


async def test_the_machines_clock_is_used_until_ably_answers(machine, monkeypatch):
    monkeypatch.setattr(context, "_LONGEST_DELAY_S", 0.05)
    machine.answers = False
    server_clock = machine.clock()
    await server_clock.open()
    try:
        assert server_clock.now_ms() == 1_000
        with pytest.raises(ChannelUnavailable):
            await server_clock.sync()
        machine.answers = True
        await until(lambda: server_clock.known)
        assert server_clock.now_ms() == 5_000_000
    finally:
        await server_clock.close()


async def test_the_time_is_refreshed_because_clocks_drift(machine, monkeypatch):
    monkeypatch.setattr(context, "ASK_EVERY_S", 0.01)
    server_clock = machine.clock()
    await server_clock.open()
    try:
        machine.ably_ms += 50
        await until(lambda: server_clock.now_ms() == machine.ably_ms)
        machine.answers = False
        fetches = machine.fetches
        await until(lambda: machine.fetches > fetches + 1)
        assert server_clock.now_ms() == machine.ably_ms
    finally:
        await server_clock.close()


async def test_the_channel_log_has_the_servers_time_when_the_machines_clock_is_wrong(monkeypatch):
    true_ns = time.time_ns
    async with LocalAbly() as server, opened(server) as log:
        monkeypatch.setattr(time, "time_ns", lambda: true_ns() + MINUTES_10 * 1_000_000)
        assert abs(log.now_ms() - true_ns() // 1_000_000) < 5_000
        monkeypatch.undo()


async def test_a_queue_wakes_its_task_which_takes_each_name_once():
    taken = []

    async def turn():
        taken.append(queue.take())

    queue = WakeQueue(capacity=2)
    queue.add("before there is a task")
    queue.task = PeriodicTask("test", turn)
    queue.add("before it is open")
    assert len(queue) == 0
    queue.task.open()
    try:
        for name in ("a", "b", "a", "beyond the capacity"):
            queue.add(name)
        assert (len(queue), queue.full) == (2, True)
        await until(lambda: taken)
        assert (taken, queue.full) == ([["a", "b"]], False)
    finally:
        await queue.task.close()


def test_what_was_taken_and_not_done_is_put_back_beyond_the_capacity():
    queue = WakeQueue(capacity=1)
    queue.put_back(["a", "b"])
    assert (queue.take(), queue.take()) == (["a", "b"], [])

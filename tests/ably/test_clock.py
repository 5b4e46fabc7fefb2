"""Ably's time is right even if the machine's clock is wrong."""

from __future__ import annotations

import time

import pytest

from ably_channel import opened, until
from localably import LocalAbly
from rehydrate.ably import clock
from rehydrate.ably.clock import ServerClock
from rehydrate.errors import ChannelUnavailable

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


async def test_a_known_time_is_not_fetched_again(machine):
    server_clock = machine.clock()
    await server_clock.sync()
    await server_clock.sync()
    assert machine.fetches == 1


async def test_the_machines_clock_is_used_until_ably_answers(machine, monkeypatch):
    monkeypatch.setattr(clock, "_LONGEST_DELAY_S", 0.05)
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
    monkeypatch.setattr(clock, "ASK_EVERY_S", 0.01)
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

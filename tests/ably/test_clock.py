"""Ably's time, whatever the machine's clock says."""

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
    """A wall clock that is set, and one that is not."""

    def __init__(self):
        self.wall_ms = self.steady_ms = 1_000
        self.ably_ms = 5_000_000
        self.asked = 0
        self.answers = True

    def passes(self, ms):
        self.wall_ms += ms
        self.steady_ms += ms
        self.ably_ms += ms

    async def ask(self):
        self.asked += 1
        if not self.answers:
            raise ChannelUnavailable("away")
        return float(self.ably_ms)

    def clock(self):
        return ServerClock(self.ask, wall_ms=lambda: self.wall_ms, steady_ms=lambda: self.steady_ms)


@pytest.fixture
def machine():
    return Machine()


async def test_it_is_ablys_time_from_the_first_answer_on(machine):
    knows = machine.clock()
    assert (knows.known, knows.now_ms()) == (False, 1_000)
    await knows.learn()
    assert (knows.known, knows.now_ms()) == (True, 5_000_000)
    machine.passes(700)
    assert knows.now_ms() == 5_000_700


@pytest.mark.parametrize("step_ms", [MINUTES_10, -MINUTES_10])
async def test_setting_the_machines_clock_changes_nothing(machine, step_ms):
    knows = machine.clock()
    await knows.learn()
    machine.wall_ms += step_ms
    machine.passes(700)
    assert knows.now_ms() == 5_000_700


async def test_what_is_known_is_not_asked_for(machine):
    knows = machine.clock()
    await knows.learn()
    await knows.learn()
    assert machine.asked == 1


async def test_a_clock_that_ably_does_not_tell_is_the_machines_until_it_does(machine, monkeypatch):
    monkeypatch.setattr(clock, "_LONGEST_DELAY_S", 0.05)
    machine.answers = False
    knows = machine.clock()
    await knows.open()
    try:
        assert knows.now_ms() == 1_000
        with pytest.raises(ChannelUnavailable):
            await knows.learn()
        machine.answers = True
        await until(lambda: knows.known)
        assert knows.now_ms() == 5_000_000
    finally:
        await knows.close()


async def test_it_is_asked_for_again_since_no_clock_goes_right_for_ever(machine, monkeypatch):
    monkeypatch.setattr(clock, "ASK_EVERY_S", 0.01)
    knows = machine.clock()
    await knows.open()
    try:
        machine.ably_ms += 50
        await until(lambda: knows.now_ms() == machine.ably_ms)
        machine.answers = False
        asked = machine.asked
        await until(lambda: machine.asked > asked + 1)
        assert knows.now_ms() == machine.ably_ms
    finally:
        await knows.close()


async def test_the_channel_knows_the_servers_time_though_the_machines_is_wrong(monkeypatch):
    true_ns = time.time_ns
    async with LocalAbly() as server, opened(server) as log:
        monkeypatch.setattr(time, "time_ns", lambda: true_ns() + MINUTES_10 * 1_000_000)
        assert abs(log.now_ms() - true_ns() // 1_000_000) < 5_000
        monkeypatch.undo()

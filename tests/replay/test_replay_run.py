"""The lease of a replay: kept while it runs, and when it is lost, what runs is cut off."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate.core.replay.requests import Replay, ReplayTerms
from rehydrate.errors import StoreUnavailable
from rehydrate.replay import replay_run as running
from rehydrate.replay.replay_run import LeaseLost, ReplayRun

REPLAY = Replay(
    "c", "x", "r", "ai:c", ReplayTerms(channel="ai:c"), "running", 5, 1.0, "admin:1", 0, {}
)


class Ledger:
    """What a store answers of one replay."""

    def __init__(self):
        self.answer = False
        self.away = False
        self.kept = asyncio.Semaphore(0)
        self.ended = []
        self.released = []

    def _fail(self):
        if self.away:
            raise StoreUnavailable("away")

    async def keep_replay(self, replay, holder, lease_s):
        self.kept.release()
        self._fail()
        return self.answer

    async def end_replay(self, replay, holder, note):
        self._fail()
        self.ended.append((replay, note))
        return True

    async def release_replay(self, replay, holder):
        self._fail()
        self.released.append(replay)


class Player:
    done, seconds_done, gen, gen_from = 3, 0.5, 2, 1

    def __init__(self):
        self.cancelled = asyncio.Event()

    def cancel(self):
        self.cancelled.set()


@pytest.fixture
def ledger(monkeypatch):
    monkeypatch.setattr(running, "KEEP_EVERY_S", 0.01)
    return Ledger()


@pytest.fixture
def run(ledger):
    made = ReplayRun(REPLAY, "h", ledger)
    made.player = Player()
    return made


async def test_it_is_kept_again_and_again_while_it_runs(run, ledger):
    async with asyncio.timeout(20), run.kept():
        for _ in range(3):
            await ledger.kept.acquire()


async def test_whoever_has_lost_it_is_cut_off(run, ledger):
    ledger.answer = None
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(20), run.kept():
            await asyncio.Event().wait()


async def test_a_store_that_is_away_for_a_moment_cuts_nobody_off(run, ledger, monkeypatch):
    ledger.away = True
    async with asyncio.timeout(20), run.kept():
        for _ in range(3):
            await ledger.kept.acquire()
    monkeypatch.setattr(running, "LEASE_S", 0.0)
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(20), run.kept():
            await asyncio.Event().wait()


async def test_being_cancelled_is_no_loss(run):
    async def on():
        async with run.kept():
            await asyncio.Event().wait()

    task = asyncio.create_task(on())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_fails_in_it_comes_out(run):
    with pytest.raises(ZeroDivisionError):
        async with run.kept():
            raise ZeroDivisionError


async def test_that_it_is_to_be_cancelled_reaches_its_player_at_once(run, ledger, monkeypatch):
    monkeypatch.setattr(running, "KEEP_EVERY_S", 60)
    ledger.answer = True
    async with asyncio.timeout(20), run.kept():
        run.look()
        await run.player.cancelled.wait()


async def test_how_it_ended_is_kept_with_how_far_it_came(run, ledger):
    assert await run.end("failed", {"code": "x"})
    ((replay, note),) = ledger.ended
    assert (replay.state, replay.done, replay.gen, replay.error) == ("failed", 3, 2, {"code": "x"})
    assert (note.actor, note.action, note.outcome) == ("admin:1", "replay", "failed")
    assert note.detail["error"] == {"code": "x"}


async def test_it_waits_for_the_store_to_say_how_it_ended(run, ledger):
    ledger.away = True
    ending = asyncio.create_task(run.end("done", None))
    await asyncio.sleep(0.03)
    assert not ending.done()
    ledger.away = False
    assert await ending


async def test_it_is_given_back_as_far_as_it_is_or_its_lease_runs_out(run, ledger):
    await run.release()
    assert ledger.released[0].done == 3
    ledger.away = True
    await run.release()
    run.player = None
    run.told()
    assert run.standing().done == 5

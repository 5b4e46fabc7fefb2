"""The lease and the progress of a running replay."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate.background import LeaseLost
from rehydrate.core.replay.schedule import Replay, ReplayTerms
from rehydrate.errors import StoreUnavailable
from rehydrate.replay import replay_run
from rehydrate.replay.replay_run import ReplayRun
from waiting import PATIENCE_S

REPLAY = Replay(
    "c", "x", "r", "ai:c", ReplayTerms(channel="ai:c"), "running", 5, 1.0, "admin:1", 0, {}
)


class ReplayRows:
    """A store with one replay."""

    def __init__(self):
        self.answer = "play"
        self.leases = []
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
        self.leases.append(lease_s)
        return self.answer

    async def end_replay(self, replay, holder, note):
        self._fail()
        self.ended.append((replay, note))
        return True

    async def release_replay(self, replay, holder, *, begun):
        self._fail()
        self.released.append((replay, begun))


class Player:
    done, seconds_done, gen, gen_from, begun = 3, 0.5, 2, 1, True

    def __init__(self):
        self.cancelled = asyncio.Event()

    def cancel(self):
        self.cancelled.set()


@pytest.fixture
def ledger(monkeypatch):
    monkeypatch.setattr(replay_run, "RENEW_EVERY_S", 0.01)
    return ReplayRows()


@pytest.fixture
def run(ledger):
    return made_run(ledger)


def made_run(ledger):
    run = ReplayRun(REPLAY, "h", ledger)
    run.player = Player()
    return run


async def test_the_lease_is_renewed_while_the_replay_runs(run, ledger):
    async with asyncio.timeout(PATIENCE_S), run.lease():
        for _ in range(3):
            await ledger.kept.acquire()


async def test_a_run_that_lost_its_lease_is_cut_off(run, ledger):
    ledger.answer = None
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(PATIENCE_S), run.lease():
            await asyncio.Event().wait()


async def test_a_short_outage_of_the_store_does_not_cut_a_run_off(run, ledger, monkeypatch):
    ledger.away = True
    async with asyncio.timeout(PATIENCE_S), run.lease():
        for _ in range(3):
            await ledger.kept.acquire()
    monkeypatch.setattr(replay_run, "LEASE_S", 0.0)
    run = made_run(ledger)
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(PATIENCE_S), run.lease():
            await asyncio.Event().wait()


async def test_a_cancelled_run_has_not_lost_its_lease(run):
    async def on():
        async with run.lease():
            await asyncio.Event().wait()

    task = asyncio.create_task(on())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_exception_of_the_block_comes_out(run):
    with pytest.raises(ZeroDivisionError):
        async with run.lease():
            raise ZeroDivisionError


async def test_a_cancellation_reaches_the_player_at_once(ledger, monkeypatch):
    monkeypatch.setattr(replay_run, "RENEW_EVERY_S", 60)
    run = made_run(ledger)
    ledger.answer = "cancel"
    async with asyncio.timeout(PATIENCE_S), run.lease():
        run.renew_now()
        await run.player.cancelled.wait()


async def test_an_erased_replay_keeps_its_lease_and_loses_its_permit(run, ledger):
    await run.permit.renew()
    assert run.permit.is_valid()
    ledger.answer = "erased"
    async with asyncio.timeout(PATIENCE_S), run.lease():
        await run.player.cancelled.wait()
        for _ in range(3):
            await ledger.kept.acquire()
    assert not run.permit.is_valid()
    assert run.permit.erased


async def test_the_permit_of_a_run_that_was_taken_over_is_not_renewed(run, ledger):
    ledger.answer = None
    with pytest.raises(LeaseLost):
        await run.permit.renew()
    assert not run.permit.is_valid()


async def test_a_failed_run_is_begun_again_later_each_time(ledger):
    delays = []
    for attempts in (1, 2, 3, 40):
        failed = ReplayRun(REPLAY._replace(attempts=attempts), "h", ledger)
        await failed.retry_later()
        delays.append(ledger.leases[-1])
    assert delays == pytest.approx([2, 4, 8, 30], rel=0.25)
    ledger.away = True
    await failed.retry_later()


async def test_the_final_state_is_stored_with_the_progress(run, ledger):
    assert await run.end("failed", {"code": "x"})
    ((replay, note),) = ledger.ended
    assert (replay.state, replay.done, replay.gen, replay.error) == ("failed", 3, 2, {"code": "x"})
    assert (note.actor, note.action, note.outcome) == ("admin:1", "replay", "failed")
    assert note.detail["error"] == {"code": "x"}


async def test_the_final_state_waits_for_the_store(run, ledger):
    ledger.away = True
    ending = asyncio.create_task(run.end("done", None))
    await asyncio.sleep(0.03)
    assert not ending.done()
    ledger.away = False
    assert await ending


async def test_nothing_was_published_before_the_first_player_has_begun(ledger):
    run = ReplayRun(REPLAY._replace(attempts=1), "h", ledger)
    assert not run.may_have_begun
    run.player = Player()
    assert run.may_have_begun
    for more in ({"attempts": 2}, {"done": 1}):
        assert ReplayRun(REPLAY._replace(attempts=1)._replace(**more), "h", ledger).may_have_begun


async def test_a_cancellation_before_there_is_a_player_is_kept_for_it(ledger):
    run = ReplayRun(REPLAY, "h", ledger)
    ledger.answer = "cancel"
    await run.permit.renew()
    assert run.replay.cancel_asked


async def test_it_is_released_with_its_progress_or_its_lease_runs_out(run, ledger):
    await run.release()
    ((released, begun),) = ledger.released
    assert (released.done, begun) == (3, True)
    ledger.away = True
    await run.release()
    run.player = None
    run.mark_done()
    assert run.progress().done == 5

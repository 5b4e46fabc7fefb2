"""Background tasks survive every failure, leases are renewed until lost, caches stay bounded."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest

from rehydrate import background
from rehydrate.background import (
    Backoff,
    LeaseKeeper,
    LeaseLost,
    PeriodicTask,
    SupervisedTask,
    TaskPool,
    jittered,
    settled,
    tasks_state,
)
from rehydrate.errors import OutcomeUnknown, StoreUnavailable
from waiting import PATIENCE_S


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - of what has no event for it
            await asyncio.sleep(0.005)


class TestDelays:
    def test_a_jittered_interval_stays_within_its_spread_and_varies(self):
        drawn = [jittered(10, 0.2) for _ in range(200)]
        assert all(8 <= each <= 12 for each in drawn)
        assert max(drawn) - min(drawn) > 1

    def test_a_backoff_doubles_up_to_the_cap_and_is_reduced_by_up_to_half(self):
        backoff = Backoff(first_s=1.0, cap_s=6.0)
        for whole_s in (1.0, 2.0, 4.0, 6.0, 6.0):
            assert whole_s / 2 <= backoff.next_s() <= whole_s

    def test_clients_that_fail_together_do_not_retry_together(self):
        one, other = Backoff(1.0, 8.0), Backoff(1.0, 8.0)
        assert [one.next_s() for _ in range(5)] != [other.next_s() for _ in range(5)]

    def test_a_reset_starts_from_the_first_delay_again(self):
        backoff = Backoff(1.0, 64.0)
        for _ in range(5):
            backoff.next_s()
        backoff.reset()
        assert backoff.next_s() <= 1.0


class TestSettled:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr(background, "_FIRST_SETTLE_S", 0.01)

    async def test_a_write_is_repeated_only_after_an_unknown_outcome(self):
        answers = [OutcomeUnknown("lost"), StoreUnavailable("away"), 7]

        async def write():
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert await settled(write) == 7
        answers = [StoreUnavailable("away"), 8]
        with pytest.raises(StoreUnavailable):
            await settled(write)

    async def test_it_is_given_up_after_a_while(self, monkeypatch):
        monkeypatch.setattr(background, "SETTLE_S", 0.05)

        async def write():
            raise OutcomeUnknown("lost")

        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(OutcomeUnknown):
                await settled(write)


@pytest.fixture
async def opened():
    """Open periodic tasks, which are closed after the test."""
    made = []

    def opened(run, **options):
        made.append(PeriodicTask("sample", run, **options))
        made[-1].open()
        return made[-1]

    yield opened
    for task in made:
        await task.close()


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(background, "RETRY_S", 0.01)
    monkeypatch.setattr(background, "RESTART_S", 0.01)


def running(name):
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


@pytest.mark.usefixtures("soon")
class TestPeriodicTask:
    async def test_it_runs_at_its_interval_and_reports_when_it_last_succeeded(self, opened):
        turns = []

        async def run():
            turns.append(asyncio.get_running_loop().time())

        task = opened(run, every_s=0.02)
        await until(lambda: len(turns) >= 4)
        gaps = [b - a for a, b in itertools.pairwise(turns)]
        assert min(gaps) >= 0.01
        assert task.last_ok_s >= turns[-2]

    async def test_without_an_interval_it_runs_when_woken_and_once_more_if_woken_meanwhile(
        self, opened
    ):
        turns, gate = [], asyncio.Event()

        async def run():
            turns.append(None)
            await gate.wait()

        task = opened(run)
        await asyncio.sleep(0.03)
        assert not turns
        task.wake()
        await until(lambda: turns)
        for _ in range(3):
            task.wake()
        gate.set()
        await asyncio.sleep(0.03)
        assert len(turns) == 2

    @pytest.mark.parametrize("error", [StoreUnavailable("away"), TimeoutError(), KeyError("text")])
    async def test_an_exception_is_logged_once_without_its_text_and_the_work_is_repeated(
        self, opened, caplog, error
    ):
        caplog.set_level(logging.INFO)
        left = [error] * 3

        async def run():
            if left:
                raise left.pop()

        task = opened(run)
        begun_s = task.last_ok_s
        task.wake()
        await until(lambda: task.last_ok_s > begun_s)
        failed, recovered = caplog.records
        assert failed.getMessage().endswith(f"failed, will retry: {type(error).__name__}")
        assert failed.levelno == (logging.ERROR if isinstance(error, KeyError) else logging.WARNING)
        assert "works again" in recovered.getMessage()
        assert "text" not in caplog.text

    async def test_cancelled_from_outside_it_is_started_again_and_repeats_its_turn(self, opened):
        turns, gate = [], asyncio.Event()

        async def run():
            turns.append(None)
            await gate.wait()

        task = opened(run)
        task.wake()
        await until(lambda: turns)
        for killed in running("sample"):
            killed.cancel()
        await until(lambda: len(turns) == 2)
        assert task.restarts == 1
        assert task.is_open

    async def test_a_cancellation_that_a_turn_leaks_does_not_end_it(self, opened):
        leaking = [True]

        async def run():
            if leaking:
                leaking.pop()
                raise asyncio.CancelledError

        task = opened(run, every_s=0.01)
        begun_s = task.last_ok_s
        await until(lambda: task.restarts == 1 and task.last_ok_s > begun_s)

    async def test_closed_it_stays_closed_even_if_it_was_about_to_be_started_again(self, opened):
        turns = []

        async def run():
            turns.append(None)

        task = opened(run, every_s=0.005)
        for killed in running("sample"):
            killed.cancel()
        await until(lambda: task.restarts == 1)
        await task.close()
        await task.close()
        assert not task.is_open
        count = len(turns)
        await asyncio.sleep(0.05)
        assert (len(turns), running("sample")) == (count, [])

    async def test_closing_waits_only_for_its_time_limit(self, opened, caplog):
        stubborn, gate = asyncio.Event(), asyncio.Event()

        async def run():
            while not gate.is_set():
                try:
                    stubborn.set()
                    await gate.wait()
                except asyncio.CancelledError:
                    continue

        task = opened(run, every_s=0.001)
        await stubborn.wait()
        async with asyncio.timeout(PATIENCE_S):
            await task.close(timeout_s=0.01)
        assert "did not stop within 0.01 s" in caplog.text
        gate.set()
        await until(lambda: not running("sample"))

    async def test_a_turn_that_fails_or_hangs_or_ended_makes_it_overdue(self, opened, monkeypatch):
        failing, gate = [True], asyncio.Event()

        async def run():
            if failing:
                raise StoreUnavailable("away")
            await gate.wait()

        task = opened(run)
        assert (task.overdue_s, tasks_state([task])) == (0.0, "ok")
        task.wake()
        await until(lambda: task.overdue_s > 0.05)
        for killed in running("sample"):
            killed.cancel()
        await until(lambda: task.overdue_s > 0.1)
        failing.clear()
        await until(lambda: task.overdue_s > 0.2)
        monkeypatch.setattr(background, "LATE_S", 0.2)
        assert tasks_state([task]) == "late: sample (0 s)"
        gate.set()
        await until(lambda: task.overdue_s == 0.0)
        await task.close()
        task.wake()
        assert task.overdue_s == 0.0


@pytest.mark.usefixtures("soon")
class TestSupervisedTask:
    async def test_work_that_ends_in_any_way_is_started_again(self, caplog):
        endings, begun = [None, KeyError("secret"), asyncio.CancelledError()], []

        async def work():
            begun.append(None)
            if not endings:
                await asyncio.Event().wait()
            if (error := endings.pop(0)) is not None:
                raise error

        task = SupervisedTask("sample", work)
        task.open()
        task.open()
        await until(lambda: len(begun) == 4)
        assert task.restarts == 3
        assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == [
            "done",
            "KeyError",
            "cancelled",
        ]
        await task.close()
        assert not running("sample")

    async def test_closing_cancels_again_what_swallows_a_cancellation(self):
        swallowed = []

        async def work():
            while len(swallowed) < 2:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    swallowed.append(None)
            await asyncio.Event().wait()

        task = SupervisedTask("sample", work)
        task.open()
        await asyncio.sleep(0)
        await task.close(timeout_s=1)
        assert len(swallowed) == 2
        assert not running("sample")


class TestTaskPool:
    async def test_it_counts_its_tasks_and_stops_them(self, caplog):
        pool, gate = TaskPool(), asyncio.Event()

        async def wait():
            await gate.wait()

        async def fail():
            try:
                await gate.wait()
            finally:
                raise KeyError("secret")

        pool.start(asyncio.sleep(0), name="short")
        pool.start(wait(), name="long")
        pool.start(fail(), name="failing")
        await until(lambda: len(pool) == 2)
        await pool.close()
        assert len(pool) == 0
        assert "failing failed while it was stopped: KeyError" in caplog.text
        assert "secret" not in caplog.text
        await pool.close()


class Lease:
    """A lease, as a store would renew it."""

    def __init__(self):
        self.answers = []
        self.renewed = asyncio.Semaphore(0)

    async def renew(self):
        self.renewed.release()
        answer = self.answers.pop(0) if len(self.answers) > 1 else [*self.answers, None][0]
        if answer is not None:
            raise answer


@pytest.fixture
def lease():
    return Lease()


class TestLeaseKeeper:
    async def test_it_is_renewed_again_and_again(self, lease):
        keeper = LeaseKeeper("lease", lease.renew, every_s=0.01, lease_s=5)
        async with asyncio.timeout(PATIENCE_S), keeper.holding():
            for _ in range(3):
                await lease.renewed.acquire()
        assert not running("lease")

    async def test_it_is_renewed_at_once_on_request(self, lease):
        keeper = LeaseKeeper("lease", lease.renew, every_s=60, lease_s=60)
        async with asyncio.timeout(PATIENCE_S), keeper.holding():
            keeper.renew_now()
            await lease.renewed.acquire()

    async def test_the_block_is_cut_off_when_it_is_lost(self, lease):
        lease.answers = [LeaseLost()]
        keeper = LeaseKeeper("lease", lease.renew, every_s=0.01, lease_s=5)
        with pytest.raises(LeaseLost):
            async with asyncio.timeout(PATIENCE_S), keeper.holding():
                await asyncio.Event().wait()

    @pytest.mark.parametrize("error", [StoreUnavailable("away"), TimeoutError(), KeyError("x")])
    async def test_a_failure_is_retried_until_the_lease_has_run_out(self, lease, error):
        lease.answers = [error, error, None, error]
        keeper = LeaseKeeper("lease", lease.renew, every_s=0.01, lease_s=0.1)
        renewals = []

        async def block():
            async with asyncio.timeout(PATIENCE_S), keeper.holding():
                while True:
                    renewals.append(await lease.renewed.acquire())

        with pytest.raises(LeaseLost):
            await block()
        assert len(renewals) > 4

    async def test_a_cancellation_of_the_block_is_not_a_loss(self, lease):
        keeper = LeaseKeeper("lease", lease.renew, every_s=0.01, lease_s=5)

        async def block():
            async with keeper.holding():
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_an_exception_of_the_block_comes_out(self, lease):
        keeper = LeaseKeeper("lease", lease.renew, every_s=0.01, lease_s=5)
        with pytest.raises(ZeroDivisionError):
            async with keeper.holding():
                raise ZeroDivisionError

    async def test_a_loss_that_cuts_nothing_off_is_logged(self, lease, caplog):
        lease.answers = [LeaseLost()]
        keeper = LeaseKeeper("a claim", lease.renew, every_s=0.01, lease_s=5, cut_off=False)
        async with asyncio.timeout(PATIENCE_S), keeper.holding():
            await until(lambda: "a claim is lost" in caplog.text)
        assert not running("a claim")


def test_a_failure_that_repeats_is_logged_once_a_minute(caplog, monkeypatch):
    logger = logging.getLogger("repeats")
    for _ in range(50):
        background.log_failure(logger, "reading", KeyError("x"))
    background.log_failure(logger, "reading", StoreUnavailable("x"))
    assert [record.getMessage() for record in caplog.records] == [
        "reading: KeyError",
        "reading: StoreUnavailable",
    ]
    monkeypatch.setattr(background, "LOG_EVERY_S", 0)
    background.log_failure(logger, "reading", KeyError("x"))
    assert caplog.records[-1].getMessage() == "reading: KeyError (49 more)"

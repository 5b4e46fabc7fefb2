"""Recorder: conversations are recorded when woken, each once, and failures are retried."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest

from rehydrate.context import WakeQueue
from rehydrate.errors import StoreUnavailable
from rehydrate.maintenance import recorder as module
from rehydrate.maintenance.recorder import Recorder
from rehydrate.record.catch_up import Recorded
from shared_adapters import Latch, until, within


class Counting:
    """Counts the calls by conversation; raises `faults`, and waits at `latch`."""

    def __init__(self):
        self.seen = Counter()
        self.faults = {}
        self.latch = None

    async def __call__(self, conversation_id):
        if self.latch is not None:
            await self.latch()
        self.seen[conversation_id] += 1
        if conversation_id in self.faults:
            raise self.faults[conversation_id]
        return Recorded(0, Counter(), moved=True)


@pytest.fixture
async def counting():
    return Counting()


@pytest.fixture
async def recorder(counting):
    made = Recorder(counting, queue=WakeQueue(3), pause_s=0.01)
    made.open()
    yield made
    await made.close()


async def test_repeated_wake_ups_record_a_conversation_once(recorder, counting):
    for _ in range(50):
        recorder.queue.add("a")
    recorder.queue.add("b")
    await until(lambda: counting.seen["b"])
    assert counting.seen == {"a": 1, "b": 1}


async def test_a_wake_up_during_recording_records_it_again(recorder, counting):
    counting.latch = Latch()
    recorder.queue.add("a")
    await counting.latch.reached()
    recorder.queue.add("a")
    counting.latch.open()
    await until(lambda: counting.seen["a"] == 2)


async def test_a_conversation_that_fails_is_retried_and_does_not_delay_others(
    recorder, counting, caplog
):
    counting.faults["secret-id"] = StoreUnavailable("away")
    with caplog.at_level(logging.WARNING):
        recorder.queue.add("secret-id")
        recorder.queue.add("b")
        await until(lambda: counting.seen["secret-id"] >= 3)
    assert counting.seen["b"] == 1
    assert "secret-id" not in caplog.text
    del counting.faults["secret-id"]
    seen = counting.seen["secret-id"]
    await until(lambda: counting.seen["secret-id"] > seen)


async def test_an_unexpected_exception_does_not_end_it(recorder, counting, caplog):
    counting.faults["a"] = KeyError("secret text")
    recorder.queue.add("a")
    await until(lambda: counting.seen["a"])
    recorder.queue.add("b")
    await until(lambda: counting.seen["b"])
    assert "KeyError" in caplog.text
    assert "secret text" not in caplog.text


async def test_wake_ups_over_the_capacity_are_dropped(recorder, counting):
    counting.latch = Latch()
    recorder.queue.add("first")
    await counting.latch.reached()
    for index in range(10):
        recorder.queue.add(f"c{index}")
    counting.latch.open()
    await until(lambda: counting.seen["c2"])
    assert set(counting.seen) == {"first", "c0", "c1", "c2"}


async def test_it_records_only_while_it_is_open(counting):
    recorder = Recorder(counting, queue=WakeQueue(), pause_s=0.01)
    recorder.queue.add("a")
    recorder.open()
    recorder.open()
    recorder.queue.add("b")
    await until(lambda: counting.seen["b"])
    await recorder.close()
    await recorder.close()
    recorder.queue.add("c")
    await asyncio.sleep(0)
    assert counting.seen == {"b": 1}


async def test_closing_cancels_a_recording_that_is_under_way(counting):
    recorder = Recorder(counting, queue=WakeQueue())
    counting.latch = Latch()
    recorder.open()
    recorder.queue.add("a")
    await counting.latch.reached()
    await within(recorder.close(), 5)
    assert not counting.seen


async def test_a_batch_that_was_cut_off_is_recorded_after_a_restart(recorder, counting):
    counting.latch = Latch()
    recorder.queue.add("a")
    await counting.latch.reached()
    for task in asyncio.all_tasks():
        if task.get_name() == "recorder":
            task.cancel()
    counting.latch.open()
    await until(lambda: counting.seen["a"])


async def test_conversations_whose_history_stalls_or_fails_hold_no_other(counting):
    recorder = Recorder(counting, queue=WakeQueue(), pause_s=0.01, at_once=4)
    stalled, begun = asyncio.Event(), []
    plain = recorder._record

    async def record(conversation_id):
        if conversation_id == "stalled":
            begun.append(conversation_id)
            await stalled.wait()
        if conversation_id.startswith("failing"):
            await asyncio.sleep(0.02)
            raise StoreUnavailable("away")
        return await plain(conversation_id)

    recorder._record = record
    recorder.open()
    for each in ("stalled", *(f"failing{n}" for n in range(20))):
        recorder.queue.add(each)
    await until(lambda: begun)
    for number in range(20):
        recorder.queue.add(f"c{number}")
        await until(lambda: counting.seen[f"c{number}"])  # noqa: B023 - it is called in this turn
    assert begun == ["stalled"]
    stalled.set()
    await until(lambda: counting.seen["stalled"])
    await recorder.close()


async def test_a_catch_up_that_takes_too_long_is_cut_off_and_retried(counting, monkeypatch):
    monkeypatch.setattr(module, "RECORD_TIMEOUT_S", 0.05)
    counting.latch = Latch()
    recorder = Recorder(counting, queue=WakeQueue(), pause_s=0.01)
    recorder.open()
    recorder.queue.add("a")
    await counting.latch.reached()
    await asyncio.sleep(0.1)
    counting.latch.open()
    await until(lambda: counting.seen["a"])
    await recorder.close()


async def test_a_recording_that_is_cancelled_from_outside_is_repeated(recorder, counting):
    counting.latch = Latch()
    recorder.queue.add("a")
    await counting.latch.reached()
    for task in asyncio.all_tasks():
        if task.get_name() == "recording":
            task.cancel()
    counting.latch.open()
    await until(lambda: counting.seen["a"])

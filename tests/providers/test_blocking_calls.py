"""Blocking calls use threads of their own, whose number is bounded, also when calls hang."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from rehydrate.errors import Busy
from rehydrate.providers.blocking_calls import BlockingCalls, blocking_calls
from rehydrate.providers.toolbox import Toolbox
from rehydrate.providers.vendor_events import ToolCallDone
from rehydrate.providers.vendor_source import VendorSource
from waiting import until


@pytest.fixture
def hanging():
    """A call that hangs until the test is over; it counts how often it was begun."""
    over = threading.Event()

    def hang():
        hang.begun += 1
        over.wait(60)

    hang.begun = 0
    yield hang
    over.set()


def threads():
    return [each for each in threading.enumerate() if each.name == "rehydrate blocking call"]


async def test_a_call_returns_raises_and_sees_the_context_of_its_caller():
    calls, variable = BlockingCalls(), contextvars.ContextVar("variable")
    variable.set("here")
    assert await calls.run(variable.get) == "here"
    with pytest.raises(KeyError):
        await calls.run(lambda: {}["none"])
    with pytest.raises(RuntimeError, match="StopIteration"):
        await calls.run(lambda: next(iter(())))


async def test_threads_are_used_again_and_end_with_their_owner():
    before = set(threads())
    calls = BlockingCalls()
    for _ in range(20):
        await calls.run(int)
    assert len(set(threads()) - before) == 1
    del calls
    await until(lambda: not set(threads()) - before)


async def test_calls_over_the_limit_wait(hanging):
    calls = BlockingCalls(most=2)
    first = [calls.start(hanging) for _ in range(2)]
    waiting = calls.start(int)
    given_up = calls.start(hanging)
    calls.abandon(given_up)
    await until(lambda: hanging.begun == 2)
    assert not waiting.done()
    calls.abandon(first[0])
    assert await asyncio.wait_for(waiting, 10) == 0
    assert (calls.abandoned, hanging.begun) == (1, 2)


async def test_calls_beyond_those_that_may_wait_are_refused(hanging):
    calls = BlockingCalls(most=1, most_waiting=2)
    running, given_up, waiting = [calls.start(hanging) for _ in range(3)]
    with pytest.raises(Busy, match="2 blocking calls wait"):
        calls.start(int)
    calls.abandon(given_up)
    calls.start(int)  # in the place of the one that was given up
    for each in (running, waiting):
        calls.abandon(each)


async def test_a_thread_that_hangs_is_replaced_and_too_many_are_refused(hanging):
    calls = BlockingCalls(most=1, most_abandoned=3)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(calls.run(hanging), 0.05)
    with pytest.raises(Busy):
        calls.start(int)


async def test_abandoned_threads_that_return_count_no_longer():
    calls, over = BlockingCalls(most=1, most_abandoned=1), threading.Event()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(calls.run(lambda: over.wait(60)), 0.05)
    assert calls.abandoned == 1
    over.set()
    await until(lambda: calls.abandoned == 0)
    assert await calls.run(int) == 0


async def test_tools_that_hang_occupy_no_thread_of_the_event_loop(hanging):
    box = Toolbox({"hang": hanging, "work": lambda: "done"}, timeout_s=0.1)
    await asyncio.gather(*(box.answer(tool_call("hang", n)) for n in range(40)))
    assert hanging.begun == 40
    async with asyncio.timeout(10):
        names = await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        assert (await box.answer(tool_call("work", 99))).result == "done"
    assert names


def tool_call(name, number):
    return ToolCallDone("done", None, f"c{number}", name, "function_call", "{}", "")


async def test_streams_of_a_blocking_client_that_wait_occupy_no_thread_of_the_event_loop(hanging):
    def stream():
        hanging()
        yield {}

    sources = [VendorSource(stream(), wrap=dict, idle_timeout_s=60) for _ in range(40)]
    pulls = [asyncio.create_task(source.pull()) for source in sources]
    await until(lambda: hanging.begun == 40)
    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    for pull in pulls:
        pull.cancel()
    await asyncio.gather(*pulls, return_exceptions=True)
    for source in sources:
        source.close()
    assert blocking_calls().abandoned == 40

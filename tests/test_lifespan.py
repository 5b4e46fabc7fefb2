"""Parts open in order and close in reverse, all of them in every case."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate.lifespan import Lifespan, Part
from shared_adapters import Latch


class Parts:
    """Parts that record what is done to them; the part named in `fails` fails to open."""

    def __init__(self, *names):
        self.done = []
        self.fails = None
        self.latches = {}
        self.lifespan = Lifespan([self.part(name) for name in names])

    def part(self, name):
        async def close():
            self.done.append(f"-{name}")

        if name == "plain":  # opens without anything to await
            return Part(lambda: self.done.append("+plain"), close)
        return Part(lambda: self.open(name), close)

    async def open(self, name):
        if name in self.latches:
            await self.latches[name]()
        if name == self.fails:
            raise ZeroDivisionError
        self.done.append(f"+{name}")


async def test_parts_open_in_order_close_in_reverse_and_open_again():
    parts = Parts("a", "plain", "b")
    for _ in range(2):
        parts.done.clear()
        await parts.lifespan.open()
        await parts.lifespan.open()
        await parts.lifespan.close()
        await parts.lifespan.close()
        assert parts.done == ["+a", "+plain", "+b", "-b", "-plain", "-a"]


async def test_what_was_opened_before_a_failure_is_closed():
    parts = Parts("a", "b", "c")
    parts.fails = "b"
    with pytest.raises(ZeroDivisionError):
        await parts.lifespan.open()
    assert parts.done == ["+a", "-b", "-a"]
    parts.fails = None
    await parts.lifespan.open()
    assert parts.done[3:] == ["+a", "+b", "+c"]


async def test_what_was_opened_before_a_cancellation_is_closed():
    parts = Parts("a", "b")
    parts.latches["b"] = Latch()
    opening = asyncio.create_task(parts.lifespan.open())
    await parts.latches["b"].reached()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert parts.done == ["+a", "-b", "-a"]


async def test_opening_and_closing_do_not_interleave():
    parts = Parts("a", "b")
    parts.latches["b"] = Latch()
    opening = asyncio.create_task(parts.lifespan.open())
    await parts.latches["b"].reached()
    closing = asyncio.create_task(parts.lifespan.close())
    await asyncio.sleep(0)
    assert parts.done == ["+a"]
    parts.latches["b"].open()
    await asyncio.gather(opening, closing)
    assert parts.done == ["+a", "+b", "-b", "-a"]


def test_parts_that_a_loop_left_open_cannot_be_used_in_another_one():
    parts = Parts("a")
    asyncio.run(parts.lifespan.open())
    for call in (parts.lifespan.open, parts.lifespan.close):
        with pytest.raises(RuntimeError, match="in another event loop, that has ended"):
            asyncio.run(call())
    assert parts.done == ["+a"]


def test_closed_parts_can_be_used_in_another_loop():
    parts = Parts("a")

    async def use():
        parts.lifespan.check_loop()
        await parts.lifespan.open()
        parts.lifespan.check_loop()
        await parts.lifespan.close()

    asyncio.run(use())
    asyncio.run(use())
    assert parts.done == ["+a", "-a"] * 2

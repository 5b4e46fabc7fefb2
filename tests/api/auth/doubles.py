"""Doubles for caches of Ably's answers: an Ably that a test scripts, and a clock that it sets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from rehydrate.errors import ChannelUnavailable
from waiting import PATIENCE_S

AWAY = ChannelUnavailable("away")


class ScriptedAbly:
    """Stands in for a call to Ably. `answer` is returned, or raised; with `gate`, once it is set."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.gate = None

    async def __call__(self, *question):
        self.asked.append(question)
        if self.gate is not None:
            async with asyncio.timeout(PATIENCE_S):
                await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class SetClock:
    """A monotonic clock whose time a test sets."""

    now_s = 1000.0

    def __call__(self):
        return self.now_s


@asynccontextmanager
async def closing_all(make):
    """Yield a function that calls *make*; close everything that it made at the end."""
    made = []

    def recorded(*args, **options):
        made.append(make(*args, **options))
        return made[-1]

    try:
        yield recorded
    finally:
        for each in made:
            await each.close()


async def settle():
    """Let every task that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)

"""Waiting for what a test is about, instead of for the clock."""

from __future__ import annotations

import asyncio
import inspect

PATIENCE_S = 120.0
"""How long tests wait for what must happen: a limit for hangs only, which a busy machine must not reach."""


async def until(holds, *, within_s=PATIENCE_S):
    """Wait until *holds* (a function, or an async one) says something true; return that."""
    async with asyncio.timeout(within_s):
        while True:
            said = holds()
            if inspect.isawaitable(said):
                said = await said
            if said:
                return said
            await asyncio.sleep(0.01)

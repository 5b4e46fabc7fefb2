"""Wait for a condition instead of for the clock."""

from __future__ import annotations

import asyncio
import inspect

PATIENCE_S = 120.0
"""How long tests wait for what must happen: a limit for hangs only, which a busy machine must not reach."""


async def until(holds, *, within_s=PATIENCE_S):
    """Wait until *holds*, a function or an async one, returns a true value; return that."""
    async with asyncio.timeout(within_s):
        while True:
            value = holds()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.01)

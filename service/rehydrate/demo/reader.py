"""A reader with stock ably-python, as shown in the README and run by the check and the tests."""

# mypy: ignore-errors
# (untyped, as the README shows it)

from __future__ import annotations

# --8<-- [start:join]
from rehydrate import join


async def show(ably, name, load, render, way=1):
    """Show the conversation of channel *name* by ``render(view)``, now and live, until cancelled.

    ``await load(until=None)`` fetches ``GET /v1/conversations/{id}`` and parses it.
    """
    async with join(ably.channels.get(name), load, way=way) as conversation:
        async for view in conversation:
            render(view)


# --8<-- [end:join]

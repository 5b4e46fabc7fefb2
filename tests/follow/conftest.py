"""Fixtures: a conversation followed over Postgres, the channel server and the stock SDK."""

from __future__ import annotations

import pytest

from participants import history_over


@pytest.fixture(params=["rewind", "history"])
async def history(request, module_database, server):
    """An open `History`, once with each strategy."""
    async with history_over(module_database, server, follow_strategy=request.param) as made:
        yield made

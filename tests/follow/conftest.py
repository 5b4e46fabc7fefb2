"""Fixtures: a conversation followed over Postgres, the channel server and the stock SDK."""

from __future__ import annotations

import secrets

import pytest

from localably import LocalAbly
from participants import history_over, publisher_to


@pytest.fixture
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(params=["rewind", "history"])
async def history(request, module_database, server):
    """An open `History`, once with each strategy."""
    async with history_over(module_database, server, follow_strategy=request.param) as made:
        yield made


@pytest.fixture
def conversation():
    return f"c-{secrets.token_hex(4)}"


@pytest.fixture
async def publisher(server, conversation):
    async with publisher_to(server, f"ai:{conversation}") as made:
        yield made

"""One channel server for the session, one database per module."""

from __future__ import annotations

import pytest

from localably import LocalAbly
from replay.rooms import room_over


@pytest.fixture(scope="session")
async def replay_server():
    async with LocalAbly() as server:
        yield server


@pytest.fixture(scope="module")
async def house(module_database, replay_server):
    async with room_over(module_database, replay_server) as made:
        yield made


@pytest.fixture
def room(house):
    """A new conversation; all tests of a module share a process."""
    return house.next()

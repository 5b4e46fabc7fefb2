"""One channel server for the session, one database per module."""

from __future__ import annotations

import pytest

from localably import LocalAbly
from replay.replay_conversation import replay_conversation


@pytest.fixture(scope="session")
async def replay_server():
    async with LocalAbly() as server:
        yield server


@pytest.fixture(scope="module")
async def first_chat(module_database, replay_server):
    async with replay_conversation(module_database, replay_server) as made:
        yield made


@pytest.fixture
def chat(first_chat):
    """A new conversation; all tests of a module share a process."""
    return first_chat.next()

from __future__ import annotations

import pytest

from exactness.rooms import open_house
from rehydrate.hydrate import history_window as walking


@pytest.fixture
def simulated_time(monkeypatch):
    """The clock of a scene stands while an act runs: it would wait in vain for history."""
    monkeypatch.setattr(walking, "_RETRY_AFTER_S", ())


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made

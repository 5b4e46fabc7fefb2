from __future__ import annotations

import pytest

from exactness.rooms import open_house
from rehydrate.hydrate import history_window as walking


@pytest.fixture
def simulated_time(monkeypatch):
    """Do not wait for history to catch up: the simulated clock stands still while an act runs."""
    monkeypatch.setattr(walking, "_RETRY_AFTER_S", ())


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made

"""A channel server in this process, and the settings of a service that uses it."""

from __future__ import annotations

import os

import pytest

from demo.command_line import settings_on
from localably import LocalAbly


@pytest.fixture(autouse=True)
def without_settings(monkeypatch):
    """Remove the developer's own settings from the environment."""
    for name in list(os.environ):
        if name.startswith(("REHYDRATE_", "ABLY_")):
            monkeypatch.delenv(name)


@pytest.fixture
async def ably():
    async with LocalAbly() as server:
        yield server


@pytest.fixture
def configured(database, ably):
    """The environment of a service with a database and a channel server for this test only."""
    return settings_on(database, ably)

"""A channel server in this process, and the settings of a service on it."""

from __future__ import annotations

import os

import pytest

from demo.command_line import settings_on
from localably import LocalAbly


@pytest.fixture(autouse=True)
def without_settings(monkeypatch):
    """Whoever runs the tests may have settings of his own, which are not meant for them."""
    for name in list(os.environ):
        if name.startswith(("REHYDRATE_", "ABLY_")):
            monkeypatch.delenv(name)


@pytest.fixture
async def ably():
    async with LocalAbly() as server:
        yield server


@pytest.fixture
def configured(database, ably):
    """The environment of a service on a database and a channel server of this test's own."""
    return settings_on(database, ably)

"""One service and one channel server for all journeys, which use different conversations."""

from __future__ import annotations

import uuid

import pytest

from conftest import new_database
from journeys.stack import stacked
from rehydrate import History


@pytest.fixture(scope="session")
async def stack(postgres, template):
    async with new_database(postgres.url, template) as url, stacked(url) as running:
        yield running


@pytest.fixture
async def history(stack):
    """Our publisher, in this process."""
    async with History(stack.settings) as opened:
        yield opened


@pytest.fixture
def conversation():
    return f"j-{uuid.uuid4().hex[:8]}"

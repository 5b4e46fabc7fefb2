"""One service and one channel server for the journeys of a file."""

from __future__ import annotations

import os
import uuid

import pytest

from journeys.stack import stacked
from rehydrate import History


@pytest.fixture(scope="module", autouse=True)
def without_settings():
    """Whoever runs the tests may have settings of his own, which are not meant for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("REHYDRATE_", "ABLY_")):
                patch.delenv(name)
        yield


@pytest.fixture(scope="module")
async def stack(module_database):
    async with stacked(module_database) as running:
        yield running


@pytest.fixture
async def history(stack):
    """A publisher of ours, in this process."""
    async with History(stack.settings) as opened:
        yield opened


@pytest.fixture
def conversation():
    return f"j-{uuid.uuid4().hex[:8]}"

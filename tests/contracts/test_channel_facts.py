"""The facts of `channel.py`, over the local channel server and, where a key is given, over Ably.

`REHYDRATE_TEST_ABLY_KEY` is a key of an app that may be used for tests; without it, Ably is left out.
"""

from __future__ import annotations

import os

import pytest

from contracts.channel import FACTS, Service
from localably import LocalAbly


@pytest.fixture(params=["localably", "ably"])
async def service(request):
    if request.param == "ably":
        key = os.environ.get("REHYDRATE_TEST_ABLY_KEY")
        if not key:
            pytest.skip("REHYDRATE_TEST_ABLY_KEY is not set")
        made = Service(key)
        try:
            yield made
        finally:
            await made.close()
        return
    async with LocalAbly() as server:
        made = Service(server.key, "127.0.0.1", server.port)
        try:
            yield made
        finally:
            await made.close()


@pytest.mark.parametrize("fact", FACTS, ids=[fact.__name__ for fact in FACTS])
async def test_fact(service, fact):
    await fact(service)

"""Erasure watch: erasures by other processes invalidate conversations in memory, each once."""

from __future__ import annotations

import pytest

from rehydrate.errors import StoreUnavailable
from rehydrate.maintenance.erasure_watch import ErasureWatch
from waiting import until


class Erasures:
    """A store's answers about erasures."""

    def __init__(self):
        self.found = {}
        self.fails = 0
        self.queries = 0

    async def find(self, kept):
        self.queries += 1
        if self.fails:
            self.fails -= 1
            raise StoreUnavailable("away")
        return {each: at_ms for each, at_ms in self.found.items() if each in kept}


@pytest.fixture
def erasures():
    return Erasures()


async def test_each_erasure_invalidates_its_conversation_once(erasures):
    invalidated = []
    watch = ErasureWatch(lambda: ["a", "b"], erasures.find, invalidated.append)
    await watch.check()
    erasures.found = {"a": 1, "other": 1}
    await watch.check()
    await watch.check()
    assert invalidated == ["a"]
    erasures.found["a"] = 2
    await watch.check()
    assert invalidated == ["a", "a"]


async def test_a_conversation_that_is_read_again_is_invalidated_again(erasures):
    invalidated, kept = [], ["a"]
    watch = ErasureWatch(lambda: kept, erasures.find, invalidated.append)
    erasures.found = {"a": 1}
    await watch.check()
    kept.clear()
    await watch.check()
    assert erasures.queries == 1  # nothing in memory: no query
    kept.append("a")
    await watch.check()
    assert invalidated == ["a", "a"]


async def test_it_goes_on_after_an_outage(erasures):
    invalidated = []
    watch = ErasureWatch(lambda: ["a"], erasures.find, invalidated.append, every_s=0.01)
    erasures.found, erasures.fails = {"a": 1}, 3
    watch.open()
    await until(lambda: invalidated)
    assert erasures.fails == 0
    await watch.close()

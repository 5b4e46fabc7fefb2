"""Which channel a conversation has, and how many queries that costs."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate import channel_names
from rehydrate.channel_names import ChannelNames
from rehydrate.errors import StoreUnavailable


@pytest.fixture
def rows():
    return {"a": "ai:own"}


@pytest.fixture
def asked():
    return []


@pytest.fixture
def small_cache(monkeypatch):
    monkeypatch.setattr(channel_names, "MAX_KNOWN", 2)


@pytest.fixture
async def names(rows, asked):
    async def look(conversation_id):
        asked.append(conversation_id)
        await asyncio.sleep(0)
        if rows.get(conversation_id) == "away":
            raise StoreUnavailable("away")
        return rows.get(conversation_id)

    made = ChannelNames(look, "ai:{}".format)
    yield made
    await made.close()


async def test_a_channel_in_a_row_is_queried_once(names, asked):
    assert [await names.of("a") for _ in range(3)] == ["ai:own"] * 3
    assert asked == ["a"]


async def test_simultaneous_lookups_share_a_query(names, asked):
    assert await asyncio.gather(*(names.of("b") for _ in range(100))) == ["ai:b"] * 100
    assert asked == ["b"]


async def test_a_missing_row_is_remembered_for_a_second(names, rows, asked, monkeypatch):
    assert [await names.of("b") for _ in range(3)] == ["ai:b"] * 3
    assert asked == ["b"]
    rows["b"] = "ai:other"
    monkeypatch.setattr(names, "_is_absent", lambda _: False)  # as after the second
    assert await names.of("b") == "ai:other"
    assert asked == ["b", "b"]


async def test_a_missing_row_is_queried_again_after_that(names, rows, monkeypatch):
    monkeypatch.setattr(channel_names, "ABSENT_FOR_S", 0.0)
    assert await names.of("b") == "ai:b"
    rows["b"] = "ai:other"
    assert await names.of("b") == "ai:other"


async def test_a_query_that_fails_fails_for_all_and_is_repeated(names, rows):
    rows["c"] = "away"
    found = await asyncio.gather(*(names.of("c") for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [StoreUnavailable] * 3
    rows["c"] = "ai:back"
    assert await names.of("c") == "ai:back"


async def test_a_caller_that_is_cancelled_leaves_the_query_to_the_others(names):
    one, two = asyncio.create_task(names.of("a")), asyncio.create_task(names.of("a"))
    await asyncio.sleep(0)
    one.cancel()
    assert await two == "ai:own"


async def test_the_cache_is_bounded(small_cache, names, rows, asked):
    rows.update({name: f"ai:{name}" for name in "bc"})
    for name in "abca":
        await names.of(name)
    assert asked == ["a", "b", "c", "a"]
    for name in "xyz":
        await names.of(name)
    assert len(names._absent_until_s) == 2

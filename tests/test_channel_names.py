from __future__ import annotations

import asyncio

import pytest

from rehydrate import channel_names as naming
from rehydrate.channel_names import ChannelNames
from rehydrate.errors import StoreUnavailable


@pytest.fixture
def rows():
    return {"a": "ai:own"}


@pytest.fixture
def asked():
    return []


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


async def test_the_name_in_a_row_is_looked_for_once(names, asked):
    assert [await names.of("a") for _ in range(3)] == ["ai:own"] * 3
    assert asked == ["a"]


async def test_many_who_ask_at_once_cost_one_look(names, asked):
    assert await asyncio.gather(*(names.of("b") for _ in range(100))) == ["ai:b"] * 100
    assert asked == ["b"]


async def test_without_a_row_the_template_counts_until_there_is_one(names, rows):
    assert await names.of("b") == "ai:b"
    rows["b"] = "ai:other"
    assert await names.of("b") == "ai:other"


async def test_a_look_that_fails_fails_for_all_and_is_tried_again(names, rows):
    rows["c"] = "away"
    found = await asyncio.gather(*(names.of("c") for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [StoreUnavailable] * 3
    rows["c"] = "ai:back"
    assert await names.of("c") == "ai:back"


async def test_who_gives_up_does_not_take_it_from_the_others(names):
    one, two = asyncio.create_task(names.of("a")), asyncio.create_task(names.of("a"))
    await asyncio.sleep(0)
    one.cancel()
    assert await two == "ai:own"


async def test_what_is_known_is_bounded(names, rows, asked, monkeypatch):
    monkeypatch.setattr(naming, "MOST_KNOWN", 2)
    rows.update({name: f"ai:{name}" for name in "bc"})
    for name in "abca":
        await names.of(name)
    assert asked == ["a", "b", "c", "a"]

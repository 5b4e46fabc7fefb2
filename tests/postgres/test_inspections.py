"""What inspectors read of a real Postgres."""

from __future__ import annotations

import pytest

from contracts.messages import AT_MS, finished, put, response
from rehydrate.core.positions import Cursor
from rehydrate.core.window import Watermark
from rehydrate.errors import BadParameter


async def every(store, limit=2, **asked):
    """All pages, one after the other."""
    found, before = [], None
    while True:
        page, before = await store.listed(limit=limit, before=before, **asked)
        assert len(page) <= limit + (before is None or "query" in asked)
        found += [each.id for each in page]
        if before is None:
            return found


async def test_conversations_are_listed_newest_first_and_paged(store):
    names = [f"c{n}" for n in range(5)]
    for name in names:
        await put(store, name, finished("m", "1"))
    assert await every(store) == names[::-1]


async def test_a_conversation_shows_what_streams_in_it_and_how_it_opens(store):
    await put(
        store, "c", finished("m1", "1", "Tell me <b>a story</b>"), finished("m2", "2", "Once")
    )
    await put(store, "c", response("r1", "a"), response("r2", "b"))
    ((only,), older) = await store.listed(limit=10, before=None)
    assert (only.open, only.opens_with, only.opens_role) == (
        2,
        "Tell me <b>a story</b>",
        "assistant",
    )
    assert (only.channel, only.last_ms, only.erased, older) == ("ai:c", AT_MS, False, None)


async def test_one_that_only_streams_opens_with_nothing_and_one_erased_says_so(store):
    await put(store, "streams", response("r", "a"))
    await put(store, "gone", finished("m", "1"))
    async with store.locked("gone", "ai:gone") as held:
        await held.erase(AT_MS, [])
    gone, streams = (await store.listed(limit=10, before=None))[0]
    assert (streams.opens_with, streams.last_ms, streams.open) == (None, AT_MS, 1)
    assert (gone.erased, gone.opens_with, gone.last_ms) == (True, None, None)


async def test_a_very_long_first_message_is_not_read_for_its_beginning(store):
    await put(store, "long", finished("m", "1", "語" * 5_000))
    ((only,), _) = await store.listed(limit=10, before=None)
    assert only.opens_with is None


async def test_search_is_by_the_beginning_of_the_id_in_its_order(store):
    for name in ("ab", "abc", "abd", "b", "a", "ab%", "ab_", "abé", "AB"):
        await put(store, name, finished("m", "1"))
    wanted = sorted(["ab", "abc", "abd", "ab%", "ab_", "abé"])
    assert await every(store, query="ab") == wanted
    assert await every(store, query="ab%") == ["ab%"]
    assert await every(store, query="nothing") == []


async def test_search_finds_the_one_on_a_channel(store):
    await put(store, "elsewhere", finished("m", "1"))
    await put(store, "ai:elsewhere/2", finished("m", "1"))
    assert await every(store, limit=5, query="ai:elsewhere") == ["elsewhere", "ai:elsewhere/2"]


async def test_only_what_streams_is_listed_where_that_is_asked(store):
    for name in ("a1", "a2", "b1"):
        await put(store, name, response("r", "x"), response("s", "x"))
        await put(store, f"{name}-done", finished("m", "1"))
    assert await every(store, streaming=True) == ["a1", "a2", "b1"]
    assert await every(store, streaming=True, query="a") == ["a1", "a2"]


async def test_a_cursor_of_another_list_is_refused(store):
    with pytest.raises(BadParameter, match="another search"):
        await store.listed(limit=5, before=Cursor("17", "c"), query="c")
    with pytest.raises(BadParameter, match="cursor"):
        await store.listed(limit=5, before=Cursor("", "c"))


async def test_a_lease_is_seen_as_it_lies_there(store):
    await put(store, "c", response("r", "a"), response("bare", "a"))
    assert await store.lease_seen("c", "bare") is None
    async with store.locked("c", "ai:c") as held:
        await held.grant("r", "worker-1", 15)
    lease = await store.lease_seen("c", "r")
    assert (lease.holder, lease.expired, lease.fenced, lease.told_ms) == (
        "worker-1",
        False,
        False,
        None,
    )
    assert lease.until_ms > AT_MS
    async with store.locked("c", "ai:c") as held:
        await held.fence("r", "sweeper", -1)
    lease = await store.lease_seen("c", "r")
    assert (lease.holder, lease.expired, lease.fenced) == ("sweeper", True, True)


async def test_the_backlog_counts_what_is_open_and_the_oldest_reading(store):
    empty = await store.backlog()
    assert empty == (0, 0, None, 0)
    await put(store, "a", response("r", "x"), response("s", "x"))
    await put(store, "b", response("r", "x"), finished("m", "1"))
    for name, at_ms in (("a", AT_MS + 5), ("b", AT_MS)):
        async with store.locked(name, f"ai:{name}") as held:
            await held.move(Watermark(None, at_ms, at_ms), None)
    async with store.locked("a", "ai:a") as held:
        await held.grant("r", "dead", -1)
    assert await store.backlog() == (3, 2, AT_MS, 1)

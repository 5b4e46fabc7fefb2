"""The inspector's queries against a real Postgres."""

from __future__ import annotations

import pytest

from contracts.messages import AT_MS, finished, put, response
from rehydrate.core.positions import Cursor
from rehydrate.core.window import Watermark
from rehydrate.errors import BadParameter


async def all_pages(store, limit=2, **filters):
    """Return the ids of all pages, in order."""
    found, before = [], None
    while True:
        page, before = await store.listed(limit=limit, before=before, **filters)
        assert len(page) <= limit + (before is None or "query" in filters)
        found += [each.id for each in page]
        if before is None:
            return found


async def test_conversations_are_listed_newest_first_and_paged(store):
    names = [f"c{n}" for n in range(5)]
    for name in names:
        await put(store, name, finished("m", "1"))
    assert await all_pages(store) == names[::-1]


async def test_a_conversation_is_listed_with_its_open_responses_and_first_text(store):
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


async def test_a_conversation_without_finished_messages_and_an_erased_one_are_listed(store):
    await put(store, "streams", response("r", "a"))
    await put(store, "gone", finished("m", "1"))
    async with store.locked("gone", "ai:gone") as locked:
        await locked.erase(AT_MS, [])
    gone, streams = (await store.listed(limit=10, before=None))[0]
    assert (streams.opens_with, streams.last_ms, streams.open) == (None, AT_MS, 1)
    assert (gone.erased, gone.opens_with, gone.last_ms) == (True, None, None)


async def test_a_very_long_first_message_is_not_read(store):
    await put(store, "long", finished("m", "1", "語" * 5_000))
    ((only,), _) = await store.listed(limit=10, before=None)
    assert only.opens_with is None


async def test_search_matches_prefixes_of_ids_in_id_order(store):
    for name in ("ab", "abc", "abd", "b", "a", "ab%", "ab_", "abé", "AB"):
        await put(store, name, finished("m", "1"))
    wanted = sorted(["ab", "abc", "abd", "ab%", "ab_", "abé"])
    assert await all_pages(store, query="ab") == wanted
    assert await all_pages(store, query="ab%") == ["ab%"]
    assert await all_pages(store, query="nothing") == []


async def test_search_finds_a_conversation_by_its_whole_channel_name(store):
    await put(store, "elsewhere", finished("m", "1"))
    await put(store, "ai:elsewhere/2", finished("m", "1"))
    assert await all_pages(store, limit=5, query="ai:elsewhere") == ["elsewhere", "ai:elsewhere/2"]


async def test_only_streaming_conversations_are_listed_when_requested(store):
    for name in ("a1", "a2", "b1"):
        await put(store, name, response("r", "x"), response("s", "x"))
        await put(store, f"{name}-done", finished("m", "1"))
    assert await all_pages(store, streaming=True) == ["a1", "a2", "b1"]
    assert await all_pages(store, streaming=True, query="a") == ["a1", "a2"]


async def test_a_cursor_of_another_listing_is_rejected(store):
    with pytest.raises(BadParameter, match="another search"):
        await store.listed(limit=5, before=Cursor("17", "c"), query="c")
    with pytest.raises(BadParameter, match="cursor"):
        await store.listed(limit=5, before=Cursor("", "c"))


async def test_a_lease_is_returned_as_stored(store):
    await put(store, "c", response("r", "a"), response("bare", "a"))
    assert await store.lease_seen("c", "bare") is None
    async with store.locked("c", "ai:c") as locked:
        await locked.grant("r", "worker-1", 15)
    lease = await store.lease_seen("c", "r")
    assert (lease.holder, lease.expired, lease.fenced, lease.stop_acked_ms) == (
        "worker-1",
        False,
        False,
        None,
    )
    assert lease.until_ms > AT_MS
    async with store.locked("c", "ai:c") as locked:
        await locked.fence("r", "sweeper", -1)
    lease = await store.lease_seen("c", "r")
    assert (lease.holder, lease.expired, lease.fenced) == ("sweeper", True, True)


async def test_the_backlog_counts_open_responses_and_gives_the_oldest_read(store):
    empty = await store.backlog()
    assert empty == (0, 0, None, 0)
    await put(store, "a", response("r", "x"), response("s", "x"))
    await put(store, "b", response("r", "x"), finished("m", "1"))
    for name, at_ms in (("a", AT_MS + 5), ("b", AT_MS)):
        async with store.locked(name, f"ai:{name}") as locked:
            await locked.move(Watermark(None, at_ms, at_ms), None)
    async with store.locked("a", "ai:a") as locked:
        await locked.grant("r", "dead", -1)
    assert await store.backlog() == (3, 2, AT_MS, 1)

"""Replays in the store: queued once, held by one process, limited, and final once ended."""

from __future__ import annotations

import asyncio

import pytest

from conftest import connected
from contracts.messages import put, response
from rehydrate.core.positions import Cursor
from rehydrate.core.replay.schedule import MAX_SECONDS, AuditEntry, Replay, ReplayTerms
from rehydrate.errors import BadParameter, Busy, Conflict
from rehydrate.postgres import replays as module
from rehydrate.postgres.store import PostgresStore
from setting_clock import settable
from waiting import until

NOTE = AuditEntry("admin:1", "replay", "accepted", "c", "ai:c", "127.0.0.1", {"n": 1})
LIMITS = {"at_once": 8, "per_channel": 8}
TERMS = ReplayTerms("stream", 2.0, "ai:c", 3, 25.0)


def replay(name="x", channel="ai:c", **more):
    given = {"chunks": 5, "seconds": 1.5, "asked_by": "admin:1", "plan": {"joined": 2}, **more}
    return Replay("c", name, "r", channel, TERMS, "queued", created_ms=0, **given)


@pytest.fixture
async def replays(store: PostgresStore):
    await put(store, "c", response("r", "a", ended=True))
    return store


async def add(store, name="x", *, key=None, request=b"{}", **more):
    return await store.add_replay(replay(name, **more), request=request, key=key, note=NOTE)


async def test_a_queued_replay_is_found_unchanged(replays):
    added = await add(replays)
    assert added == replay()._replace(created_ms=added.created_ms)
    assert added.created_ms > 0
    assert await replays.find_replay("x") == added
    assert await replays.find_replay("y") is None
    assert await replays.find_replay("\0") is None


async def test_an_endless_replay_of_an_earlier_release_is_listed_with_a_finite_time(
    replays, database
):
    await add(replays)
    async with connected(database) as connection:
        await connection.execute("UPDATE replays SET seconds = 'Infinity'")
    ((found,), _) = await replays.replays(limit=1, before=None)
    assert found.body()["seconds"] == MAX_SECONDS


async def test_concurrent_requests_with_the_same_key_queue_one_replay(replays):
    added = await asyncio.gather(*(add(replays, f"x{n}", key="k") for n in range(8)))
    assert len({each.id for each in added}) == 1
    assert len((await replays.audit(limit=50, before=None))[0]) == 1
    with pytest.raises(Conflict):
        await add(replays, "y", key="k", request=b"other")
    assert (await add(replays, "z")).id == "z", "requests without a key are always queued"


async def test_requests_beyond_the_queue_limit_are_rejected(replays, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    await add(replays, "a")
    await add(replays, "b")
    with pytest.raises(Busy):
        await add(replays, "c")


async def test_each_replay_is_claimed_once_oldest_first(replays):
    for name in "abcdef":
        await add(replays, name)
    claimed = await asyncio.gather(*(replays.claim_replay(f"h{n}", 60, **LIMITS) for n in range(9)))
    assert sorted(each.id for each in claimed if each) == list("abcdef")
    assert all(each.state == "running" and each.started_ms for each in claimed if each)


@pytest.mark.parametrize(
    ("at_once", "per_channel", "running"), [(2, 8, 2), (8, 1, 3), (8, 2, 6), (1, 1, 1)]
)
async def test_concurrent_claims_respect_both_limits(replays, at_once, per_channel, running):
    for number in range(9):
        await add(replays, f"x{number}", channel=f"ai:{number % 3}")
    claimed = await asyncio.gather(
        *(
            replays.claim_replay(f"h{n}", 60, at_once=at_once, per_channel=per_channel)
            for n in range(9)
        )
    )
    assert sum(each is not None for each in claimed) == running


async def test_a_holder_that_lost_its_lease_cannot_write(replays):
    await add(replays)
    first = await replays.claim_replay("h1", 0.0, **LIMITS)
    second = await replays.claim_replay("h2", 60, **LIMITS)
    assert (first.id, first.attempts) == (second.id, second.attempts - 1)
    assert await replays.keep_replay(first, "h1", 60) is None
    done = first._replace(state="done", done=5)
    assert not await replays.end_replay(done, "h1", NOTE)
    assert (await replays.find_replay("x")).state == "running"
    assert await replays.end_replay(done, "h2", NOTE)
    assert (await replays.find_replay("x")).state == "done"
    assert await replays.keep_replay(second, "h2", 60) is None


async def test_a_step_of_the_clock_frees_no_replay_and_exceeds_no_limit(database):
    async with settable(database) as set_by:
        store = PostgresStore(database)
        await store.open()
        try:
            async with store.locked("c", "ai:c"):
                pass  # the row of the conversation
            await add(store, "x", channel="ai:1")
            await add(store, "y", channel="ai:2")
            limits = {"at_once": 1, "per_channel": 1}
            claimed = await store.claim_replay("h1", 5.0, **limits)
            await set_by(3600)
            assert await store.claim_replay("h2", 5.0, **limits) is None
            assert await store.keep_replay(claimed, "h1", 5.0) is not None
            await set_by(-7200)
            assert await store.claim_replay("h2", 0.2, **limits) is None

            async def freed():
                return await store.claim_replay("h2", 0.2, **limits)

            assert (await until(freed)).id == "x"
        finally:
            await store.close()


async def test_progress_is_stored_and_resets_the_attempts(replays):
    await add(replays)
    claimed = await replays.claim_replay("h", 60, **LIMITS)
    assert claimed.attempts == 1
    further = claimed._replace(done=3, seconds_done=0.7, gen=2, gen_from=1)
    assert await replays.keep_replay(further, "h", 60) == "play"
    found = await replays.find_replay("x")
    assert (found.done, found.seconds_done, found.gen, found.gen_from, found.attempts) == (
        3,
        0.7,
        2,
        1,
        0,
    )
    await replays.release_replay(found._replace(done=4), "h", begun=False)
    again = await replays.claim_replay("h2", 60, **LIMITS)
    assert (again.done, again.gen, again.attempts) == (4, 2, 1)


async def test_a_replay_is_cancelled_once(replays):
    for name in "ab":
        await add(replays, name)
    running = await replays.claim_replay("h", 60, **LIMITS)
    assert (running.id, running.cancel_asked) == ("a", False)
    for name in "ab":
        assert await replays.cancel_replay(name, NOTE)
        before = await replays.find_replay(name)
        assert not await replays.cancel_replay(name, NOTE)
        assert await replays.find_replay(name) == before
    assert (await replays.find_replay("b")).state == "cancelled"
    assert (await replays.find_replay("a")).state == "running"
    assert await replays.keep_replay(running, "h", 60) == "cancel"
    entries, _ = await replays.audit(limit=4, before=None)
    assert [each.outcome for each in entries] == ["unchanged", "accepted"] * 2


@pytest.mark.parametrize("begun", [False, True])
async def test_a_release_is_no_failed_attempt_but_shows_whether_the_replay_has_begun(
    replays, begun
):
    await add(replays)
    for claims in range(1, 5):
        claimed = await replays.claim_replay("h", 60, **LIMITS)
        assert claimed.attempts == (2 if begun and claims > 1 else 1)
        await replays.release_replay(claimed, "h", begun=begun)


async def test_replays_are_listed_newest_first_in_pages(replays):
    for number in range(5):
        await add(replays, f"x{number}")
    found, before = [], None
    while True:
        page, before = await replays.replays(limit=2, before=before)
        found += [each.id for each in page]
        if before is None:
            break
    assert found == ["x4", "x3", "x2", "x1", "x0"]
    for wrong in ("", "x", "9" * 30):
        with pytest.raises(BadParameter):
            await replays.replays(limit=2, before=Cursor(wrong, "x"))


async def test_audit_entries_are_listed_newest_first_in_pages(store):
    for number in range(5):
        await store.note(NOTE._replace(action=f"a{number}", detail=None))
    await store.note(AuditEntry("reader:é", "GET", "refused: forbidden"))
    found, before = [], None
    while True:
        page, before = await store.audit(limit=2, before=before)
        found += page
        if before is None:
            break
    assert [each.action for each in found] == ["GET", "a4", "a3", "a2", "a1", "a0"]
    assert found[0][:7] == ("reader:é", "GET", "refused: forbidden", "", None, None, None)
    assert all(each.at_ms for each in found)
    for wrong in ("", "x", "-1", "9" * 30):
        with pytest.raises(BadParameter):
            await store.audit(limit=2, before=Cursor(wrong, ""))


async def test_erasing_a_conversation_deletes_its_replays_and_keeps_the_audit(replays):
    for name in ("x", "y"):
        await add(replays, name)
    await replays.claim_replay("h", 60, **LIMITS)
    async with replays.locked("c", "ai:c") as locked:
        await locked.erase(1_763_720_100_000, ())
    assert await replays.find_replay("y") is None
    assert len((await replays.audit(limit=5, before=None))[0]) == 2


async def test_of_a_running_replay_an_erasure_leaves_what_its_stop_needs(replays, database):
    await add(replays, key="k")
    claimed = await replays.claim_replay("h", 60, **LIMITS)
    async with replays.locked("c", "ai:c") as locked:
        await locked.erase(1_763_720_100_000, ())
    assert await replays.keep_replay(claimed, "h", 60) == "erased"
    async with connected(database) as connection:
        (row,) = await connection.fetch("SELECT * FROM replays")
    assert (row["request"], row["plan"], row["idempotency_key"]) == (b"", b"{}", None)
    assert await replays.end_replay(claimed._replace(state="cancelled"), "h", NOTE)
    async with replays.locked("c", "ai:c") as locked:
        await locked.erase(1_763_720_200_000, ())
    assert await replays.find_replay("x") is None


async def test_a_tombstone_names_an_old_response_that_was_replayed_recently(replays, database):
    await add(replays)
    async with connected(database) as connection:
        await connection.execute("UPDATE messages SET finished_at = '2020-01-01'")
    async with replays.locked("c", "ai:c") as locked:
        await locked.erase(1_763_720_100_000, ())
        assert locked.conversation.tombstone.erases("r")


async def test_each_replay_is_claimed_once_behind_a_pooler(pooled_database):
    store = PostgresStore(pooled_database)
    await store.open()
    try:
        await put(store, "c", response("r", "a", ended=True))
        for name in "abc":
            await add(store, name)
        claimed = await asyncio.gather(
            *(store.claim_replay(f"h{n}", 60, **LIMITS) for n in range(5))
        )
        assert sorted(each.id for each in claimed if each) == list("abc")
    finally:
        await store.close()


async def test_a_stored_replay_contains_no_message_text(replays, database):
    await add(replays)
    async with connected(database) as connection:
        (row,) = await connection.fetch("SELECT * FROM replays")
    assert b"secret" not in b"".join(value for value in row.values() if isinstance(value, bytes))

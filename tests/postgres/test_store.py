"""Behaviour of the Postgres store beyond the contract: due responses, the view, disk usage."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from conftest import connected
from contracts.messages import AT_MS, event_of, finished, further, put, response
from rehydrate.core import wire
from rehydrate.core.fold import fold
from rehydrate.core.text.content import collapsed_run
from rehydrate.postgres.message_rows import inflated
from rehydrate.postgres.store import PostgresStore


@pytest.fixture
async def without_grace(database: str) -> AsyncIterator[PostgresStore]:
    """A store without a grace period after a restart of Postgres."""
    store = PostgresStore(database, grace_s=0)
    await store.open()
    yield store
    await store.close()


async def granted(store: PostgresStore, conversation: str, lease_s: float, state) -> None:
    async with store.locked(conversation, f"ai:{conversation}") as locked:
        await locked.put([state])
        await locked.grant(state.id, "holder", lease_s)


async def test_expired_leases_without_an_acknowledged_stop_are_due(without_grace) -> None:
    await granted(without_grace, "c", 0, response("open"))
    await granted(without_grace, "d", 0, response("ended", ended=True))
    await granted(without_grace, "e", 60, response("alive"))
    await granted(without_grace, "f", 0, response("told", ended=True))
    async with without_grace.locked("f", "ai:f") as locked:
        await locked.set_stop_acked("told")
    await put(without_grace, "g", response("without-lease"))
    assert set(await without_grace.due(limit=10)) == {("c", "open", "ai:c"), ("d", "ended", "ai:d")}
    assert len(await without_grace.due(limit=1)) == 1


async def test_nothing_is_due_during_the_grace_period_after_a_restart(
    database, without_grace
) -> None:
    await granted(without_grace, "c", 0, response("open"))
    patient = PostgresStore(database, grace_s=10**6)
    await patient.open()
    try:
        assert await patient.due(limit=10) == []
    finally:
        await patient.close()


async def readable(database: str, conversation: str) -> list[dict]:
    async with connected(database) as connection:
        rows = await connection.fetch(
            "SELECT * FROM messages_readable WHERE conversation_id = $1 ORDER BY position",
            conversation,
        )
    return [dict(row) for row in rows]


async def test_the_readable_view_shows_what_the_wire_form_contains(store, database: str) -> None:
    state = response("m", "Hel", "lo “語” 😀", prompt_id="p")
    fold(state, event_of("tool_call", "m", 3, tool_call_id="t", name="n", value={"a": [1]}))
    fold(state, event_of("stop", "m", 4, value={"tokens": 7}, error="slow", status="failed"))
    state.metadata = {"model": "x"}
    await put(store, "c", state, response("open", "not yet", serial="~"))
    plain, still_open = await readable(database, "c")
    body = wire.message(state)
    assert plain["text"] == body["text"]
    for name in ("parts", "usage", "error", "metadata", "through"):
        assert json.loads(plain[name]) == json.loads(json.dumps(body[name]))
    assert (plain["status"], plain["prompt_id"], plain["exact"]) == ("failed", "p", True)
    assert still_open["status"] == "in_progress"
    assert (still_open["text"], still_open["parts"]) == (None, None)


async def test_the_readable_view_shows_a_compacted_text_twice(store, database: str) -> None:
    await put(store, "c", finished("m", "1", 'a "text" \\ 語'))
    (row,) = await readable(database, "c")
    assert row["text"] == 'a "text" \\ 語'
    assert json.loads(row["parts"]) == [{"type": "text", "text": row["text"]}]


@pytest.mark.parametrize("text", ["\0", "a\0b\ud83d", "\ud83d \\u0000", "\ude00語"])
async def test_characters_that_jsonb_rejects_are_shown_as_replacements(
    store, database: str, text: str
) -> None:
    await put(store, "c", finished("m", "1", text), finished("n", "2", "plain"))
    odd, plain = await readable(database, "c")
    assert "\ufffd" in odd["text"]
    assert json.loads(odd["parts"])[0]["text"] == odd["text"]
    assert plain["text"] == "plain"


async def test_a_finished_message_takes_little_more_space_than_its_text(
    store, database: str
) -> None:
    text = "".join(chr(97 + (n * 7919) % 26) for n in range(6_000))
    state = finished("m", "1", text)
    state.runs = [collapsed_run(0, 0, [{"type": "text", "text": text}], AT_MS)]
    await put(store, "c", state)
    async with connected(database) as connection:
        row = await connection.fetchrow(
            "SELECT length(facts) + length(wire) + length(tape) AS bytes FROM messages"
        )
    assert row["bytes"] < len(text) + 600


async def test_writes_of_an_open_message_append_chunks_and_leave_its_row(
    store, database: str
) -> None:
    await put(store, "c", response("m", "first "))
    async with connected(database) as connection:
        before = await connection.fetch("SELECT ctid, xmin FROM messages")
        for seq in range(2, 12):
            await further(store, "c", event_of("token", "m", seq, text="more "))
        assert await connection.fetch("SELECT ctid, xmin FROM messages") == before
        rows = await connection.fetch("SELECT ordinal, xmin FROM chunks ORDER BY ordinal")
        assert [row["ordinal"] for row in rows] == list(range(11))
        assert len({row["xmin"] for row in rows}) == 11
        await further(store, "c", event_of("stop", "m", 12))
        assert await connection.fetchval("SELECT count(*) FROM chunks") == 0


async def test_chunks_replaced_by_a_repair_are_deleted(store, database: str) -> None:
    await put(store, "c", response("m", "a", "b"))
    await further(store, "c", event_of("token", "m", 3, text="c"))
    await further(store, "c", event_of("repair", "m", 3, text="whole", serial="~"))
    async with connected(database) as connection:
        bodies = [row[0] for row in await connection.fetch("SELECT body FROM chunks")]
    assert len(bodies) == 1
    assert b"whole" in inflated(bodies[0])

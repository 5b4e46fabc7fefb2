"""Query plans of a reader's statements do not depend on planner statistics."""

from __future__ import annotations

import re

import pytest

from conftest import connected
from contracts.messages import finished, put
from rehydrate.postgres import statements
from rehydrate.postgres.store import _READING

ALL_STATEMENTS = {
    name: sql
    for name, sql in vars(statements).items()
    if name.isupper() and not name.startswith("_") and isinstance(sql, str)
}
ACROSS_CONVERSATIONS = {
    *("CONVERSATIONS", "CONVERSATIONS_BEFORE", "FLOOR", "NOW_MS", "VERSION"),
    *("BACKLOG", "FOUND", "FOUND_ON_CHANNEL", "FOUND_STREAMING"),  # inspector
    *("NEWEST", "NEWEST_BEFORE"),  # inspector
    *("KEY_CAPABILITY",),  # of an Ably key
    *("DUE", "ERASED", "IDLE", "ON_CHANNELS", "OVERDUE"),  # sweeper, erasure watcher, webhooks
}


@pytest.fixture
async def skewed(store, database: str) -> str:
    """Many small conversations, and a long one that was written after the last ANALYZE."""
    for number in range(40):
        await put(store, f"small{number}", *(finished(f"m{n}", f"{n}") for n in range(10)))
    async with connected(database) as connection:
        await connection.execute("ANALYZE")
    for first in range(0, 4_000, 1_000):
        numbers = range(first, first + 1_000)
        await put(store, "large", *(finished(f"m{n:05}", f"{n:05}") for n in numbers))
    return database


async def plan_of(database: str, sql: str, *arguments: str) -> str:
    async with connected(database) as connection:
        for name, value in _READING.items():
            await connection.execute(f"SET {name} = {value}")
        await connection.execute(f"PREPARE asked AS {sql}")
        given = ", ".join(arguments)
        rows = await connection.fetch(f"EXPLAIN (ANALYZE) EXECUTE asked({given})")
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("conversation", ["large", "small3"])
@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_page_is_read_in_index_order_without_a_sort(
    skewed: str, conversation: str, analyzed: bool
) -> None:
    if analyzed:
        async with connected(skewed) as connection:
            await connection.execute("ANALYZE")
    for sql, more in ((statements.LOAD, ()), (statements.LOAD_BEFORE, ("'02000'", "'x'"))):
        plan = await plan_of(skewed, sql, f"'{conversation}'", "51", "8000000", *more)
        page = plan.partition("Limit")[2].partition("->  Nested Loop")[0]
        assert "Index Scan Backward using ix_messages_finished" in page
        assert "Sort" not in page
        read = re.search(r"ix_messages_finished.*rows=(\d+)(?:\.\d+)? loops=1\)", page)
        assert int(read[1]) <= 51


async def test_open_messages_are_found_by_their_own_index(skewed: str) -> None:
    plan = await plan_of(skewed, statements.LOAD, "'large'", "51", "8000000")
    assert "using ix_messages_open" in plan


async def test_messages_are_found_by_primary_key(skewed: str) -> None:
    serials = "ARRAY['p00007']"
    for sql, *more in (
        (statements.STATES,),
        (statements.STATES_AT_SERIALS, serials),
        (statements.RELATED, serials, "'p00007'"),
    ):
        plan = await plan_of(skewed, sql, "'large'", "ARRAY['m00007', 'm03000']", *more)
        assert "using pk_messages" in plan
        assert "Seq Scan on messages" not in plan


@pytest.mark.parametrize("name", sorted(ALL_STATEMENTS.keys() - ACROSS_CONVERSATIONS))
def test_a_statement_is_confined_to_one_conversation(name: str) -> None:
    sql = ALL_STATEMENTS[name]
    assert re.search(r"conversation_id = \$1|\bid = \$1|VALUES \(\$1|SELECT \$1", sql)

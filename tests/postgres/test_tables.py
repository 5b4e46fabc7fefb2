"""Every CHECK constraint rejects the rows that it is meant to reject."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from sqlalchemy import CheckConstraint

from conftest import connected
from rehydrate.postgres.tables import metadata

CONVERSATION = {"id": "'c'", "channel": "'ai:c'", "created_at": "now()"}
OPEN = {
    "conversation_id": "'c'",
    "id": "'m'",
    "role": "'assistant'",
    "status": "'in_progress'",
    "gen": "1",
    "facts": "''",
}
FINISHED = {
    **OPEN,
    "status": "'completed'",
    "finished_at": "now()",
    "position": "'1'",
    "wire": "'{}'",
    "tape": "''",
}
CHUNK = {"conversation_id": "'c'", "message_id": "'m'", "ordinal": "0", "body": "''", "tape": "''"}
LEASE = {"conversation_id": "'c'", "message_id": "'m'", "holder": "'h'", "until": "now()"}
REPLAY = {
    "conversation_id": "'c'",
    "id": "'r'",
    "message_id": "'m'",
    "channel": "'ai:c'",
    "mode": "'stream'",
    "speed": "1",
    "from_seq": "0",
    "max_rate": "25",
    "state": "'running'",
    "chunks": "5",
    "seconds": "1",
    "asked_by": "'admin'",
    "request": "''",
    "created_at": "now()",
    "started_at": "now()",
    "lease_holder": "'h'",
    "lease_until": "now()",
}
AUDIT = {
    "conversation_id": "'c'",
    "at": "now()",
    "actor": "'a'",
    "action": "'x'",
    "outcome": "'done'",
}
NULL = "NULL"

INVALID: list[tuple[str, dict[str, str], dict[str, str], str]] = [
    ("conversations", CONVERSATION, {"read_at": "now()"}, "watermark_whole"),
    ("conversations", CONVERSATION, {"watermark_serial": "'1'"}, "watermark_serial_timed"),
    ("conversations", CONVERSATION, {"holes": "'{}'"}, "holes_listed"),
    ("messages", FINISHED, {"role": "'system'"}, "role_known"),
    ("messages", FINISHED, {"status": "'done'"}, "status_known"),
    ("messages", OPEN, {"gen": "0"}, "gen_counts_from_1"),
    ("messages", OPEN, {"role": "'user'"}, "prompt_terminal"),
    ("messages", OPEN, {"finished_at": "now()"}, "finished_when_terminal"),
    ("messages", FINISHED, {"finished_at": NULL}, "finished_when_terminal"),
    ("messages", FINISHED, {"wire": NULL, "tape": NULL}, "wire_when_terminal"),
    ("messages", OPEN, {"wire": "'{}'", "tape": "''"}, "wire_when_terminal"),
    ("messages", FINISHED, {"tape": NULL}, "tape_with_wire"),
    ("messages", FINISHED, {"position": NULL}, "placed_when_terminal"),
    ("chunks", CHUNK, {"ordinal": "-1"}, "ordinal_counts"),
    ("leases", LEASE, {"until": NULL}, "whole"),
    ("leases", LEASE, {"told_at": "now()"}, "told_ends"),
    ("replays", REPLAY, {"mode": "'loop'"}, "mode_known"),
    ("replays", REPLAY, {"state": "'paused'", "lease_holder": NULL, "lease_until": NULL},
     "state_known"),
    ("replays", REPLAY, {"speed": "-1"}, "speed_in_range"),
    ("replays", REPLAY, {"speed": "'NaN'"}, "speed_in_range"),
    ("replays", REPLAY, {"from_seq": "-1"}, "from_seq_counts"),
    ("replays", REPLAY, {"max_rate": "0"}, "max_rate_positive"),
    ("replays", REPLAY, {"done": "6"}, "progress_in_range"),
    ("replays", REPLAY, {"attempts": "-1"}, "attempts_count"),
    ("replays", REPLAY, {"finished_at": "now()"}, "finished_when_terminal"),
    ("replays", REPLAY, {"started_at": NULL}, "started_when_running"),
    ("replays", REPLAY, {"lease_until": NULL}, "lease_whole"),
    ("replays", REPLAY, {"state": "'queued'"}, "leased_when_running"),
    ("replays", REPLAY, {"seconds_done": "-1"}, "seconds_done_counts"),
    ("replays", REPLAY, {"gen": "0"}, "gen_counts_from_1"),
    ("replays", REPLAY, {"gen_from": "6"}, "gen_from_in_range"),
    ("schema_floor", {"revision": "'x'"}, {"alone": "false"}, "alone"),
]  # fmt: skip


async def insert(connection: asyncpg.Connection, table: str, row: dict[str, str]) -> None:
    columns, values = ", ".join(row), ", ".join(row.values())
    await connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({values})")


@pytest.fixture(scope="module")
async def tables(module_database: str) -> Any:
    async with connected(module_database) as connection:
        yield connection


@pytest.fixture
async def connection(tables: asyncpg.Connection) -> Any:
    """Return a connection in a transaction that is rolled back after the test."""
    transaction = tables.transaction()
    await transaction.start()
    yield tables
    await transaction.rollback()


async def test_valid_rows_are_accepted(connection) -> None:
    rows = (
        ("conversations", CONVERSATION), ("messages", OPEN), ("chunks", CHUNK), ("leases", LEASE),
        ("messages", {**FINISHED, "id": "'n'"}), ("replays", REPLAY), ("audit", AUDIT),
    )  # fmt: skip
    for table, row in rows:
        await insert(connection, table, row)


@pytest.mark.parametrize(("table", "row", "change", "rule"), INVALID)
async def test_an_invalid_row_is_rejected_with_the_name_of_the_constraint(
    connection, table: str, row: dict, change: dict, rule: str
) -> None:
    if table != "conversations":
        await insert(connection, "conversations", CONVERSATION)
    if table == "leases":
        await insert(connection, "messages", OPEN)
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await insert(connection, table, {**row, **change})
    assert caught.value.constraint_name == f"ck_{table}_{rule}"


def test_every_check_constraint_has_a_test() -> None:
    named = {
        (table.name, str(each.name).removeprefix(f"ck_{table.name}_"))
        for table in metadata.sorted_tables
        for each in table.constraints
        if isinstance(each, CheckConstraint)
    }
    assert named == {(table, rule) for table, _, _, rule in INVALID}


def test_every_primary_key_begins_with_the_conversation() -> None:
    for table in metadata.sorted_tables:
        if table.name in ("schema_floor", "key_capabilities"):
            continue  # a few rows for the whole database
        first = next(iter(table.primary_key.columns)).name
        assert first == ("id" if table.name == "conversations" else "conversation_id")

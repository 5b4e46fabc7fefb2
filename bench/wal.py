"""WAL bytes per byte of text, for a response of 2,000 tokens as `respond` stores it.

After a checkpoint Postgres writes every modified page to the WAL completely; the embedded Postgres
compresses those pages, your own does so depending on `wal_compression`. How many pages there are to be
modified depends on the size of the database, so a large one is measured as well.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

import asyncpg
from bench._context import context
from bench._table import Row, show
from bench.store import START_MS, fill, tokens

from rehydrate.context import PublishOptions
from rehydrate.core.event import Event
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.postgres.migrations import migrate
from rehydrate.postgres.store import PostgresStore
from rehydrate.postgres.url import connect_arguments
from rehydrate.publish.checkpoints import Checkpoints

WARM, AFTER_CHECKPOINT = 4, 7
CHECKPOINTS = {"50 tokens per second": 13, "25 tokens a second": 27}
"""Number of checkpoints of a response of 2,000 tokens, at one per 3 s."""

CONVERSATIONS = """
    INSERT INTO conversations (id, channel, created_at)
    SELECT md5(n::text), 'ai:' || n, now() FROM generate_series(1, $1::int) AS n
"""
MESSAGES = """
    INSERT INTO messages (conversation_id, id, role, status, gen, position, started_at,
        finished_at, facts, wire, tape)
    SELECT md5(n::text), id, role, status, gen, position, started_at, finished_at, facts, wire, tape
    FROM messages, generate_series(1, $1::int) AS n WHERE conversation_id = 'seed'
"""
LEASES = """
    INSERT INTO leases (conversation_id, message_id, told_at)
    SELECT conversation_id, id, now() FROM messages WHERE $1::int > 0 ON CONFLICT DO NOTHING
"""
PER_CONVERSATION = 5
ROUNDS = 5


async def enlarge(url, conversations):
    store = PostgresStore(url)
    await store.open()
    await fill(store, "seed", PER_CONVERSATION)
    await store.close()
    connection = await asyncpg.connect(**connect_arguments(url))
    for sql in (CONVERSATIONS, MESSAGES, LEASES):
        await connection.execute(sql, conversations)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def setting(url, value):
    connection = await asyncpg.connect(**connect_arguments(url))
    await connection.execute(f"ALTER DATABASE postgres SET wal_compression = {value}")
    await connection.close()


class Said:
    """A stand-in for the writer of `respond`: the part that its checkpoints read."""

    closed = metadata = None

    def __init__(self, response_id):
        self.id = response_id
        self.unstored, self.position = [], None

    def stored(self, count):
        del self.unstored[:count]


async def respond(store, conversation, response_id, checkpoints):
    """Store one response as `respond` does; return the size of its text in bytes."""
    ctx = context(store, None, lambda: START_MS, options=PublishOptions("agent"))
    ledger = Checkpoints(ctx, conversation)
    await ledger.claim(response_id, None, None)
    said, events = Said(response_id), tokens(response_id, len(response_id))
    said.position = events[0].serial
    step = -(-len(events) // checkpoints)
    for number, first in enumerate(range(0, len(events), step)):
        ledger.renew_s = ledger.lease_s / 3 * (number % 2)  # time flies here: every other renews
        said.unstored = [each._replace(serial=None, id=None) for each in events[first:][:step]]
        await ledger.checkpoint(said)
    stop = Event("stop", response_id, 1, len(events), timestamp_ms=START_MS, client_id="agent")
    await ledger.commit(said, [stop])
    await ledger.mark_stop_acked(said)
    return sum(len((event.text or "").encode()) for event in events)


async def bytes_a_byte(url, name, checkpoints, before):
    """Measure a response in a conversation with others, started directly after *before*."""
    store = PostgresStore(url)
    connection = await asyncpg.connect(**connect_arguments(url))
    await store.open()
    try:
        for turn in range(2):
            await respond(store, name, f"warm-{turn}", checkpoints)
        found = []
        for turn in range(ROUNDS):
            await connection.execute(before)
            start = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
            size = await respond(store, name, f"measured-{turn}", checkpoints)
            sql = "SELECT pg_current_wal_insert_lsn() - $1::pg_lsn"
            found.append(float(await connection.fetchval(sql, start)) / size)
        return statistics.median(found)
    finally:
        await connection.close()
        await store.close()


async def rows_of(url, where, turn):
    for speed, checkpoints in CHECKPOINTS.items():  # before any checkpoint: warm is warm
        warm = await bytes_a_byte(url, f"{turn}-{checkpoints}", checkpoints, "SELECT 1")
        yield Row(f"{where}, {speed}: warm", warm, "x", WARM)
    for compression in ("DEFAULT", "off"):
        await setting(url, compression)
        whole = await bytes_a_byte(url, f"{turn}-{compression}", 13, "CHECKPOINT")
        what = "after a checkpoint of Postgres"
        if compression == "off":
            yield Row(f"  {what}, wal_compression off", whole, "x")
        else:
            yield Row(f"{where}, 50 tokens per second: {what}", whole, "x", AFTER_CHECKPOINT)
    await setting(url, "DEFAULT")


async def measure(url, options):
    await migrate(url)
    rows = [row async for row in rows_of(url, "alone", "small")]
    await enlarge(url, options.large // PER_CONVERSATION)
    return rows + [row async for row in rows_of(url, f"with {options.large:,} messages", "large")]


def main(argv):
    parser = argparse.ArgumentParser(prog="bench wal", description=__doc__.partition("\n")[0])
    parser.add_argument("--large", type=int, default=100_000, help="messages of the large database")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, EmbeddedPostgres(Path(folder)) as pg:
        return show(asyncio.run(measure(pg.url, options)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

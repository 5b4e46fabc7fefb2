"""The Postgres adapter: reads and writes relative to the raw driver, and the cost of a page by size."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from rehydrate.core import wire
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.text.content import collapsed_run
from rehydrate.core.timeline import Timeline
from rehydrate.core.window import Watermark
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.postgres.migrations import migrate
from rehydrate.postgres.store import PostgresStore
from rehydrate.postgres.url import connect_arguments

FINISHED, OPEN, TOKENS, CHUNKS = 200, 3, 2_000, 80
BODY_BYTES = 1_800
WORDS = (Path(__file__).parents[1] / "LICENSE").read_text().split()
START_MS = 1_763_720_000_000

COPIES = """
    INSERT INTO messages (conversation_id, id, role, status, gen, position, started_at,
        finished_at, facts, wire, tape)
    SELECT conversation_id, id || '-' || n, role, status, gen, position || '-' || n, started_at,
        finished_at, facts, wire, tape
    FROM messages, generate_series(1, $1::int) AS n WHERE conversation_id = 'large'
"""


def prose(length: int, seed: int) -> str:
    source, text = random.Random(seed), ""
    while len(text) < length:
        text += source.choice(WORDS) + " "
    return text[:length]


def finished(index: int) -> MessageState:
    state = MessageState(f"resp_{index:06d}")
    at_ms = START_MS + index * 1000
    parts = [{"type": "text", "text": prose(BODY_BYTES, index)}]
    state.runs = [collapsed_run(0, 40, parts, at_ms)]
    state.seq = state.end = 40
    state.status, state.started_ms, state.finished_ms = "completed", at_ms, at_ms + 900
    state.position = f"{at_ms}-{index:06d}@a:000"
    return state


async def fill(store: PostgresStore, conversation: str, count: int) -> None:
    for first in range(0, count, 500):
        async with store.locked(conversation, f"ai:{conversation}") as held:
            await held.put([finished(i) for i in range(first, min(first + 500, count))])
            await held.move(Watermark("x", START_MS, START_MS), None)


def tokens(message_id: str, seed: int) -> list[Event]:
    source, text, events = random.Random(seed), prose(TOKENS * 5, seed), []
    at, at_ms = 0, START_MS + seed
    for seq in range(TOKENS):
        length = source.choice([2, 3, 4, 4, 5])
        at_ms += source.choice([4, 18, 20, 25, 40])
        serial = f"{at_ms}-{seq:03d}@abcdefgh:000"
        kind = "start" if seq == 0 else "token"
        said = None if seq == 0 else text[at : at + length]
        id_ = f"{message_id}:1:{seq}"
        events.append(
            Event(kind, message_id, 1, seq, serial, id_, "agent", timestamp_ms=at_ms, text=said)
        )
        at += length
    return events


async def stream(store: PostgresStore, conversation: str, message_id: str, chunks: int) -> int:
    """Checkpoint one response as a publisher does; return the size of its text in bytes."""
    events = tokens(message_id, len(message_id))
    step = -(-len(events) // chunks)
    for first in range(0, len(events), step):
        async with store.locked(conversation, f"ai:{conversation}") as held:
            state = (await held.messages([message_id])).get(message_id)
            state = state or MessageState(message_id)
            for event in events[first : first + step]:
                fold(state, event)
            await held.put([state])
            await held.grant(message_id, "holder", 15)
    return sum(len((event.text or "").encode()) for event in events)


async def end(store: PostgresStore, conversation: str, message_id: str) -> None:
    async with store.locked(conversation, f"ai:{conversation}") as held:
        state = (await held.messages([message_id]))[message_id]
        at_ms = START_MS + 10**6
        fold(state, Event("stop", message_id, 1, TOKENS, f"{at_ms}-0", timestamp_ms=at_ms,
                          client_id="agent"))  # fmt: skip
        await held.put([state])
    async with store.locked(conversation, f"ai:{conversation}") as held:
        await held.set_stop_acked(message_id)


async def side_by_side(rounds: int, **ways: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Return the median ms of each variant, run in turns."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            await way()
            took[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(times) for name, times in took.items()}


async def reading(store: PostgresStore, url: str, rounds: int) -> dict[str, float]:
    await fill(store, "c", FINISHED)
    for index in range(OPEN):
        await stream(store, "c", f"open_{index}", CHUNKS)
    connection = await asyncpg.connect(**connect_arguments(url))
    await connection.execute("CREATE TABLE floor (c text, n int, body bytea, PRIMARY KEY (c, n))")
    await connection.execute("ALTER TABLE floor SET (toast_tuple_target = 8160)")
    loaded = await store.load("c", limit=FINISHED, before=None)
    bodies = [row.wire for row in loaded.finished] + [wire.encode(state) for state in loaded.open]
    await connection.executemany("INSERT INTO floor VALUES ('c', $1, $2)", list(enumerate(bodies)))
    await connection.execute("VACUUM ANALYZE")

    async def floor() -> bytes:
        rows = await connection.fetch("SELECT body FROM floor WHERE c = $1 ORDER BY n", "c")
        return b",".join(row[0] for row in rows)

    async def load() -> object:
        return await store.load("c", limit=FINISHED, before=None)

    async def load_and_encode() -> bytes:
        stored = await store.load("c", limit=FINISHED, before=None)
        wires = [row.wire for row in stored.finished] + [wire.encode(s) for s in stored.open]
        return b",".join(wires)

    try:
        ms = await side_by_side(rounds, floor=floor, load=load, load_and_encode=load_and_encode)
    finally:
        await connection.close()
    return {**{f"{name}_ms": value for name, value in ms.items()},
            "load_of_floor": ms["load"] / ms["floor"],
            "load_and_encode_of_floor": ms["load_and_encode"] / ms["floor"]}  # fmt: skip


async def paging(store: PostgresStore, url: str, rounds: int, large: int) -> dict[str, float]:
    await fill(store, "small", 100)
    await fill(store, "large", 100)
    connection = await asyncpg.connect(**connect_arguments(url))
    await connection.execute(COPIES, large // 100 - 1)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()

    async def small() -> object:
        return await store.load("small", limit=50, before=None)

    async def big() -> object:
        return await store.load("large", limit=50, before=None)

    ms = await side_by_side(rounds, small=small, large=big)
    return {"page_of_100_ms": ms["small"], f"page_of_{large}_ms": ms["large"],
            "large_of_small": ms["large"] / ms["small"]}  # fmt: skip


async def recording(store: PostgresStore, responses: int) -> dict[str, float]:
    """Return channel messages per second, folded and stored in pages of 1,000 as a recorder does."""
    logs = [[e._replace(id=f"{n}:{e.id}") for e in tokens(f"rec_{n}", n)] for n in range(responses)]
    rounds = zip(*(iter(log) for log in logs), strict=True)
    events = [event for at_once in rounds for event in at_once]
    began = time.perf_counter()
    for first in range(0, len(events), 1_000):
        page = events[first : first + 1_000]
        async with store.locked("rec", "ai:rec") as held:
            known = await held.messages({event.message_id for event in page})
            timeline = Timeline(known.values())
            timeline.fold(page)
            await held.put([state for state in timeline.messages.values() if state.changed])
            await held.move(Watermark(page[-1].serial, page[-1].timestamp_ms, START_MS), None)
    took_s = time.perf_counter() - began
    return {f"recorded_{responses}_at_once_a_second": len(events) / took_s}


async def measure(argv: argparse.Namespace, url: str) -> dict[str, float]:
    await migrate(url)
    store = PostgresStore(url)
    await store.open()
    try:
        return {
            **await reading(store, url, argv.rounds),
            **await recording(store, 1),
            **await recording(store, 10),
            **await recording(store, 50),
            **await paging(store, url, argv.rounds, argv.large),
        }
    finally:
        await store.close()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench store", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, EmbeddedPostgres(Path(folder)) as pg:
        found = asyncio.run(measure(asked, pg.url))
    for name, value in found.items():
        sys.stderr.write(f"{name:32} {value:10.3f}\n")
    if asked.json:
        sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

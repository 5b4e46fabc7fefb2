"""Recording: a hundred concurrent responses within Ably's rates, and a long catch-up.

    python -m bench recording [--responses 100] [--seconds 5] [--messages 100000] [--only NAME,NAME]

The channel server and Postgres are separate processes; the publishers are in this one, on one core. A
token's delay is the time from its `write` to the acknowledgement of its channel message.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from ably import AblyRealtime
from ably.types.message import Message
from bench._context import context
from bench._table import Row, show
from bench.channel import KEY, local_server
from bench.store import tokens

from rehydrate.core import codecs as dialect
from rehydrate.core.event import ChannelMessage
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.history import History
from rehydrate.postgres.migrations import migrate
from rehydrate.postgres.store import PostgresStore
from rehydrate.postgres.url import connect_arguments
from rehydrate.record.catch_up import PAGE, catch_up
from rehydrate.settings import load_settings

TOKENS_PER_S = 50
WARM_S = 1.0


@asynccontextmanager
async def opened(url, port, rate):
    settings = load_settings(
        database_url=url,
        ably_api_key=KEY,
        ably_endpoint="127.0.0.1",
        ably_port=port,
        ably_tls=False,
        publish_rate=rate,
    )
    async with History(settings) as history:
        yield history


class Delays:
    """Records acknowledgement delays: the text of a token is its time of writing."""

    def __init__(self, channel):
        self.seen_ms = []
        self._publish = channel.publish
        channel.publish = self.publish

    def publish(self, name, batch):
        written = []

        def take():
            messages = batch() if callable(batch) else batch
            written.extend(float(t) for m in messages if m.name == "token" for t in m.data.split())
            return messages

        answer = self._publish(name, take)
        answer.add_done_callback(lambda _: self._note(written))
        return answer

    def _note(self, written):
        now_s = time.perf_counter()
        self.seen_ms.extend((now_s - each) * 1000 for each in written)

    def share(self, share):
        return sorted(self.seen_ms)[int(len(self.seen_ms) * share)]


async def one(history, number, seconds, behind):
    await asyncio.sleep(number / 100 / TOKENS_PER_S)
    async with history.respond(f"bench-{number}", f"r-{number}-{time.time_ns()}") as response:
        began_s = time.perf_counter()
        for count in range(int(seconds * TOKENS_PER_S)):
            due_s = began_s + count / TOKENS_PER_S
            now_s = time.perf_counter()
            behind.append(now_s - due_s)
            if due_s > now_s:
                await asyncio.sleep(due_s - now_s)
            response.write(f"{time.perf_counter():.6f} ")


async def transactions(url):
    connection = await asyncpg.connect(**connect_arguments(url))
    try:
        return await connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
    finally:
        await connection.close()


async def responding(url, responses, seconds, rate, target_ms):
    async with local_server() as port, opened(url, port, rate) as history:
        delays, behind = Delays(history._channel), []
        await asyncio.gather(*(one(history, n, WARM_S, []) for n in range(responses)))
        delays.seen_ms.clear()
        gc.collect()
        gc.freeze()  # as `serve` does: exclude loaded modules from collection
        before, cpu_s, began_s = await transactions(url), time.process_time(), time.perf_counter()
        await asyncio.gather(*(one(history, n, seconds, behind) for n in range(responses)))
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        await asyncio.sleep(1.1)  # the statistics of Postgres come once a second
        each = (await transactions(url) - before) / responses / took_s
    limit = f"limit of {rate:g} a second" if rate else "no limit"
    sent, tokens_said = len(delays.seen_ms) / seconds, responses * seconds * TOKENS_PER_S
    return [
        Row(
            f"{responses} responses, {limit}: tokens a second",
            sent,
            "",
            0.98 * tokens_said / seconds,
            True,
        ),
        Row("  a token's delay, p50", delays.share(0.5), "ms"),
        Row("  p99", delays.share(0.99), "ms", target_ms),
        Row("  behind its pace at the end", behind[-1] * 1000, "ms", 250),
        Row("  store transactions per response and second", each, "", 2),
        Row("  CPU time per token", cpu_s / tokens_said * 1e6, "us"),
        Row("  share of a core", cpu_s / took_s, "", 1),
    ]


async def by_sdk(responses, seconds):
    """The same tokens with stock ably-python alone, each published immediately; nothing is stored."""
    async with local_server() as port:
        client = AblyRealtime(key=KEY, endpoint=f"127.0.0.1:{port}", tls=False)
        await client.connection.once_async("connected")
        late_ms, acks = [], set()

        async def publish(number, count):
            began_s = time.perf_counter()
            extras = {"headers": {"responseId": f"r-{number}", "seq": count, "gen": 1}}
            message = Message("token", f"{began_s:.6f} ", id=f"{number}-{count}", extras=extras)
            await client.channels.get(f"ai:sdk-{number}").publish(message)
            late_ms.append((time.perf_counter() - began_s) * 1000)

        async def stream(number):
            await asyncio.sleep(number / 100 / TOKENS_PER_S)
            began_s = time.perf_counter()
            for count in range(int(seconds * TOKENS_PER_S)):
                await asyncio.sleep(began_s + count / TOKENS_PER_S - time.perf_counter())
                acks.add(task := asyncio.create_task(publish(number, count)))
                task.add_done_callback(acks.discard)

        gc.collect()
        gc.freeze()
        cpu_s, began_s = time.process_time(), time.perf_counter()
        await asyncio.gather(*(stream(n) for n in range(responses)))
        await asyncio.gather(*acks)
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        await client.close()
    late_ms.sort()
    return [
        Row(
            "the same with bare ably-python: a token's delay, p50", late_ms[len(late_ms) // 2], "ms"
        ),
        Row("  p99", late_ms[len(late_ms) * 99 // 100], "ms"),
        Row("  CPU time per token", cpu_s / len(late_ms) * 1e6, "us"),
        Row("  share of a core", cpu_s / took_s),
    ]


class Pages:
    """A channel with prepared pages: reading and decoding them is measured elsewhere."""

    def __init__(self, count):
        self.count = count

    async def history(self, channel, *, since_ms=None, until=None, forwards=False, limit=1000):
        base = [tokens(f"resp_{n}", n) for n in range(10)]
        size = len(base[0])
        for first in range(0, self.count, limit):
            page = []
            for number in range(first, min(first + limit, self.count)):
                event = base[number % 10][(number // 10) % size]
                part = number // 10 // size
                event = event._replace(
                    message_id=f"{event.message_id}-{part}", id=f"{event.id}-{part}"
                )
                name, data, extras = dialect.encode(event)
                page.append(
                    ChannelMessage(
                        name, data, event.id, event.serial, event.timestamp_ms, "agent", extras
                    )
                )
            yield page


async def catching_up(url, messages):
    pages = [page async for page in Pages(messages).history("c", limit=PAGE)]

    class Ready:
        async def history(self, *_, **__):
            for page in pages:
                yield page

    store = PostgresStore(url)
    await store.open()
    try:
        ctx = context(store, Ready(), lambda: time.time_ns() // 1_000_000, retention_ms=10**12)
        peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began_s, cpu_s = time.perf_counter(), time.process_time()
        recorded = await catch_up(ctx, "long")
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) / 1024
    finally:
        await store.close()
    assert recorded.messages == messages
    return [
        Row(f"catch_up of {messages:,}: messages per second", messages / took_s, "", 60_000, True),
        Row("  CPU time per message", cpu_s / messages * 1e6, "us"),
        Row("  memory growth", grown, "MiB", 60),
    ]


async def measure(asked):
    only = set(asked.only.split(","))
    rows = []
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    with folder, EmbeddedPostgres(Path(folder.name)) as postgres:
        url = postgres.url
        await migrate(url)
        if "sdk" in only:
            rows += await by_sdk(asked.responses, asked.seconds)
        for name, rate, target_ms in (("free", 0, 100), ("paced", 50, 300)):
            if name in only:
                rows += await responding(url, asked.responses, asked.seconds, rate, target_ms)
        if "catch_up" in only:
            rows += await catching_up(url, asked.messages)
    return show(rows)


def main(argv):
    """Measure and print; return whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="bench recording", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--only", default="sdk,free,paced,catch_up")
    asked = parser.parse_args(argv)
    return asyncio.run(measure(asked))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Hydrate over HTTP: 200 finished and 3 open responses compared with the floor; pages; cold reads.

The floor is the same bytes with the raw driver and a bare route. All figures are from one run, in which
the variants take turns; targets are ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import asyncpg
import jwt
from ably import AblyRest
from bench._service import environment_of

from rehydrate.ably.channel_log import AblyChannel
from rehydrate.demo.processes import Child
from rehydrate.demo.services import embedded
from rehydrate.history import History
from rehydrate.ports import Outgoing
from rehydrate.record.import_messages import NewMessage
from rehydrate.settings import load_settings

WORDS = [
    "the",
    "tide",
    "turns",
    "twice",
    "a",
    "day",
    "and",
    "nobody",
    "has",
    "to",
    "ask",
    "it",
    "why",
    "or",
    "when",
    "潮",
    "は満ち引き",
]
FINISHED = 200
BODY_CHARACTERS = 560  # with its part and its envelope about 1.8 kB
TOKENS = 2_000


class Row(NamedTuple):
    what: str
    ms: float
    against: str
    ratio: float
    target: float


class Site:
    """One keep-alive connection to a server, for timing."""

    def __init__(self, url, token=None):
        host, port = url.removeprefix("http://").split(":")
        self._connection = http.client.HTTPConnection(host, int(port))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path):
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, (response.status, body[:500])
        return body


def p50_ms(calls, rounds):
    """Return the median of each of *calls*, made in turns."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(each[len(each) // 10 :]) for name, each in times.items()}


def text(characters):
    words = []
    while sum(map(len, words)) + len(words) < characters:
        words.append(random.choice(WORDS))
    return " ".join(words)


def finished(count):
    return [
        NewMessage(f"r-{uuid.uuid4().hex}", "assistant", text=text(BODY_CHARACTERS))
        for _ in range(count)
    ]


async def fill(history, conversation_id, count):
    for at in range(0, count, 1000):
        await history.store_messages(conversation_id, finished(min(1000, count - at)))


async def stream(history, conversation_id, release, seconds):
    """Three interleaved responses of 2,000 tokens each, held open until *release*."""

    async def one(index):
        async with history.respond(conversation_id, f"open-{index}") as response:
            for n in range(TOKENS):
                response.write(random.choice(WORDS) + " ")
                due = began + (n + index / 3) * seconds / TOKENS
                await asyncio.sleep(max(0, due - time.monotonic()))
            await release.wait()

    began = time.monotonic()
    return [asyncio.create_task(one(index)) for index in range(3)]


async def copy_for_floor(url, answer):
    messages = [json.dumps(m, ensure_ascii=False).encode() for m in answer["messages"]]
    ended = [
        m for m, b in zip(messages, answer["messages"], strict=True) if b["status"] == "completed"
    ]
    texts = [m for m in messages if m not in ended]
    connection = await asyncpg.connect(url)
    for table, bodies in (("bench_bodies", ended), ("bench_texts", texts)):
        await connection.execute(
            f"create table if not exists {table} (id int primary key, body bytea)"
        )
        await connection.execute(f"truncate {table}")
        await connection.executemany(
            f"insert into {table} values ($1, $2)", list(enumerate(bodies))
        )
    await connection.close()


async def floor_server(environment):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "--port", "0", "--no-access-log", "_floor:app"),
        cwd=Path(__file__).parent,
        env=os.environ | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    while line := (await process.stderr.readline()).decode():
        if "running on" in line:
            return process, line.split("running on ")[1].split(" ")[0]
    raise RuntimeError("the floor did not start")


def token_for(settings, channel):
    name, _, secret = settings.required_ably_key().partition(":")
    capability = json.dumps({channel: ["subscribe", "history"]})
    claims = {
        "iat": int(time.time()),
        "exp": int(time.time()) + 3600,
        "x-ably-capability": capability,
    }
    return jwt.encode(claims, secret, "HS256", headers={"kid": name})


def rest_by_hand(settings):
    return AblyRest(
        token=token_for(settings, "*"),
        endpoint=settings.ably_endpoint,
        port=settings.ably_port,
        tls=False,
    )


async def read_by_hand(rest, channel, start_ms=None):
    """Read history with the stock SDK, as an application would."""
    options = {"start": start_ms} if start_ms else {}
    page = await rest.channels.get(channel).history(direction="forwards", limit=1000, **options)
    count = len(page.items)
    while page.has_next():
        page = await page.next()
        count += len(page.items)
    return count


async def timed_ms(awaitable):
    began = time.perf_counter()
    await awaitable
    return (time.perf_counter() - began) * 1000


async def measure(options):
    with tempfile.TemporaryDirectory() as folder:
        base = load_settings(data_dir=Path(folder), service_keys="a-key-of-the-benchmark", port=0)
        async with embedded(base) as settings:
            environment = environment_of(settings)
            async with (
                Child("--quiet", "serve", environment=environment) as service,
                History(settings) as history,
            ):
                rows = await joining(history, settings, service.url, environment, options)
                rows += await cold(history, settings, service.url, options)
                rows += await paging(history, settings, service.url, options)
    return rows


async def joining(history, settings, url, environment, options):
    release = asyncio.Event()
    await fill(history, "c", FINISHED)
    print(f"streaming 3 × {TOKENS} tokens over {options.seconds} s …", file=sys.stderr)
    streams = await stream(history, "c", release, options.seconds)
    await asyncio.sleep(options.seconds + 1)
    await history.catch_up("c")
    site = Site(url, token_for(settings, "ai:c"))
    path = "/v1/conversations/c?limit=200"
    answer = json.loads(site.get(path))
    assert answer["complete"], answer["reasons"]
    assert (
        sorted(m["status"] for m in answer["messages"]) == ["completed"] * 200 + ["in_progress"] * 3
    )
    await copy_for_floor(environment["REHYDRATE_DATABASE_URL"], answer)
    process, floor_url = await floor_server(environment)
    try:
        floor = Site(floor_url)
        await asyncio.sleep(6)  # so that `read_at` may be later than `until` by the margin
        await history.catch_up("c")
        old = f"{int(time.time() * 1000) - 6000:014d}-000@x"
        warm = f"{path}&until={old}"
        rest = rest_by_hand(settings)
        since_ms = int(answer["until"][:14]) - 5000
        calls = {
            "floor": lambda: floor.get("/answer"),
            "warm": lambda: site.get(warm),
            "tail": lambda: site.get(path),
        }
        times = await asyncio.to_thread(p50_ms, calls, options.rounds)
        by_hand = [
            await timed_ms(read_by_hand(rest, "ai:c", since_ms)) for _ in range(options.rounds)
        ]
        count = await read_by_hand(rest, "ai:c", since_ms)
        await rest.close()
    finally:
        process.terminate()
        await process.wait()
    hand = statistics.median(by_hand)
    release.set()
    await asyncio.gather(*streams)
    allowed = 2 * times["floor"] + 1.3 * hand
    return [
        Row(
            f"floor: raw driver, bare route, {len(json.dumps(answer)) // 1024} kB",
            times["floor"],
            "",
            1,
            1,
        ),
        Row("no channel read", times["warm"], "floor", times["warm"] / times["floor"], 2.0),
        Row(f"one history request with the SDK, {count} messages", hand, "", 1, 1),
        Row(
            "the tail is asked for",
            times["tail"],
            "2 floors + 1.3 requests",
            times["tail"] / allowed,
            1.0,
        ),
    ]


async def publish(settings, channel):
    """A foreign publisher: 3 × 2,000 tokens, interleaved, one message per token."""
    ably = AblyChannel(
        settings.required_ably_key(),
        endpoint=settings.ably_endpoint,
        port=settings.ably_port,
        tls=False,
    )
    await ably.open()
    for n in range(TOKENS):
        acks = []
        for index in range(3):
            headers = {"responseId": f"r{index}", "seq": n + 1}
            token = Outgoing(
                "token", random.choice(WORDS) + " ", f"{channel}-{index}-{n}", {"headers": headers}
            )
            acks.append(ably.publish(channel, [token]))
        if n % 100 == 99:
            await asyncio.gather(*acks)
    await ably.close()


async def cold(history, settings, url, options):
    """Hydrate 6,000 channel messages of which nothing is recorded."""
    ours, hand = [], []
    rest = rest_by_hand(settings)
    for _ in range(options.cold):
        name = f"cold-{uuid.uuid4().hex[:8]}"
        await publish(settings, f"ai:{name}")
        site = Site(url, token_for(settings, f"ai:{name}"))
        await asyncio.sleep(0.5)
        hand.append(await timed_ms(read_by_hand(rest, f"ai:{name}")))
        path = f"/v1/conversations/{name}?limit=200"
        began = time.perf_counter()
        body = await asyncio.to_thread(site.get, path)
        ours.append((time.perf_counter() - began) * 1000)
        answer = json.loads(body)
        assert [len(m["text"].split()) for m in answer["messages"]] == [TOKENS] * 3, body[:300]
        await asyncio.sleep(1.5)  # the recorder that this wakes is not part of the next one
    await rest.close()
    best, by_hand = statistics.median(ours), statistics.median(hand)
    return [
        Row("reading 6,000 messages with the SDK", by_hand, "", 1, 1),
        Row("cold: nothing recorded, 6,000 messages", best, "SDK", best / by_hand, 1.3),
    ]


async def paging(history, settings, url, options):
    await fill(history, "short", 100)
    print(f"storing {options.long:,} messages …", file=sys.stderr)
    await fill(history, "long", options.long)
    calls = {}
    for name in ("short", "long"):
        await history.catch_up(name)
        site = Site(url, token_for(settings, f"ai:{name}"))
        older = json.loads(site.get(f"/v1/conversations/{name}?limit=50"))["older"]
        path = f"/v1/conversations/{name}?limit=50&before={older}"
        calls[name] = lambda site=site, path=path: site.get(path)
    times = await asyncio.to_thread(p50_ms, calls, options.rounds)
    return [
        Row("a page of 50, of 100 messages", times["short"], "", 1, 1),
        Row(
            f"a page of 50, of {options.long:,}",
            times["long"],
            "of 100",
            times["long"] / times["short"],
            1.3,
        ),
    ]


def main(argv):
    parser = argparse.ArgumentParser(prog="bench hydrate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=40, help="duration of the streams")
    parser.add_argument("--cold", type=int, default=5)
    parser.add_argument("--long", type=int, default=100_000)
    rows = asyncio.run(measure(parser.parse_args(argv)))
    for row in rows:
        verdict = (
            "" if not row.against else f"{row.ratio:5.2f} × {row.against} (target {row.target})"
        )
        print(f"{row.what:48} {row.ms:9.2f} ms  {verdict}")
    return 0 if all(row.ratio <= row.target for row in rows if row.against) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

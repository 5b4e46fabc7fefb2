"""Join over SSE, to the complete snapshot: 200 finished responses and 3 that stream 2,000 tokens.

    python -m bench join [--rounds 40] [--streaming 45]

Compared with a warm hydrate, a bare attach, and the documented client recipe, in the same run. The
service, the channel server and Postgres are separate processes. The best comparable system joined in
17 ms (p50) and 22 ms (p95), in memory, on the same kind of machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time

import uvloop
from bench._readers import join_ms, joined
from bench._service import attachments, environment_of, per_cent, stock, surroundings
from bench._table import Row, show
from bench.hydrate import (
    FINISHED,
    TOKENS,
    Site,
    fill,
    publish,
    rest_by_hand,
    timed_ms,
    token_for,
)

from rehydrate.demo.processes import Child
from rehydrate.history import History

PATH = "/v1/conversations/c?limit=200"
STREAM = "/v1/conversations/c/stream?limit=200"


async def measure(options):
    async with surroundings() as settings, History(settings) as history:
        release = asyncio.Event()
        await fill(history, "c", FINISHED)
        streams = await streaming(history, release, options.streaming)
        await history.catch_up("c")
        alone, warm, attach, followed, size = await joins(settings, history, options.rounds)
        release.set()
        await asyncio.gather(*streams)
        recipe_ms = await recipe(settings)
    warm_ms, attach_ms = statistics.median(warm), statistics.median(attach)
    alone_ms, followed_ms = statistics.median(alone), statistics.median(followed)
    return [
        Row("hydrate over HTTP, warm", warm_ms, "ms"),
        Row("one bare attach, stock ably-python", attach_ms, "ms"),
        Row("the documented client recipe, 6,000 messages", recipe_ms, "ms"),
        Row(f"join, first follower, {size // 1024} kB, p50", alone_ms, "ms", 15),
        Row("join, first follower, p95", per_cent(alone, 0.95), "ms", 30),
        Row("  over hydrate + 1.5 attaches", alone_ms / (warm_ms + 1.5 * attach_ms), "x", 1),
        Row("join, followed already, p50", followed_ms, "ms", 15),
        Row("join, followed already, p95", per_cent(followed, 0.95), "ms", 30),
        Row("  over a warm hydrate", followed_ms / warm_ms, "x", 3),
        Row("the recipe over a join, first follower", recipe_ms / alone_ms, "x", 20, least=True),
        Row("the recipe over a join, followed already", recipe_ms / followed_ms, "x", 20, True),
    ]


async def joins(settings, history, rounds):
    """Measure joins, in turns with the baselines."""
    token, alone, warm, attach = token_for(settings, "ai:c"), [], [], []
    client = stock(settings)
    await client.connection.once_async("connected")
    no_grace = environment_of(settings, REHYDRATE_FOLLOW_GRACE_SECONDS="0")
    async with Child("--quiet", "serve", environment=no_grace) as service:
        site = Site(service.url, token)
        for turn in range(-3, rounds):
            await gone(settings, "ai:c")
            await history.catch_up("c")
            took_ms = await asyncio.to_thread(join_ms, service.url, STREAM, token)
            await gone(settings, "ai:c")
            hydrate_ms = await asyncio.to_thread(timed, site)
            attach_ms = await bare_attach_ms(client)
            if turn >= 0:
                alone.append(took_ms)
                warm.append(hydrate_ms)
                attach.append(attach_ms)
        keeper, size, _ = await asyncio.to_thread(joined, service.url, STREAM, token)
        followed = [
            await asyncio.to_thread(join_ms, service.url, STREAM, token) for _ in range(rounds)
        ]
        keeper.close()
    await client.close()
    return alone, warm, attach, followed, size


def timed(site):
    began = time.perf_counter()
    site.get(PATH)
    return (time.perf_counter() - began) * 1000


async def gone(settings, channel):
    deadline = time.monotonic() + 10
    while attachments(settings, channel) and time.monotonic() < deadline:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)


async def bare_attach_ms(client):
    channel = client.channels.get("ai:c", params={"rewind": "10s"})
    took_ms = await timed_ms(channel.attach())
    await channel.detach()
    client.channels.release("ai:c")
    return took_ms


async def streaming(history, release, seconds):
    """Stream three interleaved responses: 2,000 tokens each in *seconds*, then 15 per second forever."""

    async def one_of(index):
        async with history.respond("c", f"open-{index}") as response:
            for n in range(TOKENS):
                response.write("word ")
                due = began + (n + index / 3) * seconds / TOKENS
                await asyncio.sleep(max(0, due - time.monotonic()))
            while not release.is_set():
                response.write("word ")
                await asyncio.sleep(1 / 15)

    began = time.monotonic()
    tasks = [asyncio.create_task(one_of(index)) for index in range(3)]
    await asyncio.sleep(seconds + 11)  # so that the fast tokens are older than the margins
    return tasks


async def recipe(settings):
    """The documented recipe: attach, then page through history to its end."""
    await publish(settings, "ai:recipe")
    client, rest = stock(settings), rest_by_hand(settings)
    await client.connection.once_async("connected")
    times = []
    for _ in range(3):
        began, texts = time.perf_counter(), {}
        channel = client.channels.get("ai:recipe", params={"rewind": "2m"})
        await channel.subscribe(lambda _: None)
        page = await rest.channels.get("ai:recipe").history()
        while page:
            for message in page.items:
                name = message.extras["headers"]["responseId"]
                texts[name] = message.data + texts.get(name, "")
            page = await page.next() if page.has_next() else None
        times.append((time.perf_counter() - began) * 1000)
        assert len(texts) == 3
        await channel.detach()
        client.channels.release("ai:recipe")
    await client.close()
    await rest.close()
    return statistics.median(times)


def main(argv):
    parser = argparse.ArgumentParser(prog="bench join", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--streaming", type=int, default=45, help="seconds for 2,000 tokens")
    options = parser.parse_args(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return show(runner.run(measure(options)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The Ably adapter compared with the stock SDK: reading history, and publishing.

History: through the adapter, through the SDK's own history, and as raw rows (the floor). Publishing:
streams of 50 tokens per second through the adapter, and through the SDK alone.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from urllib.parse import quote

from ably import AblyRealtime, AblyRest
from ably.types.message import Message

from rehydrate.ably.channel_log import AblyChannel
from rehydrate.ports import Outgoing

KEY = "bench.key:" + "s" * 32
CHANNEL = "ai:bench"
TOKENS_PER_S = 50
TICK_S = 1 / TOKENS_PER_S


@asynccontextmanager
async def local_server() -> AsyncIterator[int]:
    """Run a channel server in a separate process; yield its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "localably", "--port", "0", "--key", KEY],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


def token(stream: int, seq: int) -> Outgoing:
    headers = {"responseId": f"resp_{stream}", "seq": seq, "gen": 1}
    return Outgoing("token", "a word ", f"{stream}-{seq}", {"headers": headers})


async def fill(log: AblyChannel, count: int) -> None:
    for first in range(0, count, 1000):
        outgoing = [token(seq % 3, seq) for seq in range(first, min(first + 1000, count))]
        for answer in [log.publish(CHANNEL, [each]) for each in outgoing]:
            await answer


async def by_us(log: AblyChannel) -> int:
    async with aclosing(log.history(CHANNEL)) as pages:
        return sum([len(page) async for page in pages])


async def by_sdk(rest: AblyRest) -> int:
    page = await rest.channels.get(CHANNEL).history(limit=1000)
    return await count_all(page)


async def by_raw_rows(rest: AblyRest) -> int:
    path = f"/channels/{quote(CHANNEL, safe='')}/messages"
    return await count_all(await rest.request("GET", path, "5", params={"limit": "1000"}))


async def count_all(page) -> int:
    count = len(page.items)
    while page.has_next():
        page = await page.next()
        count += len(page.items)
    return count


async def compare_history(port: int, messages: int, rounds: int) -> None:
    where = {"endpoint": "127.0.0.1", "port": port, "tls": False}
    async with (
        AblyChannel(KEY, **where) as log,
        AblyRest(key=KEY, use_token_auth=True, **where) as rest,
        AblyRest(key=KEY, use_token_auth=True, use_binary_protocol=False, **where) as json_rest,
    ):
        await fill(log, messages)
        ways: dict[str, Callable[[], Awaitable[int]]] = {
            "raw rows (floor)": lambda: by_raw_rows(rest),
            "raw rows, JSON": lambda: by_raw_rows(json_rest),
            "SDK history": lambda: by_sdk(rest),
            "adapter": lambda: by_us(log),
        }
        times_ms: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):  # one after the other in each round: the machine's moods hit all
            for name, way in ways.items():
                began = time.perf_counter()
                assert await way() == messages
                times_ms[name].append((time.perf_counter() - began) * 1000)
    floor_ms = statistics.median(times_ms["raw rows (floor)"])
    print(f"history of {messages} messages, median of {rounds}")
    for name, each_ms in times_ms.items():
        median_ms = statistics.median(each_ms)
        print(f"  {name:<18}{median_ms:8.1f} ms {median_ms / floor_ms:6.2f} x floor")


async def paced(streams: int, seconds: float, send: Callable[[int, int], Awaitable]) -> None:
    """Publish streams of 50 tokens per second each; print the CPU time and the delay of acknowledgements."""
    late_ms: list[float] = []
    answers: list[asyncio.Future] = []
    cpu_s, began = time.process_time(), time.perf_counter()

    def publish(stream: int, seq: int) -> None:
        sent = time.perf_counter()
        answer = asyncio.ensure_future(send(stream, seq))
        answer.add_done_callback(lambda _: late_ms.append((time.perf_counter() - sent) * 1000))
        answers.append(answer)

    for seq in range(int(seconds * TOKENS_PER_S)):
        for stream in range(streams):
            publish(stream, seq)
        await asyncio.sleep(max(0.0, began + (seq + 1) * TICK_S - time.perf_counter()))
    await asyncio.gather(*answers)
    took_s = time.perf_counter() - began
    cpu = (time.process_time() - cpu_s) / took_s
    late_ms.sort()
    p50_ms, p99_ms = late_ms[len(late_ms) // 2], late_ms[len(late_ms) * 99 // 100]
    print(
        f"{len(answers) / took_s:8.0f} /s, {cpu:4.0%} of a core,"
        f" acknowledged after {p50_ms:.1f} ms (p50), {p99_ms:.1f} ms (p99)"
    )


async def compare_publishing(port: int, streams: int, seconds: float) -> None:
    print(f"publishing {streams} streams of {TOKENS_PER_S} tokens per second, {seconds:g} s")
    where = {"endpoint": "127.0.0.1", "port": port, "tls": False}
    async with AblyChannel(KEY, **where) as log:
        await log.publish("warm", [token(0, 0)])
        print("  adapter          ", end="")
        await paced(
            streams, seconds, lambda stream, seq: log.publish(f"us:{stream}", [token(stream, seq)])
        )
    client = AblyRealtime(key=KEY, endpoint=f"127.0.0.1:{port}", tls=False)
    try:
        await client.connection.once_async("connected")
        print("  SDK alone        ", end="")

        async def bare(stream: int, seq: int) -> None:
            name, data, own_id, extras, _ = token(stream, seq)
            message = Message(name=name, data=data, id=own_id, extras=extras)
            await client.channels.get(f"sdk:{stream}").publish(message)

        await paced(streams, seconds, bare)
    finally:
        await client.close()


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="bench channel", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5)
    asyncio.run(measure(parser.parse_args(argv)))
    return 0


async def measure(chosen: argparse.Namespace) -> None:
    async with local_server() as port:
        await compare_history(port, chosen.messages, chosen.rounds)
        await compare_publishing(port, chosen.streams, chosen.seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

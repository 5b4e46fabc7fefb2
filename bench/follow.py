"""Following over SSE: joins, a thousand joiners, what a follower costs, and how late tokens are.

    python -m bench follow [--rounds 40] [--joiners 1000] [--seconds 20] [--only joins,crowd,delay]

The service, the channel server and Postgres are processes of their own; readers are here. Targets
are of the project, the times to beat of its peers, measured on the same kind of machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import uvloop
from ably import AblyRealtime
from bench._readers import Reader, join_ms, joined
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

from rehydrate.channel.ably import AblyChannel
from rehydrate.demo.embedded import embedded
from rehydrate.demo.processes import Child
from rehydrate.ports import Outgoing
from rehydrate.settings import load_settings
from rehydrate.wiring.history import History

RATE_PER_S = 25


def per_cent(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def ably_of(settings, **more):
    return AblyChannel(
        settings.required_ably_key(),
        endpoint=settings.ably_endpoint,
        port=settings.ably_port,
        tls=False,
        **more,
    )


def stock(settings):
    endpoint = f"{settings.ably_endpoint}:{settings.ably_port}"
    return AblyRealtime(token=token_for(settings, "*"), endpoint=endpoint, tls=False)


def environment_of(settings, **more):
    return {
        "REHYDRATE_DATABASE_URL": settings.required_database_url(),
        "ABLY_API_KEY": settings.required_ably_key(),
        "ABLY_ENDPOINT": settings.ably_endpoint,
        "ABLY_PORT": str(settings.ably_port),
        "ABLY_TLS": "false",
        "REHYDRATE_PORT": "0",
        **more,
    }


def attachments(settings, channel):
    with urlopen(f"http://127.0.0.1:{settings.ably_port}/localably/channels") as answer:
        found = json.load(answer)["channels"]
    return next((each["attachments"] for each in found if each["name"] == channel), 0)


async def bare_attaches_ms(settings, rounds):
    client, times = stock(settings), []
    await client.connection.once_async("connected")
    for _ in range(rounds):
        channel = client.channels.get("ai:c", params={"rewind": "10s"})
        times.append(await timed_ms(channel.attach()))
        await channel.detach()
        client.channels.release("ai:c")
    await client.close()
    return statistics.median(times)


async def streaming(history, release, seconds):
    """Three interleaved responses: 2,000 tokens each in *seconds*, then 15 a second for ever."""

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
    await asyncio.sleep(seconds + 11)  # so that what was said so fast is older than the margins
    return tasks


async def joins(settings, history, options):
    """200 finished responses, and 3 of 2,000 tokens that go on."""
    release = asyncio.Event()
    await fill(history, "c", FINISHED)
    streams = await streaming(history, release, options.streaming)
    await history.catch_up("c")
    path = "/v1/conversations/c/stream?limit=200"
    token = token_for(settings, "ai:c")
    alone, followed, warm = [], [], []
    no_grace = environment_of(settings, REHYDRATE_FOLLOW_GRACE_SECONDS="0")
    async with Child("--quiet", "serve", environment=no_grace) as service:
        for _ in range(3):
            await asyncio.to_thread(join_ms, service.url, path, token)
        for _ in range(options.rounds):
            await gone(settings, "ai:c")
            await history.catch_up("c")
            alone.append(await asyncio.to_thread(join_ms, service.url, path, token))
            await gone(settings, "ai:c")
            site = Site(service.url, token)
            warm.append(await asyncio.to_thread(timed, site, "/v1/conversations/c?limit=200"))
        keeper, size, _ = await asyncio.to_thread(joined, service.url, path, token)
        for _ in range(options.rounds):
            ms = await asyncio.to_thread(join_ms, service.url, path, token)
            followed.append(ms)
        keeper.close()
    release.set()
    await asyncio.gather(*streams)
    attach_ms = await bare_attaches_ms(settings, options.rounds)
    recipe_ms = await recipe(settings)
    warm_ms, alone_ms = statistics.median(warm), statistics.median(alone)
    return [
        ("hydrate over HTTP, warm", warm_ms, "ms", None),
        ("one bare attach, stock ably-python", attach_ms, "ms", None),
        ("the documented client recipe, 6,000 messages", recipe_ms, "ms", None),
        (f"join, first follower, {size // 1024} kB, p50", alone_ms, "ms", 15),
        ("join, first follower, p95", per_cent(alone, 0.95), "ms", 30),
        ("  over hydrate + 1.5 attaches", alone_ms / (warm_ms + 1.5 * attach_ms), "x", 1),
        ("join, followed already, p50", statistics.median(followed), "ms", 15),
        ("join, followed already, p95", per_cent(followed, 0.95), "ms", 30),
        ("  over 3 warm hydrates", statistics.median(followed) / (3 * warm_ms), "x", 1),
        ("  20 such joins over one recipe", 20 * alone_ms / recipe_ms, "x", 1),
        ("  20 of those followed already", 20 * statistics.median(followed) / recipe_ms, "x", 1),
    ]


def timed(site, path):
    began = time.perf_counter()
    site.get(path)
    return (time.perf_counter() - began) * 1000


async def gone(settings, channel):
    deadline = time.monotonic() + 10
    while attachments(settings, channel) and time.monotonic() < deadline:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)


async def recipe(settings):
    """As the documentation has it: attach, then page through history until there is no more."""
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


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


async def crowd(settings, _history, options):
    """Everybody joins one live response at once; then 25 events a second for all of them."""
    conversation, count = "crowd", options.joiners
    async with (
        ably_of(settings) as ably,
        Child("--quiet", "serve", environment=environment_of(settings)) as service,
    ):
        await said(ably, conversation, 0, 2_000)
        token = token_for(settings, f"ai:{conversation}")
        url = service.url.removeprefix("http://")
        path = f"/v1/conversations/{conversation}/stream"
        await asyncio.to_thread(Site(service.url, token).get, path.removesuffix("/stream"))
        before_kb = rss_kb(service.pid)
        readers, whole_s = await everybody(url, path, token, count)
        after_kb = rss_kb(service.pid)
        attached = attachments(settings, f"ai:{conversation}")
        began, seq, cpu_before_s = time.monotonic(), 2_001, cpu_s(service.pid)
        while (passed := time.monotonic() - began) < options.seconds:
            await one(ably, conversation, seq, f"{time.time():.6f}")
            seq += 1
            await asyncio.sleep(max(0, (seq - 2_001) / RATE_PER_S - passed))
        await asyncio.sleep(1)
        peak_kb, used_s = rss_kb(service.pid), cpu_s(service.pid) - cpu_before_s
        reading = [reader.late_ms for n, reader in enumerate(readers) if n % 10]
        late = [ms for each in reading for ms in each]
        missed = sum(len(each) != seq - 2_001 for each in reading)
        for reader in readers:
            reader.transport.abort()
    return [
        (f"{count} join one live response of 2,000 tokens: failed", count - len(whole_s), "", 0),
        ("  all have the snapshot after", max(whole_s) * 1000, "ms", 1_200),
        ("  attachments (one is the publisher's)", attached, "", 2),
        ("  memory a follower", (after_kb - before_kb) / count, "kB", 35),
        (f"  and after {options.seconds} s", (peak_kb - before_kb) / count, "kB", 35),
        ("  readers that missed an event", missed, "", 0),
        ("25 events a second, a tenth stalled: delay p50", statistics.median(late), "ms", None),
        ("  delay p99", per_cent(late, 0.99), "ms", 100),
        ("  the service's CPU time an event and follower", used_s / len(late) * 1e6, "us", None),
    ]


async def everybody(url, path, token, count):
    host, port = url.split(":")
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    loop, began = asyncio.get_running_loop(), time.perf_counter()
    made = await asyncio.gather(
        *(
            loop.create_connection(lambda n=n: Reader(request, stalled=n % 10 == 0), host, port)
            for n in range(count)
        )
    )
    readers = [protocol for _, protocol in made]
    until = began + 60
    while time.perf_counter() < until and not all(r.whole_s or r.lost for r in readers):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.005)
    return readers, [r.whole_s - began for r in readers if r.whole_s]


async def one(ably, conversation, seq, text):
    headers = {"headers": {"responseId": "live", "seq": seq}}
    await ably.publish(f"ai:{conversation}", [Outgoing("token", text, f"{seq}", headers)])


async def said(ably, conversation, first, count):
    acks = []
    for seq in range(first + 1, first + count + 1):
        headers = {"headers": {"responseId": "live", "seq": seq}}
        outgoing = Outgoing("token", "word ", f"{seq}", headers)
        acks.append(ably.publish(f"ai:{conversation}", [outgoing]))
    await asyncio.gather(*acks)


@asynccontextmanager
async def listening(settings, channel, *how):
    """A reader in a process of its own, which prints how late each token was."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench._readers", *how),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        job = {
            "endpoint": f"{settings.ably_endpoint}:{settings.ably_port}",
            "token": token_for(settings, "*"),
            "channel": channel,
        }
        process.stdin.write(json.dumps(job).encode() + b"\n")
        await process.stdin.drain()
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def delay(settings, _history, options):
    """The same tokens, by a stock subscriber and by a follower over SSE, at the same time.

    Whoever attached first is sent each message first, so it is measured in both orders.
    """
    by_sdk, by_sse = [], []
    for order in ("sdk first", "sse first"):
        channel = f"ai:delay-{order[:3]}"
        async with Child("--quiet", "serve", environment=environment_of(settings)) as service:
            readers = [("sdk",), ("sse", service.url)]
            if order == "sse first":
                readers.reverse()
            late = dict(await late_ms(settings, channel, readers, options.seconds / 2))
            by_sdk += late["sdk"]
            by_sse += late["sse"]
    medians = statistics.median(by_sdk), statistics.median(by_sse)
    assert len(by_sdk) == len(by_sse)
    return [
        ("a token reaches a stock subscriber, p50", medians[0], "ms", None),
        ("a token reaches a follower over SSE, p50", medians[1], "ms", None),
        ("  ratio", medians[1] / medians[0], "x", 1.2),
        ("  ratio of the p99", per_cent(by_sse, 0.99) / per_cent(by_sdk, 0.99), "x", None),
    ]


async def late_ms(settings, channel, readers, seconds):
    """How late each token came to each of *readers*, which attach in this order."""
    conversation = channel.removeprefix("ai:")
    async with AsyncExitStack() as stack:
        ably = await stack.enter_async_context(ably_of(settings))
        listeners = [
            (how[0], await stack.enter_async_context(listening(settings, channel, *how)))
            for how in readers
        ]
        count = round(seconds * RATE_PER_S)
        for seq in range(1, count + 1):
            await one(ably, conversation, seq, f"{time.time():.6f}")
            await asyncio.sleep(1 / RATE_PER_S)
        await one(ably, conversation, count + 1, "end")
        return [
            (name, json.loads((await process.stdout.readline()).decode())[5:])
            for name, process in listeners
        ]


async def measure(options):
    parts = {"joins": joins, "crowd": crowd, "delay": delay}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        base = load_settings(data_dir=Path(folder), service_keys="bench", port=0)
        async with embedded(base) as settings, History(settings) as history:
            for name in options.only.split(","):
                sys.stderr.write(f"{name} …\n")
                rows += await parts[name](settings, history, options)
    return rows


def main(argv):
    parser = argparse.ArgumentParser(prog="bench follow", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--joiners", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--streaming", type=int, default=45, help="how long 2,000 tokens take")
    parser.add_argument("--only", default="joins,crowd,delay")
    options = parser.parse_args(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # reading is to be quick
        rows = runner.run(measure(options))
    missed = 0
    for what, value, unit, target in rows:
        verdict = "" if target is None else ("ok" if value <= target else "MISSED")
        missed += verdict == "MISSED"
        aim = "" if target is None else f"target {target:g} {unit}"
        print(f"{what:<62}{value:>10.2f} {unit:<3} {aim:<16} {verdict}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

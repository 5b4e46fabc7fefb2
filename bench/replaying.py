"""Replaying: how closely a replay reproduces the timing of its response, and its use of the rate.

    python -m bench replaying [--tokens 2000] [--per-s 20]

The channel server, Postgres, and the readers (stock SDK) are separate processes; the service is in
this one. The deviation of a chunk is its arrival at a reader, relative to the start, minus its time
in the schedule. During each replay, a stock SDK in another process publishes the same chunks at the
same times: its deviation is that of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ably import AblyRealtime
from bench._table import Row, show
from bench.channel import KEY, local_server

from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.history import History
from rehydrate.postgres.migrations import migrate
from rehydrate.settings import load_settings

BEGAN_MS = 1_767_225_600_000
PATIENCE_S = 600


def made(tokens, per_s, seed=1):
    """Return a response of that many tokens, at irregular times with that mean rate."""
    chance = random.Random(seed)
    state, at_ms = MessageState("r"), float(BEGAN_MS)
    fold(state, Event("start", "r", seq=0, timestamp_ms=BEGAN_MS))
    times_s = []
    for seq in range(1, tokens + 1):
        at_ms += chance.gammavariate(4, 250 / per_s)
        times_s.append((round(at_ms) - BEGAN_MS) / 1000)
        fold(state, Event("token", "r", seq=seq, timestamp_ms=round(at_ms), text=f"{seq:06d} "))
    stop = Event("stop", "r", seq=tokens + 1, timestamp_ms=round(at_ms), status="completed")
    fold(state, stop)
    return state, times_s


async def listen(port, channel):
    """Print when each chunk arrived at a stock SDK, until the stop."""
    ably = AblyRealtime(KEY, endpoint=f"127.0.0.1:{port}", tls=False)
    ended, came = asyncio.Event(), []

    def hear(message):
        now_s = time.time()
        if message.name == "start":
            came.append((now_s, []))
        elif message.name == "token":
            came.append((now_s, message.data.split()))
        elif message.name == "stop":
            ended.set()

    await ably.channels.get(channel).subscribe(hear)
    print("ready", flush=True)
    async with asyncio.timeout(PATIENCE_S):
        await ended.wait()
    print(json.dumps(came), flush=True)
    await ably.close()


async def by_hand(port, channel):
    """Publish chunks at the times on standard input."""
    times_s = json.loads(sys.stdin.readline())
    ably = AblyRealtime(KEY, endpoint=f"127.0.0.1:{port}", tls=False)
    to, loop, sent = ably.channels.get(channel), asyncio.get_running_loop(), []
    await to.publish("start", None)
    began_s = loop.time()
    for seq, at_s in enumerate(times_s, 1):
        await asyncio.sleep(max(0, began_s + at_s - loop.time()))
        sent.append(asyncio.ensure_future(to.publish("token", f"{seq:06d} ")))
    await asyncio.gather(*sent)
    await to.publish("stop", None)
    await ably.close()


class Reader:
    """A reader in a separate process; or a publisher with the given times."""

    def __init__(self, port, channel, *, does="--listen", times=None):
        self._argv = [sys.executable, "-m", "bench.replaying", does, channel, str(port)]
        self._times = times

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=2**24
        )
        if self._times is not None:
            self._process.stdin.write(json.dumps(self._times).encode() + b"\n")
            return self
        await self._process.stdout.readline()
        return self

    async def __aexit__(self, *_):
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()

    async def heard(self):
        return json.loads(await self._process.stdout.readline())


async def replayed(history, port, name, state, **terms):
    """Return what a reader of a replay received, and the replay."""
    conversation_id = f"bench-{name}"
    channel = terms.pop("channel", f"ai:{conversation_id}")
    async with history._store.locked(conversation_id, f"ai:{conversation_id}") as held:
        state.changed = True
        await held.put([state])
    async with Reader(port, channel) as reader:
        replay = await history.replay(conversation_id, "r", channel=channel, **terms)
        heard = await reader.heard()
    return heard, replay


async def said_by_hand(port, times_s):
    """Return what a reader received of the same chunks, published by a stock SDK."""
    async with (
        Reader(port, "hand") as reader,
        Reader(port, "hand", does="--by-hand", times=times_s),
    ):
        return await reader.heard()


def deviations_ms(heard, times_s):
    """Return the deviation of each chunk from its time, relative to the start."""
    began_s, at_s = heard[0][0], [came_s for came_s, words in heard for _ in words]
    assert [int(w) for _, words in heard for w in words] == list(range(1, len(times_s) + 1))
    off = [a - began_s - t for a, t in zip(at_s, times_s, strict=True)]
    return sorted(abs(each) * 1000 for each in off)


def rate_used(heard, allowed):
    """Return the used share of the rate: channel messages per second, from the first to the last."""
    return (len(heard) - 1) / (heard[-1][0] - heard[0][0]) / allowed * 100


async def measure(tokens, per_s):
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with EmbeddedPostgres(Path(folder)) as postgres, local_server() as port:
            await migrate(postgres.url)
            settings = load_settings(
                database_url=postgres.url,
                ably_api_key=KEY,
                ably_endpoint="127.0.0.1",
                ably_port=port,
                ably_tls=False,
                replay_channels="demo:*",
            )
            async with History(settings) as history:
                return await all_of(history, port, tokens, per_s)


async def all_of(history, port, tokens, per_s):
    print(f"{tokens} tokens; each line is a separate replay, one after the other")
    missed = 0
    for name, pace, terms in (
        ("own", per_s, {}),
        ("other", per_s * 2, {"channel": "demo:other"}),
        ("dense", per_s * 2.5, {}),
    ):
        state, times_s = made(tokens, pace)
        (heard, replay), by_sdk = await asyncio.gather(
            replayed(history, port, name, state, **terms), said_by_hand(port, times_s)
        )
        off, floor = deviations_ms(heard, times_s), deviations_ms(by_sdk, times_s)
        what = f"{pace:g} tokens/s at {replay.terms.max_rate:g}/s, {replay.plan['joined']} joined"
        # chunks beyond the rate are joined: add half of the time between two messages
        target = 20 if pace < replay.terms.max_rate else 20 + 500 / replay.terms.max_rate
        p95_ms = off[int(len(off) * 0.95)]
        missed |= show([Row(f"{what}: deviation, p95", p95_ms, "ms", target)])
        for who, each in (("replay", off), ("stock SDK", floor)):
            p50, p95, p99 = (each[int(len(each) * share)] for share in (0.5, 0.95, 0.99))
            print(f"{who:>58} p50 {p50:.1f}  p95 {p95:.1f}  p99 {p99:.1f}  max {each[-1]:.1f} ms")
    for name, allowed, terms in (("fast", 25, {}), ("faster", 50, {"channel": "demo:fast"})):
        state, _ = made(tokens, per_s)
        heard, _ = await replayed(history, port, name, state, speed=0, **terms)
        used = rate_used(heard, allowed)
        missed |= show([Row(f"speed 0, {allowed}/s allowed: used", used, "%", 90, least=True)])
    return missed


def main(argv):
    parser = argparse.ArgumentParser(description="How a replay keeps its times.")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--per-s", type=float, default=20.0)
    parser.add_argument("--listen", help=argparse.SUPPRESS)
    parser.add_argument("--by-hand", help=argparse.SUPPRESS)
    parser.add_argument("port", nargs="?", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.by_hand:
        asyncio.run(by_hand(asked.port, asked.by_hand))
        return 0
    if asked.listen:
        asyncio.run(listen(asked.port, asked.listen))
        return 0
    return asyncio.run(measure(asked.tokens, asked.per_s))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

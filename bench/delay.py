"""Delay: the same tokens, received by a stock ably-python subscriber and by a follower over SSE.

    python -m bench delay [--seconds 10]

Both listen at the same time, in separate processes. The reader that attached first is sent each message
first, so both orders are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager

from bench._service import ably_of, environment_of, say, surroundings
from bench._table import Row, show
from bench.hydrate import token_for

from rehydrate.demo.processes import Child

RATE_PER_S = 25
WARM = 5


async def measure(options):
    late = {}
    async with surroundings() as settings:
        for first in ("sdk", "sse"):
            async with Child("--quiet", "serve", environment=environment_of(settings)) as service:
                readers = {"sdk": ("sdk",), "sse": ("sse", service.url)}
                order = [readers.pop(first), *readers.values()]
                late[first] = await late_ms(settings, f"ai:{first}-first", order, options.seconds)
    rows = []
    for name, who in (("sdk", "a stock subscriber"), ("sse", "a follower over SSE")):
        for first, found in late.items():
            order = "first" if first == name else "second"
            rows.append(Row(f"a token reaches {who}, {order} in turn, p50", p50(found[name]), "ms"))
    both = {name: sum(p50(found[name]) for found in late.values()) for name in ("sdk", "sse")}
    return [*rows, Row("  ratio, of both turns together", both["sse"] / both["sdk"], "x", 1.2)]


def p50(values):
    return statistics.median(values)


async def late_ms(settings, channel, order, seconds):
    """Return the delay of each token at each of the readers, which attach in this *order*."""
    conversation = channel.removeprefix("ai:")
    async with AsyncExitStack() as stack:
        ably = await stack.enter_async_context(ably_of(settings))
        processes = [
            (how[0], await stack.enter_async_context(listening(settings, channel, *how)))
            for how in order
        ]
        count = round(seconds * RATE_PER_S)
        for seq in range(1, count + 1):
            await say(ably, conversation, seq, f"{time.time():.6f}")
            await asyncio.sleep(1 / RATE_PER_S)
        await say(ably, conversation, count + 1, "end")
        return {
            name: json.loads(await process.stdout.readline())[WARM:] for name, process in processes
        }


@asynccontextmanager
async def listening(settings, channel, *how):
    """A reader in a separate process, which prints the delay of each token."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench._readers", *how),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
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


def main(argv):
    parser = argparse.ArgumentParser(prog="bench delay", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="duration of each order")
    return show(asyncio.run(measure(parser.parse_args(argv))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

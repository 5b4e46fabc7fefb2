"""A crowd: a thousand readers join one live response at once, then receive 25 events per second.

    python -m bench crowd [--joiners 1000] [--seconds 20]

A tenth of the readers stalls. The service, the channel server, Postgres and the readers are separate
processes. Delays are measured at every tenth reader; the others read only occasionally, so that
they use as little CPU as possible.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time

from bench._service import (
    ably_of,
    attachments,
    cpu_s,
    environment_of,
    per_cent,
    rss_kb,
    say,
    surroundings,
)
from bench._table import Row, show
from bench.hydrate import Site, token_for

from rehydrate.demo.processes import Child

RATE_PER_S = 25
TOKENS = 2_000
CONVERSATION = "crowd"


async def measure(options):
    async with (
        surroundings() as settings,
        ably_of(settings) as ably,
        Child("--quiet", "serve", environment=environment_of(settings)) as service,
    ):
        await asyncio.gather(*(say(ably, CONVERSATION, n, "word ") for n in range(1, TOKENS + 1)))
        token = token_for(settings, f"ai:{CONVERSATION}")
        path = f"/v1/conversations/{CONVERSATION}"
        await asyncio.to_thread(Site(service.url, token).get, path)
        before_kb = rss_kb(service.pid)
        process = await begin(service.url, f"{path}/stream", token, options.joiners)
        joined = json.loads(await process.stdout.readline())
        joined_kb = rss_kb(service.pid)
        attached = attachments(settings, f"ai:{CONVERSATION}")
        used_s = cpu_s(service.pid)
        count = await tell(ably, options.seconds)
        used_s, peak_kb = cpu_s(service.pid) - used_s, rss_kb(service.pid)
        process.stdin.close()
        heard = json.loads(await process.stdout.readline())
        await process.wait()
    late, each = heard["late_ms"], options.joiners
    return [
        Row(f"{each} join a response of 2,000 tokens: failed", each - joined["joined"], "", 0),
        Row("  all have the whole snapshot after", joined["last_ms"], "ms", 1_200),
        Row("  attachments", attached, "", 1),
        Row("  memory per follower", (joined_kb - before_kb) / each, "kB", 35),
        Row(f"  and after {options.seconds} s", (peak_kb - before_kb) / each, "kB", 35),
        Row("readers that missed an event", sum(n != count for n in heard["counts"]), "", 0),
        Row("25 events per second, a tenth stalled: delay p50", statistics.median(late), "ms"),
        Row("  delay p99", per_cent(late, 0.99), "ms", 100),
        Row("  CPU time of the service per event and follower", used_s / count / each * 1e6, "us"),
    ]


async def begin(url, path, token, count):
    host, port = url.removeprefix("http://").split(":")
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench._crowd"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    job = {"host": host, "port": int(port), "request": request, "count": count}
    process.stdin.write(json.dumps(job).encode() + b"\n")
    return process


async def tell(ably, seconds):
    """Publish *seconds* of events, each with its time of publishing; return their number."""
    began_s, count = time.monotonic(), 0
    while (passed_s := time.monotonic() - began_s) < seconds:
        await say(ably, CONVERSATION, TOKENS + 1 + count, f"{time.time():.6f}")
        count += 1
        await asyncio.sleep(max(0, count / RATE_PER_S - passed_s))
    await asyncio.sleep(1)
    return count


def main(argv):
    parser = argparse.ArgumentParser(prog="bench crowd", description=__doc__.partition("\n")[0])
    parser.add_argument("--joiners", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=20)
    return show(asyncio.run(measure(parser.parse_args(argv))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

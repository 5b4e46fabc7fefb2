"""Sweeping: the time until followers see the ends of responses whose publisher was killed.

    python -m bench sweeping [--responses 100] [--lease 5] [--only one,many,busy]

The publisher is a separate process, killed (-9) while all of its responses are open: in one
conversation, or each in its own. The sweeper and the followers are in this process. The guarantee is
twice the lease; of that, a lease has to expire, and the channel may lag by 2 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench._table import Row, show
from bench.channel import KEY, local_server

from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.history import History
from rehydrate.postgres.migrations import migrate
from rehydrate.settings import load_settings

WITHIN_S = 120
SETTLED_S = 2.0


def opened(url, port, lease_s):
    settings = load_settings(
        database_url=url,
        ably_api_key=KEY,
        ably_endpoint="127.0.0.1",
        ably_port=int(port),
        ably_tls=False,
        lease_s=float(lease_s),
    )
    return History(settings)


async def publish(url, port, lease_s, names):
    """Open a response in each of the conversations *names*, print a line, and never end."""
    async with opened(url, port, lease_s) as history, contextlib.AsyncExitStack() as stack:
        for number, name in enumerate(names):
            response = await stack.enter_async_context(history.respond(name, f"r{number}"))
            response.write("one ")
            response.write("two")
        await asyncio.sleep(SETTLED_S)
        print("open", flush=True)
        await asyncio.Event().wait()


async def ends(history, name, joined):
    """Wait until a follower of *name* has seen all of its responses end; return their number."""
    open_, known = set(), set()
    async with history.joined(name, limit=200) as follower:
        async for event in follower:
            if event.kind == "snapshot":
                messages = event.data["messages"]
                known = {m["id"] for m in messages}
                open_ = {m["id"] for m in messages if m["status"] == "in_progress"}
                joined.set()
            elif event.kind == "stop":
                open_.discard(event.data["message_id"])
            if not open_:
                return len(known)
    return 0


async def one_run(url, lease_s, names):
    """Return the seconds from killing a publisher of *names* until followers have seen every end."""
    async with local_server() as port:
        publisher = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.sweeping", "--publish", url, str(port), str(lease_s)),
            *names,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await publisher.stdout.readline()
            async with opened(url, port, lease_s) as history, asyncio.timeout(WITHIN_S):
                following, each = [], []
                for name in dict.fromkeys(names):
                    each.append(asyncio.Event())
                    following.append(asyncio.create_task(ends(history, name, each[-1])))
                await asyncio.gather(*(joined.wait() for joined in each))
                publisher.send_signal(signal.SIGKILL)
                began_s = time.perf_counter()
                seen = sum(await asyncio.gather(*following))
                took_s = time.perf_counter() - began_s
        finally:
            with contextlib.suppress(ProcessLookupError):
                publisher.kill()
            await publisher.wait()
    assert seen == len(names), f"{seen} of {len(names)} responses were seen"
    return took_s


async def measure(asked):
    rows = []
    runs = {
        "one": ("1 response", ["c-single"]),
        "many": (
            f"{asked.responses} responses in as many conversations",
            [f"c-{number}" for number in range(asked.responses)],
        ),
        "busy": (f"{asked.responses} responses in one conversation", ["c-busy"] * asked.responses),
    }
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    with folder, EmbeddedPostgres(Path(folder.name)) as postgres:
        await migrate(postgres.url)
        for key in asked.only.split(","):
            what, names = runs[key]
            took_s = await one_run(postgres.url, asked.lease, names)
            rows += [
                Row(f"{what}, killed: all ends seen after", took_s, "s"),
                Row("  relative to twice the lease", took_s / (2 * asked.lease), "", 1),
            ]
    return show(rows)


def main(argv):
    """Measure and print; return whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="bench sweeping", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=100)
    parser.add_argument("--lease", type=float, default=5)
    parser.add_argument("--only", default="one,many,busy")
    parser.add_argument("--publish", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.publish:
        url, port, lease_s, *names = asked.publish
        return asyncio.run(publish(url, port, lease_s, names))
    return asyncio.run(measure(asked))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

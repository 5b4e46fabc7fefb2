"""Run random conversations, publishers, readers, faults and restarts for a given time.

`python -m soak --seconds 600 [--seed N] [--json] [--without FAULT,FAULT]`: real processes, stock SDKs.
Every character that a reader shows is compared with what was published. The seed determines what is
done and when; the scheduling of processes differs from run to run. Exit code 0: nothing was lost or
doubled, every response ended, and every fault had an effect.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import time
from contextlib import suppress

from websockets.exceptions import ConnectionClosed

from soak.faults import FAULTS
from soak.node import missing
from soak.plan import WAYS
from soak.playing import Soak
from soak.truth import Tally
from soak.world import running_world

PROGRESS_S = 10


def quiet(loop, context):
    """Ignore the SDK's errors about connections that were cut; report all others."""
    error, work = context.get("exception"), repr(context.get("future"))
    if not isinstance(error, ConnectionClosed) and "WebSocketTransport" not in work:
        loop.default_exception_handler(context)


async def progress(tally, began_s):
    """Print the counts every `PROGRESS_S` seconds, and findings immediately."""
    reported, next_s = 0, began_s + PROGRESS_S
    while True:
        await asyncio.sleep(0.5)
        for finding in tally.findings[reported:]:
            sys.stderr.write(f"WRONG {finding}\n")
        reported = len(tally.findings)
        if time.monotonic() >= next_s:
            next_s += PROGRESS_S
            sys.stderr.write(
                f"{time.monotonic() - began_s:4.0f} s: {tally.conversations} conversations, "
                f"{tally.joins.total()} joins, {tally.characters:,} characters, {tally.lost} lost, "
                f"{tally.doubled} doubled, {tally.unended} unended, {tally.gaps} gaps reported, "
                f"{tally.faults.total()} faults\n"
            )


async def soak(seconds, seed, *, faults=tuple(FAULTS)):
    """Soak for *seconds*; return the tally, and the reasons why some readers were left out."""
    tally, skipped = Tally(), missing()
    ways = [way for way in WAYS if skipped is None or not way.startswith("js")]
    async with running_world(with_node=skipped is None) as world:
        printing = asyncio.create_task(progress(tally, time.monotonic()))
        try:
            await Soak(world, seed, tally, ways=ways, faults=faults).run(seconds)
        finally:
            await asyncio.sleep(0.6)  # the last findings are printed, too
            printing.cancel()
            with suppress(asyncio.CancelledError):
                await printing
    return tally, [] if skipped is None else [f"ably-js: {skipped}"]


async def soak_quietly(seconds, seed, faults):
    """Soak without reports about connections that were cut on purpose."""
    asyncio.get_running_loop().set_exception_handler(quiet)
    return await soak(seconds, seed, faults=faults)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="the report as JSON, last line")
    parser.add_argument("--without", default="", help=f"leave out: {', '.join(FAULTS)}")
    options = parser.parse_args(argv)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    faults = tuple(name for name in FAULTS if name not in options.without.split(","))
    began_s = time.monotonic()
    sys.stderr.write(f"seed {seed}\n")
    logging.getLogger("rehydrate").setLevel(logging.ERROR)
    tally, skipped = asyncio.run(soak_quietly(options.seconds, seed, faults))
    seconds = round(time.monotonic() - began_s)
    reported = {"seed": seed, "seconds": seconds, **tally.as_json(), "skipped": skipped}
    if options.json:
        sys.stdout.write(json.dumps(reported) + "\n")
    else:
        for name, value in reported.items():
            sys.stdout.write(f"{name:14} {value}\n")
        sys.stdout.write(
            f"again          make soak ARGS='--seconds {options.seconds:g} --seed {seed}'\n"
        )
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())

"""Random conversations, publishers, readers, faults and restarts, for as long as asked.

`python -m soak --seconds 600 [--seed N] [--json] [--without FAULT,FAULT]`: real processes, stock SDKs.
Every character that any reader shows is compared with the truth. The seed says what is done and
when; processes run as they will. Exit code 0: nothing was lost or doubled, and everything ended.
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
from soak.world import soaking

PROGRESS_S = 10


def quiet(loop, context):
    """Leave out what the SDK says of connections that were cut; tell all else."""
    error, work = context.get("exception"), repr(context.get("future"))
    if not isinstance(error, ConnectionClosed) and "WebSocketTransport" not in work:
        loop.default_exception_handler(context)


async def progress(tally, began_s):
    """Tell every few seconds what was counted, and at once what is wrong."""
    told, next_s = 0, began_s + PROGRESS_S
    while True:
        await asyncio.sleep(0.5)
        for finding in tally.findings[told:]:
            sys.stderr.write(f"WRONG {finding}\n")
        told = len(tally.findings)
        if time.monotonic() >= next_s:
            next_s += PROGRESS_S
            sys.stderr.write(
                f"{time.monotonic() - began_s:4.0f} s: {tally.conversations} conversations, "
                f"{tally.joins.total()} joins, {tally.characters:,} characters, {tally.lost} lost, "
                f"{tally.doubled} doubled, {tally.unended} unended, {tally.gaps} gaps reported, "
                f"{tally.faults.total()} faults\n"
            )


async def soak(seconds, seed, *, faults=tuple(FAULTS)):
    """Soak for *seconds*; the tally, and what had to be left out."""
    tally, skipped = Tally(), missing()
    ways = [way for way in WAYS if skipped is None or not way.startswith("js")]
    async with soaking(with_node=skipped is None) as world:
        telling = asyncio.create_task(progress(tally, time.monotonic()))
        try:
            await Soak(world, seed, tally, ways=ways, faults=faults).run(seconds)
        finally:
            await asyncio.sleep(0.6)  # what was found last is told, too
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling
    return tally, [] if skipped is None else [f"ably-js: {skipped}"]


async def soaking_quietly(seconds, seed, faults):
    """As `soak`, with nothing said of what was cut on purpose."""
    asyncio.get_running_loop().set_exception_handler(quiet)
    return await soak(seconds, seed, faults=faults)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="the report as JSON, last line")
    parser.add_argument("--without", default="", help=f"leave out: {', '.join(FAULTS)}")
    asked = parser.parse_args(argv)
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    faults = tuple(name for name in FAULTS if name not in asked.without.split(","))
    began_s = time.monotonic()
    sys.stderr.write(f"seed {seed}\n")
    logging.getLogger("rehydrate").setLevel(logging.ERROR)
    tally, skipped = asyncio.run(soaking_quietly(asked.seconds, seed, faults))
    seconds = round(time.monotonic() - began_s)
    told = {"seed": seed, "seconds": seconds, **tally.as_json(), "skipped": skipped}
    if asked.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        for name, value in told.items():
            sys.stdout.write(f"{name:14} {value}\n")
        sys.stdout.write(
            f"again          make soak ARGS='--seconds {asked.seconds:g} --seed {seed}'\n"
        )
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())

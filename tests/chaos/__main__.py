"""Kills everything at seeded random moments, and says what became of every character.

`python -m chaos --rounds 200 [--seed N] [--json] [--faults NAME,NAME]`: real processes, real kill -9. Every other world
loses its channels when the channel server starts anew. Exit code 0: nothing was lost or doubled,
everything ended, and followers agreed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter

from chaos.rounds import FAULTS, play
from chaos.world import running


def report(rounds):
    """What is told of *rounds*."""
    ended = [each for round_ in rounds for each in round_.ended]
    return {
        "rounds": len(rounds),
        "faults": dict(Counter(name for round_ in rounds for name in round_.faults)),
        "responses": len(ended),
        "characters": sum(each.characters for each in ended),
        "lost": sum(each.lost for each in ended),
        "doubled": sum(each.doubled for each in ended),
        "interrupted": sum(each.status == "interrupted" for each in ended),
        "other_ends": dict(Counter(each.status for each in ended)),
        "unended": sum(len(round_.unended) for round_ in rounds),
        "disagreeing": sum(each.disagrees for each in ended),
        "longest_s": round(max((each.after_s for each in ended), default=0.0), 2),
    }


def is_good(told):
    wrong = ("lost", "doubled", "unended", "disagreeing")
    return bool(told["responses"]) and not any(told[name] for name in wrong)


async def played(count, seed, *, faults=None, worlds=(True, False)):
    """Play *count* rounds, shared among the kinds of worlds."""
    chance = random.Random(seed)
    rounds = []
    for index, keeps_channels in enumerate(worlds):
        share = range(index, count, len(worlds))
        if not share:
            continue
        async with running(keeps_channels=keeps_channels) as world:
            for number in share:
                round_ = await play(world, number, chance, faults=faults)
                rounds.append(round_)
                bad = [each for each in round_.ended if each.lost or each.doubled or each.disagrees]
                said = f"round {number}: {', '.join(round_.faults)}"
                if bad or round_.unended:
                    said += f": WRONG {bad} unended {round_.unended}"
                for outcome in set(round_.failed.values()):
                    said += f"; its publisher was told {outcome}"
                sys.stderr.write(said + "\n")
    return rounds


def main(argv=None):
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="the report as JSON, last line")
    parser.add_argument("--faults", help=f"only these: {', '.join(FAULTS)}")
    asked = parser.parse_args(argv)
    seed = random.randrange(2**32) if asked.seed is None else asked.seed
    sys.stderr.write(f"seed {seed}\n")
    faults = asked.faults.split(",") if asked.faults else None
    told = {"seed": seed, **report(asyncio.run(played(asked.rounds, seed, faults=faults)))}
    if asked.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        for name, value in told.items():
            sys.stdout.write(f"{name:12} {value}\n")
    return 0 if is_good(told) else 1


if __name__ == "__main__":
    sys.exit(main())

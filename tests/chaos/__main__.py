"""Inject faults at seeded random moments, and account for every character.

`python -m chaos --rounds 200 [--seed N] [--json] [--faults NAME,NAME] [--each N]`: real processes,
real kill -9. Two worlds run at the same time (`--worlds`): one keeps its channels when the channel
server restarts, the other loses them. Exit code 0: nothing was lost or doubled, every fault had an effect, and within
two leases after the last fault of each round every reader had seen every response end. (The time for
which a busy machine did not schedule this process is measured, reported and subtracted. A stock client
has 35 s more in a round in which connections become half-open and its clock is set back: see
`judging`.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import sys
from collections import Counter
from pathlib import Path

from chaos.disk import own_mounts
from chaos.faults import FAULTS
from chaos.judging import LIMIT_S
from chaos.rounds import play
from chaos.world import running

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"
FIGURES = re.compile(r"^Chaos: .*$", re.MULTILINE)

WRONG = ("lost", "doubled", "late", "unended", "wrong_outcomes", "changed", "silent")
"""Counts that must be 0, and lists that must be empty."""


def report(worlds):
    """Return the report on the rounds of *worlds*."""
    rounds = [round_ for world in worlds for round_ in world["rounds"]]
    ended = [each for round_ in rounds for each in round_.ended]
    fired = [
        (name, count)
        for round_ in rounds
        for name, count in zip(round_.faults, round_.fired, strict=True)
        if count is not None
    ]
    effects = sum((Counter({name: count}) for name, count in fired), Counter())
    return {
        "rounds": len(rounds),
        "faults": dict(Counter(name for name, _ in fired)),
        "effects": dict(effects),
        "silent": [name for name, count in fired if count == 0],
        "skipped": {name: why for world in worlds for name, why in world["skipped"].items()},
        "refusals": dict(sum((world["refusals"] for world in worlds), Counter())),
        "responses": len(ended),
        "characters": sum(each.characters for each in ended),
        "lost": sum(each.lost for each in ended),
        "doubled": sum(each.doubled for each in ended),
        "interrupted": sum(each.status == "interrupted" for each in ended),
        "ends": dict(Counter(each.status for each in ended)),
        "late": sum(each.late for each in ended),
        "unended": sum(len(round_.unended) for round_ in rounds),
        "wrong_outcomes": sum(len(round_.wrong_outcomes) for round_ in rounds),
        "changed": sum(world["changed"] for world in worlds),
        "longest_s": round(max((each.after_s for each in ended), default=0.0), 2),
        "stock_longest_s": round(max((each.stock_s for each in ended), default=0.0), 2),
        "stalled_s": round(max((each.stock_stalled_s for each in ended), default=0.0), 2),
        "recovery_s": recoveries(rounds),
        "limit_s": LIMIT_S,
        "stock_limit_s": max((each.stock_limit_s for each in ended), default=LIMIT_S),
    }


def recoveries(rounds):
    """Return the longest recovery of rounds with each fault, in s, without the time of a stall."""
    longest = {}
    for round_ in rounds:
        taken = [each.stock_s - each.stock_stalled_s for each in round_.ended]
        for name in round_.faults:
            longest[name] = round(max([longest.get(name, 0.0), *taken]), 2)
    return longest


def write_page(reported):
    """Write the figures of a report into `docs/failures.md`."""
    slowest = max(reported["recovery_s"], key=reported["recovery_s"].get)
    text = (
        f"Chaos: {reported['rounds']} rounds (seed {reported['seed']}), {reported['responses']} responses of"
        f" {reported['characters']} characters: {reported['lost']} lost, {reported['doubled']} duplicated,"
        f" {len(reported['silent'])} silent faults. Longest recovery: {reported['recovery_s'][slowest]} s"
        f" (`{slowest}`), of a limit of {reported['limit_s']:.0f} s."
    )
    page = PAGE.read_text()
    assert FIGURES.search(page)
    PAGE.write_text(FIGURES.sub(lambda _: text, page))


def is_good(reported):
    return bool(reported["responses"]) and not any(reported[name] for name in WRONG)


def line(round_):
    """Return the line that reports one round."""
    longest_s = max((each.after_s for each in round_.ended), default=0.0)
    stock_s = max((each.stock_s for each in round_.ended), default=0.0)
    stalled_s = max((each.stock_stalled_s for each in round_.ended), default=0.0)
    text = f"{round_.conversation_id}: {', '.join(round_.faults)}: {longest_s:.1f} s"
    text += f", a stock client {stock_s:.1f} s" if stock_s - longest_s > 1 else ""
    text += f" ({stalled_s:.1f} s stalled)" if stalled_s > 1 else ""
    bad = [each for each in round_.ended if each.lost or each.doubled or each.late]
    silent = [name for name, n in zip(round_.faults, round_.fired, strict=True) if n == 0]
    if bad or round_.unended or round_.wrong_outcomes or silent:
        text += f": WRONG {bad} unended {round_.unended} wrong outcomes {round_.wrong_outcomes}"
        text += f" never fired {silent}; not scheduled for up to {round_.longest_turn_s:.1f} s"
    return text


async def changed(world, rounds):
    """Return how many responses have changed since their end (law 5)."""
    count = 0
    for round_ in rounds:
        for answer in await world.hydrated(round_.conversation_id):
            now = {
                m["id"]: (m["status"], len(m["text"]))
                for m in (answer or {"messages": ()})["messages"]
            }
            count += sum(
                now.get(each.id) != (each.status, each.characters) for each in round_.ended
            )
    return count


async def played_in(plan, chance, *, keeps_channels, no_mounts, folder, stopping):
    """Play the rounds of *plan*, pairs of a number and the faults, in one world."""
    async with running(keeps_channels=keeps_channels, no_mounts=no_mounts, folder=folder) as world:
        rounds = []
        for number, names in plan:
            if stopping.is_set():
                break
            rounds.append(await play(world, number, chance, names=names))
            sys.stderr.write(line(rounds[-1]) + "\n")
        return {
            "rounds": rounds,
            "skipped": world.skipped,
            "refusals": world.refusals,
            "changed": await changed(world, rounds),
        }


async def played(plans, seed, *, no_mounts=None, folder=None):
    """Play each of *plans* in a world of its own, concurrently; every other one keeps its channels.

    After SIGTERM no round begins any more.
    """
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with asyncio.TaskGroup() as group:
        playing = []
        for index, plan in enumerate(plans):
            where = None if folder is None else folder / str(index)
            if where is not None:
                where.mkdir(parents=True)
            playing.append(
                group.create_task(
                    played_in(
                        plan,
                        random.Random(f"{seed}-{index}"),
                        keeps_channels=not index % 2,
                        no_mounts=no_mounts,
                        folder=where,
                        stopping=stopping,
                    )
                )
            )
    return [each.result() for each in playing]


def plans(options):
    """Return the rounds of each world: numbers, and the faults unless they are random."""
    names = options.faults.split(",") if options.faults else None
    if options.each:
        names = names or list(FAULTS)
        cut = [names[at : at + options.each] for at in range(0, len(names), options.each)]
        return [list(enumerate(cut))[0::2], list(enumerate(cut))[1::2]]
    numbers = [(number, names) for number in range(options.rounds)]
    each_world = [numbers[world :: options.worlds] for world in range(options.worlds)]
    return [each for each in each_world if each]


def main(argv=None):
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--worlds", type=int, default=2, help="how many run at the same time")
    parser.add_argument("--json", action="store_true", help="the report as JSON, last line")
    parser.add_argument("--faults", help=f"only these: {', '.join(FAULTS)}")
    parser.add_argument("--each", type=int, help="every fault once, this many in a round")
    parser.add_argument("--page", action="store_true", help="write the figures into a document")
    parser.add_argument("--keep", type=Path, help="a new folder in which the logs are kept")
    options = parser.parse_args(argv)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    sys.stderr.write(f"seed {seed}\n")
    no_mounts = own_mounts()
    worlds = asyncio.run(played(plans(options), seed, no_mounts=no_mounts, folder=options.keep))
    reported = {"seed": seed, **report(worlds)}
    if options.page:
        write_page(reported)
    if options.json:
        sys.stdout.write(json.dumps(reported) + "\n")
    else:
        for name, value in reported.items():
            sys.stdout.write(f"{name:12} {value}\n")
    return 0 if is_good(reported) else 1


if __name__ == "__main__":
    sys.exit(main())

"""One round: responses stream, something is killed, and all of them end as they should."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import NamedTuple

from chaos.following import Follower
from chaos.publisher import MEAN_TOKENS
from rehydrate.demo.texts import tokens_of

PATIENCE_S = 90.0
RESPONSES = 3
FREEZE_S = 3.0
KILLED = "killed"


class Ended(NamedTuple):
    """How one response ended, and how long after it could have."""

    id: str
    status: str
    characters: int
    lost: int
    doubled: int
    after_s: float
    disagrees: bool


class Round(NamedTuple):
    """``failed``: what publishers that lived were told instead of an end, by response."""

    faults: list[str]
    ended: list[Ended]
    unended: list[str]
    failed: dict[str, str]


async def publisher_dies(world):
    await world.publisher.again()


async def service_dies(world):
    await random.choice(world.services).again()


async def postgres_stops(world):
    await world.stop_postgres()


async def channels_restart(world):
    await world.channels.again()


async def connections_are_cut(world):
    await world.control("POST", "cut", {})


async def connections_are_half_open(world):
    await world.control("PUT", "faults/freeze", {})
    await asyncio.sleep(FREEZE_S)
    await world.control("DELETE", "faults/freeze")


async def publishes_are_refused(world):
    await world.control("PUT", "faults/refuse_publish", {"share": 0.2, "count": 5})
    await asyncio.sleep(1)
    await world.control("DELETE", "faults/refuse_publish")


FAULTS = {
    each.__name__: each
    for each in (
        publisher_dies,
        service_dies,
        postgres_stops,
        channels_restart,
        connections_are_cut,
        connections_are_half_open,
        publishes_are_refused,
    )
}


async def play(world, number, chance, *, faults=None):
    """Play one round; *faults*: names, instead of chance."""
    conversation_id = f"round-{number}"
    ids = [f"{conversation_id}-r{n}-{chance.getrandbits(32):08x}" for n in range(RESPONSES)]
    chosen = faults or chance.choices(list(FAULTS), k=chance.choice([1, 1, 2]))
    follower = Follower(world, conversation_id)
    following = asyncio.create_task(follower.run())
    try:
        ephemeral = world.keeps_channels and number % 5 == 4
        world.publisher.say(
            {"conversation": conversation_id, "responses": ids, "ephemeral": ephemeral}
        )
        killed = await _do(world, chosen, chance)
        failed = await _outcomes(world, ids, killed=killed)
        ended, unended = await _judge(world, follower, ids, failed)
        if world.keeps_channels and not ephemeral:
            ended = await _against_channel(world, conversation_id, ended)
        told = {id_: outcome for id_, outcome in failed.items() if outcome != KILLED}
        return Round(chosen, ended, unended, told)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _do(world, chosen, chance):
    for name in chosen:
        await asyncio.sleep(chance.uniform(0.1, 1.2))
        await FAULTS[name](world)
    return "publisher_dies" in chosen


async def _outcomes(world, ids, *, killed):
    """Wait until the publisher has ended all, or was killed; what kept it from ending some."""
    failed, left = {}, set(ids)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while left and not (killed and world.publisher.lines.empty()):
                id_, outcome = json.loads(await world.publisher.lines.get())
                left.discard(id_)
                if outcome != "completed":
                    failed[id_] = outcome
    return failed | dict.fromkeys(left if killed else (), KILLED)


async def _judge(world, follower, ids, failed):
    began_s = time.monotonic()
    ended, left = [], set(ids)
    while left and time.monotonic() - began_s < PATIENCE_S:
        answer = await world.hydrated(follower.conversation_id)
        messages = {each["id"]: each for each in (answer or {"messages": ()})["messages"]}
        after_s = time.monotonic() - began_s
        for id_ in list(left):
            message = messages.get(id_)
            if message is None and answer is not None and id_ in failed and after_s > 10:
                left.discard(id_)  # it was never begun
            elif message is not None and message["status"] != "in_progress":
                shown = await _seen(follower, message)
                ended.append(_measured(message, after_s, failed, disagrees=not shown))
                left.discard(id_)
        await asyncio.sleep(0.2)
    return ended, sorted(left)


async def _against_channel(world, conversation_id, ended):
    """Count as lost what the channel shows and the answer does not."""
    shown = await world.said(conversation_id)
    found = []
    for each in ended:
        behind = len(shown.get(each.id, "")) - each.characters
        found.append(each._replace(lost=max(each.lost, behind)))
    return found


async def _seen(follower, message):
    """Whether a follower comes to show what the answer says."""
    wanted = [message["text"], message["status"], bool(message["gaps"])]
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            while follower.shown.get(message["id"]) != wanted:  # noqa: ASYNC110 - a plain reader
                await asyncio.sleep(0.1)
            return True
    return False


def _measured(message, after_s, failed, *, disagrees):
    whole = "".join(tokens_of(message["id"], mean=MEAN_TOKENS))
    text, id_ = message["text"], message["id"]
    lost = doubled = 0
    if message["status"] == "completed" and text != whole:
        lost, doubled = max(0, len(whole) - len(text)) or 1, max(0, len(text) - len(whole))
    elif id_ not in failed and message["status"] != "completed":
        lost = len(whole) - len(text) or 1  # its publisher lived, and ended it
    elif not (_within(text, whole) if message["gaps"] else whole.startswith(text)):
        doubled = 1
    return Ended(id_, message["status"], len(text), lost, doubled, after_s, disagrees)


def _within(text, whole):
    """Whether *text* is *whole* with pieces left out."""
    rest = iter(whole)
    return all(character in rest for character in text)

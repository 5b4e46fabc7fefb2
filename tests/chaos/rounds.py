"""One round: responses stream, something breaks, and every reader sees all of them end."""

from __future__ import annotations

import asyncio
import json
import time
from typing import NamedTuple

from chaos import faults
from chaos.following import Follower
from chaos.judging import KILLED, measured, never_begun

PATIENCE_S = 90.0
RESPONSES = 4


class Round(NamedTuple):
    """What became of a round.

    ``unended``: responses that some reader never saw end. ``betrayed``: what publishers that lived
    were told instead of an end, by response, though they should not have been.
    """

    conversation_id: str
    faults: list[str]
    ended: list
    unended: dict[str, str]
    betrayed: dict[str, str]


class _Playing:
    """A round while it goes on."""

    def __init__(self, world, number, chance):
        self.world = world
        self.chance = chance
        self.conversation_id = f"round-{number}"
        self.ephemeral = world.keeps_channels and number % 5 == 4
        self.ids = [
            f"{self.conversation_id}-r{n}-{chance.getrandbits(32):08x}" for n in range(RESPONSES)
        ]
        self.publisher_of = {id_: chance.choice(world.publishers) for id_ in self.ids}
        self.losses = world.losses
        self.kills = {each: each.kills for each in world.publishers}
        self.outcomes = {}
        self.over_s = 0.0
        self.follower = Follower(world, self.conversation_id)
        world.dead.clear()

    def begin(self):
        self.world.readers.say({"follow": self.conversation_id})
        for publisher in self.world.publishers:
            mine = [id_ for id_ in self.ids if self.publisher_of[id_] is publisher]
            asked = {"conversation": self.conversation_id, "responses": mine}
            publisher.say({**asked, "ephemeral": self.ephemeral})

    async def break_things(self, names):
        for name in names:
            await asyncio.sleep(self.chance.uniform(0.1, 1.2))
            await faults.make(self.world, name, self.chance)
        self.over_s = time.monotonic()

    async def publishers_end(self):
        """Wait until each publisher has said what became of its responses, or was killed."""
        async with asyncio.timeout(PATIENCE_S):
            while left := [id_ for id_ in self.ids if id_ not in self.outcomes]:
                for publisher in self.world.publishers:
                    while not publisher.lines.empty():
                        id_, outcome = json.loads(publisher.lines.get_nowait())
                        self.outcomes[id_] = outcome
                        self.over_s = time.monotonic()
                for id_ in left:
                    publisher = self.publisher_of[id_]
                    killed = (
                        publisher.name in self.world.dead
                        and publisher.kills > self.kills[publisher]
                    )
                    if killed and id_ not in self.outcomes and publisher.lines.empty():
                        self.outcomes[id_] = KILLED
                await asyncio.sleep(0.02)

    @property
    def shown(self):
        """What readers show, by kind."""
        return {"sse": self.follower.shown.messages, **self.world.shown[self.conversation_id]}


async def play(world, number, chance, *, names=None):
    """Play one round; *names*: of faults, instead of chance."""
    playing = _Playing(world, number, chance)
    names = names or faults.some(world, chance)
    following = asyncio.create_task(playing.follower.run())
    try:
        playing.begin()
        await playing.break_things(names)
        await playing.publishers_end()
        ended, unended = await _see_the_end(playing)
        if not playing.ephemeral and playing.losses == world.losses:
            ended = await _against_channel(world, playing.conversation_id, ended)
        return Round(playing.conversation_id, names, ended, unended, _betrayed(playing, ended))
    finally:
        await faults.mend(world)
        world.readers.say({"leave": playing.conversation_id})
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        world.shown.pop(playing.conversation_id, None)


async def _see_the_end(playing):
    """Wait until every service says, and every reader shows, how each response ended."""
    ended, left = [], set(playing.ids)
    missing = {}
    while left and time.monotonic() - playing.over_s < PATIENCE_S:
        asked_s = time.monotonic()
        answers = await playing.world.hydrated(playing.conversation_id)
        for id_ in sorted(left):
            seen = _seen_by_all(answers, playing.shown, id_)
            if isinstance(seen, dict):
                after_s = max(0.0, time.monotonic() - playing.over_s)
                ended.append(measured(playing, seen, after_s))
                left.discard(id_)
            elif never_begun(playing, answers, id_, asked_s - playing.over_s):
                left.discard(id_)
            else:
                missing[id_] = seen
        await asyncio.sleep(0.1)
    return ended, {id_: missing.get(id_, "") for id_ in sorted(left)}


def _seen_by_all(answers, shown, id_):
    """The message, if all agree that it has ended; else who does not, in words."""
    found = []
    for answer in answers:
        message = next(
            (m for m in (answer or {"messages": ()})["messages"] if m["id"] == id_), None
        )
        if message is None or message["status"] == "in_progress":
            return "not ended, a service says" if answer else "a service does not answer"
        found.append(message)
    message = found[0]
    wanted = [message["text"], message["status"], bool(message["gaps"])]
    for other in found:
        if [other["text"], other["status"], bool(other["gaps"])] != wanted:
            return "services disagree"
    for kind in ("sse", "library", "stock"):
        if (has := shown.get(kind, {}).get(id_)) != wanted:
            what = "nothing" if has is None else f"{has[1]}, {len(has[0])} characters"
            return f"{kind} shows {what}, not {wanted[1]}, {len(wanted[0])}"
    return message


async def _against_channel(world, conversation_id, ended):
    """Count as lost what the channel shows and the answer does not."""
    shown = await world.said(conversation_id)
    found = []
    for each in ended:
        behind = len(shown.get(each.id, "")) - each.characters
        found.append(each._replace(lost=max(each.lost, behind)))
    return found


def _betrayed(playing, ended):
    """What publishers were told that they should not have been.

    One that was killed says nothing; one that slept is fenced. Else a response ends as its
    publisher wants, or was never begun, and the caller knows; or its end is told by a sweep.
    """
    begun = {each.id for each in ended}
    wrong = {}
    for id_, outcome in playing.outcomes.items():
        dead = playing.publisher_of[id_].name in playing.world.dead
        refused = outcome.startswith("StoreUnavailable") and id_ not in begun
        untold = outcome.startswith("ChannelUnavailable") and id_ in begun
        if outcome != "completed" and not (dead or refused or untold):
            wrong[id_] = outcome
    return wrong

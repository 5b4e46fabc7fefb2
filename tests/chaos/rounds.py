"""One round: responses stream, something breaks, and every reader sees all of them end."""

from __future__ import annotations

import asyncio
import json
import time
from typing import NamedTuple

from chaos import faults
from chaos.following import Follower
from chaos.judging import KILLED, measured, never_begun, taken_s

PATIENCE_S = 90.0
RESPONSES = 4
"""And two more for each fault; they begin one after the other, so that each meets some."""

OURS = ("sse", "library")
"""Kinds of readers that see a connection die by our own pings."""

_A_FAULT_S = 1.6
_TURN_S = 0.05


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

    def __init__(self, world, number, chance, names):
        self.world = world
        self.names = names
        self.chance = chance
        self.conversation_id = f"round-{number}"
        self.ephemeral = world.keeps_channels and number % 5 == 4
        count = RESPONSES + 2 * len(names)
        self.ids = [
            f"{self.conversation_id}-r{n}-{chance.getrandbits(32):08x}" for n in range(count)
        ]
        self.publisher_of = {id_: chance.choice(world.publishers) for id_ in self.ids}
        self.losses = world.losses
        self.kills = {each: each.kills for each in world.publishers}
        self.outcomes = {}
        self.over_s = self.stalled_s = 0.0
        self.told_s = {}
        self.follower = Follower(world, self.conversation_id)
        world.dead.clear()
        world.half_open = world.set_back = False

    def begin(self):
        self.world.readers.say({"follow": self.conversation_id})
        within_s = _A_FAULT_S * len(self.names)
        begins_s = {id_: self.chance.uniform(0, within_s) for id_ in self.ids}
        for publisher in self.world.publishers:
            mine = {id_: begins_s[id_] for id_ in self.ids if self.publisher_of[id_] is publisher}
            asked = {"conversation": self.conversation_id, "responses": mine}
            publisher.say({**asked, "ephemeral": self.ephemeral})

    async def break_things(self):
        for name in self.names:
            await asyncio.sleep(self.chance.uniform(0.1, 1.2))
            await faults.make(self.world, name, self.chance)
        self.over_s, self.stalled_s = time.monotonic(), 0.0

    def listen(self):
        """Take what publishers say became of their responses; of one that was killed, nothing."""
        for publisher in self.world.publishers:
            killed = publisher.kills > self.kills[publisher]
            while not publisher.lines.empty():
                id_, outcome = json.loads(publisher.lines.get_nowait())
                self.outcomes[id_], self.told_s[id_] = outcome, time.monotonic()
            mine = [id_ for id_ in self.ids if self.publisher_of[id_] is publisher]
            self.outcomes |= {id_: KILLED for id_ in mine if killed and id_ not in self.outcomes}

    def since(self, id_):
        """How long ago everything worked again, and the publisher was done with *id_*, in s."""
        return max(0.0, time.monotonic() - max(self.over_s, self.told_s.get(id_, 0.0)))

    async def watch_the_machine(self):
        """Add up how long a process that wants to run has to wait for its turn."""
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(_TURN_S)
            self.stalled_s += max(0.0, time.monotonic() - began_s - 1.5 * _TURN_S)

    @property
    def shown(self):
        """What readers show, by kind."""
        return {"sse": self.follower.shown.messages, **self.world.shown[self.conversation_id]}


async def play(world, number, chance, *, names=None):
    """Play one round; *names*: of faults, instead of chance."""
    playing = _Playing(world, number, chance, names or faults.some(world, chance))
    beside = [asyncio.create_task(playing.follower.run())]
    beside.append(asyncio.create_task(playing.watch_the_machine()))
    try:
        playing.begin()
        await playing.break_things()
        ended, unended = await _see_the_end(playing)
        if not playing.ephemeral and playing.losses == world.losses:
            ended = await _against_channel(world, playing.conversation_id, ended)
        betrayed = _betrayed(playing, ended)
        return Round(playing.conversation_id, playing.names, ended, unended, betrayed)
    finally:
        await faults.mend(world)
        world.readers.say({"leave": playing.conversation_id})
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        world.shown.pop(playing.conversation_id, None)


async def _see_the_end(playing):
    """Wait until every service says, and every reader shows, how each response ended."""
    ended, left, ours_s = [], set(playing.ids), {}
    missing = dict.fromkeys(playing.ids, "its publisher says nothing")
    deadline_s = time.monotonic() + PATIENCE_S
    while left and time.monotonic() < deadline_s:
        playing.listen()
        done = sorted(left & playing.outcomes.keys())
        answers = await playing.world.hydrated(playing.conversation_id)
        for id_ in done:
            seen = _seen_by(OURS, answers, playing.shown, id_)
            if isinstance(seen, dict):
                ours_s.setdefault(id_, taken_s(playing, id_))
                seen = _seen_by((*OURS, "stock"), answers, playing.shown, id_)
            if isinstance(seen, dict):
                ended.append(measured(playing, seen, ours_s[id_]))
                left.discard(id_)
            elif never_begun(playing, answers, id_):
                left.discard(id_)
            else:
                missing[id_] = seen
        await asyncio.sleep(0.1)
    return ended, {id_: missing[id_] for id_ in sorted(left)}


def _seen_by(kinds, answers, shown, id_):
    """The message, if readers of *kinds* and services agree that it has ended; else who does not."""
    found = []
    for answer in filter(None, answers):  # one that was killed may still be starting again
        message = next((m for m in answer["messages"] if m["id"] == id_), None)
        if message is None or message["status"] == "in_progress":
            return "not ended, a service says"
        found.append(message)
    if not found:
        return "no service answers"
    message = found[0]
    wanted = [message["text"], message["status"], bool(message["gaps"])]
    for other in found:
        if [other["text"], other["status"], bool(other["gaps"])] != wanted:
            return "services disagree"
    for kind in kinds:
        if (has := shown.get(kind, {}).get(id_)) != wanted:
            return f"{kind} shows {_brief(has)}, not {_brief(wanted)}"
    return message


def _brief(shown):
    if shown is None:
        return "nothing"
    text, status, gaps = shown
    return f"{status}, {len(text)} characters{', gaps' if gaps else ''}"


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

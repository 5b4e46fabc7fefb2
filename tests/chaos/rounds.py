"""One round: responses stream, faults occur, and every reader sees every response end."""

from __future__ import annotations

import asyncio
import json
import time
from typing import NamedTuple

from chaos import faults
from chaos.following import Follower
from chaos.judging import KILLED, measured, never_begun, taken_s

PATIENCE_S = 90.0
RESPONSES, MORE = 4, 2
"""Responses at the beginning of a round, and with each of its faults, so that each affects some."""

OURS = ("sse", "library")
"""Kinds of readers that notice a dead connection by our own pings."""

_BEGIN_WITHIN_S, _MORE_WITHIN_S = 1.6, 0.8
_TURN_S = 0.05


class Round(NamedTuple):
    """The result of a round.

    ``unended``: responses that some reader never saw end. ``wrong_outcomes``: errors that live
    publishers received, by response, though it should have ended. ``fired``: the effects of each
    fault; None: it is not possible here. ``longest_turn_s``: the longest time in which the machine
    did not schedule this process, in the whole round.
    """

    conversation_id: str
    faults: list[str]
    fired: list[int | None]
    ended: list
    unended: dict[str, str]
    wrong_outcomes: dict[str, str]
    longest_turn_s: float


class _Playing:
    """A round that is being played."""

    def __init__(self, world, number, chance, names):
        self.world = world
        self.names = names
        self.chance = chance
        self.conversation_id = f"round-{number}"
        self.ephemeral = world.keeps_channels and number % 5 == 4
        count = RESPONSES + MORE * len(names)
        self.ids = [
            f"{self.conversation_id}-r{n}-{chance.getrandbits(32):08x}" for n in range(count)
        ]
        self.publisher_of = {id_: chance.choice(world.publishers) for id_ in self.ids}
        self.losses = world.losses
        self.deaths, self.kills = {}, {}
        self.fired = []
        self.outcomes = {}
        self.over_s = self.stalled_s = self.longest_turn_s = 0.0
        self.outcome_s = {}
        self.follower = Follower(world, self.conversation_id)
        world.conversation_id = self.conversation_id
        world.half_open = world.set_back = False

    async def begin(self):
        self.world.readers.send({"follow": self.conversation_id})
        await self._respond(self.ids[:RESPONSES], _BEGIN_WITHIN_S)

    async def _respond(self, ids, within_s):
        """Begin responses, each by its publisher, or by the other if that one was just killed."""
        for id_ in ids:
            begins_s = self.chance.uniform(0, within_s)
            publisher = self.publisher_of[id_]
            if not publisher.is_ready:
                ready = [each for each in self.world.publishers if each.is_ready]
                publisher = self.publisher_of[id_] = (ready or [publisher])[0]
                await publisher.is_back()
            self.kills[id_], self.deaths[id_] = publisher.kills, self.world.deaths[publisher.name]
            command = {"conversation": self.conversation_id, "responses": {id_: begins_s}}
            publisher.send({**command, "ephemeral": self.ephemeral})

    def lives(self, id_):
        """Return True if the publisher of a response was neither killed nor suspended since it began."""
        return self.world.deaths[self.publisher_of[id_].name] == self.deaths[id_]

    async def break_things(self):
        later = iter(self.ids[RESPONSES:])
        for name in self.names:
            await asyncio.sleep(self.chance.uniform(0.1, 1.2))
            await self._respond([next(later) for _ in range(MORE)], _MORE_WITHIN_S)
            self.fired.append(await faults.inject(self.world, name, self.chance))
        self.over_s, self.stalled_s = time.monotonic(), 0.0

    def read_outcomes(self):
        """Read the outcomes that publishers report; a killed publisher reports none."""
        for publisher in self.world.publishers:
            while not publisher.lines.empty():
                id_, outcome = json.loads(publisher.lines.get_nowait())
                self.outcomes[id_], self.outcome_s[id_] = outcome, time.monotonic()
        for id_ in self.ids:
            if id_ not in self.outcomes and self.publisher_of[id_].kills > self.kills[id_]:
                self.outcomes[id_] = KILLED

    def since(self, id_):
        """Return the time since all faults were over and the publisher of *id_* was done, in s."""
        return max(0.0, time.monotonic() - max(self.over_s, self.outcome_s.get(id_, 0.0)))

    async def watch_the_machine(self):
        """Add up how long the machine delays a process that is ready to run."""
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(_TURN_S)
            turn_s = time.monotonic() - began_s
            self.stalled_s += max(0.0, turn_s - 1.5 * _TURN_S)
            self.longest_turn_s = max(self.longest_turn_s, turn_s)

    @property
    def shown(self):
        """The messages that readers show, by kind of reader."""
        return {"sse": self.follower.shown.messages, **self.world.shown[self.conversation_id]}


async def play(world, number, chance, *, names=None):
    """Play one round; *names*: the faults, otherwise random."""
    playing = _Playing(world, number, chance, names or faults.draw(world, chance))
    beside = [asyncio.create_task(playing.follower.run())]
    beside.append(asyncio.create_task(playing.watch_the_machine()))
    try:
        await playing.begin()
        await playing.break_things()
        ended, unended = await _see_the_end(playing)
        if not playing.ephemeral and playing.losses == world.losses:
            ended = await _against_channel(world, playing.conversation_id, ended)
        wrong_outcomes = _wrong_outcomes(playing, ended)
        return Round(
            playing.conversation_id,
            playing.names,
            playing.fired,
            ended,
            unended,
            wrong_outcomes,
            playing.longest_turn_s,
        )
    finally:
        await faults.end_all(world)
        world.readers.send({"leave": playing.conversation_id})
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        world.shown.pop(playing.conversation_id, None)


async def _see_the_end(playing):
    """Wait until every service and every reader shows how each response ended."""
    ended, left, ours_s = [], set(playing.ids), {}
    missing = dict.fromkeys(playing.ids, "its publisher reported no outcome")
    deadline_s = time.monotonic() + PATIENCE_S
    while left and time.monotonic() < deadline_s:
        playing.read_outcomes()
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
    """Return the ended message if services and readers of *kinds* agree; otherwise who differs."""
    found = []
    for answer in filter(None, answers):  # a killed service may still be starting
        message = next((m for m in answer["messages"] if m["id"] == id_), None)
        if message is None or message["status"] == "in_progress":
            return "not ended for a service"
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
    """Count as lost the characters that the channel has and the answer lacks."""
    shown = await world.channel_texts(conversation_id)
    found = []
    for each in ended:
        behind = len(shown.get(each.id, "")) - each.characters
        found.append(each._replace(lost=max(each.lost, behind)))
    return found


def _wrong_outcomes(playing, ended):
    """Return the outcomes that publishers should not have received.

    A killed publisher reports none; a suspended one is fenced. Otherwise a response ends as its
    publisher wants, or was never begun, which its caller learns; or a sweeper announces its end.
    """
    begun = {each.id for each in ended}
    wrong = {}
    for id_, outcome in playing.outcomes.items():
        dead = not playing.lives(id_)
        refused = outcome.startswith("StoreUnavailable") and id_ not in begun
        unannounced = outcome.startswith("ChannelUnavailable") and id_ in begun
        if outcome != "completed" and not (dead or refused or unannounced):
            wrong[id_] = outcome
    return wrong

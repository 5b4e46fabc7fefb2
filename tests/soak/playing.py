"""Conversations, one after the other and some at once, until the time is over."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from soak import plan as plans
from soak.faults import FAULTS
from soak.reading import PATIENCE_S, Reader
from soak.speaking import Speaker, channel_of, stream_of

AT_ONCE = 3


class Soak:
    """What is going on, and what was counted.

    Args:
        world: what it is played on.
        seed: says what is done, and when.
        tally: what is counted.
        ways: how readers may join.
        faults: the names of what may happen.
    """

    def __init__(self, world, seed, tally, *, ways=plans.WAYS, faults=tuple(FAULTS)):
        self._world = world
        self._seed = seed
        self._tally = tally
        self._ways = ways
        self._faults = faults
        self._number = 0

    async def run(self, seconds):
        """Play for *seconds*, and what was begun to its end."""
        until_s = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            befalling = group.create_task(self._befall())
            lanes = [group.create_task(self._lane(until_s)) for _ in range(AT_ONCE)]
            await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
            befalling.cancel()

    async def _lane(self, until_s):
        while time.monotonic() < until_s:
            number, self._number = self._number, self._number + 1
            await self._play(plans.conversation(self._seed, number, self._ways))

    async def _befall(self):
        for fault in plans.faults(self._seed, self._faults):
            await asyncio.sleep(fault.pause_s)
            self._tally.faults[fault.name] += 1
            await FAULTS[fault.name](self._world, fault)

    async def _play(self, plan):
        streams = [stream_of(plan, speech) for speech in plan.speeches]
        truth = {stream.id: stream for stream in streams}
        if plan.namespace == "ai":
            self._world.forgetful.add(plan.conversation_id)
        try:
            async with channel_of(self._world, plan.conversation_id) as channel:
                speaker = Speaker(self._world, self._world.author, channel, plan, self._tally)
                async with asyncio.TaskGroup() as group:
                    saying = [
                        group.create_task(speaker.say(speech, stream))
                        for speech, stream in zip(plan.speeches, streams, strict=True)
                    ]
                    for join in plan.joins:
                        group.create_task(self._read(plan, truth, join))
                    group.create_task(self._judge(plan, truth, saying))
        finally:
            self._world.forgetful.discard(plan.conversation_id)
        self._tally.conversations += 1
        self._tally.responses += len(streams)

    async def _read(self, plan, truth, join):
        await asyncio.sleep(join.at_s)
        reader = Reader(self._world, plan, join.way, truth, self._tally)
        self._tally.joins[join.way] += 1
        reading = asyncio.create_task(reader.run(), name=str(reader))
        try:
            if join.stay_s is not None:
                await asyncio.wait({reading}, timeout=join.stay_s)
            else:
                await _settled(truth, reading)
                ending = asyncio.create_task(reader.ends())
                await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            reader.left()

    async def _judge(self, plan, truth, saying):
        """Once all is said: the service's answers say the same, and how what broke has ended."""
        await asyncio.gather(*saying)
        asked = Reader(self._world, plan, "rest", truth, self._tally)
        broken = [stream for stream in truth.values() if stream.final is None]
        until_s = time.monotonic() + PATIENCE_S
        while broken and time.monotonic() < until_s:
            with suppress(TimeoutError):
                await asked.once()
            for stream in list(broken):
                message = asked.shown.get(stream.id)
                if message is None or message["status"] == "in_progress":
                    continue
                stream.ended(message["status"], message["text"])
                broken.remove(stream)
                self._tally.ends[message["status"]] += 1
        for stream in broken:
            self._tally.find(f"{stream.kind} {stream.id} never ends", unended=1)
            stream.ended("never", "")
        for service in (0, 1):
            await self._answers(plan, truth, service)

    async def _answers(self, plan, truth, service):
        reader = Reader(self._world, plan, "rest", truth, self._tally)
        reader._turn = 1 - service
        reading = asyncio.create_task(reader.run())
        try:
            await reader.ends()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _settled(truth, reading):
    """Wait until it is known how everything ends, or *reading* has failed."""
    while not reading.done() and not all(s.final for s in truth.values()):  # noqa: ASYNC110 - of several tasks
        await asyncio.sleep(0.1)

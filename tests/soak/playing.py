"""Run conversations, a few at a time, until the time is over."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from rehydrate.errors import RehydrateError
from soak import plan as plans
from soak.faults import FAULTS
from soak.publishers import TAIL, PlanPublisher, channel_of, stream_of
from soak.reading import PATIENCE_S, Reader

AT_ONCE = 3
LOOKS_S = 4.0
"""How long readers look whether something erased is shown: a rewind has arrived by then."""


class Soak:
    """A running soak.

    Args:
        world: the processes that it runs on.
        seed: determines what is done, and when.
        tally: receives the counts and findings.
        ways: how readers may join.
        faults: the names of the faults to inject.
    """

    def __init__(self, world, seed, tally, *, ways=plans.WAYS, faults=tuple(FAULTS)):
        self._world = world
        self._seed = seed
        self._tally = tally
        self._ways = ways
        self._faults = faults
        self._number = 0

    async def run(self, seconds):
        """Begin conversations for *seconds*, then return once all have ended."""
        until_s = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            injecting = group.create_task(self._inject_faults())
            lanes = [group.create_task(self._lane(until_s)) for _ in range(AT_ONCE)]
            await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
            injecting.cancel()

    async def _lane(self, until_s):
        while time.monotonic() < until_s:
            number, self._number = self._number, self._number + 1
            await self._play(plans.conversation(self._seed, number, self._ways))

    async def _inject_faults(self):
        for fault in plans.faults(self._seed, self._faults):
            await asyncio.sleep(fault.pause_s)
            fired = await FAULTS[fault.name](self._world, fault)
            if fired is not None:
                self._tally.inject(fault.name, fired)

    async def _play(self, plan):
        streams = [stream_of(plan, planned) for planned in plan.messages]
        truth = {stream.id: stream for stream in streams}
        if plan.namespace == "ai":
            self._world.forgetful.add(plan.conversation_id)
        try:
            async with channel_of(self._world, plan.conversation_id) as channel:
                publisher = PlanPublisher(
                    self._world, self._world.author, channel, plan, self._tally
                )
                async with asyncio.TaskGroup() as group:
                    publishing = [
                        group.create_task(publisher.publish(planned, stream))
                        for planned, stream in zip(plan.messages, streams, strict=True)
                    ]
                    for join in plan.joins:
                        group.create_task(self._read(plan, truth, join))
                    group.create_task(self._judge(plan, truth, publishing))
                if plan.is_erased:
                    await self._erase(plan, truth, publisher)
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
                await _ends_known(truth, reading)
                ending = asyncio.create_task(reader.wait_for_end())
                await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            reader.count_characters()

    async def _judge(self, plan, truth, publishing):
        """Check, once everything is published, the service's answers and the end of broken responses."""
        await asyncio.gather(*publishing)
        reader = Reader(self._world, plan, "rest", truth, self._tally)
        broken = [stream for stream in truth.values() if stream.final is None]
        until_s = time.monotonic() + PATIENCE_S
        while broken and time.monotonic() < until_s:
            with suppress(TimeoutError):
                await reader.load_once()
            for stream in list(broken):
                message = reader.shown.get(stream.id)
                if message is None or message["status"] == "in_progress":
                    continue
                stream.ended(message["status"], message["text"])
                broken.remove(stream)
                self._tally.ends[message["status"]] += 1
        for stream in broken:
            self._tally.report(f"{stream.kind} {stream.id} never ends", unended=1)
            stream.ended("never", "")
        for service in (0, 1):
            await self._answers(plan, truth, service)

    async def _answers(self, plan, truth, service):
        reader = Reader(self._world, plan, "rest", truth, self._tally)
        reader._turn = 1 - service
        reading = asyncio.create_task(reader.run())
        try:
            await reader.wait_for_end()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _erase(self, plan, truth, publisher):
        """Erase the conversation, publish more of it, and check that no new reader shows any of it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(RehydrateError):
                    await self._world.author.erase(plan.conversation_id)
                    break
                await asyncio.sleep(0.2)
        self._tally.erased += 1
        late = [p for p in plan.messages if p.kind in ("tokens", "unreadable")]
        ways = [way for way in self._ways if not way.startswith("js")]
        async with asyncio.TaskGroup() as group:
            for planned in late:
                group.create_task(publisher.erased(planned))
            for way in ways:
                group.create_task(self._shows_nothing(plan, truth, way))

    async def _shows_nothing(self, plan, truth, way):
        reader = Reader(self._world, plan, way, {}, self._tally)
        reading = asyncio.create_task(reader.run(), name=str(reader))
        await asyncio.wait({reading}, timeout=LOOKS_S)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        for id_ in reader.now.keys() & truth.keys():
            text = reader.now[id_]["text"]
            if way.startswith("python") and not text.replace(TAIL, ""):
                self._tally.tails += 1  # what was erased is hashed: an answer cannot name it all
            else:
                self._tally.report(f"{reader}: shows erased {id_}, {text[-40:]!r}", doubled=1)


async def _ends_known(truth, reading):
    """Wait until the end of every message is known, or *reading* has failed."""
    while not reading.done() and not all(s.final for s in truth.values()):  # noqa: ASYNC110 - of several tasks
        await asyncio.sleep(0.1)

"""The publishers of a soak: our own, and foreign ones that use stock SDKs alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from itertools import cycle
from typing import NamedTuple

from ably import AblyRest
from ably.types.message import Message
from ably.util.exceptions import AblyException
from httpx import HTTPError

from appending import DONE, Appender
from chaos.publisher import MEAN_TOKENS
from rehydrate.demo.texts import tokens_of
from rehydrate.errors import ChannelUnavailable, Conflict, Fenced, StoreUnavailable
from soak.plan import TOKENS
from soak.truth import Stream
from soak.world import KEY, LEASE_S

PATIENCE_S = 90.0
TAIL = "TAIL"
"""What a publisher adds to a response after its conversation was erased."""

NOT_NOW = (AblyException, HTTPError, OSError, TimeoutError)


def stream_of(plan, planned):
    """Return the texts that *speech* may have."""
    id_, text = planned.id, "".join(tokens_of(planned.id, mean=TOKENS))
    if planned.kind == "nameless":
        return Stream(first_of(plan), planned.kind, text)
    if planned.kind == "taken_over":
        first = "".join(tokens_of(id_, mean=MEAN_TOKENS))
        return Stream(id_, planned.kind, first, "".join(tokens_of(f"{id_}-again", mean=TOKENS)))
    if planned.kind == "transport":
        wrong = "".join(tokens_of(f"{id_}-wrong", mean=8))
        return Stream(id_, planned.kind, wrong, text)
    if planned.kind == "unreadable":
        tokens = tokens_of(id_, mean=TOKENS)
        read = [token for token, shape in zip(tokens, cycle(SHAPES), strict=False) if shape.read]
        lost = [1 for _, shape in zip(tokens, cycle(SHAPES), strict=False) if not shape.read]
        return Stream(id_, planned.kind, "".join(read), unreadable=len(lost))
    return Stream(id_, planned.kind, text)


class Shape(NamedTuple):
    """A way to publish a token: its name, and its data; *read*: readers understand it."""

    name: str
    data: Callable[[str], object]
    read: bool


SHAPES = (
    Shape("token", str, True),
    Shape("token", lambda token: {"text": token}, True),
    Shape("token", lambda token: [token], False),
    Shape("token", lambda token: token.encode(), True),
    Shape("answer", str, False),
    Shape("token", lambda token: b"\xff" + token.encode(), False),
    Shape("token", str, True),
    Shape("token", lambda token: {"delta": token}, False),
)


def first_of(plan):
    """Return the id of a response without one: that of its first event."""
    return f"{plan.conversation_id}-first"


class PlanPublisher:
    """Publishes the messages of a conversation's plan, and counts how they ended."""

    def __init__(self, world, author, channel, plan, tally):
        self._world = world
        self._author = author
        self._channel = channel
        self._plan = plan
        self._tally = tally

    async def publish(self, planned, stream):
        """Publish *speech* at its time, to its end."""
        await asyncio.sleep(planned.at_s)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await getattr(self, f"_{planned.kind}")(planned, stream)
        except TimeoutError:
            self._tally.report(f"{planned.id}: its publisher did not end", unended=1)
        if stream.final is None and not stream.may_break:
            stream.ended("completed", stream.texts[-1])

    async def _tokens_of(self, planned, seed=None):
        for token in tokens_of(seed or planned.id, mean=TOKENS):
            yield token
            await asyncio.sleep(random.expovariate(1 / planned.pace_s))

    # -- our publishers ---------------------------------------------------------------------------

    async def _ours(self, planned, stream, *, seed=None, ephemeral=False):
        while True:
            try:
                async with self._author.respond(
                    self._plan.conversation_id, planned.id, ephemeral=ephemeral
                ) as response:
                    async for token in self._tokens_of(planned, seed):
                        response.write(token)
            except StoreUnavailable:  # at the claim: at the end, the retry would be a Conflict
                await asyncio.sleep(0.2)
                continue
            except ChannelUnavailable:
                self._tally.ends["committed, announced later"] += 1
            except Fenced:
                self._tally.ends["fenced"] += 1
                stream.may_break = True
            except Conflict as refused:
                if not stream.may_break:
                    self._tally.report(f"{planned.id}: {refused}", unended=1)
                raise
            return

    async def _ephemeral(self, planned, stream):
        await self._ours(planned, stream, ephemeral=True)

    async def _taken_over(self, planned, stream):
        """Kill or stop the publisher of a response; another takes it over, or a sweeper ends it."""
        message = {"conversation": self._plan.conversation_id, "responses": [planned.id]}
        async with self._world.victim() as victim:
            victim.send(message | {"ephemeral": False})
            await asyncio.sleep(12 * planned.pace_s)
            kill = random.random() < 0.5
            if kill:
                await victim.kill()
            else:
                victim.freeze()  # it continues later, as a zombie
            over = asyncio.get_running_loop().time() + 4 * LEASE_S
            while asyncio.get_running_loop().time() < over:
                try:
                    await self._ours(planned, stream, seed=f"{planned.id}-again")
                except Conflict as refused:
                    if "is being published" not in str(refused):
                        self._tally.ends["swept"] += 1
                        break
                    await asyncio.sleep(0.1)
                else:
                    self._tally.ends["taken over"] += 1
                    break
            if not kill:
                victim.thaw()
                await asyncio.sleep(1)

    # -- foreign publishers -----------------------------------------------------------------------

    async def _tokens(self, planned, stream):
        extras = {"headers": {"responseId": planned.id}}
        number = 0
        async for token in self._tokens_of(planned):
            await self._publish("token", token, extras, f"{planned.id}-{number}")
            number += 1
        await self._publish("stop", None, extras, f"{planned.id}-stop")

    async def _unreadable(self, planned, stream):
        extras = {"headers": {"responseId": planned.id}}
        await self._publish("start", None, extras, f"{planned.id}-start")
        strangers = asyncio.create_task(self._strangers(planned))
        number = 0
        async for token in self._tokens_of(planned):
            shape = SHAPES[number % len(SHAPES)]
            await self._publish(shape.name, shape.data(token), extras, f"{planned.id}-{number}")
            self._tally.unreadable += not shape.read
            number += 1
        await self._publish("stop", None, extras, f"{planned.id}-stop")
        await strangers

    async def _strangers(self, planned):
        """Publish as others do: about the same response, and what is no conversation at all."""
        extras = {"headers": {"responseId": planned.id}}
        other = {"headers": {"responseId": planned.id, "gen": 2, "seq": 1}}
        said = [
            ("token", "STRANGE", extras),
            ("token", "STRANGE", other),
            ("response-complete", "STRANGE", extras),
            ("stop", None, {"headers": {"responseId": planned.id, "status": "failed"}}),
            ("answer", "STRANGE", extras),
            ("chat", "STRANGE", None),
            ("token", {"promptId": 5}, {"headers": {"responseId": ["x"], "seq": -1}}),
            (None, None, {"headers": 5}),
        ]
        async with channel_of(self._world, self._channel.name, client_id="eve") as channel:
            for number, (name, data, with_extras) in enumerate(random.sample(said, len(said))):
                id_ = f"{planned.id}-strange-{number}"
                message = Message(name=name, data=data, extras=with_extras, id=id_)
                await self._until_accepted(lambda message=message: channel.publish(message))
                self._tally.strange += 1
                await asyncio.sleep(random.expovariate(1 / planned.pace_s))

    async def _unkept(self, planned, stream):
        """Publish numbered tokens that Ably does not keep: who did not see them shows a gap."""
        seq = 0

        def extras(*, kept):
            headers = {"headers": {"responseId": planned.id, "seq": seq}}
            return headers if kept else headers | {"ephemeral": True}

        await self._publish("start", None, extras(kept=True), f"{planned.id}-start")
        async for token in self._tokens_of(planned):
            seq += 1
            await self._publish("token", token, extras(kept=False), f"{planned.id}-{seq}")
        seq += 1
        await self._publish("stop", None, extras(kept=True), f"{planned.id}-stop")

    async def erased(self, planned):
        """Publish, after the erasure of its conversation, more of a response."""
        for number in range(3):
            extras = {"headers": {"responseId": planned.id}}
            await self._publish("token", TAIL, extras, f"{planned.id}-late-{number}")

    async def _nameless(self, planned, stream):
        number = 0
        async for token in self._tokens_of(planned):
            id_ = f"{planned.id}-{number}" if number else stream.id
            await self._publish("token", token, None, id_)
            number += 1
        await self._publish("stop", None, None, f"{planned.id}-stop")

    async def _prompt(self, planned, stream):
        message = {"promptId": planned.id, "text": stream.texts[0]}
        await self._publish("user-input", message, None, f"{planned.id}-prompt")

    async def _appends(self, planned, stream):
        extras = {"headers": {"responseId": planned.id}}
        await self._grow("response", planned, extras, extras, DONE)

    async def _transport(self, planned, stream):
        """Publish as the AI Transport SDK does: a run with a step that is tried twice."""
        await self._ai("ai-run-start", planned, "start")
        for attempt, seed in enumerate((f"{planned.id}-wrong", planned.id)):
            step = {"step-id": "s"}
            serial = await self._ai("ai-step-start", planned, f"step-{attempt}", **step)
            step |= {"step-start-serial": serial, "stream": "true", "stream-id": str(attempt)}
            begun = _ai(planned.id, {"kind": "text"}, status="streaming", **step)
            done = _ai(planned.id, {"kind": "text"}, status="complete", **step)
            short = {} if attempt else {"mean": 8}
            await self._grow("ai-output", planned, begun, done, None, seed=seed, **short)
        await self._ai("ai-run-end", planned, "end", **{"run-reason": "complete"})

    async def _ai(self, name, planned, id_, **transport):
        return await self._publish(
            name, None, _ai(planned.id, {}, **transport), f"{planned.id}-{id_}"
        )

    async def _grow(self, name, planned, extras, last, operation, *, seed=None, mean=TOKENS):
        """Create a channel message and append to it.

        An append whose result is unknown is not sent again: an update with the whole text follows.
        """
        appender, seed = Appender(self._channel), seed or planned.id
        serial = await self._publish(name, "", extras, f"{seed}-grows")
        tokens = tokens_of(seed, mean=mean)
        for index, token in enumerate(tokens):
            is_last = index == len(tokens) - 1
            message = Message(serial=serial, data=token, extras=last if is_last else extras)
            try:
                await appender.channel.append_message(message, operation if is_last else None)
            except NOT_NOW:
                whole = "".join(tokens[: index + 1])
                message = Message(serial=serial, name=name, data=whole, extras=message.extras)
                await self._until_accepted(
                    lambda message=message, is_last=is_last: appender.channel.update_message(
                        message, operation if is_last else None
                    )
                )
            await asyncio.sleep(random.expovariate(1 / planned.pace_s))

    async def _publish(self, name, data, extras, id_):
        message = Message(name=name, data=data, extras=extras, id=id_)
        return (await self._until_accepted(lambda: self._channel.publish(message))).serials[0]

    async def _until_accepted(self, call):
        """Call until it succeeds: a repeated publish has the same id, or contains the whole text."""
        while True:
            try:
                return await call()
            except NOT_NOW:
                await asyncio.sleep(random.uniform(0.1, 0.4))


def _ai(run, codec, **transport):
    transport = {"run-id": run, **transport}
    return {"ai": {"transport": transport} | ({"codec": codec} if codec else {})}


@asynccontextmanager
async def channel_of(world, conversation_id, **more):
    """Open the conversation's channel in a stock REST client for the block; *more*: its options."""
    rest = AblyRest(key=KEY, use_token_auth=True, **world.ably_rest, **more)
    try:
        yield rest.channels.get(conversation_id)
    finally:
        await rest.close()

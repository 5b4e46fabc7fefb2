"""Who speaks in a soak: our publishers, and those who know nothing of us, with stock SDKs."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

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
NOT_NOW = (AblyException, HTTPError, OSError, TimeoutError)


def stream_of(plan, speech):
    """What will be true of *speech*."""
    id_, text = speech.id, "".join(tokens_of(speech.id, mean=TOKENS))
    if speech.kind == "nameless":
        return Stream(first_of(plan), speech.kind, text)
    if speech.kind == "taken_over":
        first = "".join(tokens_of(id_, mean=MEAN_TOKENS))
        return Stream(id_, speech.kind, first, "".join(tokens_of(f"{id_}-again", mean=TOKENS)))
    if speech.kind == "transport":
        wrong = "".join(tokens_of(f"{id_}-wrong", mean=8))
        return Stream(id_, speech.kind, wrong, text)
    return Stream(id_, speech.kind, text)


def first_of(plan):
    """A response that nothing names is named by its first event."""
    return f"{plan.conversation_id}-first"


class Speaker:
    """Says what a conversation's plan says, and what became of it."""

    def __init__(self, world, author, channel, plan, tally):
        self._world = world
        self._author = author
        self._channel = channel
        self._plan = plan
        self._tally = tally

    async def say(self, speech, stream):
        """Say *speech* at its time, to its end."""
        await asyncio.sleep(speech.at_s)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await getattr(self, f"_{speech.kind}")(speech, stream)
        except TimeoutError:
            self._tally.find(f"{speech.id}: its publisher did not end", unended=1)
        if stream.final is None and not stream.may_break:
            stream.ended("completed", stream.texts[-1])

    async def _tokens_of(self, speech, seed=None):
        for token in tokens_of(seed or speech.id, mean=TOKENS):
            yield token
            await asyncio.sleep(random.expovariate(1 / speech.pace_s))

    # -- ours -------------------------------------------------------------------------------------

    async def _ours(self, speech, stream, *, seed=None, ephemeral=False):
        while True:
            try:
                async with self._author.respond(
                    self._plan.conversation_id, speech.id, ephemeral=ephemeral
                ) as response:
                    async for token in self._tokens_of(speech, seed):
                        response.write(token)
            except StoreUnavailable:  # when it began: at the end it would be a Conflict next
                await asyncio.sleep(0.2)
                continue
            except ChannelUnavailable:
                self._tally.ends["committed, told later"] += 1
            except Fenced:
                self._tally.ends["fenced"] += 1
                stream.may_break = True
            except Conflict as refused:
                if not stream.may_break:
                    self._tally.find(f"{speech.id}: {refused}", unended=1)
                raise
            return

    async def _ephemeral(self, speech, stream):
        await self._ours(speech, stream, ephemeral=True)

    async def _taken_over(self, speech, stream):
        """Somebody begins, and is killed or stopped; whoever comes next takes over, or it ends."""
        said = {"conversation": self._plan.conversation_id, "responses": [speech.id]}
        async with self._world.victim() as victim:
            victim.say(said | {"ephemeral": False})
            await asyncio.sleep(12 * speech.pace_s)
            kill = random.random() < 0.5
            if kill:
                await victim.kill()
            else:
                victim.freeze()  # a zombie, once it goes on
            over = asyncio.get_running_loop().time() + 4 * LEASE_S
            while asyncio.get_running_loop().time() < over:
                try:
                    await self._ours(speech, stream, seed=f"{speech.id}-again")
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

    # -- others -----------------------------------------------------------------------------------

    async def _tokens(self, speech, stream):
        extras = {"headers": {"responseId": speech.id}}
        number = 0
        async for token in self._tokens_of(speech):
            await self._publish("token", token, extras, f"{speech.id}-{number}")
            number += 1
        await self._publish("stop", None, extras, f"{speech.id}-stop")

    async def _nameless(self, speech, stream):
        number = 0
        async for token in self._tokens_of(speech):
            id_ = f"{speech.id}-{number}" if number else stream.id
            await self._publish("token", token, None, id_)
            number += 1
        await self._publish("stop", None, None, f"{speech.id}-stop")

    async def _prompt(self, speech, stream):
        said = {"promptId": speech.id, "text": stream.texts[0]}
        await self._publish("user-input", said, None, f"{speech.id}-prompt")

    async def _appends(self, speech, stream):
        extras = {"headers": {"responseId": speech.id}}
        await self._grow("response", speech, extras, extras, DONE)

    async def _transport(self, speech, stream):
        """As the AI Transport SDK: a run with a step that is tried twice."""
        await self._ai("ai-run-start", speech, "start")
        for attempt, seed in enumerate((f"{speech.id}-wrong", speech.id)):
            step = {"step-id": "s"}
            serial = await self._ai("ai-step-start", speech, f"step-{attempt}", **step)
            step |= {"step-start-serial": serial, "stream": "true", "stream-id": str(attempt)}
            begun = _ai(speech.id, {"kind": "text"}, status="streaming", **step)
            done = _ai(speech.id, {"kind": "text"}, status="complete", **step)
            short = {} if attempt else {"mean": 8}
            await self._grow("ai-output", speech, begun, done, None, seed=seed, **short)
        await self._ai("ai-run-end", speech, "end", **{"run-reason": "complete"})

    async def _ai(self, name, speech, id_, **transport):
        return await self._publish(
            name, None, _ai(speech.id, {}, **transport), f"{speech.id}-{id_}"
        )

    async def _grow(self, name, speech, extras, last, operation, *, seed=None, mean=TOKENS):
        """A channel message that is created and appended to.

        An append that may or may not have been taken is not sent again: what follows is all of it.
        """
        appender, seed = Appender(self._channel), seed or speech.id
        serial = await self._publish(name, "", extras, f"{seed}-grows")
        tokens = tokens_of(seed, mean=mean)
        for index, token in enumerate(tokens):
            is_last = index == len(tokens) - 1
            said = Message(serial=serial, data=token, extras=last if is_last else extras)
            try:
                await appender.channel.append_message(said, operation if is_last else None)
            except NOT_NOW:
                whole = "".join(tokens[: index + 1])
                said = Message(serial=serial, name=name, data=whole, extras=said.extras)
                await self._surely(
                    lambda said=said, is_last=is_last: appender.channel.update_message(
                        said, operation if is_last else None
                    )
                )
            await asyncio.sleep(random.expovariate(1 / speech.pace_s))

    async def _publish(self, name, data, extras, id_):
        said = Message(name=name, data=data, extras=extras, id=id_)
        return (await self._surely(lambda: self._channel.publish(said))).serials[0]

    async def _surely(self, call):
        """Call until it is taken: what is said twice has one id, or is the whole of it."""
        while True:
            try:
                return await call()
            except NOT_NOW:
                await asyncio.sleep(random.uniform(0.1, 0.4))


def _ai(run, codec, **transport):
    transport = {"run-id": run, **transport}
    return {"ai": {"transport": transport} | ({"codec": codec} if codec else {})}


@asynccontextmanager
async def channel_of(world, conversation_id):
    """A stock client of the conversation's channel, for one who publishes by requests."""
    rest = AblyRest(key=KEY, use_token_auth=True, **world.ably_rest)
    try:
        yield rest.channels.get(conversation_id)
    finally:
        await rest.close()

"""Responses to replay, over real rooms: what their channel shows of the replays."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from rehydrate.core.codecs import decode_all
from rehydrate.core.fold import MessageState, fold
from telling import history_over

PATIENCE_S = 20.0
TOKENS = ["Once ", "upon ", "a ", "time ", "there ", "was ", "むかし", "👩‍👩‍👧", "."]


def new_id():
    return f"c-{secrets.token_hex(5)}"


class Room(NamedTuple):
    """A conversation, its history, and the channel server under it."""

    history: object
    server: object
    id: str

    def next(self):
        """Another conversation over the same rooms."""
        return self._replace(id=new_id())

    async def said(self, rid="r", tokens=TOKENS, *, pause_s=0.0, **more):
        """A response that was published, a channel message a token."""
        async with self.history.respond(self.id, rid, **more) as response:
            for token in tokens:
                response.write(token)
                response.text  # noqa: B018 - settles: the next token is an event of its own
                await asyncio.sleep(pause_s)

    async def ended(self, replay, *, within_s=PATIENCE_S):
        """The replay, once it has ended."""
        async with asyncio.timeout(within_s):
            while True:
                found = await self.history.find_replay(replay.id)
                if found.ended:
                    return found
                await asyncio.sleep(0.02)

    async def reached(self, replay, done):
        """The replay, once *done* of its chunks are acknowledged."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self.history.find_replay(replay.id)
                if found.done >= done:
                    return found
                await asyncio.sleep(0.02)

    async def events(self, replay=None, channel=None):
        """The events on a channel (of *replay*, if given), in order."""
        found = []
        pages = self.history._channel.history(channel or f"ai:{self.id}", forwards=True)
        async with aclosing(pages):
            async for page in pages:
                found += decode_all(page)
        return [e for e in found if replay is None or e.message_id == replay.id]


def folded(events, message_id):
    """What a follower shows of *events*, and whether each came once and in order."""
    state = MessageState(message_id)
    for event in events:
        fold(state, event._replace(replay_of=None))
    return state


@asynccontextmanager
async def room_over(database, server, **settings):
    async with history_over(database, server, **settings) as history:
        yield Room(history, server, new_id())

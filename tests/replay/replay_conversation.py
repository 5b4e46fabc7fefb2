"""A conversation over a real Postgres and channel server, with responses to replay."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from participants import history_over
from rehydrate.core.codecs import decode_all
from rehydrate.core.fold import MessageState, fold
from waiting import PATIENCE_S

TOKENS = ["Once ", "upon ", "a ", "time ", "there ", "was ", "むかし", "👩‍👩‍👧", "."]


def new_id():
    return f"c-{secrets.token_hex(5)}"


class ReplayConversation(NamedTuple):
    """A conversation, its `History`, and the channel server."""

    history: object
    server: object
    id: str

    def next(self):
        """Return another conversation over the same database and channel server."""
        return self._replace(id=new_id())

    async def respond(self, rid="r", tokens=TOKENS, *, pause_s=0.0, **more):
        """Publish a response, one channel message per token."""
        async with self.history.respond(self.id, rid, **more) as response:
            for token in tokens:
                response.write(token)
                response.text  # noqa: B018 - the next token then becomes an event of its own
                await asyncio.sleep(pause_s)

    async def ended(self, replay, *, within_s=PATIENCE_S):
        """Wait until the replay has ended, and return it."""
        async with asyncio.timeout(within_s):
            while True:
                found = await self.history.admin.find_replay(replay.id)
                if found.ended:
                    return found
                await asyncio.sleep(0.02)

    async def reached(self, replay, done):
        """Wait until the store has *done* chunks as acknowledged, and return the replay."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self.history.admin.find_replay(replay.id)
                if found.done >= done:
                    return found
                await asyncio.sleep(0.02)

    async def published(self, replay, count):
        """Wait until *count* events of the replay are on its channel."""
        async with asyncio.timeout(PATIENCE_S):
            while len(await self.events(replay)) < count:  # noqa: ASYNC110 - no event to await
                await asyncio.sleep(0.02)

    async def events(self, replay=None, channel=None):
        """Return the events on a channel (of *replay*, if given), in order."""
        found = []
        pages = self.history._channel.history(channel or f"ai:{self.id}", forwards=True)
        async with aclosing(pages):
            async for page in pages:
                found += decode_all(page)
        return [e for e in found if replay is None or e.message_id == replay.id]


def folded(events, message_id):
    """Return the state of a follower that received *events*."""
    state = MessageState(message_id)
    for event in events:
        fold(state, event._replace(replay_of=None))
    return state


@asynccontextmanager
async def replay_conversation(database, server, **settings):
    async with history_over(database, server, **settings) as history:
        yield ReplayConversation(history, server, new_id())

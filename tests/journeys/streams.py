"""Three concurrent streams of one conversation, whose texts are known beforehand."""

from __future__ import annotations

import asyncio
import random

from rehydrate import NewMessage
from rehydrate.demo.texts import tokens_of

LANES = 3
PAUSE_S = 1 / 15


class Streams:
    """The responses of three publishers in a conversation: *rounds* each, one after the other."""

    def __init__(self, conversation_id, *, rounds=2, mean=36):
        self.conversation_id = conversation_id
        self._lanes = [
            [f"{conversation_id}-{lane}{turn}" for turn in range(rounds)] for lane in range(LANES)
        ]
        self.tokens = {id_: tokens_of(id_, mean=mean) for ids in self._lanes for id_ in ids}
        self.texts = {id_: "".join(tokens) for id_, tokens in self.tokens.items()}

    @property
    def seconds(self):
        """Roughly how long they stream."""
        return max(sum(len(self.tokens[id_]) for id_ in ids) * PAUSE_S for ids in self._lanes)

    async def publish(self, history):
        """Publish everything with ``History.respond``, once the service was read for the first time."""
        asks = NewMessage(f"{self.conversation_id}-p", "user", text="Tell me three things.")
        await history.store_messages(self.conversation_id, [asks])
        async with asyncio.TaskGroup() as group:
            for ids in self._lanes:
                group.create_task(self._publish_all(history, ids))

    async def _publish_all(self, history, ids):
        for id_ in ids:
            async with history.respond(self.conversation_id, id_) as response:
                for token in self.tokens[id_]:
                    response.write(token)
                    await asyncio.sleep(random.expovariate(1 / PAUSE_S))

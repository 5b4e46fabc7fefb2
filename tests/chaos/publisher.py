"""A publisher's process: answers the lines of its input, each a conversation and its responses."""

from __future__ import annotations

import asyncio
import random

from chaos.processes import said_to_us, say
from rehydrate.demo.texts import tokens_of
from rehydrate.errors import StoreUnavailable
from rehydrate.history import History

MEAN_TOKENS = 60
PACE_S = 1 / 25


async def answer(history, conversation_id, response_id, *, ephemeral):
    try:
        async with history.respond(conversation_id, response_id, ephemeral=ephemeral) as response:
            for token in tokens_of(response_id, mean=MEAN_TOKENS):
                response.write(token)
                await asyncio.sleep(random.expovariate(1 / PACE_S))
    except StoreUnavailable as error:
        return f"StoreUnavailable: {error}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return f"{type(error).__name__}: {error}"
    return "completed"


async def tell(history, conversation_id, response_id, *, after_s, ephemeral):
    await asyncio.sleep(after_s)
    say([response_id, await answer(history, conversation_id, response_id, ephemeral=ephemeral)])


async def main():
    async with History() as history, asyncio.TaskGroup() as group:
        say("ready")
        async for asked in said_to_us():
            for response_id, after_s in asked["responses"].items():
                telling = tell(
                    history,
                    asked["conversation"],
                    response_id,
                    after_s=after_s,
                    ephemeral=asked["ephemeral"],
                )
                group.create_task(telling)


if __name__ == "__main__":
    asyncio.run(main())

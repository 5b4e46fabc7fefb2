"""A publisher's process: each line of its input is a conversation with responses to publish."""

from __future__ import annotations

import asyncio
import random

from chaos.killing import install
from chaos.processes import input_lines, print_line
from rehydrate.demo.texts import tokens_of
from rehydrate.errors import StoreUnavailable
from rehydrate.history import History

MEAN_TOKENS = 60
PACE_S = 1 / 25


async def answer(history, conversation_id, response_id, *, ephemeral, mean):
    try:
        async with history.respond(conversation_id, response_id, ephemeral=ephemeral) as response:
            for token in tokens_of(response_id, mean=mean):
                response.write(token)
                await asyncio.sleep(random.expovariate(1 / PACE_S))
    except StoreUnavailable as error:
        return f"StoreUnavailable: {error}"
    except Exception as error:  # noqa: BLE001 - every error is reported
        return f"{type(error).__name__}: {error}"
    return "completed"


async def publish(history, conversation_id, response_id, *, after_s, **options):
    await asyncio.sleep(after_s)
    print_line([response_id, await answer(history, conversation_id, response_id, **options)])


async def main():
    async with History() as history, asyncio.TaskGroup() as group:
        print_line("ready")
        async for asked in input_lines():
            for response_id, after_s in asked["responses"].items():
                publishing = publish(
                    history,
                    asked["conversation"],
                    response_id,
                    after_s=after_s,
                    ephemeral=asked["ephemeral"],
                    mean=asked.get("mean", MEAN_TOKENS),
                )
                group.create_task(publishing)


if __name__ == "__main__":
    install()
    asyncio.run(main())

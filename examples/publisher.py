"""The smallest publisher: ask a model and stream its answer into a conversation.

    python examples/publisher.py "Why do streams break?"

Run any number of them at once; their answers interleave on one channel. `.env.example` lists the
variables to set.
"""

from __future__ import annotations

import asyncio
import os
import sys

from openai import AsyncOpenAI

from rehydrate import History


async def main(question: str) -> None:
    """Ask *question* and stream the answer to all followers of the conversation."""
    async with History() as history, AsyncOpenAI() as client:
        driven = await history.run_openai(
            os.environ.get("CONVERSATION", "example"),
            client,
            model=os.environ.get("CHAT_MODEL", "gpt-5-mini"),
            input=question,
        )
    sys.stdout.write(f"{driven.response_id} {driven.outcome.status}\n")


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "Why do streams break?"))

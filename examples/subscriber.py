"""The smallest subscriber: pieces interleaved answers together, and prints each when it has ended.

    python examples/subscriber.py

Run as many as you like at once, and start them whenever you like: what was said before comes with
the snapshot. `.env.example` says what has to be set.
"""

from __future__ import annotations

import asyncio
import os
import sys

from rehydrate import History


async def main() -> None:
    """Follow the conversation until Ctrl-C."""
    texts: dict[str, str] = {}
    async with History() as history:
        async for event in history.follow(os.environ.get("CONVERSATION", "example")):
            data = event.data
            match event.kind:
                case "snapshot":  # all that was said until now: also after a lost connection
                    texts = {each["id"]: each["text"] for each in data["messages"]}
                    say(f"{len(texts)} messages until now")
                case "prompt":
                    say(f"? {data['text']}")
                case "token" | "refusal":
                    id_ = data["message_id"]
                    texts[id_] = texts.get(id_, "") + data["text"]
                case "repair":
                    texts[data["message_id"]] = data.get("text", "")
                case "stop":
                    text = texts.get(data["message_id"], "")
                    say(f"{data['message_id']} {data.get('status', 'completed')}\n{text}\n")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)

"""The smallest subscriber: assemble interleaved answers, and print each when it ends.

    python examples/subscriber.py

Run any number of them, and start them at any time: the snapshot has the earlier messages.
`.env.example` lists the variables to set.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys

from rehydrate import History


async def main() -> None:
    """Follow the conversation until Ctrl-C."""
    texts: dict[str, str] = {}
    async with History() as history:
        async for event in history.follow(os.environ.get("CONVERSATION", "example")):
            data = event.data
            match event.kind:
                case "snapshot":  # all messages so far; also sent after a lost connection
                    texts = {each["id"]: each["text"] for each in data["messages"]}
                    show(f"{len(texts)} messages so far")
                case "prompt":
                    show(f"? {data['text']}")
                case "token" | "refusal":
                    id_ = data["message_id"]
                    texts[id_] = texts.get(id_, "") + data["text"]
                case "repair":
                    texts[data["message_id"]] = data.get("text", "")
                case "stop":
                    text = texts.get(data["message_id"], "")
                    show(f"{data['message_id']} {data.get('status', 'completed')}\n{text}\n")


def show(line: str) -> None:
    """Print a line immediately, without what could control the terminal."""
    sys.stdout.write(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)

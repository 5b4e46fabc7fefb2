"""``rehydrate follow``: print the messages of a conversation, then its live events."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import sys
from contextlib import aclosing
from typing import Any, TextIO

from rehydrate.cli.output import NotWritten
from rehydrate.follow.event_buffer import FollowEvent
from rehydrate.history import History

_PREFIXES = {"reasoning": "reasoning: ", "refusal": "refusal: "}


class Screen:
    """Prints follower events; a header names the message whenever the output switches to another.

    Args:
        out: the stream to write to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._current: tuple[str, str] | None = None

    def show(self, event: FollowEvent) -> None:
        """Show *event*."""
        data = event.data
        if event.kind == "snapshot":
            self._line("")
            for message in data["messages"]:
                self._message(message)
            for reason in data["reasons"]:
                self._line(f"-- incomplete: {reason['detail']}")
        elif event.kind == "again":
            self._line("-- messages may have been missed; waiting for a new snapshot")
        elif event.kind in ("token", "reasoning", "refusal"):
            self._append(event.kind, data["message_id"], data["text"])
        elif event.kind == "prompt":
            self._line(f"user {data['message_id']}\n{data['text']}")
        elif event.kind == "repair":
            self._line(f"assistant {data['message_id']}  [repaired]\n{data.get('text', '')}")
        elif event.kind == "stop":
            self._line(f"-- {data['message_id']} {data['status']}")
        elif event.kind.startswith("tool"):
            value = data.get("result", data.get("args", data.get("text", "")))
            name = f"{event.kind} {data.get('name') or data['tool_call_id']}"
            self._line(f"-- {data['message_id']} {name}: {json.dumps(value, ensure_ascii=False)}")
        self._out.flush()

    def _message(self, message: dict[str, Any]) -> None:
        head = f"{message['role']} {message['id']}"
        gaps = f"  missing {message['gaps']}" if message["gaps"] else ""
        if message["status"] == "in_progress":
            self._line(f"{head}  [in_progress]{gaps}")
            self._out.write(message["text"])
            self._current = ("token", message["id"])
            return
        state = "" if message["status"] == "completed" else f"  [{message['status']}]"
        self._line(f"{head}{state}{gaps}\n{message['text']}")

    def _append(self, kind: str, message_id: str, text: str) -> None:
        if self._current != (kind, message_id):
            self._line(f"assistant {message_id}")
            self._out.write(_PREFIXES.get(kind, ""))
            self._current = (kind, message_id)
        self._out.write(text)

    def _line(self, text: str) -> None:
        """End the current line, if one is open, and write *text* on a line of its own."""
        if self._current is not None:
            self._out.write("\n")
        self._current = None
        if text:
            self._out.write(f"{text}\n")


async def follow(conversation_id: str, *, limit: int, as_json: bool) -> int:
    """Print a conversation until SIGTERM or SIGINT, or until standard output is closed.

    Args:
        conversation_id: the conversation to follow.
        limit: number of newest messages in the first snapshot.
        as_json: print each event as one line of JSON.

    Returns:
        The exit code, 0.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(_number: int, _frame: object) -> None:
        if getattr(sys.stdout, "writing", False):  # to a pipe that is full: the loop is blocked
            raise NotWritten(BrokenPipeError(errno.EPIPE, "the reader does not read"))
        loop.call_soon_threadsafe(ended.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    showing = asyncio.create_task(_show(conversation_id, limit, as_json=as_json))
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait({showing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in (showing, waiting):
        task.cancel()
    shown, _ = await asyncio.gather(showing, waiting, return_exceptions=True)
    stopped = isinstance(shown, NotWritten) and not shown.is_fault
    if isinstance(shown, Exception) and not stopped:
        raise shown
    return 0


async def _show(conversation_id: str, limit: int, *, as_json: bool) -> None:
    screen = Screen(sys.stdout)
    async with History() as history, aclosing(history.follow(conversation_id, limit=limit)) as live:
        async for event in live:
            if as_json:
                line = {"event": event.kind, "id": event.id, "data": event.data}
                sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
                sys.stdout.flush()
            else:
                screen.show(event)

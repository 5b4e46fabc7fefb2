"""A sink that folds an answer as readers do, without a channel or a store."""

from __future__ import annotations

import asyncio
from typing import Any

from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.text.assembly import spoken_text
from waiting import PATIENCE_S


class Folded:
    """The answer as a reader of the conversation sees it."""

    def __init__(self) -> None:
        self.state = MessageState("resp")
        self.seen: list[str] = []
        self.ending: tuple[Any, ...] | None = None
        self.final: list[dict[str, Any]] | None = None
        self._seq = 0
        self._grown = asyncio.Event()

    async def wait_for_text(self, text: str) -> None:
        """Wait until the text so far equals *text*."""
        while self.text != text:
            self._grown.clear()
            await asyncio.wait_for(self._grown.wait(), PATIENCE_S)

    @property
    def parts(self) -> list[dict[str, Any]]:
        return self.state.parts()

    @property
    def text(self) -> str:
        return spoken_text(self.parts)

    @property
    def needs_repair(self) -> bool:
        """True if readers saw content that differs from the final parts."""
        return self.final is not None and self.final != self.parts

    @property
    def status(self) -> str:
        return self.ending[0] if self.ending else "in_progress"

    @property
    def error(self) -> Any:
        return self.ending[2] if self.ending else None

    def write(self, text, *, part=None):
        self._fold("token", text=text, part=part)

    def refuse(self, text, *, part=None):
        self._fold("refusal", text=text, part=part)

    def reason(self, text, *, part=None):
        self._fold("reasoning", text=text, part=part)

    def tool_call(self, tool_call_id, name, args=""):
        self._fold("tool_call", tool_call_id=tool_call_id, name=name, value=args)

    def tool_args(self, tool_call_id, text):
        self._fold("tool_args", tool_call_id=tool_call_id, text=text)

    def tool_result(self, tool_call_id, result, *, name=None, failed=False):
        named = {"tool_call_id": tool_call_id, "name": name}
        self._fold("tool_result", **named, value=result, status="failed" if failed else None)

    def finish(self, status="completed", *, usage=None, error=None, parts=None):
        assert self.ending is None, "a response ends once"
        self.ending = (status, usage, error)
        self.final = parts

    def _fold(self, kind, **fields):
        assert self.ending is None, "an event after the end"
        self._seq += 1
        self.seen.append(kind)
        fold(self.state, Event(kind, "resp", 1, self._seq, **fields))
        self._grown.set()

"""What channel messages mean, whichever dialect said it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

Kind = Literal[
    "prompt",
    "start",
    "token",
    "refusal",
    "reasoning",
    "tool_call",
    "tool_args",
    "tool_result",
    "void",
    "stop",
    "repair",
    "cancel",
]
"""``void`` is an event whose content could not be read: it keeps its place (seq) and says nothing."""

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled", "interrupted"]

STATUSES: frozenset[str] = frozenset(get_args(Status))
TERMINAL: frozenset[str] = STATUSES - {"in_progress"}

CallStatus = Literal["in_progress", "completed", "failed", "incomplete"]
"""Of a tool call: ``failed``: its result says why there is none; ``incomplete``: the response ended
before there was one."""

SETTLED: frozenset[str] = frozenset({"completed", "failed"})
"""How a tool call ends by what was said of it."""

TEXTUAL: frozenset[str] = frozenset({"token", "refusal", "reasoning"})
"""Kinds that append text to a part."""

CONTENT: frozenset[str] = TEXTUAL | {"tool_call", "tool_args", "tool_result", "void"}
"""Kinds that a response's parts are made of."""


class ChannelMessage(NamedTuple):
    """One message as Ably delivers it, decoded but not understood.

    ``action`` is Ably's: 0 create, 1 update, 2 delete, 5 append. ``serial`` may be missing on
    channels without the mutable-messages rule; ``timestamp_ms`` is of the first receipt.
    ``version_metadata``: what the publisher of an update or append said of it.
    """

    name: str | None
    data: Any
    id: str | None
    serial: str | None
    timestamp_ms: int
    client_id: str | None = None
    extras: Any = None
    action: int = 0
    version_serial: str | None = None
    version_metadata: Any = None


CREATE, UPDATE, DELETE, APPEND = 0, 1, 2, 5
"""Actions of channel messages."""


class Version(NamedTuple):
    """Which version of a channel message an event tells of, in dialects whose messages grow.

    ``is_delta``: only what came since the version before it, as the same attachment was shown that;
    otherwise the event says the whole message. ``is_last``: its publisher expects no other.
    ``step``, ``attempt``: the message counts only as long as no later attempt at that step began.
    """

    serial: str
    is_delta: bool = False
    is_last: bool = False
    step: str | None = None
    attempt: str | None = None


class Event(NamedTuple):
    """The typed, pure meaning of a channel message.

    ``message_id`` None: of the conversation's open anonymous stream. ``value`` holds the
    arguments of a ``tool_call``, the result of a ``tool_result``, the usage of a ``stop`` and
    the parts of a ``repair``; a ``repair`` without text and parts is a pointer to the store.
    ``version``: of a channel message that may grow; ``serial`` is then the message's own, and a
    ``status`` on content ends the response with it, but for that of a ``tool_result``: it says how
    the call ended.
    """

    kind: Kind
    message_id: str | None
    gen: int = 1
    seq: int | None = None
    serial: str | None = None
    id: str | None = None
    client_id: str | None = None
    timestamp_ms: int = 0
    text: str | None = None
    part: str | None = None
    tool_call_id: str | None = None
    name: str | None = None
    value: Any = None
    status: Status | None = None
    error: Any = None
    prompt_id: str | None = None
    replay_of: str | None = None
    ephemeral: bool = False
    version: Version | None = None

    @property
    def ends(self) -> bool:
        """Whether this version of a channel message says that it ends the response."""
        return self.kind != "tool_result" and self.status in TERMINAL

    @property
    def is_pointer(self) -> bool:
        """Whether this repair says only that the store has the text."""
        return self.kind == "repair" and self.text is None and self.value is None

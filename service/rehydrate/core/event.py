"""Channel messages, and the events that they mean.

A codec turns a `ChannelMessage` into an `Event`; nothing behind the codecs knows the names and
headers of a publisher. An event of a kind has the fields of that kind and no others: the
constructors check it, so that an illegal event cannot exist.
"""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    get_args,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
"""``void``: an event without content that can be shown. It keeps its place (seq) and adds nothing."""

TextKind = Literal["token", "refusal", "reasoning"]

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled", "interrupted"]

STATUSES: frozenset[str] = frozenset(get_args(Status))
TERMINAL: frozenset[str] = STATUSES - {"in_progress"}

CallStatus = Literal["in_progress", "completed", "failed", "incomplete"]
"""Of a tool call. ``failed``: the result says why there is none. ``incomplete``: the response ended
before there was a result.
"""

SETTLED: frozenset[str] = frozenset({"completed", "failed"})
"""The statuses that a result gives a tool call."""

TEXTUAL: frozenset[str] = frozenset(get_args(TextKind))
"""Kinds that append text to a part."""

CONTENT: frozenset[str] = TEXTUAL | {"tool_call", "tool_args", "tool_result", "void"}
"""Kinds that a response's parts are made of."""


class Undecoded:
    """The data of a channel message that cannot be decoded: encrypted, or damaged."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNDECODED"


UNDECODED = Undecoded()


class ChannelMessage(NamedTuple):
    """One message as Ably delivers it, decoded from its encoding but not interpreted.

    Attributes:
        data: JSON, bytes, or `UNDECODED`.
        serial: missing on channels without the mutable-messages rule.
        timestamp_ms: of the first receipt, in ms since 1970.
        action: Ably's: 0 create, 1 update, 2 delete, 5 append.
        version_serial: of an update or append.
        version_metadata: the publisher's note on an update or append.
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
    """The version of a channel message that an event describes, where messages grow.

    Attributes:
        serial: greater than that of every earlier version.
        is_delta: only what was appended since the version before, as this attachment received it;
            otherwise the event is the whole message.
        is_last: its publisher expects no later version.
        step, attempt: the message counts only until a later attempt at that step begins.
        only_adds: it belongs to a response that is known, and begins none: the publisher of a
            response is not the one who sends this.
    """

    serial: str
    is_delta: bool = False
    is_last: bool = False
    step: str | None = None
    attempt: str | None = None
    only_adds: bool = False


class Envelope(TypedDict, total=False):
    """What every kind of event may carry beside its content; each is optional."""

    gen: int
    seq: int | None
    serial: str | None
    id: str | None
    client_id: str | None
    timestamp_ms: int
    replay_of: str | None
    ephemeral: bool
    version: Version | None
    unreadable: int
    edit: str | None


class _Fields(NamedTuple):
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
    unreadable: int = 0
    edit: str | None = None


_CONTENT_FIELDS = (
    "text", "part", "tool_call_id", "name", "value", "status", "error", "prompt_id",
)  # fmt: skip

_FIELDS_OF: Mapping[Kind, frozenset[str]] = {
    "prompt": frozenset({"text", "status"}),
    "start": frozenset({"prompt_id"}),
    "token": frozenset({"text", "part", "status"}),
    "refusal": frozenset({"text", "part", "status"}),
    "reasoning": frozenset({"text", "part", "status"}),
    "tool_call": frozenset({"tool_call_id", "name", "value", "text", "part", "status"}),
    "tool_args": frozenset({"tool_call_id", "text", "status"}),
    "tool_result": frozenset({"tool_call_id", "name", "value", "status"}),
    "void": frozenset({"status"}),
    "stop": frozenset({"status", "value", "error"}),
    "repair": frozenset({"text", "value"}),
    "cancel": frozenset(),
}
"""The content fields that an event of each kind may have."""

_REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "prompt": ("text",),
    "token": ("text",),
    "refusal": ("text",),
    "reasoning": ("text",),
    "tool_call": ("tool_call_id",),
    "tool_args": ("tool_call_id", "text"),
    "tool_result": ("tool_call_id",),
}
"""The content fields that an event of a kind must have."""

_ALWAYS_STATUS: frozenset[str] = frozenset({"stop", "tool_result"})
"""Kinds whose status needs no version: a stop's is the response's, a result's the call's."""


class Event(_Fields):
    """The typed, pure meaning of a channel message.

    There is a constructor for each kind, which names the content as that kind does. The general
    constructor takes the fields themselves, for code that handles all kinds alike. Either way an
    event of a kind has the fields of that kind and no others: a stop has no text, a token has one.

    Attributes:
        message_id: the message it belongs to; None: the conversation's open anonymous stream.
        gen: the generation of its publisher.
        seq: its number within the response; None: its publisher does not number events.
        serial: Ably's order; of a versioned message the serial of the message, not of the version.
        timestamp_ms: of the first receipt, in ms since 1970.
        value: the arguments of a ``tool_call``, the result of a ``tool_result``, the usage of a
            ``stop``, the parts of a ``repair``.
        status: how a ``stop`` ended the response, or a ``tool_result`` the call. On content that
            has a ``version`` it ends the response together with that version.
        replay_of: the response that a replay publishes again.
        ephemeral: Ably does not keep its channel message in history.
        version: set if the channel message may grow by appends.
        unreadable: how many channel messages this event stands for whose content could not be read:
            0 or 1, but for a ``repair`` that shows a follower the whole message.
        edit: the version serial of the update or delete of the channel message of which this is the
            content; None: its content is that of its create.

    Raises:
        ValueError: a field is missing, or does not belong to the kind.
    """

    __slots__ = ()

    def __new__(  # noqa: D102, PLR0917 - see the class; positional, as a named tuple is
        cls,
        kind: Kind,
        message_id: str | None,
        gen: int = 1,
        seq: int | None = None,
        serial: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name
        client_id: str | None = None,
        timestamp_ms: int = 0,
        text: str | None = None,
        part: str | None = None,
        tool_call_id: str | None = None,
        name: str | None = None,
        value: Any = None,
        status: Status | None = None,
        error: Any = None,
        prompt_id: str | None = None,
        replay_of: str | None = None,
        ephemeral: bool = False,
        version: Version | None = None,
        unreadable: int = 0,
        edit: str | None = None,
    ) -> Self:
        made = super().__new__(
            cls, kind, message_id, gen, seq, serial, id, client_id, timestamp_ms, text, part,
            tool_call_id, name, value, status, error, prompt_id, replay_of, ephemeral, version,
            unreadable, edit,
        )  # fmt: skip
        return _checked(made)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override] # generic there
        """Also `_replace` builds its result here, so that it cannot build an illegal event."""
        return _checked(super()._make(iterable))

    @classmethod
    def prompt(cls, message_id: str | None, text: str, **envelope: Unpack[Envelope]) -> Event:
        """Return a user's message."""
        return cls("prompt", message_id, text=text, **envelope)

    @classmethod
    def start(
        cls,
        message_id: str | None,
        *,
        prompt_id: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> Event:
        """Return the beginning of a response, which answers *prompt_id*."""
        return cls("start", message_id, prompt_id=prompt_id, **envelope)

    @classmethod
    def content(  # noqa: PLR0917 - keyword arguments would cost a tenth of decoding
        cls,
        kind: TextKind,
        message_id: str | None,
        gen: int,
        seq: int | None,
        serial: str | None,
        id: str | None,  # noqa: A002 - the field's name
        client_id: str | None,
        timestamp_ms: int,
        text: str,
        part: str | None,
        replay_of: str | None,
        ephemeral: bool,
    ) -> Event:
        """Return text, unchecked: nearly all events are this, and its signature is the check."""
        return tuple.__new__(
            cls,
            (
                kind, message_id, gen, seq, serial, id, client_id, timestamp_ms, text, part,
                None, None, None, None, None, None, replay_of, ephemeral, None, 0, None,
            ),
        )  # fmt: skip

    @classmethod
    def token(
        cls,
        message_id: str | None,
        text: str,
        *,
        part: str | None = None,
        status: Status | None = None,
        **envelope: Unpack[Envelope],
    ) -> Event:
        """Return text of the answer; *status*: it is the last version, and ends the response."""
        return cls("token", message_id, text=text, part=part, status=status, **envelope)

    @classmethod
    def tool_call(
        cls,
        message_id: str | None,
        tool_call_id: str,
        *,
        name: str | None = None,
        args: Any = "",
        text: str | None = None,
        part: str | None = None,
        **envelope: Unpack[Envelope],
    ) -> Event:
        """Return the beginning of a tool call; *text*: arguments of a versioned message so far."""
        return cls(
            "tool_call", message_id, tool_call_id=tool_call_id, name=name, value=args, text=text,
            part=part, **envelope,
        )  # fmt: skip

    @classmethod
    def tool_args(
        cls, message_id: str | None, tool_call_id: str, text: str, **envelope: Unpack[Envelope]
    ) -> Event:
        """Return the next text of the arguments of a tool call, as JSON text."""
        return cls("tool_args", message_id, tool_call_id=tool_call_id, text=text, **envelope)

    @classmethod
    def tool_result(
        cls,
        message_id: str | None,
        tool_call_id: str,
        result: Any,
        *,
        name: str | None = None,
        failed: bool = False,
        **envelope: Unpack[Envelope],
    ) -> Event:
        """Return the end of a tool call; *failed*: the result says why there is none."""
        status: Status | None = "failed" if failed else None
        return cls(
            "tool_result", message_id, tool_call_id=tool_call_id, value=result, name=name,
            status=status, **envelope,
        )  # fmt: skip

    @classmethod
    def void(cls, message_id: str | None, **envelope: Unpack[Envelope]) -> Event:
        """Return an event without content that can be shown."""
        return cls("void", message_id, **envelope)

    @classmethod
    def stop(
        cls,
        message_id: str | None,
        *,
        status: Status | None = None,
        usage: Any = None,
        error: Any = None,
        **envelope: Unpack[Envelope],
    ) -> Event:
        """Return the end of a response."""
        return cls("stop", message_id, status=status, value=usage, error=error, **envelope)

    @classmethod
    def repair(
        cls,
        message_id: str | None,
        *,
        text: str | None = None,
        parts: list[dict[str, Any]] | None = None,
        **envelope: Unpack[Envelope],
    ) -> Event:
        """Return a replacement of all content up to ``seq``.

        With neither *text* nor *parts* it is a pointer: the store has the content.
        """
        return cls("repair", message_id, text=text, value=parts, **envelope)

    @classmethod
    def cancel(cls, message_id: str | None, **envelope: Unpack[Envelope]) -> Event:
        """Return a user's request to end a response."""
        return cls("cancel", message_id, **envelope)

    def at_same_place(self, kind: Kind, **content: Any) -> Event:
        """Return an event of *kind* with *content* that stands for this one.

        It keeps the message, gen, seq, id, clientId and time, and has the serial of the version
        where this event is one.
        """
        return Event(
            kind,
            self.message_id,
            self.gen,
            self.seq,
            self.serial if self.version is None else self.version.serial,
            self.id,
            self.client_id,
            self.timestamp_ms,
            **content,
        )

    @property
    def ends(self) -> bool:
        """True if this version of a channel message ends the response."""
        return self.kind != "tool_result" and self.status in TERMINAL

    @property
    def is_pointer(self) -> bool:
        """True for a repair without content: the store has the text."""
        return self.kind == "repair" and self.text is None and self.value is None


_Checked = TypeVar("_Checked", bound=_Fields)


def _indexes(names: Iterable[str]) -> tuple[int, ...]:
    return tuple(_Fields._fields.index(name) for name in names)


_FORBIDDEN = {
    kind: _indexes(name for name in _CONTENT_FIELDS if name not in fields)
    for kind, fields in _FIELDS_OF.items()
}
_NEEDED = {kind: _indexes(_REQUIRED.get(kind, ())) for kind in _FIELDS_OF}


def _checked(event: _Checked) -> _Checked:
    """Return *event* if its fields are those of its kind.

    Raises:
        ValueError: a field is missing, or does not belong to the kind.
    """
    kind, status = event.kind, event.status
    for index in _FORBIDDEN[kind]:
        if event[index] is not None:
            raise ValueError(f"a {kind} has no {_Fields._fields[index]}")
    for index in _NEEDED[kind]:
        if event[index] is None:
            raise ValueError(f"a {kind} needs a {_Fields._fields[index]}")
    if status is not None:
        if status not in TERMINAL:
            raise ValueError(f"the status of a {kind} is terminal, not {status!r}")
        if event.version is None and kind not in _ALWAYS_STATUS:
            raise ValueError(f"a {kind} has a status only with a version")
    return event

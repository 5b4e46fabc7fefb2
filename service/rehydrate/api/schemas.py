"""Pydantic models of request bodies, which are validated strictly, and of documented responses."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from rehydrate.api.parameters import MESSAGE_ID_LENGTH, PRINTABLE
from rehydrate.core.event import CallStatus, Status
from rehydrate.core.positions import has_control
from rehydrate.core.text.content import clean_parts
from rehydrate.core.wire import timestamp_ms
from rehydrate.errors import BadParameter
from rehydrate.record.import_messages import NewMessage

T = TypeVar("T")

MAX_MESSAGES = 1_000
_MAX_FAULTS = 3
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII
)


def _check_id(value: str) -> str:
    if has_control(value):
        raise ValueError("an id must not contain control characters")
    return value


def _check_time(value: str) -> str:
    try:
        at_ms = timestamp_ms(value.upper()) if _RFC_3339.match(value) else None
    except (ValueError, OverflowError):
        at_ms = None
    if at_ms is None or at_ms < 0:
        raise ValueError("a time must have the form 2026-01-31T12:00:00.000Z and not precede 1970")
    return value.upper()


Id = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MESSAGE_ID_LENGTH,
        json_schema_extra={"pattern": PRINTABLE},
    ),
    AfterValidator(_check_id),
]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}), AfterValidator(_check_time)]


class Strict(BaseModel):
    """Base of request bodies: no type coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TextPart(Strict):
    """Text, a refusal, or reasoning (which is not part of the message's ``text``)."""

    type: Literal["text", "refusal", "reasoning"]
    text: str
    part: Id | None = None


class ToolCallPart(Strict):
    """A tool call and its result.

    ``failed``: the result contains the error. ``incomplete``: the message ended before there was a
    result; a call that is ``in_progress`` in a finished message is stored with this status.
    """

    type: Literal["tool_call"]
    tool_call_id: Id
    name: str | None = None
    args: Any = ""
    result: Any = None
    status: CallStatus = "completed"


Part = Annotated[TextPart | ToolCallPart, Field(discriminator="type")]


_EITHER: list[JsonValue] = [
    {"required": ["text"], "properties": {"text": {"type": "string"}}},
    {"required": ["parts"], "properties": {"parts": {"type": "array"}}},
]


class MessageIn(Strict):
    """A finished message, with either ``text`` or ``parts``."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _EITHER})

    id: Id
    role: Literal["user", "assistant"]
    status: Literal["completed", "incomplete", "failed", "cancelled", "interrupted"] = "completed"
    text: str | None = None
    parts: list[Part] | None = Field(default=None, min_length=1)
    prompt_id: Id | None = None
    usage: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    started_at: Time | None = None
    finished_at: Time | None = None

    @model_validator(mode="after")
    def _one_content(self) -> MessageIn:
        if (self.text is None) == (self.parts is None):
            raise ValueError("a message must have either text or parts")
        started_ms, finished_ms = timestamp_ms(self.started_at), timestamp_ms(self.finished_at)
        if started_ms is not None and finished_ms is not None and finished_ms < started_ms:
            raise ValueError("finished_at must not precede started_at")
        return self

    def new(self) -> NewMessage:
        """Convert to the message that the use case stores."""
        parts = [part.model_dump(exclude_none=True) for part in self.parts or ()]
        return NewMessage(
            self.id,
            self.role,
            self.status,
            self.text,
            clean_parts(parts),
            self.prompt_id,
            self.usage,
            self.metadata,
            timestamp_ms(self.started_at),
            timestamp_ms(self.finished_at),
        )


def _distinct(messages: list[MessageIn]) -> list[MessageIn]:
    if len({message.id for message in messages}) < len(messages):
        raise ValueError("two messages have the same id")
    return messages


class MessagesIn(Strict):
    """Finished messages to store, all or none."""

    messages: Annotated[list[MessageIn], AfterValidator(_distinct)] = Field(
        min_length=1, max_length=MAX_MESSAGES
    )


_MESSAGES_IN = TypeAdapter(MessagesIn)


def new_messages(body: Any) -> list[NewMessage]:
    """Validate a parsed *body* and return its messages.

    Raises:
        BadParameter: the body is invalid; names the path of the first fault.
    """
    parsed = checked(_MESSAGES_IN, body)
    return [message.new() for message in parsed.messages]


def checked(form: TypeAdapter[T], body: Any) -> T:
    """Validate a parsed *body* against *form*.

    Raises:
        BadParameter: the body is invalid; names the path of the first fault.
    """
    try:
        return form.validate_python(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        texts = [f"{_path(fault['loc'])}: {_text(fault['msg'])}" for fault in faults[:_MAX_FAULTS]]
        more = len(faults) - len(texts)
        detail = "; ".join(texts) + (f"; and {more} more" if more else "")
        raise BadParameter(_path(faults[0]["loc"]), detail) from error


def _text(message: str) -> str:
    return message.removeprefix("Value error, ")


def _path(loc: tuple[int | str, ...]) -> str:
    """Return a path like ``messages[3].parts[0].text``, without the names of union members."""
    members = {"TextPart", "ToolCallPart", "text", "refusal", "reasoning", "tool_call"}
    path = ""
    for index, each in enumerate(loc):
        after_number = index > 0 and isinstance(loc[index - 1], int)
        in_parts = "parts" in loc[:index]
        if isinstance(each, int):
            path += f"[{each}]"
        elif not (in_parts and after_number and each in members):
            path += f".{each}" if path else each
    return path or "body"


# Responses are joined from bytes and never pass through the models below: these only document them.


class PositionOut(BaseModel):
    """The position that a message's text reaches."""

    gen: int
    seq: int | None
    serial: str | None
    id: str | None


class MessageOut(BaseModel):
    """A message. Later versions may add fields.

    A text part with gaps has a field ``gaps``, ``[[at, first, last], …]``: before the character at
    offset ``at``, in code points, the seqs ``first`` to ``last`` are missing. ``text`` is absent where
    ``parts`` contain it and ``text=once`` is requested.
    """

    model_config = ConfigDict(extra="allow")

    id: str
    role: str
    status: Status
    text: str = ""
    parts: list[dict[str, Any]]
    prompt_id: str | None
    started_at: str | None
    finished_at: str | None
    through: PositionOut
    gaps: list[tuple[int, int]]
    repaired: int | None = None
    exact: bool = True
    unreadable: int = 0


class ReasonOut(BaseModel):
    """Why an answer is incomplete. ``retry``: True if a repeated request may be complete."""

    code: Literal[
        "history_unavailable",
        "history_refused",
        "history_expired",
        "store_behind",
        "not_exact",
        "unreadable",
    ]
    retry: bool
    detail: str


class ErasedStreamOut(BaseModel):
    """The place of the last event of the erased anonymous stream; ``open``: more may follow."""

    through: str
    open: bool


class ConversationOut(BaseModel):
    """A hydrated conversation, oldest message first.

    ``older``: the ``before`` cursor of the page of older messages; null: there are none.

    ``agents``: the clientIds that may publish responses; empty: any. ``erased_to``: everything
    published at or before this time is erased; ``erased_ids``: erased messages that had later events;
    ``erased_stream``: an erased anonymous stream. Readers drop erased events, and those of clients
    that are not agents. ``token_names``: further names of channel messages that mean ``token``.
    """

    conversation_id: str
    channel: str
    until: str | None
    rewind_from: str | None
    complete: bool
    reasons: list[ReasonOut]
    older: str | None
    agents: list[str]
    erased_to: str | None
    erased_ids: list[str] = []
    erased_stream: ErasedStreamOut | None = None
    token_names: list[str] = []
    messages: list[MessageOut]


class UiMessageOut(BaseModel):
    """A message in the form of the Vercel AI SDK. ``metadata``: members of `MessageOut` that this lacks."""

    id: str
    role: str
    metadata: dict[str, Any]
    parts: list[dict[str, Any]]


class UiConversationOut(ConversationOut):
    """The same with ``format=ui-messages``."""

    messages: list[UiMessageOut]  # type: ignore[assignment]  # another form of the same


class ConversationRow(BaseModel):
    """A conversation in a list."""

    conversation_id: str
    channel: str
    created_at: str
    metadata: Any = None


class ConversationsOut(BaseModel):
    """Conversations, newest first. ``older``: the ``before`` cursor of the next page."""

    conversations: list[ConversationRow]
    older: str | None


class StoredOut(BaseModel):
    """The ids of the messages that were stored, and of those that were stored already."""

    stored: list[str]
    unchanged: list[str]


class Readiness(BaseModel):
    """``ok``, and the state of each dependency."""

    status: Literal["ok"]
    checks: dict[str, str] = {}

"""Import: store finished messages that a backend hands over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core import wire
from rehydrate.core.event import TERMINAL, Status
from rehydrate.core.fold import MessageState
from rehydrate.core.json import is_json
from rehydrate.core.positions import (
    HISTORY_LAG_MS,
    check_conversation_id,
    check_message_id,
    insertion_position,
)
from rehydrate.core.text.content import check_parts, clean_parts
from rehydrate.core.wire import MAX_MS
from rehydrate.errors import BadParameter, ChannelUnavailable, Conflict
from rehydrate.record.catch_up import catch_up, leave_end_to_sweeper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rehydrate.context import Context
    from rehydrate.ports import LockedConversation

_log = logging.getLogger(__name__)

_ROLES = ("user", "assistant")

_HISTORY_S = HISTORY_LAG_MS / 1000 + 1.0
"""Delay in seconds until the channel is read for events of the stored messages."""


class NewMessage(NamedTuple):
    """A finished message to store. None: not given; a stored value then stays.

    Attributes:
        id: the message id.
        role: ``user`` or ``assistant``.
        status: a terminal status.
        text: the text, unless ``parts`` is given.
        parts: the content, in order.
        prompt_id: the prompt that a response answers.
        usage: token counts of the vendor, as JSON.
        metadata: the application's own data, as JSON.
        started_ms: when it began, in ms since 1970.
        finished_ms: when it ended, in ms since 1970.
    """

    id: str
    role: str
    status: Status = "completed"
    text: str | None = None
    parts: list[dict[str, Any]] | None = None
    prompt_id: str | None = None
    usage: Any = None
    metadata: Any = None
    started_ms: int | None = None
    finished_ms: int | None = None


class StoreResult(NamedTuple):
    """The ids of imported messages.

    Attributes:
        stored: those that were written.
        unchanged: those that were stored already, with the same content.
    """

    stored: list[str]
    unchanged: list[str]


async def store_messages(
    ctx: Context,
    conversation_id: str,
    messages: Sequence[NewMessage],
) -> StoreResult:
    """Store finished *messages*, all or none. Storing the same messages again changes nothing.

    A response that the channel shows as open ends with the given content, unless its publisher is
    alive. Its followers receive the end from the next sweep. The channel is recorded before, because
    the repair and the stop of that sweep need the seqs after those that the channel has; where Ably
    does not answer, they get the seqs after those in the store.

    The channel may stream a response that is not recorded yet. So a sweep records the channel after
    history has caught up, and ends the response there if it finds it (exactness S24).

    Args:
        ctx: the adapters and limits.
        conversation_id: the conversation; it is created if it does not exist.
        messages: the messages, in the order in which they are shown.

    Returns:
        The ids of the stored and of the unchanged messages.

    Raises:
        BadParameter: a message is not a valid finished message; names the field.
        TooLarge: a message has more than 10 MiB of text, or 100,000 parts.
        Conflict: a message is stored with other content, or is being published; nothing is stored.
        StoreUnavailable: Postgres does not answer; nothing is stored.
    """
    check_conversation_id(conversation_id)
    for new in messages:
        _check(new)
    try:
        return await _store(ctx, conversation_id, messages, recorded=False)
    except _NotRecordedError:
        try:
            await catch_up(ctx, conversation_id)
        except ChannelUnavailable as error:
            _log.warning("an open response is ended without reading its channel: %s", error)
        return await _store(ctx, conversation_id, messages, recorded=True)


class _NotRecordedError(Exception):
    """A response to be ended is open, so its channel may have more of it than the store."""


async def _store(
    ctx: Context, conversation_id: str, messages: Sequence[NewMessage], *, recorded: bool
) -> StoreResult:
    result = StoreResult([], [])
    now_ms = ctx.now_ms()
    channel_name = ctx.default_channel(conversation_id)
    async with ctx.store.locked(conversation_id, channel_name) as locked:
        known = await locked.messages([new.id for new in messages])
        states, on_channel, latest = [], [], None
        for index, new in enumerate(messages):
            old = known.get(new.id)
            if await _is_stored(locked, new, old, now_ms):
                result.unchanged.append(new.id)
                continue
            if old is not None and not recorded:
                raise _NotRecordedError
            on_channel += [old.id] if old is not None else []
            states.append(_finished(new, old, now_ms, index))
            latest = new.id if new.role == "assistant" and old is None else latest
            known[new.id] = states[-1]
            result.stored.append(new.id)
        await locked.put(states)
        for message_id in on_channel:
            await leave_end_to_sweeper(locked, message_id)
        if latest is not None:  # the sweep of one message records all of them
            await leave_end_to_sweeper(locked, latest, after_s=_HISTORY_S)
    return result


async def _is_stored(
    locked: LockedConversation, new: NewMessage, old: MessageState | None, now_ms: int
) -> bool:
    """Return whether *new* is stored already.

    Raises:
        Conflict: *old* has other content, or its publisher is alive; or *new* was erased.
    """
    tombstone = locked.conversation.tombstone
    if tombstone is not None and tombstone.erases(new.id):
        raise Conflict(f"message {new.id!r} was erased")
    if old is None:
        return False
    if old.ended:
        if not _same_content(old, new, now_ms):
            raise Conflict(f"message {new.id!r} is stored with other content")
        return True
    if old.role != new.role:
        raise Conflict(f"message {new.id!r} is an open response, not a {new.role} message")
    if await _is_being_published(locked, new.id):
        raise Conflict(f"response {new.id!r} is being published")
    return False


def _check(new: NewMessage) -> None:
    check_message_id(new.id)
    if new.prompt_id is not None:
        check_message_id(new.prompt_id, "prompt_id")
    if new.role not in _ROLES:
        raise BadParameter("role", f"role must be one of {', '.join(_ROLES)}")
    if new.status not in TERMINAL:
        raise BadParameter("status", f"status must be one of {', '.join(sorted(TERMINAL))}")
    if new.parts and clean_parts(new.parts) is None:
        raise BadParameter(
            "parts", "each of parts must be a text, refusal, reasoning or tool_call part, as JSON"
        )
    if not new.parts and not isinstance(new.text, str):
        raise BadParameter("text", "a message must have text (a string) or parts")
    check_parts(new.parts or [{"text": new.text}])
    for name, at_ms in (("started_ms", new.started_ms), ("finished_ms", new.finished_ms)):
        if at_ms is not None and not 0 <= at_ms <= MAX_MS:
            raise BadParameter(name, f"{name} must be a time from 1970 to 9999, in ms since 1970")
    for name in ("usage", "metadata"):
        if not is_json(getattr(new, name)):
            raise BadParameter(name, f"{name} must be JSON-serializable")


async def _is_being_published(locked: LockedConversation, message_id: str) -> bool:
    lease = await locked.lease(message_id)
    return lease is not None and lease.holder is not None and not lease.expired


def _finished(new: NewMessage, old: MessageState | None, now_ms: int, index: int) -> MessageState:
    """Return *old*, or a new state, with the content of *new*, ended."""
    state = old or MessageState(new.id, new.role)
    parts = clean_parts(new.parts) or [{"type": "text", "text": new.text or ""}]
    finished_ms = now_ms if new.finished_ms is None else new.finished_ms
    state.import_finished(
        parts,
        new.status,
        finished_ms=finished_ms,
        started_ms=new.started_ms,
        prompt_id=new.prompt_id,
        usage=new.usage,
        metadata=new.metadata,
    )
    state.place(insertion_position(now_ms, index))
    return state


def _same_content(old: MessageState, new: NewMessage, now_ms: int) -> bool:
    """Return whether storing *new* over *old* would change none of the fields that *new* gives."""
    if old.role != new.role or old.status != new.status:
        return False
    was, would = wire.message(old), wire.message(_finished(new, None, now_ms, 0))
    keys = {"text", "parts" if new.parts else "text"}
    keys |= {key for key in ("prompt_id", "usage", "metadata") if would.get(key) is not None}
    if new.started_ms is not None:
        keys.add("started_at")
    if new.finished_ms is not None:
        keys.add("finished_at")
    return all(was.get(key) == would.get(key) for key in keys)

"""Prompts and cancels, published by a backend on behalf of its users."""

from __future__ import annotations

import asyncio
import uuid

from rehydrate.context import Context
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.positions import (
    check_conversation_id,
    check_message_id,
    insertion_position,
    serial_time_ms,
)
from rehydrate.core.text.assembly import spoken_text
from rehydrate.errors import BadParameter, ChannelUnavailable, Conflict, TooLarge
from rehydrate.publish.publish_queue import BATCH_BYTES, outgoing

ACK_TIMEOUT_S = 30.0
"""How long to wait for Ably's acknowledgement."""


async def prompt(
    ctx: Context,
    conversation_id: str,
    text: str,
    *,
    prompt_id: str | None = None,
) -> str:
    """Publish a prompt and store it, at the position that its serial gives it; return its id.

    The same *prompt_id* and *text* again change nothing, and are not published again.

    Raises:
        BadParameter: an id has an invalid syntax, or *text* is empty.
        TooLarge: the prompt does not fit a channel message.
        Conflict: a message with that id has other content, or was erased.
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably did not acknowledge the prompt, which may have been published.
    """
    if prompt_id is None:
        prompt_id = f"p-{uuid.uuid4().hex}"
    event = await new_prompt(ctx, conversation_id, text, prompt_id=prompt_id)
    if event is None:
        return prompt_id
    channel_name = await ctx.channel_of(conversation_id)
    event = _placed(event, await _publish(ctx, event, channel_name))
    async with ctx.store.locked(conversation_id, channel_name) as held:
        tombstone = held.conversation.tombstone
        if tombstone is not None and tombstone.covers(event):
            raise Conflict(f"message {prompt_id!r} was erased")
        state = (await held.messages([prompt_id])).get(prompt_id) or MessageState(prompt_id, "user")
        fold(state, event)
        _check_same(state, text)
        state.place(insertion_position(event.timestamp_ms, 0))
        if state.changed:
            await held.put([state])
    return prompt_id


async def new_prompt(
    ctx: Context, conversation_id: str, text: str, *, prompt_id: str
) -> Event | None:
    """Return the prompt as an event to publish, or None if it is stored already.

    Raises:
        BadParameter, TooLarge, Conflict, StoreUnavailable: as `prompt`.
    """
    check_conversation_id(conversation_id)
    check_message_id(prompt_id, "prompt_id")
    if not text:
        raise BadParameter("text", "text must not be empty")
    client_id = ctx.publish_options.client_id
    event = Event.prompt(
        prompt_id,
        text,
        id=f"prompt:{prompt_id}",
        client_id=client_id,
        timestamp_ms=ctx.now_ms(),
    )
    if outgoing(event).size_bytes > BATCH_BYTES:
        raise TooLarge(
            f"prompt {prompt_id!r} does not fit a channel message of {BATCH_BYTES} bytes"
        )
    for state in await ctx.store.states(conversation_id, [prompt_id]):
        _check_same(state, text)
        return None
    return event


async def cancel(
    ctx: Context,
    conversation_id: str,
    response_id: str,
) -> None:
    """Publish a request to stop the response; its publisher ends it as ``cancelled``.

    Raises:
        BadParameter: an id has an invalid syntax.
        ChannelUnavailable: Ably did not acknowledge the request, which may have been published.
    """
    check_conversation_id(conversation_id)
    check_message_id(response_id, "response_id")
    id_ = f"cancel:{uuid.uuid4().hex}"
    event = Event.cancel(response_id, id=id_, client_id=ctx.publish_options.client_id)
    await _publish(ctx, event, await ctx.channel_of(conversation_id))


async def _publish(ctx: Context, event: Event, channel_name: str) -> str | None:
    with ctx.publish_queue.channel(channel_name) as queue:
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                return await queue.publish_one(event)
        except TimeoutError:
            raise ChannelUnavailable(
                f"Ably did not acknowledge the {event.kind} within {ACK_TIMEOUT_S:g} s"
            ) from None


def _placed(event: Event, serial: str | None) -> Event:
    """Return *event* at the place that the channel gave it."""
    at_ms = None if serial is None else serial_time_ms(serial)
    return event._replace(serial=serial, timestamp_ms=at_ms or event.timestamp_ms)


def _check_same(state: MessageState, text: str) -> None:
    if state.role != "user" or spoken_text(state.parts()) != text:
        raise Conflict(f"message {state.id!r} exists with other content")

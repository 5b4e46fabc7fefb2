"""Prompt and cancel: what a user says in a conversation, published for him by a backend."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.positions import check_conversation_id, check_message_id, insertion_position
from rehydrate.core.text.assembly import spoken_text
from rehydrate.errors import BadParameter, ChannelUnavailable, Conflict, TooLarge
from rehydrate.publish.publish_queue import BATCH_BYTES, outgoing, size_bytes

if TYPE_CHECKING:
    from rehydrate.context import Context

ACK_TIMEOUT_S = 30.0
"""How long Ably may take to acknowledge."""


async def prompt(
    ctx: Context,
    conversation_id: str,
    prompt_id: str,
    text: str,
) -> None:
    """Publish a prompt and store it, at the place that its serial gives it.

    The same again changes nothing; one that is stored already is not published.

    Raises:
        BadParameter: an id is outside its syntax, or *text* is none.
        TooLarge: it does not fit a channel message.
        Conflict: there is a message with that id that says something else, or it was erased.
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably does not acknowledge it; it may or may not have been published.
    """
    check_conversation_id(conversation_id)
    check_message_id(prompt_id, "prompt_id")
    if not text:
        raise BadParameter("text", "a prompt has a text")
    client_id = ctx.publish_options.client_id
    event = Event.prompt(
        prompt_id,
        text,
        id=f"prompt:{prompt_id}",
        client_id=client_id,
        timestamp_ms=ctx.now_ms(),
    )
    if size_bytes(outgoing(event)) > BATCH_BYTES:
        raise TooLarge(f"prompt {prompt_id!r} does not fit a channel message of {BATCH_BYTES} B")
    for state in await ctx.store.states(conversation_id, [prompt_id]):
        return _check_same(state, text)
    channel_name = await ctx.channel_of(conversation_id)
    event = event._replace(serial=await _published(ctx, event, channel_name))
    async with ctx.store.locked(conversation_id, channel_name) as held:
        tombstone = held.conversation.tombstone
        if tombstone is not None and tombstone.erases(prompt_id):
            raise Conflict(f"message {prompt_id!r} was erased")
        state = (await held.messages([prompt_id])).get(prompt_id) or MessageState(prompt_id, "user")
        fold(state, event)
        _check_same(state, text)
        state.place(insertion_position(event.timestamp_ms, 0))
        if state.changed:
            await held.put([state])
    return None


async def cancel(
    ctx: Context,
    conversation_id: str,
    response_id: str,
) -> None:
    """Ask, on the channel, whoever publishes the response to stop; it ends as ``cancelled``.

    Raises:
        BadParameter: an id is outside its syntax.
        ChannelUnavailable: Ably does not acknowledge it; it may or may not have been published.
    """
    check_conversation_id(conversation_id)
    check_message_id(response_id, "response_id")
    id_ = f"cancel:{uuid.uuid4().hex}"
    event = Event.cancel(response_id, id=id_, client_id=ctx.publish_options.client_id)
    await _published(ctx, event, await ctx.channel_of(conversation_id))


async def _published(ctx: Context, event: Event, channel_name: str) -> str | None:
    with ctx.publish_queue.tray(channel_name) as tray:
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                return await tray.say_alone(event)
        except TimeoutError:
            raise ChannelUnavailable(f"the {event.kind} was not acknowledged") from None


def _check_same(state: MessageState, text: str) -> None:
    if state.role != "user" or spoken_text(state.parts()) != text:
        raise Conflict(f"message {state.id!r} is there, and says something else")

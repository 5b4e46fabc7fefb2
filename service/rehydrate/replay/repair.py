"""Repair: tell every live reader of a response that what is stored of it is its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.errors import Conflict
from rehydrate.replay.player import post_surely
from rehydrate.replay.validation import check_repairable

if TYPE_CHECKING:
    from rehydrate.core.replay.requests import Replay
    from rehydrate.ports import Conversations
    from rehydrate.replay.player import Outlet


async def repair(replay: Replay, *, store: Conversations, outlet: Outlet) -> None:
    """Publish the repair of a response, and its stop for whoever missed that.

    The row says of the repair before it is told: an answer that has it is not asked for again.

    Raises:
        Conflict: the response is not there any more, or not whole.
        ChannelUnavailable: Ably does not take it.
    """
    async with store.locked(replay.conversation_id, replay.channel) as held:
        found = await held.messages([replay.response_id])
        state = found.get(replay.response_id)
        if state is None:
            raise Conflict("the response is not stored any more")
        check_repairable(state)
        events = told_of(state, replay.id)
        if state.seq is not None:
            fold(state, events[0])
            await held.put([state])
    for event in events:
        await post_surely(outlet, event)


def told_of(state: MessageState, name: str) -> list[Event]:
    """The repair of *state*, and its stop, under ids of their own: Ably drops one it had lately."""
    last = None if state.end is None else state.end - 1
    message_id = None if state.anonymous else state.id
    client_id = state.owner.client_id if state.owner else None
    repair = Event.repair(
        message_id,
        parts=state.parts(),
        gen=state.gen,
        seq=state.seq if last is None else last,
        id=f"{name}:repair",
        client_id=client_id,
    )
    stop = Event.stop(
        message_id,
        status=state.status,
        usage=state.usage,
        error=state.error,
        gen=state.gen,
        seq=state.end,
        id=f"{name}:stop",
        client_id=client_id,
    )
    return [repair, stop]

"""Repair: publish the stored text of a response to its live readers."""

from __future__ import annotations

from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.replay.schedule import Replay
from rehydrate.errors import Conflict
from rehydrate.permits import PublishPermit
from rehydrate.ports import Conversations
from rehydrate.replay.player import Outlet, publish_with_retries
from rehydrate.replay.validation import check_repairable


async def repair(
    replay: Replay, *, store: Conversations, outlet: Outlet, permit: PublishPermit
) -> None:
    """Publish the repair of a response, and its stop for readers who missed that.

    The row records the repair before it is published, so that a reader who loads the conversation
    after receiving the repair gets an answer that contains it.

    Args:
        replay: the request, in mode ``repair``.
        store: the store.
        outlet: where to publish.
        permit: the permit to publish the text.

    Raises:
        Conflict: the response is not stored any more, or has gaps.
        TextErased: it was erased after it was read; its text is not published.
        ChannelUnavailable: Ably refuses the repair or the stop.
    """
    async with store.locked(replay.conversation_id, replay.channel) as locked:
        found = await locked.messages([replay.response_id])
        state = found.get(replay.response_id)
        if state is None:
            raise Conflict("the response is not stored any more")
        check_repairable(state)
        events = repair_events(state, replay.id)
        if state.seq is not None:
            fold(state, events[0])
            await locked.put([state])
    for event in events:
        await publish_with_retries(outlet, event, permit)


def repair_events(state: MessageState, name: str) -> list[Event]:
    """Return the repair of *state* and its stop.

    Their ids begin with *name*, since Ably drops a message whose id it received recently.
    """
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

"""Idle limit: end responses of foreign publishers that have produced no output for long.

They have no lease, so a dead publisher cannot be told from one that is thinking. The end is
therefore provisional: a later event of the same response reopens it (law 5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rehydrate.context import Context
from rehydrate.maintenance.sweeper import last_event_ms
from rehydrate.ports import Due
from rehydrate.record.catch_up import Recorded


async def end_idle(
    ctx: Context,
    due: Due,
    *,
    record: Callable[[str], Awaitable[Recorded]],
    limit_ms: int,
) -> bool:
    """End a response provisionally if it had no event for *limit_ms*.

    Args:
        ctx: the adapters and limits.
        due: the response.
        record: catches the conversation up with its channel.
        limit_ms: the limit, in ms.

    Returns:
        Whether it was ended.

    Raises:
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably does not answer, so the time of the last event is unknown.
    """
    if not (await record(due.conversation_id)).moved:
        return False  # another process records this conversation, and may have newer events
    async with ctx.store.locked(due.conversation_id, due.channel) as locked:
        state = (await locked.messages([due.message_id])).get(due.message_id)
        if state is None or state.status != "in_progress" or await locked.lease(due.message_id):
            return False
        event_ms = last_event_ms(state)
        if ctx.now_ms() - event_ms < limit_ms:
            return False
        state.interrupt(event_ms)
        await locked.put([state])
    return True

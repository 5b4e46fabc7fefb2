"""The idle limit: responses of publishers that are not ours, and that have said nothing for long.

They have no lease, so nobody can tell a dead publisher from one that thinks. The end is therefore
provisional: a later event of the same response opens it again (law 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rehydrate.maintenance.sweeper import last_said_ms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.context import Context
    from rehydrate.ports import Due
    from rehydrate.record.catch_up import Recorded


async def end_idle(
    ctx: Context,
    due: Due,
    *,
    record: Callable[[str], Awaitable[Recorded]],
    limit_ms: int,
) -> bool:
    """End a response, for now, if nothing was said of it for *limit_ms*; say whether it was.

    *record* catches the conversation up with its channel.

    Raises:
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably does not answer: nobody knows what was said.
    """
    if not (await record(due.conversation_id)).moved:
        return False  # somebody else is at it, and may know more by now
    async with ctx.store.locked(due.conversation_id, due.channel) as held:
        state = (await held.messages([due.message_id])).get(due.message_id)
        if state is None or state.status != "in_progress" or await held.lease(due.message_id):
            return False
        said_ms = last_said_ms(state)
        if ctx.now_ms() - said_ms < limit_ms:
            return False
        state.interrupt(said_ms)
        await held.put([state])
    return True

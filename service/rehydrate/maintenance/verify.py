"""Verify: compare what is stored with what the channel still shows, and mend what differs.

A response of a publisher of ours, or that a backend stored, is right as it is stored: its final
text was committed before readers were told. Of any other the channel's word is right.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.codecs import decode_all
from rehydrate.core.positions import check_conversation_id
from rehydrate.core.text.assembly import assemble
from rehydrate.core.text.content import Run
from rehydrate.core.timeline import Timeline
from rehydrate.maintenance.sweeper import tell, untold

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rehydrate.context import Context
    from rehydrate.core.event import Event
    from rehydrate.core.fold import MessageState
    from rehydrate.ports import ChannelLog
    from rehydrate.record.catch_up import Recorded

    Parts = list[dict[str, object]]


class Discrepancy(NamedTuple):
    """Where the store and the channel differ.

    ``fault``: whose it is, ``store`` or ``channel``; the other side is right. ``detail``: what
    differs, without any text. ``mended``: whether it was mended.
    """

    message_id: str
    fault: str
    detail: str
    mended: bool = False


class Verified(NamedTuple):
    """What was compared: messages that the channel shows, of these whole ones, and what differs."""

    messages: int
    compared: int
    findings: list[Discrepancy]


async def verify(
    ctx: Context,
    conversation_id: str,
    *,
    record: Callable[[str], Awaitable[Recorded]],
    mend: bool = False,
) -> Verified:
    """Compare the stored messages of a conversation with its channel, as far as it is retained.

    *record* catches the conversation up first, so that what is merely new is no difference.
    *mend*: replace what is wrong in the store, and publish again what is wrong on the channel.

    Raises:
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably does not answer; what was mended stays.
    """
    check_conversation_id(conversation_id)
    await record(conversation_id)
    store = ctx.store
    row = await store.conversation(conversation_id)
    name = row.channel if row else ctx.default_channel(conversation_id)
    events = await _said(ctx.channel, name)
    shown = Timeline(agents=ctx.agents, tombstone=row.tombstone if row else None)
    shown.fold(events)
    stored = {state.id: state for state in await store.states(conversation_id, shown.messages)}
    findings, compared = [], 0
    for message in shown.ordered:
        own = [event for event in events if event.message_id == message.id]
        there = stored.get(message.id)
        found, whole = _compare(message, there)
        compared += whole
        if found is None:
            continue
        if not found.fault:
            async with store.locked(conversation_id, name) as held:
                by_us = await held.lease(message.id) is not None
            found = found._replace(fault="channel" if by_us else "store")
        if mend and found.fault == "store":
            found = found._replace(mended=await _mend_row(ctx, (conversation_id, name), own))
        elif mend:
            found = found._replace(
                mended=await _mend_channel(ctx, (conversation_id, name), message.id)
            )
        findings.append(found)
    return Verified(len(shown.messages), compared, findings)


async def _said(channel: ChannelLog, name: str) -> list[Event]:
    events: list[Event] = []
    async with aclosing(channel.history(name, forwards=True)) as pages:
        async for page in pages:
            events.extend(event for event in decode_all(page) if event.replay_of is None)
    return events


def _compare(shown: MessageState, stored: MessageState | None) -> tuple[Discrepancy | None, bool]:
    """How the two differ, or None; and whether all of the message could be compared."""
    if stored is None:
        return Discrepancy(shown.id, "store", "it is not stored"), True
    if shown.ended and not stored.ended:
        return Discrepancy(shown.id, "store", "it has ended, and is stored as open"), True
    if stored.ended and not shown.ended:
        return Discrepancy(shown.id, "channel", "it has ended, and nobody said so"), True
    if stored.gaps():
        if any(not shown.contains(seq) for first, last in stored.gaps() for seq in (first, last)):
            return None, False  # neither has it: that is known, and said in every answer
        return Discrepancy(shown.id, "store", f"it lacks {stored.gaps()}"), True
    if not shown.gaps():
        detail = _difference(stored.parts(), shown.parts())
        return (Discrepancy(shown.id, "", detail) if detail else None), True
    begun = shown.runs[0].first <= 1 if shown.runs else shown.start_id is not None
    if begun:
        return Discrepancy(shown.id, "channel", f"the channel lacks {shown.gaps()}"), True
    return _compare_end(shown, stored), False


def _compare_end(shown: MessageState, stored: MessageState) -> Discrepancy | None:
    """Of a message whose beginning the channel does not keep any more: compare the rest."""
    if not shown.runs:
        return None
    first = shown.runs[0].first
    rest: list[Run] = [cut for run in stored.runs if (cut := run.after(first - 1)) is not None]
    if not rest or len(shown.runs) > 1 or rest[0].first != first:
        return None  # it was stored as one text, and cannot be cut
    detail = _difference(assemble(rest), assemble(shown.runs))
    return Discrepancy(shown.id, "", f"from {first} on: {detail}") if detail else None


def _difference(stored: Sequence[dict[str, object]], shown: Sequence[dict[str, object]]) -> str:
    """What differs, in words, without what is said; empty: nothing."""
    if len(stored) != len(shown):
        return f"{len(stored)} parts are stored, the channel shows {len(shown)}"
    for index, (ours, theirs) in enumerate(zip(stored, shown, strict=True)):
        text, other = ours.get("text"), theirs.get("text")
        if isinstance(text, str) and isinstance(other, str) and text != other:
            same = _alike(text, other)
            lengths = f"{len(text)} characters are stored, the channel shows {len(other)}"
            return f"part {index} differs from character {same} on; {lengths}"
        if ours != theirs and {**ours, "status": None} != {**theirs, "status": None}:
            return f"part {index} differs"
    return ""


def _alike(text: str, other: str) -> int:
    """How many characters the two begin with that are the same."""
    pairs = enumerate(zip(text, other, strict=False))
    differing = (index for index, (one, another) in pairs if one != another)
    return next(differing, min(len(text), len(other)))


async def _mend_row(ctx: Context, where: tuple[str, str], events: Sequence[Event]) -> bool:
    """Fold what the channel says of one message onto its row; if that is not enough, in its place."""
    async with ctx.store.locked(*where) as held:
        tombstone = held.conversation.tombstone
        fresh = Timeline(agents=ctx.agents, tombstone=tombstone)
        fresh.fold(events)
        known = await held.messages(list(fresh.messages))
        timeline = Timeline(known.values(), agents=ctx.agents, tombstone=tombstone)
        timeline.fold(events)
        for state in known.values():
            if _compare(fresh.messages[state.id], state)[0] is not None:
                state.restart(state.gen)
                timeline.fold(events)
            state.mark_changed()
        await held.put(list(timeline.messages.values()))
    return bool(timeline.messages)


async def _mend_channel(ctx: Context, where: tuple[str, str], message_id: str) -> bool:
    """Say again how the stored message ends: its text, if it is whole, and its stop."""
    async with ctx.store.locked(*where) as held:
        state = (await held.messages([message_id])).get(message_id)
        if state is None or not state.ended:
            return False
        ending = untold(state)
        await held.put([state])
    await tell(ctx.publish_queue, where[1], ending)
    return True

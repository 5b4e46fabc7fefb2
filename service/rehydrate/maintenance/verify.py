"""Verify: compare the stored messages with what the channel retains, and mend differences.

For a response of our own publishers, and for an imported one, the store is authoritative: its final
text was committed before readers received the end. For all others the channel is.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.codecs import decode_all
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.positions import check_conversation_id
from rehydrate.core.text.assembly import assemble
from rehydrate.core.text.content import Run
from rehydrate.core.timeline import Timeline
from rehydrate.core.window import LostInterval, outside
from rehydrate.maintenance.sweeper import publish_acked, unannounced_end
from rehydrate.permits import permit_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rehydrate.context import Context
    from rehydrate.core.event import Event
    from rehydrate.core.window import Tombstone
    from rehydrate.record.catch_up import Recorded

    Parts = list[dict[str, object]]


class Discrepancy(NamedTuple):
    """A difference between the store and the channel.

    Attributes:
        message_id: the message.
        fault: the side that is wrong, ``store`` or ``channel``.
        detail: the difference, without any text of the message.
        mended: whether it was mended.
    """

    message_id: str
    fault: str
    detail: str
    mended: bool = False


class Retained(NamedTuple):
    """The events that the channel retains, except those of replays, and the interval that they cover."""

    events: list[Event]
    covered: LostInterval | None


class Verified(NamedTuple):
    """The result of a verification.

    Attributes:
        messages: how many messages the channel shows.
        compared: how many of them could be compared as a whole.
        findings: the differences.
    """

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
    """Compare the stored messages of a conversation with the retained part of its channel.

    Args:
        ctx: the adapters and limits.
        conversation_id: the conversation.
        record: catches it up first, so that a new message does not count as a difference.
        mend: correct the store where it is wrong, and publish again where the channel is wrong.

    Returns:
        The differences.

    Raises:
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably does not answer; what was mended stays mended.
    """
    check_conversation_id(conversation_id)
    await record(conversation_id)
    store = ctx.store
    row = await store.conversation(conversation_id)
    name = row.channel if row else ctx.default_channel(conversation_id)
    events, covered = await _retained(ctx, name)
    tombstone = row.tombstone if row else None
    shown, stored = await _assigned(ctx, conversation_id, events, tombstone)
    findings, compared = [], 0
    for message in shown.values():
        found, whole = _compare(message.state, stored.get(message.state.id))
        compared += whole
        if found is None:
            continue
        if not found.fault:
            by_us = stored[found.message_id].posted
            async with store.locked(conversation_id, name) as locked:
                by_us = by_us or await locked.lease(found.message_id) is not None
            found = found._replace(fault="channel" if by_us else "store")
        where = (conversation_id, name)
        if mend and found.fault == "store":
            found = found._replace(mended=await _mend_row(ctx, where, message))
        elif mend:
            found = found._replace(mended=await _mend_channel(ctx, where, found.message_id))
        findings.append(found)
    if mend and row is not None and covered is not None:
        unread = [found for found in findings if found.fault == "store" and not found.mended]
        if outside(row.holes, covered) != row.holes and not unread:
            await _close_intervals(ctx, (conversation_id, name), covered)
    return Verified(len(shown), compared, findings)


class _Shown(NamedTuple):
    """A message as the channel shows it, and the events that it was folded from."""

    state: MessageState
    events: list[Event]


async def _assigned(
    ctx: Context, conversation_id: str, events: Sequence[Event], tombstone: Tombstone | None
) -> tuple[dict[str, _Shown], dict[str, MessageState]]:
    """Return the messages that *events* belong to, by id: as the channel shows them, and as stored.

    A timeline of the stored messages assigns the events, as it does for a recorder: an anonymous
    message is known by its place, and the retained part may begin in the middle of it.
    """
    timeline = Timeline(agents=ctx.agents, tombstone=tombstone)
    asked = timeline.lookup(events, include_known=True)
    stored = {} if asked.is_empty else await ctx.store.states(conversation_id, asked)
    timeline.learn(asked, stored)
    shown: dict[str, _Shown] = {}
    for event in events:
        state = timeline.apply(event).state
        if state is None or state.id not in timeline.messages:
            continue
        empty = MessageState(state.id, state.role, gen=event.gen)
        shown.setdefault(state.id, _Shown(empty, [])).events.append(event)
    for message in shown.values():
        _fold(message.state, message.events)
    return shown, {state.id: state for state in await ctx.store.states(conversation_id, shown)}


async def _close_intervals(ctx: Context, where: tuple[str, str], covered: LostInterval) -> None:
    """Close the lost intervals that the channel still shows completely: nothing is lost (law 4).

    The configured retention is too low, or history did not show everything when it was recorded.
    """
    async with ctx.store.locked(*where) as locked:
        watermark = locked.conversation.watermark
        if watermark is not None:
            await locked.move(watermark, None, covered=covered)


async def _retained(ctx: Context, name: str) -> Retained:
    events: list[Event] = []
    read_at_ms, oldest_ms = ctx.now_ms(), None
    async with aclosing(ctx.channel.history(name, forwards=True)) as pages:
        async for page in pages:
            found = decode_all(page, ctx.token_names)
            events.extend(event for event in found if event.replay_of is None)
            oldest_ms = page[0].timestamp_ms if oldest_ms is None and page else oldest_ms
    covered = None if oldest_ms is None else LostInterval(oldest_ms, read_at_ms)
    return Retained(events, covered)


def _compare(shown: MessageState, stored: MessageState | None) -> tuple[Discrepancy | None, bool]:
    """Return the difference, or None, and whether the whole message could be compared."""
    if stored is None:
        return Discrepancy(shown.id, "store", "it is not stored"), True
    if shown.ended and not stored.ended:
        return Discrepancy(shown.id, "store", "it has ended, but is stored as open"), True
    if stored.ended and not shown.ended:
        return Discrepancy(shown.id, "channel", "it has ended, but no stop was published"), True
    if stored.gaps():
        if any(not shown.contains(seq) for first, last in stored.gaps() for seq in (first, last)):
            return None, False  # both lack it, and every answer reports that gap
        return Discrepancy(shown.id, "store", f"it lacks {stored.gaps()}"), True
    if shown.headless and not stored.headless:
        return None, False  # without seqs, a part of it cannot be compared
    if not shown.gaps():
        detail = _difference(stored.parts(), shown.parts())
        return (Discrepancy(shown.id, "", detail) if detail else None), True
    has_start = shown.runs[0].first <= 1 if shown.runs else shown.start_id is not None
    if has_start:
        return Discrepancy(shown.id, "channel", f"the channel lacks {shown.gaps()}"), True
    return _compare_end(shown, stored), False


def _compare_end(shown: MessageState, stored: MessageState) -> Discrepancy | None:
    """Compare the retained end of a message whose start the channel no longer retains."""
    if not shown.runs:
        return None
    first = shown.runs[0].first
    rest: list[Run] = [cut for run in stored.runs if (cut := run.after(first - 1)) is not None]
    if not rest or len(shown.runs) > 1 or rest[0].first != first:
        return None  # it was stored as one run, which cannot be cut there
    detail = _difference(assemble(rest), assemble(shown.runs))
    return Discrepancy(shown.id, "", f"from seq {first} on: {detail}") if detail else None


def _difference(stored: Sequence[dict[str, object]], shown: Sequence[dict[str, object]]) -> str:
    """Describe the difference without quoting text; empty if there is none."""
    if len(stored) != len(shown):
        return f"{len(stored)} parts are stored, the channel shows {len(shown)}"
    for index, (ours, theirs) in enumerate(zip(stored, shown, strict=True)):
        text, other = ours.get("text"), theirs.get("text")
        if isinstance(text, str) and isinstance(other, str) and text != other:
            same = _common_prefix(text, other)
            lengths = f"{len(text)} characters are stored, the channel shows {len(other)}"
            return f"part {index} differs from character {same} on; {lengths}"
        if ours != theirs and {**ours, "status": None} != {**theirs, "status": None}:
            return f"part {index} differs"
    return ""


def _common_prefix(text: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    pairs = enumerate(zip(text, other, strict=False))
    differing = (index for index, (one, another) in pairs if one != another)
    return next(differing, min(len(text), len(other)))


async def _mend_row(ctx: Context, where: tuple[str, str], shown: _Shown) -> bool:
    """Fold the channel's events of one message onto its row; if they still differ, replace it."""
    async with ctx.store.locked(*where) as locked:
        tombstone = locked.conversation.tombstone
        known = await locked.messages([shown.state.id])
        timeline = Timeline(known.values(), agents=ctx.agents, tombstone=tombstone)
        state = known.get(shown.state.id)
        if state is None:
            timeline.fold(shown.events)
        else:
            _fold(state, shown.events)
            if _compare(shown.state, state)[0] is not None:
                state.restart(state.gen)
                _fold(state, shown.events)
            state.mark_changed()
        await locked.put(list(timeline.messages.values()))
    return bool(timeline.messages)


def _fold(state: MessageState, events: Sequence[Event]) -> None:
    for event in events:
        fold(state, event)


async def _mend_channel(ctx: Context, where: tuple[str, str], message_id: str) -> bool:
    """Publish the end of the stored message again: its text, if it has no gaps, and its stop."""
    async with ctx.store.locked(*where) as locked:
        state = (await locked.messages([message_id])).get(message_id)
        if state is None or not state.ended:
            return False
        ending = unannounced_end(state)
        await locked.put([state])
        permit = permit_of(ctx.store, locked.conversation)
    await publish_acked(ctx.publish_queue, where[1], ending, permit)
    return True

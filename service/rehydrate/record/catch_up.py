"""Record: hydration that commits, and finished messages that a backend hands over."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core import wire
from rehydrate.core.codecs import decode_all
from rehydrate.core.event import TERMINAL, Status
from rehydrate.core.fold import MessageState
from rehydrate.core.json import is_json
from rehydrate.core.message import read_again_from
from rehydrate.core.positions import check_conversation_id, check_message_id, insertion_position
from rehydrate.core.text.parts import clean_parts
from rehydrate.core.text.size_budget import check_parts
from rehydrate.core.timeline import MAX_OPEN, Timeline, ignored
from rehydrate.core.window import Window, advanced, missed, read_from_ms, spanned
from rehydrate.errors import BadParameter, Conflict, RehydrateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from rehydrate.context import Context
    from rehydrate.core.event import ChannelMessage, Event
    from rehydrate.core.window import LostInterval
    from rehydrate.ports import LockedConversation

_log = logging.getLogger(__name__)

PAGE = 1_000
"""Messages that are folded in one transaction: what recording holds in memory at a time."""

_ROLES = ("user", "assistant")


class Recorded(NamedTuple):
    """What a `catch_up` did.

    ``messages``: how many it read. ``counts``: outcomes of their events. ``moved``: False if
    another recorder was at work on the conversation, and this one left it to that.
    """

    messages: int
    counts: Counter[str]
    moved: bool


async def catch_up(
    ctx: Context,
    conversation_id: str,
) -> Recorded:
    """Fold what the channel says since the watermark into the store, and move the watermark.

    Page by page, each in one transaction with the conversation's row locked: the events are folded
    again onto the rows as they are then, never a fold that was made outside the lock.

    Raises:
        StoreUnavailable: Postgres does not answer; what was committed stays.
        ChannelUnavailable: Ably does not answer; likewise.
    """
    check_conversation_id(conversation_id)
    stored = await ctx.store.load(conversation_id, limit=1, before=None)
    row, names = stored.conversation, Timeline(stored.open)
    watermark = row.watermark if row else None
    created_ms = row.created_ms if row else None
    name = row.channel if row else ctx.default_channel(conversation_id)
    window, counts = Window(ctx.now_ms()), Counter[str]()
    hole, lost, growing = None, None, dict[str, MessageState]()
    pages = ctx.channel.history(name, since_ms=read_from_ms(watermark), forwards=True, limit=PAGE)
    async with aclosing(pages):
        async for page, at_end in _with_end(pages):
            begins = window.oldest_ms is None
            window.add_page(page)
            if row is None and not window.count:
                break  # nobody has said anything on it: no row for whoever asks
            if begins:
                lost = hole = missed(watermark, created_ms, window, ctx.retention_ms)
            async with ctx.store.locked(conversation_id, name) as held:
                if held.conversation.watermark != watermark:
                    return Recorded(window.count, counts, moved=False)
                events = list(decode_all(page))
                timeline = await _fold_onto(ctx, held, events, hole, names)
                counts += timeline.counts + ignored(page, events)
                growing = _growing(growing, timeline, window.read_at_ms)
                watermark = advanced(
                    watermark,
                    window,
                    at_end=at_end,
                    growing=read_again_from(growing.values(), window.read_at_ms),
                    retention_ms=ctx.retention_ms,
                )
                lost = spanned(lost, timeline.refused)
                await held.move(watermark, lost if begins or timeline.refused else None)
    return Recorded(window.count, counts, moved=True)


async def _fold_onto(
    ctx: Context,
    held: LockedConversation,
    events: Sequence[Event],
    hole: LostInterval | None,
    names: Timeline,
) -> Timeline:
    ids = {event.message_id for event in events} | {names.name(event) for event in events}
    states = await held.messages(ids) if events else {}
    tombstone = held.conversation.tombstone
    begins = not ids <= states.keys()
    others = await held.open_beside(states.keys(), most=MAX_OPEN) if begins else 0
    timeline = Timeline(states.values(), agents=ctx.agents, tombstone=tombstone, elsewhere=others)
    if hole is not None:
        timeline.mark_inexact()
    timeline.fold(events)
    changed = [state for state in timeline.messages.values() if state.changed]
    if changed:
        await held.put(changed)
    return timeline


def _growing(
    known: dict[str, MessageState], timeline: Timeline, read_at_ms: int
) -> dict[str, MessageState]:
    """The messages, of those *known* and those that were just folded, that may still grow."""
    latest = known | {state.id: state for state in timeline.messages.values() if state.versioned}
    return {id_: s for id_, s in latest.items() if read_again_from([s], read_at_ms) is not None}


async def _with_end(
    pages: AsyncIterator[list[ChannelMessage]],
) -> AsyncIterator[tuple[list[ChannelMessage], bool]]:
    """Each page, and whether it is the last; one empty page if there is none."""
    page: list[ChannelMessage] = await anext(pages, [])
    async for following in pages:
        yield page, False
        page = following
    yield page, True


class NewMessage(NamedTuple):
    """A finished message of a backend. None: not said."""

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
    """What became of messages that were handed over, by id."""

    stored: list[str]
    unchanged: list[str]


async def store_messages(
    ctx: Context,
    conversation_id: str,
    messages: Sequence[NewMessage],
) -> StoreResult:
    """Store finished *messages*, all or none. Storing the same again changes nothing.

    A response that the channel shows as open is ended with what is said here, unless its own
    publisher is alive.

    Raises:
        BadParameter: one of them is no finished message; names what is wrong in it.
        TooLarge: one of them has more than 10 MiB of text, or 100,000 parts.
        Conflict: one is there with other content, or is being published; nothing is stored.
    """
    check_conversation_id(conversation_id)
    for new in messages:
        _check(new)
    result = StoreResult([], [])
    now_ms = ctx.now_ms()
    channel_name = ctx.default_channel(conversation_id)
    async with ctx.store.locked(conversation_id, channel_name) as held:
        known = await held.messages([new.id for new in messages])
        states, on_channel = [], []
        for index, new in enumerate(messages):
            old = known.get(new.id)
            if await _is_there(held, new, old, now_ms):
                result.unchanged.append(new.id)
                continue
            on_channel += [old.id] if old is not None else []
            states.append(_finished(new, old, now_ms, index))
            known[new.id] = states[-1]
            result.stored.append(new.id)
        await held.put(states)
        for message_id in on_channel:
            await _leave_to_be_told(held, message_id)
    return result


async def _is_there(
    held: LockedConversation, new: NewMessage, old: MessageState | None, now_ms: int
) -> bool:
    """Whether *new* is stored already.

    Raises:
        Conflict: it cannot be stored: what is there says something else, or is not ours to end.
    """
    tombstone = held.conversation.tombstone
    if tombstone is not None and tombstone.erases(new.id):
        raise Conflict(f"message {new.id!r} was erased")
    if old is None:
        return False
    if old.ended:
        if not _says_the_same(old, new, now_ms):
            raise Conflict(f"message {new.id!r} is stored with other content")
        return True
    if old.role != new.role:
        raise Conflict(f"{new.id!r} is a response that is open")
    if await _alive(held, new.id):
        raise Conflict(f"response {new.id!r} is being published")
    return False


async def _leave_to_be_told(held: LockedConversation, message_id: str) -> None:
    """The channel's readers do not know that it has ended: whoever sweeps next tells them."""
    lease = await held.lease(message_id)
    if lease is None or not lease.fenced:
        await held.grant(message_id, "stored", 0.0)


def _check(new: NewMessage) -> None:
    check_message_id(new.id)
    if new.prompt_id is not None:
        check_message_id(new.prompt_id, "prompt_id")
    if new.role not in _ROLES:
        raise BadParameter("role", f"role is one of {', '.join(_ROLES)}")
    if new.status not in TERMINAL:
        raise BadParameter("status", "a finished message has a status that is terminal")
    if new.parts and clean_parts(new.parts) is None:
        raise BadParameter("parts", "parts are text, refusal, reasoning and tool_call, as JSON")
    if not new.parts and not isinstance(new.text, str):
        raise BadParameter("text", "a message has a text, or parts")
    check_parts(new.parts or [{"text": new.text}])
    for name in ("usage", "metadata"):
        if not is_json(getattr(new, name)):
            raise BadParameter(name, f"{name} has to be what JSON can say")


async def _alive(held: LockedConversation, message_id: str) -> bool:
    lease = await held.lease(message_id)
    return lease is not None and lease.holder is not None and not lease.expired


def _finished(new: NewMessage, old: MessageState | None, now_ms: int, index: int) -> MessageState:
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


def _says_the_same(old: MessageState, new: NewMessage, now_ms: int) -> bool:
    """Whether storing *new* where *old* is would change nothing that *new* speaks of."""
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


class Recorder:
    """Records the conversations it is woken for, some at once, each once however often woken.

    Args:
        record: catches one conversation up.
        pause_s: how long a conversation that was recorded waits before it is recorded again.
        capacity: how many may wait; further ones are left to whoever wakes it next.
        at_once: how many are recorded at a time.
    """

    def __init__(
        self,
        record: Callable[[str], Awaitable[Recorded]],
        *,
        pause_s: float = 1.0,
        capacity: int = 10_000,
        at_once: int = 4,
    ) -> None:
        self._record = record
        self._pause_s = pause_s
        self._capacity = capacity
        self._at_once = at_once
        self._waiting: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self._waiting) >= self._capacity

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def wake(self, conversation_id: str) -> None:
        """Something was said in *conversation_id*; returns at once."""
        if self._task is not None and not self.full:
            self._waiting[conversation_id] = None
            self._wake.set()

    def open(self) -> None:
        """Begin to record."""
        self._task = self._task or asyncio.create_task(self._run(), name="recorder")

    async def close(self) -> None:
        """Stop recording; what is under way is rolled back."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._waiting = list(self._waiting), {}
            for at in range(0, len(due), self._at_once):
                await asyncio.gather(*map(self._one, due[at : at + self._at_once]))
            await asyncio.sleep(self._pause_s * random.uniform(1, 1.5))  # noqa: S311 - jitter

    async def _one(self, conversation_id: str) -> None:
        try:
            await self._record(conversation_id)
        except Exception as error:  # noqa: BLE001 - one fault of ours ends no recorder
            level = logging.WARNING if isinstance(error, RehydrateError) else logging.ERROR
            _log.log(level, "could not record a conversation: %s", type(error).__name__)
            self._waiting.setdefault(conversation_id)
            self._wake.set()

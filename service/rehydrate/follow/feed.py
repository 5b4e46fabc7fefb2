"""One followed conversation: runs the effects of the resync policy on one attachment.

`resync` decides what to do; `Feed` does it. It owns the attachment, the read in flight, the state
that was adopted last and the buffer that followers read. Nothing else changes these, and every
change comes from an effect, in the order in which the policy returned it.

The path of one live message: count it (`RecentMessages`), decode it, replace an append by the whole
content of its channel message (`AppendChains`), and cache it, so that a later read can be merged
with it. Then the policy decides whether it may be emitted now. If so, `LiveConversation.apply`
looks its message up once, asks the drop rule, and returns the events to append to the buffer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from rehydrate.background import jittered
from rehydrate.core.client_view import Verdict
from rehydrate.core.codecs import decode
from rehydrate.core.fold import Outcome
from rehydrate.core.positions import channel_serial
from rehydrate.core.text.versioned_messages import AppendChains
from rehydrate.core.timeline import Reason
from rehydrate.core.window import REWIND_REACH_MS
from rehydrate.errors import ChannelRefused, ChannelUnavailable, RehydrateError, StoreUnavailable
from rehydrate.follow import resync
from rehydrate.follow.event_buffer import EventBuffer
from rehydrate.follow.live_conversation import FollowedReplays, LiveConversation, look_up
from rehydrate.follow.recent_messages import RecentMessages, from_attach_point, from_rewind
from rehydrate.follow.renewable_task import RenewableTask
from rehydrate.hydrate.history_window import HistorySource
from rehydrate.hydrate.hydrate import MAX_LIMIT, Page, read
from rehydrate.ports import BacklogEnd, Discontinuity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.context import Context, Prefetch
    from rehydrate.core.event import ChannelMessage, Event
    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.hydrate.hydrate import Reading
    from rehydrate.ports import Subscription

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ALIVE_S = 2.0
"""How recently the connection must have answered to count as up to date."""

_PREFETCH_MAX_AGE_MS = 15_000
"""How long ago a prefetch may begin: an older one would read too much."""

_NOT_ATTACHED = Reason("history_unavailable", retry=True, detail="Ably does not let us attach")
_NO_HISTORY = Reason("history_unavailable", retry=True, detail="Ably did not answer in time")


class FollowOptions(NamedTuple):
    """How conversations are followed.

    Attributes:
        strategy: what precedes the live messages. ``rewind``: the messages that the attach rewinds
            if they reach the store, otherwise history. ``history``: history up to the attach
            point, otherwise the rewind.
        grace_s: how long a conversation stays attached after its last follower left, in seconds.
        rewind_s: how far Ably rewinds, in seconds.
        rewind_most: how many messages Ably rewinds at most.
        capacity: how many messages may wait to be processed.
    """

    strategy: Literal["rewind", "history"] = "rewind"
    grace_s: float = 30.0
    rewind_s: int = 10
    rewind_most: int = 100
    capacity: int = 10_000


class _Snapshot(NamedTuple):
    """A conversation as it was read; *conversation* advances with the received events."""

    reading: Reading
    conversation: LiveConversation


class Feed:
    """One followed conversation, shared by all its followers in this process.

    Args:
        ctx: the adapters and limits.
        conversation_id: the conversation.
        terms: how to follow.
        noticed: called with the conversation id when there is something to record.

    Attributes:
        conversation: the current state; None until it was read.
        buffer: the events for followers.
        recent: the received messages, also used by hydrates.
        counts: the number of delivered messages by outcome.
        followers: the number of followers.
        cancels: an event to set by the id of the response that a ``cancel`` names.
        listeners: called when there may be new events; they must not block.
        error: why the conversation cannot be followed.
        closed: the feed has ended.
    """

    def __init__(
        self,
        ctx: Context,
        conversation_id: str,
        *,
        terms: FollowOptions,
        noticed: Callable[[str], None],
    ) -> None:
        self.conversation_id = conversation_id
        self.conversation: LiveConversation | None = None
        self.buffer = EventBuffer()
        self.recent = RecentMessages(terms.rewind_s * 1000, terms.rewind_most)
        self.counts: Counter[str] = Counter()
        self.followers = 0
        self.cancels: dict[str | None, asyncio.Event] = {}
        self.listeners: dict[Callable[[], None], None] = {}
        self.error: RehydrateError | None = None
        self.closed = False
        self._ctx = ctx
        self._terms = terms
        self._noticed = noticed
        self._loop = asyncio.get_running_loop()
        self._state = resync.State()
        self._channel_name = ""
        self._subscription: Subscription | None = None
        self._snapshot: _Snapshot | None = None
        self._attach_point: str | None = None
        self._attached_ms = 0
        self._attaching = RenewableTask(
            "following a conversation", lambda: self._handle(resync.Detached())
        )
        self._resyncing = RenewableTask(
            "reading a conversation", lambda: self._handle(resync.Interrupted())
        )
        self._waking: asyncio.Handle | None = None
        self._merge_from_ms = 0
        self._last_message_ms = 0
        self._replays = FollowedReplays(ctx.agents)
        self._chains = AppendChains()

    # -- for followers ----------------------------------------------------------------------------

    def open(self) -> None:
        """Start to follow."""
        self._handle(resync.Opened())

    async def close(self) -> None:
        """Detach; the followers end."""
        self.closed = True
        self.wake()
        cancelled = [self._resyncing.cancel(), self._attaching.cancel()]
        self._handle(resync.Stopped())
        await asyncio.gather(*filter(None, cancelled), return_exceptions=True)

    def snapshot(self, limit: int) -> FollowEvent | None:
        """Return a snapshot with *limit* finished messages; None until the conversation was read."""
        conversation = self.conversation
        if conversation is None:
            return None
        return self.buffer.snapshot(
            limit, lambda size: conversation.answer(size, self._ctx.now_ms()).body
        )

    def resume_from(self, id_: str) -> int | None:
        """Return the position after which a follower can continue that received *id_*, or None.

        Within a running replay that is not possible: no snapshot contains the replay's text.
        """
        number = self.buffer.number_of(id_)
        if number is None or self._replays.running_since_before(number):
            return None
        return number

    def read_again(self) -> None:
        """Read again after the store was changed without the channel."""
        self._handle(resync.StoreChanged())

    def read_if_quiet(self, since_ms: int) -> None:
        """Read again if a response is open, without a message or such a read since *since_ms*."""
        quiet = self._last_message_ms < since_ms
        if quiet and self.conversation is not None and self.conversation.is_open:
            self._last_message_ms = self._ctx.now_ms()
            self.read_again()

    async def is_up_to_date(self, until: str | None) -> bool:
        """Whether every message up to *until* was received; without it, up to 2 s ago."""
        if not self._is_live:
            return False
        if until is not None:
            serial = self.recent.serial
            return serial is not None and channel_serial(serial) >= channel_serial(until)
        subscription = self._subscription
        alive = subscription is not None and await subscription.alive_within(_ALIVE_S)
        return alive and self._is_live

    @property
    def _is_live(self) -> bool:
        return self._subscription is not None and self._state.phase == "live"

    def wake(self) -> None:
        """Schedule the listeners, once for everything that is appended until then."""
        if self.listeners and self._waking is None:
            self._waking = self._loop.call_soon(self._wake)

    def _wake_now(self) -> None:
        """Run the scheduled listeners at once: no further message waits to be processed."""
        if self._waking is not None:
            self._waking.cancel()
            self._wake()

    def _wake(self) -> None:
        self._waking = None
        for listener in list(self.listeners):
            listener()

    # -- the policy and its effects ---------------------------------------------------------------

    def _handle(self, input_: resync.Input) -> None:
        """Take one step of the policy and run its effects."""
        self._state, effects = resync.step(self._state, input_, self._loop.time())
        for effect in effects:
            self._run(effect)

    def _run(self, effect: resync.Effect) -> None:
        match effect:
            case resync.Emit():
                self._emit(effect.event)
            case resync.Attach():
                self._attaching.start(self._guard(self._attach, effect.pause_s))
            case resync.Wait():
                self._note_beginning(effect.begins)
                self._resyncing.start(self._guard(self._pause, effect.pause_s))
            case resync.Read():
                self._note_beginning(effect.begins)
                self._resyncing.start(self._guard(self._read, effect.fresh))
            case resync.Cancel():
                self._resyncing.cancel()
            case resync.Merge():
                self._merge(force=effect.force)
            case resync.Adopt():
                self._adopt(complete=effect.complete)
            case resync.Continue():
                self._continue(lost=effect.lost)
            case resync.Announce():
                self.buffer.append("again")
                self.wake()
            case resync.Fail():
                raise effect.error

    def _note_beginning(self, begins: bool) -> None:
        """Keep the time from which received events are merged into what this series reads.

        History may lag behind them, so a rewind's length before the beginning belongs to it.
        """
        if begins:
            self._merge_from_ms = self._ctx.now_ms() - self._terms.rewind_s * 1000

    async def _pause(self, pause_s: float) -> None:
        await asyncio.sleep(jittered(pause_s * 0.75, 1 / 3))
        self._handle(resync.Timer())

    async def _read(self, fresh: bool) -> None:
        source = self._source(fresh=fresh)
        try:
            page = Page(MAX_LIMIT)
            reading = await read(self._ctx, self.conversation_id, page=page, source=source)
            conversation = LiveConversation(reading, self.conversation)
            await conversation.look_up(self._ctx, self.recent.since(self._merge_from_ms))
        except StoreUnavailable as error:
            _log.warning("the store does not answer while a followed conversation is read")
            self._handle(resync.ReadFailed(error))
        else:
            self._snapshot = _Snapshot(reading, conversation)
            self._handle(resync.SnapshotRead())

    @property
    def _usable_attach_point(self) -> str | None:
        """The attach point to read history up to; None: read to the end of history.

        Ably knows an attach point for 2 minutes. Later it would refuse, and cost a request.
        """
        if self._terms.strategy != "history":
            return None
        age_ms = self._ctx.now_ms() - self._attached_ms
        return self._attach_point if age_ms < REWIND_REACH_MS else None

    def _source(self, *, fresh: bool) -> HistorySource:
        attach_point = self._usable_attach_point if fresh else None
        prefetch, recent = self._likely_prefetch(attach_point), self.recent
        if attach_point is not None:
            read_to = partial(from_attach_point, recent=recent, attach_point=attach_point)
            return HistorySource(read_to, prefetch)
        first = fresh and self._terms.strategy == "rewind"
        return HistorySource(partial(from_rewind, recent=recent, first=first), prefetch)

    def _likely_prefetch(self, attach_point: str | None) -> Prefetch | None:
        """Return the history to read while the store answers, if it is likely to be needed."""
        prefetch = self._ctx.prefetches.get(self.conversation_id)
        likely = self.recent.is_cut or self._terms.strategy == "history"
        oldest_ms = self._ctx.now_ms() - _PREFETCH_MAX_AGE_MS
        if prefetch is None or prefetch.since_ms < oldest_ms or not likely:
            return None
        return prefetch._replace(attach_point=attach_point)

    def _merge(self, *, force: bool) -> None:
        """Apply the received events to the snapshot that was read, and report what is missing."""
        if self._snapshot is None:
            return
        reading, conversation = self._snapshot
        stuck, contested = [], False
        for event in self.recent.since(self._merge_from_ms):
            change = conversation.apply(event)
            contested |= change.contested
            if change.verdict is Verdict.AGAIN:
                stuck.append(event)
        if force:
            for event in stuck:
                conversation.force(event)
        if self._subscription is None:
            conversation.add_reason(_NOT_ATTACHED)
        self._handle(
            resync.Merged(
                forced=force,
                missing=frozenset() if force else frozenset(event.message_id for event in stuck),
                stale=contested
                or conversation.stale
                or self.recent.may_miss_backlog(reading.history),
                meets=self.recent.meets(reading.history),
            )
        )

    def _adopt(self, *, complete: bool) -> None:
        if self._snapshot is None:
            return
        reading, conversation = self._snapshot
        self._snapshot = None
        history = reading.history
        read_events = history.events[: len(history.events) - history.received]
        self.recent.complete(read_events, _complete_from_ms(reading))
        self._replace(conversation)
        if complete and reading.timeline.counts[Outcome.FOLDED.value]:
            self._noticed(self.conversation_id)

    def _continue(self, *, lost: bool) -> None:
        """Go on from the current state, with a reason, and the received events forced in."""
        conversation = self.conversation
        if conversation is None:
            return
        if lost:
            conversation.mark_lost()
        for event in self.recent.since(self._merge_from_ms):
            if conversation.apply(event).verdict is Verdict.AGAIN:
                conversation.force(event)
        conversation.add_reason(_NOT_ATTACHED if self._subscription is None else _NO_HISTORY)
        self._replace(conversation)

    def _replace(self, conversation: LiveConversation) -> None:
        self.conversation = conversation
        self.buffer.restart()
        self.wake()

    # -- the attachment ---------------------------------------------------------------------------

    async def _attach(self, pause_s: float) -> None:
        """Attach after a pause, and process messages until the attachment ends."""
        await asyncio.sleep(jittered(pause_s * 0.75, 1 / 3))
        self._channel_name = self._channel_name or await self._ctx.channel_of(self.conversation_id)
        try:
            async with self._ctx.channel.subscribe(
                self._channel_name, rewind=f"{self._terms.rewind_s}s", capacity=self._terms.capacity
            ) as subscription:
                await self._listen(subscription)
        except ChannelRefused:
            raise
        except ChannelUnavailable as error:
            _log.warning("a followed conversation is not attached: %s", error)
        finally:  # also if this task is cancelled
            self._subscription = self._attach_point = None
            self.recent.detached()
        self._handle(resync.Detached())

    async def _listen(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._begin_attachment(subscription.attach_serial)
        self._handle(resync.Attached())
        async for item in subscription:
            if isinstance(item, Discontinuity):
                _log.info("messages of a conversation may have been missed: %s", item.reason)
                self._begin_attachment(item.attach_serial)
                self._handle(resync.Interrupted())
            elif isinstance(item, BacklogEnd):
                self.recent.end_backlog(proved=item.proved)
            else:
                await self._receive(item)
                if subscription.idle:
                    self._wake_now()

    def _begin_attachment(self, attach_point: str | None) -> None:
        self._attach_point = attach_point
        self._attached_ms = self._last_message_ms = self._ctx.now_ms()
        self.recent.attached(self._attached_ms)
        self._chains = AppendChains()

    async def _receive(self, message: ChannelMessage) -> None:
        self._last_message_ms = self._ctx.now_ms()
        self.recent.count_delivery(message)
        event = decode(message, self._ctx.token_names)
        if event is None:
            self.counts["ignored"] += 1
        elif event.kind == "cancel":
            if event.message_id in self.cancels:
                self.cancels[event.message_id].set()
        elif event.replay_of is not None:
            started = self._replays.apply(event, self.buffer.number + 1, self.conversation)
            if started is not None:
                self.buffer.append(_kind_for_followers(event), event, event.message_id, started)
                self.wake()
        else:
            await self._receive_event(event)

    async def _receive_event(self, event: Event) -> None:
        """Cache *event* and offer it to the policy; an append becomes its message's whole content.

        An append without a chain means that its create or first update was not delivered: only a
        new attach delivers a full update again (docs/exactness.md, section 9).
        """
        whole = self._chains.whole(event)
        if event.edit is not None:
            self._ctx.note_edit(self._channel_name, event.timestamp_ms)
            self._noticed(self.conversation_id)
        if whole is not None:
            self.recent.append(whole)
            known = await look_up(lambda: self.conversation, self._ctx, whole)
            self._handle(resync.LiveEvent(whole) if known else resync.Gap(whole.message_id))
        elif self.conversation is not None and self.conversation.names_message_of(event):
            raise ChannelUnavailable("an append arrived without the message it belongs to")
        else:
            self.counts["ignored"] += 1

    def _emit(self, event: Event) -> None:
        if self.conversation is None:
            return
        change = self.conversation.apply(event)
        self.counts[change.verdict.value] += 1
        if event.unreadable and change.emitted:
            self.counts[Outcome.UNREADABLE.value] += 1
        if change.emitted:
            for emitted in change.emitted:
                self.buffer.append(_kind_for_followers(emitted), emitted, change.message_id)
                if emitted.kind in ("prompt", "start", "stop"):
                    self._noticed(self.conversation_id)
            self.wake()
        elif change.verdict is Verdict.AGAIN:
            self._handle(resync.Gap(event.message_id))
        elif change.contested:
            self.read_again()

    # -- tasks ------------------------------------------------------------------------------------

    async def _guard(self, work: Callable[[T], Awaitable[None]], argument: T) -> None:
        """Run *work*; if it fails, end the feed with the error, which every follower receives.

        It is called here, so that a task which is cancelled before it begins leaves no coroutine.
        """
        try:
            await work(argument)
        except RehydrateError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - any defect must reach the waiting followers
            _log.exception("following a conversation failed")
            self._fail(RehydrateError(f"following failed: {type(error).__name__}"))

    def _fail(self, error: RehydrateError) -> None:
        self.error = self.error or error
        self.wake()
        self._handle(resync.Stopped())
        self._attaching.cancel()
        self._resyncing.cancel()


def _complete_from_ms(reading: Reading) -> int | None:
    """From when on the merged events are complete, in ms; None if something was missed."""
    row = reading.stored.conversation
    if len(reading.reasons) > bool(row and row.holes):
        return None
    return reading.history.complete_from_ms


def _kind_for_followers(event: Event) -> str:
    return "token" if event.kind == "void" else event.kind

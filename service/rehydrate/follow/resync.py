"""Keeping what is followed whole: read, held against what is live, and read again if need be."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from rehydrate.core.client_view import Verdict
from rehydrate.core.fold import Outcome
from rehydrate.core.positions import HISTORY_LAG_MS
from rehydrate.core.timeline import Reason
from rehydrate.errors import RehydrateError, StoreUnavailable
from rehydrate.follow.event_buffer import EventBuffer
from rehydrate.follow.live_conversation import LiveConversation
from rehydrate.follow.recent_messages import RecentMessages, from_rewind
from rehydrate.hydrate.hydrate import MAX_LIMIT, Page, read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.context import Context
    from rehydrate.core.event import Event
    from rehydrate.hydrate.history_window import Prefetch
    from rehydrate.hydrate.hydrate import Reading
    from rehydrate.ports import Subscription

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 10.0
_PATIENCE_S = HISTORY_LAG_MS / 1000 + 0.5
"""How long a live event that does not fit waits for history to show what is missing before it."""

_YOUNG_MS = 15_000
"""How young a hint must be, so that not too much is read by it."""

_NOT_ATTACHED = Reason("history_unavailable", retry=True, detail="Ably does not let us attach")
_NO_HISTORY = Reason("history_unavailable", retry=True, detail="Ably did not answer in time")


class FollowOptions(NamedTuple):
    """How conversations are followed.

    ``strategy``: what comes before the live messages: ``rewind``, what the attach has rewound,
    where that reaches what is stored, and else history; ``history``: the other way round.
    ``grace_s``: how long a conversation that nobody follows any more stays attached.
    ``rewind_s``, ``rewind_most``: how far Ably rewinds, in time and in messages. ``capacity``: how
    many messages may wait.
    """

    strategy: Literal["rewind", "history"] = "rewind"
    grace_s: float = 30.0
    rewind_s: int = 10
    rewind_most: int = 100
    capacity: int = 10_000


class Resync:
    """What stands of one conversation, and what its followers are told; kept whole.

    Args:
        conversation_id: which.
        ctx: the adapters and limits.
        terms: how to follow.
        noticed: called with the conversation when there is something to record.
        prefetch: returns the history to start reading while the store answers, if it is known.

    Attributes:
        conversation: what stands; None until it was read.
        buffer: what followers are told.
        recent: what was heard, for whoever hydrates meanwhile.
        error: why nobody can follow.
        closed: whether nobody is to follow any more.
        listeners: what is called when there may be something to be told; it may not block.
    """

    def __init__(
        self,
        ctx: Context,
        conversation_id: str,
        *,
        terms: FollowOptions,
        noticed: Callable[[str], None],
        prefetch: Callable[[str], Prefetch | None],
    ) -> None:
        self.conversation_id = conversation_id
        self.conversation: LiveConversation | None = None
        self.buffer = EventBuffer()
        self.recent = RecentMessages(terms.rewind_s * 1000, terms.rewind_most)
        self.error: RehydrateError | None = None
        self.closed = False
        self.listeners: dict[Callable[[], None], None] = {}
        self._ctx = ctx
        self._terms = terms
        self._noticed = noticed
        self._prefetch = prefetch
        self._name = ""
        self._live: Subscription | None = None
        self._waking: asyncio.Handle | None = None
        self._following: asyncio.Task[None] | None = None
        self._mending: asyncio.Task[None] | None = None
        self._mending_ms = 0
        self._stuck: set[str | None] = set()
        self._reread = self._lost = self._by_rewind = self._makeshift = False

    def wake(self) -> None:
        """Let everybody look, once for all that is told by then."""
        if self.listeners and self._waking is None:
            self._waking = asyncio.get_running_loop().call_soon(self._wake)

    def _wake_now(self) -> None:
        """Let them look now, if they are to: nothing more is told at the moment."""
        if self._waking is not None:
            self._waking.cancel()
            self._wake()

    def _wake(self) -> None:
        self._waking = None
        for look in list(self.listeners):
            look()

    def read_again(self) -> None:
        """The store was changed without the channel."""
        self._reread = True
        self._mend()

    def _mend(self, *, anew: bool = False) -> None:
        """Read again, if that has not begun; *anew*: begin once more if it has."""
        if anew and self._mending is not None:
            self._mending.cancel()
            self._mending = None
        if self._mending is None and not self.closed and self.error is None:
            self._mending_ms = self._ctx.now_ms()
            self._mending = self._guarded(self._read_until_it_fits(), "reading a conversation")

    async def _read_until_it_fits(self) -> None:
        loop = asyncio.get_running_loop()
        began_s, attempt = loop.time(), 0
        while True:
            if attempt or self.conversation is not None:
                await asyncio.sleep(pause_s(attempt))
            by_rewind, self._reread = self._reread and not attempt, False
            attempt += 1
            try:
                reading = await self._read(by_rewind=by_rewind)
            except StoreUnavailable:
                if self.conversation is None:
                    raise
                _log.warning("following a conversation waits for the store")
                continue
            if self._adopt(reading, late=loop.time() - began_s > _PATIENCE_S):
                break
        self._mending = None
        if reading.timeline.counts[Outcome.FOLDED.value]:
            self._noticed(self.conversation_id)

    async def _read(self, *, by_rewind: bool) -> Reading:
        first = by_rewind and self._terms.strategy == "rewind"
        return await read(
            self._ctx,
            self.conversation_id,
            page=Page(MAX_LIMIT),
            prefetch=self._likely_prefetch(),
            source=partial(from_rewind, recent=self.recent, first=first),
        )

    def _likely_prefetch(self) -> Prefetch | None:
        """Return the history to read while the store answers, if it is likely to be needed."""
        prefetch = self._prefetch(self.conversation_id)
        if prefetch is None or prefetch.since_ms < self._ctx.now_ms() - _YOUNG_MS:
            return None
        return prefetch if self.recent.is_cut or self._terms.strategy == "history" else None

    def _adopt(self, reading: Reading, *, late: bool) -> bool:
        """Let what was read stand, if all that was held fits it; say whether nothing is missing.

        *late*: history had its time; what does not fit now leaves a gap. The first reading stands
        whatever it is, so that there is something to show.
        """
        conversation = LiveConversation(reading)
        stuck = [
            each for each in self._overlap() if conversation.apply(each).verdict is Verdict.AGAIN
        ]
        if late:
            for event in stuck:
                conversation.force(event)
            stuck = []
        if self._live is None:
            conversation.add_reason(_NOT_ATTACHED)
        history = reading.history
        meets = history.rewound or late or self.recent.meets(history.window)
        whole = meets and not (stuck or conversation.stale or self._reread)
        if whole or self.conversation is None:
            self._by_rewind = history.rewound
            before = [] if history.rewound else history.events
            self.recent.complete(before, _known_from_ms(reading))
            self._stand(conversation)
            self._stuck = {event.message_id for event in stuck}
            self._lost = self._makeshift = False
        elif late and not self._makeshift:
            self._make_do(self.conversation)
        return whole

    def _overlap(self) -> list[Event]:
        """What was heard lately: history may not show it yet."""
        return self.recent.since(self._mending_ms - self._terms.rewind_s * 1000)

    def _make_do(self, conversation: LiveConversation) -> None:
        """Ably does not say what is missing: go on from what stood, and say so."""
        self._makeshift = True
        if self._lost:
            conversation.mark_lost()
        for event in self._overlap():
            if conversation.apply(event).verdict is Verdict.AGAIN:
                conversation.force(event)
        conversation.add_reason(_NOT_ATTACHED if self._live is None else _NO_HISTORY)
        self._stand(conversation)

    def _stand(self, conversation: LiveConversation) -> None:
        self.conversation = conversation
        self._stuck.clear()
        self.buffer.restart()
        self.wake()

    def _guarded(self, act: Awaitable[None], name: str) -> asyncio.Task[None]:
        return asyncio.create_task(self._guard(act), name=name)

    async def _guard(self, act: Awaitable[None]) -> None:
        """Run *act*; if it cannot go on, nobody can follow, and everybody is told why."""
        try:
            await act
        except RehydrateError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a mistake of ours must end what waits for it
            _log.exception("following a conversation failed")
            self._fail(RehydrateError(f"following failed: {type(error).__name__}"))

    def _fail(self, error: RehydrateError) -> None:
        self.error = self.error or error
        self.wake()
        current = asyncio.current_task()
        for task in (self._following, self._mending):
            if task is not None and task is not current:
                task.cancel()


def _known_from_ms(reading: Reading) -> int | None:
    """From when on all is known that was said; None if something was missed."""
    row = reading.stored.conversation
    if len(reading.reasons) > bool(row and row.holes):
        return None
    return reading.history.complete_from_ms


def pause_s(attempt: int) -> float:
    """How long to wait: doubling up to a cap, and never in step with others."""
    whole_s = min(_FIRST_PAUSE_S * 2 ** min(attempt, 16), _LONGEST_PAUSE_S)
    return random.uniform(whole_s / 2, whole_s)  # noqa: S311 - jitter

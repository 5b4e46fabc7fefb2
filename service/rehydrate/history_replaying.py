"""The part of the library's front door through which responses are replayed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rehydrate.core.replay.requests import Asker, ReplayTerms
from rehydrate.replay.requests import ReplayRequests
from rehydrate.replay.validation import Targets
from rehydrate.replay.worker import ReplayOptions, ReplayWorker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.context import Context
    from rehydrate.core.positions import Cursor
    from rehydrate.core.replay.requests import AuditEntry, Mode, Replay
    from rehydrate.postgres.store import PostgresStore
    from rehydrate.replay.requests import CheckedRequest
    from rehydrate.settings import Settings

CANCEL_WITHIN_S = 2.0
"""How long whoever cancels waits to see that it has ended."""

_LOOK_EVERY_S = 0.05
_LIBRARY = Asker("python")


def desk_and_jobs(
    ctx: Context,
    *,
    settings: Settings,
    record: Callable[[str], Awaitable[object]],
    noticed: Callable[[str], None],
    observe: Callable[[str, str, int], None],
) -> tuple[ReplayRequests, ReplayWorker]:
    """Who takes requests for replays, and who runs them."""
    agents = settings.agent_client_ids
    jobs = ReplayWorker(
        ctx,
        rules=ReplayOptions(
            settings.replays_at_once, settings.replays_per_channel, agents[0] if agents else None
        ),
        noticed=noticed,
        ended=lambda state: observe("replay", state, 1),
    )
    targets = Targets(settings.replay_channels, settings.publish_rate)
    desk = ReplayRequests(ctx, targets=targets, record=record, wake=jobs.wake)
    return desk, jobs


class Replaying:
    """Who replays responses; a base of `rehydrate.History`."""

    _store: PostgresStore
    _desk: ReplayRequests

    async def replay(
        self,
        conversation_id: str,
        response_id: str,
        *,
        mode: Mode = "stream",
        speed: float = 1.0,
        channel: str | None = None,
        from_seq: int = 0,
        max_rate: float = 0.0,
        asker: Asker = _LIBRARY,
        idempotency_key: str | None = None,
    ) -> Replay:
        """Publish a stored response again; returns once that is queued, and some process runs it.

        *mode*: ``stream`` as a stream of its own, which followers see live and which is in no
        answer; ``repair`` as the text that every reader of it has then. *speed*: times the original
        pace; 0: as fast as *max_rate* allows. *channel*: where; the conversation's own without it.
        *max_rate*: channel messages a second; 0: at most 25 on the conversation's own channel. The
        same *idempotency_key* with the same request gives the replay that it began.

        Raises:
            BadParameter: an argument is outside its syntax or range.
            NotFound: the conversation has no such response.
            Conflict: the response has not ended, or the key was used for another request.
            Forbidden: replays may not go to that channel.
            TooLarge: a part of the response does not fit a channel message.
            Busy: too many replays wait.
        """
        terms = ReplayTerms(mode, speed, channel, from_seq, max_rate)
        return await self._desk.ask(
            conversation_id, response_id, terms, asker=asker, key=idempotency_key
        )

    async def replay_dry_run(
        self,
        conversation_id: str,
        response_id: str,
        terms: ReplayTerms,
        *,
        asker: Asker = _LIBRARY,
    ) -> CheckedRequest:
        """What `replay` would publish on *terms*, and when; nothing is published.

        Raises:
            RehydrateError: as `replay` does.
        """
        return await self._desk.dry_run(conversation_id, response_id, terms, asker=asker)

    async def find_replay(self, replay_id: str) -> Replay:
        """A replay, as it stands.

        Raises:
            NotFound: there is none with that id.
        """
        return await self._desk.find(replay_id)

    async def cancel_replay(self, replay_id: str, *, asker: Asker = _LIBRARY) -> Replay:
        """End a replay, and its stream on the channel with it; again changes nothing.

        It waits for that, but not for long: the answer may say that it still runs.

        Raises:
            NotFound: there is none with that id.
        """
        replay = await self._desk.cancel(replay_id, asker=asker)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + CANCEL_WITHIN_S
        while not replay.ended and loop.time() < deadline_s:
            await asyncio.sleep(_LOOK_EVERY_S)
            replay = await self._desk.find(replay_id)
        return replay

    async def replays(
        self, *, limit: int = 50, before: Cursor | None = None
    ) -> tuple[list[Replay], Cursor | None]:
        """Replays, the newest first, and the cursor of the next page."""
        return await self._store.replays(limit=limit, before=before)

    async def audit(
        self, *, limit: int = 50, before: Cursor | None = None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """What admins did, and who tried to, the newest first; the cursor of the next page."""
        return await self._store.audit(limit=limit, before=before)

    async def note(self, entry: AuditEntry) -> None:
        """Keep *entry* in the audit, for good."""
        await self._store.note(entry)

"""What admins do with replays: request, find, cancel and list them, and read the audit."""

from __future__ import annotations

import asyncio

from rehydrate.context import Context
from rehydrate.core.positions import Cursor
from rehydrate.core.replay.schedule import AuditEntry, Mode, Replay, ReplayTerms, Requester
from rehydrate.replay.requests import CheckedRequest, ReplayRequests
from rehydrate.replay.worker import ReplayWorker

CANCEL_WITHIN_S = 2.0
"""How long a cancel waits for the replay to end."""

LIBRARY = Requester("python")
"""Who requests a replay that the application itself does not attribute to a person."""

_POLL_S = 0.05


class ReplayAdmin:
    """The use cases behind the admin routes.

    Args:
        ctx: the adapters and limits.
        requests: validates requests and records them.
        worker: runs the replays of this process.
    """

    def __init__(self, ctx: Context, requests: ReplayRequests, worker: ReplayWorker) -> None:
        self._ctx = ctx
        self._requests = requests
        self._worker = worker

    async def replay(
        self,
        conversation_id: str,
        response_id: str,
        *,
        mode: Mode,
        speed: float,
        channel: str | None,
        from_seq: int,
        max_rate: float,
        asker: Requester,
        idempotency_key: str | None,
    ) -> Replay:
        """Queue a replay; see `rehydrate.History.replay`."""
        terms = ReplayTerms(mode, speed, channel, from_seq, max_rate)
        return await self._requests.ask(
            conversation_id, response_id, terms, asker=asker, key=idempotency_key
        )

    async def replay_dry_run(
        self,
        conversation_id: str,
        response_id: str,
        terms: ReplayTerms,
        *,
        asker: Requester = LIBRARY,
    ) -> CheckedRequest:
        """Return what `replay` would publish on *terms*, and when; publish nothing.

        Raises:
            RehydrateError: as `replay` does.
        """
        return await self._requests.dry_run(conversation_id, response_id, terms, asker=asker)

    async def find_replay(self, replay_id: str) -> Replay:
        """Return a replay with its progress.

        Raises:
            NotFound: no replay has that id.
        """
        return await self._requests.find(replay_id)

    async def cancel_replay(self, replay_id: str, *, asker: Requester = LIBRARY) -> Replay:
        """Cancel a replay, and wait up to `CANCEL_WITHIN_S` for it to end; idempotent.

        Raises:
            NotFound: no replay has that id.
        """
        replay = await self._requests.cancel(replay_id, asker=asker)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + CANCEL_WITHIN_S
        while not replay.ended and loop.time() < deadline_s:
            await asyncio.sleep(_POLL_S)
            replay = await self._requests.find(replay_id)
        return replay

    async def stop_stream(self, replay: Replay) -> None:
        """Publish the stop of *replay* without the store, which does not answer.

        Whichever process continues the replay later finds that stop, and ends it as cancelled.
        """
        await self._worker.stop_stream(replay)

    async def replays(
        self, *, limit: int = 50, before: Cursor | None = None
    ) -> tuple[list[Replay], Cursor | None]:
        """Return replays, the newest first, and the cursor of the next page."""
        return await self._ctx.store.replays(limit=limit, before=before)

    async def audit(
        self, *, limit: int = 50, before: Cursor | None = None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """Return audit entries, the newest first, and the cursor of the next page."""
        return await self._ctx.store.audit(limit=limit, before=before)

    async def note(self, entry: AuditEntry) -> None:
        """Append *entry* to the audit, permanently."""
        await self._ctx.store.note(entry)

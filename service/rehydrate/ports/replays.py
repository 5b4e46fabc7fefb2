"""What replaying needs of a store, beside the responses: the replays, and what admins did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rehydrate.core.positions import Cursor
    from rehydrate.core.replay.requests import AuditEntry, Replay


class ReplayStore(Protocol):
    """The replays, and what admins did. Every call may raise `StoreUnavailable`."""

    async def add_replay(
        self, replay: Replay, *, request: bytes, key: str | None, note: AuditEntry
    ) -> Replay:
        """Queue *replay*, or find the one that was asked for by the same *key* and *request*.

        Raises:
            Conflict: the key was used for another request.
            Busy: too many replays wait.
        """
        ...

    async def find_replay(self, replay_id: str) -> Replay | None:
        """The replay with that id."""
        ...

    async def replays(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Replay], Cursor | None]:
        """Replays, the newest first, and the cursor of the next page."""
        ...

    async def claim_replay(
        self, holder: str, lease_s: float, *, at_once: int, per_channel: int
    ) -> Replay | None:
        """Take the oldest replay that nobody holds, unless as many run as may; None if none."""
        ...

    async def keep_replay(self, replay: Replay, holder: str, lease_s: float) -> bool | None:
        """Note how far *replay* is, and keep it; whether it is to be cancelled. None: it is lost."""
        ...

    async def release_replay(self, replay: Replay, holder: str) -> None:
        """Give *replay* back, for another process to go on with at once."""
        ...

    async def end_replay(self, replay: Replay, holder: str, note: AuditEntry) -> bool:
        """Note how *replay* ended; False if it was not *holder*'s any more."""
        ...

    async def cancel_replay(self, replay_id: str, note: AuditEntry) -> bool:
        """Ask that a replay end; False if that changes nothing."""
        ...

    async def note(self, entry: AuditEntry) -> None:
        """Keep *entry*, for good."""
        ...

    async def audit(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """Acts of admins, the newest first, and the cursor of the next page."""
        ...

"""The store port for replays, and for the audit of what admins did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from rehydrate.core.positions import Cursor
    from rehydrate.core.replay.schedule import AuditEntry, Replay

ReplayOrder = Literal["play", "cancel", "erased"]
"""What the holder of a replay has to do: go on; end it; end it without publishing any more text."""


class ReplayStore(Protocol):
    """Requested replays, and the audit. Every call may raise `StoreUnavailable`."""

    async def add_replay(
        self, replay: Replay, *, request: bytes, key: str | None, note: AuditEntry
    ) -> Replay:
        """Queue *replay*, or return the one that the same *key* and *request* queued before.

        Raises:
            Conflict: the key was used for another request.
            Busy: too many replays wait.
        """
        ...

    async def find_replay(self, replay_id: str) -> Replay | None:
        """Return the replay with that id; None if there is none."""
        ...

    async def replays(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Replay], Cursor | None]:
        """Return replays, the newest first, and the cursor of the next page."""
        ...

    async def cancel_replay(self, replay_id: str, note: AuditEntry) -> bool:
        """Request that a replay end; return False if it has ended, or was cancelled before."""
        ...

    async def note(self, entry: AuditEntry) -> None:
        """Store *entry* in the audit, permanently."""
        ...

    async def audit(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """Return audit entries, the newest first, and the cursor of the next page."""
        ...


class ReplayQueue(Protocol):
    """The replays that wait for a worker, or run in one. Every call may raise `StoreUnavailable`."""

    async def claim_replay(
        self, holder: str, lease_s: float, *, at_once: int, per_channel: int
    ) -> Replay | None:
        """Take the oldest replay without a holder; None if there is none, or enough run."""
        ...

    async def keep_replay(self, replay: Replay, holder: str, lease_s: float) -> ReplayOrder | None:
        """Store the progress of *replay* and renew its lease.

        Returns what *holder* has to do; None if it has lost the replay.
        """
        ...

    async def release_replay(self, replay: Replay, holder: str, *, begun: bool) -> None:
        """Give *replay* up, so that another process can continue it at once.

        That is no failed attempt. *begun*: something of it may have been published, so that the
        next attempt does not count as the first.
        """
        ...

    async def end_replay(self, replay: Replay, holder: str, note: AuditEntry) -> bool:
        """Store how *replay* ended; return False if *holder* had lost it."""
        ...

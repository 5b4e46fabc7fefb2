"""The gate of the admin paths: who comes through, and a line for whoever tried."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from rehydrate.api.auth.access import Access, bearer
from rehydrate.core.replay.requests import Asker, AuditEntry
from rehydrate.errors import Forbidden, StoreUnavailable

if TYPE_CHECKING:
    from starlette.requests import Request

_log = logging.getLogger(__name__)

NOTED_AT_ONCE, NOTED_PER_S = 200, 2.0
"""Refusals that are kept: nobody fills the audit by being refused."""

_LONGEST = 256


class AuditLog(Protocol):
    """The audit."""

    async def note(self, entry: AuditEntry) -> None:
        """Keep *entry*, for good."""
        ...


class AdminGuard:
    """Admits admins, and keeps in the audit who else was known and came.

    Strangers (401) are not kept: anybody can be one, as often as he likes.

    Args:
        access: who may do what.
        book: where it is kept; without one nothing is.
    """

    def __init__(self, access: Access, book: AuditLog | None) -> None:
        self._access = access
        self._book = book
        self._left = float(NOTED_AT_ONCE)
        self._counted_s = time.monotonic()

    async def __call__(self, request: Request) -> Asker:
        """Who asks, if that is an admin.

        Raises:
            Unauthorized: no proof was shown, or nobody's.
            Forbidden: it is a reader's or a backend's; that is kept.
        """
        token = bearer(request)
        try:
            return Asker(self._access.admin(token), _address(request))
        except Forbidden:
            if self._book is not None:
                await self._keep(self._book, request, self._access.named(token or ""))
            raise

    async def _keep(self, book: AuditLog, request: Request, actor: str) -> None:
        now_s = time.monotonic()
        grown = self._left + (now_s - self._counted_s) * NOTED_PER_S
        self._left, self._counted_s = min(grown, NOTED_AT_ONCE), now_s
        if self._left < 1:
            _log.warning("more is refused on admin paths than is kept")
            return
        self._left -= 1
        route = getattr(request.scope.get("route"), "path", "?")
        conversation_id = str(request.path_params.get("conversation_id", ""))[:_LONGEST]
        clean = conversation_id if conversation_id.isprintable() else ascii(conversation_id)
        action, address = f"{request.method} {route}", _address(request)
        entry = AuditEntry(actor, action, "refused: forbidden", clean, None, address)
        try:
            await book.note(entry)
        except StoreUnavailable:
            _log.warning("a refusal on an admin path could not be kept")


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None

"""Authorization of the admin routes; refused attempts are recorded in the audit."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from starlette.requests import Request

from rehydrate.api.auth.access import Access, bearer
from rehydrate.core.replay.schedule import AuditEntry, Requester
from rehydrate.errors import Forbidden, StoreUnavailable

_log = logging.getLogger(__name__)

_ASKER = "rehydrate.asker"

REFUSALS_BURST, REFUSALS_PER_S = 200, 2.0
"""Token bucket of recorded refusals: repeated attempts must not fill the audit."""

_MAX_ID_LENGTH = 256


class AuditLog(Protocol):
    """The audit of admin actions."""

    async def note(self, entry: AuditEntry) -> None:
        """Append *entry* permanently."""
        ...


class AdminGuard:
    """Admits admins; records attempts by readers and backends in the audit.

    Requests without valid credentials (401) are not recorded: their number is unlimited.

    Args:
        access: authorizes the request.
        audit: where refusals are recorded; None: they are not.
    """

    def __init__(self, access: Access, audit: AuditLog | None) -> None:
        self._access = access
        self._audit = audit
        self._tokens = float(REFUSALS_BURST)
        self._refilled_s = time.monotonic()

    async def __call__(self, request: Request) -> Requester:
        """Return the admin who sent *request*, and let later dependencies read it by `asker_of`.

        Raises:
            Unauthorized: credentials are missing or unknown.
            Forbidden: they belong to a reader or a backend; the refusal is recorded.
        """
        token = bearer(request)
        try:
            asker = Requester(self._access.admin(token), _address(request))
        except Forbidden:
            if self._audit is not None:
                await self._record_refusal(self._audit, request, self._access.named(token or ""))
            raise
        request.scope[_ASKER] = asker
        return asker

    async def _record_refusal(self, audit: AuditLog, request: Request, actor: str) -> None:
        now_s = time.monotonic()
        refilled = self._tokens + (now_s - self._refilled_s) * REFUSALS_PER_S
        self._tokens, self._refilled_s = min(refilled, REFUSALS_BURST), now_s
        if self._tokens < 1:
            _log.warning("too many refusals on admin routes: not all are recorded in the audit")
            return
        self._tokens -= 1
        route = getattr(request.scope.get("route"), "path", "?")
        conversation_id = _storable(str(request.path_params.get("conversation_id", "")))
        action, address = f"{request.method} {route}", _address(request)
        outcome = "refused: forbidden"
        entry = AuditEntry(_storable(actor), action, outcome, conversation_id, None, address)
        try:
            await audit.note(entry)
        except StoreUnavailable:
            _log.warning("could not record a refusal on an admin route: the store is unavailable")


def _storable(text: str) -> str:
    """Return *text*, which a caller chose, as text of limited length that the audit can store."""
    text = text[:_MAX_ID_LENGTH]
    return text if text.isprintable() else ascii(text)


def asker_of(request: Request) -> Requester:
    """Return the admin whom the `AdminGuard` of the route has admitted."""
    asker: Requester = request.scope[_ASKER]
    return asker


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None

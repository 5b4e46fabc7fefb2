"""The routes of people who look: conversations found and listed, a message's timeline, health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api import answers, parameters
from rehydrate.api.concurrency_limit import ConcurrencyLimit
from rehydrate.api.inspection_schemas import (
    HealthOut,
    ListedsOut,
    TimelineOut,
    health_body,
    listed_body,
    timeline_body,
)
from rehydrate.api.openapi import ADMINS, problems, secured
from rehydrate.api.parameters import described
from rehydrate.api.routing import Route
from rehydrate.core.json import dump
from rehydrate.core.positions import encode_cursor

if TYPE_CHECKING:
    from rehydrate.core.positions import Cursor
    from rehydrate.hydrate.inspect import Inspected, ServiceHealth
    from rehydrate.ports import Listed

AT_ONCE = 32
"""Looks that may be under way at once; one more is told 429: readers go before."""


class Inspector(Protocol):
    """What people may look at. Each call may raise `StoreUnavailable`."""

    async def listed(
        self,
        *,
        limit: int,
        before: Cursor | None,
        query: str | None,
        streaming: bool,
    ) -> tuple[list[Listed], Cursor | None]:
        """Conversations that fit, and the cursor of the next page."""
        ...

    async def inspect(self, conversation_id: str, message_id: str) -> Inspected:
        """One message, and what it stands on.

        Raises:
            NotFound: there is none with that id.
        """
        ...

    async def health(self) -> ServiceHealth:
        """What the process stands on."""
        ...


def inspection_router(
    inspector: Inspector, admit: Callable[[Request], Awaitable[object]]
) -> APIRouter:
    """The routes under ``/v1/admin`` that change nothing.

    Args:
        inspector: what is looked at.
        admit: returns if the sender of a request is an admin, raises if not.
    """
    routes = _Inspection(inspector, admit)
    made = APIRouter(route_class=Route, tags=["admin"])
    for path, endpoint, model, summary, says, names, statuses in (
        (
            "/v1/admin/conversations",
            routes.list,
            ListedsOut,
            "Find conversations",
            "The newest first, each with what streams in it. With `query` or `streaming`, by id.",
            ("query", "streaming", "limit", "before"),
            (401, 403, 422, 429, 500, 503),
        ),
        (
            "/v1/admin/conversations/{conversation_id}/messages/{message_id}/timeline",
            routes.timeline,
            TimelineOut,
            "The timeline of a message",
            "When its pieces came, from database or history; its publisher, and its lease.",
            ("conversation_id", "message_id"),
            (401, 403, 404, 422, 429, 500, 503),
        ),
        (
            "/v1/admin/health",
            routes.health,
            HealthOut,
            "What this process stands on",
            "Database, channel, recorder. It answers 200 also where it says that one fails.",
            (),
            (401, 403, 429, 500),
        ),
    ):
        made.add_api_route(
            path,
            endpoint,
            response_class=Response,
            summary=summary,
            description=says,
            responses={
                200: {"model": model, "content": {answers.JSON: {}}},
                **problems(*statuses),
            },
            openapi_extra={**secured(ADMINS), **described(*names)},
        )
    return made


class _Inspection:
    """The endpoints, with what they share."""

    def __init__(self, inspector: Inspector, admit: Callable[[Request], Awaitable[object]]) -> None:
        self._inspector = inspector
        self._admit = admit
        self._looking = ConcurrencyLimit(AT_ONCE, "looks")

    async def list(self, request: Request) -> Response:
        await self._admit(request)
        with self._looking:
            found, older = await self._inspector.listed(
                limit=parameters.limit(request),
                before=parameters.before(request),
                query=parameters.query(request),
                streaming=parameters.streaming(request),
            )
        listed: list[dict[str, Any]] = [listed_body(each) for each in found]
        return answers.live(
            dump({"conversations": listed, "older": older and encode_cursor(older)})
        )

    async def timeline(self, request: Request) -> Response:
        await self._admit(request)
        where = (parameters.conversation_id(request), parameters.message_id(request))
        with self._looking:
            return answers.live(dump(timeline_body(await self._inspector.inspect(*where))))

    async def health(self, request: Request) -> Response:
        await self._admit(request)
        with self._looking:
            return answers.live(dump(health_body(await self._inspector.health())))

"""Read-only admin routes for the inspector: find conversations, message timelines, health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api import answers
from rehydrate.api.answers import Route
from rehydrate.api.inspection_schemas import (
    HealthOut,
    ListedsOut,
    TimelineOut,
    health_body,
    listed_body,
    timeline_body,
)
from rehydrate.api.openapi import ADMINS, answering
from rehydrate.api.parameters import (
    ConversationId,
    MessageId,
    Paging,
    SearchText,
    StreamingOnly,
)
from rehydrate.core.json import dump
from rehydrate.core.positions import encode_cursor
from rehydrate.limits import AnswerBytes, ConcurrencyLimit
from rehydrate.maintenance.inspector import ServiceInspector

AT_ONCE = 32
"""Maximum number of concurrent inspection requests (429 beyond it): readers have priority."""


def inspection_router(
    inspector: ServiceInspector,
    admit: Callable[[Request], Awaitable[object]],
    sizes: AnswerBytes,
) -> APIRouter:
    """Return the read-only routes under ``/v1/admin``.

    Args:
        inspector: the use cases behind the routes.
        admit: returns if the request was sent by an admin, raises if not.
        sizes: counts the bytes of answers.
    """

    async def admitted(request: Request) -> None:
        await admit(request)

    routes = _Inspection(inspector, sizes)
    made = APIRouter(route_class=Route, tags=["admin"], dependencies=[Depends(admitted)])
    for path, endpoint, model, summary, text, statuses in (
        (
            "/v1/admin/conversations",
            routes.list,
            ListedsOut,
            "Find conversations",
            "Newest first, with the number of open responses; with a filter, ordered by id.",
            (422, 429, 503),
        ),
        (
            "/v1/admin/conversations/{conversation_id}/messages/{message_id}/timeline",
            routes.timeline,
            TimelineOut,
            "Get the timeline of a message",
            "When its chunks arrived, from database or history; its publisher and lease.",
            (404, 422, 429, 503),
        ),
        (
            "/v1/admin/health",
            routes.health,
            HealthOut,
            "Get the health of this process",
            "Database, channel and recorder. The status is 200 even if one of them has failed.",
            (429,),
        ),
    ):
        made.add_api_route(
            path,
            endpoint,
            summary=summary,
            description=text,
            **answering(model, *statuses, by=ADMINS),
        )
    return made


class _Inspection:
    """The endpoints and their shared state."""

    def __init__(self, inspector: ServiceInspector, sizes: AnswerBytes) -> None:
        self._inspector = inspector
        self._sizes = sizes
        self._limit = ConcurrencyLimit(AT_ONCE, "inspection requests")

    async def list(
        self, page: Paging, query: SearchText = None, streaming: StreamingOnly = False
    ) -> Response:
        with self._limit:
            found, older = await self._inspector.listed(
                limit=page.limit, before=page.before, query=query, streaming=streaming
            )
        listed: list[dict[str, Any]] = [listed_body(each) for each in found]
        body = dump({"conversations": listed, "older": older and encode_cursor(older)})
        with self._sizes.claim() as claim:
            return answers.live(body, claim=claim)

    async def timeline(self, conversation_id: ConversationId, message_id: MessageId) -> Response:
        with self._limit, self._sizes.claim() as claim:
            inspected = await self._inspector.inspect(conversation_id, message_id)
            return answers.live(dump(timeline_body(inspected)), claim=claim)

    async def health(self) -> Response:
        with self._limit:
            return answers.live(dump(health_body(await self._inspector.health())))

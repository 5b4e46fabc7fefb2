"""Admin routes: start, watch and cancel replays; read the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header
from pydantic import WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api import answers
from rehydrate.api.answers import Route
from rehydrate.api.auth.admin_guard import AdminGuard, asker_of
from rehydrate.api.openapi import ADMINS, answering, inlined
from rehydrate.api.parameters import ConversationId, Paging, ReplayId, ResponseId, read_json
from rehydrate.api.replay_schemas import (
    AuditsOut,
    DryRunOut,
    ReplayIn,
    ReplayOut,
    ReplaysOut,
    audit_body,
    dry_run_body,
    replay_asked,
)
from rehydrate.core.json import dump
from rehydrate.core.positions import encode_cursor
from rehydrate.core.replay.schedule import Requester
from rehydrate.limits import AnswerBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rehydrate.core.positions import Cursor
    from rehydrate.core.replay.schedule import Replay
    from rehydrate.replay.admin import ReplayAdmin

BODY_BYTES = 64 * 1024

_REPLAY = "/v1/admin/replays/{replay_id}"


CurrentAdmin = Annotated[Requester, Depends(asker_of)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A repeated request with the same key returns the replay that the first one "
        "started.",
    ),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 256}),
]


async def _replay_in(request: Request) -> ReplayIn:
    """Read and validate the body; an empty body is the same as ``{}``."""
    empty = request.headers.get("content-length", "0") == "0"
    if empty and "transfer-encoding" not in request.headers:
        return replay_asked({})
    return replay_asked(await read_json(request, BODY_BYTES))


ReplayBody = Annotated[ReplayIn, Depends(_replay_in)]


def admin_router(service: ReplayAdmin, guard: AdminGuard, sizes: AnswerBytes) -> APIRouter:
    """Return the routes under ``/v1/admin`` for replays and the audit.

    Args:
        service: the use cases behind the routes.
        guard: admits admins and refuses everybody else.
        sizes: counts the bytes of answers.
    """

    async def admit(request: Request) -> None:
        await guard(request)

    routes = _Admin(service, sizes)
    made = APIRouter(route_class=Route, tags=["admin"], dependencies=[Depends(admit)])
    _add_start(made, routes)
    _add_watching(made, routes)
    return made


def _add_start(made: APIRouter, routes: _Admin) -> None:
    example = {"mode": "stream", "speed": 2.0, "dry_run": False}
    body = {"schema": inlined(ReplayIn.model_json_schema()), "example": example}
    described = answering(
        ReplayOut,
        *(404, 408, 409, 413, 415, 422, 429, 502, 503),
        by=ADMINS,
        status=202,
        requestBody={"required": False, "content": {answers.JSON: body}},
    )
    described["responses"][200] = {"model": DryRunOut, "content": {answers.JSON: {}}}
    described["responses"][202]["headers"] = {
        "Location": {
            "description": "The replay, relative to the path of the request.",
            "schema": {"type": "string", "format": "uri-reference"},
        }
    }
    made.add_api_route(
        "/v1/admin/conversations/{conversation_id}/responses/{response_id}/replay",
        routes.start,
        methods=["POST"],
        summary="Replay a response",
        description="Publishes a stored response again: as a new stream at the original or another "
        "pace, or as a repair that overwrites what live readers show. The replay is queued, and one "
        "of the service's processes runs it. A dry run returns 200 and the schedule.",
        **described,
    )


_CANCELLING = (
    "Ends its stream on the channel as cancelled. Idempotent. The call waits up to 2 s for the end; "
    "the returned state may still be running."
)


def _add_watching(made: APIRouter, routes: _Admin) -> None:
    for method, endpoint, summary, text in (
        ("GET", routes.find, "Get a replay", "Its progress, and how it ended."),
        ("DELETE", routes.cancel, "Cancel a replay", _CANCELLING),
    ):
        made.add_api_route(
            _REPLAY,
            endpoint,
            methods=[method],
            summary=summary,
            description=text,
            **answering(ReplayOut, 404, 422, 503, by=ADMINS),
        )
    for path, listing, model, summary in (
        ("/v1/admin/replays", routes.list, ReplaysOut, "List replays"),
        ("/v1/admin/audit", routes.audit, AuditsOut, "List admin actions"),
    ):
        made.add_api_route(
            path,
            listing,
            summary=summary,
            description="Newest first, in pages.",
            **answering(model, 422, 503, by=ADMINS),
        )


class _Admin:
    """The endpoints and their shared state."""

    def __init__(self, service: ReplayAdmin, sizes: AnswerBytes) -> None:
        self._service = service
        self._sizes = sizes

    async def start(
        self,
        *,
        conversation_id: ConversationId,
        response_id: ResponseId,
        asker: CurrentAdmin,
        given: ReplayBody,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        where, terms = (conversation_id, response_id), given.terms()
        if given.dry_run:
            asked = await self._service.replay_dry_run(*where, terms, asker=asker)
            return answers.live(dump(dry_run_body(asked)))
        replay = await self._service.replay(*where, terms, asker=asker, key=idempotency_key)
        answer = answers.live(dump(replay.body()), status=202)
        answer.headers["Location"] = _location(replay.id)
        return answer

    async def find(self, replay_id: ReplayId) -> Response:
        return _replay_answer(await self._service.find_replay(replay_id))

    async def cancel(self, replay_id: ReplayId, asker: CurrentAdmin) -> Response:
        return _replay_answer(await self._service.cancel_replay(replay_id, asker=asker))

    async def list(self, page: Paging) -> Response:
        found, older = await self._service.replays(limit=page.limit, before=page.before)
        return self._page_answer("replays", [each.body() for each in found], older)

    async def audit(self, page: Paging) -> Response:
        found, older = await self._service.audit(limit=page.limit, before=page.before)
        return self._page_answer("audit", [audit_body(each) for each in found], older)

    def _page_answer(
        self, name: str, found: Sequence[dict[str, Any]], older: Cursor | None
    ) -> Response:
        body = dump({name: found, "older": older and encode_cursor(older)})
        with self._sizes.claim() as claim:
            return answers.live(body, claim=claim)


def _replay_answer(replay: Replay) -> Response:
    return answers.live(dump(replay.body()))


def _location(replay_id: str) -> str:
    """Return the URL of a replay, relative to the request, so that it is valid below a proxy's prefix."""
    return f"../../../../replays/{quote(replay_id, safe='')}"

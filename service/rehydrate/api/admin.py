"""The routes of admins: start a replay, watch and cancel it, and the audit of all that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api import answers, parameters
from rehydrate.api.auth.admin_guard import AdminGuard
from rehydrate.api.bodies import read_json
from rehydrate.api.openapi import ADMINS, inlined, problems, secured
from rehydrate.api.parameters import described
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
from rehydrate.api.routing import Route
from rehydrate.core.json import dump
from rehydrate.core.positions import encode_cursor

if TYPE_CHECKING:
    from rehydrate.core.positions import Cursor
    from rehydrate.core.replay.requests import Asker, AuditEntry, Mode, Replay, ReplayTerms
    from rehydrate.replay.requests import Asked

BODY_BYTES = 64 * 1024

_REPLAY = "/v1/admin/replays/{replay_id}"


class AdminService(Protocol):
    """What admins may have done. Each call may raise `StoreUnavailable`."""

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
        asker: Asker,
        idempotency_key: str | None,
    ) -> Replay:
        """Queue a replay; see `rehydrate.History`."""
        ...

    async def replay_dry_run(
        self, conversation_id: str, response_id: str, terms: ReplayTerms, *, asker: Asker
    ) -> Asked:
        """What `replay` would publish."""
        ...

    async def find_replay(self, replay_id: str) -> Replay:
        """A replay, as it stands."""
        ...

    async def cancel_replay(self, replay_id: str, *, asker: Asker) -> Replay:
        """End a replay; again changes nothing."""
        ...

    async def replays(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Replay], Cursor | None]:
        """Replays, the newest first, and the cursor of the next page."""
        ...

    async def audit(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """What admins did, the newest first, and the cursor of the next page."""
        ...

    async def note(self, entry: AuditEntry) -> None:
        """Keep *entry* in the audit."""
        ...


def admin_router(service: AdminService, gate: AdminGuard) -> APIRouter:
    """The routes under ``/v1/admin`` for replays and the audit.

    Args:
        service: what does it.
        gate: who may.
    """
    routes = _Admin(service, gate)
    made = APIRouter(route_class=Route, tags=["admin"])
    _add_start(made, routes)
    _add_watching(made, routes)
    return made


def _add_start(made: APIRouter, routes: _Admin) -> None:
    made.add_api_route(
        "/v1/admin/conversations/{conversation_id}/responses/{response_id}/replay",
        routes.start,
        methods=["POST"],
        status_code=202,
        response_class=Response,
        summary="Replay a response",
        description="Publishes a stored response again: as a stream of its own at its original "
        "pace or another, or as the repair of what readers see. It is queued, and some process "
        "runs it. A dry run answers 200 with the schedule.",
        responses={
            200: {"model": DryRunOut, "content": {answers.JSON: {}}},
            202: {
                "model": ReplayOut,
                "content": {answers.JSON: {}},
                "headers": {"Location": {"schema": {"type": "string"}}},
            },
            **problems(401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503),
        },
        openapi_extra={
            **secured(ADMINS),
            "parameters": [
                *described("conversation_id", "response_id")["parameters"],
                _IDEMPOTENCY_KEY,
            ],
            "requestBody": {
                "required": False,
                "content": {
                    "application/json": {
                        "schema": inlined(ReplayIn.model_json_schema()),
                        "example": {"mode": "stream", "speed": 2.0, "dry_run": False},
                    }
                },
            },
        },
    )


_CANCELLING = (
    "Its stream ends on the channel, as cancelled; again changes nothing. The answer waits 2 s for "
    "that, and may say that the replay still runs."
)

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request gives the replay that it began.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
}


def _add_watching(made: APIRouter, routes: _Admin) -> None:
    for method, endpoint, summary, says in (
        ("GET", routes.find, "A replay, as it stands", "How far it is, and how it ended."),
        (
            "DELETE",
            routes.cancel,
            "Cancel a replay",
            _CANCELLING,
        ),
    ):
        made.add_api_route(
            _REPLAY,
            endpoint,
            methods=[method],
            response_class=Response,
            summary=summary,
            description=says,
            responses={
                200: {"model": ReplayOut, "content": {answers.JSON: {}}},
                **problems(401, 403, 404, 422, 500, 503),
            },
            openapi_extra={**secured(ADMINS), **described("replay_id")},
        )
    for path, listing, model, summary in (
        ("/v1/admin/replays", routes.list, ReplaysOut, "List replays"),
        ("/v1/admin/audit", routes.audit, AuditsOut, "List what admins did"),
    ):
        made.add_api_route(
            path,
            listing,
            response_class=Response,
            summary=summary,
            description="The newest first.",
            responses={
                200: {"model": model, "content": {answers.JSON: {}}},
                **problems(401, 403, 422, 500, 503),
            },
            openapi_extra={**secured(ADMINS), **described("limit", "before")},
        )


class _Admin:
    """The endpoints, with what they share."""

    def __init__(self, service: AdminService, gate: AdminGuard) -> None:
        self._service = service
        self._gate = gate

    async def start(self, request: Request) -> Response:
        asker = await self._gate(request)
        where = (parameters.conversation_id(request), parameters.response_id(request))
        given = replay_asked(await _body(request))
        terms = given.terms()
        if given.dry_run:
            asked = await self._service.replay_dry_run(*where, terms, asker=asker)
            return answers.live(dump(dry_run_body(asked)))
        replay = await self._service.replay(
            *where,
            **terms._asdict(),
            asker=asker,
            idempotency_key=request.headers.get("idempotency-key"),
        )
        answer = answers.live(dump(replay.body()), status=202)
        answer.headers["Location"] = _location(request, replay.id)
        return answer

    async def find(self, request: Request) -> Response:
        await self._gate(request)
        return _told(await self._service.find_replay(parameters.replay_id(request)))

    async def cancel(self, request: Request) -> Response:
        asker = await self._gate(request)
        replay_id = parameters.replay_id(request)
        return _told(await self._service.cancel_replay(replay_id, asker=asker))

    async def list(self, request: Request) -> Response:
        await self._gate(request)
        limit, before = parameters.limit(request), parameters.before(request)
        found, older = await self._service.replays(limit=limit, before=before)
        return _page("replays", [each.body() for each in found], older)

    async def audit(self, request: Request) -> Response:
        await self._gate(request)
        limit, before = parameters.limit(request), parameters.before(request)
        found, older = await self._service.audit(limit=limit, before=before)
        return _page("audit", [audit_body(each) for each in found], older)


async def _body(request: Request) -> Any:
    """The parsed body; nothing is the same as ``{}``."""
    empty = request.headers.get("content-length", "0") == "0"
    if empty and "transfer-encoding" not in request.headers:
        return {}
    return await read_json(request, BODY_BYTES)


def _told(replay: Replay) -> Response:
    return answers.live(dump(replay.body()))


def _page(name: str, found: list[dict[str, Any]], older: Cursor | None) -> Response:
    return answers.live(dump({name: found, "older": older and encode_cursor(older)}))


def _location(request: Request, replay_id: str) -> str:
    root = str(request.scope.get("root_path", ""))
    return f"{root}{_REPLAY.format(replay_id=quote(replay_id, safe=''))}"

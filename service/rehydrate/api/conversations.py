"""The routes of one conversation and of their list: for our own app, and for anybody's."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api import answers, parameters, ui_messages
from rehydrate.api.bodies import read_json
from rehydrate.api.concurrency_limit import ConcurrencyLimit
from rehydrate.api.metrics import Metrics
from rehydrate.api.middleware import is_head
from rehydrate.api.openapi import BACKENDS, READERS, messages_body, not_modified, problems, secured
from rehydrate.api.parameters import described
from rehydrate.api.routing import Route
from rehydrate.api.schemas import (
    ConversationOut,
    ConversationsOut,
    MessageOut,
    StoredOut,
    new_messages,
)
from rehydrate.api.service import Service
from rehydrate.api.sse import EventStream, Streams, last_event_id
from rehydrate.core.event import TERMINAL
from rehydrate.core.json import dump
from rehydrate.core.positions import encode_cursor
from rehydrate.core.wire import timestamp
from rehydrate.errors import Forbidden

Authorize = Callable[[Request, str], Any]
"""Whether the sender of a request may read a conversation: ``(request, conversation_id)``.

True, or an awaitable of it, admits; anything falsy refuses (403); what it raises is told
(HTTPException, or an error of ours). What admits may have ``expires_s``, in seconds since 1970: a
stream ends then.
"""

AuthorizeBackend = Callable[[Request], Any]
"""Likewise for what only a backend may do: store messages, list conversations."""


class Limits(NamedTuple):
    """How much is taken on.

    ``body_bytes``: the largest body that is read. ``hydrates``, ``bodies`` and ``streams``: how
    many may be under way at once; one more is told 429.
    """

    body_bytes: int = 4 * 1024 * 1024
    hydrates: int = 256
    bodies: int = 32
    streams: int = 20_000


LIMITS = Limits()


def router(
    service: Service,
    *,
    authorize: Authorize,
    authorize_backend: AuthorizeBackend | None = None,
    metrics: Metrics | None = None,
    limits: Limits = LIMITS,
) -> APIRouter:
    """The routes under ``/v1/conversations``, to be included in an app, with any prefix.

    Its lifespan opens and closes *service* with the app. Errors are problem+json, whatever
    handlers the app has.

    Args:
        service: what answers.
        authorize: who may read which conversation.
        authorize_backend: who may store messages and list conversations; without it, the routes
            for that are not there.
        metrics: where answers are counted.
        limits: how much is taken on.
    """
    routes = _Conversations(service, authorize, authorize_backend, metrics or Metrics(), limits)
    lifespan = _lifespan(service, routes.streams)
    made = APIRouter(route_class=Route, lifespan=lifespan, tags=["conversations"])
    _add_reading(made, routes)
    _add_following(made, routes)
    if authorize_backend is not None:
        _add_backend(made, routes)
    return made


def _lifespan(service: Service, streams: Streams) -> Callable[[Any], Any]:
    """Open with the first app that starts, close with the last that ends."""
    running = 0

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        nonlocal running
        if not running:
            await service.open()
        running += 1
        try:
            with streams.ending_with_the_process():
                yield
        finally:
            running -= 1
            streams.end()
            if not running:
                await service.close()

    return lifespan


def _add_reading(made: APIRouter, routes: _Conversations) -> None:
    made.add_api_route(
        "/v1/conversations/{conversation_id}",
        routes.hydrate,
        response_class=Response,
        summary="Hydrate a conversation",
        description="Finished and in-progress messages together, exact to the character. "
        "Nobody has begun it yet: 200, and no messages.",
        responses={
            200: {"model": ConversationOut, "content": {answers.JSON: {}}},
            **not_modified(),
            **problems(401, 403, 422, 429, 500, 502, 503),
        },
        openapi_extra={
            **secured(READERS),
            **described("conversation_id", "until", "limit", "before", "format"),
        },
    )
    made.add_api_route(
        "/v1/conversations/{conversation_id}/messages/{message_id}",
        routes.message,
        response_class=Response,
        summary="One message",
        description="One message, as it is stored.",
        responses={
            200: {"model": MessageOut, "content": {answers.JSON: {}}},
            **not_modified(),
            **problems(401, 403, 404, 422, 429, 500, 502, 503),
        },
        openapi_extra={**secured(READERS), **described("conversation_id", "message_id")},
    )


def _add_following(made: APIRouter, routes: _Conversations) -> None:
    made.add_api_route(
        "/v1/conversations/{conversation_id}/stream",
        routes.stream,
        response_class=Response,
        summary="Follow a conversation",
        description="Server-sent events: a `snapshot` (as the hydrated conversation), then what is "
        "live, each once: `prompt`, `start`, `token`, `refusal`, `reasoning`, `tool_call`, "
        "`tool_args`, `tool_result`, `repair`, `stop`. After `again`, messages may have been "
        "missed, and a new `snapshot` follows.",
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **problems(401, 403, 422, 429, 500, 502, 503),
        },
        openapi_extra={
            **secured(READERS),
            "parameters": [*described("conversation_id", "limit")["parameters"], *_STREAM_QUERY],
        },
    )


_STREAM_QUERY = [
    {
        "name": name,
        "in": where,
        "required": False,
        "description": says,
        "schema": {"type": "string"},
    }
    for name, where, says in (
        ("Last-Event-ID", "header", "The `id` of the last event that was received."),
        ("last_event_id", "query", "Likewise, where no header can be sent."),
        ("access_token", "query", "The token, where no header can be sent. It is never logged."),
        (
            "format",
            "query",
            "`ui-message-stream`: one response, for the Vercel AI SDK; 204 if none",
        ),
        ("response", "query", "Of which response; without it, of the newest that streams."),
    )
]


def _add_backend(made: APIRouter, routes: _Conversations) -> None:
    made.add_api_route(
        "/v1/conversations/{conversation_id}/messages",
        routes.store,
        methods=["POST"],
        status_code=201,
        response_class=Response,
        summary="Store finished messages",
        description="All of them or none. The same again changes nothing; the same id with other "
        "content is a conflict.",
        responses={
            201: {"model": StoredOut, "content": {answers.JSON: {}}},
            **problems(401, 403, 408, 409, 413, 415, 422, 429, 500, 503),
        },
        openapi_extra={
            **secured(BACKENDS),
            **described("conversation_id"),
            **messages_body(),
        },
    )
    made.add_api_route(
        "/v1/conversations/{conversation_id}",
        routes.erase,
        methods=["DELETE"],
        status_code=204,
        response_class=Response,
        summary="Erase a conversation",
        description="All that was said in it until now, for good; again changes nothing more. "
        "What is said of its responses from now on is erased, too.",
        responses=problems(401, 403, 422, 500, 503),
        openapi_extra={**secured(BACKENDS), **described("conversation_id")},
    )
    made.add_api_route(
        "/v1/conversations",
        routes.list,
        response_class=Response,
        summary="List conversations",
        description="The newest first.",
        responses={
            200: {"model": ConversationsOut, "content": {answers.JSON: {}}},
            **problems(401, 403, 422, 500, 503),
        },
        openapi_extra={**secured(BACKENDS), **described("limit", "before")},
    )


class _Conversations:
    """The endpoints, with what they share."""

    def __init__(
        self,
        service: Service,
        authorize: Authorize,
        authorize_backend: AuthorizeBackend | None,
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._service = service
        self._authorize = authorize
        self._authorize_backend = authorize_backend
        self._metrics = metrics
        self._body_bytes = limits.body_bytes
        self._hydrating = ConcurrencyLimit(limits.hydrates, "hydrates", metrics.in_flight)
        self._storing = ConcurrencyLimit(limits.bodies, "bodies")
        self._streaming = ConcurrencyLimit(limits.streams, "streams", metrics.streams)
        self.streams = Streams()

    async def hydrate(self, request: Request) -> Response:
        conversation_id = await self._readable(request)
        until, before = parameters.until(request), parameters.before(request)
        limit = parameters.limit(request)
        with self._hydrating:
            hydrated = await self._service.hydrate(
                conversation_id, until=until, limit=limit, before=before
            )
            ui = parameters.format(request, ui_messages.MESSAGES)
            body = ui_messages.answer(hydrated) if ui else hydrated.body
        codes = [reason.code for reason in hydrated.reasons]
        self._metrics.hydrated(codes, hydrated.counts or {})
        return answers.settled(request, body) if hydrated.settled else answers.live(body)

    async def stream(self, request: Request) -> Response:
        conversation_id, proof = await self._proved(request)
        limit, ui = parameters.limit(request), parameters.format(request, ui_messages.STREAM)
        response_id, after = parameters.response(request), None if ui else last_event_id(request)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._streaming)
            follower = await stack.enter_async_context(
                self._service.joined(conversation_id, limit=limit, after=after)
            )
            await follower.ready()
            told = follower.poll() if ui else []
            shown = ui_messages.streaming(told, response_id)
            if ui and shown is None:
                return Response(status_code=204, headers={"Cache-Control": "no-store"})
            if is_head(request):
                follower.close()
            expires_s = getattr(proof, "expires_s", None)
            kind = EventStream if shown is None else ui_messages.UiMessageStream
            stream = kind(follower, stack.pop_all(), self.streams, expires_s=expires_s)
            if shown is not None and isinstance(stream, ui_messages.UiMessageStream):
                stream.tell(told, shown["id"])
            return stream

    async def message(self, request: Request) -> Response:
        conversation_id = await self._readable(request)
        message_id = parameters.message_id(request)
        body = await self._service.message(conversation_id, message_id)
        finished = json.loads(body)["status"] in TERMINAL
        return answers.settled(request, body) if finished else answers.live(body)

    async def store(self, request: Request) -> Response:
        await self._admit_backend(request)
        conversation_id = parameters.conversation_id(request)
        with self._storing:
            messages = new_messages(await read_json(request, self._body_bytes))
            result = await self._service.store_messages(conversation_id, messages)
        return answers.live(dump(result._asdict()), status=201)

    async def erase(self, request: Request) -> Response:
        await self._admit_backend(request)
        await self._service.erase(parameters.conversation_id(request))
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    async def list(self, request: Request) -> Response:
        await self._admit_backend(request)
        limit, before = parameters.limit(request), parameters.before(request)
        rows, older = await self._service.conversations(limit=limit, before=before)
        listed = [
            {
                "conversation_id": row.id,
                "channel": row.channel,
                "created_at": timestamp(row.created_ms),
                "metadata": row.metadata,
            }
            for row in rows
        ]
        return answers.live(
            dump({"conversations": listed, "older": older and encode_cursor(older)})
        )

    async def _readable(self, request: Request) -> str:
        """The conversation in the path, which the sender of *request* may read."""
        conversation_id, _ = await self._proved(request)
        return conversation_id

    async def _proved(self, request: Request) -> tuple[str, Any]:
        """Likewise, and what admitted the sender."""
        conversation_id = parameters.conversation_id(request)
        return conversation_id, await _admitted(self._authorize(request, conversation_id))

    async def _admit_backend(self, request: Request) -> None:
        if self._authorize_backend is not None:
            await _admitted(self._authorize_backend(request))


async def _admitted(verdict: Any) -> Any:
    if inspect.isawaitable(verdict):
        verdict = await verdict
    if not verdict:
        raise Forbidden("this is not yours to see or do")
    return verdict

"""The routes of conversations, for the service's own app and for any FastAPI application."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api import answers, parameters, ui_messages
from rehydrate.api.answers import Route
from rehydrate.api.openapi import BACKENDS, READERS, answering, messages_body, problems, secured
from rehydrate.api.parameters import ConversationId, MessageId, Paging, described, read_json
from rehydrate.api.schemas import (
    ConversationOut,
    ConversationsOut,
    MessageOut,
    StoredOut,
    UiConversationOut,
    new_messages,
)
from rehydrate.api.service import Service
from rehydrate.api.sse import EventStream, Streams, last_event_id
from rehydrate.api.telemetry import Metrics, is_head
from rehydrate.core.event import TERMINAL
from rehydrate.core.json import dump
from rehydrate.core.positions import (
    Cursor,
    check_conversation_id,
    check_message_id,
    check_until,
    encode_cursor,
)
from rehydrate.core.wire import timestamp, without_text
from rehydrate.descriptors import most_connections
from rehydrate.errors import BadParameter, Forbidden
from rehydrate.hydrate.hydrate import Page
from rehydrate.limits import AnswerBytes, ConcurrencyLimit

Authorize = Callable[[Request, str], Any]
"""Decide whether a request may read a conversation: ``(request, conversation_id)``.

It returns a truthy value, or an awaitable of one, to permit the request; a falsy value refuses it
(403). It may raise HTTPException or a `RehydrateError`, which becomes the response. If the value
has an attribute ``expires_s``, in seconds since 1970, streams end at that time; if it has an attribute
``owner``, a string, all requests with the same one together may use a quarter of the limits; if it
has an attribute ``verify``, it is called and awaited every minute while a stream is open, which ends if
that raises `Unauthorized` or `Forbidden`. With any of the first two, a stream ends after about an hour.
"""

AuthorizeBackend = Callable[[Request], Any]
"""Decide in the same way whether a request may do what only a backend may: store messages, list
conversations, erase."""


class Limits(NamedTuple):
    """Limits of the API; a request beyond a limit of concurrency is answered with 429.

    Attributes:
        body_bytes: maximum size of a body.
        hydrates: maximum number of concurrent hydrate calls.
        bodies: maximum number of bodies being read or stored.
        streams: maximum number of open streams, if the limit of open descriptors permits as many.
        answer_bytes: maximum length of all answers of more than 64 KiB that are in memory.

    One reader may take a quarter of the hydrates, of the streams and of the bytes.
    """

    body_bytes: int = 4 * 1024 * 1024
    hydrates: int = 256
    bodies: int = 32
    streams: int = 20_000
    answer_bytes: int = 128 * 1024 * 1024


LIMITS = Limits()


def router(
    service: Service,
    *,
    authorize: Authorize,
    authorize_backend: AuthorizeBackend | None = None,
    metrics: Metrics | None = None,
    limits: Limits = LIMITS,
    sizes: AnswerBytes | None = None,
) -> APIRouter:
    """Return the routes under ``/v1/conversations``, to be included in an app with any prefix.

    The router's lifespan opens and closes *service* with the app. Errors are problem+json, whatever
    exception handlers the app has.

    Args:
        service: the use cases behind the routes.
        authorize: decides who may read which conversation.
        authorize_backend: decides who may store messages, list and erase conversations; None: the
            router has no such routes.
        metrics: where answers are counted.
        limits: limits of size and concurrency.
        sizes: counts the bytes of answers, those of other routes too; None: of these routes alone.
    """
    metrics = metrics or Metrics()
    sizes = sizes or AnswerBytes(limits.answer_bytes)
    routes = _Conversations(
        service, authorize, authorize_backend, metrics=metrics, limits=limits, sizes=sizes
    )
    lifespan = _lifespan(service, routes.streams)
    made = APIRouter(route_class=Route, lifespan=lifespan, tags=["conversations"])
    _add_reading(made, routes)
    _add_following(made, routes)
    if authorize_backend is not None:
        _add_backend(made, routes)
    return made


def _lifespan(service: Service, streams: Streams) -> Callable[[Any], Any]:
    """Return a lifespan that opens with the first app that starts and closes with the last one."""
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
            await streams.close()
            if not running:
                await service.close()

    return lifespan


def _add_reading(made: APIRouter, routes: _Conversations) -> None:
    made.add_api_route(
        "/v1/conversations/{conversation_id}",
        routes.hydrate,
        summary="Hydrate a conversation",
        description="Finished and in-progress messages together, exact to the character. "
        "A conversation that does not exist yet has no messages; the status is 200.",
        **answering(
            ConversationOut | UiConversationOut,
            *(422, 429, 502, 503),
            by=READERS,
            cached=True,
            **described("conversation_id", "until", "limit", "before", "format", "text"),
        ),
    )
    made.add_api_route(
        "/v1/conversations/{conversation_id}/messages/{message_id}",
        routes.message,
        summary="Get a message",
        description="One message, as the conversation shows it.",
        **answering(
            MessageOut,
            *(404, 422, 429, 502, 503),
            by=READERS,
            cached=True,
            **described("text"),
        ),
    )


def _add_following(made: APIRouter, routes: _Conversations) -> None:
    made.add_api_route(
        "/v1/conversations/{conversation_id}/stream",
        routes.stream,
        response_class=Response,
        summary="Follow a conversation",
        description="Server-sent events: a `snapshot` (the hydrated conversation), then every live "
        "event once: `prompt`, `start`, `token`, `refusal`, `reasoning`, `tool_call`, `tool_args`, "
        "`tool_result`, `repair`, `stop`. After `again`, messages may have been missed, and a new "
        "`snapshot` follows. `end` says why the service ends the stream.",
        responses={
            200: {
                "description": "Events, or with `format` lines `data: <chunk>` up to `data: [DONE]`.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            204: {"description": "With `format`: no such response streams."},
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
        "description": text,
        "schema": {"type": "string", **more},
    }
    for name, where, text, more in (
        ("Last-Event-ID", "header", "The `id` of the last event received.", {}),
        ("last_event_id", "query", "The same, for clients that cannot send headers.", {}),
        (
            "access_token",
            "query",
            "The token, for clients that cannot send headers. Never logged.",
            {},
        ),
        (
            "format",
            "query",
            "`ui-message-stream`: one response, for the Vercel AI SDK; 204 if none streams.",
            {"enum": [ui_messages.STREAM]},
        ),
        ("response", "query", "The response to stream; default: the newest one that streams.", {}),
    )
]


def _add_backend(made: APIRouter, routes: _Conversations) -> None:
    made.add_api_route(
        "/v1/conversations/{conversation_id}/messages",
        routes.store,
        methods=["POST"],
        summary="Store finished messages",
        description="Stores all messages or none. Idempotent: storing the same message again changes "
        "nothing; the same id with other content is a conflict.",
        dependencies=[Depends(routes.admit_backend)],
        **answering(
            StoredOut,
            *(408, 409, 413, 415, 422, 429, 503),
            by=BACKENDS,
            status=201,
            **messages_body(),
        ),
    )
    made.add_api_route(
        "/v1/conversations/{conversation_id}",
        routes.erase,
        methods=["DELETE"],
        status_code=204,
        response_class=Response,
        summary="Erase a conversation",
        description="Permanently erases all messages published so far. Idempotent. Later events of "
        "erased responses are dropped too.",
        dependencies=[Depends(routes.admit_backend)],
        responses=problems(401, 403, 422, 500, 503),
        openapi_extra=secured(BACKENDS),
    )
    made.add_api_route(
        "/v1/conversations",
        routes.list,
        summary="List conversations",
        description="Newest first, in pages.",
        dependencies=[Depends(routes.admit_backend)],
        **answering(ConversationsOut, 422, 503, by=BACKENDS),
    )


class _Conversations:
    """The endpoints and their shared state.

    `hydrate` and `stream` read their parameters by hand, which is faster; the module `parameters`
    gives the measurement. The other endpoints declare them.
    """

    def __init__(
        self,
        service: Service,
        authorize: Authorize,
        authorize_backend: AuthorizeBackend | None,
        *,
        metrics: Metrics,
        limits: Limits,
        sizes: AnswerBytes,
    ) -> None:
        self._service, self._readers = service, service.readers
        self._authorize = authorize
        self._authorize_backend = authorize_backend
        self._metrics = metrics
        self._body_bytes = limits.body_bytes
        self._hydrating = ConcurrencyLimit(limits.hydrates, "hydrates")
        self._storing = ConcurrencyLimit(limits.bodies, "bodies")
        streams = min(limits.streams, most_connections())
        self._streaming = ConcurrencyLimit(streams, "streams")
        self._sizes = sizes
        self.streams = Streams(sizes)
        metrics.measure(self._hydrating, self._streaming, sizes)

    async def hydrate(self, request: Request) -> Response:
        conversation_id, reader = await self._authorized(request)
        until, before = until_of(request), before_of(request)
        limit, ui = limit_of(request), format_of(request, ui_messages.MESSAGES)
        once = not ui and text_once(request)
        owner = getattr(reader, "owner", None)
        with self._hydrating.of(owner), self._sizes.claim(owner) as claim:
            hydrated = await self._readers.hydrate(
                conversation_id, until=until, page=Page(limit, before), on_loaded=claim.hold
            )
            if once:
                hydrated = hydrated._replace(wires=[*map(without_text, hydrated.wires)])
            body = ui_messages.answer(hydrated) if ui else hydrated.body
            codes = [reason.code for reason in hydrated.reasons]
            self._metrics.hydrated(codes, hydrated.counts or {})
            if hydrated.settled:
                return answers.settled(request, body, claim)
            return answers.live(body, claim=claim)

    async def stream(self, request: Request) -> Response:
        conversation_id, reader = await self._authorized(request)
        limit, ui = limit_of(request), format_of(request, ui_messages.STREAM)
        response_id, after = response_of(request), None if ui else last_event_id(request)
        self.streams.end_with_server(request.receive)
        async with AsyncExitStack() as stack:
            owner = getattr(reader, "owner", None)
            stack.enter_context(self._streaming.of(owner))
            follower = await stack.enter_async_context(
                self._readers.joined(conversation_id, limit=limit, after=after)
            )
            await follower.ready()
            events = follower.poll() if ui else []
            shown = ui_messages.streaming(events, response_id)
            if ui and shown is None:
                return Response(status_code=204, headers={"Cache-Control": "no-store"})
            if is_head(request):
                follower.close()
            expires_s = getattr(reader, "expires_s", None)
            kind = EventStream if shown is None else ui_messages.UiMessageStream
            verify = getattr(reader, "verify", None)
            stream = kind(follower, self.streams, expires_s=expires_s, owner=owner, verify=verify)
            if shown is not None and isinstance(stream, ui_messages.UiMessageStream):
                stream.start_with(events, shown["id"])
            return stream.adopt(stack)

    async def message(
        self, request: Request, conversation_id: ConversationId, message_id: MessageId
    ) -> Response:
        once = text_once(request)
        reader = await _permitted(self._authorize(request, conversation_id))
        owner = getattr(reader, "owner", None)
        with self._hydrating.of(owner), self._sizes.claim(owner) as claim:
            body = await self._service.message(conversation_id, message_id)
            claim.hold(len(body))
            finished = json.loads(body)["status"] in TERMINAL
            body = without_text(body) if once else body
            if finished:
                return answers.settled(request, body, claim)
            return answers.live(body, claim=claim)

    async def store(self, request: Request, conversation_id: ConversationId) -> Response:
        with self._storing:
            messages = new_messages(await read_json(request, self._body_bytes))
            result = await self._service.store_messages(conversation_id, messages)
        return answers.live(dump(result._asdict()), status=201)

    async def erase(self, conversation_id: ConversationId) -> Response:
        await self._service.erase(conversation_id)
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    async def list(self, page: Paging) -> Response:
        rows, older = await self._service.conversations(limit=page.limit, before=page.before)
        listed = [
            {
                "conversation_id": row.id,
                "channel": row.channel,
                "created_at": timestamp(row.created_ms),
                "metadata": row.metadata,
            }
            for row in rows
        ]
        body = dump({"conversations": listed, "older": older and encode_cursor(older)})
        with self._sizes.claim() as claim:
            return answers.live(body, claim=claim)

    async def _authorized(self, request: Request) -> tuple[str, Any]:
        """Return the conversation id of the path and what `Authorize` returned for the request."""
        conversation_id = conversation_id_of(request)
        return conversation_id, await _permitted(self._authorize(request, conversation_id))

    async def admit_backend(self, request: Request) -> None:
        """Dependency of the routes for backends.

        Raises:
            RehydrateError: the request was not sent by a backend.
        """
        if self._authorize_backend is not None:
            await _permitted(self._authorize_backend(request), "allowed for backends only")


# What the two hot routes read by hand.


def conversation_id_of(request: Request) -> str:
    """Return the conversation id of the path.

    Raises:
        BadParameter: it is not a valid conversation id.
    """
    return check_conversation_id(request.path_params["conversation_id"])


def limit_of(request: Request) -> int:
    """Return the maximum number of results.

    Raises:
        BadParameter: it is not an integer from 1 to 200.
    """
    given = request.query_params.get("limit")
    return parameters.DEFAULT_LIMIT if given is None else parameters.check_limit(given)


def until_of(request: Request) -> str | None:
    """Return the attach point that the answer must reach; None without one.

    Raises:
        BadParameter: it is not a valid serial.
    """
    return check_until(request.query_params.get("until"))


def before_of(request: Request) -> Cursor | None:
    """Return the cursor of the page to read; None for the newest page.

    Raises:
        BadParameter: it is not a cursor.
    """
    given = request.query_params.get("before")
    return None if given is None else parameters.check_cursor(given)


def format_of(request: Request, known: str) -> bool:
    """Return True if the format *known* is requested, False for the default format.

    Raises:
        BadParameter: another format is requested.
    """
    given = request.query_params.get("format")
    if given not in (None, known):
        raise BadParameter("format", f"format must be {known}, or be omitted")
    return given is not None


def text_once(request: Request) -> bool:
    """Return True if messages are to have no ``text`` where their ``parts`` contain it.

    Raises:
        BadParameter: the parameter is neither ``once`` nor ``always``.
    """
    given = request.query_params.get("text")
    if given not in (None, "always", "once"):
        raise BadParameter("text", "text must be once or always")
    return given == "once"


def response_of(request: Request) -> str | None:
    """Return the id of the requested response; None without one.

    Raises:
        BadParameter: it is not a valid response id.
    """
    given = request.query_params.get("response")
    return None if given is None else check_message_id(given, "response")


async def _permitted(verdict: Any, refusal: str = "not allowed for this conversation") -> Any:
    if inspect.isawaitable(verdict):
        verdict = await verdict
    if not verdict:
        raise Forbidden(refusal)
    return verdict

"""REST: publishing, history, time and tokens."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from . import names
from .errors import FrameError, RefusedError
from .log import Direction, Query
from .messages import accepted, page
from .publishing import Origin, publish
from .rest import (
    HUB,
    answer,
    answer_format,
    body_format,
    body_of,
    identity_of,
    link_headers,
    map_of,
    raw_answer,
)

if TYPE_CHECKING:
    from .channel import Channel
    from .hub import Hub

_DEFAULT_LIMIT: Final = 100
_PASSED_ON: Final = ("start", "end", "limit", "direction", "from_serial", "fromSerial")
_LONGEST_SERIAL: Final = 256


def routes() -> list[web.RouteDef]:
    """Return the calls of this module."""
    return [
        web.get("/time", get_time),
        web.post("/keys/{key_name}/requestToken", request_token),
        web.post("/channels/{channel}/messages", post_messages),
        web.get("/channels/{channel}/messages", get_history),
        web.get("/channels/{channel}/history", get_history),
    ]


async def get_time(request: web.Request) -> web.Response:
    """Return the server's time, in milliseconds."""
    return answer(request, [request.app[HUB].now_ms()])


async def request_token(request: web.Request) -> web.Response:
    """Return a token for a signed request, or for one whose sender shows the key."""
    authenticator = request.app[HUB].authenticator
    shown = None
    if request.headers.get("Authorization") or request.query.get("key"):
        shown = identity_of(request)
    body = await map_of(request)
    return answer(
        request, authenticator.issue_token(request.match_info["key_name"], body, shown), 201
    )


async def post_messages(request: web.Request) -> web.Response:
    """Publish one message or several to a channel (RSL1)."""
    hub = request.app[HUB]
    identity = identity_of(request)
    name = names.parse(request.match_info["channel"])
    body = await body_of(request)
    raw = body if isinstance(body, list) else [body]
    if not raw:
        raise FrameError("there is no message to publish")
    if request.query.get("_forceNack") == "true":
        raise RefusedError(40099, "the publish was refused because it asked for it (_forceNack)")
    form = body_format(request)
    base_id = secrets.token_urlsafe(9)
    messages = [accepted(item, form) for item in raw]
    channel = hub.channel(identity.app, name.base)
    origin = Origin(identity, base_id)
    serials = publish(channel, messages, origin, hub.now_ms(), hub.settings.max_message_bytes)
    made = {"channel": name.wire, "messageId": messages[0].get("id") or f"{base_id}:0"}
    return answer(request, {**made, "serials": serials}, 201)


async def get_history(request: web.Request) -> web.Response:
    """Return one page of a channel's history (RSL2)."""
    hub = request.app[HUB]
    identity = identity_of(request)
    name = names.parse(request.match_info["channel"])
    identity.require(name.base, "history")
    query = history_query(request, hub)
    channel = hub.existing_channel(identity.app, name.base)
    form = answer_format(request)
    if channel is None:
        return raw_answer(form, page([], form))
    channel.log.prune(hub.now_ms())
    _check_position(channel, query)
    found = channel.log.history(query)
    first = {key: request.query[key] for key in _PASSED_ON if key in request.query}
    more = None if found.cursor is None else {**first, "cursor": found.cursor}
    response = raw_answer(form, page(found.messages, form))
    response.headers.extend(link_headers("messages", {**first, "limit": str(query.limit)}, more))
    return response


def history_query(request: web.Request, hub: Hub) -> Query:
    """Return what a request asks of history.

    Raises:
        RefusedError: 40000, a parameter is not well formed.
    """
    params = request.query
    direction = _direction(params.get("direction"))
    serial = params.get("from_serial") or params.get("fromSerial")
    if serial is not None and (len(serial) > _LONGEST_SERIAL or direction == "forwards"):
        raise FrameError("from_serial is a position, and history up to it is read backwards")
    limit = _number(params.get("limit"), "limit")
    limit = _DEFAULT_LIMIT if limit is None else limit
    if not 1 <= limit <= hub.settings.page_limit:
        raise FrameError(f"limit is 1 to {hub.settings.page_limit}")
    start_ms, end_ms = _number(params.get("start"), "start"), _number(params.get("end"), "end")
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise FrameError("start is later than end")
    return Query(limit, direction, start_ms, end_ms, serial, params.get("cursor"))


def _check_position(channel: Channel, query: Query) -> None:
    serial = query.from_serial
    if serial is None or channel.log.holds_position(serial):
        return
    raise RefusedError(90008, "history up to this attach point is not available any more", 400)


def _direction(text: str | None) -> Direction:
    if text is None or text == "backwards":
        return "backwards"
    if text == "forwards":
        return "forwards"
    raise FrameError("direction is backwards or forwards")


def _number(text: Any, name: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise FrameError(f"{name} is a whole number")
    return int(text)


_MOST_DIGITS: Final = 16

"""REST: reading a channel: history, single messages, versions, presence, status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from . import names
from .errors import FrameError, RefusedError
from .frames import Flag
from .log import Direction, LogPage, Query
from .messages import Message, page
from .rest import (
    HUB,
    answer,
    answer_format,
    batch_result,
    identity_of,
    link_headers,
    raw_answer,
    refusal,
)

if TYPE_CHECKING:
    from .auth import Identity
    from .channel import Channel
    from .hub import Hub

_DEFAULT_LIMIT: Final = 100
_PASSED_ON: Final = ("start", "end", "limit", "direction", "from_serial", "fromSerial")
_LONGEST_SERIAL: Final = 256
_MOST_DIGITS: Final = 16


def routes() -> list[web.RouteDef]:
    """Return the calls of this module."""
    return [
        web.get("/channels/{channel}/messages", get_history),
        web.get("/channels/{channel}/history", get_history),
        web.get("/channels/{channel}/messages/{serial}", get_message),
        web.get("/channels/{channel}/messages/{serial}/versions", get_versions),
        web.get("/channels/{channel}/presence", get_presence),
        web.get("/channels/{channel}/presence/history", get_presence_history),
        web.get("/channels/{channel}", get_status),
        web.get("/channels", get_channels),
        web.get("/presence", get_batch_presence),
    ]


async def get_history(request: web.Request) -> web.Response:
    """Return one page of a channel's history (RSL2)."""
    hub = request.app[HUB]
    identity, name = _asked(request, "history")
    query = history_query(request, hub, name.base)
    failed = hub.faults.now("fail_history", name.base)
    if failed is not None:
        status = failed.get("status", 500)
        response = refusal(request, RefusedError(status * 100, "fail_history is on", status))
        if failed.get("retry_after_s") is not None:
            response.headers["Retry-After"] = str(int(failed.get("retry_after_s")))
        return response
    channel = hub.existing_channel(identity.app, name.base)
    if query.from_serial is not None:
        hub.faults.refuse("refuse_until_attach", 90008, name.base)
    form = answer_format(request)
    if channel is None:
        return raw_answer(form, page([], form))
    channel.log.prune(hub.now_ms())
    _check_position(channel, query, hub.continuity_since_ms)
    return _history_page(request, query, channel.log.history(query), "messages")


async def get_message(request: web.Request) -> web.Response:
    """Return the latest version of one message (RSL11)."""
    form = answer_format(request)
    return raw_answer(form, _versions(request)[-1].row(form))


async def get_versions(request: web.Request) -> web.Response:
    """Return the versions of one message, oldest first (RSL14)."""
    form = answer_format(request)
    response = raw_answer(form, page(_versions(request), form))
    response.headers.extend(link_headers("versions", {}, None))
    return response


async def get_presence(request: web.Request) -> web.Response:
    """Return a page of the present members (RSP3)."""
    hub = request.app[HUB]
    identity, name = _asked(request, "presence", "subscribe")
    params = request.query
    channel = hub.existing_channel(identity.app, name.base)
    members: list[Message] = []
    if channel is not None:
        members = channel.members.listing(params.get("clientId"), params.get("connectionId"))
    limit = page_limit(request, hub)
    skip = _number(params.get("cursor"), "cursor") or 0
    first = {"limit": str(limit)}
    more = {**first, "cursor": str(skip + limit)} if skip + limit < len(members) else None
    form = answer_format(request)
    response = raw_answer(form, page(members[skip : skip + limit], form))
    response.headers.extend(link_headers("presence", first, more))
    return response


async def get_presence_history(request: web.Request) -> web.Response:
    """Return one page of a channel's presence messages (RSP4)."""
    hub = request.app[HUB]
    identity, name = _asked(request, "history")
    query = history_query(request, hub, name.base)
    channel = hub.existing_channel(identity.app, name.base)
    if channel is None:
        return _history_page(request, query, LogPage([], None), "history")
    channel.prune(hub.now_ms())
    _check_position(channel, query, hub.continuity_since_ms)
    return _history_page(request, query, channel.presence_log.history(query), "history")


async def get_batch_presence(request: web.Request) -> web.Response:
    """Return the present members of several channels (RSC24)."""
    hub = request.app[HUB]
    identity = identity_of(request)
    results: list[dict[str, Any]] = []
    for wire_name in request.query.get("channels", "").split(","):
        try:
            members = _members(hub, identity, wire_name)
        except RefusedError as error:
            results.append({"channel": wire_name, "error": error.as_wire()})
        else:
            results.append({"channel": wire_name, "presence": members})
    return answer(request, batch_result(results))


async def get_status(request: web.Request) -> web.Response:
    """Return a channel's status and occupancy (RSL8)."""
    identity, name = _asked(request, "channel-metadata")
    channel = request.app[HUB].channel(identity.app, name.base)
    metrics = _metrics(channel)
    status = {"isActive": True, "occupancy": {"metrics": metrics}}
    details = {"channelId": name.wire, "status": status}
    return answer(request, {**details, "name": name.wire})


async def get_channels(request: web.Request) -> web.Response:
    """Return the names of the channels of the app that are active."""
    identity = identity_of(request)
    prefix = request.query.get("prefix", "")
    allowed = identity.capability.allows
    found = [
        channel.name
        for channel in request.app[HUB].channels(identity.app.app_id)
        if channel.name.startswith(prefix) and allowed(channel.name, "channel-metadata")
    ]
    return answer(request, sorted(found)[: page_limit(request, request.app[HUB])])


def history_query(request: web.Request, hub: Hub, channel: str) -> Query:
    """Return what a request asks of history.

    Raises:
        RefusedError: 40000, a parameter is not well formed.
    """
    params = request.query
    direction = _direction(params.get("direction"))
    serial = params.get("from_serial") or params.get("fromSerial")
    if serial is not None and (len(serial) > _LONGEST_SERIAL or direction == "forwards"):
        raise FrameError("from_serial is a position, and history up to it is read backwards")
    limit = page_limit(request, hub)
    start_ms, end_ms = _number(params.get("start"), "start"), _number(params.get("end"), "end")
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise FrameError("start is later than end")
    late = hub.faults.now("delay_history", channel)
    visible_ms = None if late is None else int(hub.now_ms() - late.get("ms", 1000))
    return Query(limit, direction, start_ms, end_ms, serial, params.get("cursor"), visible_ms)


def page_limit(request: web.Request, hub: Hub) -> int:
    """Return how many items a page may have.

    Raises:
        FrameError: the limit is not 1 to the most that is allowed.
    """
    asked = _number(request.query.get("limit"), "limit")
    limit = _DEFAULT_LIMIT if asked is None else asked
    if not 1 <= limit <= hub.settings.page_limit:
        raise FrameError(f"limit is 1 to {hub.settings.page_limit}")
    return limit


def _history_page(request: web.Request, query: Query, found: LogPage, path: str) -> web.Response:
    form = answer_format(request)
    first = {key: request.query[key] for key in _PASSED_ON if key in request.query}
    first["limit"] = str(query.limit)
    more = None if found.cursor is None else {**first, "cursor": found.cursor}
    response = raw_answer(form, page(found.messages, form))
    response.headers.extend(link_headers(path, first, more))
    return response


def _asked(request: web.Request, *operations: str) -> tuple[Identity, names.ChannelName]:
    """Return the caller and the channel; one of the operations must be granted."""
    identity = identity_of(request)
    name = names.parse(request.match_info["channel"])
    if not any(identity.capability.allows(name.base, operation) for operation in operations):
        identity.require(name.base, operations[0])
    return identity, name


def _versions(request: web.Request) -> list[Message]:
    identity, name = _asked(request, "history")
    channel = request.app[HUB].existing_channel(identity.app, name.base)
    serial = request.match_info["serial"]
    versions = channel.log.versions(serial) if channel is not None else []
    if not versions:
        raise RefusedError(40400, "there is no message with this serial")
    return versions


def _members(hub: Hub, identity: Identity, wire_name: str) -> list[dict[str, Any]]:
    name = names.parse(wire_name)
    identity.require(name.base, "presence")
    channel = hub.existing_channel(identity.app, name.base)
    return [] if channel is None else [one.fields for one in channel.members.listing()]


def _metrics(channel: Channel) -> dict[str, int]:
    attachments = list(channel.attachments.values())

    def count(mode: Flag) -> int:
        return sum(mode in attachment.modes for attachment in attachments)

    return {
        "connections": len({one.subscriber.connection_id for one in attachments}),
        "publishers": count(Flag.PUBLISH),
        "subscribers": count(Flag.SUBSCRIBE),
        "presenceConnections": count(Flag.PRESENCE),
        "presenceMembers": len(channel.members),
        "presenceSubscribers": count(Flag.PRESENCE_SUBSCRIBE),
        "objectPublishers": 0,
        "objectSubscribers": 0,
    }


def _check_position(channel: Channel, query: Query, since_ms: int) -> None:
    serial = query.from_serial
    if serial is None or channel.log.holds_position(serial, since_ms):
        return
    raise RefusedError(90008, "history up to this attach point is not available any more", 400)


def _direction(text: str | None) -> Direction:
    if text is None or text == "backwards":
        return "backwards"
    if text == "forwards":
        return "forwards"
    raise FrameError("direction is backwards or forwards")


def _number(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise FrameError(f"{name} is a whole number")
    return int(text)

"""REST: publishing to one channel and to many, and changing messages."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from . import names
from .errors import FrameError, RefusedError
from .frames import Format
from .messages import accepted
from .mutations import MUTATIONS, mutate
from .publishing import Origin, publish
from .rest import HUB, answer, batch_result, body_format, body_of, identity_of, map_of
from .sessions import connection_of_key

if TYPE_CHECKING:
    from .auth import Identity
    from .hub import Hub

_MOST_CHANNELS: Final = 100
_MOST_MESSAGES: Final = 1000
_RESULTS_BY_SPEC: Final = 3  # the protocol version since which a batch answers with BatchResults


def routes() -> list[web.RouteDef]:
    """Return the calls of this module."""
    return [
        web.post("/channels/{channel}/messages", post_messages),
        web.patch("/channels/{channel}/messages/{serial}", patch_message),
        web.post("/messages", post_batch),
    ]


async def post_messages(request: web.Request) -> web.Response:
    """Publish one message or several to a channel (RSL1)."""
    identity = identity_of(request)
    wire_name = request.match_info["channel"]
    names.parse(wire_name)
    body = await body_of(request)
    if request.query.get("_forceNack") == "true":
        raise RefusedError(40099, "the publish was refused because it asked for it (_forceNack)")
    hub = request.app[HUB]
    return answer(request, _publish(hub, identity, wire_name, body, body_format(request)), 201)


async def patch_message(request: web.Request) -> web.Response:
    """Update, delete or append to a message (RSL15)."""
    hub = request.app[HUB]
    identity = identity_of(request)
    name = names.parse(request.match_info["channel"])
    raw = accepted(await map_of(request), body_format(request))
    raw["serial"] = request.match_info["serial"]
    if raw.get("action") not in MUTATIONS:
        raise FrameError("action is 1 for an update, 2 for a delete, 5 for an append")
    hub.check_rates(identity.app.app_id, name.base)
    hub.faults.refuse("refuse_publish", 42911, name.base)
    version_serial = mutate(
        hub.channel(identity.app, name.base),
        raw,
        Origin(identity, secrets.token_urlsafe(9)),
        hub.now_ms(),
        most_bytes=hub.settings.max_message_bytes,
        drops_extras=hub.faults.now("drop_append_extras", name.base) is not None,
    )
    if hub.faults.now("omit_version_serials", name.base) is not None:
        version_serial = None
    return answer(request, {"versionSerial": version_serial})


async def post_batch(request: web.Request) -> web.Response:
    """Publish to many channels at once (RSC22); some may fail."""
    hub = request.app[HUB]
    identity = identity_of(request)
    body = await body_of(request)
    specs = body if isinstance(body, list) else [body]
    form = body_format(request)
    found = [_batch(hub, identity, spec, form) for spec in specs]
    if _version(request) < _RESULTS_BY_SPEC:
        return _old_batch_answer(request, [entry for results in found for entry in results])
    results = [batch_result(entries) for entries in found]
    return answer(request, results if isinstance(body, list) else results[0], 201)


def _publish(
    hub: Hub, identity: Identity, wire_name: str, body: Any, form: Format
) -> dict[str, Any]:
    name = names.parse(wire_name)
    raw = body if isinstance(body, list) else [body]
    if not raw:
        raise FrameError("there is no message to publish")
    messages = [accepted(item, form) for item in raw]
    hub.check_rates(identity.app.app_id, name.base)
    hub.faults.refuse("refuse_publish", 42911, name.base)
    base_id = secrets.token_urlsafe(9)
    origin = _origin(hub, identity, messages, base_id)
    channel = hub.channel(identity.app, name.base)
    bare = hub.faults.now("omit_serials", name.base) is not None
    most_bytes = hub.settings.max_message_bytes
    serials = publish(channel, messages, origin, hub.now_ms(), most_bytes, bare=bare)
    message_id = messages[0].get("id") or f"{base_id}:0"
    return {"channel": wire_name, "messageId": message_id, "serials": serials}


def _origin(hub: Hub, identity: Identity, messages: list[dict[str, Any]], base_id: str) -> Origin:
    """Return where a REST publish comes from: itself, or the connection it names (TM2h)."""
    keys = {message.get("connectionKey") for message in messages}
    if keys == {None}:
        return Origin(identity, base_id)
    key = keys.pop()
    connection = connection_of_key(hub, key) if key is not None and not keys else None
    if connection is None or connection.identity.app is not identity.app:
        raise RefusedError(40006, "the connectionKey is not that of a connection")
    return Origin(identity, base_id, connection.connection_id, connection.client_id)


def _batch(hub: Hub, identity: Identity, spec: Any, form: Format) -> list[dict[str, Any]]:
    if not isinstance(spec, dict):
        raise FrameError("a batch is a map with channels and messages")
    channels, messages = spec.get("channels"), spec.get("messages")
    channels = [channels] if isinstance(channels, str) else channels
    messages = messages if isinstance(messages, list) else [messages]
    if not isinstance(channels, list) or not channels or len(channels) > _MOST_CHANNELS:
        raise FrameError(f"a batch has 1 to {_MOST_CHANNELS} channels")
    if len(messages) > _MOST_MESSAGES:
        raise FrameError(f"a batch has at most {_MOST_MESSAGES} messages")
    found = []
    for channel in channels:
        try:
            found.append(_publish(hub, identity, str(channel), messages, form))
        except RefusedError as error:
            found.append({"channel": str(channel), "error": error.as_wire()})
    return found


def _old_batch_answer(request: web.Request, entries: list[dict[str, Any]]) -> web.Response:
    if not any("error" in entry for entry in entries):
        return answer(request, entries, 201)
    error = RefusedError(40020, "some publishes of the batch failed", 400)
    response = answer(request, {"error": error.as_wire(), "batchResponse": entries}, 400)
    response.headers["X-Ably-ErrorCode"] = str(error.code)
    response.headers["X-Ably-ErrorMessage"] = error.message
    return response


def _version(request: web.Request) -> int:
    text = request.headers.get("X-Ably-Version", "") or request.query.get("v", "")
    major = text.partition(".")[0]
    return int(major) if major.isascii() and major.isdigit() else _RESULTS_BY_SPEC

"""Updates, deletes and appends of messages that are kept (RSL15, RTL32)."""

from __future__ import annotations

from typing import Any, Final

from .channel import Channel
from .errors import FrameError, RefusedError
from .messages import APPEND, DELETE, UPDATE, Message, accepted_operation, check_size, size_bytes
from .publishing import Origin, check_client_id, concrete_client_id, published_before
from .serials import milliseconds_of

MUTATIONS: Final = frozenset({UPDATE, DELETE, APPEND})
_KINDS: Final = {UPDATE: "update", APPEND: "update", DELETE: "delete"}
_PATCHED: Final = ("name", "extras")


def mutate(
    channel: Channel,
    raw: dict[str, Any],
    origin: Origin,
    now_ms: int,
    *,
    most_bytes: int,
    window_ms: int = 0,
    drops_extras: bool = False,
) -> str | None:
    """Make a newer version of a message, deliver it, and return the version's serial.

    Args:
        channel: where the message is.
        raw: the operation: `serial`, `action`, and the fields that change.
        origin: the caller.
        now_ms: the time.
        most_bytes: the most that the message may have afterwards (TM6).
        drops_extras: remove the extras of the message if the operation brings none.
        window_ms: how long an append may be held back to be delivered with those after it.

    Raises:
        RefusedError: 93002 the channel's messages do not change, 40003 no serial, 40400 no such
            message, 40160 or 40166 not allowed, 40009 too large, 40012 clientId.
    """
    before = _found(channel, raw)
    action = raw["action"]
    _require(channel, before, action, origin)
    operation = accepted_operation(raw.get("version"))
    check_client_id(operation, origin)
    known = published_before(channel, [raw], now_ms)
    if known is not None:
        return known[0]
    changed = _changed(before, raw, action, drops_extras=drops_extras)
    check_size([changed], most_bytes)
    if action != APPEND:
        channel.rollup.flush(before.serial)
    # a version is later than the creation, also within one millisecond
    version_serial = f"{channel.log.next_serial(max(now_ms, before.timestamp_ms + 1))}:000"
    changed["id"] = raw.get("id") or f"{origin.base_id}:0"
    changed["action"] = DELETE if action == DELETE else UPDATE
    changed["version"] = _version(version_serial, operation, origin)
    message = Message(changed, appended=action == APPEND)
    channel.keep_version(message, size_bytes(changed))
    channel.remember(raw.get("id"), version_serial, now_ms)
    if action == APPEND:
        channel.rollup.add(_delta(message, raw), message, origin.connection_id, window_ms)
    else:
        channel.fan_out(channel.delivery(channel.log.head, [message]), origin.connection_id)
    return version_serial


def _found(channel: Channel, raw: dict[str, Any]) -> Message:
    """Return the message that is to be changed."""
    if not channel.mutable:
        raise RefusedError(
            93002, "updates, deletes and appends need the namespace's rule for them", 400
        )
    serial = raw.get("serial")
    if not serial:
        raise RefusedError(40003, "the message to change has no serial")
    before = channel.log.find(serial)
    if before is None:
        raise RefusedError(40400, "there is no message with this serial")
    return before


def _require(channel: Channel, before: Message, action: int, origin: Origin) -> None:
    kind = _KINDS[action]
    capability = origin.identity.capability
    if capability.allows(channel.name, f"message-{kind}-any"):
        return
    origin.identity.require(channel.name, f"message-{kind}-own")
    client_id = concrete_client_id(origin)
    if client_id is None:
        raise RefusedError(40166, f"{kind} of own messages needs a clientId", 401)
    if before.fields.get("clientId") != client_id:
        raise RefusedError(40160, f"the capability grants {kind} of own messages only")


def _changed(
    before: Message, raw: dict[str, Any], action: int, *, drops_extras: bool
) -> dict[str, Any]:
    """Return the fields of the new version: omitted fields keep their values."""
    fields = dict(before.fields)
    for name in _PATCHED:
        if name in raw:
            fields[name] = raw[name]
        elif name == "extras" and drops_extras:
            fields.pop("extras", None)
    if action == APPEND:
        fields["data"] = _appended(fields, raw)
        if "data" in raw and "encoding" in raw:
            fields["encoding"] = raw["encoding"]
    elif "data" in raw:
        fields["data"] = raw["data"]
        fields.pop("encoding", None)
        if "encoding" in raw:
            fields["encoding"] = raw["encoding"]
    return fields


def _appended(fields: dict[str, Any], raw: dict[str, Any]) -> Any:
    before, more = fields.get("data"), raw.get("data")
    if more is None:
        return before
    if before is None:
        return more
    if type(before) is not type(more) or fields.get("encoding") != raw.get("encoding"):
        raise FrameError("appended data must have the same type as the message's data")
    return before + more


def _version(serial: str, operation: dict[str, Any], origin: Origin) -> dict[str, Any]:
    version = {"serial": serial, "timestamp": milliseconds_of(serial)}
    client_id = operation.get("clientId") or concrete_client_id(origin)
    if client_id is not None:
        version["clientId"] = client_id
    for name in ("description", "metadata"):
        if name in operation:
            version[name] = operation[name]
    return version


def _delta(message: Message, raw: dict[str, Any]) -> dict[str, Any]:
    fields = {**message.fields, "action": APPEND}
    if "data" in raw:
        fields["data"] = raw["data"]
    else:
        fields.pop("data", None)
    return fields

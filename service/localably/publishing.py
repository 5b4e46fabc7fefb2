"""Publishing: validation, deduplication and delivery of a publish."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from .auth import Identity
from .channel import Channel
from .errors import RefusedError
from .messages import CREATE, Message, check_size, size_bytes
from .serials import milliseconds_of

_INDEXED_ID: Final = re.compile(r"\A(.*):(\d{1,9})\Z", re.DOTALL | re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a publish; REST may name the connection it publishes for (TM2h).

    Attributes:
        identity: who publishes.
        base_id: the id of the publish, from which its messages get theirs (TM2a).
        connection_id: the connection it came over, or that REST named; None otherwise.
        client_id: the connection's clientId, where it has one.
    """

    identity: Identity
    base_id: str
    connection_id: str | None = None
    client_id: str | None = None


def publish(
    channel: Channel,
    messages: list[dict[str, Any]],
    origin: Origin,
    now_ms: int,
    most_bytes: int,
    *,
    bare: bool = False,
) -> list[str | None]:
    """Keep and deliver one publish, and return the serial of each of its messages.

    A publish whose ids were seen within two minutes is not delivered again and has the serials of
    the first (RSL1k). *bare* leaves serials out of what clients read.

    Raises:
        RefusedError: 40009 size, 40012 clientId, 40031 ids, 40160 capability.
    """
    origin.identity.require(channel.name, "publish")
    check_size(messages, most_bytes)
    for message in messages:
        check_client_id(message, origin)
    _check_ids(messages)
    before = published_before(channel, messages, now_ms)
    if before is not None:
        return before
    serial = channel.log.next_serial(now_ms)
    made = [_made(message, index, serial, origin) for index, message in enumerate(messages)]
    for message_made in made:
        message_made.bare = bare
    for raw, kept in zip(messages, made, strict=True):
        if not _is_ephemeral(raw):
            channel.keep(kept, size_bytes(raw))
        channel.remember(raw.get("id"), kept.serial, now_ms)
    channel.published += len(made)
    channel.log.prune(now_ms)
    channel.fan_out(channel.delivery(serial, made), origin.connection_id)
    return [message.serial for message in made]


def check_client_id(message: dict[str, Any], origin: Origin) -> None:
    """Refuse a clientId that the publisher may not claim (RTL6g).

    Raises:
        RefusedError: 40012.
    """
    claimed = message.get("clientId")
    if claimed is None:
        return
    allowed = claimed == origin.client_id or origin.identity.may_be(claimed)
    if claimed in ("", "*") or not allowed:
        raise RefusedError(40012, "the clientId of the message is not the publisher's")


def concrete_client_id(origin: Origin) -> str | None:
    """Return the clientId that a message without one gets (RSL1m1); None for anybody."""
    known = origin.client_id or origin.identity.client_id
    return None if known == "*" else known


def _made(raw: dict[str, Any], index: int, serial: str, origin: Origin) -> Message:
    own_serial = f"{serial}:{index:03d}"
    timestamp_ms = milliseconds_of(serial)
    fields: dict[str, Any] = {"id": raw.get("id") or f"{origin.base_id}:{index}"}
    client_id = raw.get("clientId") or concrete_client_id(origin)
    if client_id is not None:
        fields["clientId"] = client_id
    if origin.connection_id is not None:
        fields["connectionId"] = origin.connection_id
    for name in ("name", "data", "encoding", "extras"):
        if name in raw:
            fields[name] = raw[name]
    fields["timestamp"] = timestamp_ms
    fields["action"] = CREATE
    fields["serial"] = own_serial
    fields["version"] = {"serial": own_serial, "timestamp": timestamp_ms}
    return Message(fields)


def _is_ephemeral(raw: dict[str, Any]) -> bool:
    extras = raw.get("extras")
    return isinstance(extras, dict) and extras.get("ephemeral") is True


def _check_ids(messages: list[dict[str, Any]]) -> None:
    """Refuse ids that do not share one base and count from 0 (RSL1k3); one message may have any."""
    given = [message.get("id") for message in messages]
    if len(given) == 1 or not any(given):
        return
    found = [_INDEXED_ID.match(own_id) if own_id else None for own_id in given]
    bases = {match[1] for match in found if match}
    counted = all(match and int(match[2]) == place for place, match in enumerate(found))
    if len(bases) != 1 or not counted:
        raise RefusedError(40031, "the ids of several messages have to be base:0, base:1 and so on")


def published_before(
    channel: Channel, messages: list[dict[str, Any]], now_ms: int
) -> list[str | None] | None:
    """Return the serials of the same publish within the last two minutes; None if there is none."""
    first_id = messages[0].get("id")
    if first_id is None or channel.log.published_as(first_id, now_ms) is None:
        return None
    return [channel.log.published_as(message["id"], now_ms) for message in messages]

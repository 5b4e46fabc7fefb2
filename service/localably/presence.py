"""The presence set of a channel (RTP)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

from .errors import FrameError
from .frames import Action, Format
from .messages import Delivery, Message

_PAGE: Final = 100
_PAGE_BYTES: Final = 131_072  # with one member more it is still far below any client's limit


class PresenceAction(IntEnum):
    """The content of a presence message (TP2)."""

    ABSENT = 0
    PRESENT = 1
    ENTER = 2
    LEAVE = 3
    UPDATE = 4


class Members:
    """The members of one channel, by connection and clientId (TP3h)."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[tuple[str, str], dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def apply(self, fields: dict[str, Any]) -> None:
        """Take one presence message in."""
        key = (fields.get("connectionId", ""), fields["clientId"])
        if fields["action"] == PresenceAction.LEAVE:
            self._members.pop(key, None)
        else:
            self._members[key] = {**fields, "action": int(PresenceAction.PRESENT)}

    def of_connection(self, connection_id: str) -> list[dict[str, Any]]:
        """Return the members that one connection entered."""
        return [fields for (owner, _), fields in self._members.items() if owner == connection_id]

    def listing(
        self, client_id: str | None = None, connection_id: str | None = None
    ) -> list[Message]:
        """Return the members, all or those of a client or a connection."""
        return [
            Message(fields)
            for (owner, client), fields in self._members.items()
            if client_id in (None, client) and connection_id in (None, owner)
        ]

    def sync(self, serial: str) -> list[Delivery]:
        """Return the members as SYNC frames; the last one has an empty cursor (RTP18)."""
        pages = list(_pages(self.listing()))
        sequence = serial.partition("@")[0].replace("-", "")
        return [
            Delivery(
                {
                    "action": int(Action.SYNC),
                    "channelSerial": f"{sequence}:{number if number < len(pages) else ''}",
                },
                page,
                "presence",
            )
            for number, page in enumerate(pages, start=1)
        ]


def _pages(members: list[Message]) -> Iterator[list[Message]]:
    """Cut the members into pages by number and by size, so that no frame is too large."""
    page: list[Message] = []
    size = 0
    for member in members:
        page.append(member)
        size += len(member.row(Format.JSON))
        if len(page) == _PAGE or size > _PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def presence_action(raw: dict[str, Any]) -> PresenceAction:
    """Return what a client's presence message asks for.

    Raises:
        FrameError: the action is not enter, update or leave.
    """
    action = raw.get("action")
    if action not in (PresenceAction.ENTER, PresenceAction.UPDATE, PresenceAction.LEAVE):
        if action == PresenceAction.PRESENT:
            return PresenceAction.ENTER
        raise FrameError("a presence message enters, updates or leaves")
    return PresenceAction(action)

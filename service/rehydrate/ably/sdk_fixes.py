"""Frames as the SDK can take them: one message that does not decode takes no others along."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rehydrate.ably.messages import decoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from ably.realtime.channel import RealtimeChannel

_LOG = logging.getLogger("rehydrate.ably")

_MESSAGE = 15


def harden(channel: RealtimeChannel) -> None:
    """Let *channel* take every message of a frame that it can read, whatever the others are.

    Gap 12: the SDK decodes all messages of a frame before it passes on the first, and what it
    raises of one loses all of them, in silence. So encodings are undone here, as for history, and
    a frame that is refused all the same is given message by message.
    """
    hear: Callable[[dict[str, Any]], None] = channel._on_message  # noqa: SLF001 - there is no other way in

    def heard(frame: dict[str, Any]) -> None:
        messages = frame.get("messages")
        if frame.get("action") != _MESSAGE or not isinstance(messages, list):
            return hear(frame)
        for message in messages:
            if encoding := message.get("encoding"):
                message["data"] = decoded(message.get("data"), encoding)
                message["encoding"] = ""
        try:
            hear(frame)
        except Exception:  # noqa: BLE001 - whatever the SDK stumbles upon
            for message in messages:  # which have inherited from the frame by now (TM2a)
                _hear_alone(hear, {**frame, "messages": [message]})

    channel._on_message = heard  # noqa: SLF001 - as above


def _hear_alone(hear: Callable[[dict[str, Any]], None], frame: dict[str, Any]) -> None:
    try:
        hear(frame)
    except Exception as error:  # noqa: BLE001 - as above
        _LOG.warning("a message cannot be read, and is skipped: %s", type(error).__name__)

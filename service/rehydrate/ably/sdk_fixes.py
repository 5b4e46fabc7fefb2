"""A fix for the SDK's decoding: an undecodable message no longer loses the rest of its frame."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rehydrate.ably.rest import decoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from ably.realtime.channel import RealtimeChannel

_LOG = logging.getLogger("rehydrate.ably")

_ATTACHED, _MESSAGE = 11, 15
_HAS_BACKLOG = 1 << 1


def harden(channel: RealtimeChannel, on_attached: Callable[[bool], None]) -> None:
    """Make *channel* deliver every readable message of a frame (gap 12).

    Also call *on_attached* for each ATTACHED, before the SDK handles it, with its flag HAS_BACKLOG:
    whether messages from before the attach follow (TR3b). The SDK does not expose it (gap 6).

    The SDK decodes all messages of a frame before it delivers the first, so an error in one of them
    silently loses all. Encodings are therefore undone here, as for history, and a frame that the
    SDK still rejects is delivered message by message.
    """
    deliver: Callable[[dict[str, Any]], None] = channel._on_message  # noqa: SLF001 - no public hook

    def deliver_frame(frame: dict[str, Any]) -> None:
        messages = frame.get("messages")
        if frame.get("action") == _ATTACHED:
            on_attached(bool(frame.get("flags", 0) & _HAS_BACKLOG))
        if frame.get("action") != _MESSAGE or not isinstance(messages, list):
            return deliver(frame)
        for message in messages:
            if encoding := message.get("encoding"):
                message["data"] = decoded(message.get("data"), encoding)
                message["encoding"] = ""
        try:
            deliver(frame)
        except Exception:  # noqa: BLE001 - the SDK raises anything here
            for message in messages:  # the SDK has copied the frame's fields into them (TM2a)
                _deliver_one(deliver, {**frame, "messages": [message]})

    channel._on_message = deliver_frame  # noqa: SLF001 - as above


def _deliver_one(deliver: Callable[[dict[str, Any]], None], frame: dict[str, Any]) -> None:
    try:
        deliver(frame)
    except Exception as error:  # noqa: BLE001 - as above
        _LOG.warning("skipping a message that cannot be decoded: %s", type(error).__name__)

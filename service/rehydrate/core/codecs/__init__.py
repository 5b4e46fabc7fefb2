"""Codecs: each is one file that turns a channel message into an event.

No other module knows the names and headers of a publisher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rehydrate.core.codecs import ai_transport, appends, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rehydrate.core.event import ChannelMessage, Event


def decode(message: ChannelMessage) -> Event | None:
    """Return the event that *message* means; None: no codec recognises it."""
    return tokens.decode(message) or ai_transport.decode(message) or appends.decode(message)


def decode_all(messages: Iterable[ChannelMessage]) -> Iterator[Event]:
    """Yield the events among *messages*, in their order."""
    for message in messages:
        event = decode(message)
        if event is not None:
            yield event

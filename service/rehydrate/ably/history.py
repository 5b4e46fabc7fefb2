"""Channel history over REST, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from rehydrate.ably.errors import POSITION_REFUSED
from rehydrate.ably.messages import from_rows
from rehydrate.errors import ChannelRefused, ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ably.http.paginatedresult import HttpPaginatedResponse

    from rehydrate.ably.requests import Requests
    from rehydrate.core.event import ChannelMessage


def messages_path(channel: str) -> str:
    """Return the REST path of the messages of *channel*, whose name may contain slashes."""
    return f"/channels/{quote(channel, safe='')}/messages"


async def pages(
    requests: Requests,
    channel: str,
    *,
    since_ms: int | None,
    until: str | None,
    forwards: bool,
    limit: int,
) -> AsyncGenerator[list[ChannelMessage]]:
    """Yield pages of history, each oldest first (see `rehydrate.ports.ChannelLog.history`)."""
    params = {"limit": str(limit), "direction": "forwards" if forwards else "backwards"}
    if since_ms is not None:
        params["start"] = str(since_ms)
    if until is not None and not forwards:  # RTL10b: an attach point only bounds a backwards read
        params["from_serial"] = until
    page: HttpPaginatedResponse | None = None
    while True:
        try:
            page = await (
                requests.next(page) if page else requests.get(messages_path(channel), params)
            )
        except ChannelRefused as refused:
            if refused.ably_code not in POSITION_REFUSED or "from_serial" not in params:
                raise
            # The attach point has expired, perhaps during the read: continue without it from here.
            del params["from_serial"]
            page = None
            continue
        messages = _messages(page)
        if messages and not forwards:
            messages.reverse()
            params["end"] = str(messages[0].timestamp_ms)
        if messages:
            yield messages
        if not page.has_next():
            return


def _messages(page: HttpPaginatedResponse) -> list[ChannelMessage]:
    try:
        return from_rows(page.items)
    except (AttributeError, TypeError) as error:
        raise ChannelUnavailable("Ably's answer is not a page of history") from error

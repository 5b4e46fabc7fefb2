"""Making the SDK's attempts to connect end well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ably.util.exceptions import AblyException

if TYPE_CHECKING:
    from ably import AblyRealtime
    from ably.transport.websockettransport import WebSocketTransport

_STATUS, _CODE = 400, 80000


class Connecting:
    """Watches the attempts of *client* to connect.

    Gap 10: the SDK does not notice that a connection is refused and waits out its time limit; the
    attempt is told here that it failed. An attempt that was given up waits for ever: it is ended
    when the next one begins, or with `close`. One that is not waited for any more may succeed all
    the same, after a suspension: its socket is closed, or it would live beside its successor, and
    longer than the client. And a socket that is closed may still hear a last message, which sets
    its alarm for silence again; that would disconnect its successor later, or bring a closed
    client back to life: the alarm is taken away.
    """

    def __init__(self, client: AblyRealtime) -> None:
        self._attempt: asyncio.Task[None] | None = None
        self._transport: WebSocketTransport | None = None
        self._disposing: set[asyncio.Task[None]] = set()
        manager = client.connection.connection_manager
        manager.on("transport.pending", self._begun)
        # asks a web page whether there is a network, and stops the event loop until it answers;
        # the attempts on fallback hosts, which it precedes, find out themselves
        manager.check_connection = _assume_network
        start_retry_timer = manager.start_retry_timer

        def start_only_retry_timer(interval_ms: int) -> None:
            manager.cancel_retry_timer()
            start_retry_timer(interval_ms)

        manager.start_retry_timer = start_only_retry_timer

    def close(self) -> None:
        """End the attempt that is under way, if any; the client is about to be closed."""
        if self._attempt is not None:
            self._attempt.cancel()
        if self._transport is not None:
            self._transport.on_activity = _do_nothing
            if self._transport.idle_timer is not None:
                self._transport.idle_timer.cancel()

    def _begun(self, transport: WebSocketTransport) -> None:
        # the SDK says this from within the attempt, and makes the transport's task directly after
        current = asyncio.current_task()
        if current is self._attempt:
            self._attempt = None  # another host, the same attempt
        self.close()
        if self._transport is not None and not self._transport.is_disposed:
            disposing = asyncio.ensure_future(self._transport.dispose())
            self._disposing.add(disposing)
            disposing.add_done_callback(self._disposing.discard)
        self._attempt, self._transport = current, transport
        asyncio.get_running_loop().call_soon(_watch, transport)


def _watch(transport: WebSocketTransport) -> None:
    if transport.ws_connect_task is None:
        return

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):
            reason = AblyException(f"no connection: {type(error).__name__}", _STATUS, _CODE)
            transport._emit("failed", reason)  # noqa: SLF001 - as the SDK does for other errors

    transport.ws_connect_task.add_done_callback(ended)


def _assume_network() -> bool:
    return True


def _do_nothing() -> None:
    """In the place of an alarm that is not to be set again."""

"""Fixes for the SDK's connection attempts: failures are noticed and abandoned attempts end."""

from __future__ import annotations

import asyncio

from ably import AblyRealtime
from ably.transport.websockettransport import WebSocketTransport
from ably.util.exceptions import AblyException

_STATUS, _CODE = 400, 80000


class Connecting:
    """Supervises the connection attempts of *client* (gap 10).

    * The SDK does not notice a refused TCP connection and waits out its time limit. The attempt is
      made to fail here as soon as its socket does.
    * An abandoned attempt would wait for ever, for its socket or its token. It is cancelled when
      the next one begins, or by `close`.
    * An abandoned attempt may still succeed after a suspension. Its socket is closed; otherwise it
      would exist next to its successor and outlive the client.
    * A closed socket may still deliver a last message, which restarts its idle timer. That timer
      would later disconnect the successor, or revive a closed client, so it is disabled.
    * A retry that was due before a client was closed, or that a late message causes, would also
      revive it. After `close` no attempt begins.
    """

    def __init__(self, client: AblyRealtime) -> None:
        self._attempt: asyncio.Task[None] | None = None
        self._transport: WebSocketTransport | None = None
        self._disposing: set[asyncio.Task[None]] = set()
        self._manager = manager = client.connection.connection_manager
        manager.on("transport.pending", self._on_attempt)
        # The SDK's check fetches a web page and blocks the event loop until that answers. It only
        # precedes attempts on fallback hosts, which detect a missing network themselves.
        manager.check_connection = _assume_network
        start_retry_timer = manager.start_retry_timer

        def start_only_retry_timer(interval_ms: int) -> None:
            manager.cancel_retry_timer()
            start_retry_timer(interval_ms)

        manager.start_retry_timer = start_only_retry_timer
        start_connect = manager.start_connect

        def start_only_attempt() -> None:
            self._abandon()
            start_connect()

        manager.start_connect = start_only_attempt

    def close(self) -> None:
        """Cancel the current attempt, if any, and prevent others, before the client is closed."""
        self._manager.start_connect = _do_nothing
        self._abandon()

    def _abandon(self) -> None:
        for attempt in (self._attempt, self._manager.connect_base_task):
            if attempt is not None and attempt is not asyncio.current_task():  # its next host
                attempt.cancel()
        if self._transport is not None:
            self._transport.on_activity = _do_nothing
            if self._transport.idle_timer is not None:
                self._transport.idle_timer.cancel()

    def _on_attempt(self, transport: WebSocketTransport) -> None:
        # The SDK emits this from within the attempt and creates the transport's task right after.
        self._abandon()
        if self._transport is not None and not self._transport.is_disposed:
            disposing = asyncio.ensure_future(self._transport.dispose())
            self._disposing.add(disposing)
            disposing.add_done_callback(self._disposing.discard)
        self._attempt, self._transport = asyncio.current_task(), transport
        asyncio.get_running_loop().call_soon(_watch, transport)


def _watch(transport: WebSocketTransport) -> None:
    if transport.ws_connect_task is None:
        return

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):
            reason = AblyException(f"connection failed: {type(error).__name__}", _STATUS, _CODE)
            transport._emit("failed", reason)  # noqa: SLF001 - what the SDK does for other errors

    transport.ws_connect_task.add_done_callback(ended)


def _assume_network() -> bool:
    return True


def _do_nothing() -> None:
    """Stand in for what a socket or a client must no longer do."""

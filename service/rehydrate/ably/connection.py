"""One realtime connection: monitored, and replaced where the SDK cannot recover it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ably import AblyRealtime
from ably.transport.websockettransport import WebSocketTransport
from ably.types.connectionstate import ConnectionState, ConnectionStateChange
from ably.util.exceptions import AblyException

from rehydrate.ably.connecting import Connecting
from rehydrate.ably.errors import channel_error, describe, is_token_refusal
from rehydrate.background import Backoff, SupervisedTask
from rehydrate.errors import ChannelRefused, ChannelUnavailable

_LOG = logging.getLogger("rehydrate.ably")

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 30.0
_TIMEOUTS_UNTIL_REPLACED = 6
"""After this many time limits without a connection, the client is replaced."""

_ECHO_S = 1.0
"""Time limit of a ping that `alive_within` waits for; its callers can do without the answer."""

_CLOSE_TIMEOUTS = 4
"""Time limits that closing may take: a close frame, and cancellations that the SDK swallows."""

_TERMINAL = (ConnectionState.FAILED, ConnectionState.CLOSED)


class ConnectionListener(Protocol):
    """User of a `Connection`. Methods are called from the event loop and must not block."""

    def up(self, client: AblyRealtime) -> None:
        """Handle a connect: *client* is the previous client, or its replacement."""

    def down(self) -> None:
        """Handle a disconnect. The SDK or the `Connection` is already reconnecting."""

    def refused(self, refusal: ChannelRefused) -> None:
        """Handle a refusal by Ably. The `Connection` retries, with long delays."""


class Connection:
    """A realtime connection, opened on first use and kept until `close`.

    The SDK reconnects and resumes by itself. This class covers what the SDK misses: a dead
    connection that the SDK reports as connected (gap 9) is detected by pings, and its client is
    replaced.

    Args:
        build: creates a client that is not connected yet.
        invalidate_token: called when Ably refuses a token, before the SDK requests another.
        timeout_s: time limit for connecting and for the echo of a ping.
        ping_every_s: interval between pings.
    """

    def __init__(
        self,
        build: Callable[[], AblyRealtime],
        invalidate_token: Callable[[], None],
        *,
        timeout_s: float,
        ping_every_s: float,
    ) -> None:
        self.listeners: list[ConnectionListener] = []
        self._build = build
        self._invalidate_token = invalidate_token
        self._timeout_s = timeout_s
        self._ping_every_s = ping_every_s
        self._task = SupervisedTask("rehydrate channel connection", self._run)
        self._client: AblyRealtime | None = None
        self._refusal: ChannelRefused | None = None
        self._closed = self._must_replace = False
        self._token_refusals = 0
        self._echoed_s = self._no_echo_s = -math.inf
        self._outcome = asyncio.Event()
        self._check = asyncio.Event()
        self._lock = asyncio.Lock()

    def start(self) -> None:
        """Begin to connect, if that has not begun yet."""
        if not self._closed:
            self._task.open()

    def ping_now(self) -> None:
        """Ping now instead of at the next interval: an expected message did not arrive."""
        self._check.set()

    def force_reconnect(self) -> None:
        """Replace the client now: it failed in a way that the SDK did not detect."""
        self._must_replace = True
        self._check.set()

    async def client(self) -> AblyRealtime:
        """Return the connected client, waiting for the connection if necessary.

        Raises:
            ChannelUnavailable: no connection within the time limit, or this object is closed.
            ChannelRefused: Ably refuses the connection.
        """
        if self._closed:
            raise ChannelUnavailable("the connection to Ably is closed")
        self.start()
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._client is None:
                    await self._outcome.wait()
                    if self._refusal is not None:
                        raise ChannelRefused(self._refusal.ably_code, str(self._refusal))
        except TimeoutError:
            raise ChannelUnavailable(
                f"no connection to Ably within {self._timeout_s:g} s"
            ) from None
        return self._client

    async def alive_within(self, within_s: float) -> bool:
        """Return whether a ping was echoed in the last *within_s* seconds, pinging if necessary.

        At most one such ping is under way at a time; its time limit is 1 s.
        """
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._echoed_s <= within_s:
                return True
            client, pinged_s = self._client, loop.time()
            if client is None or pinged_s - self._no_echo_s <= _ECHO_S:
                return False
            try:
                async with asyncio.timeout(_ECHO_S):
                    await client.connection.ping()
            except Exception as error:  # noqa: BLE001 - from the SDK or its socket: no echo
                _LOG.debug("no echo of a ping: %s", describe(error))
                self._no_echo_s = loop.time()
                self.ping_now()
                return False
            if client is not self._client:
                return False
            self._echoed_s = pinged_s
            return True

    async def close(self) -> None:
        """Close the connection permanently."""
        self._closed = True
        await self._task.close(_CLOSE_TIMEOUTS * self._timeout_s)

    async def _run(self) -> None:
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        while not self._closed:
            client = self._build()
            connecting = Connecting(client)
            self._must_replace = alive = False
            try:
                alive = await self._monitor(client, backoff)
            except asyncio.CancelledError:
                alive = True
                raise
            except Exception:  # noqa: BLE001 - no bug may end this task
                _LOG.exception("monitoring the connection to Ably failed; reconnecting")
            finally:
                self._set_disconnected()
                connecting.close()
                await discard(client, self._timeout_s, abort=not alive)
            await asyncio.sleep(backoff.next_s())

    async def _monitor(self, client: AblyRealtime, backoff: Backoff) -> bool:
        """Return when *client* must be replaced: True if its socket still works."""

        def changed(change: ConnectionStateChange) -> None:
            if change.current is ConnectionState.CONNECTED:
                backoff.reset()
                self._set_connected(client)
            elif change.previous is ConnectionState.CONNECTED:
                if change.current is not ConnectionState.CLOSING:
                    _LOG.warning("connection to Ably lost: %s", describe(change.reason))
                self._set_disconnected()
            elif is_token_refusal(getattr(change.reason, "code", None) or 0):
                self._on_token_refused(change.reason)
            self._check.set()

        client.connection.on(changed)
        client.connect()
        loop = asyncio.get_running_loop()
        connected_s = loop.time()
        while True:
            await self._wait_for_next_check()
            state = client.connection.state
            if self._must_replace:
                return False
            if state in _TERMINAL:
                self._refuse(channel_error(client.connection.error_reason, "connecting to Ably"))
                return True
            if state is ConnectionState.CONNECTED:
                if not await self._echoes_ping(client):
                    return False
                connected_s = loop.time()
            elif loop.time() - connected_s > _TIMEOUTS_UNTIL_REPLACED * self._timeout_s:
                return False

    def _on_token_refused(self, reason: AblyException) -> None:
        """Reconnect with a new token: the SDK would keep presenting the refused one."""
        self._invalidate_token()
        self._token_refusals += 1
        if self._token_refusals > 1:  # a new token was refused too: not a clock error
            self._refuse(channel_error(reason, "connecting to Ably"))
        self.force_reconnect()

    async def _wait_for_next_check(self) -> None:
        try:
            async with asyncio.timeout(self._ping_every_s):
                await self._check.wait()
        except TimeoutError:
            pass
        self._check.clear()

    async def _echoes_ping(self, client: AblyRealtime) -> bool:
        pinged_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connection.ping()
        except Exception as error:  # noqa: BLE001 - from the SDK or its socket: no echo
            if client.connection.state is not ConnectionState.CONNECTED:
                return True  # the SDK has noticed
            _LOG.warning("connection to Ably is dead: %s", describe(error))
            return False
        if client is self._client:
            self._echoed_s = pinged_s
        return True

    def _set_connected(self, client: AblyRealtime) -> None:
        self._client, self._refusal, self._token_refusals = client, None, 0
        self._outcome.set()
        for listener in list(self.listeners):
            listener.up(client)

    def _set_disconnected(self) -> None:
        if self._client is None:
            return
        self._client = None
        self._echoed_s = -math.inf
        self._outcome.clear()
        for listener in list(self.listeners):
            listener.down()

    def _refuse(self, error: ChannelUnavailable) -> None:
        _LOG.warning("%s", error)
        if isinstance(error, ChannelRefused):
            self._refusal = error
            self._outcome.set()
            for listener in list(self.listeners):
                listener.refused(error)


async def discard(client: AblyRealtime, timeout_s: float, *, abort: bool) -> None:
    """Close *client* permanently. With *abort*, its socket is dead and is not waited for."""
    manager = client.connection.connection_manager
    transport = manager.transport
    try:
        async with asyncio.timeout(timeout_s):
            if transport is not None and (
                abort or client.connection.state is not ConnectionState.CONNECTED
            ):
                # The SDK would send a close frame: to a dead peer, waiting 10 s; on a closed socket,
                # raising an error that is never retrieved.
                manager.transport = None
                _abort(transport)
                await transport.dispose()
            await client.close()
    except Exception as error:  # noqa: BLE001 - from the SDK or its socket: it is closed in any case
        _LOG.debug("closing a connection to Ably: %s", describe(error))
    finally:  # the SDK closes its HTTP client last: never, if the connection did not close in time
        with suppress(Exception):
            async with asyncio.timeout(timeout_s):
                await client.http.close()


def _abort(transport: WebSocketTransport) -> None:
    socket = getattr(transport.websocket, "transport", None)
    if socket is not None:
        socket.abort()

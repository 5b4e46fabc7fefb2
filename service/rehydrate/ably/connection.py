"""One realtime connection, watched, and replaced when the SDK cannot mend it."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Protocol

from ably.types.connectionstate import ConnectionState

from rehydrate.ably.backoff import Backoff
from rehydrate.ably.connecting import Connecting
from rehydrate.ably.errors import as_ours, described, is_token_refusal
from rehydrate.errors import ChannelRefused, ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ably import AblyRealtime
    from ably.transport.websockettransport import WebSocketTransport
    from ably.types.connectionstate import ConnectionStateChange
    from ably.util.exceptions import AblyException

_LOG = logging.getLogger("rehydrate.ably")

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 30.0
_PATIENCE = 6
"""So many time limits without a connection, and the client is replaced."""

_ECHO_S = 1.0
"""How long an echo may take where somebody waits for it, who can do without."""

_BEYOND_HELP = (ConnectionState.FAILED, ConnectionState.CLOSED)


class ConnectionListener(Protocol):
    """Who uses a line. The calls come from the event loop and may not block."""

    def up(self, client: AblyRealtime) -> None:
        """*client* is connected: the one from before, or another in its place."""

    def down(self) -> None:
        """The connection is lost; the SDK, or else the line, is making another."""

    def refused(self, refusal: ChannelRefused) -> None:
        """Ably refuses the connection; the line will try again, rarely."""


class Connection:
    """A realtime connection that is made when it is first needed and kept until `close`.

    The SDK connects again by itself, and resumes. What it cannot mend is mended here: a connection
    that is dead but said to be alive (gap 9) is found by pinging, and the client replaced.

    Args:
        build: makes a client that is not connected yet.
        doubt: called when Ably refuses a token, before the SDK asks for another.
        timeout_s: how long connecting, and the echo of a ping, may take.
        ping_every_s: how often to ping.
    """

    def __init__(
        self,
        build: Callable[[], AblyRealtime],
        doubt: Callable[[], None],
        *,
        timeout_s: float,
        ping_every_s: float,
    ) -> None:
        self.riders: list[ConnectionListener] = []
        self._build = build
        self._doubt = doubt
        self._timeout_s = timeout_s
        self._ping_every_s = ping_every_s
        self._keeper: asyncio.Task[None] | None = None
        self._client: AblyRealtime | None = None
        self._refusal: ChannelRefused | None = None
        self._closed = self._condemned = False
        self._door_refusals = 0
        self._heard_s = self._silent_s = -math.inf
        self._settled = asyncio.Event()
        self._look = asyncio.Event()
        self._asking = asyncio.Lock()

    def start(self) -> None:
        """Connect, if that has not begun."""
        if self._keeper is None and not self._closed:
            self._keeper = asyncio.create_task(self._keep(), name="rehydrate channel line")

    def suspect(self) -> None:
        """Ping now: something that should have come did not."""
        self._look.set()

    def condemn(self) -> None:
        """Replace the client now: it failed in a way that the SDK did not notice."""
        self._condemned = True
        self._look.set()

    async def client(self) -> AblyRealtime:
        """The connected client.

        Raises:
            ChannelUnavailable: there is none within the time limit, or the line is closed.
            ChannelRefused: Ably refuses the connection.
        """
        if self._closed:
            raise ChannelUnavailable("the connection to Ably is closed")
        self.start()
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._client is None:
                    await self._settled.wait()
                    if self._refusal is not None:
                        raise ChannelRefused(self._refusal.ably_code, str(self._refusal))
        except TimeoutError:
            raise ChannelUnavailable(
                f"there is no connection to Ably after {self._timeout_s:g} s"
            ) from None
        return self._client

    async def heard_within(self, within_s: float) -> bool:
        """Whether the connection has echoed a ping in the last *within_s* seconds, or does now.

        It is asked at most once at a time, and has 1 s to answer.
        """
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() - self._heard_s <= within_s:
                return True
            client, asked_s = self._client, loop.time()
            if client is None or asked_s - self._silent_s <= _ECHO_S:
                return False
            try:
                async with asyncio.timeout(_ECHO_S):
                    await client.connection.ping()
            except Exception as error:  # noqa: BLE001 - of the SDK or of its socket: no echo
                _LOG.debug("no echo of a ping: %s", described(error))
                self._silent_s = loop.time()
                self.suspect()
                return False
            if client is not self._client:
                return False
            self._heard_s = asked_s
            return True

    async def close(self) -> None:
        """Close the connection, for good."""
        self._closed = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            while not keeper.done():  # the SDK may swallow a cancellation, and we then go round
                keeper.cancel()
                await asyncio.wait([keeper], timeout=self._timeout_s)

    async def _keep(self) -> None:
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        while not self._closed:
            client = self._build()
            dialling = Connecting(client)
            self._condemned = alive = False
            try:
                alive = await self._watch(client, backoff)
            except asyncio.CancelledError:
                alive = True
                raise
            except Exception:  # noqa: BLE001 - a mistake of ours or theirs must not end the line
                _LOG.exception("watching the connection to Ably")
            finally:
                self._lower()
                dialling.close()
                await discard(client, self._timeout_s, abort=not alive)
            await asyncio.sleep(backoff.next_s())

    async def _watch(self, client: AblyRealtime, backoff: Backoff) -> bool:
        """Return when *client* is beyond help: whether its socket still works."""

        def changed(change: ConnectionStateChange) -> None:
            if change.current is ConnectionState.CONNECTED:
                backoff.reset()
                self._raise(client)
            elif change.previous is ConnectionState.CONNECTED:
                if change.current is not ConnectionState.CLOSING:
                    _LOG.warning("the connection to Ably is lost: %s", described(change.reason))
                self._lower()
            elif is_token_refusal(getattr(change.reason, "code", None) or 0):
                self._turned_away(change.reason)
            self._look.set()

        client.connection.on(changed)
        client.connect()
        loop = asyncio.get_running_loop()
        heard_s = loop.time()
        while True:
            await self._pause()
            state = client.connection.state
            if self._condemned:
                return False
            if state in _BEYOND_HELP:
                self._refuse(as_ours(client.connection.error_reason, "connecting to Ably"))
                return True
            if state is ConnectionState.CONNECTED:
                if not await self._answers(client):
                    return False
                heard_s = loop.time()
            elif loop.time() - heard_s > _PATIENCE * self._timeout_s:
                return False

    def _turned_away(self, reason: AblyException) -> None:
        """Our token was refused at the door: the SDK would go on showing the same one."""
        self._doubt()
        self._door_refusals += 1
        if self._door_refusals > 1:  # a new one as well: it is not the clock
            self._refuse(as_ours(reason, "connecting to Ably"))
        self.condemn()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._ping_every_s):
                await self._look.wait()
        except TimeoutError:
            pass
        self._look.clear()

    async def _answers(self, client: AblyRealtime) -> bool:
        asked_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connection.ping()
        except Exception as error:  # noqa: BLE001 - of the SDK or of its socket: no echo is no echo
            if client.connection.state is not ConnectionState.CONNECTED:
                return True  # the SDK knows by itself
            _LOG.warning("the connection to Ably is dead: %s", described(error))
            return False
        if client is self._client:
            self._heard_s = asked_s
        return True

    def _raise(self, client: AblyRealtime) -> None:
        self._client, self._refusal, self._door_refusals = client, None, 0
        self._settled.set()
        for rider in list(self.riders):
            rider.up(client)

    def _lower(self) -> None:
        if self._client is None:
            return
        self._client = None
        self._heard_s = -math.inf
        self._settled.clear()
        for rider in list(self.riders):
            rider.down()

    def _refuse(self, error: ChannelUnavailable) -> None:
        _LOG.warning("%s", error)
        if isinstance(error, ChannelRefused):
            self._refusal = error
            self._settled.set()
            for rider in list(self.riders):
                rider.refused(error)


async def discard(client: AblyRealtime, timeout_s: float, *, abort: bool) -> None:
    """Close *client* for good; *abort*: its socket is dead, do not wait for it."""
    manager = client.connection.connection_manager
    transport = manager.transport
    try:
        async with asyncio.timeout(timeout_s):
            if transport is not None and (
                abort or client.connection.state is not ConnectionState.CONNECTED
            ):
                # the SDK would say goodbye on it: to a dead peer for ten seconds, on a closed
                # socket with an error that nobody fetches
                manager.transport = None
                _abort(transport)
                await transport.dispose()
            await client.close()
    except Exception as error:  # noqa: BLE001 - of the SDK or of its socket: it is closed anyway
        _LOG.debug("closing a connection to Ably: %s", described(error))


def _abort(transport: WebSocketTransport) -> None:
    socket = getattr(transport.websocket, "transport", None)
    if socket is not None:
        socket.abort()

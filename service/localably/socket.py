"""The shell around a connection: one WebSocket, through aiohttp.

aiohttp reads frames and does the handshakes. Outgoing frames are bytes that many connections share,
so they are written to the transport as they are, joined once per turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from .auth import NO_APP
from .connection import ClientConnection
from .errors import RefusedError
from .frames import CLOSE_FRAME, Action, Format, frame

if TYPE_CHECKING:
    from .hub import Hub

_CLOSE_TIMEOUT_S = 2.0
_THAW_S = 0.02


class Turn:
    """Buffers outgoing frames and writes them once per turn of the event loop.

    Args:
        before: called first; makes durable what the frames acknowledge.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._waiting: dict[Socket, None] = {}

    def add(self, socket: Socket) -> None:
        """Have *socket* flushed at the end of this turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting[socket] = None

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self._before()
        for socket in waiting:
            socket.flush()


class Socket:
    """One WebSocket of one connection.

    Args:
        hub: where the connection lives.
        request: the request to be upgraded.
        turn: when to write.
    """

    def __init__(self, hub: Hub, request: web.Request, turn: Turn) -> None:
        self._hub = hub
        self._request = request
        self._turn = turn
        self._websocket = web.WebSocketResponse(
            timeout=_CLOSE_TIMEOUT_S,
            compress=False,
            max_msg_size=hub.settings.max_frame_bytes,
            decode_text=True,
        )
        self._transport: asyncio.Transport | None = None
        self.connection: ClientConnection | None = None
        self._epoch = 0

    async def serve(self) -> web.WebSocketResponse:
        """Upgrade, and stay until either side ends it."""
        await self._websocket.prepare(self._request)
        self._transport = self._request.transport
        if self._open():
            try:
                await self._read()
            finally:
                self._lost()
        await self._websocket.close()
        return self._websocket

    def flush(self) -> None:
        """Write the buffered frames; close a reader that is too slow, or a finished connection."""
        connection, transport = self.connection, self._transport
        if connection is None or transport is None:
            return
        if self._hub.faults.is_on("freeze"):
            if connection.outgoing or connection.closing:
                self._hub.faults.count("freeze")
            return
        if self._is_replaced():
            transport.abort()
            return
        outgoing = connection.outgoing
        if outgoing and not transport.is_closing():
            connection.outgoing = []
            transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))
            if transport.get_write_buffer_size() > self._hub.settings.slow_reader_bytes:
                transport.abort()
                return
        if connection.closing:
            transport.write(CLOSE_FRAME)
            transport.close()

    def concerns(
        self, connection_id: str | None, client_id: str | None, channel: str | None
    ) -> bool:
        """Say whether it is the socket of such a connection; None is any."""
        connection = self.connection
        if connection is None:
            return connection_id is None and client_id is None and channel is None
        return (
            connection_id in (None, connection.connection_id)
            and client_id in (None, connection.client_id)
            and (channel is None or connection.attached(channel) is not None)
        )

    def tend(self) -> None:
        """Flush frames held by a freeze; give up if there are too many."""
        if self.connection is None or not self.connection.outgoing:
            return
        if sum(map(len, self.connection.outgoing)) > self._hub.settings.slow_reader_bytes:
            self.cut()
        else:
            self._turn.add(self)

    def cut(self) -> None:
        """Drop the socket as a lost network does."""
        if self._transport is not None:
            self._transport.abort()

    def _open(self) -> bool:
        query = self._request.query
        try:
            identity = self._hub.authenticator.of_request(self._request.headers, query)
            self.connection = self._hub.connect(identity, query, self._wake)
        except RefusedError as refused:
            # over a WebSocket a key of an unknown app is an invalid credential
            error = RefusedError(40101, refused.message) if refused.code == NO_APP else refused
            self._refuse(error, Format.MSGPACK if query.get("format") == "msgpack" else Format.JSON)
            return False
        self._epoch = self.connection.socket
        self._wake()
        return True

    def _refuse(self, error: RefusedError, form: Format) -> None:
        message = {"action": int(Action.ERROR), "error": error.as_wire()}
        if self._transport is not None:
            self._transport.write(frame(message, form))

    def _wake(self) -> None:
        if self.connection is not None:
            self._turn.add(self)

    def _is_replaced(self) -> bool:
        return self.connection is not None and self.connection.socket != self._epoch

    async def _read(self) -> None:
        connection = self.connection
        async for message in self._websocket:
            self._hub.faults.count("freeze")
            while self._hub.faults.is_on("freeze"):  # noqa: ASYNC110 - a switch, flipped from anywhere
                await asyncio.sleep(_THAW_S)
            if connection is None or self._is_replaced():
                return
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                connection.receive(message.data)

    def _lost(self) -> None:
        connection = self.connection
        if connection is None or self._is_replaced():
            return
        if self._hub.connections.get(connection.connection_id) is connection:
            connection.lose(self._hub.now_ms())

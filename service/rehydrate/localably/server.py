"""The server: hub, sockets and REST on one port of the loopback, in the running event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from aiohttp import web

from . import rest, rest_messages
from .config import STANDARD_NAMESPACES, Key, Namespace, Settings, apps_of
from .hub import Hub
from .socket import Socket, Turn

_TICK_S = 0.25
_SHUTDOWN_S = 2.0
_LARGEST_BODY_BYTES = 4 * 1024 * 1024


class LocalAbly:
    """A channel server that speaks Ably's protocol, for development and tests.

    Use it as an async context manager; it serves between entering and leaving::

        async with LocalAbly() as server:
            client = AblyRealtime(server.key, endpoint=f"127.0.0.1:{server.port}", tls=False)

    Args:
        port: the port on 127.0.0.1; 0 takes a free one.
        keys: API keys, `appId.keyId:secret`; none makes one of a new app.
        data_dir: where persisted channels are kept; None keeps them in memory only.
        retention_s: how long channels without persistence keep history.
        namespaces: rules of channels by the first segment of their names.
        settings: everything else; *retention_s* goes before its own.

    Attributes:
        hub: channels and connections.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        keys: Sequence[str | Key] = (),
        data_dir: Path | None = None,
        retention_s: float | None = None,
        namespaces: Sequence[Namespace] = STANDARD_NAMESPACES,
        settings: Settings | None = None,
    ) -> None:
        chosen = settings or Settings()
        if retention_s is not None:
            chosen = replace(chosen, retention_s=retention_s)
        apps = apps_of(keys, namespaces)
        self.hub = Hub(apps, chosen, _now_ms, _later)
        self._first_key = next(iter(next(iter(apps.values())).keys.values()))
        self._port = port
        self._data_dir = data_dir
        self._turn = Turn(self._make_durable)
        self._sockets: set[Socket] = set()
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The port that is served."""
        return self._port

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def key(self) -> str:
        """The first key, `appId.keyId:secret`."""
        return self._first_key.value

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Serve.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application(
            middlewares=[rest.errors_and_origins], client_max_size=_LARGEST_BODY_BYTES
        )
        app[rest.HUB] = self.hub
        app.add_routes([web.get("/", self._root), *rest_messages.routes()])
        app.router.add_route("OPTIONS", "/{tail:.*}", _options)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        beat_s = self.hub.settings.max_idle_interval_s / 3
        self._tasks = [
            asyncio.create_task(_every(_TICK_S, self.hub.tick), name="localably tick"),
            asyncio.create_task(_every(beat_s, self.hub.beat), name="localably heartbeats"),
        ]

    async def stop(self) -> None:
        """Stop serving; connections are closed and the port is free afterwards."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for socket in list(self._sockets):
            socket.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _root(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(text="localably: a local Ably-protocol channel server\n")
        socket = Socket(self.hub, request, self._turn)
        self._sockets.add(socket)
        try:
            return await socket.serve()
        finally:
            self._sockets.discard(socket)

    def _make_durable(self) -> None:
        """Write what this turn acknowledges."""


async def _every(interval_s: float, act: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        act()


async def _options(_: web.Request) -> web.Response:
    return web.Response(status=204)


def _later(delay_s: float, act: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, act)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""The server: hub, sockets and REST on one port of the loopback, in the running event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from aiohttp import web

from . import control, page, rest, rest_apps, rest_history, rest_publish, tls
from .config import STANDARD_NAMESPACES, App, Key, LocalAblySettings, Namespace, apps_of
from .errors import RefusedError
from .faults import Faults
from .hub import Hub
from .socket import Socket, Turn
from .store import ChannelStore
from .webhooks import Webhook, WebhookRule

_LOG = logging.getLogger("localably")
_TICK_S = 0.25
_PURGE_S = 60.0
_SHORTEST_IDLE_S = 5.0  # the smallest heartbeatInterval
_SHUTDOWN_S = 2.0
_LARGEST_PORT = 65_535
_LARGEST_BODY_BYTES = 4 * 1024 * 1024


class LocalAbly:
    """A channel server that speaks Ably's protocol, for development and tests.

    Use it as an async context manager; it serves between entering and leaving::

        async with LocalAbly() as server:
            client = AblyRealtime(server.key, endpoint=f"127.0.0.1:{server.port}", tls=False)

    Args:
        port: the port on 127.0.0.1; 0 takes a free one.
        keys: API keys, `appId.keyId:secret`; none makes one of a new app.
        apps: apps with their keys and namespaces, instead of *keys* and *namespaces*.
        data_dir: where persisted channels are kept; None keeps them in memory only.
        tls_dir: serves over TLS only, with the self-signed certificate in this folder; it is created
            if absent. None serves without TLS.
        retention_s: how long channels without persistence keep history; goes before *settings*.
        namespaces: rules of channels by the first segment of their names.
        webhooks: where messages are posted to.
        settings: everything else.

    Attributes:
        hub: channels and connections.

    Raises:
        RefusedError: *port* is outside its range.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        keys: Sequence[str | Key] = (),
        apps: Sequence[App] = (),
        data_dir: Path | str | None = None,
        tls_dir: Path | str | None = None,
        retention_s: float | None = None,
        namespaces: Sequence[Namespace] = STANDARD_NAMESPACES,
        webhooks: Sequence[WebhookRule] = (),
        settings: LocalAblySettings | None = None,
    ) -> None:
        if not 0 <= port <= _LARGEST_PORT:  # the event loop would use it modulo 65536
            raise RefusedError(40000, f"the port must be 0 to {_LARGEST_PORT}, not {port}")
        chosen = settings or LocalAblySettings()
        if retention_s is not None:
            chosen = replace(chosen, retention_s=retention_s)
        self._apps = {app.app_id: app for app in apps} or apps_of(keys, namespaces)
        self._settings = chosen
        self._first_key = next(iter(next(iter(self._apps.values())).keys.values()))
        self._port = port
        self._data_dir = data_dir
        self._tls_dir = tls_dir
        self._rules = tuple(webhooks)
        self._store: ChannelStore | None = None
        self._sockets: set[Socket] = set()
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.hub = Hub(self._apps, chosen, _now_ms, _later)

    @property
    def port(self) -> int:
        """The port that is served."""
        return self._port

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, or `https:` with TLS."""
        scheme = "http" if self._tls_dir is None else "https"
        return f"{scheme}://127.0.0.1:{self._port}"

    @property
    def key(self) -> str:
        """The first key, `appId.keyId:secret`."""
        return self._first_key.value

    @property
    def faults(self) -> Faults:
        """The switches that make faults happen."""
        return self.hub.faults

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Serve.

        Raises:
            OSError: the port is taken, or a folder cannot be used.
        """
        context = None if self._tls_dir is None else tls.server_context(Path(self._tls_dir))
        if self._data_dir is not None:
            self._store = ChannelStore(Path(self._data_dir))
            self.hub.store = self._store
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=context).start()
        except OSError:
            await self.stop()
            raise
        self._port = self._runner.addresses[0][1]
        beat_s = min(self._settings.max_idle_interval_s, _SHORTEST_IDLE_S) / 6
        acts = [(_TICK_S, self._tick), (beat_s, self.hub.beat), (_PURGE_S, self._purge)]
        self._tasks = [asyncio.create_task(_every(interval_s, act)) for interval_s, act in acts]
        for rule in self._rules:
            webhook = Webhook(rule, self.faults)
            self.hub.listeners.append(webhook.listen)
            self._tasks.append(asyncio.create_task(webhook.run()))

    async def stop(self) -> None:
        """Stop serving; connections are closed, and port and data folder are free afterwards."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                _LOG.error("a task of the server had failed", exc_info=ended)
        self.hub.listeners.clear()
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._store is not None:
            self.hub.store = None
            self._store.close()
            self._store = None

    def cut(
        self,
        connection_id: str | None = None,
        client_id: str | None = None,
        channel: str | None = None,
    ) -> int:
        """Drop sockets as a lost network does; return how many.

        Args:
            connection_id: only that connection's.
            client_id: only those of that client.
            channel: only those attached to that channel.
        """
        cut = 0
        for socket in list(self._sockets):
            if socket.concerns(connection_id, client_id, channel):
                socket.cut()
                cut += 1
        return cut

    def expire(self, channel: str | None = None) -> int:
        """Forget history now, of one channel or of all; return of how many channels."""
        return self.hub.expire(channel)

    def restart(self) -> None:
        """Drop everything that does not survive a restart, and every socket."""
        self._make_durable()
        self.hub.restart()
        self.cut()

    def _app(self) -> web.Application:
        app = web.Application(
            middlewares=[rest.errors_and_origins], client_max_size=_LARGEST_BODY_BYTES
        )
        app[rest.HUB] = self.hub
        app[rest.DURABLE] = self._make_durable
        app[control.SERVER] = self
        turn = Turn(self._make_durable)

        async def root(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Upgrade", "").lower() != "websocket":
                return page.show(request)
            return await self._serve_socket(Socket(self.hub, request, turn))

        app.add_routes([web.get("/", root)])
        for module in (rest_apps, rest_publish, rest_history, control):
            app.add_routes(module.routes())
        app.router.add_route("OPTIONS", "/{tail:.*}", _options)
        return app

    async def _serve_socket(self, socket: Socket) -> web.StreamResponse:
        self._sockets.add(socket)
        try:
            return await socket.serve()
        finally:
            self._sockets.discard(socket)

    def _tick(self) -> None:
        self.hub.tick()
        self._make_durable()
        for socket in list(self._sockets):
            socket.tend()

    def _purge(self) -> None:
        if self._store is not None:
            self._store.purge(self.hub.retention_ms_of, _now_ms())

    def _make_durable(self) -> None:
        """Write what this turn acknowledges."""
        if self._store is not None:
            self._store.commit()


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

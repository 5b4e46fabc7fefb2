"""``rehydrate serve``: run the service under uvicorn and print a line when it is ready."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import uvicorn

from rehydrate.api.telemetry import uvicorn_options
from rehydrate.cli.connections import BoundedProtocol
from rehydrate.descriptors import raise_limit
from rehydrate.errors import ChannelUnavailable, NotConfigured
from rehydrate.history import History
from rehydrate.settings import Settings

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class _Server(uvicorn.Server):
    """A uvicorn server that prints ``ready <url>`` and shuts down cleanly on SIGTERM and SIGINT.

    uvicorn's own signal handlers raise the signal again after the shutdown. That would turn every
    stop into a failure, and would kill the process before the caller has closed its own resources.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _collect_rarely()
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            sys.stdout.write(f"ready http://{shown}:{port}\n")
            sys.stdout.flush()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def _collect_rarely() -> None:
    """Exclude loaded modules from garbage collection and collect less often.

    A full collection pauses every open stream while it scans all loaded modules.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


class _OwnChannelHistory(History):
    """A history whose channel server was started for it: without that, the service is not ready.

    Where Ably is the channel server, its outage is reported, but no process is taken out of use.
    """

    async def ready(self) -> dict[str, str]:
        checks = await super().ready()
        if checks["channel"] != "ok":
            raise ChannelUnavailable(checks["channel"])
        return checks


async def serve(settings: Settings, *, own_channel: bool = False) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: the settings.
        own_channel: the channel server was started for this service, and must run.

    Returns:
        The exit code: 0, or 1 if the service did not start.

    Raises:
        NotConfigured: a setting is missing, or the address cannot be bound; names the setting.
    """
    raise_limit()
    app = (_OwnChannelHistory if own_channel else History)(settings).app()
    with ExitStack() as stack:
        sockets = await _listen(settings.host, settings.port)
        for each in sockets:
            stack.enter_context(each)
        options = {"http": BoundedProtocol, **uvicorn_options()}
        server = _Server(uvicorn.Config(app, lifespan="on", **options))
        await server.serve(sockets)
    return 0 if server.started else 1


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of *host* that this machine has, on the same port.

    Name resolution also returns addresses of families that the machine has switched off, such as
    ``::1`` for ``localhost``.
    """
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            bound_port = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(socket.create_server((address[0], bound_port), family=family))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if not sockets and absent is not None:
            raise absent
    except OSError as error:
        for each in sockets:
            each.close()
        raise NotConfigured(
            f"REHYDRATE_HOST, REHYDRATE_PORT (--host, --port): cannot listen on {host}:{port} "
            f"({error.strerror or error})"
        ) from None
    return sockets

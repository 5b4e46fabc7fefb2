"""Serve the service by uvicorn, and say when it answers."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from rehydrate.api.logs import uvicorn_options
from rehydrate.wiring import History

if TYPE_CHECKING:
    from rehydrate.settings import Settings


class _Server(uvicorn.Server):
    """Prints the line ``ready <url>`` once connections are answered."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            for server in self.servers:
                host, port = server.sockets[0].getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                sys.stdout.write(f"ready http://{shown}:{port}\n")
                sys.stdout.flush()
                return


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        NotConfigured: something is missing; names it.
    """
    config = uvicorn.Config(
        History(settings).app(),
        host=settings.host,
        port=settings.port,
        lifespan="on",
        **uvicorn_options(),
    )
    server = _Server(config)
    await server.serve()
    return 0 if server.started else 1

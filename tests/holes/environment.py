"""The environment of the rows: a channel server, the service, and an agent with the library."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

from api.minting import SERVICE_KEY
from api.serving import served_beside
from participants import settings_for
from rehydrate import History

HEARTBEAT_S = 0.005


class HeldAnswers:
    """The service, with answers that can be held back on their way to readers."""

    def __init__(self, app):
        self._app = app
        self._held = {}
        self._lock = threading.Lock()  # the service runs in a thread of its own

    def hold(self, path):
        self._held[path] = 0

    def release(self, path):
        with self._lock:
            self._held.pop(path, None)

    def held_count(self, path):
        """Return how many answers are held back."""
        return self._held.get(path, 0)

    async def __call__(self, scope, receive, send):
        path = scope.get("path", "")
        if path not in self._held:
            await self._app(scope, receive, send)
            return
        sent = []

        async def keep(message):
            sent.append(message)

        await self._app(scope, receive, keep)
        with self._lock:
            if path in self._held:
                self._held[path] += 1
        while path in self._held:  # noqa: ASYNC110 - a switch, flipped from another thread
            await asyncio.sleep(HEARTBEAT_S)
        for message in sent:
            await send(message)


class Environment:
    """A channel server, a service over it, and an agent that uses the library."""

    def __init__(self, server, history, service, url, node):
        self.server = server
        self.history = history
        self.service = service
        self.url = url
        self.node = node

    @property
    def variables(self):
        """Its settings, as environment variables of another process."""
        settings = self.history.settings
        return {
            "REHYDRATE_DATABASE_URL": settings.required_database_url(),
            "REHYDRATE_CHANNEL_TEMPLATE": settings.channel_template,
            "REHYDRATE_LEASE_SECONDS": str(settings.lease_s),
            "REHYDRATE_PUBLISH_RATE": "0",
            "ABLY_API_KEY": self.server.key,
            "ABLY_ENDPOINT": "127.0.0.1",
            "ABLY_PORT": str(self.server.port),
            "ABLY_TLS": "false",
        }


@asynccontextmanager
async def open_environment(server, database, node, **more):
    """Run a service on *server* and *database* for the block; *more*: its settings."""
    settings = settings_for(database, server, service_keys=SERVICE_KEY, publish_rate=0, **more)
    service = HeldAnswers(History(settings).app())
    async with served_beside(service) as url, History(settings) as history:
        yield Environment(server, history, service, url, node)

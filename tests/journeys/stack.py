"""A real service, channel server and Postgres, each in its own process."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import jwt

from fault_checks import remote_fault
from rehydrate.demo.check import Target
from rehydrate.demo.processes import Child
from rehydrate.settings import Settings, load_settings

ORIGIN = "https://chat.example"
SERVICE_KEY = secrets.token_urlsafe(24)


class Stack(NamedTuple):
    """A running service and channel server."""

    service: Child
    ably: Child
    settings: Settings
    environment: dict[str, str]

    def token(self, conversation_id, operations=("subscribe", "history")):
        """Return a reader's token for one conversation."""
        name, _, secret = self.settings.required_ably_key().partition(":")
        now_s = int(time.time())
        claims = {
            "iat": now_s,
            "exp": now_s + 3600,
            "x-ably-capability": json.dumps(
                {self.settings.channel_of(conversation_id): operations}
            ),
        }
        return jwt.encode(claims, secret, "HS256", headers={"kid": name})

    def target(self, conversation_id, token=None):
        return Target(
            self.service.url,
            conversation_id,
            self.settings.channel_of(conversation_id),
            token or self.token(conversation_id),
            "127.0.0.1",
            self.settings.ably_port,
            tls=False,
        )

    def fault(self, name, **parameters):
        """Keep a fault of the channel server on for the block; assert that it fired."""
        return remote_fault(self.ably.url, name, **parameters)


@asynccontextmanager
async def stacked(database, port="0", **more):
    """Start a channel server and a service on *database* for the block; *more*: settings."""
    key = f"journey.key:{secrets.token_urlsafe(24)}"
    argv = ("--quiet", "local-ably", "--port", "0")
    async with Child(*argv, environment={"REHYDRATE_LOCAL_ABLY_KEY": key}) as ably:
        environment = {
            "REHYDRATE_DATABASE_URL": database,
            "REHYDRATE_PORT": port,
            "REHYDRATE_SERVICE_KEYS": SERVICE_KEY,
            "REHYDRATE_CORS_ORIGINS": ORIGIN,
            "ABLY_API_KEY": key,
            "ABLY_ENDPOINT": "127.0.0.1",
            "ABLY_PORT": str(urlsplit(ably.url).port),
            "ABLY_TLS": "false",
            **more,
        }
        settings = load_settings(**environment)
        async with Child("--quiet", "serve", environment=environment) as service:
            yield Stack(service, ably, settings, environment)

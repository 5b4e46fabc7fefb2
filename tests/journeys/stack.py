"""A real service, a real channel server, a real Postgres: each a process of its own."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import jwt

from rehydrate.demo.check import Target
from rehydrate.demo.processes import Child
from rehydrate.settings import Settings, load_settings
from waiting import PATIENCE_S

ORIGIN = "https://chat.example"
SERVICE_KEY = secrets.token_urlsafe(24)


class Stack(NamedTuple):
    """What a test joins."""

    service: Child
    ably: Child
    settings: Settings
    environment: dict[str, str]

    def token(self, conversation_id, operations=("subscribe", "history")):
        """A reader's token for that conversation alone."""
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

    @asynccontextmanager
    async def fault(self, name, **parameters):
        """A fault of the channel server, for as long as the block runs; gives its counts."""
        where = f"{self.ably.url}/localably/faults"
        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            switched = await http.put(f"{where}/{name}", json=parameters)
            assert switched.status_code == 200, switched.text

            async def fired():
                return (await http.get(where)).json()[name]["fired"]

            try:
                yield fired
            finally:
                await http.delete(f"{where}/{name}")


@asynccontextmanager
async def stacked(database, port="0", **more):
    """Start them all; the database is there. *more* are settings of the service."""
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

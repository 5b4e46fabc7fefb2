"""Embedded defaults: start a Postgres and a local channel server where none is configured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from rehydrate.background import PeriodicTask
from rehydrate.database import migrate
from rehydrate.embedded.channel import EmbeddedChannel
from rehydrate.embedded.folder import EmbeddedError
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.embedded.server import EmbeddedServer
from rehydrate.errors import NotConfigured, Unavailable
from rehydrate.settings import Settings

KEEP_INTERVAL_S = 1.0


class NotRunning(Unavailable):
    """An embedded server cannot run; the message names the cause and a remedy."""

    code = "not_running"


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[Settings]:
    """Start the missing services, keep them running, and migrate the schema, while the block runs.

    Processes that use the same data folder share the services; those that this process started
    end with the block.

    Yields:
        The settings, completed with the started services.

    Raises:
        NotRunning: a service does not start.
        NotConfigured: the data folder cannot be used.
    """
    folder = settings.data_dir
    _make(folder)
    found: dict[str, object] = {}
    async with AsyncExitStack() as stack:
        if settings.database_url is None:
            postgres = EmbeddedPostgres(folder / "postgres")
            await stack.enter_async_context(_running(postgres))
            found["database_url"] = postgres.url
        if settings.ably_api_key is None:
            _make(folder / "localably")
            channel = EmbeddedChannel(folder / "localably")
            await stack.enter_async_context(_running(channel))
            found |= {"ably_api_key": channel.key, "ably_port": channel.port}
            found |= {"ably_endpoint": "127.0.0.1", "ably_tls": False}
        completed = Settings(**(settings.model_dump() | found))
        await migrate(completed.required_database_url())
        yield completed


@asynccontextmanager
async def _running(server: EmbeddedServer) -> AsyncIterator[None]:
    """Run *server* while the block runs; start it again if it, its guard or its owner ends.

    Raises:
        NotRunning: it does not start or stop; names the cause and what to do.
    """

    async def keep() -> None:
        try:
            await asyncio.to_thread(server.keep)
        except EmbeddedError as error:
            raise NotRunning(str(error)) from error

    keeping = PeriodicTask(f"embedded {server.name}", keep, every_s=KEEP_INTERVAL_S)
    try:
        async with server:
            keeping.open()
            try:
                yield
            finally:
                await keeping.close()
    except EmbeddedError as error:
        raise NotRunning(str(error)) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise NotConfigured(f"REHYDRATE_DATA_DIR: cannot create {folder} ({why})") from None

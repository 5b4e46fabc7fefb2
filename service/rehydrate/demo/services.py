"""Embedded defaults: start a Postgres and a local channel server where none is configured."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import secrets
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rehydrate.database import embedded_postgres, migrate
from rehydrate.demo.processes import Child, NotStarted
from rehydrate.errors import NotConfigured
from rehydrate.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_ATTACH_TIMEOUT_S = 30.0
_KEY_NAME = "local.demo"


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[Settings]:
    """Start the missing services and migrate the schema while the block runs.

    Processes that use the same data folder share the services; those that this process started
    end with the block.

    Yields:
        The settings, completed with the started services.

    Raises:
        StoreUnavailable: the database does not start.
        NotStarted: the channel server does not start.
        NotConfigured: the data folder cannot be used.
    """
    folder = settings.data_dir
    _make(folder)
    found: dict[str, object] = {}
    async with AsyncExitStack() as stack:
        if settings.database_url is None:
            postgres = embedded_postgres(folder / "postgres")
            found["database_url"] = await stack.enter_async_context(postgres)
        await stack.enter_async_context(_channel(settings, found))
        completed = Settings(**(settings.model_dump() | found))
        await migrate(completed.required_database_url())
        yield completed


@asynccontextmanager
async def _channel(settings: Settings, found: dict[str, object]) -> AsyncIterator[None]:
    if settings.ably_api_key is not None:
        yield
        return
    folder = settings.data_dir / "localably"
    _make(folder)
    found["ably_api_key"] = key = _stored_key(folder / "key")
    found |= {"ably_endpoint": "127.0.0.1", "ably_tls": False}
    with (folder / "owner.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found["ably_port"] = await asyncio.to_thread(_port_of_owner, folder / "port")
            yield
            return
        (folder / "port").unlink(missing_ok=True)
        argv = ("--quiet", "local-ably", "--port", "0", "--data-dir", str(folder))
        async with Child(*argv, environment={"REHYDRATE_LOCAL_ABLY_KEY": key}) as server:
            port = urlsplit(server.url).port
            found["ably_port"] = port
            (folder / "port").write_text(str(port))
            yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise NotConfigured(f"REHYDRATE_DATA_DIR: cannot create {folder} ({why})") from None


def _stored_key(path: Path) -> str:
    """Return the folder's key (appId.keyId:secret), generated on first use.

    The file is linked to its name when it is complete, so no process can read half a key.
    """
    while not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # readable by the owner
            file.write(f"{_KEY_NAME}:{secrets.token_urlsafe(24)}")
            file.flush()
            with contextlib.suppress(FileExistsError):  # another process was faster
                path.hardlink_to(file.name)
    return path.read_text()


def _port_of_owner(path: Path) -> int:
    """Wait for the port that the process that owns the folder writes; return it."""
    deadline = time.monotonic() + _ATTACH_TIMEOUT_S
    while time.monotonic() < deadline:
        if path.exists() and (port := path.read_text()):
            return int(port)
        time.sleep(0.05)
    raise NotStarted(f"the channel server that owns {path.parent} did not write its port in time")

"""The embedded defaults: where nothing is configured, a Postgres and a channel server of our own."""

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

from rehydrate.demo.processes import Child, NotStarted
from rehydrate.errors import NotConfigured
from rehydrate.history import embedded_postgres, migrate
from rehydrate.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_ATTACH_TIMEOUT_S = 30.0
_KEY_NAME = "local.demo"


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[Settings]:
    """The *settings*, with what is missing started below the data folder, and the schema at head.

    Two processes on one folder share what runs; what this one started ends with the block.

    Raises:
        StoreUnavailable: the database does not start; says why.
        NotStarted: the channel server does not.
        NotConfigured: the folder cannot be used.
    """
    folder = settings.data_dir
    _make(folder)
    found: dict[str, object] = {}
    async with AsyncExitStack() as stack:
        if settings.database_url is None:
            postgres = embedded_postgres(folder / "postgres")
            found["database_url"] = await stack.enter_async_context(postgres)
        await stack.enter_async_context(_channel(settings, found))
        completed = load_settings(**(settings.model_dump() | found))
        await migrate(completed.required_database_url())
        yield completed


@asynccontextmanager
async def _channel(settings: Settings, found: dict[str, object]) -> AsyncIterator[None]:
    if settings.ably_api_key is not None:
        yield
        return
    folder = settings.data_dir / "localably"
    _make(folder)
    found["ably_api_key"] = key = _kept_secret(folder / "key")
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
        raise NotConfigured(f"REHYDRATE_DATA_DIR: {folder} cannot be made ({why})") from None


def _kept_secret(path: Path) -> str:
    """A key of form appId.keyId:secret, made once for the folder, whole before it has its name."""
    while not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # only the owner reads it
            file.write(f"{_KEY_NAME}:{secrets.token_urlsafe(24)}")
            file.flush()
            with contextlib.suppress(FileExistsError):  # another process was faster
                path.hardlink_to(file.name)
    return path.read_text()


def _port_of_owner(path: Path) -> int:
    """The port that the owner of the folder wrote down, once it did."""
    deadline = time.monotonic() + _ATTACH_TIMEOUT_S
    while time.monotonic() < deadline:
        if path.exists() and (port := path.read_text()):
            return int(port)
        time.sleep(0.05)
    raise NotStarted(f"the channel server that holds {path.parent} does not answer")

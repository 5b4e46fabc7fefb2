"""The database of a deployment: its schema, and an embedded server for machines without one."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from rehydrate.embedded.postgres import EmbeddedPostgres, EmbeddedPostgresError
from rehydrate.errors import NotConfigured, StoreUnavailable
from rehydrate.postgres import migrations
from rehydrate.postgres.url import DatabaseUrlError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


async def migrate(database_url: str) -> None:
    """Migrate the schema of the database to head.

    Raises:
        NotConfigured: the URL cannot be parsed.
        StoreUnavailable: Postgres does not answer.
    """
    with named_setting():
        await migrations.migrate(database_url)


async def schema_revision(database_url: str) -> str | None:
    """Return the revision of the database's schema; None if it has none.

    Raises:
        StoreUnavailable: Postgres does not answer.
    """
    return await migrations.current(database_url)


@asynccontextmanager
async def embedded_postgres(folder: Path) -> AsyncIterator[str]:
    """Run a Postgres server in *folder* while the block runs; yield its URL.

    Raises:
        StoreUnavailable: it does not start or stop; names the cause and what to do.
    """
    try:
        async with EmbeddedPostgres(folder) as postgres:
            yield postgres.url
    except EmbeddedPostgresError as error:
        raise StoreUnavailable(str(error)) from error


@contextmanager
def named_setting() -> Iterator[None]:
    """Name the setting in the error of a URL that cannot be parsed.

    Raises:
        NotConfigured: the URL cannot be parsed.
    """
    try:
        yield
    except DatabaseUrlError as error:
        raise NotConfigured(f"REHYDRATE_DATABASE_URL: {error}") from None

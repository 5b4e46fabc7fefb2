"""The database of a deployment: its schema, and the setting that names it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rehydrate.errors import NotConfigured
from rehydrate.postgres import migrations
from rehydrate.postgres.url import DatabaseUrlError

if TYPE_CHECKING:
    from collections.abc import Iterator


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

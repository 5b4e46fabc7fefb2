"""Run and inspect the schema's Alembic migrations, from the wheel or from a checkout."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rehydrate.errors import StoreUnavailable
from rehydrate.postgres.pool import CONNECT_TIMEOUT_S, raise_translated
from rehydrate.postgres.statements import FLOOR
from rehydrate.postgres.url import connect_arguments

MIGRATION_LOCK = 0x7265687964726174
"""Key of the advisory lock that a migration holds (the bytes of "rehydrat")."""

LOCK_TIMEOUT = "60s"
TABLE_LOCK_TIMEOUT = "5s"
"""How long a migration waits for another one, and for a table.

A migration that waits for a table blocks every later query of that table. So it gives up quickly,
and can be run again.
"""

_Result = TypeVar("_Result")

_PACKAGE = Path(__file__).parents[1]
_MIGRATION_FOLDERS = (_PACKAGE / "migrations", _PACKAGE.parents[1] / "migrations")
"""The migrations' folder in an installed wheel, and in a checkout."""


def config() -> Config:
    """Return an Alembic configuration that needs no ``alembic.ini``.

    Raises:
        FileNotFoundError: the package was installed without its migrations.
    """
    for place in _MIGRATION_FOLDERS:
        if (place / "env.py").is_file():
            made = Config()
            made.set_main_option("script_location", str(place).replace("%", "%%"))
            made.set_main_option("path_separator", "os")
            return made
    raise FileNotFoundError("the package has no migrations folder: reinstall rehydrate")


@cache
def head() -> str:
    """Return the newest revision that this code has."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    if revision is None:
        raise FileNotFoundError("the migrations folder is empty: reinstall rehydrate")
    return revision


@cache
def known_revisions() -> frozenset[str]:
    """Return all revisions that this code has."""
    scripts = ScriptDirectory.from_config(config())
    return frozenset(script.revision for script in scripts.walk_revisions())


def compatible(at: str, floor: str | None) -> bool:
    """Return True if this code can run on a schema at the revision *at*.

    It can on its own head, and on a newer schema whose *floor* (the oldest revision whose code may
    use it) is a revision that this code has. That is how two releases run side by side during an
    upgrade.
    """
    return at == head() or (at not in known_revisions() and floor in known_revisions())


async def current(url: str) -> str | None:
    """Return the revision of the schema at *url*, or None if it has no schema.

    Raises:
        StoreUnavailable: Postgres does not answer.
    """

    def read_revision(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    return await _run_in_transaction(url, read_revision)


async def migrate(url: str, revision: str = "head") -> None:
    """Bring the schema at *url* to *revision*, in one transaction.

    Concurrent calls are safe: one migrates, the others wait for it. A schema that is newer than
    this code is left as it is if this code can run on it.

    Args:
        url: a libpq URL.
        revision: ``head``, a revision, a relative step such as ``+1``, or ``base``, which drops
            everything.

    Raises:
        StoreUnavailable: Postgres does not answer, a table stayed locked for too long, or the
            schema is too new for this code.
    """

    def run(connection: Connection) -> None:
        lock_for_migration(connection)  # first: Alembic keeps its state in module globals
        at = MigrationContext.configure(connection).get_current_revision()
        if at is not None and at not in known_revisions():
            floor = connection.execute(text(FLOOR)).scalar() if _has_floor(connection) else None
            if revision == "head" and compatible(at, floor):
                return
            raise StoreUnavailable(too_old_message(at))
        made = config()
        made.attributes["connection"] = connection
        up = revision == "head" or revision.startswith("+")
        (command.upgrade if up else command.downgrade)(made, revision)

    await _run_in_transaction(url, run)


def too_old_message(at: str) -> str:
    """Return the error message for a schema at *at* that is too new for this code."""
    return f"the schema is at {at}, which needs newer code than {head()}: update rehydrate"


def _has_floor(connection: Connection) -> bool:
    return bool(connection.execute(text("SELECT to_regclass('schema_floor')")).scalar())


def lock_for_migration(connection: Connection) -> None:
    """Take the migration lock for the rest of the transaction, waiting for other migrations."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_LOCK_TIMEOUT}'"))


async def _run_in_transaction(url: str, work: Callable[[Connection], _Result]) -> _Result:
    engine = engine_of(url)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        raise_translated(error)
    except DBAPIError as error:
        raise_translated(error.orig.__cause__ or error if error.orig else error)
    finally:
        await engine.dispose()


def engine_of(url: str) -> AsyncEngine:
    """Return an engine for schema changes: one connection, no prepared statements.

    Prepared statements would fail behind a pooler in transaction mode.
    """

    async def connect() -> Any:
        return await asyncpg.connect(
            **{"timeout": CONNECT_TIMEOUT_S, **connect_arguments(url), "statement_cache_size": 0}
        )

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)

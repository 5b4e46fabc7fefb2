"""The schema, up to date: Alembic's migrations, found beside the code or in the checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rehydrate.errors import StoreUnavailable
from rehydrate.postgres.pool import CONNECT_TIMEOUT_S, raise_meant
from rehydrate.postgres.statements import FLOOR
from rehydrate.postgres.url import connect_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

MIGRATING = 0x7265687964726174
"""The advisory lock of whoever migrates ("rehydrat")."""

WAIT_FOR_OTHERS = "60s"
WAIT_FOR_TABLES = "5s"
"""Behind a lock that waits for a table, everybody else waits: so it gives up soon."""

_Result = TypeVar("_Result")

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "migrations", _PACKAGE.parents[1] / "migrations")
"""Where the wheel has them, and where a checkout does."""


def config() -> Config:
    """Alembic's configuration, without a file.

    Raises:
        FileNotFoundError: the package was installed without its migrations.
    """
    for place in _PLACES:
        if (place / "env.py").is_file():
            made = Config()
            made.set_main_option("script_location", str(place).replace("%", "%%"))
            made.set_main_option("path_separator", "os")
            return made
    raise FileNotFoundError("the migrations are not beside the package: install it again")


@cache
def head() -> str:
    """The newest revision."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    if revision is None:
        raise FileNotFoundError("there is no migration")
    return revision


@cache
def known() -> frozenset[str]:
    """All revisions that this code knows."""
    scripts = ScriptDirectory.from_config(config())
    return frozenset(script.revision for script in scripts.walk_revisions())


def fits(at: str, floor: str | None) -> bool:
    """Whether this code may run on a schema at *at*, whose *floor* is so high.

    It may on its own; and on a newer one that has only been added to since a revision it knows.
    """
    return at == head() or (at not in known() and floor in known())


async def current(url: str) -> str | None:
    """The revision of the schema at *url*; None if it has none.

    Raises:
        StoreUnavailable: Postgres does not answer.
    """

    def told(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    return await _within(url, told)


async def migrate(url: str, revision: str = "head") -> None:
    """Bring the schema at *url* to *revision*, in one transaction; ``base`` takes it all away.

    Several may do so at once: one does, the others wait for it. One that is newer than this code
    stays as it is, if this code may run beside it.

    Raises:
        StoreUnavailable: Postgres does not answer, or others use the tables for too long; or the
            schema is newer than this code may be.
    """

    def run(connection: Connection) -> None:
        alone(connection)  # before Alembic begins: it keeps what it works on in its modules
        at = MigrationContext.configure(connection).get_current_revision()
        if at is not None and at not in known():
            floor = connection.execute(text(FLOOR)).scalar() if _has_floor(connection) else None
            if revision == "head" and fits(at, floor):
                return
            raise StoreUnavailable(too_old(at))
        made = config()
        made.attributes["connection"] = connection
        up = revision == "head" or revision.startswith("+")
        (command.upgrade if up else command.downgrade)(made, revision)

    await _within(url, run)


def too_old(at: str) -> str:
    """What is told of a schema that this code is too old for."""
    return f"the schema is at {at}, which needs newer code than this, of {head()}: update it"


def _has_floor(connection: Connection) -> bool:
    return bool(connection.execute(text("SELECT to_regclass('schema_floor')")).scalar())


def alone(connection: Connection) -> None:
    """Wait until nobody else migrates the database, until the end of the transaction."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_FOR_OTHERS}'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATING})
    connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_FOR_TABLES}'"))


async def _within(url: str, work: Callable[[Connection], _Result]) -> _Result:
    engine = engine_of(url)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        raise_meant(error)
    except DBAPIError as error:
        raise_meant(error.orig.__cause__ or error if error.orig else error)
    finally:
        await engine.dispose()


def engine_of(url: str) -> AsyncEngine:
    """An engine for the work on the schema: one connection, no prepared statements."""

    async def connect() -> Any:
        return await asyncpg.connect(
            **{"timeout": CONNECT_TIMEOUT_S, **connect_arguments(url), "statement_cache_size": 0}
        )

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)

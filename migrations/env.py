"""How Alembic reaches the database: one at a time, and never waiting long for a table.

`rehydrate migrate` passes its connection in. The command `alembic`, for work on the schema, takes
the database of ``REHYDRATE_DATABASE_URL``.
"""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection

from rehydrate.postgres.migrations import alone, engine_of
from rehydrate.postgres.tables import metadata


def run(connection: Connection) -> None:
    """Run what was asked for, in the connection's transaction."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_server_default=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        alone(connection)
        context.run_migrations()


async def run_alone() -> None:
    """Run what was asked for on a connection of our own."""
    url = os.environ.get("REHYDRATE_DATABASE_URL")
    if not url:
        raise SystemExit("set REHYDRATE_DATABASE_URL to the database whose schema is meant")
    engine = engine_of(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations look at the database they change: run them on it")
given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_alone())

"""Alembic's environment: runs migrations one at a time, with a short wait for table locks.

`rehydrate migrate` passes its connection in. The command `alembic`, for development of the schema,
uses the database of ``REHYDRATE_DATABASE_URL``.
"""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection

from rehydrate.postgres.migrations import engine_of, lock_for_migration
from rehydrate.postgres.tables import metadata


def run(connection: Connection) -> None:
    """Run the requested migrations in the connection's transaction."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_server_default=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        lock_for_migration(connection)
        context.run_migrations()


async def run_standalone() -> None:
    """Run the requested migrations on a new connection to ``REHYDRATE_DATABASE_URL``."""
    url = os.environ.get("REHYDRATE_DATABASE_URL")
    if not url:
        raise SystemExit("set REHYDRATE_DATABASE_URL to the database to migrate")
    engine = engine_of(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline mode is not supported: the migrations read the database they change")
given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_standalone())

"""A Postgres whose wall clock a test sets: its statements call another ``clock_timestamp()``."""

from __future__ import annotations

from contextlib import asynccontextmanager

from conftest import connected

_SETUP = """
    CREATE SCHEMA shifted;
    CREATE TABLE shifted.by (seconds double precision);
    INSERT INTO shifted.by VALUES (0);
    CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS
        'SELECT pg_catalog.clock_timestamp() + make_interval(secs => seconds) FROM shifted.by';
    ALTER DATABASE {name} SET search_path = shifted, public, pg_catalog
"""


@asynccontextmanager
async def settable(database):
    """Yield a function that sets the clock of *database* by so many seconds; connect after this."""
    async with connected(database) as connection:
        await connection.execute(_SETUP.format(name=database.rpartition("/")[2]))

        async def set_by(seconds):
            await connection.execute(f"UPDATE shifted.by SET seconds = seconds + {seconds}")

        yield set_by

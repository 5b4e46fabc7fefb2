"""The schema goes up and down, equals its metadata, and is in the wheel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from conftest import connected, new_database
from rehydrate.errors import StoreUnavailable
from rehydrate.store import migrations
from rehydrate.store.migrations import current, engine_of, head, migrate
from rehydrate.store.postgres import PostgresStore
from rehydrate.store.tables import metadata

ROOT = Path(__file__).parents[2]

COLUMNS = """
    SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default,
        is_identity
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
"""
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
OPTIONS = """
    SELECT relname, reloptions FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') ORDER BY 1
"""
EVERYTHING = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


@pytest.fixture
async def empty(postgres) -> AsyncIterator[str]:
    async with new_database(postgres.url) as url:
        yield url


async def schema(url: str) -> list[list[tuple]]:
    async with connected(url) as connection:
        found = [await connection.fetch(sql) for sql in (COLUMNS, CONSTRAINTS, INDEXES, OPTIONS)]
    views = ("alembic_version", "messages_readable")
    return [[tuple(row) for row in rows if not row[0].startswith(views)] for rows in found]


async def test_it_goes_up_and_down_and_up(empty: str) -> None:
    assert await current(empty) is None
    await migrate(empty)
    once = await schema(empty)
    assert await current(empty) == head()
    await migrate(empty, "base")
    assert await current(empty) is None
    async with connected(empty) as connection:
        left = {row[0] for row in await connection.fetch(EVERYTHING)}
    assert left == {"alembic_version", "alembic_version_pkc"}
    await migrate(empty)
    assert await schema(empty) == once


async def test_migrating_again_changes_nothing(database: str) -> None:
    before = await schema(database)
    await migrate(database)
    assert await schema(database) == before


async def test_the_migrated_schema_is_the_one_of_the_metadata(empty: str, database: str) -> None:
    engine = engine_of(empty)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    assert await schema(database) == await schema(empty)


async def test_alembic_finds_nothing_to_do(database: str) -> None:
    def differences(connection) -> list:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, metadata)

    engine = engine_of(database)
    async with engine.begin() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()
    assert found == []


def test_there_is_one_head_and_names_are_dated() -> None:
    scripts = ScriptDirectory.from_config(migrations.config())
    assert len(scripts.get_heads()) == 1
    for script in scripts.walk_revisions():
        assert Path(script.path).name[:15].replace("-", "").isdigit()
        assert Path(script.path).name[15] == "_"


async def test_many_may_migrate_at_once(empty: str) -> None:
    await asyncio.gather(*(migrate(empty) for _ in range(4)))
    assert await current(empty) == head()


async def test_many_processes_may_migrate_at_once(empty: str) -> None:
    program = "import asyncio, sys; from rehydrate.store.migrations import migrate; "
    program += "asyncio.run(migrate(sys.argv[1]))"
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, empty) for _ in range(3)
    ]
    assert await asyncio.gather(*(process.wait() for process in started)) == [0, 0, 0]
    assert await current(empty) == head()


async def test_it_gives_up_rather_than_wait_behind_a_long_use_of_a_table(database: str) -> None:
    async with connected(database) as connection:
        async with connection.transaction():
            await connection.fetch("SELECT * FROM messages")
            with pytest.raises(StoreUnavailable):
                await migrate(database, "base")
        assert await current(database) == head()


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await migrate("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable):
        await current("postgresql://nobody@127.0.0.1:1/none")


async def test_a_store_is_not_ready_before_the_schema_is_at_head(empty: str) -> None:
    store = PostgresStore(empty)
    await store.open()
    try:
        with pytest.raises(StoreUnavailable, match="rehydrate migrate"):
            await store.ready()
        await migrate(empty)
        await store.ready()
        async with connected(empty) as connection:
            await connection.execute("UPDATE alembic_version SET version_num = 'older'")
        with pytest.raises(StoreUnavailable, match="older"):
            await store.ready()
    finally:
        await store.close()


async def test_the_audit_refuses_to_be_changed(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "INSERT INTO audit (conversation_id, at, actor, action, outcome) "
            "VALUES ('c', now(), 'admin', 'replay', 'done')"
        )
        for sql in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await connection.execute(sql)
        assert await connection.fetchval("SELECT count(*) FROM audit") == 1


@pytest.mark.slow
def test_the_wheel_carries_the_migrations(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    made = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    if "No module named hatchling" in made.stderr:
        pytest.skip("hatchling is not installed")
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    ask = "from rehydrate.store import migrations as m; print(m.head(), m.__file__)"
    told = subprocess.run(
        [sys.executable, "-c", ask],
        env={"PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()
    assert told == [head(), str(tmp_path / "installed/rehydrate/store/migrations.py")]

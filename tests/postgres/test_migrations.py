"""Migrations upgrade and downgrade, match the metadata, and are part of the wheel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from conftest import connected, new_database
from rehydrate.errors import StoreUnavailable
from rehydrate.postgres import migrations
from rehydrate.postgres.migrations import current, engine_of, head, migrate
from rehydrate.postgres.store import PostgresStore
from rehydrate.postgres.tables import metadata

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


ADDED = """
    SELECT c.table_name, c.column_name, c.data_type, c.is_nullable = 'NO',
        c.column_default IS NOT NULL OR c.is_identity = 'YES'
    FROM information_schema.columns AS c JOIN information_schema.tables AS t
        USING (table_schema, table_name)
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
"""
RULES = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), ARRAY(
        SELECT attname::text FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY(conkey)
    ) FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'p'
    UNION ALL SELECT indrelid::regclass::text, indexrelid::regclass::text, '', ARRAY(
        SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey)
    ) FROM pg_index JOIN pg_class AS t ON t.oid = indrelid
    WHERE indisunique AND t.relnamespace = 'public'::regnamespace
"""


class Shape(NamedTuple):
    """The parts of a schema that running code depends on: columns, and constraints on writes.

    ``columns``: type, NOT NULL, and has a default, by table and name.
    """

    columns: dict[tuple[str, str], tuple[str, bool, bool]]
    rules: set[tuple[str, str, frozenset[str], str]]


async def shape(connection: asyncpg.Connection) -> Shape:
    columns = {(row[0], row[1]): tuple(row[2:]) for row in await connection.fetch(ADDED)}
    rules = {(row[0], row[1], frozenset(row[3]), row[2]) for row in await connection.fetch(RULES)}
    return Shape(columns, rules)


def breaking_changes(before: Shape, after: Shape) -> list[object]:
    """Return the changes that would break code written for the schema *before*."""
    tables = {table for table, _ in before.columns}
    broken: list[object] = []
    for place, (kind, needed, defaulted) in before.columns.items():
        now = after.columns.get(place)
        tighter = now is not None and (now[1] > needed or (defaulted and not now[2]))
        if now is None or now[0] != kind or tighter:
            broken.append(place)
    new = {place: how for place, how in after.columns.items() if place not in before.columns}
    broken += [p for p, (_, needed, given) in new.items() if p[0] in tables and needed > given]
    for rule in after.rules - before.rules:
        table, _, columns, _ = rule
        if table in tables and not any((table, column) in new for column in columns):
            broken.append(rule)
    return broken


def steps_from(step: Script) -> int:
    return [each.revision for each in steps()].index(step.revision)


@pytest.fixture
async def empty(postgres) -> AsyncIterator[str]:
    async with new_database(postgres.url) as url:
        yield url


async def schema(url: str) -> list[list[tuple]]:
    async with connected(url) as connection:
        found = [await connection.fetch(sql) for sql in (COLUMNS, CONSTRAINTS, INDEXES, OPTIONS)]
    views = ("alembic_version", "messages_readable")
    return [[tuple(row) for row in rows if not row[0].startswith(views)] for rows in found]


async def test_upgrade_downgrade_and_upgrade_give_the_same_schema(empty: str) -> None:
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


async def test_the_migrated_schema_equals_the_metadata(empty: str, database: str) -> None:
    engine = engine_of(empty)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    assert await schema(database) == await schema(empty)


async def test_alembic_detects_no_difference_from_the_metadata(database: str) -> None:
    def differences(connection) -> list:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, metadata)

    engine = engine_of(database)
    async with engine.begin() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()
    assert found == []


def test_there_is_one_head_and_file_names_are_dated() -> None:
    scripts = ScriptDirectory.from_config(migrations.config())
    assert len(scripts.get_heads()) == 1
    for script in scripts.walk_revisions():
        assert Path(script.path).name[:15].replace("-", "").isdigit()
        assert Path(script.path).name[15] == "_"


async def test_concurrent_migrations_in_one_process_are_safe(empty: str) -> None:
    await asyncio.gather(*(migrate(empty) for _ in range(4)))
    assert await current(empty) == head()


async def test_concurrent_migrations_in_several_processes_are_safe(empty: str) -> None:
    program = "import asyncio, sys; from rehydrate.postgres.migrations import migrate; "
    program += "asyncio.run(migrate(sys.argv[1]))"
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, empty) for _ in range(3)
    ]
    assert await asyncio.gather(*(process.wait() for process in started)) == [0, 0, 0]
    assert await current(empty) == head()


async def test_a_migration_gives_up_on_a_table_that_stays_locked(database: str) -> None:
    async with connected(database) as connection:
        async with connection.transaction():
            await connection.fetch("SELECT * FROM messages")
            with pytest.raises(StoreUnavailable):
                await migrate(database, "base")
        assert await current(database) == head()


async def test_a_database_that_does_not_answer_is_reported_as_unavailable() -> None:
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
            await connection.execute("UPDATE alembic_version SET version_num = '0001_first_schema'")
        with pytest.raises(StoreUnavailable, match=r"0001_first_schema.*: run rehydrate migrate"):
            await store.ready()
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("floor", "fits"), [("0001_first_schema", True), (head(), True), ("0099_later", False)]
)
async def test_code_runs_on_a_newer_schema_unless_it_is_below_the_floor(
    database: str, floor: str, fits: bool
) -> None:
    async with connected(database) as connection:
        await connection.execute("UPDATE alembic_version SET version_num = '0100_later_still'")
        await connection.execute("UPDATE schema_floor SET revision = $1", floor)
    store = PostgresStore(database)
    await store.open()
    try:
        if fits:
            await store.ready()
            await migrate(database)
        else:
            for refused in (store.ready(), migrate(database), migrate(database, "base")):
                with pytest.raises(StoreUnavailable, match="needs newer code"):
                    await refused
    finally:
        await store.close()
    assert await current(database) == "0100_later_still"


async def test_a_schema_with_an_unknown_revision_is_rejected(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute("UPDATE alembic_version SET version_num = 'theirs'")
        await connection.execute("DROP TABLE schema_floor")
    store = PostgresStore(database)
    await store.open()
    try:
        with pytest.raises(StoreUnavailable):
            await store.ready()
        with pytest.raises(StoreUnavailable, match="theirs"):
            await migrate(database)
    finally:
        await store.close()


def steps() -> list[Script]:
    """Return the migrations after the first, oldest first."""
    return list(ScriptDirectory.from_config(migrations.config()).walk_revisions())[-2::-1]


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.revision)
async def test_a_migration_only_adds_or_declares_a_floor(empty: str, step: Script) -> None:
    """Code of the previous release keeps running during an upgrade: see CONTRIBUTING.md."""
    await migrate(empty, f"+{steps_from(step) + 1}")
    async with connected(empty) as connection:
        before = await shape(connection)
    await migrate(empty, "+1")
    assert await current(empty) == step.revision
    async with connected(empty) as connection:
        broken = breaking_changes(before, await shape(connection))
        found = await connection.fetchval("SELECT to_regclass('schema_floor')")
        floor = await connection.fetchval("SELECT revision FROM schema_floor") if found else None
    if (contracts := getattr(step.module, "floor", None)) is None:
        assert not broken
    else:
        assert floor == contracts != step.revision


def test_breaking_changes_are_detected() -> None:
    column = {("t", "a"): ("text", True, False)}
    before = Shape(column, set())
    assert not breaking_changes(before, Shape(column | {("t", "b"): ("int", False, True)}, set()))
    assert not breaking_changes(before, Shape(column | {("u", "b"): ("int", True, False)}, set()))
    for later in (
        Shape({}, set()),
        Shape({("t", "a"): ("int", True, False)}, set()),
        Shape(column | {("t", "b"): ("int", True, False)}, set()),
        Shape(column, {("t", "c", frozenset({"a"}), "CHECK (a > 0)")}),
    ):
        assert breaking_changes(before, later)
    looser = Shape({("t", "a"): ("text", False, False)}, set())
    assert not breaking_changes(before, looser)
    assert breaking_changes(looser, before)


async def test_the_audit_log_is_append_only(database: str) -> None:
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
def test_the_wheel_carries_the_migrations_and_the_page(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    made = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    if "No module named hatchling" in made.stderr:
        pytest.skip("hatchling is not installed")
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    program = "from rehydrate.postgres import migrations as m; print(m.head(), m.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()
    assert printed == [head(), str(tmp_path / "installed/rehydrate/postgres/migrations.py")]
    page = ROOT / "service" / "rehydrate" / "api" / "ui"
    carried = {path.name for path in (tmp_path / "installed/rehydrate/api/ui").iterdir()}
    assert carried == {path.name for path in page.iterdir()}

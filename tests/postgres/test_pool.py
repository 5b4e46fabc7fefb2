"""The pool limits every wait, translates every driver error, and recovers from each."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from conftest import connected, database_url
from contracts.messages import finished, put, response
from contracts.store_reading import Rows
from contracts.store_writing import Together
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.errors import BadParameter, StoreUnavailable
from rehydrate.postgres import pool as pool_module
from rehydrate.postgres.migrations import migrate
from rehydrate.postgres.pool import (
    ConnectionLost,
    ConstraintViolated,
    Pool,
    StatementFailed,
    translated,
)
from rehydrate.postgres.store import PostgresStore
from tcp_proxy import TcpProxy

NOWHERE = "postgresql://postgres@127.0.0.1:1/none"


@asynccontextmanager
async def opened(url: str, **settings: object) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, **settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def terminate_others(url: str) -> None:
    """Terminate every other connection to the database, as an administrator can."""
    async with connected(url) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


class TestBehindPgBouncer(Rows, Together):
    """The store contract behind a pooler, where statements of one client reach several backends."""

    @pytest.fixture
    async def store(self, pooled_database: str) -> AsyncIterator[PostgresStore]:
        async with opened(pooled_database) as store:
            yield store


async def test_a_pooler_is_detected(pooled_database: str) -> None:
    async with opened(pooled_database) as store:
        await store.ready()
        assert store._writers._pooled is True


async def test_a_direct_connection_is_not_detected_as_a_pooler(store) -> None:
    await store.ready()
    assert store._writers._pooled is False


async def test_a_pooler_that_is_put_in_between_later_is_detected(
    database: str, pooled_database: str
) -> None:
    async with TcpProxy(database) as proxy, opened(proxy.url) as store:
        await put(store, "c", finished("m", "1"))
        await asyncio.gather(*(store.load("c", limit=1, before=None) for _ in range(5)))
        await proxy.disconnect()
        proxy.leads_to(pooled_database)
        await proxy.connect()
        for number in range(2, 8):
            try:
                await put(store, "c", finished(f"m{number}", str(number)))
            except StoreUnavailable:  # the loss of the connection to the server itself
                await put(store, "c", finished(f"m{number}", str(number)))
            loads = (store.load("c", limit=1, before=None) for _ in range(10))
            for stored in await asyncio.gather(*loads):
                assert stored.finished[0].id == f"m{number}"


async def test_terminated_connections_are_replaced(store, database: str) -> None:
    await put(store, "c", finished("m", "1"))
    await store.load("c", limit=1, before=None)
    for _ in range(3):
        await terminate_others(database)
        assert (await store.load("c", limit=1, before=None)).finished
        await terminate_others(database)
        await asyncio.sleep(0)
        try:
            await put(store, "d", response("m"))
        except StoreUnavailable:  # the loss was noticed in the transaction; the next one works
            await put(store, "d", response("m"))
        async with connected(database) as connection:
            await connection.execute("TRUNCATE messages, chunks, leases, claims")
        await put(store, "c", finished("m", "1"))


async def test_a_block_that_loses_its_connection_writes_nothing(store, database: str) -> None:
    async def block() -> None:
        async with store.locked("c", "ai:c") as locked:
            await locked.put([response("m")])
            await terminate_others(database)
            await locked.put([response("n")])

    with pytest.raises(StoreUnavailable):
        await block()
    assert (await store.load("c", limit=1, before=None)).conversation is None


async def test_a_read_that_loses_its_connection_is_repeated_on_a_new_one(database: str) -> None:
    """The others were lost with it, perhaps unnoticed."""
    async with TcpProxy(database) as proxy, opened(proxy.url, pool_size=3) as store:
        loads = (store.load("c", limit=1, before=None) for _ in range(20))
        await asyncio.gather(*loads)
        assert proxy.doom() >= 2
        await store.load("c", limit=1, before=None)


async def test_a_connection_lost_at_commit_raises(store, database: str) -> None:
    async def block() -> None:
        async with store.locked("c", "ai:c") as locked:
            await locked.put([response("m")])
            await terminate_others(database)

    with pytest.raises(StoreUnavailable):
        await block()


async def test_waiting_for_a_lock_times_out(store, monkeypatch) -> None:
    monkeypatch.setattr(pool_module, "_BEGIN", "BEGIN; SET LOCAL lock_timeout = 50")
    async with store.locked("c", "ai:c"):
        with pytest.raises(StoreUnavailable):
            await put(store, "c", response("m"))
    await put(store, "c", response("m"))


async def test_waiting_for_a_pooled_connection_times_out(database: str, monkeypatch) -> None:
    async with opened(database, pool_size=1) as store:
        async with store.locked("c", "ai:c"):
            monkeypatch.setattr(pool_module, "POOL_TIMEOUT_S", 0.1)
            with pytest.raises(StoreUnavailable):
                await put(store, "d", response("m"))
            monkeypatch.undo()
        await put(store, "d", response("m"))


async def test_all_callers_are_served_when_they_outnumber_the_connections(database: str) -> None:
    async with opened(database, pool_size=2) as store:
        await put(store, "c", finished("m", "1"))
        loads = (store.load("c", limit=1, before=None) for _ in range(50))
        assert all(stored.finished for stored in await asyncio.gather(*loads))


async def test_a_cancelled_read_releases_its_connection(database: str) -> None:
    async with opened(database, pool_size=1) as store:
        for _ in range(5):
            task = asyncio.create_task(store._readers.read("SELECT pg_sleep(30)"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store._readers.read("SELECT 1")


async def test_a_refused_connection_is_reported_as_unavailable() -> None:
    async with opened(NOWHERE) as store:
        with pytest.raises(StoreUnavailable):
            await store.load("c", limit=1, before=None)
        with pytest.raises(StoreUnavailable):
            await put(store, "c")
        with pytest.raises(StoreUnavailable):
            await store.ready()


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """Start a server that accepts connections and sends nothing; return its port."""
    gone = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        gone.set()
        server.close()
        await server.wait_closed()


async def test_a_server_that_sends_nothing_is_reported_as_unavailable(
    silent: int, monkeypatch
) -> None:
    monkeypatch.setattr(pool_module, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(pool_module, "POOL_TIMEOUT_S", 0.5)
    monkeypatch.setattr("rehydrate.postgres.url.PROBE_TIMEOUT_S", 0.2)
    async with opened(f"postgresql://postgres@127.0.0.1:{silent}/none") as store:
        with pytest.raises(StoreUnavailable):
            await store.ready()


async def test_a_store_that_is_not_open_is_reported_as_unavailable(database: str) -> None:
    store = PostgresStore(database)
    with pytest.raises(StoreUnavailable):
        await store.ready()
    await store.open()
    await store.open()
    await store.ready()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.ready()


async def test_closing_terminates_connections_in_use(database: str, monkeypatch) -> None:
    monkeypatch.setattr(pool_module, "CLOSE_TIMEOUT_S", 0.1)
    async with opened(database) as store:
        inside = asyncio.Event()

        async def hold() -> None:
            async with store.locked("c", "ai:c") as locked:
                inside.set()
                await asyncio.sleep(0.5)
                await locked.put([response("m")])

        task = asyncio.create_task(hold())
        await inside.wait()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await task


async def test_a_violated_constraint_is_named_without_the_row(store) -> None:
    state = finished("m", "1", text="a secret")
    state.gen = 0
    with pytest.raises(ConstraintViolated) as caught:
        await put(store, "c", state)
    assert caught.value.rule == "ck_messages_gen_counts_from_1"
    assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__


async def test_a_value_that_a_statement_fails_on_is_not_shown(store) -> None:
    with pytest.raises(StatementFailed) as caught:
        await store._readers.read("SELECT $1::text::int", "a secret")
    assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__


async def test_an_operation_that_the_driver_cancels_is_no_cancellation_of_the_caller(
    store, monkeypatch
) -> None:
    async def fetch(*_: object) -> None:
        raise asyncio.CancelledError

    await store.ready()
    monkeypatch.setattr(asyncpg.Connection, "fetch", fetch)
    with pytest.raises(ConnectionLost):
        await store.ready()


async def test_a_connection_that_cannot_be_given_back_fails_no_statement(
    database: str, monkeypatch
) -> None:
    plain, failures = asyncpg.Pool.release, []

    async def release(self: asyncpg.Pool, connection: object, **how: object) -> None:
        if not failures:
            failures.append(connection)
            raise TimeoutError
        await plain(self, connection, **how)

    monkeypatch.setattr(asyncpg.Pool, "release", release)
    async with opened(database, pool_size=1) as store:
        await put(store, "c", finished("m", "1"))
        assert failures
        await put(store, "c", finished("n", "2"))
        assert len(await store.states("c", ["m", "n"])) == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncpg.DeadlockDetectedError("x"), StoreUnavailable),
        (asyncpg.SerializationError("x"), StoreUnavailable),
        (asyncpg.LockNotAvailableError("x"), StoreUnavailable),
        (asyncpg.QueryCanceledError("x"), StoreUnavailable),
        (asyncpg.TooManyConnectionsError("x"), StoreUnavailable),
        (asyncpg.DiskFullError("x"), StoreUnavailable),
        (asyncpg.InvalidPasswordError("x"), StoreUnavailable),
        (asyncpg.InvalidCatalogNameError("x"), StoreUnavailable),
        (asyncpg.ReadOnlySQLTransactionError("x"), ConnectionLost),
        (asyncpg.UndefinedTableError("x"), StoreUnavailable),
        (asyncpg.AdminShutdownError("x"), ConnectionLost),
        (asyncpg.InvalidSQLStatementNameError("x"), ConnectionLost),
        (asyncpg.DuplicatePreparedStatementError("x"), ConnectionLost),
        (asyncpg.CannotConnectNowError("x"), ConnectionLost),
        (asyncpg.ConnectionDoesNotExistError("x"), ConnectionLost),
        (asyncpg.InterfaceError("connection is closed"), ConnectionLost),
        (ConnectionResetError("x"), ConnectionLost),
        (TimeoutError(), StoreUnavailable),
        (asyncpg.DataError("x"), BadParameter),
        (asyncpg.CharacterNotInRepertoireError("x"), BadParameter),
    ],
)
def test_driver_errors_are_translated(error: Exception, expected: type) -> None:
    assert type(translated(error)) is expected


@pytest.mark.parametrize(
    "error", [asyncpg.PostgresSyntaxError("x"), asyncpg.InterfaceError("operation in progress")]
)
def test_errors_that_indicate_a_bug_are_not_translated(error: Exception) -> None:
    assert translated(error) is error


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, EmbeddedPostgres(Path(folder)) as pg:
        yield pg


async def test_a_restarted_database_is_used_again(own_server: EmbeddedPostgres) -> None:
    url = database_url(own_server.url, "postgres")
    await migrate(url)
    async with opened(url) as store:
        await put(store, "c", finished("m", "1"))
        await asyncio.gather(*(store.load("c", limit=1, before=None) for _ in range(5)))
        for _ in range(2):
            await asyncio.to_thread(own_server.stop)
            with pytest.raises(StoreUnavailable):
                await store.load("c", limit=1, before=None)
            with pytest.raises(StoreUnavailable):
                await put(store, "c", response("r"))
            assert await asyncio.to_thread(own_server.start) == url
            assert (await store.load("c", limit=1, before=None)).finished
            await put(store, "d", *([] if (await store.states("d", ["r"])) else [response("r")]))
        await store.ready()


async def test_settings_in_the_url_take_precedence_over_read_settings(database: str) -> None:
    pool = Pool(f"{database}?application_name=mine", size=1, reading={"enable_sort": "off"})
    await pool.open()
    try:
        rows = await pool.read(
            "SELECT current_setting('application_name'), current_setting('enable_sort')"
        )
    finally:
        await pool.close()
    assert tuple(rows[0]) == ("mine", "off")


async def test_sessions_of_a_former_primary_are_replaced_when_they_are_read_only(
    database: str,
) -> None:
    async with opened(database) as store, connected(database) as admin:
        (name,) = await admin.fetchrow("SELECT current_database()")
        await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        with pytest.raises(StoreUnavailable, match="the database is read-only"):
            await store.ready()  # opens read-only sessions, as a failover leaves them behind
        await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off')
        with pytest.raises(StoreUnavailable, match="cannot go on with the connection"):
            await put(store, "c", finished("m", "p"))
        await put(store, "c", finished("m", "p"))
        await store.ready()

"""Connections: lent for a while, every wait limited, every failure named.

asyncpg's own pool rather than SQLAlchemy's: lending costs no greenlet, a connection that was lost
while it lay there is noticed without asking the server, and BEGIN is sent when it is called.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any, NoReturn

import asyncpg

from rehydrate.errors import BadParameter, RehydrateError, StoreUnavailable
from rehydrate.postgres.url import behind_pooler, connect_arguments

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 15_000
IDLE_TIMEOUT_MS = 30_000
"""How long an open transaction may say nothing: its lock is then given to others."""
CLOSE_TIMEOUT_S = 5.0

_BEGIN = (
    f"BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "
    f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; "
    f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}"
)

_DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # between the server's farewell and the end of the stream
    OSError,
    TimeoutError,
)

# By SQLSTATE, or its class: what another try may mend, or the operator.
_UNAVAILABLE = ("08", "25006", "28", "3D000", "40", "53", "55", "57", "58", "F0", "XX")
_NO_SCHEMA = ("3F000", "42P01", "42703")
_BAD_TEXT = ("22000", "22021")
"""What the driver, and the server, say of text that cannot be sent or kept."""

_GONE = re.compile("clos|released")
"""What the driver says when it is used after a connection, or the pool, has ended."""


class ConnectionLost(StoreUnavailable):
    """The connection is gone; what only reads may be asked again on another."""


class ConstraintViolated(RehydrateError):
    """A row that the schema does not allow: a fault of ours, told without what is in the row.

    Attributes:
        rule: the name of the constraint.
    """

    def __init__(self, rule: str) -> None:
        super().__init__(f"Postgres refused a row by {rule}")
        self.rule = rule


def translated(error: BaseException) -> BaseException:
    """*error* of the driver as what it means to callers; itself if it is a fault of ours."""
    name, fault = type(error).__name__, error
    if isinstance(error, asyncpg.PostgresError):
        if isinstance(error, asyncpg.PostgresConnectionError):
            return ConnectionLost(f"Postgres: {name}")
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            return ConstraintViolated(str(error.constraint_name))
        return _by_code(str(error.sqlstate or ""), fault)
    if isinstance(error, asyncpg.InterfaceError) and not _GONE.search(str(error)):
        return fault
    if isinstance(error, TimeoutError):
        return StoreUnavailable("Postgres did not answer in time")
    return ConnectionLost(f"Postgres cannot be reached ({name})")


def _by_code(code: str, error: BaseException) -> BaseException:
    if code in _NO_SCHEMA:
        return StoreUnavailable("the schema is not there, or of another time: rehydrate migrate")
    if code in _BAD_TEXT:
        return BadParameter("id", "an id is valid Unicode without NUL characters")
    name = type(error).__name__
    if code.startswith("57P"):
        return ConnectionLost(f"Postgres closed the connection ({name})")
    return StoreUnavailable(f"Postgres: {name}") if code.startswith(_UNAVAILABLE) else error


def raise_meant(error: BaseException) -> NoReturn:
    """Raise what *error* means."""
    meant = translated(error)
    if meant is error:
        raise error
    if isinstance(meant, ConstraintViolated):
        raise meant from None  # the driver's error shows the row
    raise meant from error


class Session:
    """A lent connection; its errors are ours."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """The rows of a statement."""
        rows: list[Any] = await _mapped(self._driver, "fetch", sql, *arguments)
        return rows

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Run a statement; returns its tag."""
        return str(await _mapped(self._driver, "execute", sql, *arguments))

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of *rows*, without waiting in between."""
        await _mapped(self._driver, "executemany", sql, rows)

    async def give_up(self) -> None:
        """Roll back; a connection that cannot is closed."""
        try:
            await self._driver.execute("ROLLBACK", timeout=CLOSE_TIMEOUT_S)
        except _DRIVER_ERRORS:
            self._terminate()  # why it failed is told by what made it necessary
        except BaseException:
            self._terminate()
            raise

    def _terminate(self) -> None:
        with suppress(asyncpg.InterfaceError):  # the pool has it back: it was closed already
            self._driver.terminate()


async def _mapped(driver: Any, method: str, *arguments: Any) -> Any:
    try:
        return await getattr(driver, method)(*arguments)
    except _DRIVER_ERRORS as error:
        raise_meant(error)


class Pool:
    """Connections to *url*, at most *size* at a time; made when they are needed.

    Behind a pooler in transaction mode, which is found out when first connecting, statements are
    not prepared and readings run in transactions.

    Args:
        url: a libpq URL.
        size: how many connections there may be.
        reading: Postgres' settings for readings.
    """

    def __init__(
        self, url: str, *, size: int, reading: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._arguments = {
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": COMMAND_TIMEOUT_S,
            **connect_arguments(url),
        }
        self._size = size
        self._reading = reading
        settings = "; ".join(f"SET LOCAL {name} = {value}" for name, value in reading.items())
        self._begin_reading = f"BEGIN READ ONLY; {settings}"
        self._pool: Any = None
        self._pooled: bool | None = None

    async def open(self) -> None:
        """Make ready to connect; connects to nothing yet."""
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                min_size=0, max_size=self._size, connect=self._connect, reset=_as_it_is
            )

    async def close(self) -> None:
        """Close all connections; those that are lent are cut off after 5 s."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            pool.terminate()

    async def read(self, sql: str, *arguments: Any) -> list[Any]:
        """The rows of one statement, from one snapshot; asked twice if the connection was lost.

        Raises:
            StoreUnavailable: Postgres does not answer.
            BadParameter: an id cannot be one.
        """
        try:
            return await self._read(sql, arguments)
        except ConnectionLost:
            return await self._read(sql, arguments)

    async def _read(self, sql: str, arguments: Sequence[Any]) -> list[Any]:
        async with self._lent() as session:
            if not self._pooled:
                return await session.fetch(sql, *arguments)
            try:
                await session.execute(self._begin_reading)
                rows = await session.fetch(sql, *arguments)
                await session.execute("COMMIT")
            except BaseException:
                await session.give_up()
                raise
            return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A transaction, committed when the block ends, rolled back if it raises.

        Raises:
            StoreUnavailable: Postgres does not answer, or a lock was not given in 5 s.
        """
        async with self._lent() as session:
            try:
                await session.execute(_BEGIN)
                yield session
                await session.execute("COMMIT")
            except BaseException:
                await session.give_up()
                raise

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Session]:
        pool = self._pool
        if pool is None:
            raise StoreUnavailable("the store is not open")
        try:
            async with asyncio.timeout(POOL_TIMEOUT_S):
                driver = await pool.acquire()
        except _DRIVER_ERRORS as error:
            raise_meant(error)
        try:
            yield Session(driver)
        finally:
            await pool.release(driver, timeout=CLOSE_TIMEOUT_S)

    async def _connect(self, _dsn: None, **given: Any) -> Any:
        if self._pooled is None:
            self._pooled = await behind_pooler(self._arguments)
        arguments = {**given, **self._arguments}
        if self._pooled:
            return await asyncpg.connect(**arguments, statement_cache_size=0)
        settings = {**self._reading, **arguments.pop("server_settings", {})}
        return await asyncpg.connect(**arguments, server_settings=settings)


async def _as_it_is(connection: Any) -> None:
    """Give a connection back without asking the server: nothing here changes a session."""

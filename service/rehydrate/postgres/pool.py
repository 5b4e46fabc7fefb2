"""The connection pool: every wait has a limit, and driver errors become errors of the service.

It is asyncpg's pool rather than SQLAlchemy's, because acquiring a connection needs no greenlet, a
connection that was lost while idle is noticed without a round trip, and BEGIN is sent when it is
called.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from types import MappingProxyType
from typing import Any, NoReturn

import asyncpg

from rehydrate.errors import BadParameter, OutcomeUnknown, RehydrateError, StoreUnavailable
from rehydrate.postgres.url import behind_pooler, connect_arguments

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 15_000
IDLE_TIMEOUT_MS = 30_000
"""How long a transaction may be idle before the server ends it and releases its locks."""
CLOSE_TIMEOUT_S = 5.0

_BEGIN = (
    f"BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "
    f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; "
    f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}"
)

_DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # raised between the server's goodbye and the end of the stream
    OSError,
    TimeoutError,
)

# SQLSTATEs, or classes of them, that a retry or an operator may resolve.
_UNAVAILABLE = ("08", "28", "3D000", "40", "53", "55", "57", "58", "F0", "XX")
_NO_SCHEMA = ("3F000", "42P01", "42703")
_BAD_TEXT = ("22000", "22021")
"""SQLSTATEs for text that the driver cannot encode, or the server cannot store."""

_NO_STATEMENT = ("26000", "42P05")
"""SQLSTATEs for a prepared statement that the server lacks, or has twice: a pooler is in between."""

_READ_ONLY = ("25006", "25P02")
"""SQLSTATEs for a session of a server that has become a standby, or a transaction that has failed:
another connection may be writable."""

_CLOSED = re.compile("clos|released")
"""Matches the driver's errors for a connection or pool that has been closed."""


class ConnectionLost(StoreUnavailable):
    """The connection was lost; a statement that only reads can be repeated on another one."""


class StatementFailed(RehydrateError):
    """The driver or the server rejects a statement. This is a bug of the service.

    The message has no values, since they may be message text.
    """


class ConstraintViolated(StatementFailed):
    """A write violated a constraint of the schema. This is a bug of the service.

    The message has the constraint but no values, since the row may contain message text.

    Attributes:
        rule: the name of the constraint.
    """

    def __init__(self, rule: str) -> None:
        super().__init__(f"a row violates the constraint {rule}")
        self.rule = rule


def translated(error: BaseException) -> BaseException:
    """Return the service's error for the driver's *error*, or *error* itself if it is a bug."""
    name, fault = type(error).__name__, error  # asyncpg is untyped: isinstance narrows to Any
    if isinstance(error, asyncpg.PostgresError):
        if isinstance(error, asyncpg.PostgresConnectionError):
            return ConnectionLost(f"Postgres: {name}")
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            return ConstraintViolated(str(error.constraint_name))
        return _by_code(str(error.sqlstate or ""), fault)
    if isinstance(error, asyncpg.InterfaceError) and not _CLOSED.search(str(error)):
        return fault
    if isinstance(error, TimeoutError):
        return StoreUnavailable("Postgres did not answer in time")
    return ConnectionLost(f"Postgres cannot be reached ({name})")


def _by_code(code: str, error: BaseException) -> BaseException:
    if code in _NO_SCHEMA:
        return StoreUnavailable("the schema is missing or outdated: run rehydrate migrate")
    if code in _BAD_TEXT:
        return BadParameter("id", "an id must be valid Unicode without NUL characters")
    name = type(error).__name__
    if code.startswith("57P") or code in _NO_STATEMENT or code in _READ_ONLY:
        return ConnectionLost(f"Postgres cannot go on with the connection ({name})")
    return StoreUnavailable(f"Postgres: {name}") if code.startswith(_UNAVAILABLE) else error


def raise_translated(error: BaseException) -> NoReturn:
    """Raise the service's error for the driver's *error*."""
    ours = translated(error)
    if ours is error:
        raise error
    if isinstance(ours, ConstraintViolated):
        raise ours from None  # the driver's error contains the row
    raise ours from error


@contextmanager
def _translating() -> Iterator[None]:
    """Raise the service's errors for those of the driver, which then leave the pool in no case.

    An operation of the driver may also be cancelled by the driver itself, when it gives a
    connection up. That is a lost connection, and not a cancellation of the caller.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionLost("the driver gave the connection up") from None
    except _DRIVER_ERRORS as error:
        ours = translated(error)
        if isinstance(ours, StoreUnavailable | BadParameter):
            raise ours from error
        if isinstance(ours, ConstraintViolated):
            raise ours from None  # the driver's error contains the row
        raise StatementFailed(f"Postgres rejects a statement ({type(error).__name__})") from None


class Session:
    """A connection acquired from the pool, with the driver's errors translated."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """Run a statement and return its rows."""
        with _translating():
            rows: list[Any] = await self._driver.fetch(sql, *arguments)
            return rows

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Run a statement and return its command tag, such as ``UPDATE 1``."""
        with _translating():
            return str(await self._driver.execute(sql, *arguments))

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of *rows*, pipelined."""
        with _translating():
            await self._driver.executemany(sql, rows)

    async def commit(self) -> None:
        """Commit.

        Raises:
            OutcomeUnknown: Postgres did not answer.
        """
        try:
            await self.execute("COMMIT")
        except StoreUnavailable as error:
            raise OutcomeUnknown(f"the outcome of a commit is unknown: {error}") from error

    async def rollback_after(self, error: BaseException) -> None:
        """Roll back because of *error*, or close the connection if it cannot.

        A server that did not answer in time is not waited for again.
        """
        if isinstance(error.__cause__, TimeoutError):
            self.terminate()
            return
        try:
            with _translating():
                await self._driver.execute("ROLLBACK", timeout=CLOSE_TIMEOUT_S)
        except RehydrateError:
            self.terminate()  # the caller is handling the error that led here
        except BaseException:
            self.terminate()
            raise

    def terminate(self) -> None:
        """Close the connection without waiting for the server."""
        with suppress(asyncpg.InterfaceError):  # already closed and back in the pool
            self._driver.terminate()

    async def give_back(self, pool: Any) -> None:
        """Return the connection to *pool*; if that fails, close it. Its work is done, so log only."""
        try:
            with _translating():
                await pool.release(self._driver, timeout=CLOSE_TIMEOUT_S)
        except RehydrateError as error:
            _log.debug("a connection could not be returned to the pool, and is closed: %s", error)
            self.terminate()


class Pool:
    """At most *size* connections to *url*, opened on demand.

    A pooler in transaction mode is detected by the first connect, and by the next one after a
    connection was lost or refused, since it may have been put in between. Behind one, statements
    are not prepared and reads run in transactions.

    Args:
        url: a libpq URL.
        size: the maximum number of connections.
        reading: Postgres settings for reads.
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
        self._pooled = False
        self._must_detect = True

    async def open(self) -> None:
        """Create the pool. No connection is opened yet."""
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                min_size=0, max_size=self._size, connect=self._connect, reset=_keep_session
            )

    async def close(self) -> None:
        """Close all connections; those still in use are terminated after 5 s."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            pool.terminate()

    async def read(self, sql: str, *arguments: Any) -> list[Any]:
        """Return the rows of one statement; retry once, on a new connection, if it was lost.

        The statement must only read, since it may run twice.

        Raises:
            StoreUnavailable: Postgres does not answer.
            BadParameter: an argument is not valid as an id.
        """
        try:
            return await self._read(sql, arguments)
        except ConnectionLost:
            return await self._read(sql, arguments)

    async def _read(self, sql: str, arguments: Sequence[Any]) -> list[Any]:
        async with self._acquired() as session:
            if not self._pooled:
                return await session.fetch(sql, *arguments)
            try:
                await session.execute(self._begin_reading)
                rows = await session.fetch(sql, *arguments)
                await session.execute("COMMIT")
            except BaseException as error:
                await session.rollback_after(error)
                raise
            return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Open a transaction that commits when the block ends and rolls back if it raises.

        Raises:
            StoreUnavailable: Postgres does not answer, or a lock was not granted in 5 s.
            OutcomeUnknown: it did not answer the commit.
        """
        async with self._acquired() as session:
            try:
                await session.execute(_BEGIN)
                yield session
                await session.commit()
            except BaseException as error:
                await session.rollback_after(error)
                raise

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Session]:
        pool = self._pool
        if pool is None:
            raise StoreUnavailable("the store is not open")
        with _translating():
            async with asyncio.timeout(POOL_TIMEOUT_S):
                session = Session(await pool.acquire())
        try:
            yield session
        except ConnectionLost:
            self._must_detect = True
            session.terminate()
            # those opened before may have been lost with it, unnoticed: the next one is new
            await pool.expire_connections()
            raise
        finally:
            await session.give_back(pool)

    async def _connect(self, _dsn: None, **given: Any) -> Any:
        must_detect, self._must_detect = self._must_detect, True
        # once found it stays: a connection to it, which is still in use, could be taken for direct
        if must_detect and not self._pooled:
            self._pooled = await behind_pooler(self._arguments)
        arguments = {**given, **self._arguments}
        if self._pooled:
            connection = await asyncpg.connect(**arguments, statement_cache_size=0)
        else:
            settings = {**self._reading, **arguments.pop("server_settings", {})}
            connection = await asyncpg.connect(**arguments, server_settings=settings)
        self._must_detect = False
        return connection


async def _keep_session(connection: Any) -> None:
    """Skip asyncpg's reset of released connections, a round trip: settings here are SET LOCAL."""

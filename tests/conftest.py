"""One Postgres for the whole run, and a migrated database for every test that requests one."""

from __future__ import annotations

import os
import secrets
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from demo.command_line import settings_on
from fault_checks import every_fault_fires
from localably import LocalAbly
from participants import Publisher, publisher_to
from rehydrate import background
from rehydrate.embedded import cluster
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.postgres.migrations import migrate
from rehydrate.postgres.store import PostgresStore
from rehydrate.postgres.url import connect_arguments
from shared_adapters import IsolatedConversation, SharedAdapters, open_adapters

SLOW = {
    "ably", "chaos", "contracts", "demo", "examples", "exactness", "failures", "follow", "holes",
    "inspector", "journeys", "js", "localably", "maintenance", "replay", "soak", "upgrading",
    "api/test_sse_browser.py", "api/test_ui_messages_sdk.py", "cli/test_main.py",
    "cli/test_progress.py", "cli/test_serve.py", "cli/test_terminal.py",
    "core/test_any_message.py", "embedded", "laws/test_client_js.py",
    "postgres/test_migrations.py", "postgres/test_pool.py", "publish/test_publish_queue.py",
    "publish/test_unanswered.py", "record/test_erase.py", "providers/test_model_runs.py",
    "providers/test_model_run_endings.py", "test_history.py",
    "test_store_outage.py",
}  # fmt: skip
"""Tests that start processes or browsers, wait for real time, or search for a long time."""


FIRST = (
    "failures/test_failures.py", "chaos/test_chaos.py", "soak/test_soak.py", "demo/test_command.py", "journeys/test_kill.py",
    "upgrading/test_side_by_side.py", "laws/test_folding.py", "laws/test_joining.py",
    "examples/test_chat_page.py", "demo/test_examples.py", "journeys/test_appends.py",
    "journeys/test_many_processes.py", "cli/test_main.py", "embedded/test_postgres.py",
    "postgres/test_message_rows.py", "core/test_any_message.py", "laws/test_client_js.py",
    "maintenance/test_verify.py", "cli/test_progress.py", "postgres/test_migrations.py",
)  # fmt: skip
"""The files that take longest. They begin first, so that no worker is left with one at the end."""

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30
"""What the temporary files of a run may need, most of them databases."""


def pytest_configure() -> None:
    """Keep temporary files in memory, if the machine has a file system there with room.

    Every test of the store has a database of its own, whose 300 files cost ten times as much on a
    disk. Set TMPDIR to keep them elsewhere.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    found = os.statvfs(MEMORY)
    if not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= ROOM_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start two workers for each of few cores: for half of their time tests wait."""
    cores = os.cpu_count() or 1
    return min(2 * cores, max(cores, 16))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, which the quick run leaves out; begin with the longest files."""
    places = {name: place for place, name in enumerate(FIRST)}
    tests = Path(__file__).parent
    items.sort(key=lambda item: places.get(item.path.relative_to(tests).as_posix(), len(FIRST)))
    for item in items:
        path = item.path.relative_to(tests)
        if path.parts[0] in SLOW or path.as_posix() in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test in which a fault was switched on and never fired."""
    if item.get_closest_marker("faults_may_not_fire"):
        yield
    else:
        with every_fault_fires():
            yield


def database_url(server_url: str, name: str) -> str:
    return f"{server_url.rpartition('/')[0]}/{name}"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(**connect_arguments(url))
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(autouse=True)
def every_failure_is_logged() -> None:
    """Log the failures of each test, whatever the tests before it have logged."""
    background._failures_logged.clear()


@pytest.fixture(scope="session", autouse=True)
def without_settings() -> Iterator[None]:
    """Remove the developer's own settings from the environment, but not those of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            ours = name.startswith(("REHYDRATE_", "ABLY_"))
            if ours and not name.startswith("REHYDRATE_TEST_"):
                patch.delenv(name)
        yield


WITHOUT_DISK = {"fsync": "off", "full_page_writes": "off", "wal_compression": "off"}
"""Settings of Postgres that matter only if the machine dies, not if processes are killed."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        pg = EmbeddedPostgres(Path(folder))
        with pytest.MonkeyPatch.context() as patch:
            for name, value in WITHOUT_DISK.items():
                patch.setitem(cluster.SETTINGS, name, value)
            pg.start()
        with pg:
            yield pg


@pytest.fixture(scope="session")
async def template(postgres: EmbeddedPostgres) -> str:
    async with connected(postgres.url) as connection:
        await connection.execute("CREATE DATABASE migrated")
    await migrate(database_url(postgres.url, "migrated"))
    return "migrated"


@asynccontextmanager
async def new_database(server_url: str, template: str = "template1") -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    async with connected(server_url) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield database_url(server_url, name)
    finally:
        async with connected(server_url) as connection:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The URL of a migrated database for this test only."""
    async with new_database(postgres.url, template) as url:
        yield url


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    """An open store on a database for this test only."""
    made = PostgresStore(database)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(scope="module")
async def module_database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """A migrated database for the tests of a module, which use different conversations."""
    async with new_database(postgres.url, template) as url:
        yield url


@pytest.fixture
async def server() -> AsyncIterator[LocalAbly]:
    """The local channel server, for this test only."""
    async with LocalAbly() as running:
        yield running


@pytest.fixture
def ably(server: LocalAbly) -> LocalAbly:
    """The same server, for tests that serve something else."""
    return server


@pytest.fixture
def conversation() -> str:
    """The id of a new conversation."""
    return f"c-{secrets.token_hex(4)}"


@pytest.fixture
async def publisher(server: LocalAbly, conversation: str) -> AsyncIterator[Publisher]:
    """A foreign publisher to the channel of `conversation`."""
    async with publisher_to(server, f"ai:{conversation}") as made:
        yield made


@pytest.fixture
def configured(database: str, ably: LocalAbly) -> dict[str, str]:
    """The environment of a service with a database and a channel server for this test only."""
    return settings_on(database, ably)


@pytest.fixture(scope="module")
async def adapters(module_database: str) -> AsyncIterator[SharedAdapters]:
    """The store, the channel server and two connections to it, shared by the tests of a module."""
    async with open_adapters(module_database) as opened:
        yield opened


@pytest.fixture
def chat(adapters: SharedAdapters) -> Iterator[IsolatedConversation]:
    """One conversation on the shared adapters, with faults of its own."""
    with adapters.conversation() as made:
        yield made

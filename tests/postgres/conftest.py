"""PgBouncer in transaction mode, where it is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from rehydrate.embedded.binaries import identity, run_as
from rehydrate.postgres.url import connect_arguments
from waiting import PATIENCE_S

SETTINGS = """
[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 4
"""


def write_settings(folder: Path, port: int, arguments: dict) -> Path:
    users, settings = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"postgres" "{arguments["password"]}"\n')
    settings.write_text(SETTINGS.format(server_port=arguments["port"], port=port, users=users))
    user = run_as(folder / "nothing")
    folder.chmod(0o755)
    for file in (users, settings):
        file.chmod(0o600)
        if user is not None:
            os.chown(file, user.uid, user.gid)
    return settings


async def wait_until_it_accepts(url: str) -> None:
    for _ in range(500):
        try:
            connection = await asyncpg.connect(**connect_arguments(url), statement_cache_size=0)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            return await connection.close()
    pytest.fail("the pooler did not answer")


@pytest.fixture
async def pooled_database(database: str) -> AsyncIterator[str]:
    """Return the URL of this test's database through a pooler."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    arguments = connect_arguments(database)
    with tempfile.TemporaryDirectory(prefix="pooler-") as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = write_settings(Path(name), port, arguments)
        process = subprocess.Popen(
            [program, "-q", settings],
            stderr=subprocess.DEVNULL,
            cwd="/",
            **identity(run_as(Path(name) / "nothing")),
        )
        try:
            url = database.replace(f":{arguments['port']}/", f":{port}/")
            await wait_until_it_accepts(url)
            yield url
        finally:
            process.terminate()
            process.wait(PATIENCE_S)

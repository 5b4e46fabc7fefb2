"""Helpers for tests that start processes which own an embedded Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg

from waiting import PATIENCE_S

OWNER = textwrap.dedent(
    """
    import signal, sys
    from pathlib import Path
    from rehydrate.embedded.postgres import EmbeddedPostgres
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with EmbeddedPostgres(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()
    """
)


Start = Callable[..., "subprocess.Popen[str]"]


@contextlib.contextmanager
def starting_owners() -> Iterator[Start]:
    """Yield a function that starts a process owning (or sharing) a folder; kill all at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, **how: object) -> subprocess.Popen[str]:
        python = how.pop("python", sys.executable)
        process = subprocess.Popen(
            [python, "-c", OWNER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **how,
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            with contextlib.suppress(ValueError):  # the test closed its input
                process.communicate()
            process.stdout.close()


def read_url(owner: subprocess.Popen[str]) -> str:
    url = owner.stdout.readline().strip()
    assert url.startswith("postgresql://")
    return url


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def guard_of(pid: int) -> int:
    """Return the pid of the guard of an embedded server, its parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


async def run(url: str, *statements: str) -> list[object]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return [await connection.fetchval(statement) for statement in statements]
    finally:
        await connection.close()


async def run_when_back(url: str, statement: str) -> object:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return (await run(url, statement))[0]
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            assert time.monotonic() < deadline, "the server did not come back"
            await asyncio.sleep(0.05)

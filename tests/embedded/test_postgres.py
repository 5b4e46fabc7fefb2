"""The embedded Postgres with real processes: sharing, takeover, crashes and recovery."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from postgres.embedded_owners import (
    OWNER,
    Start,
    guard_of,
    is_running,
    read_url,
    run,
    run_when_back,
    starting_owners,
    wait_until,
)
from rehydrate.embedded.postgres import EmbeddedError, EmbeddedPostgres
from waiting import PATIENCE_S


@pytest.fixture
def owners() -> Iterator[Start]:
    with starting_owners() as start:
        yield start


async def test_a_new_folder_is_served_over_tcp_and_socket(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg") as server:
        assert "@127.0.0.1:" in server.url
        assert await run(server.url, "select 1") == [1]
        if len(str(tmp_path)) < 80:  # the kernel's limit for socket paths is 107 bytes
            assert await run(server.socket_url, "select 2") == [2]


async def test_data_survive_a_stop(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        await run(server.url, "create table kept as select 42 as x")
        port = server.url.rpartition(":")[2]
    with EmbeddedPostgres(tmp_path) as server:
        assert await run(server.url, "select x from kept") == [42]
        assert server.url.rpartition(":")[2] == port


async def test_a_password_is_required_and_its_file_is_private(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        secret = tmp_path / "password"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        with pytest.raises(asyncpg.InvalidPasswordError):
            await run(server.url.replace(secret.read_text(), "wrong"), "select 1")
        assert secret.read_text() not in repr(server)
        assert secret.read_bytes() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        log = (tmp_path / "log").read_text()
    assert secret.read_text() not in log


async def test_durability_is_on_and_the_log_contains_no_statements(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        assert await run(server.url, *(f"show {name}" for name in names)) == ["on"] * 3
        with pytest.raises(asyncpg.UniqueViolationError):
            await run(
                server.url,
                "create table secrets (word text primary key)",
                "insert into secrets values ('whispered')",
                "insert into secrets values ('whispered')",
            )
        log = (tmp_path / "log").read_text()
    assert "duplicate key" in log
    assert "whispered" not in log


async def test_stop_ends_all_processes_and_is_idempotent(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    assert not is_running(pid)
    assert not (tmp_path / "data" / "postmaster.pid").exists()
    with pytest.raises(EmbeddedError, match="start it"):
        _ = server.url


async def test_a_server_started_in_a_worker_thread_outlives_that_thread(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    try:
        with ThreadPoolExecutor(1) as pool:
            url = pool.submit(server.start).result()
        await asyncio.sleep(0.3)  # PR_SET_PDEATHSIG would have come with the end of the thread
        assert await run(url, "select 1") == [1]
    finally:
        server.stop()


async def test_async_with_starts_and_stops_the_server(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as server:
        pid = server.pid
        assert await run(server.url, "select 1") == [1]
    assert not is_running(pid)


async def test_a_cancelled_start_leaves_no_server_running(tmp_path: Path) -> None:
    async def enter() -> None:
        async with EmbeddedPostgres(tmp_path):
            pass

    entering = asyncio.create_task(enter())
    await asyncio.sleep(0.05)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert not (tmp_path / "data" / "postmaster.pid").exists()
    with EmbeddedPostgres(tmp_path) as server:
        assert await run(server.url, "select 1") == [1]


async def test_a_killed_owner_leaves_no_orphan_and_no_data_are_lost(tmp_path: Path, owners) -> None:
    owner = owners(tmp_path)
    await run(read_url(owner), "create table kept as select 7 as x")
    pid = EmbeddedPostgres(tmp_path).pid
    owner.kill()
    owner.wait()
    with EmbeddedPostgres(tmp_path) as server:  # waits for the lock
        assert server.owned
        assert not is_running(pid)
        assert await run(server.url, "select x from kept") == [7]


async def test_a_terminated_owner_ends_its_server_cleanly(tmp_path: Path, owners) -> None:
    owner = owners(tmp_path)
    read_url(owner)
    owner.terminate()
    assert owner.wait(PATIENCE_S) == 0
    assert "database system is shut down" in (tmp_path / "log").read_text()


async def test_the_server_of_a_killed_owner_ends_despite_a_forked_child(
    tmp_path: Path,
) -> None:
    script = OWNER.replace(
        "    sys.stdin.read()",
        "    import os, time\n    os.fork() or time.sleep(60)\n    os._exit(9)",
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        read_url(owner)
        assert owner.wait(PATIENCE_S) == 9
        wait_until(lambda: not (tmp_path / "data" / "postmaster.pid").exists())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)
        owner.stdout.close()


async def test_a_killed_server_is_restarted_on_the_same_port(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        await run(server.url, "create table kept as select 8 as x")
        url, pid = server.url, server.pid
        os.kill(pid, signal.SIGKILL)
        assert await run_when_back(url, "select x from kept") == 8
        assert server.pid != pid
        assert server.start() == url


@pytest.mark.slow
async def test_restarts_are_retried_until_the_server_can_start(tmp_path: Path) -> None:
    """For instance when the disk stays full for longer than a few attempts take."""
    with EmbeddedPostgres(tmp_path) as server:
        await run(server.url, "create table kept as select 10 as x")
        needed = tmp_path / "data" / "PG_VERSION"
        url, away = server.url, needed.rename(tmp_path / "away")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(
            lambda: (tmp_path / "log").read_text().count("is not a valid data directory") > 6, 60
        )
        away.rename(needed)
        assert await run_when_back(url, "select x from kept") == 10


async def test_a_server_killed_together_with_its_guard_and_owner_recovers(
    tmp_path: Path, owners
) -> None:
    owner = owners(tmp_path)
    await run(read_url(owner), "create table kept as select 9 as x")
    pid = EmbeddedPostgres(tmp_path).pid
    guard = guard_of(pid)
    os.kill(guard, signal.SIGSTOP)  # so that it can neither reap nor restart
    os.kill(pid, signal.SIGKILL)
    owner.kill()
    wait_until(lambda: not is_running(pid))
    os.kill(guard, signal.SIGKILL)
    with EmbeddedPostgres(tmp_path) as server:
        assert await run(server.url, "select x from kept") == [9]
        assert "was interrupted" in (tmp_path / "log").read_text()


async def test_a_pid_file_with_the_pid_of_another_program_is_ignored(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        stale = (tmp_path / "data" / "postmaster.pid").read_text().split("\n")
    stale[0] = str(os.getpid())
    (tmp_path / "data" / "postmaster.pid").write_text("\n".join(stale))
    with EmbeddedPostgres(tmp_path) as server:
        assert await run(server.url, "select 1") == [1]


async def test_a_killed_guard_ends_its_server_and_start_recovers(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        pid = server.pid
        guard = guard_of(pid)
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: not is_running(pid))
        assert await run(server.start(), "select 1") == [1]


async def test_two_processes_share_one_server_and_the_second_can_take_over(
    tmp_path: Path, owners
) -> None:
    owner = owners(tmp_path)
    url = read_url(owner)
    second = EmbeddedPostgres(tmp_path)
    try:
        assert second.start() == url
        assert not second.owned
        await run(url, "create table kept as select 10 as x")
        owner.kill()
        owner.wait()
        assert second.start() == url
        assert second.owned
        assert await run(url, "select x from kept") == [10]
    finally:
        second.stop()


async def test_an_attached_process_that_ends_leaves_the_server_running(
    tmp_path: Path, owners
) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        guest = owners(tmp_path)
        assert read_url(guest) == server.url
        guest.kill()
        guest.wait()
        assert await run(server.url, "select 1") == [1]


async def test_concurrent_starts_share_one_server(tmp_path: Path) -> None:
    servers = [EmbeddedPostgres(tmp_path) for _ in range(4)]
    try:
        urls = await asyncio.gather(*(asyncio.to_thread(s.start) for s in servers))
        assert len(set(urls)) == 1
        assert [s.owned for s in servers].count(True) == 1
    finally:
        for server in sorted(servers, key=lambda s: s.owned):
            server.stop()


async def test_another_port_is_used_if_the_last_one_was_taken(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
    taker = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with taker:
        with EmbeddedPostgres(tmp_path) as server:
            assert f":{port}/" not in server.url
            assert await run(server.url, "select 1") == [1]


@pytest.mark.parametrize("name", ["port", "data/PG_VERSION", "data/postmaster.pid", "log"])
async def test_a_file_with_odd_content_counts_as_absent(stopped: Path, name: str) -> None:
    for content in (b"", b"\xff\xfe", b"99999999"):
        (stopped / name).write_bytes(content)
        with EmbeddedPostgres(stopped) as server:
            assert await run(server.url, "select x from kept") == [42], content


@pytest.fixture
async def stopped(tmp_path: Path) -> Path:
    """The folder of a server that was stopped, with a table."""
    with EmbeddedPostgres(tmp_path / "pg") as server:
        await run(server.url, "create table kept as select 42 as x")
    return tmp_path / "pg"


@pytest.mark.parametrize("by", [["cp", "-a"], ["cp", "-r"]])
async def test_a_copy_of_a_running_servers_folder_is_a_server_of_its_own(
    stopped: Path, by: list[str]
) -> None:
    """Its `postmaster.pid` names the server of the original, and root's copy belongs to root."""
    with EmbeddedPostgres(stopped) as original:
        copy = stopped.with_name("copy")
        ran = subprocess.run([*by, stopped, copy], capture_output=True, check=False)
        assert b"sock" in ran.stderr or ran.returncode == 0, ran.stderr  # a socket is not copied
        with EmbeddedPostgres(copy) as copied:
            assert copied.owned
            assert copied.pid != original.pid
            await run(copied.url, "update kept set x = 43")
            assert await run(original.url, "select x from kept") == [42]
            assert await run(copied.url, "select x from kept") == [43]


async def test_a_pid_file_with_the_pid_of_another_postgres_is_ignored(
    stopped: Path, postgres: EmbeddedPostgres
) -> None:
    lines = (postgres.folder / "data" / "postmaster.pid").read_text()
    (stopped / "data" / "postmaster.pid").write_text(lines)
    with EmbeddedPostgres(stopped) as server:
        assert await run(server.url, "select x from kept") == [42]
        assert server.pid != postgres.pid


async def test_a_postgres_that_was_started_here_by_other_means_is_a_conflict(
    stopped: Path,
) -> None:
    server = EmbeddedPostgres(stopped)
    server._prepare()
    with server._launching(server._choose_port([0])) as launch:
        how = {} if launch.user is None else {"user": launch.user.uid, "group": launch.user.gid}
        other = subprocess.Popen(
            launch.command, env=launch.environment, pass_fds=launch.fds, cwd="/", **how
        )
    try:
        wait_until(server.answers)
        with pytest.raises(EmbeddedError, match=rf"by other means \(pid {other.pid}\)"):
            server.start()
        assert other.poll() is None
    finally:
        other.terminate()
        other.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_a_stopped_server_is_restarted_on_the_same_port(tmp_path: Path, number) -> None:
    """A clean stop of the server alone is not one of its owner."""
    with EmbeddedPostgres(tmp_path) as server:
        await run(server.url, "create table kept as select 8 as x")
        url, pid = server.url, server.pid
        os.kill(pid, number)
        wait_until(lambda: not is_running(pid))
        assert await run_when_back(url, "select x from kept") == 8


def test_a_missing_password_file_is_reported(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    for content in (b"", b"\xff"):
        (tmp_path / "password").write_bytes(content)
        with pytest.raises(EmbeddedError, match="restore it"):
            EmbeddedPostgres(tmp_path).start()
    (tmp_path / "password").unlink()
    with pytest.raises(EmbeddedError, match="restore it"):
        EmbeddedPostgres(tmp_path).start()


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match="REHYDRATE_DATA_DIR"):
        EmbeddedPostgres(tmp_path / "file" / "pg").start()


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    with (tmp_path / "data" / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    with pytest.raises(EmbeddedError, match="shared_buffers"):
        EmbeddedPostgres(tmp_path).start()


def test_an_interrupted_initdb_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "data.new" / "base").mkdir(parents=True)
    with EmbeddedPostgres(tmp_path):
        assert not (tmp_path / "data.new").exists()

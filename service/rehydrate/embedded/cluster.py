"""The folder of an embedded Postgres: create it, read its state, and clean up after a crash."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rehydrate.embedded.binaries import (
    Binaries,
    EmbeddedPostgresError,
    RunAs,
    clean_environment,
    identity,
)

INITDB_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.0

# Durability stays on, because crash safety is demonstrated and tested on this server. Disabled
# features cost time, and a server without replicas does not need them (WAL for replicas, JIT, shared
# memory of parallel workers). Statements and error details are not logged, since they contain message
# text.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "pglz",  # of full pages; the only method that every build supports
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The content of `postmaster.pid`, which a running server writes."""

    pid: int
    port: int
    ready: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data folder and the files next to it. It has no state except that on disk."""

    folder: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder; it is owned by the user that the server runs as."""
        return self.folder / "data"

    @property
    def lock(self) -> Path:
        """The file on which the owner, its guard and every server process hold a lock."""
        return self.folder / "owner.lock"

    @property
    def log(self) -> Path:
        """The output of the server and its guard since the last start."""
        return self.folder / "log"

    def major(self) -> int | None:
        """Return the major version of PostgreSQL that created the data; None if there are none.

        Raises:
            EmbeddedPostgresError: the password file is missing.
        """
        if not self.data.exists():
            return None
        if not (self.folder / "password").exists():
            raise EmbeddedPostgresError(
                f"{self.folder / 'password'} is missing, and the data cannot be opened without it: "
                "restore it, or delete the folder to start empty"
            )
        return int((self.data / "PG_VERSION").read_text())

    def make(self, binaries: Binaries, user: RunAs | None) -> None:
        """Create the data folder with initdb.

        It is created under another name and then renamed, so an interrupted initdb never leaves a
        folder that looks complete.

        Raises:
            EmbeddedPostgresError: initdb failed.
        """
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if user is not None:
            os.chown(fresh, user.uid, user.gid)
        password = secrets.token_hex(24)
        self._write_password(password)
        reader, writer = os.pipe()  # *user* may not be able to reach the password file
        try:
            os.write(writer, f"{password}\n".encode())
            os.close(writer)
            if user is not None:
                os.fchown(reader, user.uid, user.gid)
            with reachable_name(fresh, user) as (name, fds):
                _initdb(binaries, user, name, [*fds, reader], f"/dev/fd/{reader}")
        finally:
            os.close(reader)
        fresh.rename(self.data)

    def _write_password(self, password: str) -> None:
        path = self.folder / "password"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(password)
            file.flush()
            os.fsync(fd)

    def command(self, binaries: Binaries, data_name: str, port: int) -> list[str]:
        """Return the command that runs the server."""
        command = [str(binaries.bindir / "postgres"), "-D", data_name, "-p", str(port)]
        for setting, value in SETTINGS.items():
            command += ["-c", f"{setting}={value}"]
        return command

    def postmaster(self) -> Postmaster:
        """Return the content of `postmaster.pid`.

        Raises:
            EmbeddedPostgresError: no server is running, or it has only just begun to start.
        """
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            return Postmaster(int(lines[0]), int(lines[3]), lines[7].strip() == "ready")
        except (OSError, ValueError, IndexError) as error:
            raise EmbeddedPostgresError(
                f"Postgres is not running in {self.folder}: start it"
            ) from error

    def owner_is_alive(self) -> bool:
        """Return True if the process that last took the lock is still running."""
        try:
            return _program_of(int(self.lock.read_text())) is not None
        except (OSError, ValueError):
            return False

    def answers(self) -> bool:
        """Return True if a server has reported that it is ready, and accepts connections."""
        try:
            server = self.postmaster()
            if not server.ready:
                return False
            address = ("127.0.0.1", server.port)
            with socket.create_connection(address, timeout=CONNECT_TIMEOUT_S):
                return True
        except (OSError, EmbeddedPostgresError):
            return False

    def url(self, *, by_socket: bool) -> str:
        """Return the libpq URL of the running server, with its password."""
        port = self.postmaster().port
        login = f"postgresql://postgres:{(self.folder / 'password').read_text()}"
        if by_socket:
            return f"{login}@/postgres?host={quote(str(self.data))}&port={port}"
        return f"{login}@127.0.0.1:{port}/postgres"

    def remove_stale_postmaster(self) -> None:
        """Remove a stale `postmaster.pid` and stale socket files. The caller must hold the lock.

        Every process of a server that this class started holds that lock. So a process that has
        the recorded pid now is an unrelated one that was given the same number, or a zombie, and
        PostgreSQL would mistake either for a running server. Only a server that was started by
        other means is a real conflict.

        Raises:
            EmbeddedPostgresError: such a server is running.
        """
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text().split("\n")[0])
            if _program_of(pid) == "postgres":
                raise EmbeddedPostgresError(
                    f"a PostgreSQL started by other means (pid {pid}) uses {self.data}: stop it"
                )
        pid_file.unlink(missing_ok=True)
        for stale in self.data.glob(".s.PGSQL.*"):
            stale.unlink(missing_ok=True)

    def choose_port(self, *, as_before: bool) -> int:
        """Return a free port of 127.0.0.1 and save it.

        Args:
            as_before: prefer the port of the last start, if it is free.

        Raises:
            EmbeddedPostgresError: no port is free.
        """
        saved = self.folder / "port"
        last = int(saved.read_text()) if as_before and saved.exists() else 0
        for wanted in (last, 0):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", wanted))
                free = int(probe.getsockname()[1])
                saved.write_text(str(free))
                return free
        raise EmbeddedPostgresError("no TCP port is free on 127.0.0.1: close other programs")


@contextlib.contextmanager
def reachable_name(folder: Path, user: RunAs | None) -> Iterator[tuple[str, list[int]]]:
    """Yield a path of *folder* that *user* can open, and the descriptors a child must inherit.

    Another user cannot open a path below a home that only root may enter. But it can open
    `/proc/self/fd/N` of an inherited descriptor, which leads to the folder without passing through
    its parents, and every process of the server inherits the descriptor. So the data stay in the
    requested folder, and the permissions of its parents stay as they are.

    Raises:
        EmbeddedPostgresError: *user* cannot reach the folder, and this system has no such paths.
    """
    if user is None or _can_enter(folder, user):
        yield str(folder), []
        return
    if sys.platform != "linux" or not Path("/proc/self/fd").is_dir():
        raise EmbeddedPostgresError(
            f"PostgreSQL must run as the user {user.name}, who cannot reach {folder}: "
            "set REHYDRATE_DATA_DIR to a folder that every user can reach, or do not run as root"
        )
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}", [fd]
    finally:
        os.close(fd)


def _can_enter(folder: Path, user: RunAs) -> bool:
    tried = subprocess.run(  # noqa: S603 - the only check that takes ACLs into account
        ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)],
        **identity(user),
        env=clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PROBE_TIMEOUT_S,
        check=False,
    )
    return tried.returncode == 0


def _initdb(
    binaries: Binaries, user: RunAs | None, data_name: str, fds: list[int], password_file: str
) -> None:
    options = ["-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256", "-k"]
    ran = subprocess.run(  # noqa: S603 - `find_binaries` has checked that it is PostgreSQL
        [binaries.bindir / "initdb", "-D", data_name, f"--pwfile={password_file}", *options],
        **identity(user),
        env=clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        pass_fds=fds,
        timeout=INITDB_TIMEOUT_S,
        check=False,
    )
    if ran.returncode != 0:
        raise EmbeddedPostgresError(f"initdb failed: {ran.stderr.strip()}")


def _program_of(pid: int) -> str | None:
    """Return the program name of a running process; None if there is none, or it is a zombie."""
    if sys.platform != "linux":
        return _program_by_ps(pid)
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    return None if after.split()[0] in "ZX" else before.partition(" (")[2]


def _program_by_ps(pid: int) -> str | None:
    listed = subprocess.run(  # noqa: S603 - the system's ps, with a number as argument
        ["/bin/ps", "-o", "stat=,comm=", "-p", str(pid)],
        capture_output=True,
        text=True,
        timeout=PROBE_TIMEOUT_S,
        check=False,
    ).stdout
    state, _, program = listed.strip().partition(" ")
    return None if not state or state.startswith("Z") else Path(program.strip()).name

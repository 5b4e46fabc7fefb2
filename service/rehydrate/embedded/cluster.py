"""The folder of an embedded Postgres: made, named, read, and cleared of what a crash left."""

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

# Durability stays on: crash claims are shown on this server. What is off costs time and is not
# needed by a server without replicas (WAL for them, JIT, parallel workers' shared memory).
# Statements and details stay out of the log, because they carry message text.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "pglz",  # of those pages: the one method that every build has
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
    """What a running server says of itself in `postmaster.pid`."""

    pid: int
    port: int
    ready: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """One data folder and the files beside it; nothing here is kept in memory."""

    folder: Path

    @property
    def data(self) -> Path:
        """Where PostgreSQL keeps its files; belongs to the user it runs as."""
        return self.folder / "data"

    @property
    def lock(self) -> Path:
        """The file that the owner, its guard and every server process hold locked."""
        return self.folder / "owner.lock"

    @property
    def log(self) -> Path:
        """What the server and its guard said since the last start."""
        return self.folder / "log"

    def major(self) -> int | None:
        """Return the version of PostgreSQL that made the data, None where there are none yet."""
        if not self.data.exists():
            return None
        if not (self.folder / "password").exists():
            raise EmbeddedPostgresError(
                f"{self.folder / 'password'} is gone, and the data beside it cannot be opened "
                "without it: put it back, or delete the folder to begin anew"
            )
        return int((self.data / "PG_VERSION").read_text())

    def make(self, binaries: Binaries, user: RunAs | None) -> None:
        """Run initdb beside the final place and rename, so that half a folder is never used.

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
        reader, writer = os.pipe()  # a file of ours may lie where the other user cannot reach it
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
        """Return what `postmaster.pid` says.

        Raises:
            EmbeddedPostgresError: no server is running, or it is only just starting.
        """
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            return Postmaster(int(lines[0]), int(lines[3]), lines[7].strip() == "ready")
        except (OSError, ValueError, IndexError) as error:
            raise EmbeddedPostgresError(
                f"no Postgres is running in {self.folder}: start it"
            ) from error

    def owner_lives(self) -> bool:
        """Whether the process that last took the lock is still there."""
        try:
            return _program_of(int(self.lock.read_text())) is not None
        except (OSError, ValueError):
            return False

    def answers(self) -> bool:
        """Whether a server says that it is ready, and listens."""
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
        """Return the libpq URL of the running server; it holds the password."""
        port = self.postmaster().port
        login = f"postgresql://postgres:{(self.folder / 'password').read_text()}"
        if by_socket:
            return f"{login}@/postgres?host={quote(str(self.data))}&port={port}"
        return f"{login}@127.0.0.1:{port}/postgres"

    def forget_dead_postmaster(self) -> None:
        """Remove a stale `postmaster.pid` and its socket's; the caller holds the lock.

        Every process of a server that we started holds that lock. So whatever has that pid now is
        a stranger that got the number later, or a zombie that nobody reaps, and PostgreSQL would
        take either for a living server. Only one that was started by hand is in the way.

        Raises:
            EmbeddedPostgresError: there is such a one.
        """
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text().split("\n")[0])
            if _program_of(pid) == "postgres":
                raise EmbeddedPostgresError(
                    f"a PostgreSQL started by other means (pid {pid}) uses {self.data}: stop it"
                )
        pid_file.unlink(missing_ok=True)
        for left_over in self.data.glob(".s.PGSQL.*"):
            left_over.unlink(missing_ok=True)

    def choose_port(self, *, as_before: bool) -> int:
        """Return a free port of 127.0.0.1: the last one if it is free and wanted, else any."""
        saved = self.folder / "port"
        last = int(saved.read_text()) if as_before and saved.exists() else 0
        for wanted in (last, 0):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", wanted))
                free = int(probe.getsockname()[1])
                saved.write_text(str(free))
                return free
        raise EmbeddedPostgresError("no TCP port is free on 127.0.0.1: close something")


@contextlib.contextmanager
def reachable_name(folder: Path, user: RunAs | None) -> Iterator[tuple[str, list[int]]]:
    """Give *folder* a name by which *user* can enter it, and the descriptors a child must inherit.

    Below a home that only root may enter, a path is of no use to another user. An open descriptor
    is: `/proc/self/fd/N` leads to the folder itself, past its parents, and is passed on to every
    process of the server. So data stay where they were asked for, and no parent is opened to all.

    Raises:
        EmbeddedPostgresError: this system has no such names.
    """
    if user is None or _can_enter(folder, user):
        yield str(folder), []
        return
    if sys.platform != "linux" or not Path("/proc/self/fd").is_dir():
        raise EmbeddedPostgresError(
            f"the user {user.name}, as which PostgreSQL must run here, cannot reach {folder}: "
            "set REHYDRATE_DATA_DIR to a folder below which all may enter, or do not run as root"
        )
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}", [fd]
    finally:
        os.close(fd)


def _can_enter(folder: Path, user: RunAs) -> bool:
    tried = subprocess.run(  # noqa: S603 - asks the system, which also knows of ACLs
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
    ran = subprocess.run(  # noqa: S603 - binaries that were seen to be PostgreSQL
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
    """Return the name of a living process; None when there is none, or only its zombie."""
    if sys.platform != "linux":
        return _program_by_ps(pid)
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    return None if after.split()[0] in "ZX" else before.partition(" (")[2]


def _program_by_ps(pid: int) -> str | None:
    listed = subprocess.run(  # noqa: S603 - ps of the system, a number
        ["/bin/ps", "-o", "stat=,comm=", "-p", str(pid)],
        capture_output=True,
        text=True,
        timeout=PROBE_TIMEOUT_S,
        check=False,
    ).stdout
    state, _, program = listed.strip().partition(" ")
    return None if not state or state.startswith("Z") else Path(program.strip()).name

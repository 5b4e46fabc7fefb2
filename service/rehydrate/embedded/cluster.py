"""The folder of an embedded Postgres: create it, read its state, and clean up after a crash."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rehydrate.embedded.binaries import Binaries, RunAs, clean_environment, identity
from rehydrate.embedded.folder import EmbeddedError, read_hint, write_hint
from rehydrate.embedded.server import accepts_connections

INITDB_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 5.0

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

    def major(self) -> int | None:
        """Return the major version of PostgreSQL that created the data; None if not known.

        Raises:
            EmbeddedError: the password file is missing.
        """
        if not self.data.exists():
            return None
        self._password()
        # the databases have the same file, which replaces one that a crash has emptied
        found = [read_hint(path, _major_number) for path in self._version_files()]
        return next(filter(None, found), None)

    def _version_files(self) -> list[Path]:
        return [self.data / "PG_VERSION", self.data / "base" / "1" / "PG_VERSION"]

    def _password(self) -> str:
        password = read_hint(self.folder / "password", str.strip)
        if not password:
            raise EmbeddedError(
                f"{self.folder / 'password'} is missing, and the data cannot be opened without it: "
                "restore it, or delete the folder to start empty"
            )
        return password

    def adopt(self, major: int, user: RunAs | None) -> None:
        """Change existing data so that *user* can serve it, also after a copy; all locks are held.

        Args:
            major: the version that created them.
            user: the user to serve them as; None: the current one, who owns them.
        """
        if user is not None and self.data.stat().st_uid != user.uid:
            for path in [self.data, *self.data.rglob("*")]:
                os.chown(path, user.uid, user.gid, follow_symlinks=False)
        self.data.chmod(0o700)
        version = self._version_files()[0]
        if read_hint(version, _major_number) != major:
            write_hint(version, f"{major}\n")
            if user is not None:
                os.chown(version, user.uid, user.gid)
        self._remove_stale_postmaster(user)

    def make(self, binaries: Binaries, user: RunAs | None) -> None:
        """Create the data folder with initdb.

        It is created under another name and then renamed, so an interrupted initdb never leaves a
        folder that looks complete.

        Raises:
            EmbeddedError: initdb failed.
        """
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if user is not None:
            os.chown(fresh, user.uid, user.gid)
        password = secrets.token_hex(24)
        write_hint(self.folder / "password", password)
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

    def command(self, binaries: Binaries, data_name: str, port: int) -> list[str]:
        """Return the command that runs the server."""
        command = [str(binaries.bindir / "postgres"), "-D", data_name, "-p", str(port)]
        for setting, value in SETTINGS.items():
            command += ["-c", f"{setting}={value}"]
        return command

    def postmaster(self) -> Postmaster:
        """Return the content of `postmaster.pid`.

        Raises:
            EmbeddedError: no server is running, or it has only just begun to start.
        """
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            return Postmaster(int(lines[0]), int(lines[3]), lines[7].strip() == "ready")
        except (OSError, ValueError, IndexError) as error:
            raise EmbeddedError(f"Postgres is not running in {self.folder}: start it") from error

    def answers(self) -> bool:
        """Return True if a server has reported that it is ready, and accepts connections."""
        try:
            server = self.postmaster()
        except EmbeddedError:
            return False
        return server.ready and accepts_connections(server.port)

    def url(self, *, by_socket: bool) -> str:
        """Return the libpq URL of the running server, with its password."""
        port = self.postmaster().port
        login = f"postgresql://postgres:{self._password()}"
        if by_socket:
            return f"{login}@/postgres?host={quote(str(self.data))}&port={port}"
        return f"{login}@127.0.0.1:{port}/postgres"

    def _remove_stale_postmaster(self, user: RunAs | None) -> None:
        """Remove a stale `postmaster.pid` and stale socket files. The caller must hold the locks.

        Every process of a server that this package started holds one. So a process that has the
        recorded pid now is unrelated: it was given the same number, or the file was copied with the
        data of a server that runs elsewhere. PostgreSQL would mistake it for a server of these
        data. Only a server that was started here by other means is a real conflict.

        Raises:
            EmbeddedError: such a server is running.
        """
        pid_file = self.data / "postmaster.pid"
        pid = read_hint(pid_file, lambda text: int(text.split("\n")[0]))
        if pid and _program_of(pid) == "postgres" and _works_in(pid, self.data, user):
            raise EmbeddedError(
                f"a PostgreSQL started by other means (pid {pid}) uses {self.data}: stop it"
            )
        pid_file.unlink(missing_ok=True)
        for stale in self.data.glob(".s.PGSQL.*"):
            stale.unlink(missing_ok=True)


def _major_number(text: str) -> int:
    major = int(text)
    if not 0 < major < 100:  # noqa: PLR2004 - two digits, for the next 80 years
        raise ValueError(text)
    return major


@contextlib.contextmanager
def reachable_name(folder: Path, user: RunAs | None) -> Iterator[tuple[str, list[int]]]:
    """Yield a path of *folder* that *user* can open, and the descriptors a child must inherit.

    Another user cannot open a path below a home that only root may enter. But it can open
    `/proc/self/fd/N` of an inherited descriptor, which leads to the folder without passing through
    its parents, and every process of the server inherits the descriptor. So the data stay in the
    requested folder, and the permissions of its parents stay as they are.

    Raises:
        EmbeddedError: *user* cannot reach the folder, and this system has no such paths.
    """
    if user is None or _can_enter(folder, user):
        yield str(folder), []
        return
    if sys.platform != "linux" or not Path("/proc/self/fd").is_dir():
        raise EmbeddedError(
            f"PostgreSQL must run as the user {user.name}, who cannot reach {folder}: "
            "set REHYDRATE_DATA_DIR to a folder that every user can reach, or do not run as root"
        )
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}", [fd]
    finally:
        os.close(fd)


def _can_enter(folder: Path, user: RunAs) -> bool:
    # the only check that takes ACLs into account
    return _succeeds('cd "$1"', str(folder), user=user)


def _works_in(pid: int, data: Path, user: RunAs | None) -> bool:
    """Return True if *data* is the working folder of a process, as of the server that serves them.

    As *user*, who runs such a server: even root may be denied to look at a process of another user.
    """
    if sys.platform != "linux":
        return True  # not known
    with reachable_name(data, user) as (name, fds):
        return _succeeds('[ "/proc/$1/cwd" -ef "$2" ]', str(pid), name, user=user, fds=fds)


def _succeeds(script: str, *arguments: str, user: RunAs | None, fds: Sequence[int] = ()) -> bool:
    """Return True if a shell script succeeds as *user*."""
    tried = subprocess.run(  # noqa: S603 - scripts of this module
        ["/bin/sh", "-c", script, "sh", *arguments],
        **identity(user),
        env=clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=fds,
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
        raise EmbeddedError(f"initdb failed: {ran.stderr.strip()}")


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

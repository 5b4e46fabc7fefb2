"""The embedded Postgres: a real server with all its files in one folder, for demos and tests."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rehydrate.embedded import guard as embedded_guard
from rehydrate.embedded.binaries import (
    Binaries,
    EmbeddedPostgresError,
    RunAs,
    clean_environment,
    find_binaries,
    run_as,
)
from rehydrate.embedded.cluster import Cluster, reachable_name

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

POLL_S = 0.01
STOP_TIMEOUT_S = 45.0  # longer than the guard's own timeouts
SETTLE_S = 0.1  # an owner that was just killed appears alive for a moment
ORPHAN_GRACE_S = 5.0
PORT_TRIES = 5
LOG_TAIL_CHARACTERS = 2000


class EmbeddedPostgres:
    """A Postgres server whose files are in *folder*, which only this class writes.

    *folder* contains `data/` (with the unix socket), `password` (mode 0600), `port`, `log`, `log.1`
    and `owner.lock`. Processes that start the same folder share one server: the first owns it, the
    others attach to it. The server ends with its owner, however that ends: by `stop`, by leaving
    the context, or by `kill -9`. Attached processes then lose their connections, and the next one
    to call `start` owns a new server on the same data and, if it is still free, on the same port. A
    server that is killed while its owner is running is restarted on the same port.

    If the owner is root, the server runs as the owner of `data/`, else as `postgres` or `nobody`.
    No user is created, and only `data/` gets another owner or mode, even if *folder* is below a
    home that only root may enter.

    It can be used from any thread (see `guard` for why that needs care), and with `async with` in
    any event loop. Unix only.

    Args:
        folder: the folder; it is created if it does not exist.
        bindir: the folder of PostgreSQL's programs; None: see `find_binaries`.
        start_timeout_s: how long `start` waits for the server, in seconds.
    """

    def __init__(
        self, folder: Path, *, bindir: Path | None = None, start_timeout_s: float = 60.0
    ) -> None:
        self.folder = Path(folder).absolute()
        self._cluster = Cluster(self.folder)
        self._bindir = bindir
        self._start_timeout_s = start_timeout_s
        self._mutex = threading.Lock()
        self._lock_fd: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start the server, or attach to it; return its libpq URL, which contains the password.

        Calling it again is cheap while the server runs, and starts a new one if it has ended.

        Raises:
            EmbeddedPostgresError: the server cannot run; the message has the cause and a remedy.
        """
        with self._mutex:
            try:
                return self._start()
            except OSError as error:
                self._release()
                raise EmbeddedPostgresError(
                    f"the embedded Postgres cannot use {self.folder} ({error}): "
                    "check its permissions, or set REHYDRATE_DATA_DIR to another folder"
                ) from error
            except BaseException:
                self._release()
                raise

    def stop(self) -> None:
        """Shut the server down cleanly if this object owns it; otherwise detach from it.

        Raises:
            EmbeddedPostgresError: the server did not end in 45 s.
        """
        with self._mutex:
            self._release()

    @property
    def url(self) -> str:
        """The libpq URL of the running server, over TCP on 127.0.0.1."""
        return self._cluster.url(by_socket=False)

    @property
    def socket_url(self) -> str:
        """The libpq URL of the running server, over its unix socket."""
        return self._cluster.url(by_socket=True)

    @property
    def owned(self) -> bool:
        """True if this object owns the server; False if it is attached, or none is started."""
        return self._guard is not None

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._cluster.postmaster().pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be cancelled. It ends by its own timeout; then stop the server.
            await asyncio.gather(starting, return_exceptions=True)
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    def _start(self) -> str:
        if self._guard is not None and self._guard.poll() is None and self._cluster.answers():
            return self.url
        self._release()
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        while not self._take_lock():
            waited_s = time.monotonic() - began
            if self._may_attach(waited_s):
                time.sleep(SETTLE_S)
                if self._may_attach(waited_s):
                    return self.url
            if waited_s > self._start_timeout_s:
                raise EmbeddedPostgresError(
                    f"another process has locked {self._cluster.lock}, and its Postgres did not "
                    f"answer in {self._start_timeout_s:g} s: "
                    f"see {self._cluster.log}, or end that process"
                )
            time.sleep(POLL_S)
        self._own(began + self._start_timeout_s)
        return self.url

    def _may_attach(self, waited_s: float) -> bool:
        """Return True if a server answers and will stay; a dead owner's server is about to end."""
        return self._cluster.answers() and (
            waited_s > ORPHAN_GRACE_S or self._cluster.owner_is_alive()
        )

    def _take_lock(self) -> bool:
        """Try to lock the folder. The guard and all server processes inherit the lock."""
        fd = os.open(self._cluster.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        return True

    def _own(self, deadline: float) -> None:
        cluster = self._cluster
        user = run_as(cluster.data)
        major = cluster.major()
        binaries = find_binaries(self._bindir, user, major)
        if major is None:
            cluster.make(binaries, user)
        cluster.remove_stale_postmaster()
        for tries_left in reversed(range(PORT_TRIES)):
            port = cluster.choose_port(as_before=tries_left == PORT_TRIES - 1)
            guard = self._guard = self._launch(binaries, user, port)
            if self._wait_until_ready(guard, deadline, retry=tries_left > 0):
                return
            self._guard = None

    def _launch(self, binaries: Binaries, user: RunAs | None, port: int) -> subprocess.Popen[bytes]:
        cluster = self._cluster
        if cluster.log.exists():
            cluster.log.replace(self.folder / "log.1")
        with reachable_name(cluster.data, user) as (name, fds), cluster.log.open("wb") as output:
            plan = embedded_guard.Plan(
                command=cluster.command(binaries, name, port),
                owner_pid=os.getpid(),
                uid=user.uid if user else None,
                gid=user.gid if user else None,
            )
            script = [sys.executable, "-I", "-S", embedded_guard.__file__]
            return subprocess.Popen(  # noqa: S603 - this interpreter, a file of this package
                [*script, json.dumps(dataclasses.asdict(plan))],
                env=clean_environment(),
                cwd="/",
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[*fds] if self._lock_fd is None else [*fds, self._lock_fd],
                start_new_session=True,  # Ctrl-C must reach only the owner, which then stops it
            )

    def _wait_until_ready(
        self, guard: subprocess.Popen[bytes], deadline: float, *, retry: bool
    ) -> bool:
        """Wait until the server answers; return False if its port was taken and *retry* is set."""
        while time.monotonic() < deadline:
            if self._cluster.answers():
                _send(guard, embedded_guard.READY)
                return True
            if guard.poll() is not None:
                _stop_guard(guard)
                tail = self._cluster.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
                if retry and "could not bind" in tail:
                    return False
                raise EmbeddedPostgresError(f"PostgreSQL did not start in {self.folder}: {tail}")
            time.sleep(POLL_S)
        raise EmbeddedPostgresError(
            f"PostgreSQL did not answer in {self._start_timeout_s:g} s: see {self._cluster.log}"
        )

    def _release(self) -> None:
        guard, self._guard = self._guard, None
        lock_fd, self._lock_fd = self._lock_fd, None
        try:
            if guard is not None:
                _stop_guard(guard)
        finally:
            if lock_fd is not None:
                os.close(lock_fd)


def _send(guard: subprocess.Popen[bytes], signal_byte: bytes) -> None:
    if guard.stdin is not None:
        guard.stdin.write(signal_byte)


def _stop_guard(guard: subprocess.Popen[bytes]) -> None:
    """Close the pipe, which makes the guard shut down, and wait for it to end."""
    if guard.stdin is not None:
        guard.stdin.close()
    try:
        guard.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()
        raise EmbeddedPostgresError(
            f"PostgreSQL did not end in {STOP_TIMEOUT_S:g} s and may still be running"
        ) from None

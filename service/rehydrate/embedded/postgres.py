"""An embedded Postgres: a real server of our own, below one folder, for demos and tests."""

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
STOP_TIMEOUT_S = 45.0  # longer than the guard's own patience
SETTLE_S = 0.1  # an owner that was just killed seems alive for a moment
ORPHAN_GRACE_S = 5.0
PORT_TRIES = 5
LOG_TAIL_CHARACTERS = 2000


class EmbeddedPostgres:
    """One Postgres server whose data live under *folder*, which this class alone writes.

    *folder* holds `data/` (and in it the unix socket), `password` (0600), `port`, `log`, `log.1`
    and `owner.lock`. Processes that start the same folder share one server: the first owns it, the
    others attach. It ends with its owner, however that ends: by `stop`, by leaving the context, by
    `kill -9`. Those attached then lose their connections, and whoever calls `start` next owns a new
    server on the same data and, unless somebody else took it, on the same port. A server that is
    killed while its owner lives is started again, on the same port.

    As root, the server runs as the owner of `data/`, else as `postgres` or `nobody`; no user is
    added, and no folder but `data/` gets another owner or mode, also below a home that only root
    may enter.

    May be used from any thread (`embedded_guard` says why that is not a matter of course), and by
    `async with` in any event loop. Unix only.
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
        """Start the server, or attach to it; return its libpq URL, which holds its password.

        Called again it is cheap while the server lives, and takes over when it does not.

        Raises:
            EmbeddedPostgresError: it does not run; says why and what to do.
        """
        with self._mutex:
            try:
                return self._start()
            except OSError as error:
                self._release()
                raise EmbeddedPostgresError(
                    f"the embedded Postgres cannot use {self.folder} ({error}): see to its rights, "
                    "or set REHYDRATE_DATA_DIR to another folder"
                ) from error
            except BaseException:
                self._release()
                raise

    def stop(self) -> None:
        """End the server if this object owns it (all is written to disk); else let go of it.

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
        """Whether the server ends with this object (and not with another process)."""
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
            # a thread cannot be cancelled: what it starts (in limited time) is ended behind it
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
                    f"another process holds {self._cluster.lock}, and its Postgres did not answer "
                    f"in {self._start_timeout_s:g} s: see {self._cluster.log}, or end that process"
                )
            time.sleep(POLL_S)
        self._own(began + self._start_timeout_s)
        return self.url

    def _may_attach(self, waited_s: float) -> bool:
        """Whether a server answers and is to stay; that of a dead owner is about to end."""
        return self._cluster.answers() and (
            waited_s > ORPHAN_GRACE_S or self._cluster.owner_lives()
        )

    def _take_lock(self) -> bool:
        """Take the folder's lock; it stays taken until the guard and every server process ended."""
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
        cluster.forget_dead_postmaster()
        for tries_left in reversed(range(PORT_TRIES)):
            port = cluster.choose_port(as_before=tries_left == PORT_TRIES - 1)
            guard = self._guard = self._launch(binaries, user, port)
            if self._became_ready(guard, deadline, retry=tries_left > 0):
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
            return subprocess.Popen(  # noqa: S603 - this interpreter, our own file
                [*script, json.dumps(dataclasses.asdict(plan))],
                env=clean_environment(),
                cwd="/",
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[*fds] if self._lock_fd is None else [*fds, self._lock_fd],
                start_new_session=True,  # Ctrl-C is for the owner, who then ends it in order
            )

    def _became_ready(
        self, guard: subprocess.Popen[bytes], deadline: float, *, retry: bool
    ) -> bool:
        """Wait until the server answers; False when its port was taken and another may be tried."""
        while time.monotonic() < deadline:
            if self._cluster.answers():
                _say(guard, embedded_guard.READY)
                return True
            if guard.poll() is not None:
                _end(guard)
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
                _end(guard)
        finally:
            if lock_fd is not None:
                os.close(lock_fd)


def _say(guard: subprocess.Popen[bytes], word: bytes) -> None:
    if guard.stdin is not None:
        guard.stdin.write(word)


def _end(guard: subprocess.Popen[bytes]) -> None:
    """Close the pipe, which asks for the end, and wait for it."""
    if guard.stdin is not None:
        guard.stdin.close()
    try:
        guard.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()
        raise EmbeddedPostgresError(
            f"PostgreSQL did not end in {STOP_TIMEOUT_S:g} s and was left to itself"
        ) from None

"""A server with all its files in one folder, which ends with the process that started it.

Two locks say who owns what. `owner.lock` is held by the owner alone; `server.lock` by every process
of the server, and by nothing else. So the owner of a free `owner.lock` is dead, whatever pids say,
and a server may be started when both are free: never a second one on the files of a first that has
yet to end. Files that were copied, or left by a crash, are hints (see `folder`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from rehydrate.embedded import guard as embedded_guard
from rehydrate.embedded.folder import (
    EmbeddedError,
    FolderLock,
    port_number,
    read_hint,
    write_hint,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from rehydrate.embedded.binaries import RunAs

POLL_S = 0.01
STOP_TIMEOUT_S = 45.0  # longer than the guard's own timeouts
ORPHAN_GRACE_S = 5.0
PORT_TRIES = 5
LOG_TAIL_CHARACTERS = 2000
CONNECT_TIMEOUT_S = 1.0

_PORT_TAKEN = ("could not bind", "address already in use")
_READY = "ready"


class Launch(NamedTuple):
    """How to run a server: its command, environment, user, and the descriptors that it inherits."""

    command: Sequence[str]
    environment: Mapping[str, str]
    user: RunAs | None = None
    fds: Sequence[int] = ()


class EmbeddedServer(ABC):
    """A server whose files are in *folder*, which only this class writes.

    Processes that start the same folder share one server: the first owns it, the others attach to
    it. The server ends with its owner, however that ends: by `stop`, by leaving the context, or by
    ``kill -9``. While its owner runs, a server that ends in any way is restarted on the same port.
    When the owner ends, an attached process that calls `keep` or `start` owns a new server on the
    same data. A forked child of the owner is not the owner.

    It can be used from any thread (see `guard` for why that needs care), and with ``async with`` in
    any event loop. Unix only.

    Args:
        folder: the folder; it is created if it does not exist.
        start_timeout_s: how long `start` waits for the server, in seconds.
    """

    name: str
    """The name of the server, for messages."""

    def __init__(self, folder: Path, *, start_timeout_s: float = 60.0) -> None:
        self.folder = Path(folder).absolute()
        self.log = self.folder / "log"
        self._start_timeout_s = start_timeout_s
        self._mutex = threading.Lock()
        self._owner_lock = FolderLock(self.folder / "owner.lock")
        self._server_lock = FolderLock(self.folder / "server.lock")
        self._guard: subprocess.Popen[bytes] | None = None
        self._port: int | None = None
        _servers.add(self)

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL of the running server.

        Raises:
            EmbeddedError: no server is running.
        """

    @property
    @abstractmethod
    def port(self) -> int:
        """The port of the running server, on 127.0.0.1.

        Raises:
            EmbeddedError: no server is running.
        """

    @abstractmethod
    def answers(self) -> bool:
        """Return True if a server has reported that it is ready, and accepts connections."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the files ready for a start, with both locks held."""

    @abstractmethod
    def _launching(self, port: int) -> AbstractContextManager[Launch]:
        """Return how to run the server on *port*; left when its process has started."""

    def start(self) -> str:
        """Start the server, or attach to it; return its `url`.

        Calling it again is cheap while the server runs, and starts a new one if it has ended.

        Raises:
            EmbeddedError: the server cannot run; the message has the cause and a remedy.
        """
        with self._mutex, self._released_on_failure():
            self._start(None)
            self._port = self.port
            return self.url

    def keep(self) -> None:
        """Start the server again, on the same port, if its guard or its owner has ended.

        Cheap otherwise: a server that ended is restarted by its guard.

        Raises:
            EmbeddedError: as `start`, or another process runs it on another port; try again later.
        """
        with self._mutex:
            if self._guard is not None:
                kept = self._guard.poll() is None
            else:
                # held without a guard: attached to the server of a dead owner, until that one ends
                held = self._owner_lock.held
                kept = self.answers() if held else not self._owner_lock.acquire()
            if not kept:
                with self._released_on_failure():
                    self._start(self._port)
                    if self.port != self._port:
                        raise EmbeddedError(f"{self.name} runs on {self.port}, not {self._port}")

    def stop(self) -> None:
        """Shut the server down cleanly if this object owns it; otherwise detach from it.

        Raises:
            EmbeddedError: the server did not end in 45 s.
        """
        with self._mutex:
            self._release()

    @property
    def owned(self) -> bool:
        """True if this object owns the server; False if it is attached, or none is started."""
        return self._guard is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
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

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    def _start(self, port: int | None) -> None:
        alive = self._owner_lock.held if self._guard is None else self._guard.poll() is None
        if alive and self.answers():
            return
        self._release()
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        while not (self._owner_lock.acquire() and self._server_lock.acquire()):
            waited_s = time.monotonic() - began
            if (self._owner_is_ready() or waited_s > ORPHAN_GRACE_S) and self.answers():
                return
            if waited_s > self._start_timeout_s:
                raise EmbeddedError(
                    f"another process has locked {self.folder}, and its {self.name} did not answer "
                    f"in {self._start_timeout_s:g} s: see {self.log}, or end that process"
                )
            time.sleep(POLL_S)
        self._owner_lock.write(f"{os.getpid()}\n")
        self._own(began + self._start_timeout_s, port)
        self._owner_lock.write(f"{os.getpid()} {_READY}\n")

    def _owner_is_ready(self) -> bool:
        """Return True if another process holds the owner's lock, and its server is not an old one."""
        return not self._owner_lock.held and bool(
            read_hint(self._owner_lock.path, lambda text: text.split()[1:] == [_READY])
        )

    def _own(self, deadline: float, port: int | None) -> None:
        self._prepare()
        for tries_left in reversed(range(PORT_TRIES)):
            last = read_hint(self.folder / "port", port_number)
            last = last if tries_left == PORT_TRIES - 1 else None  # it was free, and then taken
            chosen = self._choose_port([last, 0] if port is None else [port])
            guard = self._guard = self._launch(chosen)
            if self._wait_until_ready(guard, deadline, retry=tries_left > 0):
                return
            self._guard = None

    def _choose_port(self, wanted: Sequence[int | None]) -> int:
        """Return the first of the *wanted* ports that is free, and save it; 0 is any.

        Raises:
            EmbeddedError: none is free.
        """
        for port in wanted:
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port or 0))
                free = int(probe.getsockname()[1])
                write_hint(self.folder / "port", str(free))
                return free
        raise EmbeddedError(
            f"no TCP port for {self.name} is free on 127.0.0.1 (tried {wanted}): close other programs"
        )

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        """Start a guard with the server; both inherit the server's lock, which is then theirs."""
        if self.log.exists():
            self.log.replace(self.folder / "log.1")
        self._server_lock.acquire()
        with self._launching(port) as launch, self.log.open("wb") as output:
            plan = embedded_guard.Plan(
                command=list(launch.command),
                owner_pid=os.getpid(),
                uid=launch.user.uid if launch.user else None,
                gid=launch.user.gid if launch.user else None,
            )
            script = [sys.executable, "-I", "-S", embedded_guard.__file__]
            guard = subprocess.Popen(  # noqa: S603 - this interpreter, a file of this package
                [*script, json.dumps(dataclasses.asdict(plan))],
                env=dict(launch.environment),
                cwd="/",
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[*launch.fds, self._server_lock.fileno()],
                start_new_session=True,  # Ctrl-C must reach only the owner, which then stops it
            )
        self._server_lock.release()
        return guard

    def _wait_until_ready(
        self, guard: subprocess.Popen[bytes], deadline: float, *, retry: bool
    ) -> bool:
        """Wait until the server answers; return False if its port was taken and *retry* is set."""
        while time.monotonic() < deadline:
            if self.answers():
                _send(guard, embedded_guard.READY)
                return True
            if guard.poll() is not None:
                _stop_guard(guard, self.name)
                tail = self.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
                if retry and any(each in tail for each in _PORT_TAKEN):
                    return False
                raise EmbeddedError(f"{self.name} did not start in {self.folder}: {tail}")
            time.sleep(POLL_S)
        raise EmbeddedError(
            f"{self.name} did not answer in {self._start_timeout_s:g} s: see {self.log}"
        )

    @contextlib.contextmanager
    def _released_on_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._release()
            raise EmbeddedError(
                f"the embedded {self.name} cannot use {self.folder} ({error}): "
                "check its permissions, or set REHYDRATE_DATA_DIR to another folder"
            ) from error
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        guard, self._guard = self._guard, None
        try:
            if guard is not None:
                _stop_guard(guard, self.name)
        finally:
            self._server_lock.release()
            self._owner_lock.release()

    def leave_to_parent(self) -> None:
        """Give up what a forked child has of its parent: the locks, and the guard's pipe."""
        self._mutex = threading.Lock()  # another thread of the parent may hold it
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
        self._server_lock.release()
        self._owner_lock.release()


_servers: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for server in list(_servers):
        server.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)


def accepts_connections(port: int) -> bool:
    """Return True if something accepts connections to *port* on 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def _send(guard: subprocess.Popen[bytes], signal_byte: bytes) -> None:
    if guard.stdin is not None:
        guard.stdin.write(signal_byte)


def _stop_guard(guard: subprocess.Popen[bytes], name: str) -> None:
    """Close the pipe, which makes the guard shut down, and wait for it to end."""
    if guard.stdin is not None:
        guard.stdin.close()
    try:
        guard.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()
        raise EmbeddedError(
            f"{name} did not end in {STOP_TIMEOUT_S:g} s and may still be running"
        ) from None

"""The guard: a small process between an owner and its server, which is Postgres or localably.

It runs as a script (``python -I -S guard.py PLAN``) and imports only the standard library. Its
standard input is a pipe whose other end only the owner has open. However the owner ends, the pipe
is closed, and the guard shuts Postgres down. Compared with forking the server in the owner, this
has three advantages:

* The owner can start it from any thread. ``PR_SET_PDEATHSIG`` applies to the *thread* that forked,
  so a server forked in ``asyncio.to_thread`` would die with that worker. The guard has one thread.
* Postgres is reaped by a parent that does nothing else, so a zombie is not mistaken for a running
  server.
* A killed Postgres is restarted on the same port, so clients only have to reconnect.

If the guard itself is killed, Linux sends Postgres a shutdown signal (``PR_SET_PDEATHSIG``).
Elsewhere Postgres keeps running and keeps the folder's lock, and the next start attaches to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

READY = b"r"  # sent by the owner once Postgres has answered: from now on, restart it when it dies

OWNER_CHECK_S = 1.0
STOP_FAST_S = 30.0
STOP_IMMEDIATE_S = 5.0
RESTARTS_WINDOW_S = 60.0
RESTART_DELAY_S = 0.1
RESTART_DELAY_MAX_S = 10.0

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """The command to run and its owner, passed as JSON in the guard's only argument."""

    command: list[str]
    owner_pid: int
    uid: int | None
    """The user to become in the child; None: the current user."""
    gid: int | None


class Guard:
    """Runs one Postgres until its owner ends, and restarts it if it dies before that."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._set_parent_death_signal = parent_death_signal()
        self._child_pid = 0
        self._wanted = True
        self._was_ready = False
        self._restarts_at: list[float] = []
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        """Run until the owner ends; return 0 if Postgres was shut down cleanly, else 1."""
        self._listen_for_signals()
        while True:
            self._child_pid = self._spawn()
            status = self._watch()
            if not self._wanted:
                return self._shut_down() if status is None else int(status != 0)
            if not self._was_ready or not self._wait_for_restart():
                return int(status != 0)

    def _listen_for_signals(self) -> None:
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(ending, self._request_stop)

    def _request_stop(self, *_: object) -> None:
        self._wanted = False

    def _spawn(self) -> int:
        guard_pid = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            self._become_postgres(guard_pid)
        finally:
            os._exit(127)

    def _become_postgres(self, guard_pid: int) -> None:
        signal.set_wakeup_fd(-1)
        for changed in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(changed, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if self._plan.uid is not None and self._plan.gid is not None:
            os.setgroups([])
            os.setgid(self._plan.gid)
            os.setuid(self._plan.uid)
        self._set_parent_death_signal()  # after setuid, which would clear it
        if os.getppid() == guard_pid:  # else the guard died before the signal was set
            os.execv(self._plan.command[0], self._plan.command)  # noqa: S606 - without a shell

    def _watch(self) -> int | None:
        """Wait until the child or the owner ends; return the child's exit code, or None."""
        while self._wanted:
            pid, status = os.waitpid(self._child_pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            self._wait(OWNER_CHECK_S)
        return None

    def _wait(self, seconds: float) -> None:
        """Sleep until the owner writes to the pipe or ends, a signal arrives, or time is up."""
        readable, _, _ = select.select([0, self._wake_read], [], [], seconds)
        if self._wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if 0 in readable:
            received = os.read(0, 64)
            self._was_ready = self._was_ready or READY in received
            self._wanted = self._wanted and bool(received)
        # A process forked by the owner may keep the pipe open; then only this check finds out.
        if os.getppid() != self._plan.owner_pid:
            self._wanted = False

    def _wait_for_restart(self) -> bool:
        """Wait before the next start, longer each time; return False if the owner has ended.

        The number of attempts is not limited, since a full disk may have space again in an hour.
        """
        now = time.monotonic()
        self._restarts_at = [t for t in self._restarts_at if now - t < RESTARTS_WINDOW_S] + [now]
        delay_s = min(RESTART_DELAY_MAX_S, RESTART_DELAY_S * 2 ** (len(self._restarts_at) - 1))
        until = now + delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        while self._wanted and (left_s := until - time.monotonic()) > 0:
            self._wait(left_s)
        return self._wanted

    def _shut_down(self) -> int:
        """Stop the child: by fast shutdown (clean), then immediate (recovery on start), then kill.

        Returns:
            The exit code of the guard.
        """
        for sign, patience_s in (
            (signal.SIGINT, STOP_FAST_S),
            (signal.SIGQUIT, STOP_IMMEDIATE_S),
            (signal.SIGKILL, STOP_IMMEDIATE_S),
        ):
            os.kill(self._child_pid, sign)
            end = time.monotonic() + patience_s
            while (left_s := end - time.monotonic()) > 0:
                pid, status = os.waitpid(self._child_pid, os.WNOHANG)
                if pid:
                    return 0 if status == 0 else 1
                select.select([self._wake_read], [], [], min(left_s, 0.05))
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
        return 1


def parent_death_signal() -> Callable[[], None]:
    """Return a function that requests SIGINT for the calling process when its parent dies.

    SIGINT is Postgres' fast shutdown: it disconnects clients, writes a checkpoint and ends. Only
    Linux has such a request; elsewhere the function does nothing.
    """
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def main(arguments: Sequence[str]) -> int:
    """Run the plan given as JSON; return the exit code."""
    plan = Plan(**json.loads(arguments[0]))
    if os.getppid() != plan.owner_pid:
        return 1
    return Guard(plan).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

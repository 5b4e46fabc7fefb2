"""The guard: a small process that stands between an owner and its Postgres.

It is run as a script (``python -I -S embedded_guard.py PLAN``) and uses the standard library alone.
Its standard input is a pipe whose other end only the owner holds, so the end of the owner, in
whatever way, is the end of that pipe, and the guard then shuts Postgres down. Three things follow
that a server forked by the owner itself cannot have:

* The owner may start it from any thread. ``PR_SET_PDEATHSIG`` follows the *thread* that forked, so
  a server forked in ``asyncio.to_thread`` would die with that worker; the guard has one thread.
* Postgres is reaped by a parent that does nothing else, so no zombie passes for a living server.
* A Postgres that was killed is started again on the same port, and clients need only reconnect.

Should the guard itself be killed, Linux tells Postgres (``PR_SET_PDEATHSIG``) to end; elsewhere
Postgres lives on, keeps the folder's lock, and the next start attaches to it.
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

READY = b"r"  # from the owner: Postgres has answered; from now on, restart it when it dies

OWNER_CHECK_S = 1.0
STOP_FAST_S = 30.0
STOP_IMMEDIATE_S = 5.0
RESTARTS_WINDOW_S = 60.0
RESTART_DELAY_S = 0.1
RESTART_DELAY_MAX_S = 10.0

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and for whom; travels as JSON in the guard's only argument."""

    command: list[str]
    owner_pid: int
    uid: int | None
    """The user to become in the child, or None to stay who we are."""
    gid: int | None


class Guard:
    """Runs one Postgres until its owner is gone, and again when it dies before that."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._tell_of_death = death_teller()
        self._child_pid = 0
        self._wanted = True
        self._was_ready = False
        self._restarts_at: list[float] = []
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        """Return 0 when Postgres ended as asked, else 1."""
        self._listen_for_signals()
        while True:
            self._child_pid = self._spawn()
            status = self._watch()
            if not self._wanted:
                return 0 if status is None else self._shut_down()
            if status == 0 or not self._was_ready or not self._wait_for_restart():
                return 0 if status == 0 else 1

    def _listen_for_signals(self) -> None:
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(ending, self._unwanted)

    def _unwanted(self, *_: object) -> None:
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
        self._tell_of_death()  # after setuid, which would clear it
        if os.getppid() == guard_pid:  # else the guard died before it could be followed
            os.execv(self._plan.command[0], self._plan.command)  # noqa: S606 - no shell is wanted

    def _watch(self) -> int | None:
        """Wait for the end of the child (its exit status) or of the owner (-1: child lives)."""
        while self._wanted:
            pid, status = os.waitpid(self._child_pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            self._wait(OWNER_CHECK_S)
        return -1

    def _wait(self, seconds: float) -> None:
        """Sleep until the owner says something, a signal comes, or the time is over."""
        readable, _, _ = select.select([0, self._wake_read], [], [], seconds)
        if self._wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if 0 in readable:
            said = os.read(0, 64)
            self._was_ready = self._was_ready or READY in said
            self._wanted = self._wanted and bool(said)
        # a process that the owner forked may hold a copy of the pipe: then only this tells
        if os.getppid() != self._plan.owner_pid:
            self._wanted = False

    def _wait_for_restart(self) -> bool:
        """Wait, longer each time, before the next start; False when none is wanted any more.

        It is tried for as long as the owner lives: a full disk may be emptied in an hour.
        """
        now = time.monotonic()
        self._restarts_at = [t for t in self._restarts_at if now - t < RESTARTS_WINDOW_S] + [now]
        delay_s = min(RESTART_DELAY_MAX_S, RESTART_DELAY_S * 2 ** (len(self._restarts_at) - 1))
        until = now + delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        while self._wanted and (left_s := until - time.monotonic()) > 0:
            self._wait(left_s)
        return self._wanted

    def _shut_down(self) -> int:
        """End the child: fast (clean), then immediate (recovers at next start), then by force."""
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


def death_teller() -> Callable[[], None]:
    """Return what makes the calling process get SIGINT when its parent dies (Linux), else nothing.

    SIGINT is Postgres' fast shutdown: it disconnects its clients, writes a checkpoint and ends.
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

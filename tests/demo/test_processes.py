"""A child process is started, awaited until it is ready, and ended."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from rehydrate.demo import processes
from rehydrate.demo.processes import Child, NotStarted

LOCAL_ABLY = ("--quiet", "local-ably", "--port", "0")


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_child_is_ready_in_its_block_and_ends_with_it():
    async with Child(*LOCAL_ABLY) as child:
        assert child.name == "local-ably"
        assert child.url.startswith("http://127.0.0.1:")
        assert lives(child.pid)
    assert await child.wait() == 0
    assert not lives(child.pid)


async def test_a_child_ends_even_if_its_block_raises():
    with pytest.raises(LookupError):
        async with Child(*LOCAL_ABLY) as child:
            raise LookupError
    assert await child.wait() == 0


async def test_a_child_that_ends_before_it_is_ready_raises_not_started(capfd):
    with pytest.raises(
        NotStarted, match="rehydrate serve ended with exit code 2 before it was ready"
    ):
        async with Child("--quiet", "serve"):
            pass
    assert "REHYDRATE_DATABASE_URL" in capfd.readouterr().err


async def test_a_child_that_is_not_ready_in_time_is_ended(monkeypatch):
    monkeypatch.setattr(processes, "READY_TIMEOUT_S", 0.2)
    child = Child(*LOCAL_ABLY)
    with pytest.raises(TimeoutError):
        async with child:
            pass
    assert await child.wait() is not None


async def test_a_child_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(processes, "END_TIMEOUT_S", 0.2)
    async with Child(*LOCAL_ABLY) as child:
        os.kill(child.pid, signal.SIGSTOP)
    assert await child.wait() == -signal.SIGKILL


async def test_the_environment_is_the_parents_with_the_given_variables():
    async with Child(*LOCAL_ABLY, environment={"REHYDRATE_LOCAL_ABLY_KEY": "a.b:c"}) as child:
        assert await child_says(child, "REHYDRATE_LOCAL_ABLY_KEY") == "a.b:c"
        assert await child_says(child, "PATH") == os.environ["PATH"]


async def child_says(child, name):
    """Return a variable of its environment (on Linux; elsewhere of the environment it was given)."""
    try:
        raw = await asyncio.to_thread(open_environment, child.pid)
    except FileNotFoundError:
        pytest.skip("there is no /proc")
    return dict(pair.split("=", 1) for pair in raw.split("\0") if pair)[name]


def open_environment(pid):
    with open(f"/proc/{pid}/environ") as file:  # noqa: PTH123 - a file of the kernel
        return file.read()


def test_a_child_that_was_not_started_has_no_process():
    with pytest.raises(NotStarted):
        _ = Child(*LOCAL_ABLY).pid

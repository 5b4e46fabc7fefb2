"""Owning, sharing and restarting an embedded server, shown on the channel server, which starts fast."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.channel_owners import OWNER, channel_servers
from postgres.embedded_owners import guard_of, is_running, wait_until
from rehydrate.embedded.channel import EmbeddedChannel
from rehydrate.embedded.folder import EmbeddedError
from rehydrate.embedded.server import accepts_connections


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the channel server of `tmp_path`."""
    with owning(tmp_path) as process:
        yield process


@contextlib.contextmanager
def owning(folder: Path, *argv: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (line := process.stdout.readline()).startswith("http://"):
            assert line, "it ended"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_no_second_server_runs_while_the_one_of_a_killed_owner_has_yet_to_end(
    tmp_path, owner
) -> None:
    (old,) = channel_servers(tmp_path)
    os.kill(old, signal.SIGSTOP)  # it cannot end
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    server, most = EmbeddedChannel(tmp_path), []
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        end = time.monotonic() + 2.0  # the time in which it would start
        while time.monotonic() < end:
            most.append(len(channel_servers(tmp_path)))
            time.sleep(0.05)
        assert starting.is_alive()
        os.kill(old, signal.SIGCONT)
        wait_until(lambda: not is_running(old))
        starting.join()
        assert server.owned
        assert server.answers()
        (new,) = channel_servers(tmp_path)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(old, signal.SIGCONT)
        starting.join()
        server.stop()
    assert set(most) == {1}
    assert new != old


def test_a_forked_child_of_a_killed_owner_keeps_nothing(tmp_path) -> None:
    with owning(tmp_path, "fork") as owner:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        with EmbeddedChannel(tmp_path, start_timeout_s=20.0) as server:
            assert server.owned


def test_a_forked_child_is_not_the_owner(tmp_path) -> None:
    with EmbeddedChannel(tmp_path) as server:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, b"owner" if server.owned else b"guest")
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert pipe.read() == b"guest"
        assert server.owned
        assert server.answers(), "the child's stop is not the owner's"


@pytest.fixture
def default_sigquit() -> Iterator[None]:
    """Let servers end by SIGQUIT, which a shell has its background jobs ignore."""
    before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGQUIT, before)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_ends_in_any_way_is_restarted_on_its_port(
    tmp_path, number, default_sigquit
) -> None:
    with EmbeddedChannel(tmp_path) as server:
        (old,), url, key = channel_servers(tmp_path), server.url, server.key
        os.kill(old, number)
        wait_until(lambda: not is_running(old))
        wait_until(server.answers)
        assert (server.url, server.key) == (url, key)
        assert old not in channel_servers(tmp_path)


def test_a_server_whose_guard_was_killed_is_started_again_on_its_port(tmp_path) -> None:
    with EmbeddedChannel(tmp_path) as server:
        (old,), url = channel_servers(tmp_path), server.url
        server.keep()
        assert channel_servers(tmp_path) == [old], "nothing was to be done"
        os.kill(guard_of(old), signal.SIGKILL)
        wait_until(lambda: not is_running(old))
        server.keep()
        assert server.answers()
        assert server.url == url


def test_an_attached_process_starts_the_server_of_a_dead_owner_again(tmp_path, owner) -> None:
    with EmbeddedChannel(tmp_path) as guest:
        url = guest.url
        guest.keep()
        assert not guest.owned
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()

        def owns() -> bool:
            guest.keep()  # it attaches to the old server for as long as that one is ending
            return guest.owned

        wait_until(owns)
        assert guest.answers()
        assert guest.url == url


def test_a_server_is_not_started_again_on_another_port(tmp_path) -> None:
    """Its clients have the URL, and another program has the port."""
    with EmbeddedChannel(tmp_path) as server:
        (old,), port = channel_servers(tmp_path), server.port
        os.kill(guard_of(old), signal.SIGKILL)
        wait_until(lambda: not is_running(old))
        with socket.create_server(("127.0.0.1", port)):
            with pytest.raises(EmbeddedError, match=str(port)):
                server.keep()
            assert not server.owned
        server.keep()
        assert server.port == port


def test_a_second_process_shares_the_server_of_the_first(tmp_path) -> None:
    with EmbeddedChannel(tmp_path) as first:
        with EmbeddedChannel(tmp_path) as second:
            assert (second.url, second.key) == (first.url, first.key)
            assert (first.owned, second.owned) == (True, False)
        assert first.answers(), "it outlives who did not start it"
        port = first.port
    assert not accepts_connections(port)


async def test_concurrent_starts_share_one_server(tmp_path) -> None:
    servers = [EmbeddedChannel(tmp_path) for _ in range(4)]
    try:
        urls = await asyncio.gather(*(asyncio.to_thread(s.start) for s in servers))
        assert len(set(urls)) == 1
        assert [s.owned for s in servers].count(True) == 1
    finally:
        for server in sorted(servers, key=lambda s: s.owned):
            server.stop()


def test_a_server_that_does_not_start_in_time_is_named(tmp_path) -> None:
    holder = EmbeddedChannel(tmp_path)
    holder._owner_lock.acquire()
    try:
        with pytest.raises(EmbeddedError, match=r"did not answer in 0\.2 s"):
            EmbeddedChannel(tmp_path, start_timeout_s=0.2).start()
    finally:
        holder.stop()

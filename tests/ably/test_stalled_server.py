"""Requests recover from a channel server that hangs while many are under way."""

from __future__ import annotations

import asyncio
import gc
import signal
from urllib.parse import urlsplit

import pytest

from channel_server.command_line import KEY, running
from localably.tls import CERTIFICATE
from rehydrate.ably.channel_log import AblyChannel
from rehydrate.errors import ChannelUnavailable
from waiting import PATIENCE_S


async def read(log):
    return [m for page in [page async for page in log.history("c")] for m in page]


# httpcore leaves a socket whose TLS handshake was cancelled to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
async def test_requests_recover_from_a_server_that_stood_still(tls, tmp_path, monkeypatch):
    """300 reads at a time while the server is stopped; afterwards every read is answered."""
    more = ["--tls", str(tmp_path)] if tls else []
    if tls:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / CERTIFICATE))
    async with (
        running("--key", KEY, *more) as (server, url),
        AblyChannel(
            KEY,
            endpoint="127.0.0.1",
            port=urlsplit(url).port,
            tls=tls,
            request_timeout_s=2,
        ) as log,
    ):
        assert await retried(lambda: read(log)) == []
        server.send_signal(signal.SIGSTOP)
        try:
            for _ in range(2):
                reads = [read(log) for _ in range(300)]
                refused = await asyncio.gather(*reads, return_exceptions=True)
                assert {type(error) for error in refused} == {ChannelUnavailable}
            assert log.silent_s > 1
            with pytest.raises(ChannelUnavailable, match="no request for"):
                await log.ready()
        finally:
            server.send_signal(signal.SIGCONT)
        await retried(lambda: read(log))
        assert log.silent_s == 0
        every = [retried(lambda: read(log)) for _ in range(300)]
        assert await asyncio.gather(*every) == [[]] * 300
    gc.collect()


async def retried(act, seconds=PATIENCE_S):
    """Call *act* until Ably answers."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await act()
            except ChannelUnavailable:
                await asyncio.sleep(0.05)

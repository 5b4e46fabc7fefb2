"""Postgres is unavailable while a response streams."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from conftest import connected, database_url
from participants import settings_for
from rehydrate.errors import StoreUnavailable
from rehydrate.history import History
from rehydrate.publish import checkpoints as ledger
from rehydrate.publish import respond as responding
from tcp_proxy import TcpProxy
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow

LEASE_S = 1.0


@pytest.fixture
def opened(database, ably):
    """Return a function that opens the `History` of another process on the same adapters."""

    def made(url=database, lease_s=LEASE_S):
        settings = settings_for(
            url,
            ably,
            lease_s=lease_s,
        )
        return History(settings)

    return made


@pytest.fixture
async def history(opened):
    async with opened() as history:
        yield history


@pytest.fixture
def away(postgres, database):
    """Make this test's database unreachable for the block."""
    name = database.rpartition("/")[2]

    @asynccontextmanager
    async def block():
        async with connected(database_url(postgres.url, "postgres")) as server:
            await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            try:
                await server.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
                    name,
                )
                yield
            finally:
                await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    return block


async def ended(history, conversation_id):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                (message,) = (await history.hydrate(conversation_id)).messages
            except StoreUnavailable:
                await asyncio.sleep(0.2)
                continue
            if message["status"] != "in_progress":
                return message
            await asyncio.sleep(0.1)


async def on_channel(history, conversation_id):
    pages = history._channel.history(f"ai:{conversation_id}", forwards=True)
    return [message async for page in pages for message in page]


async def test_tokens_continue_to_stream_and_all_are_committed_in_the_end(history, away):
    async with history.respond("flow", "r1") as response:
        response.write("before ")
        await asyncio.sleep(0.7)
        async with away():
            for n in range(30):
                response.write(f"{n} ")
                await asyncio.sleep(0.05)
            said = "".join(m.data for m in await on_channel(history, "flow") if m.name == "token")
            assert said.startswith("before 0 1 2 3")
            assert len(said.split()) > 20
        response.write("after")
    message = await ended(history, "flow")
    assert message["status"] == "completed"
    assert message["text"] == "before " + "".join(f"{n} " for n in range(30)) + "after"
    assert not message["gaps"]


async def test_the_end_waits_for_the_store(history, away):
    responding = history.respond("waits", "r1")
    response = await responding.__aenter__()
    response.write("all of it")
    async with away():
        ending = asyncio.create_task(responding.__aexit__(None, None, None))
        await asyncio.sleep(1)
        assert not ending.done()
        assert "stop" not in [m.name for m in await on_channel(history, "waits")]
    await asyncio.wait_for(ending, PATIENCE_S)
    assert [m.name for m in await on_channel(history, "waits")][-1] == "stop"
    message = await ended(history, "waits")
    assert (message["status"], message["text"]) == ("completed", "all of it")


async def test_if_it_stays_away_the_caller_gets_an_error_and_a_sweep_ends_it_later(
    history, away, monkeypatch
):
    monkeypatch.setattr(ledger, "COMMIT_TIMEOUT_S", 0.5)
    ending = history.respond("gone", "r1")
    response = await ending.__aenter__()
    response.write("stored ")
    await asyncio.sleep(0.7)
    async with away():
        response.write("only said")
        with pytest.raises(StoreUnavailable):
            await ending.__aexit__(None, None, None)
        names = [m.name for m in await on_channel(history, "gone")]
        assert "stop" not in names  # durable before it is announced
    message = await ended(history, "gone")
    assert (message["status"], message["text"]) == ("interrupted", "stored only said")


async def test_a_publisher_that_could_not_renew_has_time_to_do_so_afterwards(
    opened, away, monkeypatch
):
    """No lease could be renewed; the first sweep afterwards, in any process, ends no response."""
    monkeypatch.setattr(
        responding, "CHECKPOINT_S", 2.4
    )  # its third renewal is after the others' sweeps
    async with opened(lease_s=3) as history, opened(lease_s=3) as elsewhere:
        async with history.respond("silent", "r1") as response:
            response.write("thinking")
            await asyncio.sleep(0.5)
            async with away():
                await asyncio.sleep(4.5)
            await asyncio.sleep(4)
            response.write(" it over")
        for each in (history, elsewhere):
            message = await ended(each, "silent")
            assert (message["status"], message["text"]) == ("completed", "thinking it over")


async def test_a_hanging_database_is_treated_as_an_unreachable_one(database, opened, monkeypatch):
    monkeypatch.setattr(ledger, "COMMIT_TIMEOUT_S", 1.0)
    async with TcpProxy(database) as proxy, opened(proxy.url) as frail:
        ending = frail.respond("hangs", "r1")
        response = await ending.__aenter__()
        response.write("only said")
        await asyncio.sleep(0.2)
        proxy.stall()
        async with asyncio.timeout(13):  # less than the time limit of a statement
            with pytest.raises(StoreUnavailable):
                await ending.__aexit__(None, None, None)
        names = [m.name for m in await on_channel(frail, "hangs")]
        assert "stop" not in names
        proxy.resume()
        message = await ended(frail, "hangs")
        assert (message["status"], message["text"]) == ("interrupted", "only said")


def test_the_end_waits_for_the_documented_time():
    assert ledger.COMMIT_TIMEOUT_S == 30

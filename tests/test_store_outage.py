"""Postgres goes away while a response streams."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from conftest import connected, database_url
from exactness.rooms import Cable
from localably import LocalAbly
from rehydrate.errors import StoreUnavailable
from rehydrate.history import History
from rehydrate.publish import checkpoints as ledger
from rehydrate.publish import respond as responding
from rehydrate.settings import load_settings
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow

LEASE_S = 1.0


@pytest.fixture
async def ably():
    async with LocalAbly() as running:
        yield running


@pytest.fixture
def opened(database, ably):
    """A process's History over the same database and channels."""

    def made(url=database, lease_s=LEASE_S):
        settings = load_settings(
            database_url=url,
            ably_api_key=ably.key,
            ably_endpoint="127.0.0.1",
            ably_port=ably.port,
            ably_tls=False,
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
    """A block during which nobody reaches this test's database."""
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


async def test_tokens_flow_on_and_all_of_them_are_committed_in_the_end(history, away):
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


async def test_if_it_does_not_come_back_the_caller_is_told_and_the_sweep_ends_it_later(
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
        assert "stop" not in names  # durable before told
    message = await ended(history, "gone")
    assert (message["status"], message["text"]) == ("interrupted", "stored only said")


async def test_who_was_silent_meanwhile_has_a_lease_to_come_back(opened, away, monkeypatch):
    """Nobody could renew; whoever looks first afterwards, in any process, takes none for dead."""
    monkeypatch.setattr(responding, "CHECKPOINT_S", 2.4)  # its third turn is after others look
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


async def test_a_database_that_hangs_is_given_up_as_one_that_is_gone(database, opened, monkeypatch):
    monkeypatch.setattr(ledger, "COMMIT_TIMEOUT_S", 1.0)
    async with Cable(database) as cable, opened(cable.url) as frail:
        ending = frail.respond("hangs", "r1")
        response = await ending.__aenter__()
        response.write("only said")
        await asyncio.sleep(0.2)
        cable.hold()
        async with asyncio.timeout(13):  # less than one statement may take
            with pytest.raises(StoreUnavailable):
                await ending.__aexit__(None, None, None)
        names = [m.name for m in await on_channel(frail, "hangs")]
        assert "stop" not in names
        cable.mend()
        message = await ended(frail, "hangs")
        assert (message["status"], message["text"]) == ("interrupted", "only said")


def test_the_end_waits_for_as_long_as_is_promised():
    assert ledger.COMMIT_TIMEOUT_S == 30

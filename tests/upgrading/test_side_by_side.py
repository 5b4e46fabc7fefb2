"""A rolling upgrade: code before and after a migration on one database, while responses stream."""

from __future__ import annotations

import asyncio

import pytest

from conftest import connected, new_database
from localably import LocalAbly
from rehydrate.postgres.migrations import current, head
from upgrading.versions import (
    CONTRACT,
    EXPAND,
    PATIENCE_S,
    ROOT,
    Worker,
    before_the_newest_migration,
    newer,
    run,
)

pytestmark = pytest.mark.slow

TOKENS = 40


@pytest.fixture
async def world(postgres):
    """Return the environment of every process: an empty database and a channel server."""
    async with new_database(postgres.url) as url, LocalAbly() as ably:
        yield {
            "REHYDRATE_DATABASE_URL": url,
            "REHYDRATE_LEASE_SECONDS": "2",
            "ABLY_API_KEY": ably.key,
            "ABLY_ENDPOINT": "127.0.0.1",
            "ABLY_PORT": str(ably.port),
            "ABLY_TLS": "false",
        }


def truth(response_id):
    return "".join(f"{response_id}-{number} " for number in range(TOKENS))


def is_so_far(text, response_id):
    return truth(response_id).startswith(text)


async def published(worker, conversation_id, response_id):
    fields = await worker.fields("ended", response_id)
    assert fields["outcome"] == "completed", (conversation_id, fields)


async def all_is_exact(worker, conversation_id, *response_ids, interrupted=()):
    """Wait until all responses have ended, and compare them with what was published."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            fields = await worker.look(conversation_id)
            shown = fields["shown"]
            if all(status != "in_progress" for _, status, _ in shown.values()):
                break
            await asyncio.sleep(0.2)
    assert set(shown) == {*response_ids, *interrupted}
    for response_id in response_ids:
        assert shown[response_id] == [truth(response_id), "completed", []]
    for response_id in interrupted:
        text, status, gaps = shown[response_id]
        assert (status, gaps) == ("interrupted", [])
        assert text
        assert is_so_far(text, response_id)
    assert fields["complete"]


async def upgrade(world, old, new):
    """Perform a rolling upgrade from the code in *old* to the code in *new*."""
    assert (await run(old, world, "migrate"))[0] == 0
    async with Worker(old, world) as before:
        for response_id in ("o1", "o2"):
            before.ask("publish", "shared", response_id, TOKENS)
        await asyncio.sleep(0.5)
        code, said = await run(new, world, "migrate")  # expand, while they stream
        assert code == 0, said
        before.ask("publish", "old", "o3", TOKENS)
        before.ask("record", "shared")
        async with Worker(new, world) as after:
            for response_id in ("n1", "n2"):
                after.ask("publish", "shared", response_id, TOKENS)
            after.ask("publish", "old", "n3", TOKENS)
            before.ask("publish", "dying", "o4", 10 * TOKENS)
            after.ask("record", "shared")
            for worker in (before, after):
                await worker.fields("recorded")
                for conversation_id in ("shared", "old"):
                    shown = (await worker.look(conversation_id))["shown"]
                    assert all(is_so_far(text, id_) for id_, (text, *_) in shown.items())
            for worker, response_ids in ((before, ("o1", "o2", "o3")), (after, ("n1", "n2", "n3"))):
                for response_id in response_ids:
                    await published(worker, "shared", response_id)
            for worker in (before, after):
                await all_is_exact(worker, "shared", "o1", "o2", "n1", "n2")
                await all_is_exact(worker, "old", "o3", "n3")
            before.kill()  # the new code ends its responses
            await dying_ended(after)
            after.ask("ready")
            await after.fields("ready")


async def dying_ended(worker):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            text, status, gaps = (await worker.look("dying"))["shown"]["o4"]
            if status != "in_progress":
                break
            await asyncio.sleep(0.2)
    assert (status, gaps, bool(text)) == ("interrupted", [], True)
    assert "".join(f"o4-{number} " for number in range(10 * TOKENS)).startswith(text)


async def test_current_code_runs_beside_code_with_a_later_schema(world, tmp_path):
    await upgrade(world, ROOT, newer(tmp_path, head(), EXPAND))
    async with connected(world["REHYDRATE_DATABASE_URL"]) as connection:
        moods = await connection.fetch("SELECT id, mood FROM messages ORDER BY id")
    assert {mood for id_, mood in moods if id_.startswith("n")} == {"new"}
    assert {mood for id_, mood in moods if id_.startswith("o")} == {None}


async def test_code_before_the_newest_migration_runs_beside_current_code(world, tmp_path):
    old = before_the_newest_migration(tmp_path)
    if old is None:
        pytest.skip("the checkout has no history that reaches before the newest migration")
    await upgrade(world, old, ROOT)


async def test_after_a_contraction_older_code_reports_that_it_is_too_old(world, tmp_path):
    expanded = newer(tmp_path / "1", head(), EXPAND)
    contracted = newer(tmp_path / "2", head(), EXPAND, CONTRACT)
    assert (await run(expanded, world, "migrate"))[0] == 0
    code, said = await run(ROOT, world, "migrate")  # nothing is left to do, and nothing is undone
    assert code == 0, said
    async with Worker(ROOT, world) as today, Worker(expanded, world) as later:
        for worker in (today, later):
            worker.ask("ready")
            await worker.fields("ready")
    assert (await run(contracted, world, "migrate"))[0] == 0
    assert await current(world["REHYDRATE_DATABASE_URL"]) == "9002_contract"
    code, said = await run(expanded, world, "migrate")
    assert code == 0, said
    code, said = await run(ROOT, world, "migrate")
    assert code != 0
    assert "needs newer code" in said
    assert "Traceback" not in said

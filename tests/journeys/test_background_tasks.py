"""Every background task of an open `History` survives a failure and a cancellation, and works."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from localably import LocalAbly
from participants import completed, history_over, publisher_to, reading
from rehydrate import NewMessage
from waiting import PATIENCE_S, until

SETTINGS = {"lease_s": 1.0, "idle_limit_ms": 1000, "retention_ms": 2000}


@pytest.fixture(scope="module")
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(scope="module")
async def opened(module_database, server):
    """A `History`, and the names of the tasks that opening it started."""
    before = asyncio.all_tasks()
    async with history_over(module_database, server, **SETTINGS) as history:
        await asyncio.sleep(0.1)
        started = asyncio.all_tasks() - before
        yield history, {task.get_name() for task in started if ours(task)}


def ours(task):
    """Return True if the project started *task*: the database driver and the SDK have tasks, too."""
    return not task.get_coro().cr_code.co_filename.count("site-packages")


@pytest.fixture
def place(opened, server):
    """A `History`, the channel server, and a new conversation, for one job."""
    return opened[0], server, f"b-{secrets.token_hex(4)}"


async def recorded(history, conversation, message_id):
    await until(lambda: history._store.states(conversation, [message_id]))


async def stop_on_channel(history, conversation):
    pages = history._channel.history(f"ai:{conversation}", forwards=True)
    return any([message.name == "stop" async for page in pages for message in page])


class Jobs:
    """One job for each task; each returns once the task has done it."""

    async def recorder(self, history, server, conversation):
        async with publisher_to(server, f"ai:{conversation}") as publisher:
            await publisher.publish_message("user-input", {"promptId": "p", "text": "hi"})
            history.context.unrecorded.add(conversation)
            await recorded(history, conversation, "p")

    async def webhook_wakeups(self, history, server, conversation):
        async with publisher_to(server, f"ai:{conversation}") as publisher:
            await publisher.publish_message("user-input", {"promptId": "p", "text": "hi"})
            history.record_soon([f"ai:{conversation}"])
            await recorded(history, conversation, "p")

    async def poller(self, history, server, conversation):
        async with history._store.locked(conversation, f"ai:{conversation}"):
            pass  # the row of a conversation that no process uses
        async with publisher_to(server, f"ai:{conversation}") as publisher:
            await publisher.publish_message("user-input", {"promptId": "p", "text": "hi"})
            await recorded(history, conversation, "p")

    async def erasure_watch(self, history, server, conversation):
        await history.store_messages(conversation, [NewMessage("p", "user", text="hi")])
        async with asyncio.timeout(PATIENCE_S), history.joined(conversation) as follower:
            assert (await anext(follower)).data["messages"]
            async with history._store.locked(conversation, f"ai:{conversation}") as locked:
                await locked.erase(history._channel.now_ms(), ["p"])  # as another process would
            while (event := await anext(follower)).kind != "snapshot" or event.data["messages"]:
                pass

    async def sweeper(self, history, server, conversation):
        async with publisher_to(server, f"ai:{conversation}") as publisher:
            await publisher.stream("r", "ab", stop=False)
            await history.catch_up(conversation)
            await history.store_messages(conversation, [NewMessage("r", "assistant", text="abc")])
            await until(lambda: stop_on_channel(history, conversation))

    async def idle_limit(self, history, server, conversation):
        async with publisher_to(server, f"ai:{conversation}") as publisher:
            await publisher.stream("r", "ab", stop=False)
            await history.catch_up(conversation)

        async def interrupted():
            return (await history._store.states(conversation, ["r"]))[0].status == "interrupted"

        await until(interrupted)

    async def replays(self, history, server, conversation):
        await history.store_messages(conversation, [NewMessage("r", "assistant", text="abc")])
        replay = await history.replay(conversation, "r", speed=0)

        async def done():
            return (await history._store.find_replay(replay.id)).state == "done"

        await until(done)

    async def channel_clock(self, history, server, conversation):
        task = named(history, "channel clock")
        fetched_s = task.last_ok_s
        task.wake()
        await until(lambda: task.last_ok_s > fetched_s)


NAMES = sorted(name for name in vars(Jobs) if not name.startswith("_"))


def named(history, name):
    """Return the task of that name."""
    tasks = [*history._maintenance.tasks, history._replay_worker.task, history._channel.clock.task]
    return next(task for task in tasks if key(task.name) == key(name))


def key(name):
    return name.replace("-", "").replace(" ", "_")


def test_every_task_has_its_test(opened):
    assert {key(name) for name in opened[1]} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
async def test_a_cancelled_task_is_restarted_and_works(place, name):
    task = named(place[0], name)
    (running,) = [each for each in asyncio.all_tasks() if each.get_name() == task.name]
    restarts = task.restarts
    running.cancel()
    await until(lambda: task.restarts == restarts + 1)
    await getattr(Jobs(), name)(*place)


@pytest.mark.parametrize("error", [TimeoutError(), KeyError("a defect")], ids=type)
@pytest.mark.parametrize("name", NAMES)
async def test_a_task_that_failed_once_works(place, monkeypatch, name, error):
    task = named(place[0], name)
    run, failures = task._run, []

    async def failing():
        if not failures:
            failures.append(error)
            raise error
        return await run()

    monkeypatch.setattr(task, "_run", failing)
    task.wake()
    await until(lambda: failures)
    await getattr(Jobs(), name)(*place)


# -- the tasks of a follow, which begin with it ----------------------------------------------------


def begun(name, before):
    """Return the tasks of that name which are not among *before*: follows last for a while."""
    return [each for each in asyncio.all_tasks() - before if each.get_name() == name]


async def test_a_follow_whose_attachment_is_cancelled_attaches_again(place):
    history, server, conversation = place
    before = asyncio.all_tasks()
    async with (
        publisher_to(server, f"ai:{conversation}") as publisher,
        reading(history, conversation) as follower,
    ):
        await follower.until(lambda reader: reader.snapshots)
        await publisher.stream("r", "ab", stop=False)
        await follower.until(lambda reader: reader.texts == {"r": "ab"})
        (running,) = begun("following a conversation", before)
        running.cancel()
        await asyncio.wait({running})
        assert not await history._subscriptions._feeds[conversation].is_up_to_date(None)
        await publisher.stream("r", "cd", first=3, start=False)
        reader = await follower.until(completed("r"))
    assert reader.texts == {"r": "abcd"}
    assert "again" in reader.kinds


async def test_a_follow_whose_read_is_cancelled_reads_again(place):
    history, server, conversation = place
    before = asyncio.all_tasks()
    async with publisher_to(server, f"ai:{conversation}") as publisher:
        await publisher.stream("r", "abc")
        with server.faults.on("stall_requests", seconds=5) as stalled:
            async with reading(history, conversation) as follower:
                await until(lambda: stalled.fired and begun("reading a conversation", before))
                (running,) = begun("reading a conversation", before)
                assert not follower.reader.snapshots
                running.cancel()
                await asyncio.wait({running})
                server.faults.clear("stall_requests")
                reader = await follower.until(completed("r"))
    assert running.cancelled()
    assert reader.texts == {"r": "abc"}

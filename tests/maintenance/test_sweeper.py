"""Laws 6 and 7: a response whose publisher died ends, and an unannounced end is published."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from ably import AblyRealtime

from participants import settings_for
from rehydrate.core.fold import Outcome
from rehydrate.demo.reader import show
from rehydrate.errors import ChannelRefused, Conflict, Fenced
from rehydrate.history import History
from rehydrate.maintenance.sweeper import Sweeper, sweep
from rehydrate.ports import Due
from rehydrate.publish import respond as responding
from rehydrate.publish.publish_queue import PublishQueue
from rehydrate.record.import_messages import NewMessage
from shared_adapters import HookedPort, open_adapters
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow

LEASE_S = 1.0


@pytest.fixture
def history_settings(database, ably):
    return lambda **more: settings_for(
        database,
        ably,
        **more,
    )


@pytest.fixture
async def history(history_settings):
    async with History(history_settings(lease_s=LEASE_S)) as history:
        yield history


async def die(history, conversation_id, response_id, texts, monkeypatch, *, at="write", pause_s=0):
    """Publish *texts*, then stop like a killed publisher: while writing, or after the commit."""

    async def no_end(publication, ledger, keeping):
        await keeping.close()

    async def commit_only(publication, ledger, keeping):
        await keeping.close()
        await ledger.commit(publication, await publication.end())

    with monkeypatch.context() as patch:
        patch.setattr(responding, "_end", no_end if at == "write" else commit_only)
        async with history.respond(conversation_id, response_id) as response:
            for text in texts:
                response.write(text)
                await asyncio.sleep(pause_s)
            await stored(history, conversation_id, response_id, "".join(texts))


async def stored(history, conversation_id, response_id, text):
    """Wait until a checkpoint has stored *text*."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for state in await history._store.states(conversation_id, [response_id]):
                if "".join(part.get("text", "") for part in state.parts()) == text:
                    return
            await asyncio.sleep(0.05)


async def ended(history, conversation_id, response_id):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            messages = (await history.hydrate(conversation_id)).messages
            found = [m for m in messages if m["id"] == response_id]
            if found and found[0]["status"] != "in_progress":
                return found[0]
            await asyncio.sleep(0.1)


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event to await
            await asyncio.sleep(0.05)


async def stops(history, conversation_id, response_id):
    """Return the stops of a response on the channel, once there is one."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = []
            async for page in history._channel.history(f"ai:{conversation_id}"):
                found += [
                    m
                    for m in page
                    if m.name == "stop" and m.extras["headers"]["responseId"] == response_id
                ]
            if found:
                return found
            await asyncio.sleep(0.1)


async def test_a_response_whose_publisher_died_ends_interrupted_with_all_its_text(
    history, monkeypatch
):
    await die(history, "sweep-1", "r1", ["one ", "two"], monkeypatch)
    message = await ended(history, "sweep-1", "r1")
    assert (message["status"], message["text"]) == ("interrupted", "one two")
    assert not message["gaps"]
    stop = (await stops(history, "sweep-1", "r1"))[0]
    assert stop.extras["headers"]["status"] == "interrupted"
    assert stop.extras["headers"]["seq"] == 3


async def test_a_reader_who_lacks_stored_text_receives_it_with_the_end(history, ably, monkeypatch):
    """A refused token is in a checkpoint, and the publisher dies before it can repair."""
    stock = AblyRealtime(
        key=ably.key, endpoint=f"127.0.0.1:{ably.port}", tls=False, auto_connect=True
    )
    seen = []

    async def load(until=None):
        return json.loads((await history.hydrate("sweep-9", until=until)).body)

    def render(view):
        seen.append(view.messages)

    joining = asyncio.create_task(show(stock, "ai:sweep-9", load, render))
    try:
        await until(lambda: seen)
        fault = ably.faults.set("refuse_publish", nth=2, channel="ai:sweep-9")
        await die(history, "sweep-9", "r1", ["one ", "two ", "three"], monkeypatch, pause_s=0.1)
        message = await ended(history, "sweep-9", "r1")
        assert fault.fired
        assert (message["text"], message["gaps"]) == ("one two three", [])
        await until(lambda: seen[-1][0]["status"] != "in_progress")
        assert (seen[-1][0]["text"], seen[-1][0]["gaps"]) == ("one two three", [])
    finally:
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        await stock.close()


async def test_unfinished_tool_calls_are_closed_and_finished_ones_stay(history, monkeypatch):
    async def no_end(publication, ledger, keeping):
        await keeping.close()

    with monkeypatch.context() as patch:
        patch.setattr(responding, "_end", no_end)
        async with history.respond("sweep-9", "r1") as response:
            response.tool_call("done", "find", {"q": 1})
            response.tool_result("done", [1])
            response.tool_call("failed", "find", {"q": 2})
            response.tool_result("failed", {"error": "no"}, failed=True)
            response.tool_call("half", "find")
            response.tool_args("half", '{"q":')
            response.write("stored")
            await stored(history, "sweep-9", "r1", "stored")
    message = await ended(history, "sweep-9", "r1")
    assert message["status"] == "interrupted"
    calls = [part for part in message["parts"] if part["type"] == "tool_call"]
    assert [(call["status"], call["args"], call["result"]) for call in calls] == [
        ("completed", {"q": 1}, [1]),
        ("failed", {"q": 2}, {"error": "no"}),
        ("incomplete", '{"q":', None),
    ]
    assert (await stops(history, "sweep-9", "r1"))[0].extras["headers"]["status"] == "interrupted"


async def test_an_end_that_was_committed_but_not_published_is_published(history, monkeypatch):
    await die(history, "sweep-2", "r1", ["all of it"], monkeypatch, at="commit")
    message = await ended(history, "sweep-2", "r1")
    assert (message["status"], message["text"]) == ("completed", "all of it")
    (stop,) = await stops(history, "sweep-2", "r1")
    assert stop.extras["headers"]["status"] == "completed"


async def test_a_swept_response_is_never_taken_over(history, monkeypatch):
    await die(history, "sweep-3", "r1", ["text"], monkeypatch)
    await ended(history, "sweep-3", "r1")
    with pytest.raises(Conflict):
        async with history.respond("sweep-3", "r1"):
            pass


async def test_a_living_publisher_without_output_is_not_swept(history):
    async with history.respond("sweep-4", "r1") as response:
        response.write("a thought")
        await asyncio.sleep(3 * LEASE_S)
        response.write(", and another")
    message = await ended(history, "sweep-4", "r1")
    assert (message["status"], message["text"]) == ("completed", "a thought, and another")


async def test_two_sweepers_end_a_response_once(history, history_settings, monkeypatch):
    async with History(history_settings(lease_s=LEASE_S)):
        await die(history, "sweep-5", "r1", ["text"], monkeypatch)
        await ended(history, "sweep-5", "r1")
        await asyncio.sleep(2 * LEASE_S)
        assert len(await stops(history, "sweep-5", "r1")) == 1


async def test_a_fenced_publisher_cannot_write(history):
    with pytest.raises(Fenced):  # noqa: PT012 - raised by the next write of the publisher
        async with history.respond("sweep-6", "r1") as response:
            response.write("before")
            await stored(history, "sweep-6", "r1", "before")
            async with history._store.locked("sweep-6", "ai:sweep-6") as held:
                await held.fence("r1", "another", 0.1)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    response.write("after")
                    await asyncio.sleep(0.05)
    message = await ended(history, "sweep-6", "r1")
    assert message["status"] == "interrupted"
    assert message["text"].startswith("before")


async def test_a_terminal_row_is_not_changed_by_a_late_repair_of_the_same_text(history):
    async with history.respond("sweep-7", "r1") as response:
        response.write("kept")
    before = json.loads(await history.message("sweep-7", "r1"))
    await history.catch_up("sweep-7")
    assert json.loads(await history.message("sweep-7", "r1"))["text"] == before["text"]
    counts = (await history.catch_up("sweep-7")).counts
    assert counts[Outcome.FOLDED.value] == 0
    same = NewMessage("r1", "assistant", text="kept")
    assert (await history.store_messages("sweep-7", [same])).unchanged == ["r1"]


async def test_a_publisher_that_waits_for_acknowledgements_keeps_its_lease(history, ably):
    responding = history.respond("sweep-8", "r1")
    response = await responding.__aenter__()
    response.write("first ")
    await asyncio.sleep(0.3)
    with ably.faults.on("freeze"):
        response.write("last")
        ending = asyncio.create_task(responding.__aexit__(None, None, None))
        await asyncio.sleep(3 * LEASE_S)
        assert not ending.done()  # the frozen server acknowledges nothing
    await asyncio.wait_for(ending, PATIENCE_S)
    message = await ended(history, "sweep-8", "r1")
    assert (message["status"], message["text"]) == ("completed", "first last")


async def test_a_long_sweep_does_not_delay_others():
    stuck, waits = Due("stuck", "r1", "ai:stuck"), Due("waits", "r1", "ai:waits")
    found, swept = [stuck], []

    async def find():
        return list(found)

    async def sweep(due):
        swept.extend(due)
        found.remove(*due)
        if due == [stuck]:
            found.append(waits)
            await asyncio.Event().wait()
        return len(due)

    sweeper = Sweeper(find, sweep, every_s=0.01, lease_s=LEASE_S)
    sweeper.open()
    try:
        await until(lambda: swept == [stuck, waits])
    finally:
        await sweeper.close()


async def test_a_response_that_is_being_swept_is_not_swept_a_second_time():
    due, begun = [Due("c", "r1", "ai:c"), Due("c", "r2", "ai:c")], []
    looks = []

    async def find():
        looks.append(begun[:])
        return due if begun else due[:1]

    async def sweep(some):
        begun.append(some)
        await asyncio.Event().wait()
        return len(some)

    sweeper = Sweeper(find, sweep, every_s=0.01, lease_s=LEASE_S)
    sweeper.open()
    try:
        await until(lambda: len(looks) > 10)
        assert begun == [due[:1], due[1:]]
    finally:
        await sweeper.close()


async def test_a_response_that_cannot_be_ended_does_not_keep_others_open():
    bad, good = Due("c", "bad", "ai:c"), [Due("c", f"r{n}", "ai:c") for n in range(3)]
    left, tried = [bad, *good], []

    async def find():
        return list(left)

    async def sweep(due):
        tried.append(due)
        if bad in due:
            raise ChannelRefused(40012, "no client may publish that")
        for each in due:
            left.remove(each)
        return len(due)

    sweeper = Sweeper(find, sweep, every_s=0.01, lease_s=LEASE_S)
    sweeper.open()
    try:
        await until(lambda: left == [bad])
        assert tried[0] == [bad, *good]
        left += good
        await until(lambda: left == [bad])
        assert good in tried  # together again
    finally:
        await sweeper.close()


@pytest.fixture
async def adapters(database):
    async with open_adapters(database) as opened:
        yield opened


class CountingChannel:
    """A channel that records the message names of each publish."""

    def __init__(self, channel):
        self.publishes = []
        self._channel = channel

    def reserve(self, channel, **more):
        return self._channel.reserve(channel, **more)

    def publish(self, channel, batch):
        def take():
            messages = batch() if callable(batch) else batch
            self.publishes.append([message.name for message in messages])
            return messages

        return self._channel.publish(channel, take)


async def test_all_due_responses_of_a_conversation_are_swept_with_one_read_of_its_channel(adapters):
    names = [f"r{number}" for number in range(20)]
    readings = []

    async def record(_):
        readings.append(await chat.catch_up())

    with adapters.conversation() as chat:
        for name in [*names, "ended", "alive"]:
            await chat.claimed(name)
            await chat.publish_response(name, "ab", stop=False)
        await chat.catch_up()
        for name in [*names, "ended"]:
            await chat.take_over(name)
        await chat.store_messages(NewMessage("ended", "assistant", text="abc"))
        channel = CountingChannel(chat.channel)
        count = await sweep(
            replace(chat.ctx, publish_queue=PublishQueue(channel)),
            [Due(chat.id, name, chat.name) for name in [*names, "ended", "alive", "unknown"]],
            record=record,
            lease_s=0.0,
        )
        assert count == 21
        assert len(readings) == 3  # before the fence, after it, and for the ends
        assert channel.publishes == [["response-complete", "stop"] * 21]
        assert await chat.stored() == {
            **dict.fromkeys(names, ("ab", "interrupted")),
            "ended": ("abc", "completed"),
            "alive": ("ab", "in_progress"),
        }
        for name in [*names, "ended"]:
            assert (await chat.lease(name)).stop_acked
        assert not (await chat.lease("alive")).fenced


@pytest.mark.parametrize("large", [False, True], ids=["before the first publish", "between two"])
async def test_a_conversation_that_is_erased_while_it_is_swept_gets_only_its_stops(adapters, large):
    asked = []
    with adapters.conversation() as chat:

        async def erase():
            asked.append("conversation")
            if len(asked) == 1 + large:
                async with adapters.store.locked(chat.id, chat.name) as locked:
                    await locked.erase(chat.ctx.now_ms(), [])

        for name in ("r1", "r2"):
            await chat.claimed(name)
            if large:
                await chat.publish_message("start", responseId=name, seq=0)
                await chat.publish_message("token", "x" * 20_000, responseId=name, seq=1)
            else:
                await chat.publish_response(name, "ab", stop=False)
        await chat.catch_up()
        for name in ("r1", "r2"):
            await chat.take_over(name)
        channel = CountingChannel(chat.channel)
        ctx = chat.context(store=HookedPort(adapters.store, conversation=erase))
        due = [Due(chat.id, name, chat.name) for name in ("r1", "r2")]
        queue = PublishQueue(channel)
        await sweep(
            replace(ctx, publish_queue=queue), due, record=lambda _: chat.catch_up(), lease_s=0.0
        )
        assert len(asked) >= 1 + large, "the erasure happened"
        stops = ["stop", "stop"]
        assert channel.publishes == ([["response-complete", "stop"], stops] if large else [stops])
        assert not await chat.stored()
